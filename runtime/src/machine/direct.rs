//! Listeners whose connections reach workers without passing through the master: the kernel picks,
//! the machine tells it among whom.
//!
//! A slot's mailbox is then only the place where its reader is noted. Nothing is ever put in.

use std::collections::VecDeque;
use std::time::Duration;

use super::dispatch::{Balancer, Phase};
use super::{MailboxId, Output, Time, ToWorker};
use crate::listen::Dispatch;

/// How long a slot's socket stays after the kernel was told to choose it no more. A handshake that
/// another processor completes just as it goes finds no listener, and its client is reset.
const MOVE_DELAY: Duration = Duration::from_millis(10);

/// How often the workers of a shared listener are asked to look, at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

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

    /// A worker came, or is gone.
    pub(super) fn readers_changed(
        &mut self,
        now: Time,
        is_gone: bool,
        out: &mut VecDeque<Output<C>>,
    ) {
        if !matches!(self.phase, Phase::Open | Phase::Last) {
            return;
        }
        match self.mode {
            Dispatch::Auto | Dispatch::Handoff => {}
            Dispatch::Shared => {
                if is_gone {
                    self.pass_on(now, out);
                }
            }
            Dispatch::Steered => {
                let shares = self.readers().map(|(slot, _, weight)| (slot, weight)).collect();
                out.push_back(Output::Steer { listener: self.id, shares });
            }
        }
    }

    /// A worker may have been woken for a connection that it does not take. The kernel wakes nobody
    /// else for it, so all look. Not more often than makes sense, whatever workers say.
    pub(super) fn pass_on(&mut self, now: Time, out: &mut VecDeque<Output<C>>) {
        if self.mode == Dispatch::Shared && self.look_at.is_none() {
            self.look_at = Some(self.looked_at.map_or(now, |at| at.saturating_add(LOOK_INTERVAL)));
            self.look(now, out);
        }
    }

    /// Has all look, if it is time.
    pub(super) fn look(&mut self, now: Time, out: &mut VecDeque<Output<C>>) {
        if self.look_at.is_some_and(|at| at <= now) {
            (self.look_at, self.looked_at) = (None, Some(now));
            let message = ToWorker::Look { listener: self.id.0 };
            let tell = |(_, worker, _)| Output::Tell { worker, message: message.clone() };
            out.extend(self.readers().map(tell));
        }
    }

    /// The worker in `slot` takes no more: what the kernel had queued for it goes to the others, if
    /// there are any; else it waits for the successor.
    pub(super) fn vacated(&mut self, now: Time, slot: usize, out: &mut VecDeque<Output<C>>) {
        if self.mode == Dispatch::Steered && matches!(self.phase, Phase::Open | Phase::Last) {
            // A slot that others have left does not wait until they end, too.
            let delay = if self.phase == Phase::Open { MOVE_DELAY } else { Duration::ZERO };
            self.mailboxes[slot].move_at = Some(now.saturating_add(delay));
            self.move_what_is_left(now, out);
        }
    }

    /// When something that was left is to be moved next.
    pub(super) fn next_move(&self) -> Option<Time> {
        self.readers().next()?;
        self.mailboxes.iter().filter_map(|mailbox| mailbox.move_at).min()
    }

    pub(super) fn move_what_is_left(&mut self, now: Time, out: &mut VecDeque<Output<C>>) {
        if self.readers().next().is_none() {
            return;
        }
        for (slot, mailbox) in self.mailboxes.iter_mut().enumerate() {
            if mailbox.move_at.is_some_and(|at| at <= now) {
                mailbox.move_at = None;
                out.push_back(Output::Reopen { mailbox: MailboxId { listener: self.id, slot } });
            }
        }
    }

    /// Moves at once what would be moved soon: the others may end before.
    pub(super) fn hurry_moves(&mut self, out: &mut VecDeque<Output<C>>) {
        self.move_what_is_left(Time::MAX, out);
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
    fn when_one_of_those_who_share_leaves_or_passes_all_others_look() {
        let (mut balancer, mut out) = (balancer(Dispatch::Shared, &[1, 1, 0, 1]), VecDeque::new());
        for slot in 0..4 {
            balancer.attach(NOW, worker(slot), &mut out);
        }
        assert_eq!(told(&mut out), [""; 0]);
        balancer.pass_on(NOW, &mut out);
        assert_eq!(told(&mut out), ["0 looks", "1 looks", "3 looks"], "2 never takes");
        let later = LOOK_INTERVAL * 2;
        balancer.detach(later, worker(3), &mut out);
        assert_eq!(told(&mut out), ["0 looks", "1 looks"]);
    }

    #[test]
    fn workers_that_pass_all_the_time_do_not_keep_the_others_busy() {
        let (mut balancer, mut out) = (balancer(Dispatch::Shared, &[1]), VecDeque::new());
        balancer.attach(NOW, worker(0), &mut out);
        (0..10).for_each(|_| balancer.pass_on(NOW, &mut out));
        assert_eq!(told(&mut out), ["0 looks"]);
        // What was passed meanwhile is not forgotten.
        assert_eq!(balancer.next_timeout(), Some(LOOK_INTERVAL));
        balancer.handle_timeout(LOOK_INTERVAL, &mut out);
        assert_eq!(told(&mut out), ["0 looks"]);
        assert_eq!(balancer.next_timeout(), None);
    }

    /// Lets the time come for which it waits, if it does.
    fn wait(balancer: &mut Balancer<u32>, out: &mut VecDeque<Output<u32>>) {
        if let Some(at) = balancer.next_timeout() {
            assert_eq!(at, MOVE_DELAY);
            balancer.handle_timeout(at, out);
            assert_eq!(balancer.next_timeout(), None);
        }
    }

    #[test]
    fn who_takes_is_told_and_what_is_left_is_moved_once_and_a_little_later() {
        let (mut balancer, mut out) = (balancer(Dispatch::Steered, &[2, 1]), VecDeque::new());
        balancer.attach(NOW, worker(0), &mut out);
        balancer.attach(NOW, worker(1), &mut out);
        assert_eq!(told(&mut out), ["steer [(0, 2)]", "steer [(0, 2), (1, 1)]"]);
        balancer.detach(NOW, worker(0), &mut out);
        balancer.vacated(NOW, 0, &mut out);
        assert_eq!(told(&mut out), ["steer [(1, 1)]"]);
        wait(&mut balancer, &mut out);
        assert_eq!(told(&mut out), ["move 0"]);
        balancer.detach(NOW, worker(1), &mut out);
        balancer.vacated(NOW, 1, &mut out);
        assert_eq!(balancer.next_timeout(), None, "nobody is there");
        assert_eq!(told(&mut out), ["steer []"]);
        balancer.attach(NOW, worker(0), &mut out);
        wait(&mut balancer, &mut out);
        assert_eq!(told(&mut out), ["steer [(0, 2)]", "move 1"]);
        balancer.attach(NOW, worker(1), &mut out);
        assert_eq!(told(&mut out), ["steer [(0, 2), (1, 1)]"]);
    }

    #[test]
    fn what_is_left_is_moved_at_once_when_it_stops() {
        let (mut balancer, mut out) = (balancer(Dispatch::Steered, &[1; 3]), VecDeque::new());
        (0..3).for_each(|slot| balancer.attach(NOW, worker(slot), &mut out));
        balancer.detach(NOW, worker(0), &mut out);
        balancer.vacated(NOW, 0, &mut out);
        told(&mut out);
        balancer.accept_last(&mut out);
        assert_eq!(told(&mut out), ["move 0"]);
        balancer.detach(NOW, worker(1), &mut out);
        balancer.vacated(NOW, 1, &mut out);
        assert_eq!(told(&mut out), ["steer [(2, 1)]", "move 1"]);
        assert_eq!(balancer.next_timeout(), None);
    }

    #[test]
    fn what_waits_for_its_own_successor_is_not_moved() {
        let (mut balancer, mut out) = (balancer(Dispatch::Steered, &[1, 1]), VecDeque::new());
        balancer.attach(NOW, worker(1), &mut out);
        balancer.attach(NOW, worker(0), &mut out);
        told(&mut out);
        balancer.detach(NOW, worker(0), &mut out);
        balancer.vacated(NOW, 0, &mut out);
        balancer.attach(NOW, WorkerId { slot: 0, generation: 2 }, &mut out);
        wait(&mut balancer, &mut out);
        assert_eq!(told(&mut out), ["steer [(1, 1)]", "steer [(0, 1), (1, 1)]"]);
    }
}
