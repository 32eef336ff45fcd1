//! What workers count, and what policies make of it.
//!
//! A worker writes its numbers whenever it likes, and may write anything: they are advice. The
//! machine counts for itself what waits in the mailboxes.

use std::collections::VecDeque;
use std::time::Duration;

use scheduler::Outcome;

use super::dispatch::Balancer;
use super::mailbox::Counters;
use super::{Output, Time};

/// More open connections than this no worker is believed to have.
const OPEN_MAX: u32 = 1 << 24;

impl<C> Balancer<C> {
    /// Whether picks depend on what workers count.
    pub(crate) fn uses_counters(&self) -> bool {
        !self.is_direct() && self.policy.uses_connections()
    }

    /// Takes in what the workers have counted, by slot.
    pub(crate) fn counters(
        &mut self,
        now: Time,
        slots: &[Counters],
        out: &mut VecDeque<Output<C>>,
    ) {
        for (slot, counters) in slots.iter().enumerate().take(self.mailboxes.len()) {
            let mailbox = &mut self.mailboxes[slot];
            let before = std::mem::replace(&mut mailbox.counters, *counters);
            if before == *counters {
                continue;
            }
            mailbox.open = counters.open.min(OPEN_MAX);
            let taken = counters.taken.wrapping_sub(before.taken);
            // Numbers that went back are a new worker's, or nonsense. And what was taken before the
            // mailbox was counted is not to be subtracted twice.
            let is_new = !std::mem::take(&mut mailbox.was_counted);
            if is_new && taken > 0 && taken <= mailbox.waiting {
                mailbox.waiting -= taken;
                mailbox.strikes = 0;
            }
            if let Some(outcome) = ended(now, before, *counters) {
                self.policy.report(slot, &outcome);
            }
            self.tell_policy(slot);
        }
        self.proceed(now, out);
    }
}

/// How the connections went that ended between two looks.
fn ended(now: Time, before: Counters, counters: Counters) -> Option<Outcome> {
    let connections = counters.closed.wrapping_sub(before.closed);
    let lifetime_us = counters.lifetime_us.checked_sub(before.lifetime_us)?;
    let is_sensible = (1..=OPEN_MAX).contains(&connections);
    let time = Duration::from_micros(lifetime_us.checked_div(connections.into())?);
    is_sensible.then(|| Outcome::new(now, time, connections))
}

#[cfg(test)]
mod tests {
    use scheduler::PolicyKind;

    use super::*;
    use crate::address::Address;
    use crate::event::WorkerId;
    use crate::machine::ListenerId;
    use crate::machine::dispatch::Phase;

    /// Bug: they were, so that less seemed to wait in a mailbox than did, and was not taken back.
    #[test]
    fn those_that_were_taken_before_a_count_are_not_subtracted_again() {
        let (now, mut out) = (Time::ZERO, VecDeque::new());
        let address = Address::Tcp(([127, 0, 0, 1], 80).into());
        let policy = PolicyKind::LeastConnections.build(1);
        let mut balancer: Balancer<u32> =
            Balancer::new(ListenerId(0), address, policy, &[1], Duration::from_secs(1));
        balancer.phase = Phase::Open;
        balancer.attach(now, WorkerId { slot: 0, generation: 1 }, &mut out);
        (0..6).for_each(|_| balancer.delivered(now, 0, &mut out));
        balancer.counted(now, 0, 4, &mut out);
        for (taken, waiting) in [(2, 4), (3, 3), (5, 1)] {
            let counters = Counters { taken, ..Counters::default() };
            balancer.counters(now, &[counters], &mut out);
            assert_eq!(balancer.mailboxes[0].waiting, waiting);
        }
    }

    #[test]
    fn what_ended_is_an_average_and_nonsense_is_nothing() {
        let counters =
            |closed, lifetime_us| Counters { closed, lifetime_us, ..Counters::default() };
        let outcome = |before, after| {
            ended(Time::ZERO, before, after).map(|o| (o.time.as_micros(), o.connections))
        };
        assert_eq!(outcome(counters(3, 100), counters(5, 700)), Some((300, 2)));
        assert_eq!(outcome(counters(u32::MAX, 1), counters(1, 11)), Some((5, 2)), "it wraps");
        assert_eq!(outcome(counters(3, 100), counters(3, 100)), None);
        assert_eq!(outcome(counters(3, 100), counters(0, 0)), None, "a new worker");
        assert_eq!(outcome(counters(3, 100), counters(2, 200)), None);
    }
}
