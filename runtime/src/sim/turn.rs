//! The master's turn: what its shell finds ready when it wakes up, and what it makes of it.

use super::kernel::{Place, SocketState};
use super::plan::Fault;
use super::process::Sent;
use super::world::World;
use crate::machine::{FromWorker, Input, ListenerId, MailboxId};

/// Something that the master finds ready in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    Channel(usize),
    Exit(usize),
    Listener(usize),
    Opened(usize),
    Room(usize, usize),
    Shutdown,
    Wishes,
    Timeout,
    Stale(usize),
}

impl World {
    /// Everything that is ready, in any order.
    pub(super) fn turn(&mut self) {
        let mut ready = std::mem::take(&mut self.ready);
        self.collect(&mut ready);
        if self.machine.next_timeout().is_some_and(|at| at <= self.clock()) {
            ready.push(Ready::Timeout);
        }
        if !self.processes.is_empty() && self.source.chance(self.plan.rate(Fault::Stale) / 8) {
            ready.push(Ready::Stale(self.source.index(self.processes.len())));
        }
        self.source.shuffle(&mut ready);
        for one in ready.drain(..) {
            self.serve(one);
        }
        self.check_turn();
        self.collect(&mut ready);
        self.master_at = (!ready.is_empty()).then_some(self.now);
        ready.clear();
        self.ready = ready;
        let most = if self.source.chance(self.plan.rate(Fault::MasterLate)) {
            u64::try_from(self.plan.lateness().as_micros()).expect("short")
        } else {
            50
        };
        self.asleep_until = self.now + self.source.micros(0, most);
    }

    fn collect(&self, ready: &mut Vec<Ready>) {
        for pid in self.seats.iter().flatten().copied() {
            let process = &self.processes[pid];
            if process.ended_at.is_some_and(|at| at <= self.now) {
                ready.push(Ready::Exit(pid));
            } else if !process.sent.is_empty() {
                ready.push(Ready::Channel(pid));
            }
        }
        for (listener, socket) in self.sockets.iter().enumerate() {
            if let SocketState::Opening(at) = socket.state
                && at <= self.now
            {
                ready.push(Ready::Opened(listener));
            }
            if socket.is_readable() {
                ready.push(Ready::Listener(listener));
            }
            for (slot, mailbox) in socket.mailboxes.iter().enumerate() {
                if mailbox.watched && mailbox.is_roomy() {
                    ready.push(Ready::Room(listener, slot));
                }
            }
        }
        if !self.wishes_due.is_empty() {
            ready.push(Ready::Wishes);
        }
        if self.shutdowns_due > 0 {
            ready.push(Ready::Shutdown);
        }
    }

    fn serve(&mut self, ready: Ready) {
        match ready {
            Ready::Channel(pid) => {
                let most = self.source.between(1, 8);
                self.read_channel(pid, most);
            }
            Ready::Exit(pid) => self.reap(pid),
            Ready::Listener(listener) => self.accept(listener),
            Ready::Opened(listener) => {
                if let Some(answer) = self.answer_open(listener) {
                    self.feed(answer);
                }
            }
            Ready::Room(listener, slot) => {
                self.note("room in {} of slot {}", [listener as u64, slot as u64, 0]);
                self.sockets[listener].mailboxes[slot].watched = false;
                self.feed(Input::Room { mailbox: mailbox_id(listener, slot) });
            }
            Ready::Shutdown => {
                self.note("shutdown", [0; 3]);
                self.shutdowns_due -= 1;
                self.oracle.shutdown(self.clock());
                self.feed(Input::Shutdown);
            }
            Ready::Wishes => {
                for wish in std::mem::take(&mut self.wishes_due) {
                    self.order(wish);
                }
            }
            Ready::Timeout => self.timeout(),
            Ready::Stale(pid) => self.feed_stale(pid),
        }
    }

    fn timeout(&mut self) {
        let clock = self.clock();
        self.note("timeout", [0; 3]);
        // One deadline may lead to another that is due too, if its time is configured as 0.
        for _ in 0..3 {
            self.machine.handle_timeout(clock);
            self.drain();
            if self.machine.next_timeout().is_none_or(|at| at > clock) {
                return;
            }
        }
        self.violate("I11: a timeout that was handled is due again at once".into());
    }

    fn read_channel(&mut self, pid: usize, most: u64) {
        for _ in 0..most {
            let process = &mut self.processes[pid];
            let (worker, number) = (process.worker, pid as u64);
            match process.sent.pop_front() {
                None => return,
                Some(Sent::Message(message)) => {
                    self.note_message(pid, &message);
                    self.expect_message(pid, &message);
                    self.feed(Input::Message { worker, message });
                }
                Some(Sent::Garbage) => {
                    self.note("process {} sent garbage", [number, 0, 0]);
                    self.processes[pid].guilty = true;
                    self.unseat_reader(pid);
                    self.feed(Input::Violation { worker });
                }
                Some(Sent::End) => {
                    self.note("channel of process {} closed", [number, 0, 0]);
                    let clock = self.clock();
                    // One that finishes may close its channel first.
                    if !self.processes[pid].told_to_stop {
                        self.processes[pid].lost_at.get_or_insert(clock);
                        self.unseat_reader(pid);
                    }
                    self.feed(Input::ChannelClosed { worker });
                }
            }
        }
    }

    fn note_message(&mut self, pid: usize, message: &FromWorker) {
        let (text, number) = match message {
            FromWorker::Online { version } => {
                ("process {} is online, version {}", u64::from(*version))
            }
            FromWorker::Listen { request, .. } => {
                ("process {} wants to listen, request {}", u64::from(*request))
            }
            FromWorker::Disconnect => ("process {} wants to leave", 0),
            FromWorker::Passed { listener } => {
                ("process {} passes on at listener {}", u64::from(*listener))
            }
            FromWorker::Close { listener } => {
                ("process {} closes listener {}", u64::from(*listener))
            }
        };
        self.note(text, [pid as u64, number, 0]);
    }

    /// The master waits for a process that ended: first everything that it sent, then its end.
    fn reap(&mut self, pid: usize) {
        self.read_channel(pid, u64::MAX);
        let process = &mut self.processes[pid];
        let (worker, exit) = (process.worker, process.exit.expect("it ended"));
        self.seats[worker.slot] = None;
        self.unseat_reader(pid);
        self.note("process {} was waited for", [pid as u64, 0, 0]);
        self.feed(Input::Exited { worker, exit });
    }

    /// The machine may give this process nothing any more.
    pub(super) fn unseat_reader(&mut self, pid: usize) {
        let slot = self.processes[pid].worker.slot;
        self.oracle.detached(slot, None);
        for socket in &mut self.sockets {
            let mailbox = &mut socket.mailboxes[slot];
            mailbox.reader = mailbox.reader.filter(|reader| *reader != pid);
        }
    }

    fn accept(&mut self, listener: usize) {
        for _ in 0..self.source.between(1, 16) {
            let socket = &mut self.sockets[listener];
            if !socket.is_readable() || socket.is_dry() {
                break;
            }
            let number = ListenerId(u32::try_from(listener).expect("few"));
            if self.source.chance(self.plan.rate(Fault::Exhausted) / 4) {
                self.note("listener {} is exhausted", [listener as u64, 0, 0]);
                self.sockets[listener].busy_at = Some(self.clock());
                self.feed(Input::Exhausted { listener: number });
                break;
            }
            let socket = &mut self.sockets[listener];
            let Some(id) = socket.backlog.pop_front() else { break };
            socket.last = socket.last.map(|left| left - 1);
            if self.source.chance(self.plan.rate(Fault::Shed) / 4) {
                self.note("client {} shed", [id as u64, 0, 0]);
                self.shift(id, Place::Backlog, Place::Reset);
                self.oracle.shed += 1;
                self.feed(Input::Shed { listener: number, connections: 1 });
                continue;
            }
            self.note("client {} accepted by {}", [id as u64, listener as u64, 0]);
            self.shift(id, Place::Backlog, Place::Held);
            self.sockets[listener].held += 1;
            let key = id as u64;
            let connection = super::Token::new(id, key, &self.dropped);
            self.feed(Input::Accepted { listener: number, connection, key });
        }
        let socket = &mut self.sockets[listener];
        if socket.is_readable() && socket.is_dry() {
            socket.last = None;
            socket.was_dry = true;
            self.note("listener {} is dry", [listener as u64, 0, 0]);
            let listener = ListenerId(u32::try_from(listener).expect("few"));
            self.feed(Input::ListenerDry { listener });
        }
    }
}

fn mailbox_id(listener: usize, slot: usize) -> MailboxId {
    MailboxId { listener: ListenerId(u32::try_from(listener).expect("few")), slot }
}
