use crate::bits::Bits;
use crate::tiers::{Tier, Tiers};
use crate::{Load, Policy, Request};

/// Picks by weight in the classic way: the largest weight first, one is taken off it, and so on
/// until all are zero; then all over again.
///
/// With the weights 5, 1 and 1 the slots a, b and c are picked as `aaaaabc`, with 3, 2 and 1 as
/// `aababc`. While loads don't change, every cycle (as many picks as the weights add up to) gives
/// each slot exactly its weight; a slot has no more turns in a row than its weight exceeds the
/// second largest by, and two. [`SmoothWeighted`](crate::SmoothWeighted) has shorter runs, and is
/// the better choice unless the sequence itself matters. Between equals the lowest slot wins. A
/// slot with weight 0 is never picked.
///
/// A cycle runs through levels, from the largest weight down to 1, and each level through all slots
/// whose weight is at least that. When slots come and go the cycle stands where it is: a slot that
/// comes takes part from where the cycle is now, and levels without slots are left out.
///
/// # Examples
///
/// ```
/// use scheduler::{ClassicWeighted, Load, Policy, Request};
///
/// let mut policy = ClassicWeighted::new();
/// for (slot, weight) in [3, 2, 1].into_iter().enumerate() {
///     policy.update(slot, Load { can_take: true, weight, ..Load::default() });
/// }
/// let picked = [(); 6].map(|()| policy.pick(&Request::default()).unwrap());
/// assert_eq!(picked, [0, 0, 1, 0, 1, 2]);
/// ```
#[derive(Clone, Debug)]
pub struct ClassicWeighted {
    tiers: Tiers<Levels>,
}

impl ClassicWeighted {
    /// A policy that knows no slot yet; its first pick is the slot with the highest weight.
    #[must_use]
    pub const fn new() -> Self {
        Self { tiers: Tiers::new(Levels::NEW, Levels::NEW) }
    }
}

impl Default for ClassicWeighted {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for ClassicWeighted {
    fn update(&mut self, slot: usize, load: Load) {
        self.tiers.update(slot, load);
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        self.tiers.pick(request)
    }

    fn name(&self) -> &'static str {
        "classic-weighted"
    }
}

#[derive(Clone, Debug)]
struct Levels {
    /// Each slot's weight while it is eligible, else 0.
    weights: Vec<u32>,
    /// The eligible slots by weight, the largest first, and the lowest slot first among equals.
    order: Vec<u16>,
    /// Between two levels it is 0, and no slot is open.
    level: u32,
    /// The slots whose weight is at least the level: the first `open_count` of the order.
    open: Bits,
    open_count: usize,
    /// Where the level goes on: after the last picked slot.
    next: usize,
}

impl Levels {
    const NEW: Self = Self {
        weights: Vec::new(),
        order: Vec::new(),
        level: 0,
        open: Bits::new(),
        open_count: 0,
        next: 0,
    };

    /// Where the slot is in the order, or belongs.
    fn find(&self, slot: usize) -> Result<usize, usize> {
        let weight = self.weights[slot];
        self.order.binary_search_by(|&other| {
            let other = usize::from(other);
            weight.cmp(&self.weights[other]).then(other.cmp(&slot))
        })
    }

    /// Goes down to the next level that has a slot, or up to the first level of a new cycle. There
    /// is an eligible slot.
    fn turn(&mut self) {
        let highest = self.weights[usize::from(self.order[0])];
        if self.level <= 1 {
            self.open.clear();
            self.open_count = 0;
            self.level = highest;
        } else {
            self.level = highest.min(self.level - 1);
        }
        while let Some(&slot) = self.order.get(self.open_count)
            && self.weights[usize::from(slot)] >= self.level
        {
            self.open.set(slot.into(), true);
            self.open_count += 1;
        }
        self.next = 0;
    }
}

impl Tier for Levels {
    fn update(&mut self, slot: usize, load: Load) {
        let weight = if load.is_eligible() { load.weight } else { 0 };
        if slot >= self.weights.len() {
            self.weights.resize(slot + 1, 0);
            let missing = self.weights.len() - self.order.len();
            self.order.reserve(missing);
        }
        if self.weights[slot] == weight {
            return;
        }
        if let Ok(index) = self.find(slot) {
            self.order.remove(index);
            if self.open.set(slot, false) {
                self.open_count -= 1;
            }
        }
        self.weights[slot] = weight;
        if weight > 0
            && let Err(index) = self.find(slot)
        {
            self.order.insert(index, u16::try_from(slot).expect("slots are below SLOTS_MAX"));
            if self.level > 0 && weight >= self.level {
                self.open.set(slot, true);
                self.open_count += 1;
            }
        }
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        if self.order.is_empty() {
            return None;
        }
        let slot = self.open.first_from(self.next).or_else(|| {
            self.turn();
            self.open.first_from(0)
        })?;
        self.next = slot + 1;
        Some(slot)
    }
}
