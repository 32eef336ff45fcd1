//! Where keys go, how evenly, and how many of them move when something changes.

use scheduler::{
    BoundedHash, ConsistentHash, Load, Maglev, Policy, PolicyKind, PowerOfTwo, Random, Request,
    SourceHash,
};

const FREE: Load =
    Load { can_take: true, weight: 1, connections: 0, connections_max: 0, backup: false };
const FULL: Load = Load { can_take: false, ..FREE };
const KEYS: u64 = 20_000;

fn with_weights<P: Policy>(mut policy: P, weights: &[u32]) -> P {
    for (slot, &weight) in weights.iter().enumerate() {
        policy.update(slot, Load { weight, ..FREE });
    }
    policy
}

fn slots_of(policy: &mut impl Policy) -> Vec<usize> {
    (0..KEYS).map(|key| policy.pick(&Request::new(key)).unwrap()).collect()
}

/// How many of the slots are `slot`.
fn count(slots: &[usize], slot: usize) -> usize {
    slots.iter().filter(|other| **other == slot).count()
}

/// Asserts that each slot has its share, within `percent` of it.
#[track_caller]
fn assert_shares(slots: &[usize], weights: &[u32], percent: f64) {
    let total: u32 = weights.iter().sum();
    for (slot, &weight) in weights.iter().enumerate() {
        let expected = slots.len() as f64 * f64::from(weight) / f64::from(total);
        let error = (count(slots, slot) as f64 - expected).abs() / expected * 100.0;
        assert!(error <= percent, "slot {slot} is {error:.1} % off");
    }
}

/// Asserts that keys moved only from or to the slot, and says how many.
#[track_caller]
fn moved(before: &[usize], after: &[usize], slot: usize) -> usize {
    let moves: Vec<_> = before.iter().zip(after).filter(|(from, to)| from != to).collect();
    assert!(moves.iter().all(|(from, to)| **from == slot || **to == slot));
    moves.len()
}

/// The policies that pick by key alone.
fn by_key() -> [Box<dyn Policy>; 3] {
    [Box::new(SourceHash::new()), Box::new(ConsistentHash::new()), Box::new(Maglev::new())]
}

#[test]
fn keys_are_shared_by_weight() {
    let weights = [5, 3, 1, 1];
    for policy in by_key() {
        let percent = if policy.name() == "consistent-hash" { 25.0 } else { 8.0 };
        assert_shares(&slots_of(&mut with_weights(policy, &weights)), &weights, percent);
    }
    let mut policy = with_weights(Random::new(1), &weights);
    assert_shares(&slots_of(&mut policy), &weights, 8.0);
}

#[test]
fn chance_keeps_to_the_weights_of_what_is_eligible_at_the_time() {
    let mut policy = with_weights(Random::new(7), &[4, 2, 1, 1, 50]);
    policy.update(4, FULL);
    let slots = slots_of(&mut policy);
    assert_shares(&slots, &[4, 2, 1, 1], 6.0);
    policy.update(4, Load { weight: 8, ..FREE });
    assert_shares(&slots_of(&mut policy), &[4, 2, 1, 1, 8], 6.0);
    // One in a thousand: found in the tree, nearly always.
    let mut policy = with_weights(Random::new(7), &[1; 1000]);
    (0..1000).filter(|slot| slot % 500 != 3).for_each(|slot| policy.update(slot, FULL));
    let slots = slots_of(&mut policy);
    assert!(count(&slots, 3).abs_diff(count(&slots, 503)) < 600);
}

#[test]
fn two_choices_even_out_what_chance_leaves() {
    let mut policy = with_weights(PowerOfTwo::new(3), &[1; 100]);
    let two = slots_of(&mut policy);
    let one = slots_of(&mut with_weights(Random::new(3), &[1; 100]));
    let longest = |slots: &[usize]| (0..100).map(|slot| count(slots, slot)).max().unwrap();
    assert!(longest(&two) <= 205 && longest(&one) > 220, "{} {}", longest(&two), longest(&one));
    let weights = [6, 3, 1];
    assert_shares(&slots_of(&mut with_weights(PowerOfTwo::new(3), &weights)), &weights, 2.0);
}

#[test]
fn a_slot_that_cannot_take_moves_its_own_keys_only_and_gets_them_back() {
    for policy in by_key() {
        let mut policy = with_weights(policy, &[1; 10]);
        let before = slots_of(&mut policy);
        policy.update(4, FULL);
        let away = slots_of(&mut policy);
        assert_eq!(moved(&before, &away, 4), count(&before, 4), "{}", policy.name());
        policy.update(4, FREE);
        assert_eq!(slots_of(&mut policy), before, "{}", policy.name());
    }
}

/// That is when the walk over points or entries gives up.
#[test]
fn the_same_holds_when_few_of_many_can_take() {
    for policy in by_key() {
        let mut policy = with_weights(policy, &[1; 600]);
        (4..600).for_each(|slot| policy.update(slot, FULL));
        let four = slots_of(&mut policy);
        assert_shares(&four, &[1; 4], 25.0);
        policy.update(500, FREE);
        let five = slots_of(&mut policy);
        assert!(moved(&four, &five, 500) < four.len() / 3, "{}", policy.name());
    }
}

#[test]
fn consistent_hashing_moves_no_more_keys_than_it_must() {
    let mut policy = with_weights(ConsistentHash::new(), &[2; 10]);
    let before = slots_of(&mut policy);
    policy.update(10, Load { weight: 2, ..FREE });
    let more = slots_of(&mut policy);
    assert_eq!(moved(&before, &more, 10), count(&more, 10));
    assert!(count(&more, 10) < before.len() * 13 / 10 / 11);
    policy.update(3, Load { weight: 1, ..FREE });
    let lighter = slots_of(&mut policy);
    moved(&more, &lighter, 3);
    assert!(count(&lighter, 3) < count(&more, 3));
}

#[test]
fn maglev_moves_few_keys_more_than_it_must() {
    let mut policy = with_weights(Maglev::new(), &[1; 10]);
    let before = slots_of(&mut policy);
    policy.update(10, FREE);
    let after = slots_of(&mut policy);
    let moved = before.iter().zip(&after).filter(|(from, to)| from != to).count();
    let needed = count(&after, 10);
    assert!(needed < before.len() * 11 / 10 / 11);
    assert!(moved <= needed + before.len() / 20, "{moved} moved, {needed} of them to the new slot");
}

#[test]
fn a_bound_holds_whatever_the_keys_are() {
    let weights = [4, 2, 1, 1];
    for percent in [100, 125, 200] {
        let mut policy = with_weights(BoundedHash::with_percent(percent), &weights);
        let mut counts = [0_u32; 4];
        for connections in 1..=1000 {
            let slot = policy.pick(&Request::new(3)).unwrap();
            counts[slot] += 1;
            let bound = (percent * connections * weights[slot]).div_ceil(8 * 100);
            assert!(counts[slot] <= bound, "{counts:?} at {percent} %");
        }
    }
}

#[test]
fn with_room_for_all_a_bound_changes_nothing() {
    let mut bounded = with_weights(BoundedHash::with_percent(10_000), &[1; 8]);
    let mut plain = with_weights(ConsistentHash::new(), &[1; 8]);
    for key in 0..1000 {
        let request = Request::new(key);
        let slot = bounded.pick(&request);
        assert_eq!(slot, plain.pick(&request));
        bounded.update(slot.unwrap(), FREE); // It ends at once.
    }
}

#[test]
fn names_decide_where_points_are() {
    let names = ["10.0.0.1:80", "10.0.0.2:80", "unix:/run/c"];
    let mut named = with_weights(ConsistentHash::with_names(names), &[1; 3]);
    let mut reversed = with_weights(ConsistentHash::with_names(names.into_iter().rev()), &[1; 3]);
    let turned: Vec<_> = slots_of(&mut reversed).into_iter().map(|slot| 2 - slot).collect();
    assert_eq!(slots_of(&mut named), turned);
}

#[test]
fn another_seed_makes_other_picks() {
    for kind in [PolicyKind::Random, PolicyKind::PowerOfTwo] {
        let picks = |seed| slots_of(&mut with_weights(kind.build(seed), &[1; 8]));
        assert_eq!(picks(1), picks(1));
        assert_ne!(picks(1), picks(2));
    }
}
