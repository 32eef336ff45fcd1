use crate::hash::Generator;
use crate::sampler::Sampler;
use crate::tiers::{Tier, Tiers};
use crate::{Load, Policy, Request};

/// Picks at random, each slot with a probability in proportion to its weight.
///
/// It keeps no order and needs no counts, so that many who pick on their own, each with another
/// seed, don't all start with the same slot. Shares are exact on average only: of `c` connections,
/// a slot with a share `p` gets `c * p` more or less `sqrt(c * p * (1 - p))`.
///
/// # Implementation notes
///
/// An alias table over the weights answers in one step. Slots that refuse and come back leave it as
/// it is: what it draws is thrown away and drawn again, and after four times found in a tree.
///
/// # Examples
///
/// ```
/// use scheduler::{Load, Policy, Random, Request};
///
/// let mut policy = Random::new(42);
/// for (slot, weight) in [3, 0, 1].into_iter().enumerate() {
///     policy.update(slot, Load { can_take: true, weight, ..Load::default() });
/// }
/// let mut counts = [0; 3];
/// for _ in 0..10_000 {
///     counts[policy.pick(&Request::default()).unwrap()] += 1;
/// }
/// assert!((7300..7700).contains(&counts[0]) && counts[1] == 0);
/// ```
#[derive(Clone, Debug)]
pub struct Random {
    tiers: Tiers<Draw>,
}

impl Random {
    /// A policy that knows no slot yet. The same seed and the same calls give the same picks.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { tiers: Tiers::new(Draw::new(seed), Draw::new(!seed)) }
    }
}

impl Policy for Random {
    fn update(&mut self, slot: usize, load: Load) {
        self.tiers.update(slot, load);
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        self.tiers.pick(request)
    }

    fn name(&self) -> &'static str {
        "random"
    }
}

#[derive(Clone, Debug)]
struct Draw {
    slots: Sampler,
    generator: Generator,
}

impl Draw {
    const fn new(seed: u64) -> Self {
        Self { slots: Sampler::new(), generator: Generator::new(seed) }
    }
}

impl Tier for Draw {
    fn update(&mut self, slot: usize, load: Load) {
        self.slots.update(slot, load);
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        self.slots.draw(&mut self.generator)
    }
}
