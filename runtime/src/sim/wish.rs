//! What the user wants at run time: how the world says it to the machine, and what must come of it.

use super::Time;
use super::kernel::Mailbox;
use super::oracle::Oracle;
use super::plan::Wish;
use super::world::World;
use crate::machine::{Input, Order};

impl World {
    /// The machine is told what the user wants.
    pub(super) fn order(&mut self, wish: Wish) {
        let last = |slot: usize| slot % self.plan.slots();
        let worker = |slot: usize| self.oracle.slot(last(slot)).worker;
        let (text, order) = match wish {
            Wish::Scale(size) => {
                self.grow(size);
                let weights = self.plan.config.weights[..size].to_vec();
                ("wish: {} slots", Order::Scale { weights })
            }
            Wish::Start(slot) => ("wish: start slot {}", Order::Start { slot: last(slot) }),
            Wish::Disconnect(slot, timeout) => {
                let order = Order::Disconnect { worker: worker(slot), timeout, successor: false };
                ("wish: disconnect slot {}", order)
            }
            Wish::Restart(slot, timeout) => {
                let order = Order::Disconnect { worker: worker(slot), timeout, successor: true };
                ("wish: restart slot {}", order)
            }
            Wish::Signal(slot, signal) => {
                ("wish: signal slot {}", Order::Signal { worker: worker(slot), signal })
            }
        };
        let number = match &order {
            Order::Scale { weights } => weights.len(),
            Order::Start { slot } => *slot,
            Order::Disconnect { worker, .. } | Order::Signal { worker, .. } => worker.slot,
        };
        self.note(text, [number as u64, 0, 0]);
        if self.oracle.shutdowns.is_empty() && !self.oracle.all_failed() {
            let drain_timeout = self.plan.config.drain_timeout;
            for (slot, timeout) in self.oracle.ordered(&order) {
                if let Some(pid) = self.seats[slot] {
                    let by = self.clock() + timeout.unwrap_or(drain_timeout);
                    let asked_by = &mut self.processes[pid].asked_by;
                    *asked_by = Some(asked_by.map_or(by, |other| other.min(by)));
                }
            }
        }
        self.feed(Input::Order(order));
    }

    fn grow(&mut self, size: usize) {
        for slot in self.plan.slots()..size {
            self.plan.config.weights.push(if slot % 3 == 0 { 2 } else { 1 });
            self.plan.cast.push(None);
            self.seats.push(None);
            for socket in &mut self.sockets {
                socket.mailboxes.push(Mailbox::new(self.plan.mailbox_bound));
            }
            self.oracle.grow();
        }
    }

    /// Where no slot has a worker, somebody starts one, unless the cluster should have ended.
    pub(super) fn populate(&mut self) {
        if self.oracle.is_finished() || !self.oracle.is_deserted() {
            return;
        }
        if self.oracle.ends_when_empty {
            self.violate("I5: no slot has a worker, and the cluster goes on".into());
        }
        self.wish(Wish::Start(0));
        self.run_to_rest(super::REST_MAX);
    }
}

impl Oracle {
    /// What must come of an order: the slots whose workers are asked to end, and in which time.
    fn ordered(&mut self, order: &Order) -> Vec<(usize, Option<Time>)> {
        match *order {
            Order::Scale { ref weights } => {
                let (from, to) = (self.resize(weights.len()), weights.len());
                (from..to).for_each(|slot| self.occupy(slot));
                (to..from).for_each(|slot| self.empty(slot, false));
                (to..from).map(|slot| (slot, None)).collect()
            }
            Order::Start { slot } => {
                if self.is_inside(slot) {
                    self.occupy(slot);
                }
                Vec::new()
            }
            Order::Disconnect { worker, timeout, successor } => {
                let successor = successor && self.is_inside(worker.slot);
                if successor && self.slot(worker.slot).is_empty() {
                    self.occupy(worker.slot);
                    return Vec::new();
                }
                self.empty(worker.slot, successor);
                vec![(worker.slot, timeout)]
            }
            Order::Signal { .. } => Vec::new(),
        }
    }
}
