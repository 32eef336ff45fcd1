use crate::hash::Generator;
use crate::sampler::Sampler;
use crate::tiers::{Tier, Tiers};
use crate::{Load, Policy, Request};

/// Draws two slots at random by weight, and picks the one with fewer connections for its weight.
///
/// That second choice makes the longest queue shorter by an order of magnitude (Mitzenmacher
/// 1996), at a cost that does not grow with the slots. And where the counts are old, or many pick
/// on their own, it is better than [`LeastConnections`](crate::LeastConnections): they don't all
/// run to the slot that was the least busy. nginx calls it `random two least_conn`.
///
/// A pick counts as one more connection of its slot until the slot's next update.
///
/// # Examples
///
/// ```
/// use scheduler::{Load, Policy, PowerOfTwo, Request};
///
/// let mut policy = PowerOfTwo::new(42);
/// for (slot, connections) in [7, 0].into_iter().enumerate() {
///     policy.update(slot, Load { can_take: true, connections, ..Load::default() });
/// }
/// // Of two slots, both are drawn always.
/// assert_eq!([(); 6].map(|()| policy.pick(&Request::default())), [Some(1); 6]);
/// ```
#[derive(Clone, Debug)]
pub struct PowerOfTwo {
    tiers: Tiers<Choices>,
}

impl PowerOfTwo {
    /// A policy that knows no slot yet. The same seed and the same calls give the same picks.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { tiers: Tiers::new(Choices::new(seed), Choices::new(!seed)) }
    }
}

impl Policy for PowerOfTwo {
    fn update(&mut self, slot: usize, load: Load) {
        self.tiers.update(slot, load);
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        self.tiers.pick(request)
    }

    fn name(&self) -> &'static str {
        "power-of-two"
    }

    fn uses_connections(&self) -> bool {
        true
    }
}

#[derive(Clone, Debug)]
struct Choices {
    slots: Sampler,
    generator: Generator,
    /// Each slot's connections and weight.
    busy: Vec<(u32, u32)>,
}

impl Choices {
    const fn new(seed: u64) -> Self {
        Self { slots: Sampler::new(), generator: Generator::new(seed), busy: Vec::new() }
    }
}

impl Tier for Choices {
    fn update(&mut self, slot: usize, load: Load) {
        self.slots.update(slot, load);
        if slot >= self.busy.len() {
            self.busy.resize(slot + 1, (0, 0));
        }
        self.busy[slot] = (load.connections, load.weight);
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        let (mut slot, other) = self.slots.draw_two(&mut self.generator)?;
        if let Some(other) = other {
            let [(own, weight), (others, others_weight)] =
                [slot, other].map(|slot| self.busy[slot]);
            // Both sides of `others / others_weight < own / weight`, times both weights.
            let is_less_busy =
                u64::from(others) * u64::from(weight) < u64::from(own) * u64::from(others_weight);
            slot = if is_less_busy { other } else { slot };
        }
        self.busy[slot].0 = self.busy[slot].0.saturating_add(1);
        Some(slot)
    }
}
