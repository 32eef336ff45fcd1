//! What shall go to one receiver: as far as it has room, and what waits for that.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ipc_core::Handles;

use super::{Amount, ENVELOPE_BYTES, Envelope, Lane, Message, Window};

/// The number of a send that waits for room.
pub type Ticket = u64;

/// What became of a send that may wait.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent<H> {
    /// It still waits.
    Not,
    /// It is on its way.
    Yes,
    /// The receiver is gone; here is the message.
    Returned(Message<H>),
}

/// A message for one receiver. `S` says what is to be done when it leaves.
#[derive(Debug)]
pub(super) struct Parcel<H, S> {
    lane: Lane,
    cost: Amount,
    body: Body<H>,
    pub(super) source: S,
}

/// The payload of a frame, and its handles.
#[derive(Debug)]
enum Body<H> {
    Own(Vec<u8>, Handles<H>),
    /// One for several receivers.
    Shared(Arc<Vec<u8>>),
}

impl<H, S> Parcel<H, S> {
    pub(super) fn new(
        envelope: Envelope,
        message: Message<H>,
        cost: Amount,
        source: S,
    ) -> Parcel<H, S> {
        let Message { mut bytes, handles } = message;
        envelope.append(&mut bytes);
        Parcel { lane: envelope.lane(), cost, body: Body::Own(bytes, handles), source }
    }

    /// One of several with the same payload, envelope included, and without handles.
    pub(super) fn shared(payload: Arc<Vec<u8>>, cost: Amount, source: S) -> Parcel<H, S> {
        Parcel { lane: Lane::Messages, cost, body: Body::Shared(payload), source }
    }

    /// The message, and what is to be done when it leaves.
    pub(super) fn into_message(self) -> (Message<H>, S) {
        let (mut bytes, handles) = self.body.into_parts();
        bytes.truncate(bytes.len() - ENVELOPE_BYTES);
        (Message { bytes, handles }, self.source)
    }
}

impl<H> Body<H> {
    fn into_parts(self) -> (Vec<u8>, Handles<H>) {
        match self {
            Body::Own(payload, handles) => (payload, handles),
            Body::Shared(payload) => (Arc::unwrap_or_clone(payload), Handles::default()),
        }
    }
}

/// What shall go to one receiver.
#[derive(Debug)]
pub(super) struct Outgoing<H, S> {
    windows: [Window; 2],
    /// What there is no credit for yet, for each lane.
    waiting: [VecDeque<Parcel<H, S>>; 2],
    /// What has its credit, and goes as soon as the channel takes it.
    ready: VecDeque<Body<H>>,
}

impl<H, S> Outgoing<H, S> {
    pub(super) fn new(limit: Amount, available: [Amount; 2]) -> Outgoing<H, S> {
        Outgoing {
            windows: available.map(|available| Window::new(limit, available)),
            waiting: [VecDeque::new(), VecDeque::new()],
            ready: VecDeque::new(),
        }
    }

    /// Sends, if there is credit and nothing waits in front of it; else gives it back.
    pub(super) fn push(&mut self, parcel: Parcel<H, S>) -> Result<S, Parcel<H, S>> {
        let lane = parcel.lane.index();
        if !self.waiting[lane].is_empty() || !self.windows[lane].take(parcel.cost) {
            return Err(parcel);
        }
        self.ready.push_back(parcel.body);
        Ok(parcel.source)
    }

    /// Lets it wait for credit.
    pub(super) fn wait(&mut self, parcel: Parcel<H, S>) {
        self.waiting[parcel.lane.index()].push_back(parcel);
    }

    /// Takes in credit; false if it is more than was used.
    #[must_use]
    pub(super) fn give(&mut self, lane: Lane, amount: Amount) -> bool {
        self.windows[lane.index()].give(amount)
    }

    /// Sends what waited and has credit now, one at a time; says what is to be done for it.
    pub(super) fn poll_sent(&mut self) -> Option<S> {
        for (window, waiting) in self.windows.iter_mut().zip(&mut self.waiting) {
            if waiting.front().is_some_and(|first| window.take(first.cost))
                && let Some(parcel) = waiting.pop_front()
            {
                self.ready.push_back(parcel.body);
                return Some(parcel.source);
            }
        }
        None
    }

    /// Takes back the first that waits and is meant.
    pub(super) fn withdraw(&mut self, is_meant: impl Fn(&S) -> bool) -> Option<Parcel<H, S>> {
        self.waiting.iter_mut().find_map(|waiting| {
            let index = waiting.iter().position(|parcel| is_meant(&parcel.source))?;
            waiting.remove(index)
        })
    }

    /// Whether something has its credit.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next frame's payload and handles.
    pub(super) fn pop(&mut self) -> Option<(Vec<u8>, Handles<H>)> {
        self.ready.pop_front().map(Body::into_parts)
    }

    /// What has waited in vain; what had its credit already is dropped.
    pub(super) fn into_waiting(self) -> impl Iterator<Item = Parcel<H, S>> {
        self.waiting.into_iter().flatten()
    }
}

/// Sends that wait for room, and what came back of them.
#[derive(Debug)]
pub(super) struct Tickets<H> {
    next: Ticket,
    /// `None` while it waits.
    open: BTreeMap<Ticket, Option<Message<H>>>,
    /// Whether any of them has come to its end, since somebody asked.
    pub(super) has_progress: bool,
}

impl<H> Default for Tickets<H> {
    fn default() -> Self {
        Tickets { next: 0, open: BTreeMap::new(), has_progress: false }
    }
}

impl<H> Tickets<H> {
    /// The number that [`open`](Self::open) would give.
    pub(super) fn next(&self) -> Ticket {
        self.next
    }

    pub(super) fn open(&mut self) -> Ticket {
        let ticket = self.next;
        self.next += 1;
        self.open.insert(ticket, None);
        ticket
    }

    pub(super) fn sent(&mut self, ticket: Ticket) {
        self.has_progress |= self.open.remove(&ticket).is_some();
    }

    pub(super) fn returned(&mut self, ticket: Ticket, message: Message<H>) {
        self.open.insert(ticket, Some(message));
        self.has_progress = true;
    }

    pub(super) fn poll(&mut self, ticket: Ticket) -> Sent<H> {
        match self.open.remove(&ticket) {
            None => Sent::Yes,
            Some(Some(message)) => Sent::Returned(message),
            Some(None) => {
                self.open.insert(ticket, None);
                Sent::Not
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Peer, Terms, What};
    use super::*;

    fn parcel(bytes: usize, source: u64) -> Parcel<u32, u64> {
        let envelope = Envelope { what: What::Note, peer: Peer::Master };
        let message = Message::new(vec![0; bytes]);
        let cost = Terms::default().cost(&message).expect("small");
        Parcel::new(envelope, message, cost, source)
    }

    #[test]
    fn what_waits_leaves_in_order_and_nothing_overtakes_it() {
        let limit = Amount { messages: 2, bytes: 10, handles: 0 };
        let mut outgoing = Outgoing::new(limit, [limit; 2]);
        assert!(outgoing.push(parcel(4, 1)).is_ok());
        let refused = outgoing.push(parcel(7, 2)).expect_err("no room");
        outgoing.wait(refused);
        let small = outgoing.push(parcel(0, 3)).expect_err("another waits in front of it");
        outgoing.wait(small);
        assert_eq!(outgoing.poll_sent(), None);
        assert!(outgoing.give(Lane::Messages, Amount { messages: 1, bytes: 4, handles: 0 }));
        assert_eq!(outgoing.poll_sent(), Some(2));
        assert_eq!(outgoing.poll_sent(), Some(3));
        let lengths = std::iter::from_fn(|| outgoing.pop()).map(|(payload, _)| payload.len());
        assert_eq!(lengths.collect::<Vec<_>>(), [4, 7, 0].map(|bytes| bytes + ENVELOPE_BYTES));
    }

    #[test]
    fn what_is_withdrawn_comes_back_whole() {
        let none = Amount::default();
        let mut outgoing = Outgoing::new(none, [none; 2]);
        outgoing.wait(parcel(3, 1));
        outgoing.wait(parcel(5, 2));
        assert!(outgoing.withdraw(|source| *source == 9).is_none());
        let parcel = outgoing.withdraw(|source| *source == 2).expect("it waits");
        assert_eq!(parcel.into_message(), (Message::new([0; 5]), 2));
        assert_eq!(outgoing.into_waiting().map(|parcel| parcel.source).collect::<Vec<_>>(), [1]);
    }
}
