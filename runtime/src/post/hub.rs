//! The master's side: takes what its program and its workers send, to where it belongs.

mod route;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ipc_core::Message as ChannelMessage;

use super::frame::{MESSAGE_TO_WORKER, NOTICE_TO_WORKER};
use super::outgoing::{Outgoing, Parcel, Tickets};
use super::{
    Account, Amount, Arrival, Envelope, Failure, Lane, Message, Notice, Outcome, Peer, Recipient,
    SendError, Sent, Terms, Ticket, What, Window,
};
use crate::event::WorkerId;

/// The master's side.
#[derive(Debug)]
pub struct Hub<H> {
    terms: Terms,
    /// Whether the master's program takes messages.
    is_read: bool,
    links: BTreeMap<WorkerId, Link<H>>,
    /// What has come from each slot, for each lane.
    accounts: BTreeMap<usize, [Account; 2]>,
    inbox: VecDeque<Arrival<WorkerId, H>>,
    /// The program's requests: who was asked, and what became of it.
    requests: BTreeMap<u32, (WorkerId, Option<Outcome<H>>)>,
    next_request: u32,
    /// The workers' requests: who asks, under which number; and who was asked, the program or a
    /// worker.
    asked: BTreeMap<(WorkerId, u32), Option<WorkerId>>,
    tickets: Tickets<H>,
    /// Workers that may have frames to send.
    dirty: BTreeSet<WorkerId>,
    /// Whether a request has got its outcome, since somebody asked.
    has_progress: bool,
    is_closed: bool,
}

/// A worker that has a channel.
#[derive(Debug)]
struct Link<H> {
    outgoing: Outgoing<H, Source>,
    /// The limits on what it sends.
    terms: Terms,
    /// What the worker may still send, for each lane.
    granted: [Window; 2],
    notices: VecDeque<Notice>,
    /// How many of its requests are open, or have failed and it was not told yet.
    open_requests: usize,
}

/// Where a parcel comes from.
#[derive(Debug)]
enum Source {
    /// The master's program, which may wait for it to leave.
    Own(Ticket),
    /// A worker, whose credit it holds.
    Relay(Arc<Charge>),
}

/// Credit that is given back when the last parcel that it is for has left.
#[derive(Debug)]
struct Charge {
    slot: usize,
    lane: Lane,
    cost: Amount,
}

impl<H> Hub<H> {
    /// A hub without workers. If the program takes no messages (`is_read`), they are dropped.
    pub fn new(terms: Terms, is_read: bool) -> Hub<H> {
        Hub {
            terms,
            is_read,
            links: BTreeMap::new(),
            accounts: BTreeMap::new(),
            inbox: VecDeque::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            asked: BTreeMap::new(),
            tickets: Tickets::default(),
            dirty: BTreeSet::new(),
            has_progress: false,
            is_closed: false,
        }
    }

    /// Takes in that a worker has a channel, and whether it may send handles.
    pub fn seat(&mut self, worker: WorkerId, may_send_handles: bool) {
        let message_handles_max = if may_send_handles { self.terms.message_handles_max } else { 0 };
        let terms = Terms { message_handles_max, ..self.terms };
        let limit = terms.window();
        let accounts = self.accounts.entry(worker.slot).or_insert([Account::new(limit); 2]);
        let credit = [accounts[0].open(), accounts[1].open()];
        let link = Link {
            outgoing: Outgoing::new(limit, [limit; 2]),
            granted: credit.map(|credit| Window::new(limit, credit)),
            terms,
            notices: VecDeque::from([Notice::Open { terms, credit }]),
            open_requests: 0,
        };
        self.links.insert(worker, link);
        self.dirty.insert(worker);
    }

    /// Takes in that a worker's channel is at its end: nothing can be said to it any more, and what
    /// it had said was heard.
    pub fn unseat(&mut self, worker: WorkerId) {
        let Some(link) = self.links.remove(&worker) else { return };
        self.dirty.remove(&worker);
        if let Some(accounts) = self.accounts.get_mut(&worker.slot) {
            for (account, granted) in accounts.iter_mut().zip(&link.granted) {
                account.close(granted.available());
            }
        }
        for parcel in link.outgoing.into_waiting() {
            match parcel.into_message() {
                (message, Source::Own(ticket)) => self.tickets.returned(ticket, message),
                (_, source @ Source::Relay(_)) => self.settle(source),
            }
        }
        for (asked, outcome) in self.requests.values_mut() {
            if *asked == worker && outcome.is_none() {
                *outcome = Some(Err(Failure::Gone));
                self.has_progress = true;
            }
        }
        let mut unanswered = Vec::new();
        self.asked.retain(|(asker, request), asked| {
            if *asked == Some(worker) {
                unanswered.push((*asker, *request));
            }
            *asker != worker && *asked != Some(worker)
        });
        for (asker, request) in unanswered {
            self.tell_failed(asker, request, Failure::Gone);
        }
    }

    /// Ends it: nobody is there any more. What has come can still be taken.
    pub fn close(&mut self) {
        self.is_closed = true;
        while let Some((worker, _)) = self.links.first_key_value() {
            self.unseat(*worker);
        }
    }

    /// Sends a message of the program's, as far as there is room, or if it `may_wait`, as soon as
    /// there is. Says to whom, and the number under which it may wait.
    ///
    /// # Errors
    ///
    /// When it is not sent. The error holds the message.
    pub fn send(
        &mut self,
        to: Recipient,
        what: What,
        message: Message<H>,
        may_wait: bool,
    ) -> Result<(WorkerId, Ticket), SendError<H>> {
        let Some(worker) = self.find(to) else { return Err(SendError::Gone(message)) };
        let Some(cost) = self.terms.cost(&message) else {
            return Err(SendError::TooLarge(message));
        };
        let Some(link) = self.links.get_mut(&worker) else {
            return Err(SendError::Gone(message));
        };
        let envelope = Envelope { what, peer: Peer::Master };
        let source = Source::Own(self.tickets.next());
        match link.outgoing.push(Parcel::new(envelope, message, cost, source)) {
            Ok(_) => {
                self.dirty.insert(worker);
                // Of a ticket that was not opened it is said that it has left.
                Ok((worker, Ticket::MAX))
            }
            Err(parcel) if may_wait => {
                link.outgoing.wait(parcel);
                Ok((worker, self.tickets.open()))
            }
            Err(parcel) => Err(SendError::Full(parcel.into_message().0)),
        }
    }

    /// Sends bytes to every worker; says how many have room for them, and which have not.
    ///
    /// # Errors
    ///
    /// When they are too long. The error holds them.
    pub fn broadcast(&mut self, bytes: Vec<u8>) -> Result<(usize, Vec<WorkerId>), SendError<H>> {
        let message = Message::new(bytes);
        let Some(cost) = self.terms.cost(&message) else {
            return Err(SendError::TooLarge(message));
        };
        let mut bytes = message.bytes;
        Envelope { what: What::Note, peer: Peer::Master }.append(&mut bytes);
        let payload = Arc::new(bytes);
        let mut full = Vec::new();
        for (worker, link) in &mut self.links {
            let parcel = Parcel::shared(Arc::clone(&payload), cost, Source::Own(Ticket::MAX));
            match link.outgoing.push(parcel) {
                Ok(_) => drop(self.dirty.insert(*worker)),
                Err(_) => full.push(*worker),
            }
        }
        Ok((self.links.len() - full.len(), full))
    }

    /// What became of a send that may wait. Asked until it says something else than `Not`.
    pub fn poll_sent(&mut self, ticket: Ticket) -> Sent<H> {
        self.tickets.poll(ticket)
    }

    /// Takes back a message that waits for room; `None` if it has left.
    pub fn withdraw(&mut self, ticket: Ticket) -> Option<Message<H>> {
        if let Sent::Returned(message) = self.tickets.poll(ticket) {
            return Some(message);
        }
        let is_meant = |source: &Source| matches!(source, Source::Own(own) if *own == ticket);
        let mut links = self.links.iter_mut();
        let (worker, parcel) =
            links.find_map(|(worker, link)| Some((*worker, link.outgoing.withdraw(is_meant)?)))?;
        self.tickets.sent(ticket);
        self.advance(worker);
        Some(parcel.into_message().0)
    }

    /// Sends a request of the program's; says under which number [`poll_reply`](Self::poll_reply)
    /// knows it, and the rest as [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// When it is not sent. The error holds the message.
    pub fn request(
        &mut self,
        to: Recipient,
        message: Message<H>,
    ) -> Result<(u32, WorkerId, Ticket), SendError<H>> {
        while self.requests.contains_key(&self.next_request) {
            self.next_request = self.next_request.wrapping_add(1);
        }
        let request = self.next_request;
        let (worker, ticket) = self.send(to, What::Request(request), message, true)?;
        self.next_request = request.wrapping_add(1);
        self.requests.insert(request, (worker, None));
        Ok((request, worker, ticket))
    }

    /// What became of a request, once.
    pub fn poll_reply(&mut self, request: u32) -> Option<Outcome<H>> {
        let outcome = self.requests.get_mut(&request)?.1.take()?;
        self.requests.remove(&request);
        Some(outcome)
    }

    /// Gives up a request: a reply that still comes is dropped.
    pub fn forget(&mut self, request: u32) {
        self.requests.remove(&request);
    }

    /// Takes the next message for the program.
    pub fn take(&mut self) -> Option<Arrival<WorkerId, H>> {
        let arrival = self.inbox.pop_front()?;
        self.release(arrival.from.slot, Lane::Messages, arrival.cost);
        Some(arrival)
    }

    /// Whether a message for the program waits.
    pub fn has_messages(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Replies to a request that a worker has made to the program.
    ///
    /// # Errors
    ///
    /// When the reply is not sent. `Gone` also when the worker has given the request up.
    pub fn reply(
        &mut self,
        to: WorkerId,
        request: u32,
        message: Message<H>,
    ) -> Result<(), SendError<H>> {
        if self.asked.get(&(to, request)) != Some(&None) {
            return Err(SendError::Gone(message));
        }
        self.send(Recipient::Worker(to), What::Reply(request), message, false)?;
        self.close_request(to, request);
        Ok(())
    }

    /// Says that the program will not reply to a request.
    pub fn refuse(&mut self, to: WorkerId, request: u32) {
        if self.asked.get(&(to, request)) == Some(&None) {
            self.asked.remove(&(to, request));
            self.tell_failed(to, request, Failure::Unanswered);
        }
    }

    /// Workers that may have frames to send, since the last call.
    pub fn take_dirty(&mut self) -> BTreeSet<WorkerId> {
        std::mem::take(&mut self.dirty)
    }

    /// Whether any worker may have frames to send.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The next frame to a worker.
    pub fn poll_frame(&mut self, worker: WorkerId) -> Option<ChannelMessage<H>> {
        let is_current = self.find(Recipient::Slot(worker.slot)) == Some(worker);
        let link = self.links.get_mut(&worker)?;
        if let Some(notice) = link.notices.pop_front() {
            if let Notice::Failed { .. } = notice {
                link.open_requests -= 1;
            }
            return Some(ChannelMessage::new(NOTICE_TO_WORKER, notice.encode()));
        }
        let accounts = self.accounts.get_mut(&worker.slot).filter(|_| is_current);
        for (lane, account) in Lane::ALL.into_iter().zip(accounts.into_iter().flatten()) {
            if let Some(amount) = account.poll_credit() {
                let fits = link.granted[lane.index()].give(amount);
                assert!(fits, "an account gives no more than its window");
                let notice = Notice::Credit { lane, amount };
                return Some(ChannelMessage::new(NOTICE_TO_WORKER, notice.encode()));
            }
        }
        let (payload, handles) = link.outgoing.pop()?;
        Some(ChannelMessage { kind: MESSAGE_TO_WORKER, payload, handles })
    }

    /// Whether a send that waited, or a request, has come to its end, since the last call.
    pub fn take_progress(&mut self) -> bool {
        let tickets = std::mem::take(&mut self.tickets.has_progress);
        std::mem::take(&mut self.has_progress) || tickets
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// How much of what has come from a slot is held, for each lane: waits to be taken, or to be
    /// sent on.
    pub fn held(&self, slot: usize) -> [Amount; 2] {
        self.accounts.get(&slot).map(|accounts| accounts.map(|one| one.held())).unwrap_or_default()
    }

    /// Sends what there is room for now.
    fn advance(&mut self, worker: WorkerId) {
        while let Some(source) =
            self.links.get_mut(&worker).and_then(|link| link.outgoing.poll_sent())
        {
            self.dirty.insert(worker);
            self.settle(source);
        }
    }

    /// What is to be done when a parcel has left.
    fn settle(&mut self, source: Source) {
        match source {
            Source::Own(ticket) => self.tickets.sent(ticket),
            Source::Relay(charge) => {
                if let Some(Charge { slot, lane, cost }) = Arc::into_inner(charge) {
                    self.release(slot, lane, cost);
                }
            }
        }
    }

    fn release(&mut self, slot: usize, lane: Lane, cost: Amount) {
        let Some(accounts) = self.accounts.get_mut(&slot) else { return };
        accounts[lane.index()].release(cost);
        if accounts[lane.index()].is_due() {
            let current = self.find(Recipient::Slot(slot));
            self.dirty.extend(current);
        }
    }

    fn answer(&mut self, from: WorkerId, request: u32, outcome: Outcome<H>) {
        if let Some((asked, waiting @ None)) = self.requests.get_mut(&request)
            && *asked == from
        {
            *waiting = Some(outcome);
            self.has_progress = true;
        }
    }

    fn close_request(&mut self, asker: WorkerId, request: u32) {
        self.asked.remove(&(asker, request));
        if let Some(link) = self.links.get_mut(&asker) {
            link.open_requests -= 1;
        }
    }

    /// The request counts on until this notice has left, so that they can't pile up.
    fn tell_failed(&mut self, asker: WorkerId, request: u32, failure: Failure) {
        if let Some(link) = self.links.get_mut(&asker) {
            link.notices.push_back(Notice::Failed { request, failure });
            self.dirty.insert(asker);
        }
    }

    fn find(&self, recipient: Recipient) -> Option<WorkerId> {
        match recipient {
            Recipient::Worker(worker) => self.links.contains_key(&worker).then_some(worker),
            Recipient::Slot(slot) => {
                let generation = |generation| WorkerId { slot, generation };
                let mut seated = self.links.range(generation(0)..=generation(u32::MAX));
                seated.next_back().map(|(worker, _)| *worker)
            }
        }
    }
}
