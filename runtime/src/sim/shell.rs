//! Executes the machine's outputs as the real shell does: one at a time, in order, and each answer
//! goes back before the next output comes out.

use super::Token;
use super::kernel::{Message, Place, Socket, SocketState};
use super::plan::Fault;
use super::process::{Process, Step};
use super::script::{KILLED, Script};
use super::world::{Happening, World};
use super::{EXIT_LATE_MAX, Time};
use crate::address::Address;
use crate::event::WorkerId;
use crate::exit::Exit;
use crate::listen::Dispatch;
use crate::machine::{Input, ListenerId, MailboxId, Output, Refusal, Signal, ToWorker};
use crate::sys::EADDRINUSE;

/// Outputs that one input may cause, before that is taken for an endless loop.
const OUTPUTS_MAX: usize = 10_000;

impl World {
    /// Executes outputs until there are none.
    pub(super) fn drain(&mut self) {
        let race = self.plan.rate(Fault::Race) / 4;
        for _ in 0..OUTPUTS_MAX {
            let Some(output) = self.machine.poll_output() else {
                return self.check_step();
            };
            if let Some(answer) = self.execute(output) {
                let clock = self.clock();
                self.machine.handle(clock, answer);
            }
            if self.is_violated() {
                return;
            }
            if self.source.chance(race) {
                let slot = self.source.index(self.seats.len());
                if let Some(pid) = self.seats[slot] {
                    self.process_step(pid, Step::Race);
                }
            }
        }
        self.violate(format!("I9: an input caused more than {OUTPUTS_MAX} outputs"));
    }

    fn execute(&mut self, output: Output<Token>) -> Option<Input<Token>> {
        if self.oracle.is_finished() {
            self.violate(format!("I5: an output after the end: {output:?}"));
        }
        match output {
            Output::Spawn { worker } => return Some(self.spawn(worker)),
            Output::Tell { worker, message } => self.tell(worker, message),
            Output::Signal { worker, signal } => self.signal(worker, signal),
            Output::OpenListener { listener, address, .. } => return self.open(listener, &address),
            Output::CloseListener { listener } => self.close_listener(index(listener)),
            Output::Steer { .. } | Output::Reopen { .. } => {
                self.violate(format!("I9: nothing is steered here: {output:?}"));
            }
            Output::Accept { listener, on } => {
                let listener = index(listener);
                self.note("accept {}: {}", [listener as u64, u64::from(on), 0]);
                if self.sockets[listener].state != SocketState::Open {
                    self.violate(format!("I9: accepting of {listener}, which is not open"));
                }
                self.sockets[listener].accepting = on;
            }
            Output::AcceptLast { listener } => {
                let listener = index(listener);
                self.note("accept the rest of {}", [listener as u64, 0, 0]);
                self.sockets[listener].last = Some(self.sockets[listener].backlog.len());
            }
            Output::Deliver { mailbox, connection, key } => {
                return Some(self.deliver(mailbox, connection, key));
            }
            Output::Probe { mailbox } => return self.probe(mailbox),
            Output::WatchRoom { mailbox } => {
                let (listener, slot) = place(mailbox);
                self.note("watch {} of slot {}", [listener as u64, slot as u64, 0]);
                let watched = &mut self.sockets[listener].mailboxes[slot].watched;
                if std::mem::replace(watched, true) {
                    self.violate(format!("I9: {mailbox:?} is watched twice"));
                }
            }
            Output::Count { mailbox } => {
                let (listener, slot) = place(mailbox);
                let waiting = self.sockets[listener].mailboxes[slot].queue.len();
                self.note("{} wait in {} of slot {}", [waiting, listener, slot].map(|n| n as u64));
                let waiting = u32::try_from(waiting).expect("bounded");
                return Some(Input::Counted { mailbox, waiting });
            }
            Output::TakeBack { mailbox } => return Some(self.take_back(mailbox)),
            Output::Close { connection } => self.close_connection(connection),
            Output::Event(event) => {
                let seen = self.oracle.event(self.now + self.leaps, &event);
                self.judge(seen);
                self.check_stall_event(&event);
                self.note_event(&event);
                self.events.push(event);
            }
            Output::Finished { failed } => self.finish(failed),
        }
        None
    }

    fn spawn(&mut self, worker: WorkerId) -> Input<Token> {
        let clock = self.clock();
        let seen = self.oracle.spawn(clock, worker);
        self.judge(seen);
        if self.seats[worker.slot].is_some() {
            self.violate(format!("I10: {worker} is spawned into a slot that is not empty"));
        }
        self.note("spawn {}.{}", [worker.slot as u64, u64::from(worker.generation), 0]);
        for (fault, transient) in [(Fault::SpawnShortage, true), (Fault::SpawnFailure, false)] {
            if self.source.chance(self.plan.rate(fault)) {
                self.note("spawn fails, transient: {}", [u64::from(transient), 0, 0]);
                self.oracle.spawn_failed(worker, transient);
                return Input::SpawnFailed { worker, error: "no process".into(), transient };
            }
        }
        let script = match &self.plan.cast[worker.slot] {
            Some(script) => script.clone(),
            None => Script::draw(&self.plan, &mut self.source),
        };
        let pid = self.processes.len();
        self.processes.push(Process::new(worker, script, clock));
        self.seats[worker.slot] = Some(pid);
        self.note("spawned process {}", [pid as u64, 0, 0]);
        Input::Spawned { worker, pid: u32::try_from(pid).expect("few") }
    }

    /// The process of a worker that the machine may still speak to.
    fn process_of(&mut self, worker: WorkerId) -> Option<usize> {
        let pid = self.seats[worker.slot].filter(|pid| self.processes[*pid].worker == worker);
        if pid.is_none() {
            self.violate(format!("I8: {worker} is addressed but was waited for, or never was"));
        }
        pid
    }

    fn tell(&mut self, worker: WorkerId, message: ToWorker) {
        let Some(pid) = self.process_of(worker) else { return };
        match &message {
            ToWorker::Hello { worker: named, .. } => {
                self.note("tell {}: hello", [pid as u64, 0, 0]);
                if *named != worker {
                    self.violate(format!("I10: {worker} is greeted as {named}"));
                }
            }
            ToWorker::Listening { request, result } => {
                self.note("tell {}: answer to request {}", [pid as u64, u64::from(*request), 0]);
                if !self.processes[pid].is_answered(*request) {
                    self.violate(format!("I7: {worker} has no open request {request}"));
                }
                if let Ok(joined) = result {
                    let clock = self.clock();
                    let listener = usize::try_from(joined.listener).expect("small");
                    self.sockets[listener].mailboxes[worker.slot].attach(clock, pid);
                }
            }
            ToWorker::Look { listener } => {
                self.violate(format!("I9: listener {listener} is not shared"));
            }
            ToWorker::Stop { take_rest } => {
                self.note("tell {}: stop, take the rest: {}", [pid as u64, (*take_rest).into(), 0]);
                if !take_rest {
                    self.unseat_reader(pid);
                }
                if std::mem::replace(&mut self.processes[pid].told_to_stop, true) {
                    self.violate(format!("I5: {worker} is told twice to stop"));
                }
            }
        }
        self.processes[pid].inbox.push_back(message);
        // Always as late, so that messages stay in order.
        self.schedule(Time::from_micros(20), Happening::Process(pid, Step::Hear));
    }

    fn signal(&mut self, worker: WorkerId, signal: Signal) {
        let Some(pid) = self.process_of(worker) else { return };
        self.note("signal to {}", [pid as u64, 0, 0]);
        let clock = self.clock();
        let after = self.source.micros(10, 500);
        let step = match signal {
            Signal::Kill => {
                self.check_kill(pid);
                self.processes[pid].killed_at = Some(clock);
                self.unseat_reader(pid);
                Step::Killed(KILLED)
            }
            Signal::Terminate => {
                self.check_terminate(pid);
                self.processes[pid].termed_at = Some(clock);
                Step::Term
            }
            Signal::Other(15) => Step::Term,
            Signal::Other(signal) => Step::Killed(Exit::Signal { signal, core_dumped: false }),
        };
        self.schedule(after, Happening::Process(pid, step));
    }

    fn open(&mut self, listener: ListenerId, address: &Address) -> Option<Input<Token>> {
        let number = index(listener);
        self.note("open listener {}", [number as u64, 0, 0]);
        if number != self.sockets.len() {
            self.violate(format!("I10: {listener:?} is not a new number"));
        }
        let slots = self.plan.slots();
        let socket = Socket::new(super::number_of(address), slots, self.plan.mailbox_bound);
        self.sockets.push(socket);
        let late = self.source.chance(self.plan.rate(Fault::OpenLate));
        let after = if late { self.source.micros(0, 100_000) } else { Time::ZERO };
        self.sockets[number].state = SocketState::Opening(self.now + after);
        if late {
            self.schedule(after, Happening::Ready);
            return None;
        }
        self.answer_open(number)
    }

    /// What became of the request to open a listener; nothing if it was closed meanwhile.
    pub(super) fn answer_open(&mut self, listener: usize) -> Option<Input<Token>> {
        let SocketState::Opening(_) = self.sockets[listener].state else { return None };
        let address = self.sockets[listener].address;
        let taken =
            self.sockets.iter().any(|s| s.address == address && s.state == SocketState::Open);
        let number = ListenerId(u32::try_from(listener).expect("few"));
        if taken || self.source.chance(self.plan.rate(Fault::OpenFailure)) {
            self.note("listener {} can't be opened", [listener as u64, 0, 0]);
            self.sockets[listener].state = SocketState::Closed;
            let error = "address in use".into();
            return Some(Input::ListenerFailed { listener: number, errno: EADDRINUSE, error });
        }
        self.note("listener {} is open", [listener as u64, 0, 0]);
        self.sockets[listener].state = SocketState::Open;
        let address = super::address(address);
        let dispatch = Dispatch::Handoff;
        Some(Input::ListenerOpened { listener: number, address, dispatch, reason: None })
    }

    fn close_listener(&mut self, listener: usize) {
        self.note("close listener {}", [listener as u64, 0, 0]);
        self.check_close_listener(listener);
        self.sockets[listener].state = SocketState::Closed;
        self.sockets[listener].accepting = false;
        for id in std::mem::take(&mut self.sockets[listener].backlog) {
            self.shift(id, Place::Backlog, Place::Reset);
        }
    }

    fn deliver(&mut self, mailbox: MailboxId, connection: Token, key: u64) -> Input<Token> {
        let (listener, slot) = place(mailbox);
        let (id, own_key) = connection.into_parts();
        self.check_delivery(listener, slot, id, key == own_key);
        let clock = self.clock();
        let back = Token::new(id, key, &self.dropped);
        let socket = &mut self.sockets[listener];
        if self.busy {
            socket.busy_at = Some(clock);
            self.note("{}: no room in the kernel", [id as u64, 0, 0]);
            return Input::Refused { mailbox, connection: back, key, refusal: Refusal::Busy };
        }
        if !socket.mailboxes[slot].push(clock, Message::Connection(id)) {
            self.note("{}: {} of slot {} is full", [id, listener, slot].map(|n| n as u64));
            return Input::Refused { mailbox, connection: back, key, refusal: Refusal::Full };
        }
        let _ = back.into_parts();
        self.sockets[listener].held -= 1;
        self.note("{} goes to {} of slot {}", [id, listener, slot].map(|n| n as u64));
        self.shift(id, Place::Held, Place::Mailbox(slot));
        self.kick(slot);
        Input::Delivered { mailbox }
    }

    fn probe(&mut self, mailbox: MailboxId) -> Option<Input<Token>> {
        let (listener, slot) = place(mailbox);
        self.note("probe {} of slot {}", [listener as u64, slot as u64, 0]);
        let clock = self.clock();
        let fails = self.source.chance(self.plan.rate(Fault::ProbeFailure));
        let queue = &mut self.sockets[listener].mailboxes[slot];
        queue.probe_failed = fails || !queue.push(clock, Message::Probe);
        if queue.probe_failed {
            return None;
        }
        self.kick(slot);
        Some(Input::Delivered { mailbox })
    }

    fn take_back(&mut self, mailbox: MailboxId) -> Input<Token> {
        let (listener, slot) = place(mailbox);
        let fails = self.source.chance(self.plan.rate(Fault::TakeBackFailure));
        let socket = &mut self.sockets[listener];
        if fails && socket.mailboxes[slot].has_connections() {
            self.note("none can be taken out of {} of slot {}", [listener as u64, slot as u64, 0]);
            self.sockets[listener].busy_at = Some(self.clock());
            self.left_behind |= self.is_ending();
            return Input::TakeBackFailed { mailbox };
        }
        let clock = self.clock();
        while let Some(message) = self.sockets[listener].mailboxes[slot].take_back(clock) {
            if let Message::Connection(id) = message {
                self.note("{} taken out of {} of slot {}", [id, listener, slot].map(|n| n as u64));
                self.shift(id, Place::Mailbox(slot), Place::Held);
                self.sockets[listener].held += 1;
                self.oracle.taken_back += u64::from(!self.is_ending());
                let key = id as u64;
                let connection = Token::new(id, key, &self.dropped);
                return Input::TakenBack { mailbox, connection, key };
            }
        }
        self.note("{} of slot {} is empty", [listener as u64, slot as u64, 0]);
        Input::Emptied { mailbox }
    }

    fn close_connection(&mut self, connection: Token) {
        let (id, _) = connection.into_parts();
        self.note("close {}", [id as u64, 0, 0]);
        self.check_close(id);
        self.shift(id, Place::Held, Place::Abandoned);
        self.sockets[self.ledger.listener(id)].held -= 1;
    }

    fn finish(&mut self, failed: bool) {
        self.note("finished, failed: {}", [u64::from(failed), 0, 0]);
        self.check_finish(failed);
        for listener in 0..self.sockets.len() {
            for slot in 0..self.plan.slots() {
                for message in std::mem::take(&mut self.sockets[listener].mailboxes[slot].queue) {
                    if let Message::Connection(id) = message {
                        self.shift(id, Place::Mailbox(slot), Place::Abandoned);
                    }
                }
            }
        }
        let abandoned = self.ledger.count(Place::Abandoned);
        let seen = self.oracle.finished(abandoned, failed, self.left_behind);
        self.judge(seen);
    }

    /// Whether there are no workers, and there will be none.
    fn is_ending(&self) -> bool {
        let stopped = !self.oracle.shutdowns.is_empty() || self.oracle.all_failed();
        stopped && self.seats.iter().all(Option::is_none)
    }

    /// Moves a connection from where it must be.
    pub(super) fn shift(&mut self, id: usize, from: Place, to: Place) {
        if let Err(place) = self.ledger.shift(id, from, to) {
            self.violate(format!("I1: connection {id} is {place:?} and should be {from:?}"));
        }
    }

    pub(super) fn judge(&mut self, seen: Result<(), String>) {
        if let Err(text) = seen {
            self.violate(text);
        }
    }

    /// A process ended; the master learns of it now or later.
    pub(super) fn exit_delay(&mut self) -> Time {
        let late = self.source.chance(self.plan.rate(Fault::ExitLate));
        let most = if late { EXIT_LATE_MAX } else { Time::from_micros(100) };
        self.source.micros(0, u64::try_from(most.as_micros()).expect("short"))
    }
}

fn index(listener: ListenerId) -> usize {
    usize::try_from(listener.0).expect("small")
}

fn place(mailbox: MailboxId) -> (usize, usize) {
    (index(mailbox.listener), mailbox.slot)
}
