//! The lives of workers: their start, their end, and what follows on it.

use super::restart::{self, Decision, End};
use super::slot::{Life, Stimulus};
use super::{Machine, Output, PROTOCOL_VERSION, Signal, Stage, Time, ToWorker};
use crate::event::{Event, KillReason, WorkerId};
use crate::exit::Exit;

impl<C> Machine<C> {
    pub(super) fn start(&mut self, now: Time) {
        if self.stage != Stage::NotStarted {
            return;
        }
        self.stage = Stage::Running;
        for slot in 0..self.slots.len() {
            self.spawn(now, slot);
        }
    }

    pub(super) fn spawn(&mut self, now: Time, slot: usize) {
        let deadline = now.saturating_add(self.config.start_timeout);
        let worker = self.slots[slot].seat(now, deadline);
        self.output.push_back(Output::Spawn { worker });
    }

    pub(super) fn spawned(&mut self, worker: WorkerId, pid: u32) {
        if let Some(slot) = self.live(worker) {
            slot.pid = Some(pid);
            slot.is_connected = true;
            self.output.push_back(Output::Event(Event::Spawned { worker, pid }));
            let drain_timeout = self.config.drain_timeout;
            let message = ToWorker::Hello { version: PROTOCOL_VERSION, worker, drain_timeout };
            self.output.push_back(Output::Tell { worker, message });
        }
    }

    pub(super) fn spawn_failed(
        &mut self,
        now: Time,
        worker: WorkerId,
        error: String,
        transient: bool,
    ) {
        if self.live(worker).is_none() {
            return;
        }
        self.output.push_back(Output::Event(Event::SpawnFailed { worker, error }));
        self.vacate(now, worker.slot, End::NotSpawned { transient });
    }

    pub(super) fn channel_closed(&mut self, now: Time, worker: WorkerId) {
        let deadline = now.saturating_add(self.config.kill_timeout);
        self.disconnected(worker);
        if let Some(slot) = self.live(worker) {
            let lost = slot.apply(Stimulus::Lost, Some(deadline));
            if lost {
                self.detach(now, worker);
            }
        }
    }

    /// The end of a worker's channel, or of the worker, is told of once.
    fn disconnected(&mut self, worker: WorkerId) {
        if let Some(slot) = self.live(worker)
            && std::mem::take(&mut slot.is_connected)
        {
            self.output.push_back(Output::Event(Event::Disconnected { worker }));
        }
    }

    /// Kills a worker for a reason of its own.
    pub(super) fn kill(&mut self, now: Time, worker: WorkerId, reason: KillReason) {
        if let Some(slot) = self.live(worker)
            && slot.apply(Stimulus::Kill, None)
        {
            slot.at_fault = true;
            self.detach(now, worker);
            self.output.push_back(Output::Event(Event::Killed { worker, reason }));
            self.output.push_back(Output::Signal { worker, signal: Signal::Kill });
        }
    }

    pub(super) fn exited(&mut self, now: Time, worker: WorkerId, exit: Exit) {
        self.disconnected(worker);
        let Some(slot) = self.live(worker) else { return };
        let uptime = now.saturating_sub(slot.spawned_at);
        let (asked, was_online, at_fault) = (slot.asked, slot.was_online, slot.at_fault);
        slot.apply(Stimulus::Exited, None);
        self.output.push_back(Output::Event(Event::Exited { worker, exit, uptime, asked }));
        self.detach(now, worker);
        for dispatch in self.listeners.values_mut() {
            dispatch.vacated(now, worker.slot, &mut self.output);
        }
        self.vacate(now, worker.slot, End::Exited { exit, was_online, at_fault, uptime });
    }

    /// Takes all its mailboxes from a worker that will not serve them.
    pub(super) fn detach(&mut self, now: Time, worker: WorkerId) {
        for dispatch in self.listeners.values_mut() {
            dispatch.detach(now, worker, &mut self.output);
        }
        self.advance(now);
    }

    /// Empties a slot and decides what follows.
    fn vacate(&mut self, now: Time, index: usize, end: End) {
        let random = self.next_random();
        let slot = &mut self.slots[index];
        slot.apply(Stimulus::Exited, None);
        slot.pid = None;
        if self.stage == Stage::Running {
            if let End::Exited { uptime, was_online: true, .. } = end {
                self.worked |= uptime >= self.config.restart.stable_uptime;
            }
            if !slot.is_wanted {
                slot.apply(Stimulus::Retire, None);
            } else if slot.asked {
                self.spawn(now, index);
            } else {
                self.replace(now, index, end, random);
            }
        }
        self.advance(now);
    }

    /// Follows the policy after an end that nobody asked for.
    fn replace(&mut self, now: Time, index: usize, end: End, random: u64) {
        let slot = &mut self.slots[index];
        let policy = &self.config.restart;
        let decision = restart::decide(&mut slot.history, end, policy, self.worked, random);
        let failures = slot.history.failures;
        match decision {
            Decision::Restart { delay } => {
                slot.deadline = Some(now.saturating_add(delay));
                let event = Event::Restarting { slot: index, delay, failures };
                self.output.push_back(Output::Event(event));
            }
            Decision::GiveUp => {
                slot.apply(Stimulus::GiveUp, None);
                let event = Event::SlotFailed { slot: index, failures };
                self.output.push_back(Output::Event(event));
            }
        }
    }

    pub(super) fn slot_timeout(&mut self, now: Time, index: usize) {
        let kill_deadline = now.saturating_add(self.config.kill_timeout);
        let slot = &mut self.slots[index];
        let worker = slot.worker;
        match slot.life {
            Life::Empty => {
                slot.deadline = None;
                self.spawn(now, index);
            }
            Life::Spawning => self.kill(now, worker, KillReason::NotOnline),
            Life::Draining => {
                slot.apply(Stimulus::Terminate, Some(kill_deadline));
                self.output.push_back(Output::Signal { worker, signal: Signal::Terminate });
            }
            Life::Terminating if slot.asked => self.kill(now, worker, KillReason::NotStopped),
            Life::Terminating => self.kill(now, worker, KillReason::ChannelClosed),
            Life::Online | Life::Listening | Life::Killing | Life::Failed | Life::Retired => {
                slot.deadline = None;
            }
        }
    }
}
