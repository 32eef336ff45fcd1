//! A hub and its spokes, with queues for channels and counted values for handles: driven by bytes,
//! by property tests and by a fuzzer. Panics when something is lost, doubled, out of order, or left
//! over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ipc_core::Message as Frame;
use runtime::post::{
    Amount, Envelope, Hub, MESSAGE_FROM_WORKER, Notice, Outcome, Peer, Sent, Spoke, Terms, Ticket,
    WINDOW_MESSAGES, What,
};
use runtime::{Message, Recipient, SendError, Sender, WorkerId};

const SLOTS: usize = 3;

/// Few handles make a window full, so that it often is.
const TERMS: Terms = Terms { message_bytes_max: 64, message_handles_max: 16 };

type Handle = Arc<()>;

/// Who sends to whom: a sender's messages to one name are in order.
type Flow = (Sender, Name);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Master,
    Worker(WorkerId),
    Slot(usize),
    Others,
}

struct Worker {
    id: WorkerId,
    spoke: Option<Spoke<Handle>>,
    down: VecDeque<Frame<Handle>>,
    up: VecDeque<Frame<Handle>>,
    requests: Vec<(u32, Ticket)>,
    /// Requests that its application has taken and not answered.
    taken: Vec<(Sender, u32)>,
}

struct World {
    hub: Hub<Handle>,
    workers: [Option<Worker>; SLOTS],
    generations: [u32; SLOTS],
    /// One of each handle stays here, so that the others can be counted.
    handle: Handle,
    sent: BTreeMap<Flow, u32>,
    /// The last that each receiver saw of a flow, and how many.
    seen: BTreeMap<(Flow, Sender), (u32, u32)>,
    requests: Vec<(u32, WorkerId, Ticket)>,
    taken: Vec<(WorkerId, u32)>,
    tickets: Vec<(WorkerId, Ticket)>,
    /// What the program has not taken, of each slot.
    held: [u32; SLOTS],
    /// Workers of which the hub has said that it may have frames for them.
    dirty: BTreeSet<WorkerId>,
    died: bool,
}

/// Plays what the bytes say, then lets everything come to its end.
pub(crate) fn play(data: &[u8]) {
    let mut world = World::new();
    for step in data.chunks_exact(4) {
        world.step([step[0], step[1], step[2], step[3]]);
    }
    world.finish();
}

impl World {
    fn new() -> World {
        let mut world = World {
            hub: Hub::new(TERMS, true),
            workers: [const { None }; SLOTS],
            generations: [0; SLOTS],
            handle: Arc::new(()),
            sent: BTreeMap::new(),
            seen: BTreeMap::new(),
            requests: Vec::new(),
            taken: Vec::new(),
            tickets: Vec::new(),
            held: [0; SLOTS],
            dirty: BTreeSet::new(),
            died: false,
        };
        for slot in 0..SLOTS {
            world.seat(slot);
        }
        world
    }

    fn step(&mut self, [verb, who, whom, size]: [u8; 4]) {
        let slot = usize::from(who) % SLOTS;
        let other = usize::from(whom) % SLOTS;
        let may_wait = size & 0x80 != 0;
        match verb % 20 {
            0 | 1 => self.send_down(slot, whom & 0x80 != 0, size, may_wait),
            2 => self.broadcast_down(),
            3 => self.ask_down(slot, size),
            4 | 5 => self.send_up(slot, whom, size),
            6 => self.ask_up(slot, whom, size),
            7 | 8 => self.take(usize::from(size)),
            9 => self.answer(usize::from(whom), size),
            10 | 11 => self.take_at(slot, usize::from(size)),
            12 => self.answer_at(slot, usize::from(whom), size),
            13 | 14 => self.carry(slot, 1 + usize::from(size)),
            15 => (0..SLOTS).for_each(|slot| self.carry(slot, usize::MAX)),
            16 => self.give_up(slot, other),
            17 if size < 64 => self.kill(slot),
            18 => self.seat(slot),
            _ => self.poll(),
        }
    }

    /// The next message of a flow: its bytes say which, and the how-manieth it is.
    fn message(&mut self, flow: Flow, size: u8) -> Message<Handle> {
        let number = self.sent.get(&flow).copied().unwrap_or(0);
        let handles = usize::from(size % 18);
        let text = format!("{number} {:?}", flow.1);
        let mut message = Message::new(text.into_bytes());
        (0..handles).for_each(|_| message.handles.push(Arc::clone(&self.handle)));
        message
    }

    /// Takes note of what became of a message of a flow. What comes back is whole.
    fn note<T>(&mut self, flow: Flow, size: u8, sent: Result<T, SendError<Handle>>) -> Option<T> {
        let handles = usize::from(size % 18);
        match sent {
            Ok(sent) => {
                assert!(handles <= 16, "over the limit");
                *self.sent.entry(flow).or_default() += 1;
                Some(sent)
            }
            Err(error) => {
                assert_eq!(matches!(error, SendError::TooLarge(_)), {
                    handles > 16 && !matches!(error, SendError::Gone(_))
                });
                let message = error.into_message();
                assert_eq!(message.handles.len(), handles);
                assert!(message.bytes.ends_with(format!(" {:?}", flow.1).as_bytes()));
                None
            }
        }
    }

    fn send_down(&mut self, slot: usize, to_slot: bool, size: u8, may_wait: bool) {
        let id = self.workers[slot].as_ref().map(|worker| worker.id);
        let (name, to) = match id.filter(|_| !to_slot) {
            Some(worker) => (Name::Worker(worker), Recipient::Worker(worker)),
            None => (Name::Slot(slot), Recipient::Slot(slot)),
        };
        let flow = (Sender::Master, name);
        let message = self.message(flow, size);
        let sent = self.hub.send(to, What::Note, message, may_wait);
        let sent = self.note(flow, size, sent);
        self.tickets.extend(sent);
    }

    fn broadcast_down(&mut self) {
        let flow = (Sender::Master, Name::Others);
        let message = self.message(flow, 0);
        let (reached, full) = self.hub.broadcast(message.bytes).expect("short");
        assert_eq!(reached + full.len(), self.workers.iter().flatten().count());
        *self.sent.entry(flow).or_default() += 1;
        // Who is full misses one.
        self.died |= !full.is_empty();
    }

    fn ask_down(&mut self, slot: usize, size: u8) {
        let flow = (Sender::Master, Name::Slot(slot));
        let message = self.message(flow, size);
        let asked = self.hub.request(Recipient::Slot(slot), message);
        let asked = self.note(flow, size, asked);
        self.requests.extend(asked);
    }

    fn destination(&self, whom: u8) -> (Name, Peer) {
        let slot = usize::from(whom) % SLOTS;
        match (whom / 64, &self.workers[slot]) {
            (0, _) => (Name::Master, Peer::Master),
            (1, Some(worker)) => (Name::Worker(worker.id), Peer::Worker(worker.id)),
            _ => (Name::Slot(slot), Peer::Slot(slot)),
        }
    }

    fn send_up(&mut self, slot: usize, whom: u8, size: u8) {
        let (name, peer) = match whom {
            240.. => (Name::Others, Peer::Others),
            _ => self.destination(whom),
        };
        let size = if peer == Peer::Others { 0 } else { size };
        let Some(id) = self.spoke(slot) else { return };
        let flow = (Sender::Worker(id), name);
        let message = self.message(flow, size);
        let Some(spoke) = self.workers[slot].as_mut().and_then(|w| w.spoke.as_mut()) else {
            return;
        };
        let sent = spoke.send(peer, What::Note, message, size & 0x80 != 0);
        self.note(flow, size, sent);
    }

    fn ask_up(&mut self, slot: usize, whom: u8, size: u8) {
        let (name, peer) = self.destination(whom);
        let Some(id) = self.spoke(slot) else { return };
        let flow = (Sender::Worker(id), name);
        let message = self.message(flow, size);
        let Some(worker) = self.workers[slot].as_mut() else { return };
        let Some(spoke) = worker.spoke.as_mut() else { return };
        let asked = spoke.request(peer, message);
        let asked = self.note(flow, size, asked);
        self.workers[slot].as_mut().expect("it is there").requests.extend(asked);
    }

    /// The worker in a slot, if it has heard how much it may send.
    fn spoke(&self, slot: usize) -> Option<WorkerId> {
        let worker = self.workers[slot].as_ref()?;
        worker.spoke.as_ref().map(|_| worker.id)
    }

    fn take(&mut self, count: usize) {
        for _ in 0..count {
            let Some(arrival) = self.hub.take() else { return };
            self.held[arrival.from.slot] -= 1;
            let from = Sender::Worker(arrival.from);
            saw(&mut self.seen, from, Sender::Master, &arrival.message);
            self.taken.extend(arrival.request.map(|request| (arrival.from, request)));
        }
    }

    fn answer(&mut self, index: usize, size: u8) {
        if self.taken.is_empty() {
            return;
        }
        let (to, request) = self.taken.swap_remove(index % self.taken.len());
        if size.is_multiple_of(3) {
            return self.hub.refuse(to, request);
        }
        let reply = Message::new("reply").with_handle(Arc::clone(&self.handle));
        if self.hub.reply(to, request, reply).is_err() {
            self.hub.refuse(to, request);
        }
    }

    fn take_at(&mut self, slot: usize, count: usize) {
        let Some(worker) = &mut self.workers[slot] else { return };
        let Some(spoke) = &mut worker.spoke else { return };
        for _ in 0..count {
            let Some(arrival) = spoke.take() else { return };
            saw(&mut self.seen, arrival.from, Sender::Worker(worker.id), &arrival.message);
            worker.taken.extend(arrival.request.map(|request| (arrival.from, request)));
        }
    }

    fn answer_at(&mut self, slot: usize, index: usize, size: u8) {
        let Some(worker) = &mut self.workers[slot] else { return };
        let Some(spoke) = &mut worker.spoke else { return };
        if worker.taken.is_empty() {
            return;
        }
        let (to, request) = worker.taken.swap_remove(index % worker.taken.len());
        let reply = Message::new("reply").with_handle(Arc::clone(&self.handle));
        if size.is_multiple_of(3) || spoke.reply(to, request, reply).is_err() {
            spoke.refuse(to, request);
        }
    }

    /// Carries frames both ways.
    fn carry(&mut self, slot: usize, frames: usize) {
        let Some(worker) = &mut self.workers[slot] else { return };
        for _ in 0..frames {
            self.dirty.append(&mut self.hub.take_dirty());
            let frame = self.hub.poll_frame(worker.id);
            assert!(frame.is_none() || self.dirty.contains(&worker.id), "nobody would have asked");
            if frame.is_none() {
                self.dirty.remove(&worker.id);
            }
            worker.down.extend(frame);
            let Some(frame) = worker.down.pop_front() else { break };
            match &mut worker.spoke {
                Some(spoke) => spoke.heard(frame).expect("a master's frame"),
                None => {
                    let first = Notice::decode(&frame.payload, true).expect("the first is one");
                    let Notice::Open { terms, credit } = first else { panic!("{first:?}") };
                    worker.spoke = Some(Spoke::new(terms, credit));
                }
            }
        }
        let Some(spoke) = &mut worker.spoke else { return };
        for _ in 0..frames {
            let has_frames = spoke.has_frames();
            worker.up.extend(spoke.poll_frame());
            assert_eq!(has_frames, !worker.up.is_empty());
            let Some(frame) = worker.up.pop_front() else { break };
            let to_master = frame.kind == MESSAGE_FROM_WORKER && {
                let envelope = Envelope::split_off(&mut frame.payload.clone(), false);
                let envelope = envelope.expect("an envelope");
                envelope.peer == Peer::Master && !matches!(envelope.what, What::Reply(_))
            };
            self.hub.heard(worker.id, frame).expect("a worker's frame");
            self.held[slot] += u32::from(to_master);
        }
        assert!(self.held[slot] <= WINDOW_MESSAGES, "within the window, over all generations");
    }

    fn give_up(&mut self, slot: usize, other: usize) {
        if let Some((request, _, ticket)) = self.requests.pop() {
            let withdrawn = self.hub.withdraw(ticket).is_some();
            self.hub.forget(request);
            self.died |= withdrawn;
        }
        if let Some((_, ticket)) = self.tickets.pop() {
            self.died |= self.hub.withdraw(ticket).is_some();
        }
        for slot in [slot, other] {
            let Some(worker) = &mut self.workers[slot] else { continue };
            let Some(spoke) = &mut worker.spoke else { continue };
            if let Some((request, ticket)) = worker.requests.pop() {
                let withdrawn = spoke.withdraw(ticket).is_some();
                spoke.forget(request, !withdrawn);
                self.died |= withdrawn;
            }
        }
    }

    fn kill(&mut self, slot: usize) {
        if let Some(worker) = self.workers[slot].take() {
            self.hub.unseat(worker.id);
            self.died = true;
            let mut spoke = worker.spoke;
            if let Some(spoke) = &mut spoke {
                spoke.close();
                for (request, ticket) in worker.requests {
                    let returned = matches!(spoke.poll_sent(ticket), Sent::Returned(_));
                    assert!(spoke.poll_reply(request).is_some() || returned, "it ends");
                }
            }
            // Whoever has asked this worker is told.
            for (request, asked, ticket) in &self.requests {
                if *asked == worker.id {
                    assert!(!matches!(self.hub.poll_sent(*ticket), Sent::Not));
                    let outcome: Option<Outcome<Handle>> = self.hub.poll_reply(*request);
                    assert!(outcome.is_some(), "a request to the dead is answered");
                }
            }
            self.requests.retain(|(_, asked, _)| *asked != worker.id);
        }
    }

    fn seat(&mut self, slot: usize) {
        if self.workers[slot].is_none() {
            self.generations[slot] += 1;
            let id = WorkerId { slot, generation: self.generations[slot] };
            self.hub.seat(id, true);
            self.workers[slot] = Some(Worker {
                id,
                spoke: None,
                down: VecDeque::new(),
                up: VecDeque::new(),
                requests: Vec::new(),
                taken: Vec::new(),
            });
        }
    }

    fn poll(&mut self) {
        self.requests.retain(|(request, ..)| self.hub.poll_reply(*request).is_none());
        for worker in self.workers.iter_mut().flatten() {
            if let Some(spoke) = &mut worker.spoke {
                worker.requests.retain(|(request, _)| spoke.poll_reply(*request).is_none());
            }
        }
    }

    /// Lets everything be taken, and looks what is left.
    fn finish(&mut self) {
        for _ in 0..200 {
            for slot in 0..SLOTS {
                self.seat(slot);
                self.carry(slot, usize::MAX);
                self.take_at(slot, usize::MAX);
                (0..300).for_each(|index| self.answer_at(slot, index, 1));
            }
            self.take(usize::MAX);
            (0..300).for_each(|index| self.answer(index, 1));
            self.poll();
        }
        assert!(self.requests.is_empty(), "every request ends: {:?}", self.requests);
        for (worker, ticket) in std::mem::take(&mut self.tickets) {
            assert_ne!(self.hub.poll_sent(ticket), Sent::Not, "{worker} has room");
        }
        let asking = self.workers.iter().flatten().map(|worker| worker.requests.len());
        assert_eq!(asking.sum::<usize>(), 0, "every request of a worker ends");
        if !self.died {
            self.assert_complete();
        }
        for slot in 0..SLOTS {
            assert_eq!(self.hub.held(slot), [Amount::default(); 2], "slot {slot} gets no credit");
            self.kill(slot);
        }
        assert_eq!(Arc::strong_count(&self.handle), 1, "handles are left");
    }

    /// While nobody died and nothing was withdrawn, everything that was sent was seen.
    fn assert_complete(&self) {
        for (flow, sent) in &self.sent {
            let receivers = match flow {
                (Sender::Master, Name::Others) => SLOTS,
                (Sender::Worker(_), Name::Others) => SLOTS - 1,
                _ => 1,
            };
            let seen = self.seen.iter().filter(|((other, _), _)| other == flow);
            let counts: Vec<u32> = seen.map(|(_, (_, count))| *count).collect();
            assert_eq!(counts, vec![*sent; receivers], "{flow:?}");
        }
    }
}

/// A receiver sees a message: it must come after the one that it saw last of that flow.
fn saw(
    seen: &mut BTreeMap<(Flow, Sender), (u32, u32)>,
    from: Sender,
    by: Sender,
    message: &Message<Handle>,
) {
    let text = String::from_utf8(message.bytes.clone()).expect("our own text");
    let (number, name) = text.split_once(' ').expect("our own text");
    let number: u32 = number.parse().expect("our own text");
    let names = [Name::Master, Name::Others].into_iter().chain((0..SLOTS).map(Name::Slot));
    let own = match by {
        Sender::Worker(worker) => Some(Name::Worker(worker)),
        Sender::Master => None,
    };
    let name = names.chain(own).find(|known| format!("{known:?}") == name);
    let flow = (from, name.expect("it is for this receiver"));
    let (next, count) = seen.entry((flow, by)).or_default();
    assert!(number >= *next, "{flow:?}: {number} comes after {next}");
    (*next, *count) = (number + 1, *count + 1);
}
