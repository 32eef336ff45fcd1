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
/// total of the weights. That is a scan of all slots. But with weights that stay, credits come back
/// to what they were after as many picks as the weights add up to (divided by their greatest common
/// divisor), and from then on everything repeats. So the picks are recorded, and when the credits
/// are back, replayed: a load from a table. A change makes the credits catch up and the record
/// start anew; it never costs more than the picks before it did. Cycles of more than 65536 picks
/// are not recorded.
///
/// A credit is counted in parts of the total: when that changes, nginx lets the old numbers stand,
/// and what was half a connection of 102 parts can become 25 connections of 2 parts. Here the
/// credits are converted to the new total, so that they stay the same number of connections. For
/// this conversion they have a fraction, and credits that differ by less than 2^-32 connections
/// count as equal.
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
        Self { tiers: Tiers::new(Credits::NEW, Credits::NEW) }
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
        let replayed = self.tiers.primaries_mut().replay();
        if replayed.is_some() { replayed } else { self.tiers.pick(request) }
    }

    fn name(&self) -> &'static str {
        "smooth-weighted"
    }
}

#[derive(Clone, Debug)]
struct Credits {
    /// Each slot's weight while it is eligible, else 0.
    weights: Vec<u32>,
    /// The sum of the weights: less than 2^44.
    total: u64,
    /// Whether the total may be another one than at the last pick.
    changed: bool,
    /// How much credit one connection is: the total at the last pick. 0 before the first.
    unit: f64,
    /// What the credits are multiples of: a power of two, at most 1, and such that all numbers up
    /// to 32 units have as many bits as a floating-point number has.
    grain: f64,
    /// What each slot gets at every pick: its weight.
    steps: Vec<f64>,
    /// What each eligible slot is owed, and minus infinity for the others. While a cycle is
    /// replayed, they are those of its start.
    credits: Vec<f64>,
    /// What each slot is owed that is not eligible, in connections.
    resting: Vec<f64>,
    cycle: Cycle,
}

/// The picks from one state of the credits until the same state.
#[derive(Clone, Debug)]
struct Cycle {
    /// As far as they are recorded.
    slots: Vec<u16>,
    /// Which of them is next when the cycle is replayed: at its end none, and otherwise far out of
    /// range.
    next: usize,
    /// How many it will be: 0 if it is not known yet, or too long to be recorded.
    length: usize,
    /// How many picks there have been since a weight has changed, up to the number of slots.
    quiet: usize,
    /// The credits at its start.
    start: Vec<f64>,
}

impl Cycle {
    const NEW: Self =
        Self { slots: Vec::new(), next: usize::MAX, length: 0, quiet: 0, start: Vec::new() };

    fn reset(&mut self) {
        self.slots.clear();
        (self.next, self.length, self.quiet) = (usize::MAX, 0, 0);
    }

    fn start(&mut self, credits: &[f64]) {
        self.slots.clear();
        self.start.clear();
        self.start.extend_from_slice(credits);
    }

    /// Notes a pick that led to these credits.
    fn record(&mut self, slot: u16, credits: &[f64], weights: &[u32]) {
        if self.length > 0 {
            self.slots.push(slot);
            if self.slots.len() == self.length {
                if self.start == credits {
                    self.next = 0;
                } else {
                    // Not there yet, after a change: what was owed before is still being paid.
                    self.start(credits);
                }
            }
        } else if self.quiet < weights.len() {
            self.quiet += 1;
            if self.quiet == weights.len() {
                self.length = cycle_length(weights);
                self.slots.reserve(self.length);
                self.start(credits);
            }
        }
    }
}

/// After how many picks all slots have had their shares exactly, or 0 if that is too many.
fn cycle_length(weights: &[u32]) -> usize {
    let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
    let divisor = weights.iter().fold(0, |divisor, &weight| greatest_divisor(weight, divisor));
    let length = usize::try_from(total / u64::from(divisor.max(1))).unwrap_or(usize::MAX);
    if length <= CYCLE_MAX { length } else { 0 }
}

fn greatest_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Credits {
    const NEW: Self = Self {
        weights: Vec::new(),
        total: 0,
        changed: false,
        unit: 0.0,
        grain: 1.0,
        steps: Vec::new(),
        credits: Vec::new(),
        resting: Vec::new(),
        cycle: Cycle::NEW,
    };

    /// Forgets the cycle; if it is being replayed, after the credits have caught up with it. That
    /// costs no more than the picks did that recorded it.
    fn leave_cycle(&mut self) {
        if let Some(replayed) = self.cycle.slots.get(..self.cycle.next) {
            // What was got and paid is counted in whole numbers. They can be large, where their
            // difference is not: no part of a credit may be rounded away.
            let mut differences: Vec<i64> = self.weights.iter().map(|_| 0).collect();
            let total = i64::try_from(self.total).expect("less than 2^44");
            replayed.iter().for_each(|&slot| differences[usize::from(slot)] -= total);
            let picks = i64::try_from(replayed.len()).expect("at most CYCLE_MAX");
            for (slot, difference) in differences.into_iter().enumerate() {
                let difference = difference + i64::from(self.weights[slot]) * picks;
                self.credits[slot] += difference as f64;
            }
        }
        self.cycle.reset();
    }

    /// Counts in the new total.
    fn adopt_total(&mut self) {
        self.changed = false;
        let unit = self.total as f64;
        if unit == self.unit {
            return;
        }
        let bits = u64::BITS - self.total.leading_zeros(); // 45 at most
        self.grain = power_of_half(f64::MANTISSA_DIGITS - bits - 5);
        let round = self.rounder();
        if self.unit != 0.0 {
            let ratio = unit / self.unit;
            self.credits.iter_mut().for_each(|credit| *credit = round(*credit * ratio));
        }
        self.unit = unit;
    }

    /// Rounds to a whole number of grains: what is added is so large that no smaller part of a
    /// number is kept.
    fn rounder(&self) -> impl Fn(f64) -> f64 + use<> {
        let large = 1.5 / f64::EPSILON * self.grain;
        move |credit| (credit + large) - large
    }

    /// The next pick of a cycle that is replayed, except for the first.
    fn replay(&mut self) -> Option<usize> {
        let slot = *self.cycle.slots.get(self.cycle.next)?;
        self.cycle.next += 1;
        Some(slot.into())
    }

    /// Picks as nginx does, or begins the cycle again. Apart from the replay, which has no more to
    /// do than it needs.
    #[inline(never)]
    fn scan(&mut self) -> Option<usize> {
        if self.cycle.next == self.cycle.slots.len() {
            self.cycle.next = 0;
            return self.replay();
        }
        if self.total == 0 {
            return None;
        }
        if self.changed {
            self.adopt_total();
        }
        let enough = self.pay() - self.unit * TIE;
        let slot = self.credits.iter().position(|&credit| credit >= enough)?;
        self.credits[slot] -= self.unit;
        let number = u16::try_from(slot).expect("slots are below SLOTS_MAX");
        self.cycle.record(number, &self.credits, &self.weights);
        Some(slot)
    }

    /// Gives all slots their credit, and returns the highest.
    fn pay(&mut self) -> f64 {
        // In lanes, since the compiler may not change the order of comparisons by itself.
        let mut highest = [f64::NEG_INFINITY; LANES];
        let (credits, credits_rest) = self.credits.as_chunks_mut::<LANES>();
        let (steps, steps_rest) = self.steps.as_chunks::<LANES>();
        for (credits, steps) in credits.iter_mut().zip(steps) {
            for lane in 0..LANES {
                credits[lane] += steps[lane];
                highest[lane] = larger(credits[lane], highest[lane]);
            }
        }
        for (credit, step) in credits_rest.iter_mut().zip(steps_rest) {
            *credit += step;
            highest[0] = larger(*credit, highest[0]);
        }
        highest.into_iter().fold(f64::NEG_INFINITY, larger)
    }
}

impl Tier for Credits {
    fn update(&mut self, slot: usize, load: Load) {
        let weight = if load.is_eligible() { load.weight } else { 0 };
        if slot >= self.weights.len() {
            self.leave_cycle();
            self.weights.resize(slot + 1, 0);
            self.steps.resize(slot + 1, 0.0);
            self.credits.resize(slot + 1, f64::NEG_INFINITY);
            self.resting.resize(slot + 1, 0.0);
        }
        let known = self.weights[slot];
        if known == weight {
            return;
        }
        self.leave_cycle();
        self.weights[slot] = weight;
        self.changed = true;
        self.total = self.total - u64::from(known) + u64::from(weight);
        self.steps[slot] = f64::from(weight);
        if known == 0 {
            self.credits[slot] = self.rounder()(self.resting[slot] * self.unit);
        } else if weight == 0 {
            let credit = std::mem::replace(&mut self.credits[slot], f64::NEG_INFINITY);
            self.resting[slot] = if self.unit == 0.0 { 0.0 } else { credit / self.unit };
        }
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        self.replay().or_else(|| self.scan())
    }
}

/// As one instruction has it: `f64::max` knows more about what is not a number.
fn larger(a: f64, b: f64) -> f64 {
    if a > b { a } else { b }
}

/// 2 to the power of `-exponent`, which is less than a thousand.
fn power_of_half(exponent: u32) -> f64 {
    f64::from_bits(u64::from(1023 - exponent) << (f64::MANTISSA_DIGITS - 1))
}

/// How many credits are compared at once.
const LANES: usize = 4;

/// Credits nearer than this, in connections, are a tie that rounding has parted.
const TIE: f64 = 1.0 / (1_u64 << 32) as f64;

/// Longer cycles are not recorded. (This much is 128 KiB.)
const CYCLE_MAX: usize = 1 << 16;

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
