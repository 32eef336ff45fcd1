//! What the events and the starts of workers may be: a second opinion on lives and restarts,
//! written from the documentation of [`Event`] and [`RestartPolicy`].

use super::Time;
use crate::address::Address;
use crate::event::{Event, KillReason, WorkerId};
use crate::exit::Exit;
use crate::machine::{Config, RestartPolicy};

#[derive(Debug)]
pub(super) struct Oracle {
    policy: RestartPolicy,
    slots: Vec<View>,
    /// How many slots there shall be.
    size: usize,
    /// Of what events must tell.
    scaled: Vec<(usize, usize)>,
    /// When the cluster was asked to stop.
    pub(super) shutdowns: Vec<Time>,
    /// Connections that the world handed back out of mailboxes, and that the events tell of.
    pub(super) taken_back: u64,
    taken_back_told: u64,
    /// Clients that were shed, and that the events tell of.
    pub(super) shed: u64,
    shed_told: u64,
    /// Whether a worker has ever listened, or run for long.
    has_worked: bool,
    pub(super) ends_when_empty: bool,
    is_stopping: bool,
    abandoned_told: Option<u64>,
    finished: Option<bool>,
}

/// A slot, as its events show it.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) worker: WorkerId,
    stage: Stage,
    /// Whether there shall be a worker.
    is_wanted: bool,
    /// Whether one must be started at once.
    is_requested: bool,
    /// Whether the worker was asked to end.
    asked: bool,
    is_connected: bool,
    spawned_at: Option<Time>,
    killed: Option<KillReason>,
    /// The addresses at which it is stalled.
    pub(super) stalled: Vec<Address>,
    failures: u32,
    shortages: u32,
    wanted: Option<Wanted>,
    due: Option<Time>,
    pub(super) is_failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Empty,
    Asked,
    Spawned,
    Online,
}

/// What must follow on the end of a worker.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    repeats: u32,
    since_start: Time,
}

type Seen = Result<(), String>;

impl View {
    fn new(slot: usize) -> View {
        View {
            worker: WorkerId { slot, generation: 0 },
            stage: Stage::Empty,
            is_wanted: true,
            is_requested: false,
            asked: false,
            is_connected: false,
            spawned_at: None,
            killed: None,
            stalled: Vec::new(),
            failures: 0,
            shortages: 0,
            wanted: None,
            due: None,
            is_failed: false,
        }
    }

    /// The same slot as if it had had no worker yet, but for their number.
    fn forget(&self) -> View {
        View { worker: self.worker, ..View::new(self.worker.slot) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stage == Stage::Empty
    }

    /// Whether it shall have a worker, and will.
    pub(super) fn is_expected(&self) -> bool {
        self.is_wanted && !self.is_failed
    }
}

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

impl Oracle {
    pub(super) fn new(config: &Config) -> Oracle {
        Oracle {
            policy: config.restart,
            slots: (0..config.weights.len()).map(View::new).collect(),
            size: config.weights.len(),
            scaled: Vec::new(),
            shutdowns: Vec::new(),
            taken_back: 0,
            taken_back_told: 0,
            shed: 0,
            shed_told: 0,
            has_worked: false,
            ends_when_empty: config.ends_when_empty,
            is_stopping: false,
            abandoned_told: None,
            finished: None,
        }
    }

    pub(super) fn grow(&mut self) {
        self.slots.push(View::new(self.slots.len()));
    }

    /// There shall be so many slots; says how many there were.
    pub(super) fn resize(&mut self, size: usize) -> usize {
        let from = std::mem::replace(&mut self.size, size);
        if from != size {
            self.scaled.push((from, size));
        }
        from
    }

    pub(super) fn is_inside(&self, slot: usize) -> bool {
        slot < self.size
    }

    /// A slot shall have a worker, at once if it has none.
    pub(super) fn occupy(&mut self, slot: usize) {
        let view = &mut self.slots[slot];
        view.is_wanted = true;
        if view.is_empty() {
            *view = View { is_requested: true, is_wanted: true, ..view.forget() };
        }
    }

    /// The worker of a slot shall end, and have a `successor` or none.
    pub(super) fn empty(&mut self, slot: usize, successor: bool) {
        let view = &mut self.slots[slot];
        view.is_wanted = successor;
        if view.is_empty() {
            *view = View { is_wanted: successor, ..view.forget() };
        } else if view.killed.is_none() {
            view.asked = true;
        }
    }

    /// A worker has asked to be let go.
    pub(super) fn leaves(&mut self, slot: usize) {
        if self.shutdowns.is_empty() {
            self.empty(slot, false);
        }
    }

    fn scaled(&mut self, from: usize, to: usize) -> Seen {
        let expected = self.scaled.pop();
        ensure!(expected == Some((from, to)), "I4: scaled from {from} to {to}, not {expected:?}");
        Ok(())
    }

    pub(super) fn slot(&self, slot: usize) -> &View {
        &self.slots[slot]
    }

    /// A worker reads a mailbox no longer, or none.
    pub(super) fn detached(&mut self, slot: usize, address: Option<&Address>) {
        self.slots[slot].stalled.retain(|other| address.is_some_and(|a| a != other));
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    pub(super) fn all_failed(&self) -> bool {
        let failed = |view: &View| view.is_failed && view.stage == Stage::Empty;
        self.slots[..self.size].iter().all(failed)
            && self.slots[self.size..].iter().all(|view| view.stage == Stage::Empty)
    }

    /// Whether no slot has, or will ever have, a worker, unless somebody asks for one.
    pub(super) fn is_deserted(&self) -> bool {
        self.slots.iter().all(View::is_empty)
            && !self.slots[..self.size].iter().any(View::is_expected)
    }

    pub(super) fn shutdown(&mut self, clock: Time) {
        self.shutdowns.push(clock);
    }

    /// The machine starts a worker.
    pub(super) fn spawn(&mut self, clock: Time, worker: WorkerId) -> Seen {
        let policy = self.policy;
        ensure!(self.shutdowns.is_empty(), "I5: {worker} is spawned after the cluster was stopped");
        let view = &mut self.slots[worker.slot];
        ensure!(view.stage == Stage::Empty, "I10: {worker} spawned, and {view:?}");
        ensure!(!view.is_failed, "I4: {worker} is spawned into a slot that was given up");
        ensure!(view.is_wanted, "I4: {worker} is spawned, and nobody wants it: {view:?}");
        ensure!(worker.generation == view.worker.generation + 1, "I10: {worker} after {view:?}");
        let requested = std::mem::take(&mut view.is_requested);
        if let Some(last) = view.spawned_at.filter(|_| !requested) {
            let gap = clock - last;
            ensure!(gap >= policy.delay_min, "I4: {worker} starts {gap:?} after its predecessor");
            ensure!(view.wanted.is_none(), "I4: {worker} starts without a decision");
            ensure!(view.due.is_some_and(|due| due <= clock), "I4: {worker} starts too early");
        }
        view.worker = worker;
        view.stage = Stage::Asked;
        view.spawned_at = Some(clock);
        view.killed = None;
        view.asked = false;
        view.stalled.clear();
        view.due = None;
        Ok(())
    }

    /// The world answers that a worker could not be started.
    pub(super) fn spawn_failed(&mut self, worker: WorkerId, transient: bool) {
        let view = &mut self.slots[worker.slot];
        let repeats = if transient {
            view.shortages += 1;
            view.shortages + 1
        } else {
            view.failures += 1;
            view.failures
        };
        view.wanted = Some(Wanted { repeats, since_start: Time::ZERO });
    }

    /// The machine tells its user something.
    pub(super) fn event(&mut self, clock: Time, event: &Event) -> Seen {
        let is_late = self.abandoned_told.is_some();
        ensure!(!is_late, "I5: an event after the cluster has stopped: {event:?}");
        match event {
            Event::Spawned { worker, .. } => {
                self.living(*worker)?.is_connected = true;
                self.go(*worker, Stage::Asked, Stage::Spawned)
            }
            Event::Disconnected { worker } => {
                let was_connected = std::mem::take(&mut self.living(*worker)?.is_connected);
                ensure!(was_connected, "I10: {worker} disconnected, and was not connected");
                Ok(())
            }
            Event::Scaled { from, to } => self.scaled(*from, *to),
            Event::SpawnFailed { worker, .. } => self.go(*worker, Stage::Asked, Stage::Empty),
            Event::Online { worker } => self.go(*worker, Stage::Spawned, Stage::Online),
            Event::Listening { worker, .. } => {
                self.has_worked = true;
                self.go(*worker, Stage::Online, Stage::Online)
            }
            Event::Opened { .. } | Event::ListenFailed { .. } | Event::Lost { .. } => Ok(()),
            Event::Killed { worker, reason } => {
                let view = self.living(*worker)?;
                let again = view.killed.replace(*reason);
                ensure!(again.is_none(), "I8: {worker} killed for {again:?} and {reason:?}");
                Ok(())
            }
            Event::Exited { worker, exit, uptime, asked } => {
                self.exited(clock, *worker, *exit, *uptime, *asked)
            }
            Event::Restarting { slot, delay, failures } => {
                self.restarting(clock, *slot, *delay, *failures)
            }
            Event::SlotFailed { slot, failures } => self.slot_failed(*slot, *failures),
            Event::Stalled { worker, address, waiting } => {
                let view = self.living(*worker)?;
                let right = *waiting > 0 && !view.stalled.contains(address);
                ensure!(right, "I13: {worker} stalled at {address}, {waiting} waited: {view:?}");
                view.stalled.push(address.clone());
                Ok(())
            }
            Event::Resumed { worker, address } => {
                let view = self.living(*worker)?;
                let was_stalled = view.stalled.contains(address);
                ensure!(was_stalled, "I13: {worker} resumed at {address}, was not stalled");
                view.stalled.retain(|other| other != address);
                Ok(())
            }
            Event::TakenBack { connections, .. } => {
                self.taken_back_told += u64::from(*connections);
                Ok(())
            }
            Event::Shed { connections, .. } => {
                self.shed_told += connections;
                Ok(())
            }
            Event::Stopping => {
                if self.ends_when_empty && self.shutdowns.is_empty() && self.is_deserted() {
                    self.shutdowns.push(clock);
                }
                let again = std::mem::replace(&mut self.is_stopping, true);
                ensure!(!again && !self.shutdowns.is_empty(), "I5: stopping, unasked or again");
                Ok(())
            }
            Event::Stopped { abandoned } => {
                self.abandoned_told = Some(*abandoned);
                Ok(())
            }
        }
    }

    /// The machine says that everything is over.
    pub(super) fn finished(&mut self, abandoned: usize, failed: bool, left_behind: bool) -> Seen {
        ensure!(self.finished.replace(failed).is_none(), "I5: finished twice");
        let told = self.abandoned_told;
        let right = told == Some(abandoned as u64) || left_behind;
        ensure!(right, "I1: {abandoned} connections abandoned, and {told:?} told");
        let (taken, told) = (self.taken_back, self.taken_back_told);
        ensure!(taken == told, "I1: {taken} connections taken back, and {told} told");
        Ok(())
    }

    /// Whether the events have told of everything that they count.
    pub(super) fn check_counts(&self) -> Seen {
        let (taken, told) = (self.taken_back, self.taken_back_told);
        ensure!(taken == told, "I1: {taken} connections taken back, and {told} told");
        ensure!(self.shed == self.shed_told, "I1: {} shed, {} told", self.shed, self.shed_told);
        let undecided = self.slots.iter().find(|view| view.wanted.is_some());
        let running = self.shutdowns.is_empty();
        ensure!(!running || undecided.is_none(), "I11: nothing was decided for {undecided:?}");
        let missing = self.slots.iter().find(|view| view.is_requested);
        ensure!(!running || missing.is_none(), "I11: nothing was started for {missing:?}");
        Ok(())
    }

    fn living(&mut self, worker: WorkerId) -> Result<&mut View, String> {
        let view = &mut self.slots[worker.slot];
        let lives = view.worker == worker && view.stage != Stage::Empty;
        ensure!(lives, "I10: an event of {worker}, while {view:?}");
        Ok(view)
    }

    fn go(&mut self, worker: WorkerId, from: Stage, to: Stage) -> Seen {
        let view = self.living(worker)?;
        ensure!(view.stage == from, "I10: {worker} becomes {to:?}, and was {:?}", view.stage);
        view.stage = to;
        Ok(())
    }

    fn exited(
        &mut self,
        clock: Time,
        worker: WorkerId,
        exit: Exit,
        uptime: Time,
        asked: bool,
    ) -> Seen {
        let policy = self.policy;
        let running = self.shutdowns.is_empty();
        let view = self.living(worker)?;
        let right = !running || asked == view.asked;
        ensure!(right, "I4: {worker} ended, asked: {asked}, and {view:?}");
        ensure!(!view.is_connected, "I10: {worker} ended, and was not disconnected before");
        let was_online = view.stage == Stage::Online;
        ensure!(was_online || view.stage == Stage::Spawned, "I10: {worker} ended: {view:?}");
        let ran = clock - view.spawned_at.unwrap_or_default();
        ensure!(ran == uptime, "I4: {worker} ran for {ran:?}, not {uptime:?}");
        view.stage = Stage::Empty;
        view.stalled.clear();
        let worked = running && was_online && uptime >= policy.stable_uptime;
        if !view.is_wanted || asked {
            view.is_requested = view.is_wanted && running;
            self.has_worked |= worked;
            return Ok(());
        }
        view.shortages = 0;
        let at_fault = matches!(
            view.killed,
            Some(KillReason::Protocol | KillReason::ChannelClosed | KillReason::NotOnline)
        );
        let outside = matches!(exit, Exit::Signal { signal: 1 | 2 | 3 | 9 | 15, .. });
        let repeats = if was_online && outside && !at_fault {
            if uptime >= policy.stable_uptime {
                view.failures = 0;
            }
            0
        } else if was_online && uptime >= policy.stable_uptime {
            view.failures = 0;
            0
        } else {
            view.failures += 1;
            view.failures
        };
        view.wanted = running.then_some(Wanted { repeats, since_start: uptime });
        self.has_worked |= worked;
        Ok(())
    }

    fn restarting(&mut self, clock: Time, slot: usize, delay: Time, failures: u32) -> Seen {
        let (policy, failures_max) = (self.policy, self.failures_max());
        let view = &mut self.slots[slot];
        let Some(Wanted { repeats, since_start }) = view.wanted.take() else {
            return Err(format!("I4: slot {slot} is restarted, and nothing had ended: {view:?}"));
        };
        ensure!(failures == view.failures, "I4: {failures} failures told, and {view:?}");
        let enough = failures_max > 0 && failures >= failures_max;
        ensure!(!enough, "I4: slot {slot} goes on after {failures} failures");
        let factor = 1_u32.checked_shl(repeats.saturating_sub(2)).unwrap_or(u32::MAX);
        let backoff = policy.delay_min.saturating_mul(factor).min(policy.delay_max);
        let backoff = if repeats < 2 { Time::ZERO } else { backoff };
        let spacing = policy.delay_min.saturating_sub(since_start);
        let (least, most) = ((backoff / 2).max(spacing), backoff.max(spacing));
        let right = (least..=most).contains(&delay);
        ensure!(right, "I4: slot {slot} restarts in {delay:?}, not {least:?} to {most:?}");
        view.due = Some(clock + delay);
        Ok(())
    }

    fn failures_max(&self) -> u32 {
        if self.has_worked { self.policy.failures_max } else { self.policy.start_failures_max }
    }

    fn slot_failed(&mut self, slot: usize, failures: u32) -> Seen {
        let most = self.failures_max();
        let view = &mut self.slots[slot];
        let right = view.wanted.take().is_some() && failures == view.failures;
        ensure!(right, "I4: slot {slot} is given up after {failures} failures, and {view:?}");
        let enough = most > 0 && failures >= most;
        ensure!(enough, "I4: slot {slot} is given up after {failures} failures of {most}");
        view.is_failed = true;
        Ok(())
    }
}
