//! The end of the cluster: backlogs are accepted, workers finish, and each further request to stop
//! goes one stage further at once.

use super::dispatch::{Balancer, Phase};
use super::slot::{Life, Slot, Stimulus};
use super::{Machine, Output, Signal, Stage, Time, ToWorker};
use crate::event::Event;

impl<C> Machine<C> {
    pub(super) fn shutdown(&mut self, now: Time) {
        match self.stage {
            Stage::NotStarted | Stage::Running => {
                self.stage =
                    Stage::Closing { deadline: now.saturating_add(self.config.drain_timeout) };
                self.output.push_back(Output::Event(Event::Stopping));
                self.begin_closing(now);
            }
            Stage::Closing { .. } => self.stop_workers(now, now),
            Stage::Stopping => self.hurry(now),
            Stage::Abandoning { .. } | Stage::Finished => {}
        }
    }

    fn begin_closing(&mut self, now: Time) {
        for slot in &mut self.slots {
            match slot.life {
                Life::Empty => slot.deadline = None,
                Life::Spawning => {
                    slot.asked = true;
                    let deadline = now.saturating_add(self.config.kill_timeout);
                    slot.apply(Stimulus::Terminate, Some(deadline));
                    let worker = slot.worker;
                    self.output.push_back(Output::Signal { worker, signal: Signal::Terminate });
                }
                Life::Online
                | Life::Listening
                | Life::Draining
                | Life::Terminating
                | Life::Killing
                | Life::Failed
                | Life::Retired => {}
            }
        }
        for listener in self.listeners.keys().copied().collect::<Vec<_>>() {
            let Some((dispatch, out)) = self.dispatch(listener) else { continue };
            if dispatch.phase == Phase::Open {
                dispatch.accept_last(out);
            } else {
                self.close_listener(listener);
            }
        }
        self.advance(now);
    }

    /// Goes on to the next stage when this one is complete.
    pub(super) fn advance(&mut self, now: Time) {
        let alive = self.slots.iter().any(|slot| slot.life.is_alive());
        match self.stage {
            Stage::Running => {
                // Those that were scaled away count only as long as they finish.
                let slots = &self.slots[..self.size];
                let empty = |slot: &Slot| matches!(slot.life, Life::Failed | Life::Retired);
                if !alive && slots.iter().all(|slot| slot.life == Life::Failed) {
                    self.abandon(true);
                } else if self.config.ends_when_empty && !alive && slots.iter().all(empty) {
                    self.shutdown(now);
                }
            }
            Stage::Closing { deadline } => {
                self.close_unread_listeners();
                let is_done = |d: &Balancer<C>| d.phase == Phase::Closed || d.is_left_to_workers();
                let closed = self.listeners.values().all(is_done);
                let heard = self.slots.iter().any(|slot| slot.life.is_heard());
                if closed || !heard {
                    self.stop_workers(now, deadline);
                }
            }
            Stage::Stopping if !alive => self.abandon(false),
            Stage::Stopping => self.close_unread_listeners(),
            Stage::Abandoning { failed } => {
                if self.listeners.values().all(Balancer::is_empty) {
                    self.finish(failed);
                }
            }
            Stage::NotStarted | Stage::Finished => {}
        }
    }

    /// Closes the listeners from which nobody takes: their backlogs would never be empty.
    fn close_unread_listeners(&mut self) {
        for listener in self.listeners.keys().copied().collect::<Vec<_>>() {
            if self.listeners.get(&listener).is_some_and(|dispatch| !dispatch.has_reader()) {
                self.close_listener(listener);
            }
        }
    }

    /// Asks every worker to stop by `deadline`; one that is past it is sent SIGTERM at once.
    pub(super) fn stop_workers(&mut self, now: Time, deadline: Time) {
        self.stage = Stage::Stopping;
        self.close_accepting_listeners();
        for slot in &mut self.slots {
            if slot.apply(Stimulus::Stop, Some(deadline)) {
                slot.asked = true;
                let message = ToWorker::Stop { take_rest: true };
                self.output.push_back(Output::Tell { worker: slot.worker, message });
            } else if slot.life == Life::Draining {
                slot.deadline = slot.deadline.map(|old| old.min(deadline));
            }
        }
        if deadline <= now {
            self.hurry(now);
        }
        self.advance(now);
    }

    /// Whoever drains is sent SIGTERM, whoever was sent it is killed.
    fn hurry(&mut self, now: Time) {
        for slot in &mut self.slots {
            if matches!(slot.life, Life::Draining | Life::Terminating) {
                slot.asked = true;
                slot.deadline = Some(now);
            }
        }
        for index in 0..self.slots.len() {
            if self.slots[index].deadline.is_some_and(|deadline| deadline <= now) {
                self.slot_timeout(now, index);
            }
        }
    }

    fn abandon(&mut self, failed: bool) {
        self.stage = Stage::Abandoning { failed };
        for dispatch in self.listeners.values_mut() {
            dispatch.abandon(&mut self.output);
        }
        if self.listeners.values().all(Balancer::is_empty) {
            self.finish(failed);
        }
    }

    fn finish(&mut self, failed: bool) {
        self.stage = Stage::Finished;
        let abandoned = self.listeners.values().map(|dispatch| dispatch.abandoned).sum();
        self.listeners.clear();
        self.keys.clear();
        self.output.push_back(Output::Event(Event::Stopped { abandoned }));
        self.output.push_back(Output::Finished { failed });
    }
}
