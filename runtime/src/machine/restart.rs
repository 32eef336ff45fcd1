//! Whether and when a slot gets a new worker: a pure decision over how the last ones ended.

use std::time::Duration;

use crate::exit::Exit;

/// How workers that die are replaced.
///
/// A worker *fails* when it ends before it was online, or by its own doing (an exit nobody asked
/// for, a crash, a breach of the protocol, memory without end) before it has run for
/// `stable_uptime`. A worker that was online and is killed from outside (SIGKILL, SIGTERM, SIGINT,
/// SIGHUP, SIGQUIT) says nothing against its program: it is replaced and not counted. The first
/// failure in a row is repaired at once, the n-th after `delay_min · 2^(n-2)`, at most `delay_max`,
/// of which the seed's jitter takes up to a half; two starts in one slot that nobody asked for are
/// never closer than `delay_min`. After `failures_max` failures in a row the slot is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// The first delay, and the least time between two starts in one slot. Default 100 ms.
    pub delay_min: Duration,
    /// The longest delay. Default 30 s.
    pub delay_max: Duration,
    /// A worker that ran this long did not fail, however it ended, and clears the count of
    /// failures. Default 10 s.
    pub stable_uptime: Duration,
    /// Failures in a row after which the slot is given up; 0 never gives up. Default 10.
    pub failures_max: u32,
    /// The same as long as nothing in the cluster has ever worked: no worker has listened, or run
    /// for `stable_uptime`. A service that can't start at all says so soon. Default 5.
    pub start_failures_max: u32,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        RestartPolicy {
            delay_min: Duration::from_millis(100),
            delay_max: Duration::from_secs(30),
            stable_uptime: Duration::from_secs(10),
            failures_max: 10,
            start_failures_max: 5,
        }
    }
}

/// One worker's life, as far as its replacement depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The process ended. `at_fault`: the master had to kill it.
    Exited { exit: Exit, was_online: bool, at_fault: bool, uptime: Duration },
    /// The process could not be started. `transient`: for lack of something that comes back
    /// (processes, memory, descriptors), which is never held against the program.
    NotSpawned { transient: bool },
}

/// What to do with an empty slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Start a worker after `delay`.
    Restart { delay: Duration },
    /// Leave the slot empty for good.
    GiveUp,
}

/// What a slot remembers of its workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    /// Failures in a row.
    pub(crate) failures: u32,
    /// Starts in a row that failed for lack of resources.
    shortages: u32,
}

/// Decides what follows on `end`; `worked` tells whether anything in the cluster ever did, `random`
/// is uniform.
pub(crate) fn decide(
    history: &mut History,
    end: End,
    policy: &RestartPolicy,
    worked: bool,
    random: u64,
) -> Decision {
    let (repeats, since_start) = match end {
        End::NotSpawned { transient: true } => {
            history.shortages = history.shortages.saturating_add(1);
            (history.shortages.saturating_add(1), Duration::ZERO)
        }
        End::NotSpawned { transient: false } => {
            history.failures = history.failures.saturating_add(1);
            (history.failures, Duration::ZERO)
        }
        End::Exited { exit, was_online, at_fault, uptime } => {
            history.shortages = 0;
            if was_online && uptime >= policy.stable_uptime {
                history.failures = 0;
                (0, uptime)
            } else if was_online && !at_fault && killed_from_outside(exit) {
                (0, uptime)
            } else {
                history.failures = history.failures.saturating_add(1);
                (history.failures, uptime)
            }
        }
    };
    let failures_max = if worked { policy.failures_max } else { policy.start_failures_max };
    if failures_max > 0 && history.failures >= failures_max {
        return Decision::GiveUp;
    }
    let spacing = policy.delay_min.saturating_sub(since_start);
    Decision::Restart { delay: backoff(repeats, policy, random).max(spacing) }
}

fn killed_from_outside(exit: Exit) -> bool {
    // HUP, INT, QUIT, KILL, TERM have these numbers on every Unix.
    matches!(exit, Exit::Signal { signal: 1 | 2 | 3 | 9 | 15, .. })
}

/// Exponential, with the upper half left to chance, so that slots that died together do not come
/// back together ("equal jitter":
/// aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
fn backoff(failures: u32, policy: &RestartPolicy, random: u64) -> Duration {
    if failures < 2 {
        return Duration::ZERO;
    }
    let factor = 1_u32.checked_shl(failures - 2).unwrap_or(u32::MAX);
    let most = policy.delay_min.saturating_mul(factor).min(policy.delay_max);
    let half = most / 2;
    let share = u32::try_from(random >> 32).expect("the upper 32 bits of 64");
    half + half.mul_f64(f64::from(share) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CRASH: Exit = Exit::Signal { signal: 11, core_dumped: true };
    const KILLED: Exit = Exit::Signal { signal: 9, core_dumped: false };

    fn exited(exit: Exit, was_online: bool, uptime_ms: u64) -> End {
        let uptime = Duration::from_millis(uptime_ms);
        End::Exited { exit, was_online, at_fault: false, uptime }
    }

    fn delay(decision: Decision) -> Duration {
        match decision {
            Decision::Restart { delay } => delay,
            Decision::GiveUp => panic!("gave up"),
        }
    }

    #[test]
    fn the_first_failure_is_repaired_at_once() {
        let mut history = History::default();
        let end = exited(CRASH, true, 9_999);
        let policy = RestartPolicy::default();
        assert_eq!(delay(decide(&mut history, end, &policy, true, 7)), Duration::ZERO);
        assert_eq!(history.failures, 1);
    }

    #[test]
    fn f43_a_crash_loop_backs_off_and_gives_up() {
        let mut history = History::default();
        let policy = RestartPolicy::default();
        let mut last = Duration::ZERO;
        for n in 1..policy.failures_max {
            let next = delay(decide(&mut history, exited(CRASH, true, 5_000), &policy, true, 0));
            assert!(next >= last, "{n}: {next:?} after {last:?}");
            last = next;
        }
        assert_eq!(last, Duration::from_millis(100 * 128 / 2));
        let end = exited(CRASH, true, 5_000);
        assert_eq!(decide(&mut history, end, &policy, true, 0), Decision::GiveUp);
    }

    #[test]
    fn what_never_worked_is_given_up_sooner() {
        let policy = RestartPolicy::default();
        for (worked, failures_max) in [(false, 5), (true, 10)] {
            let mut history = History { failures: failures_max - 1, shortages: 0 };
            let end = exited(Exit::Code(1), true, 20);
            assert_eq!(decide(&mut history, end, &policy, worked, 0), Decision::GiveUp);
            let mut history = History { failures: failures_max - 2, shortages: 0 };
            assert_ne!(decide(&mut history, end, &policy, worked, 0), Decision::GiveUp);
        }
    }

    #[test]
    fn stable_uptime_clears_the_count() {
        let policy = RestartPolicy::default();
        let mut history = History { failures: 8, shortages: 0 };
        let end = exited(CRASH, true, 10_000);
        assert_eq!(delay(decide(&mut history, end, &policy, true, 0)), Duration::ZERO);
        assert_eq!(history.failures, 0);
    }

    #[test]
    fn a_kill_by_the_master_counts() {
        let mut history = History::default();
        let uptime = Duration::from_millis(500);
        let end = End::Exited { exit: KILLED, was_online: true, at_fault: true, uptime };
        let _ = decide(&mut history, end, &RestartPolicy::default(), true, 0);
        assert_eq!(history.failures, 1);
    }

    #[test]
    fn kills_from_outside_never_count_but_are_spaced() {
        let policy = RestartPolicy::default();
        let mut history = History::default();
        for _ in 0..1_000 {
            let end = exited(KILLED, true, 30);
            assert_eq!(
                delay(decide(&mut history, end, &policy, true, 0)),
                Duration::from_millis(70)
            );
        }
        assert_eq!(history.failures, 0);
        let _ = decide(&mut history, exited(KILLED, false, 30), &policy, true, 0);
        assert_eq!(history.failures, 1, "killed before it was online is a failure");
    }

    #[test]
    fn f07_lack_of_processes_never_gives_up() {
        let policy = RestartPolicy::default();
        let mut history = History::default();
        for _ in 0..100 {
            let end = End::NotSpawned { transient: true };
            let delay = delay(decide(&mut history, end, &policy, true, u64::MAX));
            assert!(delay >= policy.delay_min && delay <= policy.delay_max);
        }
        assert_eq!(history.failures, 0);
    }

    proptest! {
        #[test]
        fn delays_stay_within_their_bounds(
            failures in 0_u32..200,
            uptime_ms in 0_u64..20_000,
            online: bool,
            random: u64,
            code: i32,
        ) {
            let policy = RestartPolicy { failures_max: 0, ..RestartPolicy::default() };
            let mut history = History { failures, shortages: 0 };
            let end = exited(Exit::Code(code), online, uptime_ms);
            let delay = delay(decide(&mut history, end, &policy, true, random));
            prop_assert!(delay <= policy.delay_max);
            prop_assert!(delay + Duration::from_millis(uptime_ms) >= policy.delay_min);
        }
    }
}
