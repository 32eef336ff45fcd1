//! The invariants, checked against the world as it is.

use std::rc::Rc;

use super::kernel::{Mailbox, Place, Socket, SocketState};
use super::world::World;
use super::{EXIT_LATE_MAX, MASTER_LATE_MAX, Time};
use crate::event::Event;
use crate::exit::Exit;
use crate::listen::ListenOptions;
use crate::machine::{FromWorker, Input};

/// How long the machine may wait after the kernel had no room for a descriptor.
const BUSY_REST_MAX: Time = Time::from_millis(25);

/// How many connections the machine holds for a listener at most.
const PENDING_MAX: usize = 2;

impl World {
    /// After every input.
    pub(super) fn check_step(&mut self) {
        let dropped = self.dropped.get();
        if dropped > 0 {
            self.violate(format!("I1: {dropped} connections were dropped without a word"));
        }
        // Every token holds a reference to the counter.
        let (inside, held) = (Rc::strong_count(&self.dropped) - 1, self.ledger.count(Place::Held));
        if inside != held {
            self.violate(format!("I1: the machine holds {inside} connections of {held}"));
        }
        for listener in 0..self.sockets.len() {
            let (held, accepting) = (self.sockets[listener].held, self.sockets[listener].accepting);
            // One that was accepted and one that was taken back.
            if held > PENDING_MAX {
                self.violate(format!("I9: {held} connections pending at listener {listener}"));
            }
            if held > 0 && accepting {
                self.violate(format!("I9: listener {listener} accepts while {held} are pending"));
            }
        }
    }

    /// When everything that was ready was served.
    pub(super) fn check_turn(&mut self) {
        for listener in 0..self.sockets.len() {
            self.check_flow(listener);
            self.check_stalls(listener);
        }
        if self.oracle.is_finished() {
            return;
        }
        self.check_deadlines();
        self.check_end();
        let ours = self.seats.iter().flatten().copied();
        let ours = ours.map(|pid| (self.processes[pid].worker, pid));
        let same = self
            .machine
            .workers()
            .map(|info| (info.id, usize::try_from(info.pid).expect("small")))
            .eq(ours);
        if !same {
            self.violate("I10: the machine has other workers than there are".into());
        }
    }

    /// Whatever can go to a slot has gone there, and the listener accepts if any can take.
    fn check_flow(&mut self, listener: usize) {
        let clock = self.clock();
        let socket = &self.sockets[listener];
        let is_busy = socket.busy_at.is_some_and(|at| clock <= at + BUSY_REST_MAX);
        let able = |slot: usize| self.is_able(listener, slot);
        let Some(taker) = (0..self.plan.slots()).find(|slot| able(*slot)) else {
            let reads = |m: &Mailbox| m.reader.is_some() && !m.watched;
            if socket.accepting && !socket.mailboxes.iter().any(reads) {
                self.violate(format!("I9: listener {listener} accepts and nobody can take"));
            }
            return;
        };
        if is_busy || self.oracle.is_finished() {
            return;
        }
        let held = socket.held;
        if held > 0 {
            self.violate(format!("I11: {held} are pending, and slot {taker} can take"));
        } else if socket.state == SocketState::Open && !socket.accepting {
            self.violate(format!("I11: listener {listener} is off, and slot {taker} can take"));
        }
        for slot in 0..self.plan.slots() {
            let mailbox = &self.sockets[listener].mailboxes[slot];
            let forsaken = mailbox.reader.is_none() || self.is_stalled(listener, slot);
            let other = (0..self.plan.slots()).any(|o| o != slot && self.is_able(listener, o));
            if forsaken && other && mailbox.has_connections() {
                self.violate(format!("I13: {listener} of slot {slot} waits for nobody"));
            }
        }
    }

    /// Whether a worker reads this mailbox that is expected to go on.
    fn is_read(&self, listener: usize, slot: usize) -> bool {
        let reader = self.sockets[listener].mailboxes[slot].reader;
        reader.is_some_and(|pid| !self.processes[pid].is_doomed())
    }

    /// Whether the machine has no reason not to use this mailbox.
    fn is_able(&self, listener: usize, slot: usize) -> bool {
        let watched = self.sockets[listener].mailboxes[slot].watched;
        self.is_read(listener, slot) && !watched && !self.is_stalled(listener, slot)
    }

    fn is_stalled(&self, listener: usize, slot: usize) -> bool {
        let stalled = &self.oracle.slot(slot).stalled;
        let address = self.sockets[listener].address;
        stalled.iter().any(|other| super::number_of(other) == address)
    }

    /// Nothing waits for long for a worker that takes nothing while another has nothing to do.
    fn check_stalls(&mut self, listener: usize) {
        let clock = self.clock();
        let stall_timeout = self.plan.config.stall_timeout;
        let slack = 5 * self.slack;
        for slot in 0..self.plan.slots() {
            let mailbox = &self.sockets[listener].mailboxes[slot];
            let since = mailbox.moved_at;
            let waits = mailbox.reader.is_some() && mailbox.has_connections();
            let recent = [self.sockets[listener].busy_at, self.leapt_at];
            let disturbed = recent.iter().flatten().any(|at| *at >= since);
            if !waits || disturbed || clock - since <= stall_timeout + slack {
                continue;
            }
            // It was idle for all that time.
            let idle = |m: &Mailbox| {
                let doomed = m.reader.is_none_or(|pid| self.processes[pid].is_doomed());
                !doomed && m.queue.is_empty() && m.moved_at <= since && m.read_since <= since
            };
            if self.sockets[listener].mailboxes.iter().any(idle) {
                self.violate(format!("I13: slot {slot} is stuck since {since:?}, another is idle"));
            }
        }
    }

    /// A worker that does not do what it must in time is killed.
    fn check_deadlines(&mut self) {
        let clock = self.clock();
        let slack = self.slack;
        let config = &self.plan.config;
        let mut overdue = None;
        for pid in self.seats.iter().flatten().copied() {
            let process = &self.processes[pid];
            let online_by = process.spawned_at + config.start_timeout + slack;
            let gone_by = process.lost_at.map(|at| at + config.kill_timeout + slack);
            let mute = !process.was_online && clock > online_by && !process.is_doomed();
            let lost = gone_by.is_some_and(|at| clock > at) && !process.told_to_stop;
            let killed = process.killed_at.is_some();
            let slow = process.asked_by.is_some_and(|at| clock > at + slack);
            if slow && !process.is_doomed() {
                overdue = Some((process.worker, false, false));
            }
            if !killed && (mute || lost || process.guilty) {
                overdue = Some((process.worker, mute, lost));
            }
        }
        if let Some((worker, mute, lost)) = overdue {
            self.violate(format!("I11: {worker} was not killed; mute: {mute}, lost: {lost}"));
        }
    }

    /// After a shutdown, nothing is waited for that will not come.
    fn check_stopping(&mut self) {
        let unread = |socket: &Socket| {
            let open = socket.state == SocketState::Open;
            open && socket.mailboxes.iter().all(|mailbox| mailbox.reader.is_none())
        };
        if let Some(listener) = self.sockets.iter().position(unread) {
            self.violate(format!("I5: listener {listener} is kept open, and nobody reads it"));
        }
        let unasked = |pid: &usize| {
            let process = &self.processes[*pid];
            process.was_online && !process.told_to_stop && !process.is_doomed()
        };
        let closed = self.sockets.iter().all(|socket| socket.state == SocketState::Closed);
        let unasked = self.seats.iter().flatten().copied().find(unasked);
        if let Some(pid) = unasked.filter(|_| closed) {
            self.violate(format!("I5: all is accepted, and process {pid} was not told to stop"));
        }
    }

    /// The end comes in time.
    fn check_end(&mut self) {
        let config = &self.plan.config;
        let (drain, kill) = (config.drain_timeout, config.kill_timeout);
        let limit = match self.oracle.shutdowns[..] {
            [] => return,
            [first] => first + drain + kill,
            [first, second] => (second + kill).min(first + drain + kill),
            [first, second, third, ..] => third.min(second + kill).min(first + drain + kill),
        };
        let limit = limit.max(self.leapt_at.map_or(Time::ZERO, |at| at + kill));
        let slack = 3 * self.slack + EXIT_LATE_MAX + MASTER_LATE_MAX;
        if self.clock() > limit + slack {
            self.violate(format!("I5: the cluster should have ended by {limit:?}"));
        }
        self.check_stopping();
    }

    /// What the world concludes from a message before the machine sees it.
    pub(super) fn expect_message(&mut self, pid: usize, message: &FromWorker) {
        let process = &mut self.processes[pid];
        // What a worker says on its way out no longer matters, but for what it closes.
        let early = !process.was_online && !process.is_doomed();
        match message {
            FromWorker::Online { version } => {
                let right = process.version == *version;
                process.guilty |= !right;
                process.was_online |= right && early;
            }
            FromWorker::Listen { .. } | FromWorker::Passed { .. } => process.guilty |= early,
            FromWorker::Disconnect => {
                process.guilty |= early;
                if !process.is_doomed() && !process.told_to_stop {
                    let by = self.now + self.leaps + self.plan.config.drain_timeout;
                    process.asked_by = Some(by);
                    self.oracle.leaves(process.worker.slot);
                }
            }
            FromWorker::Close { listener } => {
                process.guilty |= early;
                let slot = process.worker.slot;
                let listener = usize::try_from(*listener).expect("small");
                if let Some(socket) = self.sockets.get_mut(listener)
                    && socket.mailboxes[slot].reader == Some(pid)
                {
                    socket.mailboxes[slot].reader = None;
                    self.oracle.detached(slot, Some(&super::address(socket.address)));
                }
            }
        }
    }

    /// A worker is sent SIGTERM only for a reason, and not before its time.
    pub(super) fn check_terminate(&mut self, pid: usize) {
        let clock = self.clock();
        let process = &self.processes[pid];
        let again = process.termed_at.is_some() || process.killed_at.is_some();
        let shutdowns = &self.oracle.shutdowns;
        let drained =
            shutdowns.first().is_some_and(|at| clock >= *at + self.plan.config.drain_timeout);
        let asked = process.asked_by.is_some_and(|at| clock >= at);
        let idle = !process.was_online && (process.asked_by.is_some() || !shutdowns.is_empty());
        let reason = drained || shutdowns.len() > 1 || asked || idle;
        if again || !reason {
            let worker = process.worker;
            self.violate(format!("I13: SIGTERM to {worker}, again: {again}, reason: {reason}"));
        }
    }

    /// The same for SIGKILL.
    pub(super) fn check_kill(&mut self, pid: usize) {
        let clock = self.clock();
        let config = &self.plan.config;
        let process = &self.processes[pid];
        let again = process.killed_at.is_some();
        let mute = !process.was_online && clock >= process.spawned_at + config.start_timeout;
        let lost_at = [process.lost_at, process.termed_at].into_iter().flatten().min();
        let hurried = self.oracle.shutdowns.len() > 1;
        let lost = lost_at.is_some_and(|at| clock >= at + config.kill_timeout || hurried);
        let reason = process.guilty || mute || lost || self.is_past_drain(lost_at);
        if again || !reason {
            let worker = process.worker;
            self.violate(format!("I13: SIGKILL to {worker}, again: {again}, reason: {reason}"));
        }
    }

    /// At the end of the drain, a worker whose channel was lost before is not waited for any
    /// longer.
    fn is_past_drain(&self, lost_at: Option<Time>) -> bool {
        let drained = self.oracle.shutdowns.first().map(|at| *at + self.plan.config.drain_timeout);
        lost_at.is_some() && drained.is_some_and(|at| self.clock() >= at)
    }

    /// The machine says that a worker takes nothing, or again.
    pub(super) fn check_stall_event(&mut self, event: &Event) {
        let (worker, address, waiting) = match event {
            Event::Stalled { worker, address, waiting } => (worker, address, Some(*waiting)),
            Event::Resumed { worker, address } => (worker, address, None),
            _ => return,
        };
        let clock = self.clock();
        let least = self.plan.config.stall_timeout / 4 * 3;
        let address = super::number_of(address);
        let listener = self.sockets.iter().position(|socket| {
            socket.address == address && socket.mailboxes[worker.slot].reader.is_some()
        });
        let Some(listener) = listener else {
            return self.violate(format!("I13: {worker} has no listener there: {event:?}"));
        };
        let mailbox = &mut self.sockets[listener].mailboxes[worker.slot];
        if waiting.is_some() {
            mailbox.stalled_at = Some(clock);
            // At this very moment it may: the machine has counted just before.
            if mailbox.moved_at != clock && clock - mailbox.moved_at < least {
                self.violate(format!("I13: {worker} is stalled, and took something just now"));
            }
        } else {
            let stalled_at = mailbox.stalled_at.take();
            if mailbox.taken_at < stalled_at && !mailbox.probe_failed {
                self.violate(format!("I13: {worker} resumed, and took nothing"));
            }
        }
    }

    /// The machine puts a connection into a mailbox.
    pub(super) fn check_delivery(&mut self, listener: usize, slot: usize, id: usize, key: bool) {
        let mailbox = &self.sockets[listener].mailboxes[slot];
        let (reader, watched) = (mailbox.reader, mailbox.watched);
        if !key {
            self.violate(format!("I1: connection {id} came back with another key"));
        }
        if reader.is_none() {
            self.violate(format!("I9: {id} is delivered to slot {slot}, and nobody reads there"));
        }
        if watched {
            self.violate(format!("I9: {id} is delivered to slot {slot}, which is full"));
        }
        if self.is_stalled(listener, slot) {
            self.violate(format!("I13: {id} is delivered to slot {slot}, which is stalled"));
        }
        if self.ledger.places()[id] != Place::Held {
            self.violate(format!("I2: {id} is delivered and is {:?}", self.ledger.places()[id]));
        }
    }

    /// The machine closes a connection: only at the end.
    pub(super) fn check_close(&mut self, id: usize) {
        if self.seats.iter().any(Option::is_some) {
            self.violate(format!("I13: client {id} is closed, and there are workers"));
        }
    }

    /// The machine closes a listener: if there is time, and somebody to serve it, after its backlog
    /// was accepted.
    pub(super) fn check_close_listener(&mut self, listener: usize) {
        let socket = &self.sockets[listener];
        if socket.state != SocketState::Open {
            return self.violate(format!("I3: listener {listener} is closed but was not open"));
        }
        let drained = |at: &Time| self.clock() >= *at + self.plan.config.drain_timeout;
        let in_time = match &self.oracle.shutdowns[..] {
            [first] => !drained(first),
            _ => false,
        };
        let unserved = !socket.was_dry && !socket.backlog.is_empty();
        if in_time && unserved && (0..self.plan.slots()).any(|slot| self.is_read(listener, slot)) {
            self.violate(format!("I5: listener {listener} closes, and its backlog is not empty"));
        }
    }

    /// The machine says that everything is over.
    pub(super) fn check_finish(&mut self, failed: bool) {
        let asked = !self.oracle.shutdowns.is_empty();
        let given_up = self.oracle.all_failed();
        if self.seats.iter().any(Option::is_some) {
            self.violate("I5: finished, and there are workers".into());
        }
        if self.sockets.iter().any(|socket| socket.state == SocketState::Open) {
            self.violate("I3: finished, and a listener is open".into());
        }
        if self.machine.next_timeout().is_some() {
            self.violate("I11: finished, and a timeout is due".into());
        }
        if failed == asked || (failed && !given_up) {
            self.violate(format!("I5: finished, failed: {failed}, given up: {given_up}"));
        }
        let held = self.ledger.count(Place::Held);
        if held > 0 {
            self.violate(format!("I3: finished, and the machine holds {held} connections"));
        }
    }

    /// Something of a worker that was waited for comes late.
    pub(super) fn feed_stale(&mut self, pid: usize) {
        let worker = self.processes[pid].worker;
        if self.seats[worker.slot] == Some(pid) {
            return;
        }
        self.note("process {} comes late", [pid as u64, 0, 0]);
        let version = self.processes[pid].version;
        let request = 0;
        let message = |message| Input::Message { worker, message };
        let input = match self.source.below(8) {
            0 => Input::Exited { worker, exit: Exit::Code(0) },
            1 => Input::ChannelClosed { worker },
            2 => Input::Violation { worker },
            3 => message(FromWorker::Online { version }),
            4 => {
                let address = super::address(0);
                let options = ListenOptions::new();
                message(FromWorker::Listen { request, index: 0, options, address })
            }
            5 => message(FromWorker::Close { listener: 0 }),
            6 => message(FromWorker::Disconnect),
            _ => Input::SpawnFailed { worker, error: "late".into(), transient: false },
        };
        let (before, clock) = (self.machine.next_timeout(), self.clock());
        self.machine.handle(clock, input);
        if self.machine.next_timeout() != before {
            self.violate(format!("I10: the late {worker} changed a timeout"));
        }
        if let Some(output) = self.machine.poll_output() {
            self.violate(format!("I10: the late {worker} caused {output:?}"));
        }
    }

    pub(super) fn note_event(&mut self, event: &Event) {
        let id =
            |worker: &crate::event::WorkerId| [worker.slot as u64, u64::from(worker.generation), 0];
        let (text, numbers) = match event {
            Event::Spawned { worker, .. } => ("event: {}.{} spawned", id(worker)),
            Event::SpawnFailed { worker, .. } => ("event: {}.{} not spawned", id(worker)),
            Event::Online { worker } => ("event: {}.{} online", id(worker)),
            Event::Listening { worker, .. } => ("event: {}.{} listening", id(worker)),
            Event::ListenFailed { worker, .. } => ("event: {}.{} can't listen", id(worker)),
            Event::Killed { worker, .. } => ("event: {}.{} killed", id(worker)),
            Event::Disconnected { worker } => ("event: {}.{} disconnected", id(worker)),
            Event::Exited { worker, .. } => ("event: {}.{} exited", id(worker)),
            Event::Scaled { from, to } => {
                ("event: scaled from {} to {}", [*from as u64, *to as u64, 0])
            }
            Event::Restarting { slot, delay, failures } => {
                let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
                let numbers = [*slot as u64, micros, u64::from(*failures)];
                ("event: slot {} restarts in {} us, {} failures", numbers)
            }
            Event::SlotFailed { slot, .. } => ("event: slot {} given up", [*slot as u64, 0, 0]),
            Event::Stalled { worker, .. } => ("event: {}.{} stalled", id(worker)),
            Event::Resumed { worker, .. } => ("event: {}.{} resumed", id(worker)),
            Event::TakenBack { slot, connections } => {
                ("event: slot {}: {} taken back", [*slot as u64, u64::from(*connections), 0])
            }
            Event::Shed { connections, .. } => ("event: {} shed", [*connections, 0, 0]),
            Event::Opened { .. } => ("event: a listener opened", [0; 3]),
            Event::Stopping => ("event: stopping", [0; 3]),
            Event::Stopped { abandoned } => ("event: stopped, {} abandoned", [*abandoned, 0, 0]),
            Event::Lost { .. } => ("event: events lost", [0; 3]),
        };
        self.note(text, numbers);
    }
}
