//! What must hold for any sequence of calls.

mod twin;

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use scheduler::{ClassicWeighted, Load, Outcome, Policy, PolicyKind, Request, SmoothWeighted};

#[derive(Clone, Debug)]
enum Operation {
    Update(usize, Load),
    /// A request of this key, so many milliseconds later.
    Pick(u64, u64),
    /// The last picked slot is full.
    Refuse,
    /// So many connections took so many milliseconds on average; 0 is a failure.
    Report(usize, u32, u64),
}

const SLOTS: usize = 66;

/// Some slots in each of the first two words of a set of bits, and the border between them.
fn slot() -> impl Strategy<Value = usize> {
    prop_oneof![0..6_usize, 62..SLOTS]
}

fn load(weight: impl Strategy<Value = u32>) -> impl Strategy<Value = Load> {
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

fn operations_of(weight: impl Strategy<Value = u32>) -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        4 => (slot(), load(weight)).prop_map(|(slot, load)| Operation::Update(slot, load)),
        10 => (0..12_u64, 0..400_u64).prop_map(|(key, ms)| Operation::Pick(key, ms)),
        2 => Just(Operation::Refuse),
        3 => (slot(), 0..20_u32, 1..300_u64).prop_map(|(slot, count, ms)| {
            Operation::Report(slot, count, ms)
        }),
    ];
    vec(operation, 0..200)
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    operations_of(prop_oneof![8 => 0..6_u32, 1 => Just(100), 1 => any::<u32>()])
}

/// Such that a ring of them is built in no time.
fn operations_with_small_weights() -> impl Strategy<Value = Vec<Operation>> {
    operations_of(0..4_u32)
}

/// Weights of slots that all can take, 1 to 8 of them.
fn weights() -> impl Strategy<Value = Vec<u32>> {
    vec(prop_oneof![4 => 1..8_u32, 1 => 1..60_u32], 1..9)
}

fn fill(policy: &mut dyn Policy, weights: &[u32]) {
    for (slot, &weight) in weights.iter().enumerate() {
        policy.update(slot, Load { can_take: true, weight, ..Load::default() });
    }
}

fn pick(policy: &mut dyn Policy) -> usize {
    policy.pick(&Request::default()).expect("a slot is eligible")
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

/// Applies the operations; `check` sees the loads (by slot) and the answer of each pick.
fn replay(
    policy: &mut dyn Policy,
    operations: &[Operation],
    mut check: impl FnMut(&[Load], Option<usize>),
) {
    let mut loads = [Load { can_take: false, ..Load::default() }; SLOTS];
    let mut last = None;
    let mut now = Duration::ZERO;
    for operation in operations {
        match operation {
            Operation::Update(slot, load) => {
                loads[*slot] = *load;
                policy.update(*slot, *load);
            }
            Operation::Pick(key, ms) => {
                now += Duration::from_millis(*ms);
                last = policy.pick(&Request::new(*key).at(now));
                check(&loads, last);
            }
            Operation::Refuse => {
                if let Some(slot) = last {
                    loads[slot].can_take = false;
                    policy.update(slot, loads[slot]);
                }
            }
            Operation::Report(slot, 0, _) => policy.report(*slot, &Outcome::failure(now)),
            Operation::Report(slot, connections, ms) => {
                let time = Duration::from_millis(*ms);
                policy.report(*slot, &Outcome::new(now, time, *connections));
            }
        }
    }
}

fn picks(policy: &mut dyn Policy, operations: &[Operation]) -> Vec<Option<usize>> {
    let mut picks = Vec::new();
    replay(policy, operations, |_, picked| picks.push(picked));
    picks
}

/// Never a slot that can't take, and one whenever one can.
fn assert_contract(policy: &mut dyn Policy, operations: &[Operation]) {
    let name = policy.name();
    replay(policy, operations, |loads, picked| match picked {
        Some(slot) => assert!(candidates(loads).contains(&slot), "{name}: {slot}"),
        None => assert_eq!(candidates(loads), [], "{name}"),
    });
}

fn assert_equals_twin([mut policy, mut twin]: twin::Pair, operations: &[Operation]) {
    let [picked, expected] = [&mut policy, &mut twin].map(|policy| picks(policy, operations));
    assert_eq!(picked, expected, "{}", policy.name());
}

proptest! {
    #[test]
    fn a_pick_is_eligible_and_there_is_one_whenever_a_slot_is(operations in operations()) {
        for [mut policy, _] in twin::pairs() {
            assert_contract(&mut *policy, &operations);
        }
        for mut policy in twin::loners() {
            assert_contract(&mut *policy, &operations);
        }
        for mut policy in twin::failovers() {
            let name = policy.name();
            replay(&mut *policy, &operations, |loads, picked| match picked {
                Some(slot) => assert!(loads[slot].is_eligible(), "{name}: {slot}"),
                None => assert_eq!(candidates(loads), [], "{name}"),
            });
        }
    }

    #[test]
    fn each_policy_equals_its_naive_twin(operations in operations()) {
        for pair in twin::pairs() {
            assert_equals_twin(pair, &operations);
        }
    }

    #[test]
    fn the_same_calls_give_the_same_picks(operations in operations()) {
        let all = || twin::loners().into_iter().chain(twin::failovers());
        for (mut one, mut other) in all().zip(all()) {
            prop_assert_eq!(picks(&mut *one, &operations), picks(&mut *other, &operations));
        }
    }

    #[test]
    fn round_robin_visits_every_eligible_slot_before_one_again(operations in operations()) {
        let mut policy = PolicyKind::RoundRobin.build(0);
        let mut loads = [Load::default(); SLOTS];
        replay(&mut *policy, &operations, |now, _| loads.copy_from_slice(now));
        // The last operations may have changed loads after the last pick.
        for (slot, load) in loads.iter().enumerate() {
            policy.update(slot, *load);
        }
        let eligible = candidates(&loads);
        for _ in 0..3 {
            let mut round: Vec<_> = eligible.iter().map(|_| pick(&mut *policy)).collect();
            round.sort_unstable();
            prop_assert_eq!(&round, &eligible);
        }
    }

    #[test]
    fn round_robin_by_weight_gives_each_slot_exactly_its_weight_per_cycle(weights in weights()) {
        let policies: [Box<dyn Policy>; 2] =
            [Box::new(SmoothWeighted::new()), Box::new(ClassicWeighted::new())];
        for mut policy in policies {
            fill(&mut *policy, &weights);
            for _ in 0..3 {
                let mut counts = vec![0; weights.len()];
                (0..weights.iter().sum::<u32>()).for_each(|_| counts[pick(&mut *policy)] += 1);
                prop_assert_eq!(&counts, &weights);
            }
        }
    }

    /// With `w` of a total of `t`, a slot never has `2t / (t - w)` or more turns in a row.
    #[test]
    fn smooth_weighted_bounds_the_run_of_a_slot(weights in weights()) {
        let total: u32 = weights.iter().sum();
        let mut policy = SmoothWeighted::new();
        fill(&mut policy, &weights);
        let (mut last, mut run) = (usize::MAX, 0);
        for _ in 0..2 * total {
            let slot = pick(&mut policy);
            run = if slot == last { run + 1 } else { 1 };
            last = slot;
            prop_assert!(run * (total - weights[slot]) < 2 * total, "{run} times {slot}");
        }
    }

    /// The levels above the second largest weight belong to the largest alone; and where a cycle
    /// ends with it, the next one begins with it.
    #[test]
    fn classic_weighted_bounds_the_run_of_a_slot(weights in weights()) {
        prop_assume!(weights.len() > 1);
        let mut sorted = weights.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let run_max = sorted[0] - sorted[1] + 2;
        let mut policy = ClassicWeighted::new();
        fill(&mut policy, &weights);
        let (mut last, mut run) = (usize::MAX, 0);
        for _ in 0..2 * weights.iter().sum::<u32>() {
            let slot = pick(&mut policy);
            run = if slot == last { run + 1 } else { 1 };
            last = slot;
            prop_assert!(run <= run_max, "{run} times {slot}");
        }
    }

    /// Whatever comes and goes, a slot has been picked as often as its shares add up to, within a
    /// bound that does not grow with time. (An adversary with many slots can force more than this
    /// bound: it is the carpool problem of Fagin and Williams, 1983. Chance does not.)
    #[test]
    fn smooth_weighted_keeps_to_the_shares_while_slots_come_and_go(operations in operations()) {
        let mut policy = SmoothWeighted::new();
        let mut owed = [0.0_f64; SLOTS];
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

    /// While nothing is open, only whose turn it is decides.
    #[test]
    fn least_connections_shares_ties_by_weight(weights in weights()) {
        let mut policy = PolicyKind::LeastConnections.build(0);
        fill(&mut *policy, &weights);
        let total = weights.iter().sum::<u32>();
        let mut counts = vec![0_u32; weights.len()];
        for _ in 0..5 * total {
            let slot = pick(&mut *policy);
            counts[slot] += 1;
            let weight = weights[slot];
            policy.update(slot, Load { can_take: true, weight, ..Load::default() });
        }
        for (count, weight) in counts.iter().zip(&weights) {
            prop_assert!(count.abs_diff(5 * weight) <= 1, "{counts:?} for {weights:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn each_policy_with_a_ring_equals_its_twin(operations in operations_with_small_weights()) {
        for pair in twin::ring_pairs() {
            assert_equals_twin(pair, &operations);
        }
        for [mut policy, _] in twin::ring_pairs() {
            assert_contract(&mut *policy, &operations);
        }
    }
}

#[test]
fn every_kind_is_total_without_slots_and_when_all_are_full() {
    for kind in PolicyKind::ALL {
        let mut policy = kind.build(7);
        assert_eq!(policy.name(), kind.name());
        assert_eq!(policy.pick(&Request::new(1)), None, "{kind}");
        policy.report(3, &Outcome::failure(Duration::ZERO));
        fill(&mut *policy, &[1, 0, 2]);
        for _ in 0..2 {
            let slot = policy.pick(&Request::new(1)).expect("two are eligible");
            policy.update(slot, Load { can_take: false, ..Load::default() });
        }
        assert_eq!(policy.pick(&Request::new(1)), None, "{kind}");
        policy.update(1, Load { can_take: true, backup: true, ..Load::default() });
        assert_eq!(policy.pick(&Request::new(1)), Some(1), "{kind}: the backup stands in");
        policy.update(2, Load { can_take: true, ..Load::default() });
        assert_eq!(policy.pick(&Request::new(2)), Some(2), "{kind}: the backup goes");
    }
}
