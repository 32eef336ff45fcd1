//! What must hold for any sequence of calls.

mod twin;

use proptest::collection::vec;
use proptest::prelude::*;
use scheduler::{Load, Policy, PolicyKind, Request, RoundRobin, SmoothWeighted};
use twin::{NaiveRoundRobin, NaiveSmoothWeighted, Tiered};

#[derive(Clone, Debug)]
enum Operation {
    Update(usize, Load),
    Pick,
    /// The last picked slot is full.
    Refuse,
}

/// Some slots in each of the first two words of a set of bits, and the border between them.
fn slot() -> impl Strategy<Value = usize> {
    prop_oneof![0..6_usize, 62..66_usize]
}

fn load() -> impl Strategy<Value = Load> {
    let weight = prop_oneof![8 => 0..6_u32, 1 => Just(100), 1 => any::<u32>()];
    let connections_max = prop_oneof![4 => Just(0), 1 => 1..4_u32];
    (prop::bool::weighted(0.7), weight, 0..4_u32, connections_max, prop::bool::weighted(0.2))
        .prop_map(|(can_take, weight, connections, connections_max, backup)| Load {
            can_take,
            weight,
            connections,
            connections_max,
            backup,
        })
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        2 => (slot(), load()).prop_map(|(slot, load)| Operation::Update(slot, load)),
        5 => Just(Operation::Pick),
        1 => Just(Operation::Refuse),
    ];
    vec(operation, 0..200)
}

/// Weights of slots that all can take, 1 to 8 of them.
fn weights() -> impl Strategy<Value = Vec<u32>> {
    vec(prop_oneof![4 => 1..8_u32, 1 => 1..60_u32], 1..9)
}

fn policies() -> impl Iterator<Item = Box<dyn Policy>> {
    PolicyKind::ALL.into_iter().map(|kind| kind.build(1))
}

/// Policies, each with its twin.
fn twins() -> [[Box<dyn Policy>; 2]; 2] {
    [
        [Box::new(RoundRobin::new()), Box::<Tiered<NaiveRoundRobin>>::default()],
        [Box::new(SmoothWeighted::new()), Box::<Tiered<NaiveSmoothWeighted>>::default()],
    ]
}

/// The slots that may be picked: the eligible ones, and backups among them only when they are all
/// there is.
fn candidates(loads: &[Load]) -> Vec<usize> {
    let of_tier = |backup| {
        let is_in = |slot: &usize| loads[*slot].is_eligible() && loads[*slot].backup == backup;
        (0..loads.len()).filter(is_in).collect::<Vec<_>>()
    };
    let primaries = of_tier(false);
    if primaries.is_empty() { of_tier(true) } else { primaries }
}

fn smooth_weighted(weights: &[u32]) -> SmoothWeighted {
    let mut policy = SmoothWeighted::new();
    for (slot, &weight) in weights.iter().enumerate() {
        policy.update(slot, Load { can_take: true, weight, ..Load::default() });
    }
    policy
}

/// Applies the operations; `check` sees the loads (by slot) and the answer of each pick.
fn replay(
    policy: &mut dyn Policy,
    operations: &[Operation],
    mut check: impl FnMut(&[Load], Option<usize>),
) {
    let mut loads = [Load::default(); 66];
    let mut last = None;
    for operation in operations {
        match operation {
            Operation::Update(slot, load) => {
                loads[*slot] = *load;
                policy.update(*slot, *load);
            }
            Operation::Pick => {
                last = policy.pick(&Request::default());
                check(&loads, last);
            }
            Operation::Refuse => {
                if let Some(slot) = last {
                    loads[slot].can_take = false;
                    policy.update(slot, loads[slot]);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn a_pick_is_eligible_and_there_is_one_whenever_a_slot_is(operations in operations()) {
        for mut policy in policies() {
            replay(&mut *policy, &operations, |loads, picked| match picked {
                Some(slot) => assert!(candidates(loads).contains(&slot), "{slot} of {loads:?}"),
                None => assert_eq!(candidates(loads), [], "none of {loads:?}"),
            });
        }
    }

    #[test]
    fn each_policy_equals_its_naive_twin(operations in operations()) {
        for [mut policy, mut twin] in twins() {
            let (mut picked, mut expected) = (Vec::new(), Vec::new());
            replay(&mut *policy, &operations, |_, slot| picked.push(slot));
            replay(&mut *twin, &operations, |_, slot| expected.push(slot));
            prop_assert_eq!(picked, expected, "{}", policy.name());
        }
    }

    #[test]
    fn round_robin_visits_every_eligible_slot_before_one_again(operations in operations()) {
        let mut policy = RoundRobin::new();
        let mut loads = [Load::default(); 66];
        replay(&mut policy, &operations, |now, _| loads.copy_from_slice(now));
        // The last operations may have changed loads after the last pick.
        for (slot, load) in loads.iter().enumerate() {
            policy.update(slot, *load);
        }
        let eligible = candidates(&loads);
        for _ in 0..3 {
            let mut round: Vec<_> =
                eligible.iter().map(|_| policy.pick(&Request::default()).unwrap()).collect();
            round.sort_unstable();
            prop_assert_eq!(&round, &eligible);
        }
    }

    #[test]
    fn smooth_weighted_gives_each_slot_exactly_its_weight_per_cycle(weights in weights()) {
        let mut policy = smooth_weighted(&weights);
        for _ in 0..3 {
            let mut counts = vec![0; weights.len()];
            for _ in 0..weights.iter().sum::<u32>() {
                counts[policy.pick(&Request::default()).unwrap()] += 1;
            }
            prop_assert_eq!(&counts, &weights);
        }
    }

    /// With `w` of a total of `t`, a slot never has `2t / (t - w)` or more turns in a row.
    #[test]
    fn smooth_weighted_bounds_the_run_of_a_slot(weights in weights()) {
        let total: u32 = weights.iter().sum();
        let mut policy = smooth_weighted(&weights);
        let (mut last, mut run) = (usize::MAX, 0);
        for _ in 0..2 * total {
            let slot = policy.pick(&Request::default()).unwrap();
            run = if slot == last { run + 1 } else { 1 };
            last = slot;
            prop_assert!(run * (total - weights[slot]) < 2 * total, "{run} times {slot}");
        }
    }

    /// Whatever comes and goes, a slot has been picked as often as its shares add up to, within a
    /// bound that does not grow with time. (An adversary with many slots can force more than this
    /// bound: it is the carpool problem of Fagin and Williams, 1983. Chance does not.)
    #[test]
    fn smooth_weighted_keeps_to_the_shares_while_slots_come_and_go(operations in operations()) {
        let mut policy = SmoothWeighted::new();
        let mut owed = [0.0_f64; 66];
        replay(&mut policy, &operations, |loads, picked| {
            let Some(picked) = picked else { return };
            let slots = candidates(loads);
            let weight = |slot: usize| f64::from(loads[slot].weight);
            let total: f64 = slots.iter().map(|&slot| weight(slot)).sum();
            for slot in slots {
                owed[slot] += weight(slot) / total;
            }
            owed[picked] -= 1.0;
            assert!(owed.iter().all(|owed| owed.abs() < 2.5), "{owed:?}");
        });
    }
}
