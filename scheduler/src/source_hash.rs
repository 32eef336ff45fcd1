use crate::alias::Alias;
use crate::bits::Bits;
use crate::hash::{attempt, favourite};
use crate::tiers::{Tier, Tiers};
use crate::{Load, Policy, Request};

/// Picks by the request's key, each slot for a share of the keys in proportion to its weight.
///
/// The same key goes to the same slot while the weights stay. A slot that can't take passes its
/// keys on, to others in proportion to their weights, and gets them back when it can; all other
/// keys stay where they are. But when a weight changes, or a slot comes for the first time, most
/// keys move, as with nginx's `ip_hash` and `hash`: where that matters, use
/// [`ConsistentHash`](crate::ConsistentHash) or [`Maglev`](crate::Maglev).
///
/// # Implementation notes
///
/// The key is scrambled, and found in an alias table over the weights of all slots, eligible or
/// not. While it finds one that isn't, it is scrambled once more, up to 20 times as in nginx; after
/// that, the eligible slot is taken which the key likes best.
///
/// # Examples
///
/// ```
/// use scheduler::{Load, Policy, Request, SourceHash};
///
/// let mut policy = SourceHash::new();
/// let free = Load { can_take: true, ..Load::default() };
/// for slot in 0..4 {
///     policy.update(slot, free);
/// }
/// let client = Request::new(0xc0a8_0001);
/// let slot = policy.pick(&client).unwrap();
/// assert_eq!(policy.pick(&client), Some(slot));
///
/// policy.update(slot, Load { can_take: false, ..free });
/// assert_ne!(policy.pick(&client), Some(slot));
/// policy.update(slot, free);
/// assert_eq!(policy.pick(&client), Some(slot));
/// ```
#[derive(Clone, Debug)]
pub struct SourceHash {
    tiers: Tiers<Shares>,
}

impl SourceHash {
    /// A policy that knows no slot yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { tiers: Tiers::new(Shares::NEW, Shares::NEW) }
    }
}

impl Default for SourceHash {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for SourceHash {
    fn update(&mut self, slot: usize, load: Load) {
        self.tiers.update(slot, load);
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        self.tiers.pick(request)
    }

    fn name(&self) -> &'static str {
        "source-hash"
    }
}

#[derive(Clone, Debug)]
struct Shares {
    eligible: Bits,
    weights: Vec<u32>,
    table: Alias,
    /// Whether the table is that of the weights.
    built: bool,
}

impl Shares {
    const NEW: Self =
        Self { eligible: Bits::new(), weights: Vec::new(), table: Alias::new(), built: false };
}

impl Shares {
    /// For a key whose first slot is not eligible.
    #[cold]
    fn pick_another(&self, key: u64) -> Option<usize> {
        if self.eligible.is_empty() {
            return None;
        }
        let attempts = (1..ATTEMPTS).filter_map(|number| self.table.slot(attempt(key, number)));
        let found = { attempts }.find(|&slot| self.eligible.contains(slot));
        found.or_else(|| favourite(key, &self.eligible, |_| true))
    }
}

impl Tier for Shares {
    fn update(&mut self, slot: usize, load: Load) {
        if slot >= self.weights.len() {
            self.weights.resize(slot + 1, 0);
            self.built = false;
        }
        if self.weights[slot] != load.weight {
            self.weights[slot] = load.weight;
            self.built = false;
        }
        self.eligible.set(slot, load.is_eligible());
    }

    #[inline]
    fn pick(&mut self, request: &Request) -> Option<usize> {
        if !self.built {
            self.table.build(&self.weights);
            self.built = true;
        }
        let slot = self.table.slot(attempt(request.key, 0))?;
        if self.eligible.contains(slot) { Some(slot) } else { self.pick_another(request.key) }
    }
}

/// As many as nginx makes.
const ATTEMPTS: u64 = 20;
