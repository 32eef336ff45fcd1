use crate::Load;
use crate::alias::Alias;
use crate::bits::Bits;
use crate::hash::{Generator, scale};

/// Draws eligible slots at random, each with its weight.
///
/// A table of all weights answers in one step as long as what it draws is eligible. Slots that come
/// and go leave the table as it is; when it draws one that is away a few times, a tree of the
/// eligible weights answers, in a step for each of its levels. Both draw exactly by weight, so it
/// does not matter who answers. A new weight puts the table out of use until there have been as
/// many draws as there are slots, so that changes never cost more than the draws between them.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    eligible: Bits,
    weights: Vec<u32>,
    table: Alias,
    /// How many draws from now the table is built; 0 if it is up to date.
    stale: usize,
    /// The sums of eligible weights: node `n` is the sum of `2n` and `2n + 1`, and the slots are
    /// the leaves, in the second half.
    sums: Vec<u64>,
}

impl Sampler {
    pub(crate) const fn new() -> Self {
        Self {
            eligible: Bits::new(),
            weights: Vec::new(),
            table: Alias::new(),
            stale: 0,
            sums: Vec::new(),
        }
    }

    pub(crate) fn update(&mut self, slot: usize, load: Load) {
        if slot >= self.weights.len() {
            self.grow(slot + 1);
        }
        if self.weights[slot] != load.weight {
            self.weights[slot] = load.weight;
            self.stale = self.weights.len();
        } else if self.eligible.contains(slot) == load.is_eligible() {
            return;
        }
        self.eligible.set(slot, load.is_eligible());
        let mut node = self.sums.len() / 2 + slot;
        self.sums[node] = if load.is_eligible() { load.weight.into() } else { 0 };
        while node > 1 {
            node /= 2;
            self.sums[node] = self.sums[2 * node] + self.sums[2 * node + 1];
        }
    }

    /// A slot, or `None` when none is eligible.
    pub(crate) fn draw(&mut self, generator: &mut Generator) -> Option<usize> {
        if self.eligible.is_empty() {
            return None;
        }
        if self.is_table_ready() {
            for _ in 0..TRIES {
                let slot = self.table.slot(generator.next())?;
                if self.eligible.contains(slot) {
                    return Some(slot);
                }
            }
        }
        Some(self.slot_at(scale(generator.next(), self.sums[1])))
    }

    /// Two different slots, of which the second is `None` when only one is eligible.
    pub(crate) fn draw_two(&mut self, generator: &mut Generator) -> Option<(usize, Option<usize>)> {
        if self.stale > 0 {
            return self.draw_two_slowly(generator);
        }
        let places = generator.next();
        #[allow(clippy::cast_possible_truncation, reason = "the two halves")]
        let [first, second] =
            [(places >> 32) as u32, places as u32].map(|place| self.table.slot_coarse(place));
        let is_eligible = |slot: &usize| self.eligible.contains(*slot);
        let Some(first) = first.filter(is_eligible) else { return self.draw_two_slowly(generator) };
        match second.filter(|second| *second != first && is_eligible(second)) {
            Some(second) => Some((first, Some(second))),
            None => Some((first, self.draw_other(first, generator))),
        }
    }

    #[inline(never)]
    fn draw_two_slowly(&mut self, generator: &mut Generator) -> Option<(usize, Option<usize>)> {
        let first = self.draw(generator)?;
        Some((first, self.draw_other(first, generator)))
    }

    /// One of the others, if there is another one.
    #[inline(never)]
    fn draw_other(&mut self, first: usize, generator: &mut Generator) -> Option<usize> {
        if self.stale == 0 {
            for _ in 0..TRIES {
                let slot = self.table.slot(generator.next())?;
                if slot != first && self.eligible.contains(slot) {
                    return Some(slot);
                }
            }
        }
        let mut node = self.sums.len() / 2 + first;
        let (own, mut before) = (self.sums[node], 0);
        if own == self.sums[1] {
            return None;
        }
        while node > 1 {
            before += if node % 2 == 1 { self.sums[node - 1] } else { 0 };
            node /= 2;
        }
        let place = scale(generator.next(), self.sums[1] - own);
        Some(self.slot_at(if place < before { place } else { place + own }))
    }

    /// Makes room for slots below `count`, and for some more.
    #[cold]
    fn grow(&mut self, count: usize) {
        self.weights.resize(count, 0);
        self.stale = count;
        let leaves = count.next_power_of_two();
        if 2 * leaves == self.sums.len() {
            return;
        }
        self.sums = vec![0; 2 * leaves];
        for slot in self.eligible.iter() {
            self.sums[leaves + slot] = self.weights[slot].into();
        }
        for node in (1..leaves).rev() {
            self.sums[node] = self.sums[2 * node] + self.sums[2 * node + 1];
        }
    }

    fn is_table_ready(&mut self) -> bool {
        if self.stale == 0 {
            return true;
        }
        self.stale -= 1;
        if self.stale == 0 {
            self.table.build(&self.weights);
        }
        self.stale == 0
    }

    /// The slot that has the place when each lies as wide as its weight. The place is less than
    /// the sum of all.
    fn slot_at(&self, mut place: u64) -> usize {
        let leaves = self.sums.len() / 2;
        let mut node = 1;
        while node < leaves {
            node *= 2;
            let left = self.sums[node];
            let right = place >= left;
            place -= if right { left } else { 0 };
            node += usize::from(right);
        }
        node - leaves
    }
}

/// How often the table is asked before the tree.
const TRIES: u32 = 4;
