use crate::bits::Bits;
use crate::hash::favourite;
use crate::ring::Ring;
use crate::tiers::{Tier, Tiers};
use crate::{Load, Policy, Request};

/// Picks by the request's key, so that few keys move when slots come, go, or change their weights:
/// only those of a slot that loses some, and those that a slot wins.
///
/// This is nginx's `hash key consistent`, with the points of ketama: 160 on a ring for each unit of
/// weight. A key goes to the slot of the next point on the ring; while that slot can't take, to
/// that of the point after it. Shares are those of the weights within some percent (the more
/// points, the nearer); [`Maglev`](crate::Maglev) deals keys out more evenly, and moves a few more.
///
/// Points depend on a slot's name. By default that is its number; with [names](Self::with_names),
/// the ring is nginx's for servers of these names. A key's place is the CRC-32 of its eight bytes,
/// the lowest first.
///
/// # Implementation notes
///
/// The ring is divided into as many parts as it has points, so that finding one takes a step or
/// two, and not a binary search. A change of weights replaces the points of that slot, when the
/// next pick comes; a slot that can't take keeps its points. After 256 points of slots that can't
/// take, the eligible slot is taken which the key likes best (by rendezvous hashing, which also
/// moves none but the keys that have to). The ring has at most 2^20 points: where weights add up to
/// more than 6553, each slot gets its share of these, and a change moves some more keys.
///
/// # Examples
///
/// ```
/// use scheduler::{ConsistentHash, Load, Policy, Request};
///
/// let mut policy = ConsistentHash::new();
/// let free = Load { can_take: true, ..Load::default() };
/// (0..3).for_each(|slot| policy.update(slot, free));
/// let requests: Vec<_> = (0..1000).map(Request::new).collect();
/// let before: Vec<_> = requests.iter().map(|request| policy.pick(request)).collect();
///
/// policy.update(3, free);
/// for (request, before) in requests.iter().zip(before) {
///     let after = policy.pick(request);
///     assert!(after == before || after == Some(3));
/// }
/// ```
#[derive(Clone, Debug)]
pub struct ConsistentHash {
    tiers: Tiers<Walk>,
}

impl ConsistentHash {
    /// A policy that knows no slot yet, and calls slots by their numbers.
    #[must_use]
    pub const fn new() -> Self {
        Self { tiers: Tiers::new(Walk::new(Vec::new()), Walk::new(Vec::new())) }
    }

    /// The same with the slots' names, in the order of the slots: as nginx would have them, such as
    /// `10.0.0.1:8080` or `unix:/run/app.sock`.
    #[must_use]
    pub fn with_names<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        Self { tiers: Tiers::new(Walk::new(names.clone()), Walk::new(names)) }
    }
}

impl Default for ConsistentHash {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for ConsistentHash {
    fn update(&mut self, slot: usize, load: Load) {
        self.tiers.update(slot, load);
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        self.tiers.pick(request)
    }

    fn name(&self) -> &'static str {
        "consistent-hash"
    }
}

#[derive(Clone, Debug)]
struct Walk {
    ring: Ring,
    eligible: Bits,
}

impl Walk {
    const fn new(names: Vec<String>) -> Self {
        Self { ring: Ring::new(names), eligible: Bits::new() }
    }
}

impl Tier for Walk {
    fn update(&mut self, slot: usize, load: Load) {
        self.ring.set_weight(slot, load.weight);
        self.eligible.set(slot, load.is_eligible());
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        if self.eligible.is_empty() {
            return None;
        }
        if !self.ring.is_built() {
            self.ring.build();
        }
        let mut slots = self.ring.slots_from(request.key).take(WALK_MAX);
        let found = slots.find(|&slot| self.eligible.contains(slot));
        found.or_else(|| favourite(request.key, &self.eligible, |_| true))
    }
}

/// After how many points of slots that can't take another way is taken.
pub(crate) const WALK_MAX: usize = 256;
