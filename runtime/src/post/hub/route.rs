//! What workers send: whom it is for, and whether it may be sent.

use std::sync::Arc;

use ipc_core::Message as ChannelMessage;

use super::{Charge, Hub, Source};
use crate::event::WorkerId;
use crate::post::frame::{MESSAGE_FROM_WORKER, NOTICE_FROM_WORKER};
use crate::post::outgoing::Parcel;
use crate::post::{
    Arrival, Envelope, Failure, Message, Notice, Peer, REQUESTS_MAX, Recipient, Violation, What,
};

impl<H> Hub<H> {
    /// Takes in a frame from a worker.
    ///
    /// # Errors
    ///
    /// When it is none that the worker may send now.
    pub fn heard(&mut self, from: WorkerId, frame: ChannelMessage<H>) -> Result<(), Violation> {
        match frame.kind {
            MESSAGE_FROM_WORKER => {
                let mut bytes = frame.payload;
                let envelope = Envelope::split_off(&mut bytes, false).map_err(|_| Violation)?;
                self.message(from, envelope, Message { bytes, handles: frame.handles })
            }
            NOTICE_FROM_WORKER if frame.handles.is_empty() => {
                let notice = Notice::decode(&frame.payload, false).map_err(|_| Violation)?;
                self.notice(from, notice)
            }
            _ => Err(Violation),
        }
    }

    fn message(
        &mut self,
        from: WorkerId,
        envelope: Envelope,
        message: Message<H>,
    ) -> Result<(), Violation> {
        let Some(link) = self.links.get_mut(&from) else { return Ok(()) };
        let lane = envelope.lane();
        let cost = link.terms.cost(&message).ok_or(Violation)?;
        let is_allowed = match (envelope.what, envelope.peer) {
            // Handles can't go to several receivers.
            (What::Note, Peer::Others) => message.handles.is_empty(),
            (What::Note, _) | (What::Reply(_), Peer::Master | Peer::Worker(_)) => true,
            (What::Reply(_), Peer::Slot(_) | Peer::Others) => false,
            (What::Request(_), Peer::Others) => false,
            (What::Request(request), _) => {
                let is_new = !self.asked.contains_key(&(from, request));
                is_new && link.open_requests < REQUESTS_MAX
            }
        };
        // In this order: a violation leaves nothing behind that its successor would be charged for.
        if !is_allowed || !link.granted[lane.index()].take(cost) {
            return Err(Violation);
        }
        let accounts = self.accounts.get_mut(&from.slot).expect("it was made with the link");
        accounts[lane.index()].receive(cost);
        let charge = Arc::new(Charge { slot: from.slot, lane, cost });
        self.route(from, envelope, message, charge);
        Ok(())
    }

    /// Takes a message to where it belongs.
    fn route(
        &mut self,
        from: WorkerId,
        envelope: Envelope,
        message: Message<H>,
        charge: Arc<Charge>,
    ) {
        let recipient = match envelope.peer {
            Peer::Master => None,
            Peer::Worker(worker) => Some(Recipient::Worker(worker)),
            Peer::Slot(slot) => Some(Recipient::Slot(slot)),
            Peer::Others => return self.fan_out(from, message, charge),
        };
        match (envelope.what, recipient) {
            (What::Note, None) => self.arrive(from, None, message, charge),
            (What::Note, Some(to)) => self.relay(from, to, What::Note, message, charge),
            (What::Request(request), to) => self.asks(from, request, to, message, charge),
            (What::Reply(request), None) => {
                self.settle(Source::Relay(charge));
                self.answer(from, request, Ok(message));
            }
            (What::Reply(request), Some(to)) => {
                // To one that waits no more, or has not asked: nothing.
                let asker = self.find(to);
                let asker = asker.filter(|to| self.asked.get(&(*to, request)) == Some(&Some(from)));
                let Some(asker) = asker else { return self.settle(Source::Relay(charge)) };
                self.close_request(asker, request);
                self.relay(from, to, What::Reply(request), message, charge);
            }
        }
    }

    /// A worker asks the program, or another worker.
    fn asks(
        &mut self,
        from: WorkerId,
        request: u32,
        to: Option<Recipient>,
        message: Message<H>,
        charge: Arc<Charge>,
    ) {
        if let Some(link) = self.links.get_mut(&from) {
            link.open_requests += 1;
        }
        match to.map(|to| self.find(to)) {
            None if self.is_read => {
                self.asked.insert((from, request), None);
                self.arrive(from, Some(request), message, charge);
            }
            None => {
                self.settle(Source::Relay(charge));
                self.tell_failed(from, request, Failure::Unanswered);
            }
            Some(None) => {
                self.settle(Source::Relay(charge));
                self.tell_failed(from, request, Failure::Gone);
            }
            Some(Some(worker)) => {
                self.asked.insert((from, request), Some(worker));
                let to = Recipient::Worker(worker);
                self.relay(from, to, What::Request(request), message, charge);
            }
        }
    }

    fn notice(&mut self, from: WorkerId, notice: Notice) -> Result<(), Violation> {
        match notice {
            Notice::Credit { lane, amount } => {
                let Some(link) = self.links.get_mut(&from) else { return Ok(()) };
                if !link.outgoing.give(lane, amount) {
                    return Err(Violation);
                }
                self.advance(from);
            }
            Notice::Cancel { request } => {
                if self.asked.contains_key(&(from, request)) {
                    self.close_request(from, request);
                } else if let Some(link) = self.links.get_mut(&from) {
                    let of_it = |notice: &Notice| {
                        matches!(notice, Notice::Failed { request: failed, .. }
                            if *failed == request)
                    };
                    if let Some(index) = link.notices.iter().position(of_it) {
                        link.notices.remove(index);
                        link.open_requests -= 1;
                    }
                }
            }
            Notice::Unanswered { asker: None, request } => {
                self.answer(from, request, Err(Failure::Unanswered));
            }
            Notice::Unanswered { asker: Some(asker), request } => {
                if self.asked.get(&(asker, request)) == Some(&Some(from)) {
                    self.asked.remove(&(asker, request));
                    self.tell_failed(asker, request, Failure::Unanswered);
                }
            }
            Notice::Open { .. } | Notice::Failed { .. } => return Err(Violation),
        }
        Ok(())
    }

    /// For the program.
    fn arrive(
        &mut self,
        from: WorkerId,
        request: Option<u32>,
        message: Message<H>,
        charge: Arc<Charge>,
    ) {
        if self.is_read {
            self.inbox.push_back(Arrival { from, request, message, cost: charge.cost });
        } else {
            self.settle(Source::Relay(charge));
        }
    }

    /// For another worker; at once, or when that has room.
    fn relay(
        &mut self,
        from: WorkerId,
        to: Recipient,
        what: What,
        message: Message<H>,
        charge: Arc<Charge>,
    ) {
        let cost = charge.cost;
        let found = self.find(to);
        let Some((worker, link)) = found.and_then(|to| Some((to, self.links.get_mut(&to)?))) else {
            return self.settle(Source::Relay(charge));
        };
        let envelope = Envelope { what, peer: Peer::Worker(from) };
        match link.outgoing.push(Parcel::new(envelope, message, cost, Source::Relay(charge))) {
            Ok(source) => {
                self.dirty.insert(worker);
                self.settle(source);
            }
            Err(parcel) => link.outgoing.wait(parcel),
        }
    }

    /// For all other workers; its credit is free again when the last of them had room.
    fn fan_out(&mut self, from: WorkerId, message: Message<H>, charge: Arc<Charge>) {
        let mut bytes = message.bytes;
        Envelope { what: What::Note, peer: Peer::Worker(from) }.append(&mut bytes);
        let payload = Arc::new(bytes);
        for (worker, link) in &mut self.links {
            if *worker == from {
                continue;
            }
            let source = Source::Relay(Arc::clone(&charge));
            match link.outgoing.push(Parcel::shared(Arc::clone(&payload), charge.cost, source)) {
                Ok(_) => drop(self.dirty.insert(*worker)),
                Err(parcel) => link.outgoing.wait(parcel),
            }
        }
        self.settle(Source::Relay(charge));
    }
}
