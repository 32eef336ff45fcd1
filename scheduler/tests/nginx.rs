//! What nginx's sources and commit messages say in numbers.

use std::time::Duration;

use scheduler::{Failover, Load, Outcome, Policy, Request, SmoothWeighted};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Smooth weighted round-robin with `max_fails=1`: the effective weight drops to 0, and the slot is
/// out; after `fail_timeout` it takes part again, and each pick gives back one.
#[test]
fn after_a_failure_the_effective_weight_climbs_from_0_by_1_a_pick() {
    let mut policy = Failover::new(SmoothWeighted::new()).recovering_slowly();
    for (slot, weight) in [5, 1, 1].into_iter().enumerate() {
        policy.update(slot, Load { can_take: true, weight, ..Load::default() });
    }
    policy.report(0, &Outcome::failure(seconds(1)));
    let while_it_is_out: Vec<_> =
        (0..4).map(|_| policy.pick(&Request::default().at(seconds(11)))).collect();
    assert_eq!(while_it_is_out, [1, 2, 1, 2].map(Some));
    assert_eq!(policy.effective_weight(0), 0);
    let climbing: Vec<_> = (0..7)
        .map(|_| {
            let slot = policy.pick(&Request::default().at(seconds(12))).unwrap();
            policy.report(slot, &Outcome::new(seconds(12), seconds(0), 1));
            policy.effective_weight(0)
        })
        .collect();
    assert_eq!(climbing, [1, 2, 3, 4, 5, 5, 5]);
    // The policy knows all of it.
    let mut counts = [0; 3];
    (0..70).for_each(|_| counts[policy.pick(&Request::default().at(seconds(12))).unwrap()] += 1);
    assert_eq!(counts, [50, 10, 10]);
}
