use crate::bits::Bits;
use crate::hash::{attempt, favourite, mix, scale};
use crate::tiers::{Tier, Tiers};
use crate::{Load, Policy, Request};

/// Picks by the request's key from a table in which every slot has its share almost exactly, and
/// keeps most of it when others come and go.
///
/// This is the table of Google's Maglev (Eisenbud and others, 2016): each slot has an order of its
/// own in which it would like to have the 65537 entries, and they take turns (by weight) until all
/// are taken. Each gets its share within an entry or two. When a slot comes or changes its weight,
/// the keys move that it wins or loses, and a few percent more.
///
/// A slot that can't take keeps its entries: its keys, and none else, go to others until it can.
///
/// # Implementation notes
///
/// The table is built when the next pick comes after weights have changed, in about a millisecond.
/// A key whose slot can't take looks at the next 32 entries, and then for the eligible slot that it
/// likes best. With 1000 slots a slot has 65 entries, and its share is exact within 2 %.
///
/// # Examples
///
/// ```
/// use scheduler::{Load, Maglev, Policy, Request};
///
/// let mut policy = Maglev::new();
/// for (slot, weight) in [1, 3].into_iter().enumerate() {
///     policy.update(slot, Load { can_take: true, weight, ..Load::default() });
/// }
/// let keys_of = |policy: &mut Maglev, slot| {
///     (0..10_000).filter(|&key| policy.pick(&Request::new(key)) == Some(slot)).count()
/// };
/// assert!((2300..2700).contains(&keys_of(&mut policy, 0)));
/// ```
#[derive(Clone, Debug)]
pub struct Maglev {
    tiers: Tiers<Table>,
}

impl Maglev {
    /// A policy that knows no slot yet, with a table of 65537 entries: as large as Maglev's smaller
    /// one.
    #[must_use]
    pub const fn new() -> Self {
        Self::with_entries(65_537)
    }

    /// The same with so many entries: the more, the more exact are the shares, and the fewer keys
    /// move that needn't; and the more memory it takes (two bytes an entry), and time. A hundred
    /// times the number of slots is good.
    ///
    /// # Panics
    ///
    /// When it is not a prime number: slots must be able to go through all entries in steps of any
    /// length.
    #[must_use]
    pub const fn with_entries(count: u32) -> Self {
        assert!(is_prime(count), "the number of entries must be prime");
        Self { tiers: Tiers::new(Table::new(count), Table::new(count)) }
    }
}

impl Default for Maglev {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for Maglev {
    fn update(&mut self, slot: usize, load: Load) {
        self.tiers.update(slot, load);
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        self.tiers.pick(request)
    }

    fn name(&self) -> &'static str {
        "maglev"
    }
}

#[derive(Clone, Debug)]
struct Table {
    eligible: Bits,
    weights: Vec<u32>,
    /// How many entries there are.
    count: u32,
    /// Whose each is.
    entries: Vec<u16>,
    /// Whether the entries are those of the weights.
    built: bool,
}

/// A slot's order of entries, `start`, `start + skip` and so on, and how much of it is behind.
#[derive(Clone, Copy)]
struct Wishes {
    slot: u16,
    next: usize,
    skip: usize,
    weight: u64,
    /// Of how many parts of a turn the slot is owed, of as many as the highest weight.
    due: u64,
}

impl Wishes {
    fn new(slot: usize, weight: u32, count: u32) -> Self {
        let hash = mix(slot as u64 + 1);
        let in_range = |number, bound: u32| {
            usize::try_from(scale(number, bound.into())).expect("less than the number of entries")
        };
        Self {
            slot: u16::try_from(slot).expect("slots are below SLOTS_MAX"),
            next: in_range(hash, count),
            skip: 1 + in_range(mix(hash), count - 1),
            weight: weight.into(),
            due: 0,
        }
    }

    /// Takes the entry that it likes best of those that are free. There is one.
    fn take(&mut self, entries: &mut [u16]) {
        while entries[self.next] != FREE {
            self.next = (self.next + self.skip) % entries.len();
        }
        entries[self.next] = self.slot;
    }
}

impl Table {
    const fn new(count: u32) -> Self {
        let weights = Vec::new();
        Self { eligible: Bits::new(), weights, count, entries: Vec::new(), built: false }
    }

    fn build(&mut self) {
        self.entries.clear();
        self.entries.resize(self.count as usize, FREE);
        self.built = true;
        let known = self.weights.iter().enumerate().filter(|(_, weight)| **weight > 0);
        let wishes = known.map(|(slot, weight)| Wishes::new(slot, *weight, self.count));
        let mut wishes: Vec<_> = wishes.collect();
        let Some(highest) = wishes.iter().map(|wishes| wishes.weight).max() else { return };
        let mut free = self.count;
        loop {
            for wishes in &mut wishes {
                wishes.due += wishes.weight;
                if wishes.due >= highest {
                    wishes.due -= highest;
                    wishes.take(&mut self.entries);
                    free -= 1;
                    if free == 0 {
                        return;
                    }
                }
            }
        }
    }
}

impl Table {
    /// For a key whose slot, that of the entry at this place, is not eligible.
    #[cold]
    fn pick_another(&self, key: u64, place: usize) -> Option<usize> {
        let (before, here) = self.entries.split_at(place);
        let slots = here.iter().chain(before).map(|&slot| usize::from(slot));
        let found = slots.take(WALK_MAX).find(|&slot| self.eligible.contains(slot));
        found.or_else(|| favourite(key, &self.eligible, |_| true))
    }
}

impl Tier for Table {
    fn update(&mut self, slot: usize, load: Load) {
        if slot >= self.weights.len() {
            self.weights.resize(slot + 1, 0);
        }
        if self.weights[slot] != load.weight {
            self.weights[slot] = load.weight;
            self.built = false;
        }
        self.eligible.set(slot, load.is_eligible());
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        if self.eligible.is_empty() {
            return None;
        }
        if !self.built {
            self.build();
        }
        let place = usize::try_from(scale(attempt(request.key, 0), self.count.into())).ok()?;
        let slot = usize::from(self.entries[place]);
        if self.eligible.contains(slot) {
            Some(slot)
        } else {
            self.pick_another(request.key, place)
        }
    }
}

const fn is_prime(number: u32) -> bool {
    let mut divisor = 2;
    while divisor <= number / divisor {
        if number.is_multiple_of(divisor) {
            return false;
        }
        divisor += 1;
    }
    number > 1
}

/// No slot has this number.
const FREE: u16 = u16::MAX;

/// After how many entries of slots that can't take another way is taken.
const WALK_MAX: usize = 32;
