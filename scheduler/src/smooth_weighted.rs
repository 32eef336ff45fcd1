use crate::tiers::{Tier, Tiers};
use crate::{Load, Policy, Request};

/// Picks each slot in proportion to its weight, and spreads its turns evenly over time.
///
/// This is nginx's smooth weighted round-robin: with the weights 5, 1 and 1 the slots a, b and c
/// are picked as `aabacaa`, not as `aaaaabc`. While loads don't change, every cycle (as many picks
/// as the weights add up to) gives each slot exactly its weight. Between equals the lowest slot
/// wins. A slot with weight 0 is never picked.
///
/// It differs from nginx when slots come and go, or change their weights: over any history, the
/// number of a slot's picks stays within one or two of the sum of its shares at each pick. A slot
/// that returns has neither a burst nor a penalty before it, and time spent away is not made up
/// for. A pick that the slot refuses counts as its turn.
///
/// # Implementation notes
///
/// Each pick adds every eligible slot's weight to its credit; the highest credit wins and pays the
/// total of the weights. A credit is thus counted in parts of the total: when that changes, nginx
/// lets the old numbers stand, and what was half a connection of 102 parts can become 25
/// connections of 2 parts. Here the credits are converted to the new total, so that they stay the
/// same number of connections.
///
/// Credits are floating-point for this conversion. Until the first one they are whole numbers far
/// below 2^53, hence exact; after it the error is in the order of 10^-16 connections per pick, and
/// credits that differ by less than 2^-32 connections count as equal.
///
/// # Examples
///
/// ```
/// use scheduler::{Load, Policy, Request, SmoothWeighted};
///
/// let mut policy = SmoothWeighted::new();
/// for (slot, weight) in [5, 1, 1].into_iter().enumerate() {
///     policy.update(slot, Load { can_take: true, weight, ..Load::default() });
/// }
/// let picked = [(); 7].map(|()| policy.pick(&Request::default()).unwrap());
/// assert_eq!(picked, [0, 0, 1, 0, 2, 0, 0]);
/// ```
#[derive(Clone, Debug)]
pub struct SmoothWeighted {
    tiers: Tiers<Credits>,
}

impl SmoothWeighted {
    /// A policy that knows no slot yet; its first pick is the slot with the highest weight.
    #[must_use]
    pub const fn new() -> Self {
        Self { tiers: Tiers::new(Credits::new(), Credits::new()) }
    }
}

impl Default for SmoothWeighted {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for SmoothWeighted {
    fn update(&mut self, slot: usize, load: Load) {
        self.tiers.update(slot, load);
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        self.tiers.pick(request)
    }

    fn name(&self) -> &'static str {
        "smooth-weighted"
    }
}

#[derive(Clone, Debug)]
struct Credits {
    slots: Vec<Slot>,
    /// The sum of the slots' weights: a whole number of at most 2^44, so it is exact.
    total: f64,
    /// The total that the credits are counted in: `unit` of credit is one connection.
    unit: f64,
}

/// A slot's weight while it is eligible, else 0; and what it is owed.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    weight: f64,
    credit: f64,
}

impl Credits {
    const fn new() -> Self {
        Self { slots: Vec::new(), total: 0.0, unit: 1.0 }
    }
}

impl Tier for Credits {
    fn update(&mut self, slot: usize, load: Load) {
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, Slot::default());
        }
        let weight = if load.is_eligible() { f64::from(load.weight) } else { 0.0 };
        self.total += weight - self.slots[slot].weight;
        self.slots[slot].weight = weight;
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        if self.total == 0.0 {
            return None;
        }
        // Here rather than in `update`: changes that cancel out before the next pick cost nothing.
        if self.unit != self.total {
            let ratio = self.total / self.unit;
            self.slots.iter_mut().for_each(|slot| slot.credit *= ratio);
            self.unit = self.total;
        }
        let margin = self.total * TIE;
        let (mut best, mut best_credit) = (0, f64::NEG_INFINITY);
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.weight > 0.0 {
                slot.credit += slot.weight;
                if slot.credit > best_credit + margin {
                    (best, best_credit) = (index, slot.credit);
                }
            }
        }
        self.slots[best].credit -= self.total;
        Some(best)
    }
}

/// Credits nearer than this, in connections, are a tie that rounding has parted. It is too small
/// to part whole numbers while the weights add up to less than its inverse.
const TIE: f64 = 1.0 / (1_u64 << 32) as f64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SLOTS_MAX;

    const FREE: Load = Load { can_take: true, ..FULL };
    const FULL: Load =
        Load { can_take: false, weight: 1, connections: 0, connections_max: 0, backup: false };

    fn with_weights(weights: &[u32]) -> SmoothWeighted {
        let mut policy = SmoothWeighted::new();
        for (slot, &weight) in weights.iter().enumerate() {
            policy.update(slot, Load { weight, ..FREE });
        }
        policy
    }

    /// The picks as letters, `a` for slot 0 and `-` for none.
    fn picks(policy: &mut SmoothWeighted, count: usize) -> String {
        let letter = |slot: usize| char::from(b'a' + u8::try_from(slot).unwrap());
        (0..count).map(|_| policy.pick(&Request::default()).map_or('-', letter)).collect()
    }

    #[test]
    fn the_weights_5_1_1_give_the_published_sequence_in_every_cycle() {
        let mut policy = with_weights(&[5, 1, 1]);
        assert_eq!(picks(&mut policy, 14), "aabacaaaabacaa");
    }

    #[test]
    fn equal_weights_rotate_and_the_lowest_slot_wins_a_tie() {
        assert_eq!(picks(&mut with_weights(&[1, 1, 1]), 6), "abcabc");
        assert_eq!(picks(&mut with_weights(&[7, 7]), 4), "abab");
        assert_eq!(picks(&mut with_weights(&[3, 1]), 8), "aabaaaba");
    }

    #[test]
    fn weight_zero_is_never_picked_even_when_alone() {
        assert_eq!(picks(&mut with_weights(&[0, 2, 1]), 6), "bcbbcb");
        assert_eq!(picks(&mut with_weights(&[0]), 2), "--");
    }

    #[test]
    fn a_refused_pick_goes_to_the_next_slot_and_counts_as_a_turn() {
        let mut policy = with_weights(&[1, 1, 1]);
        assert_eq!(picks(&mut policy, 1), "a");
        policy.update(0, FULL);
        assert_eq!(picks(&mut policy, 1), "b");
        policy.update(0, FREE);
        assert_eq!(picks(&mut policy, 7), "cbcabca");
    }

    #[test]
    fn nothing_is_lost_while_no_slot_can_take() {
        let mut policy = with_weights(&[5, 1, 1]);
        assert_eq!(picks(&mut policy, 3), "aab");
        (0..3).for_each(|slot| policy.update(slot, FULL));
        assert_eq!(picks(&mut policy, 2), "--");
        for (slot, weight) in [5, 1, 1].into_iter().enumerate() {
            policy.update(slot, Load { weight, ..FREE });
        }
        assert_eq!(picks(&mut policy, 4), "acaa");
    }

    /// nginx gives `c` 51 connections in a row here: it is one connection ahead of `b` in a total
    /// of 102, and that is worth 51 connections in a total of 2.
    #[test]
    fn the_others_share_evenly_when_a_heavy_slot_goes() {
        let mut policy = with_weights(&[100, 1, 1]);
        assert_eq!(picks(&mut policy, 35), "a".repeat(34) + "b");
        policy.update(0, FULL);
        assert_eq!(picks(&mut policy, 6), "cbcbcb");
    }

    #[test]
    fn the_largest_weights_in_all_slots_are_exact() {
        let mut policy = with_weights(&[u32::MAX; SLOTS_MAX]);
        for expected in (0..SLOTS_MAX).chain(0..SLOTS_MAX) {
            assert_eq!(policy.pick(&Request::default()), Some(expected));
        }
    }

    #[test]
    #[should_panic(expected = "slot 4096 is out of range: a policy holds 4096 slots")]
    fn an_index_out_of_range_is_a_bug_of_the_caller() {
        SmoothWeighted::new().update(SLOTS_MAX, FREE);
    }
}
