use crate::bits::Bits;
use crate::consistent_hash::WALK_MAX;
use crate::hash::favourite;
use crate::ring::Ring;
use crate::tiers::{Tier, Tiers};
use crate::{Load, Policy, Request};

/// Picks by the request's key as [`ConsistentHash`](crate::ConsistentHash) does, but passes over
/// slots that have more than their share of the connections.
///
/// No slot gets more than 1.25 times (or what [`with_percent`](Self::with_percent) says) the
/// connections that it would have if they were dealt out by weight, rounded up. So a key that
/// everybody asks for does not flood its slot: what is too much goes to the next slots on the ring,
/// and always to the same ones. (Consistent hashing with bounded loads, by Mirrokni, Thorup and
/// Zadimoghaddam 2016; HAProxy's `hash-balance-factor`.)
///
/// A pick counts as one more connection of its slot until the slot's next update.
///
/// # Examples
///
/// ```
/// use scheduler::{BoundedHash, Load, Policy, Request};
///
/// let mut policy = BoundedHash::new();
/// for slot in 0..4 {
///     policy.update(slot, Load { can_take: true, ..Load::default() });
/// }
/// let mut counts = [0; 4];
/// for _ in 0..100 {
///     counts[policy.pick(&Request::new(7)).unwrap()] += 1; // always the same key
/// }
/// counts.sort();
/// assert_eq!(counts, [6, 31, 31, 32]);
/// ```
#[derive(Clone, Debug)]
pub struct BoundedHash {
    tiers: Tiers<Bounded>,
}

impl BoundedHash {
    /// A policy that knows no slot yet, where a slot may have 125 % of its share.
    #[must_use]
    pub const fn new() -> Self {
        Self::with_percent(125)
    }

    /// The same with another bound: how many percent of its share a slot may have. The nearer to
    /// 100, the more evenly connections are dealt out, and the more of them leave their slot.
    ///
    /// # Panics
    ///
    /// When it is less than 100: then there would not be room for all.
    #[must_use]
    pub const fn with_percent(percent: u32) -> Self {
        assert!(percent >= 100, "slots must have room for all connections");
        Self { tiers: Tiers::new(Bounded::new(percent), Bounded::new(percent)) }
    }
}

impl Default for BoundedHash {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for BoundedHash {
    fn update(&mut self, slot: usize, load: Load) {
        self.tiers.update(slot, load);
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        self.tiers.pick(request)
    }

    fn name(&self) -> &'static str {
        "bounded-hash"
    }

    fn uses_connections(&self) -> bool {
        true
    }
}

#[derive(Clone, Debug)]
struct Bounded {
    percent: u32,
    ring: Ring,
    eligible: Bits,
    /// Each slot's connections and weight while it is eligible, else zeros.
    busy: Vec<(u32, u32)>,
    /// The sums of both.
    connections: u64,
    weights: u64,
}

impl Bounded {
    const fn new(percent: u32) -> Self {
        Self {
            percent,
            ring: Ring::new(Vec::new()),
            eligible: Bits::new(),
            busy: Vec::new(),
            connections: 0,
            weights: 0,
        }
    }

    fn set_busy(&mut self, slot: usize, busy: (u32, u32)) {
        let (connections, weight) = std::mem::replace(&mut self.busy[slot], busy);
        self.connections = self.connections - u64::from(connections) + u64::from(busy.0);
        self.weights = self.weights - u64::from(weight) + u64::from(busy.1);
    }

    /// Whether one more connection is within the slot's bound. It is for one slot at least: the
    /// bounds add up to more than there are connections.
    fn has_room(&self, slot: usize) -> bool {
        let (connections, weight) = self.busy[slot];
        // Both sides of `connections < percent / 100 * all * weight / weights`, times 100 weights.
        let bound = u128::from(self.percent) * u128::from(self.connections + 1);
        u128::from(connections) * 100 * u128::from(self.weights) < bound * u128::from(weight)
    }
}

impl Tier for Bounded {
    fn update(&mut self, slot: usize, load: Load) {
        self.ring.set_weight(slot, load.weight);
        if slot >= self.busy.len() {
            self.busy.resize(slot + 1, (0, 0));
        }
        let eligible = load.is_eligible();
        self.eligible.set(slot, eligible);
        self.set_busy(slot, if eligible { (load.connections, load.weight) } else { (0, 0) });
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        if self.eligible.is_empty() {
            return None;
        }
        if !self.ring.is_built() {
            self.ring.build();
        }
        let accept = |slot: &usize| self.eligible.contains(*slot) && self.has_room(*slot);
        let found = self.ring.slots_from(request.key).take(WALK_MAX).find(accept);
        let accept = |slot| self.has_room(slot);
        let slot = found.or_else(|| favourite(request.key, &self.eligible, accept))?;
        let (connections, weight) = self.busy[slot];
        self.set_busy(slot, (connections.saturating_add(1), weight));
        Some(slot)
    }
}
