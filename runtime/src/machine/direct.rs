//! Listeners whose connections reach workers without passing through the master: the kernel picks,
//! the machine tells it among whom.
//!
//! A slot's mailbox is then only the place where its reader is noted. Nothing is ever put in.

use std::collections::VecDeque;

use super::dispatch::{Balancer, Phase};
use super::{MailboxId, Output, ToWorker};
use crate::listen::Dispatch;

impl<C> Balancer<C> {
    /// Whether the kernel dispatches.
    pub(crate) fn is_direct(&self) -> bool {
        match self.mode {
            Dispatch::Shared | Dispatch::Steered => true,
            Dispatch::Auto | Dispatch::Handoff => false,
        }
    }

    /// Whether it is open only for what its workers find in the backlog.
    pub(crate) fn is_left_to_workers(&self) -> bool {
        self.phase == Phase::Last && self.is_direct()
    }

    /// A worker came; `gone`: or the one of this slot left.
    pub(super) fn readers_changed(&mut self, gone: Option<usize>, out: &mut VecDeque<Output<C>>) {
        if !matches!(self.phase, Phase::Open | Phase::Last) {
            return;
        }
        match self.mode {
            Dispatch::Auto | Dispatch::Handoff => {}
            Dispatch::Shared => {
                if let Some(slot) = gone {
                    self.pass_on(slot, out);
                }
            }
            Dispatch::Steered => {
                let shares = self.readers().map(|(slot, _, weight)| (slot, weight)).collect();
                out.push_back(Output::Steer { listener: self.id, shares });
                self.move_what_is_left(out);
            }
        }
    }

    /// The worker in `slot` may have been woken for a connection that it does not take: another one
    /// shall look, since the kernel wakes nobody else for it.
    pub(super) fn pass_on(&self, slot: usize, out: &mut VecDeque<Output<C>>) {
        if self.mode != Dispatch::Shared {
            return;
        }
        let others = || self.readers().filter(|(other, ..)| *other != slot);
        let next = others().find(|(other, ..)| *other > slot).or_else(|| others().next());
        if let Some((_, worker, _)) = next {
            let message = ToWorker::Look { listener: self.id.0 };
            out.push_back(Output::Tell { worker, message });
        }
    }

    /// The worker in `slot` takes no more: what the kernel had queued for it goes to the others, if
    /// there are any; else it waits for the successor.
    pub(super) fn vacated(&mut self, slot: usize, out: &mut VecDeque<Output<C>>) {
        if self.mode == Dispatch::Steered && matches!(self.phase, Phase::Open | Phase::Last) {
            self.mailboxes[slot].is_left = true;
            self.move_what_is_left(out);
        }
    }

    fn move_what_is_left(&mut self, out: &mut VecDeque<Output<C>>) {
        if self.readers().next().is_none() {
            return;
        }
        for (slot, mailbox) in self.mailboxes.iter_mut().enumerate() {
            if std::mem::take(&mut mailbox.is_left) && mailbox.reader.is_none() {
                out.push_back(Output::Reopen { mailbox: MailboxId { listener: self.id, slot } });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use scheduler::RoundRobin;

    use super::*;
    use crate::address::Address;
    use crate::event::WorkerId;
    use crate::machine::ListenerId;

    const NOW: Duration = Duration::ZERO;

    fn balancer(mode: Dispatch, weights: &[u32]) -> Balancer<u32> {
        let address = Address::Tcp(([127, 0, 0, 1], 80).into());
        let policy = Box::new(RoundRobin::new());
        let mut balancer =
            Balancer::new(ListenerId(3), address, policy, weights, Duration::from_secs(1));
        (balancer.phase, balancer.mode) = (Phase::Open, mode);
        balancer
    }

    fn worker(slot: usize) -> WorkerId {
        WorkerId { slot, generation: 1 }
    }

    /// What comes out, in words.
    fn told(out: &mut VecDeque<Output<u32>>) -> Vec<String> {
        let word = |output| match output {
            Output::Steer { shares, .. } => format!("steer {shares:?}"),
            Output::Reopen { mailbox } => format!("move {}", mailbox.slot),
            Output::Tell { worker, message: ToWorker::Look { listener: 3 } } => {
                format!("{} looks", worker.slot)
            }
            other => format!("{other:?}"),
        };
        out.drain(..).map(word).collect()
    }

    #[test]
    fn when_one_of_those_who_share_leaves_or_passes_the_next_looks() {
        let (mut balancer, mut out) = (balancer(Dispatch::Shared, &[1, 1, 0, 1]), VecDeque::new());
        for slot in 0..4 {
            balancer.attach(NOW, worker(slot), &mut out);
        }
        assert_eq!(told(&mut out), [""; 0]);
        balancer.pass_on(1, &mut out);
        assert_eq!(told(&mut out), ["3 looks"], "2 never takes");
        balancer.detach(NOW, worker(3), &mut out);
        assert_eq!(told(&mut out), ["0 looks"]);
        balancer.detach(NOW, worker(0), &mut out);
        assert_eq!(told(&mut out), ["1 looks"]);
        balancer.detach(NOW, worker(1), &mut out);
        assert_eq!(told(&mut out), [""; 0], "nobody is there");
    }

    #[test]
    fn who_takes_is_told_and_what_is_left_is_moved_once() {
        let (mut balancer, mut out) = (balancer(Dispatch::Steered, &[2, 1]), VecDeque::new());
        balancer.attach(NOW, worker(0), &mut out);
        balancer.attach(NOW, worker(1), &mut out);
        assert_eq!(told(&mut out), ["steer [(0, 2)]", "steer [(0, 2), (1, 1)]"]);
        balancer.detach(NOW, worker(0), &mut out);
        balancer.vacated(0, &mut out);
        assert_eq!(told(&mut out), ["steer [(1, 1)]", "move 0"]);
        balancer.detach(NOW, worker(1), &mut out);
        balancer.vacated(1, &mut out);
        assert_eq!(told(&mut out), ["steer []"], "it waits");
        balancer.attach(NOW, worker(0), &mut out);
        assert_eq!(told(&mut out), ["steer [(0, 2)]", "move 1"]);
        balancer.attach(NOW, worker(1), &mut out);
        assert_eq!(told(&mut out), ["steer [(0, 2), (1, 1)]"]);
    }

    #[test]
    fn what_waits_for_its_own_successor_is_not_moved() {
        let (mut balancer, mut out) = (balancer(Dispatch::Steered, &[1, 1]), VecDeque::new());
        balancer.attach(NOW, worker(0), &mut out);
        balancer.detach(NOW, worker(0), &mut out);
        balancer.vacated(0, &mut out);
        balancer.attach(NOW, WorkerId { slot: 0, generation: 2 }, &mut out);
        assert_eq!(told(&mut out), ["steer [(0, 1)]", "steer []", "steer [(0, 1)]"]);
    }
}
