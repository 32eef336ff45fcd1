//! What a user asks of slots and workers while the cluster runs.

use std::time::Duration;

use super::restart::History;
use super::slot::{Life, Slot, Stimulus};
use super::{Machine, Order, Output, SLOTS_MAX, Signal, Stage, Time, ToWorker};
use crate::event::{Event, WorkerId};

impl<C> Machine<C> {
    pub(super) fn order(&mut self, now: Time, order: Order) {
        match order {
            Order::Scale { weights } => self.scale(now, &weights),
            Order::Start { slot } => {
                if self.stage == Stage::Running && slot < self.size {
                    self.occupy(now, slot);
                }
            }
            Order::Disconnect { worker, timeout, successor } => {
                self.disconnect(now, worker, timeout, successor);
            }
            Order::Signal { worker, signal } => {
                if self.live(worker).is_some_and(|slot| slot.pid.is_some()) {
                    let signal = Signal::Other(signal);
                    self.output.push_back(Output::Signal { worker, signal });
                }
            }
        }
    }

    /// The cluster shall have a slot for each weight. Slots that it had before keep their own.
    fn scale(&mut self, now: Time, weights: &[u32]) {
        let (from, to) = (self.size, weights.len());
        if self.stage != Stage::Running || from == to || !(1..=SLOTS_MAX).contains(&to) {
            return;
        }
        self.size = to;
        if let Some(new) = weights.get(self.slots.len()..) {
            self.slots.extend((self.slots.len()..to).map(Slot::new));
            self.config.weights.extend(new);
            for balancer in self.listeners.values_mut() {
                balancer.grow(new);
            }
        }
        self.output.push_back(Output::Event(Event::Scaled { from, to }));
        for index in from..to {
            self.occupy(now, index);
        }
        for index in (to..from).rev() {
            self.slots[index].is_wanted = false;
            self.ask_to_stop(now, index, None);
        }
        self.advance(now);
    }

    /// This concerns the last worker of a slot also if it has ended.
    fn disconnect(
        &mut self,
        now: Time,
        worker: WorkerId,
        timeout: Option<Duration>,
        successor: bool,
    ) {
        let Some(slot) = self.slots.get_mut(worker.slot) else { return };
        if self.stage != Stage::Running || slot.worker != worker {
            return;
        }
        slot.is_wanted = successor && worker.slot < self.size;
        if slot.is_wanted && !slot.life.is_alive() {
            self.occupy(now, worker.slot);
        } else {
            self.ask_to_stop(now, worker.slot, timeout);
        }
        self.advance(now);
    }

    /// A worker wants to end, and not to be replaced.
    pub(super) fn leave(&mut self, now: Time, worker: WorkerId) {
        if matches!(self.stage, Stage::Running | Stage::Closing { .. }) {
            self.slots[worker.slot].is_wanted = false;
            self.ask_to_stop(now, worker.slot, None);
            self.advance(now);
        }
    }

    /// A slot shall have a worker: at once, or as soon as the one that ends is gone.
    fn occupy(&mut self, now: Time, index: usize) {
        let slot = &mut self.slots[index];
        slot.is_wanted = true;
        if !slot.life.is_alive() {
            slot.history = History::default();
            self.spawn(now, index);
        }
    }

    /// Whoever is in a slot shall end; what waits for it is for others. Asked again, it may only
    /// have less time.
    fn ask_to_stop(&mut self, now: Time, index: usize, timeout: Option<Duration>) {
        let kill_deadline = now.saturating_add(self.config.kill_timeout);
        let mut deadline = now.saturating_add(timeout.unwrap_or(self.config.drain_timeout));
        if let Stage::Closing { deadline: closing } = self.stage {
            deadline = deadline.min(closing);
        }
        let slot = &mut self.slots[index];
        let worker = slot.worker;
        match slot.life {
            Life::Empty | Life::Failed => {
                slot.apply(Stimulus::Retire, None);
            }
            Life::Spawning => {
                slot.asked = true;
                slot.apply(Stimulus::Terminate, Some(kill_deadline));
                self.output.push_back(Output::Signal { worker, signal: Signal::Terminate });
            }
            Life::Online | Life::Listening => {
                slot.asked = true;
                slot.apply(Stimulus::Stop, Some(deadline));
                let message = ToWorker::Stop { take_rest: false };
                self.output.push_back(Output::Tell { worker, message });
                self.detach(now, worker);
            }
            Life::Draining => slot.deadline = slot.deadline.map(|old| old.min(deadline)),
            Life::Terminating => slot.asked = true,
            Life::Retired | Life::Killing => {}
        }
    }
}
