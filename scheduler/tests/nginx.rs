//! What nginx does with failures, backups and limits, step by step.

use std::time::Duration;

use scheduler::{Failover, LeastConnections, Load, Outcome, Policy, Request, SmoothWeighted};

const FREE: Load =
    Load { can_take: true, weight: 1, connections: 0, connections_max: 0, backup: false };

fn second(second: u64) -> Duration {
    Duration::from_secs(second)
}

fn at(time: u64) -> Request {
    Request::default().at(second(time))
}

fn with_weights(weights: &[u32]) -> Failover<SmoothWeighted> {
    let mut policy = Failover::new(SmoothWeighted::new()).recovering_slowly();
    for (slot, &weight) in weights.iter().enumerate() {
        policy.update(slot, Load { weight, ..FREE });
    }
    policy
}

/// Smooth weighted round-robin with `max_fails=1`: the effective weight drops to 0, and the slot is
/// out; after `fail_timeout` it takes part again, and each pick gives back one.
#[test]
fn after_a_failure_the_effective_weight_climbs_from_0_by_1_a_pick() {
    let mut policy = with_weights(&[5, 1, 1]);
    policy.report(0, &Outcome::failure(second(1)));
    let while_it_is_out: Vec<_> = (0..4).map(|_| policy.pick(&at(11))).collect();
    assert_eq!(while_it_is_out, [1, 2, 1, 2].map(Some));
    assert_eq!(policy.effective_weight(0), 0);
    let climbing: Vec<_> = (0..7)
        .map(|_| {
            let slot = policy.pick(&at(12)).unwrap();
            policy.report(slot, &Outcome::new(second(12), second(0), 1));
            policy.effective_weight(0)
        })
        .collect();
    assert_eq!(climbing, [1, 2, 3, 4, 5, 5, 5]);
    // The policy knows all of it.
    let mut counts = [0; 3];
    (0..70).for_each(|_| counts[policy.pick(&at(12)).unwrap()] += 1);
    assert_eq!(counts, [50, 10, 10]);
}

#[test]
fn with_more_failures_allowed_each_takes_its_part_of_the_weight() {
    let mut policy = with_weights(&[9, 1]).failures_max(3);
    policy.report(0, &Outcome::failure(second(1)));
    assert_eq!(policy.effective_weight(0), 6);
    policy.report(0, &Outcome::failure(second(1)));
    assert_eq!(policy.effective_weight(0), 3);
    policy.pick(&at(1));
    assert_eq!(policy.effective_weight(0), 4);
    policy.report(0, &Outcome::failure(second(1)));
    assert_eq!(policy.effective_weight(0), 0); // Out.
    assert_eq!([(); 4].map(|()| policy.pick(&at(2))), [Some(1); 4]);
}

#[test]
fn a_slot_that_is_out_has_one_trial_in_each_timeout() {
    let mut policy = Failover::new(LeastConnections::new()).timeout(second(5));
    (0..3).for_each(|slot| policy.update(slot, Load { connections: 9, ..FREE }));
    policy.update(1, FREE); // The first choice, if it is not out.
    policy.report(1, &Outcome::failure(second(1)));
    let times = [1, 6, 7, 8, 12, 13, 14, 18];
    let trials = times.map(|time| policy.pick(&at(time)) == Some(1));
    assert_eq!(trials, [false, false, true, false, false, true, false, false]);
    // What ended well after the failure, and before a trial, says nothing; after it, all.
    policy.report(1, &Outcome::failure(second(18)));
    policy.report(1, &Outcome::new(second(19), second(1), 1));
    assert_ne!(policy.pick(&at(19)), Some(1));
    assert_eq!(policy.pick(&at(24)), Some(1));
    policy.report(1, &Outcome::new(second(24), second(1), 1));
    assert_eq!(policy.pick(&at(24)), Some(1));
}

#[test]
fn when_nobody_is_left_all_count_again() {
    let mut policy = with_weights(&[2, 1]);
    policy.report(0, &Outcome::failure(second(1)));
    policy.report(1, &Outcome::failure(second(1)));
    assert!(policy.pick(&at(1)).is_some());
    // A single slot is never out, then.
    policy.update(1, Load { can_take: false, ..FREE });
    for _ in 0..3 {
        policy.report(0, &Outcome::failure(second(1)));
        assert_eq!(policy.pick(&at(1)), Some(0));
    }
}

#[test]
fn a_backup_stands_in_for_slots_that_fail_and_goes_when_they_return() {
    let mut policy = with_weights(&[1, 1]);
    policy.update(2, Load { backup: true, ..FREE });
    assert_eq!([(); 4].map(|()| policy.pick(&at(0)).unwrap()), [0, 1, 0, 1]);
    policy.report(0, &Outcome::failure(second(0)));
    policy.report(1, &Outcome::failure(second(0)));
    assert_eq!([(); 3].map(|()| policy.pick(&at(1)).unwrap()), [2, 2, 2]);
    policy.pick(&at(11)); // Both take part again, at weight 0.
    assert_ne!(policy.pick(&at(11)), Some(2));
}

#[test]
fn a_slot_at_its_limit_is_passed_over_until_a_connection_ends() {
    let mut policy = with_weights(&[5, 1]);
    let limited = |connections| Load { weight: 5, connections, connections_max: 2, ..FREE };
    policy.update(0, limited(1));
    assert_eq!(policy.pick(&at(0)), Some(0));
    policy.update(0, limited(2));
    assert_eq!([(); 3].map(|()| policy.pick(&at(0))), [Some(1); 3]);
    policy.update(0, limited(1));
    assert_eq!(policy.pick(&at(0)), Some(0));
}
