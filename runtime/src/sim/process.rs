//! The processes of workers: what each does when, by its script.

use std::collections::VecDeque;

use super::kernel::{Message, Place};
use super::plan::Fault;
use super::script::{Act, CRASH, KILLED, Script};
use super::world::{Happening, World};
use super::{MASTER_LATE_MAX, Time, address};
use crate::event::WorkerId;
use crate::exit::Exit;
use crate::listen::ListenOptions;
use crate::machine::{FromWorker, ToWorker};
use crate::sys::ENOTCONN;

/// A process. It is never removed, since process ids are indices.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) worker: WorkerId,
    pub(super) script: Script,
    state: State,
    pub(super) exit: Option<Exit>,
    /// When the master may learn of its end.
    pub(super) ended_at: Option<Time>,
    /// What the master told it and it has not heard yet.
    pub(super) inbox: VecDeque<ToWorker>,
    /// What it sent and the master has not read yet.
    pub(super) sent: VecDeque<Sent>,
    hung_up: bool,
    pub(super) version: u16,
    /// Whether it said, as its script wants it, that it is online.
    is_up: bool,
    /// Its requests to listen: by number, the address and whether the answer was sent, and heard.
    requests: Vec<Request>,
    /// The listeners whose mailboxes it reads.
    reads: Vec<usize>,
    stopping: bool,
    ticking: bool,
    serving: Vec<usize>,
    taken: u32,
    /// What it was about to do when it was stopped.
    deferred: Vec<Step>,

    // What the master knows and did, by its own clock.
    pub(super) spawned_at: Time,
    pub(super) was_online: bool,
    /// Whether the master read what no worker may send.
    pub(super) guilty: bool,
    /// When its channel closed, if it should have stayed open.
    pub(super) lost_at: Option<Time>,
    pub(super) told_to_stop: bool,
    /// By when it shall have finished, if it was asked to, or has asked itself.
    pub(super) asked_by: Option<Time>,
    pub(super) termed_at: Option<Time>,
    pub(super) killed_at: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Frozen,
    Dead,
}

#[derive(Debug)]
pub(super) enum Sent {
    Message(FromWorker),
    Garbage,
    End,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    address: usize,
    answered: bool,
    heard: bool,
}

/// Something that a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It hears what the master told it.
    Hear,
    /// It says that it is online.
    Online,
    /// It asks to listen on an address.
    Listen(usize),
    /// It takes a connection.
    Take,
    /// It takes one while the master is busy with something.
    Race,
    /// It has served a connection.
    Served(usize),
    /// It does something out of turn.
    Act(Act),
    /// It goes on after SIGSTOP.
    Thaw,
    /// SIGTERM arrives.
    Term,
    /// Something ends it, whatever it does.
    Killed(Exit),
}

impl Process {
    pub(super) fn new(worker: WorkerId, script: Script, clock: Time) -> Process {
        Process {
            worker,
            script,
            state: State::Running,
            exit: None,
            ended_at: None,
            inbox: VecDeque::new(),
            sent: VecDeque::new(),
            hung_up: false,
            version: 0,
            is_up: false,
            requests: Vec::new(),
            reads: Vec::new(),
            stopping: false,
            ticking: false,
            serving: Vec::new(),
            taken: 0,
            deferred: Vec::new(),
            spawned_at: clock,
            was_online: false,
            guilty: false,
            lost_at: None,
            told_to_stop: false,
            asked_by: None,
            termed_at: None,
            killed_at: None,
        }
    }

    /// Notes that a request is answered; `false` if there is no such request to answer.
    pub(super) fn is_answered(&mut self, request: u32) -> bool {
        let request = self.requests.get_mut(usize::try_from(request).expect("small"));
        request.is_some_and(|r| !std::mem::replace(&mut r.answered, true))
    }

    pub(super) fn has_open_requests(&self) -> bool {
        self.requests.iter().any(|request| !request.answered)
    }

    /// Whether the master has, or may have, given it up.
    pub(super) fn is_doomed(&self) -> bool {
        let signalled = self.termed_at.is_some() || self.killed_at.is_some();
        self.guilty || self.lost_at.is_some() || signalled
    }

    fn send(&mut self, sent: Sent) {
        if !self.hung_up {
            self.sent.push_back(sent);
        }
    }
}

impl World {
    pub(super) fn process_step(&mut self, pid: usize, step: Step) {
        let process = &mut self.processes[pid];
        match (process.state, step) {
            (State::Dead, _) | (State::Frozen, Step::Race) => return,
            (State::Running | State::Frozen, Step::Killed(exit)) => return self.die(pid, exit),
            (State::Frozen, Step::Thaw) => {
                process.state = State::Running;
                self.note("process {} goes on", [pid as u64, 0, 0]);
                for step in std::mem::take(&mut self.processes[pid].deferred) {
                    self.schedule(Time::ZERO, Happening::Process(pid, step));
                }
                return;
            }
            (State::Frozen, _) => return process.deferred.push(step),
            (State::Running, _) => {}
        }
        match step {
            Step::Hear => self.hear(pid),
            Step::Online => {
                process.is_up = true;
                let version = process.version + u16::from(process.script.wrong_version);
                process.send(Sent::Message(FromWorker::Online { version }));
                for address in 0..self.plan.addresses.min(process.script.addresses) {
                    let after = self.source.micros(0, 1000);
                    self.schedule(after, Happening::Process(pid, Step::Listen(address)));
                }
                self.wake_master();
            }
            Step::Listen(address) => self.listen(pid, address),
            Step::Take => {
                process.ticking = false;
                self.take(pid);
                self.go_on(pid);
            }
            Step::Race => self.take(pid),
            Step::Served(id) => {
                process.serving.retain(|other| *other != id);
                let slot = process.worker.slot;
                self.note("client {} served by process {}", [id as u64, pid as u64, 0]);
                self.shift(id, Place::Taken(pid), Place::Served(slot));
                self.go_on(pid);
            }
            Step::Act(act) => {
                if !self.calm {
                    self.act(pid, act);
                }
            }
            Step::Term if process.script.ignores_term => {}
            Step::Term => self.die(pid, Exit::Signal { signal: 15, core_dumped: false }),
            Step::Thaw | Step::Killed(_) => {}
        }
    }

    /// The worker of a slot may have something to take.
    pub(super) fn kick(&mut self, slot: usize) {
        if let Some(pid) = self.seats[slot] {
            self.go_on(pid);
        }
    }

    fn hear(&mut self, pid: usize) {
        let process = &mut self.processes[pid];
        let Some(message) = process.inbox.pop_front() else { return };
        match message {
            ToWorker::Hello { version, .. } => {
                process.version = version;
                let online = process.script.online_after.map(|after| (after, Step::Online));
                let acts: Vec<_> = process.script.acts.clone();
                let acts = acts.into_iter().map(|(after, act)| (after, Step::Act(act)));
                for (after, step) in online.into_iter().chain(acts) {
                    self.schedule(after, Happening::Process(pid, step));
                }
            }
            ToWorker::Listening { request, result } => {
                let request = &mut process.requests[usize::try_from(request).expect("small")];
                request.heard = true;
                let address = request.address;
                match result {
                    Ok(joined) => {
                        process.reads.push(usize::try_from(joined.listener).expect("small"));
                        self.go_on(pid);
                    }
                    Err(failure) if failure.errno == ENOTCONN => {}
                    Err(_) => {
                        let after = self.source.micros(10_000, 100_000);
                        self.schedule(after, Happening::Process(pid, Step::Listen(address)));
                    }
                }
            }
            // The workers of this world share no sockets.
            ToWorker::Look { .. } => {}
            ToWorker::Stop { take_rest } => {
                if process.script.ignores_stop {
                    return;
                }
                process.stopping = true;
                if !take_rest {
                    process.reads.clear();
                }
                self.go_on(pid);
            }
        }
    }

    fn listen(&mut self, pid: usize, address: usize) {
        let process = &mut self.processes[pid];
        if self.calm {
            // It may have closed a listener before it knew that it has it.
            let slot = process.worker.slot;
            process.reads.retain(|l| self.sockets[*l].mailboxes[slot].reader == Some(pid));
        }
        let reads = process.reads.iter().any(|l| self.sockets[*l].address == address);
        let asked = process.requests.iter().any(|r| r.address == address && !r.heard);
        if !process.stopping && !reads && !asked {
            self.ask(pid, address);
        }
    }

    fn ask(&mut self, pid: usize, number: usize) {
        let process = &mut self.processes[pid];
        let request = u32::try_from(process.requests.len()).expect("few");
        process.requests.push(Request { address: number, answered: false, heard: false });
        let message = FromWorker::Listen {
            request,
            index: 0,
            options: ListenOptions::new(),
            address: address(number),
        };
        process.send(Sent::Message(message));
        self.wake_master();
    }

    fn take(&mut self, pid: usize) {
        let clock = self.clock();
        let process = &mut self.processes[pid];
        let slot = process.worker.slot;
        let first = usize::try_from(process.taken).expect("small");
        let listeners = process.reads.len();
        let waiting = (0..listeners)
            .map(|n| process.reads[(first + n) % listeners])
            .find(|listener| !self.sockets[*listener].mailboxes[slot].queue.is_empty());
        let Some(listener) = waiting else { return };
        let mailbox = &mut self.sockets[listener].mailboxes[slot];
        match mailbox.pop(clock) {
            Some(Message::Connection(id)) => {
                process.taken += 1;
                process.serving.push(id);
                let crashes = process.script.crash_after_taking == Some(process.taken);
                let after = process.script.serve_for;
                self.note("client {} taken by process {}", [id as u64, pid as u64, 0]);
                self.shift(id, Place::Mailbox(slot), Place::Taken(pid));
                self.schedule(after, Happening::Process(pid, Step::Served(id)));
                if crashes && !self.calm {
                    self.die(pid, CRASH);
                }
            }
            Some(Message::Probe) => self.note("probe taken by process {}", [pid as u64, 0, 0]),
            None => {}
        }
        if self.sockets[listener].mailboxes[slot].watched {
            self.wake_master();
        }
    }

    /// Takes the next connection in time, or ends when there is nothing left to do.
    fn go_on(&mut self, pid: usize) {
        let process = &mut self.processes[pid];
        if process.state == State::Dead || process.ticking {
            return;
        }
        let slot = process.worker.slot;
        let waits = |l: &usize| !self.sockets[*l].mailboxes[slot].queue.is_empty();
        if process.reads.iter().any(waits) {
            process.ticking = true;
            let after = process.script.take_every;
            self.schedule(after, Happening::Process(pid, Step::Take));
        } else if process.stopping && process.state == State::Running {
            if !process.script.takes_to_the_end {
                process.reads.clear();
            }
            if process.serving.is_empty() {
                self.die(pid, Exit::Code(0));
            }
        }
    }

    fn act(&mut self, pid: usize, act: Act) {
        let process = &mut self.processes[pid];
        match act {
            Act::Die(exit) => return self.die(pid, exit),
            Act::Freeze(span) => {
                self.stop(pid);
                let killed = self.source.chance(self.plan.rate(Fault::KillFrozen));
                let step = if killed { Step::Killed(KILLED) } else { Step::Thaw };
                return self.schedule(span, Happening::Process(pid, step));
            }
            Act::HangUp => {
                process.send(Sent::End);
                process.hung_up = true;
            }
            Act::Garbage => process.send(Sent::Garbage),
            Act::RepeatOnline => {
                let version = process.version;
                process.send(Sent::Message(FromWorker::Online { version }));
            }
            Act::RepeatListen => self.ask(pid, 0),
            Act::Leave => process.send(Sent::Message(FromWorker::Disconnect)),
            Act::CloseForeign(listener) => {
                // It may be its own by chance.
                process.reads.retain(|own| u32::try_from(*own) != Ok(listener));
                process.send(Sent::Message(FromWorker::Close { listener }));
            }
            Act::CloseOwn(after) => {
                for listener in std::mem::take(&mut process.reads) {
                    let number = u32::try_from(listener).expect("few");
                    let process = &mut self.processes[pid];
                    process.send(Sent::Message(FromWorker::Close { listener: number }));
                    let step = Step::Listen(self.sockets[listener].address);
                    self.schedule(after, Happening::Process(pid, step));
                }
            }
        }
        self.wake_master();
    }

    fn stop(&mut self, pid: usize) {
        self.note("process {} is frozen", [pid as u64, 0, 0]);
        if self.processes[pid].state == State::Running {
            self.processes[pid].state = State::Frozen;
        }
    }

    fn die(&mut self, pid: usize, exit: Exit) {
        self.note("process {} ends", [pid as u64, 0, 0]);
        let after = self.exit_delay();
        let process = &mut self.processes[pid];
        process.state = State::Dead;
        process.exit = Some(exit);
        process.ended_at = Some(self.now + after);
        if !process.script.has_grandchild {
            process.send(Sent::End);
        }
        process.hung_up = true;
        for id in std::mem::take(&mut process.serving) {
            self.shift(id, Place::Taken(pid), Place::Lost);
        }
        self.wake_master();
        self.schedule(after, Happening::Ready);
    }

    /// From now on nothing goes wrong any more, and what is stopped goes on.
    pub(super) fn calm_down(&mut self) {
        self.note("calm", [0; 3]);
        self.calm = true;
        self.busy = false;
        self.plan.calm_down();
        for pid in self.seats.clone().into_iter().flatten() {
            let process = &mut self.processes[pid];
            if process.state == State::Dead {
                continue;
            }
            // Hello first: it tells the version.
            let was_mute = process.script.online_after.is_none() && process.version > 0;
            let is_up = process.is_up;
            process.script.calm_down();
            if process.state == State::Frozen {
                self.schedule(Time::ZERO, Happening::Process(pid, Step::Thaw));
            }
            if was_mute {
                self.schedule(Time::ZERO, Happening::Process(pid, Step::Online));
            } else if is_up {
                for address in 0..self.plan.addresses {
                    // When both sides have heard everything that was said before.
                    let after = 2 * MASTER_LATE_MAX;
                    self.schedule(after, Happening::Process(pid, Step::Listen(address)));
                }
            }
            let process = &mut self.processes[pid];
            if process.told_to_stop && process.inbox.is_empty() {
                process.stopping = true;
                let slot = process.worker.slot;
                process.reads.retain(|l| self.sockets[*l].mailboxes[slot].reader == Some(pid));
                self.go_on(pid);
            }
        }
    }

    /// A worker's process is sent a signal by somebody else, now.
    pub fn kill(&mut self, slot: usize, signal: i32) {
        let exit = Exit::Signal { signal, core_dumped: false };
        self.do_to(slot, Step::Killed(exit));
    }

    /// A worker's process is stopped by SIGSTOP, now.
    pub fn freeze(&mut self, slot: usize) {
        if let Some(pid) = self.seats[slot] {
            self.stop(pid);
        }
    }

    /// A worker's process goes on, now.
    pub fn thaw(&mut self, slot: usize) {
        self.do_to(slot, Step::Thaw);
    }

    fn do_to(&mut self, slot: usize, step: Step) {
        if let Some(pid) = self.seats[slot] {
            self.process_step(pid, step);
        }
    }
}
