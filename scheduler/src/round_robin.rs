use crate::tiers::{Tier, Tiers};
use crate::{Load, Policy, Request};

/// Picks the slots in turn, in the order of their numbers.
///
/// Each connection goes to the first eligible slot after the last picked one, and from the highest
/// back to the lowest. Weights don't matter, except that 0 takes a slot out.
///
/// A slot that comes, goes, or refuses changes nothing for the others: the rotation stands where
/// the last pick left it.
///
/// # Implementation notes
///
/// The eligible slots are a sorted list, so that a pick takes the next one of it. A slot that comes
/// or goes makes those above it move by one place.
///
/// # Examples
///
/// ```
/// use scheduler::{Load, Policy, Request, RoundRobin};
///
/// let mut policy = RoundRobin::new();
/// for slot in [0, 1, 3] {
///     policy.update(slot, Load { can_take: true, ..Load::default() });
/// }
/// let picked = [(); 5].map(|()| policy.pick(&Request::default()));
/// assert_eq!(picked, [Some(0), Some(1), Some(3), Some(0), Some(1)]);
/// ```
#[derive(Clone, Debug)]
pub struct RoundRobin {
    tiers: Tiers<Rotation>,
}

impl RoundRobin {
    /// A policy that knows no slot yet; its first pick is the lowest slot that can take.
    #[must_use]
    pub const fn new() -> Self {
        Self { tiers: Tiers::new(Rotation::NEW, Rotation::NEW) }
    }
}

impl Default for RoundRobin {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for RoundRobin {
    fn update(&mut self, slot: usize, load: Load) {
        self.tiers.update(slot, load);
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        self.tiers.pick(request)
    }

    fn name(&self) -> &'static str {
        "round-robin"
    }
}

#[derive(Clone, Debug)]
struct Rotation {
    /// The eligible slots in ascending order.
    slots: Vec<u16>,
    /// Which of them is next; when it is none, the first is.
    index: usize,
    /// The slot after the last picked one: where the rotation stands while slots come and go.
    next: u16,
}

impl Rotation {
    const NEW: Self = Self { slots: Vec::new(), index: 0, next: 0 };
}

impl Tier for Rotation {
    fn update(&mut self, slot: usize, load: Load) {
        let slot = u16::try_from(slot).expect("slots are below SLOTS_MAX");
        match (self.slots.binary_search(&slot), load.is_eligible()) {
            (Err(index), true) => self.slots.insert(index, slot),
            (Ok(index), false) => _ = self.slots.remove(index),
            _ => return,
        }
        self.index = self.slots.partition_point(|&slot| slot < self.next);
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        let slot = match self.slots.get(self.index) {
            Some(&slot) => slot,
            None => {
                self.index = 0;
                *self.slots.first()?
            }
        };
        self.index += 1;
        self.next = slot + 1;
        Some(slot.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SLOTS_MAX;

    const FREE: Load = Load { can_take: true, ..FULL };
    const FULL: Load =
        Load { can_take: false, weight: 1, connections: 0, connections_max: 0, backup: false };

    fn with_slots(slots: impl IntoIterator<Item = usize>) -> RoundRobin {
        let mut policy = RoundRobin::new();
        for slot in slots {
            policy.update(slot, FREE);
        }
        policy
    }

    fn picks(policy: &mut RoundRobin, count: usize) -> Vec<Option<usize>> {
        (0..count).map(|_| policy.pick(&Request::default())).collect()
    }

    #[test]
    fn rotates_in_index_order_whatever_the_order_of_the_updates() {
        let mut policy = with_slots([2, 0, 1]);
        assert_eq!(picks(&mut policy, 4), [Some(0), Some(1), Some(2), Some(0)]);
    }

    #[test]
    fn crosses_words_and_wraps_at_the_last_slot() {
        let mut policy = with_slots([63, 64, 200, SLOTS_MAX - 1]);
        let expected = [63, 64, 200, SLOTS_MAX - 1, 63].map(Some);
        assert_eq!(picks(&mut policy, 5), expected);
    }

    #[test]
    fn a_refused_pick_goes_to_the_next_slot_and_the_rotation_goes_on_from_there() {
        let mut policy = with_slots(0..4);
        assert_eq!(picks(&mut policy, 2), [Some(0), Some(1)]);
        policy.update(1, FULL);
        assert_eq!(picks(&mut policy, 1), [Some(2)]);
        policy.update(1, FREE);
        assert_eq!(picks(&mut policy, 4), [Some(3), Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn when_all_refused_the_rotation_stands_where_it_stood() {
        let mut policy = with_slots(0..3);
        assert_eq!(picks(&mut policy, 2), [Some(0), Some(1)]);
        for expected in [2, 0, 1] {
            assert_eq!(picks(&mut policy, 1), [Some(expected)]);
            policy.update(expected, FULL);
        }
        assert_eq!(picks(&mut policy, 2), [None, None]);
        for slot in 0..3 {
            policy.update(slot, FREE);
        }
        assert_eq!(picks(&mut policy, 3), [Some(2), Some(0), Some(1)]);
    }

    #[test]
    fn weights_do_not_matter_except_that_zero_is_never_picked() {
        let mut policy = with_slots(0..3);
        policy.update(0, Load { weight: 9, ..FREE });
        policy.update(1, Load { weight: 0, ..FREE });
        assert_eq!(picks(&mut policy, 3), [Some(0), Some(2), Some(0)]);
        policy.update(0, FULL);
        policy.update(2, FULL);
        assert_eq!(picks(&mut policy, 1), [None]);
    }

    #[test]
    #[should_panic(expected = "slot 4096 is out of range: a policy holds 4096 slots")]
    fn an_index_out_of_range_is_a_bug_of_the_caller() {
        RoundRobin::new().update(SLOTS_MAX, FREE);
    }
}
