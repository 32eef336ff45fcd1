//! A worker's side: what its application sends, and what came for it.

use std::collections::{BTreeMap, VecDeque};

use ipc_core::Message as ChannelMessage;

use super::frame::{MESSAGE_FROM_WORKER, MESSAGE_TO_WORKER, NOTICE_FROM_WORKER, NOTICE_TO_WORKER};
use super::outgoing::{Outgoing, Parcel, Tickets};
use super::{
    Account, Amount, Arrival, Envelope, Failure, Lane, Message, Notice, Outcome, Peer,
    REQUESTS_MAX, SendError, Sender, Sent, Terms, Ticket, Violation, What, Window,
};

/// A worker's side.
#[derive(Debug)]
pub struct Spoke<H> {
    terms: Terms,
    /// A send that may wait does so under its ticket.
    outgoing: Outgoing<H, Ticket>,
    /// What may still come, for each lane.
    granted: [Window; 2],
    accounts: [Account; 2],
    inbox: VecDeque<Arrival<Sender, H>>,
    /// The application's requests, and what became of each.
    requests: BTreeMap<u32, Option<Outcome<H>>>,
    next_request: u32,
    notices: VecDeque<Notice>,
    tickets: Tickets<H>,
    /// Whether a request has got its outcome, since somebody asked.
    has_progress: bool,
    is_closed: bool,
}

impl<H> Spoke<H> {
    /// A side that may send so much at once, as [`Notice::Open`] says.
    pub fn new(terms: Terms, credit: [Amount; 2]) -> Spoke<H> {
        let limit = terms.window();
        let mut account = Account::new(limit);
        Spoke {
            terms,
            outgoing: Outgoing::new(limit, credit),
            granted: [Window::new(limit, account.open()); 2],
            accounts: [account; 2],
            inbox: VecDeque::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            notices: VecDeque::new(),
            tickets: Tickets::default(),
            has_progress: false,
            is_closed: false,
        }
    }

    /// Takes in that the channel is at its end. What has come can still be taken.
    pub fn close(&mut self) {
        self.is_closed = true;
        let none = [Amount::default(); 2];
        let outgoing = Outgoing::new(self.terms.window(), none);
        for parcel in std::mem::replace(&mut self.outgoing, outgoing).into_waiting() {
            let (message, ticket) = parcel.into_message();
            self.tickets.returned(ticket, message);
        }
        for outcome in self.requests.values_mut().filter(|outcome| outcome.is_none()) {
            *outcome = Some(Err(Failure::Gone));
            self.has_progress = true;
        }
    }

    /// Whether the channel is at its end.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Sends a message, as far as there is room, or if it `may_wait`, as soon as there is. Says
    /// under which number it may wait.
    ///
    /// # Errors
    ///
    /// When it is not sent. The error holds the message.
    pub fn send(
        &mut self,
        to: Peer,
        what: What,
        message: Message<H>,
        may_wait: bool,
    ) -> Result<Ticket, SendError<H>> {
        if self.is_closed {
            return Err(SendError::Gone(message));
        }
        let to_all = to == Peer::Others && !message.handles.is_empty();
        let Some(cost) = self.terms.cost(&message).filter(|_| !to_all) else {
            return Err(SendError::TooLarge(message));
        };
        let envelope = Envelope { what, peer: to };
        let ticket = self.tickets.next();
        match self.outgoing.push(Parcel::new(envelope, message, cost, ticket)) {
            // Of a ticket that was not opened it is said that it has left.
            Ok(_) => Ok(Ticket::MAX),
            Err(parcel) if may_wait => {
                self.outgoing.wait(parcel);
                Ok(self.tickets.open())
            }
            Err(parcel) => Err(SendError::Full(parcel.into_message().0)),
        }
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
        let parcel = self.outgoing.withdraw(|own| *own == ticket)?;
        self.tickets.sent(ticket);
        self.advance();
        Some(parcel.into_message().0)
    }

    /// Sends a request; says under which number [`poll_reply`](Self::poll_reply) knows it, and the
    /// rest as [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// When it is not sent. The error holds the message.
    pub fn request(
        &mut self,
        to: Peer,
        message: Message<H>,
    ) -> Result<(u32, Ticket), SendError<H>> {
        if self.requests.len() >= REQUESTS_MAX {
            return Err(SendError::Full(message));
        }
        while self.requests.contains_key(&self.next_request) {
            self.next_request = self.next_request.wrapping_add(1);
        }
        let request = self.next_request;
        let ticket = self.send(to, What::Request(request), message, true)?;
        self.next_request = request.wrapping_add(1);
        self.requests.insert(request, None);
        Ok((request, ticket))
    }

    /// What became of a request, once.
    pub fn poll_reply(&mut self, request: u32) -> Option<Outcome<H>> {
        let outcome = self.requests.get_mut(&request)?.take()?;
        self.requests.remove(&request);
        Some(outcome)
    }

    /// Gives up a request: a reply that still comes is dropped. If it `was_sent`, others are told.
    pub fn forget(&mut self, request: u32, was_sent: bool) {
        let is_open = matches!(self.requests.remove(&request), Some(None));
        if is_open && was_sent && !self.is_closed {
            self.notices.push_back(Notice::Cancel { request });
        }
    }

    /// Takes the next message.
    pub fn take(&mut self) -> Option<Arrival<Sender, H>> {
        let arrival = self.inbox.pop_front()?;
        self.accounts[Lane::Messages.index()].release(arrival.cost);
        Some(arrival)
    }

    /// Whether a message waits.
    pub fn has_messages(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Replies to a request.
    ///
    /// # Errors
    ///
    /// When the reply is not sent. The error holds it.
    pub fn reply(
        &mut self,
        to: Sender,
        request: u32,
        message: Message<H>,
    ) -> Result<(), SendError<H>> {
        let peer = match to {
            Sender::Master => Peer::Master,
            Sender::Worker(worker) => Peer::Worker(worker),
        };
        self.send(peer, What::Reply(request), message, false).map(drop)
    }

    /// Says that there will be no reply to a request.
    pub fn refuse(&mut self, to: Sender, request: u32) {
        let asker = match to {
            Sender::Master => None,
            Sender::Worker(worker) => Some(worker),
        };
        if !self.is_closed {
            self.notices.push_back(Notice::Unanswered { asker, request });
        }
    }

    /// Takes in a frame from the master.
    ///
    /// # Errors
    ///
    /// When it is none that a master sends.
    pub fn heard(&mut self, frame: ChannelMessage<H>) -> Result<(), Violation> {
        match frame.kind {
            MESSAGE_TO_WORKER => {
                let mut bytes = frame.payload;
                let envelope = Envelope::split_off(&mut bytes, true).map_err(|_| Violation)?;
                self.message(envelope, Message { bytes, handles: frame.handles })
            }
            NOTICE_TO_WORKER => {
                match Notice::decode(&frame.payload, true).map_err(|_| Violation)? {
                    Notice::Credit { lane, amount } => {
                        if !self.outgoing.give(lane, amount) {
                            return Err(Violation);
                        }
                        self.advance();
                    }
                    Notice::Failed { request, failure } => self.answer(request, Err(failure)),
                    Notice::Open { .. } | Notice::Cancel { .. } | Notice::Unanswered { .. } => {
                        return Err(Violation);
                    }
                }
                Ok(())
            }
            _ => Err(Violation),
        }
    }

    /// Whether a send that waited, or a request, has come to its end, since the last call.
    pub fn take_progress(&mut self) -> bool {
        let tickets = std::mem::take(&mut self.tickets.has_progress);
        std::mem::take(&mut self.has_progress) || tickets
    }

    /// Whether there are frames to send.
    pub fn has_frames(&self) -> bool {
        !self.is_closed
            && (self.outgoing.is_ready()
                || !self.notices.is_empty()
                || self.accounts.iter().any(Account::is_due))
    }

    /// The next frame to the master.
    pub fn poll_frame(&mut self) -> Option<ChannelMessage<H>> {
        if self.is_closed {
            return None;
        }
        if let Some(notice) = self.notices.pop_front() {
            return Some(ChannelMessage::new(NOTICE_FROM_WORKER, notice.encode()));
        }
        for (lane, account) in Lane::ALL.into_iter().zip(&mut self.accounts) {
            if let Some(amount) = account.poll_credit() {
                let fits = self.granted[lane.index()].give(amount);
                assert!(fits, "an account gives no more than its window");
                let notice = Notice::Credit { lane, amount };
                return Some(ChannelMessage::new(NOTICE_FROM_WORKER, notice.encode()));
            }
        }
        let (payload, handles) = self.outgoing.pop()?;
        Some(ChannelMessage { kind: MESSAGE_FROM_WORKER, payload, handles })
    }

    fn message(&mut self, envelope: Envelope, message: Message<H>) -> Result<(), Violation> {
        let lane = envelope.lane();
        let cost = Amount::of(&message).ok_or(Violation)?;
        let from = match envelope.peer {
            Peer::Master => Sender::Master,
            Peer::Worker(worker) => Sender::Worker(worker),
            Peer::Slot(_) | Peer::Others => return Err(Violation),
        };
        if !self.granted[lane.index()].take(cost) {
            return Err(Violation);
        }
        self.accounts[lane.index()].receive(cost);
        match envelope.what {
            What::Note => {
                self.inbox.push_back(Arrival { from, request: None, message, cost });
            }
            What::Request(request) => {
                self.inbox.push_back(Arrival { from, request: Some(request), message, cost });
            }
            What::Reply(request) => {
                self.accounts[lane.index()].release(cost);
                self.answer(request, Ok(message));
            }
        }
        Ok(())
    }

    /// Sends what there is credit for now.
    fn advance(&mut self) {
        while let Some(ticket) = self.outgoing.poll_sent() {
            self.tickets.sent(ticket);
        }
    }

    fn answer(&mut self, request: u32, outcome: Outcome<H>) {
        if let Some(waiting @ None) = self.requests.get_mut(&request) {
            *waiting = Some(outcome);
            self.has_progress = true;
        }
    }
}
