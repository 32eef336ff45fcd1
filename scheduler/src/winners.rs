use crate::turns::Turn;

/// What slots are ordered by: the least cost first, and then whose turn it is. No two are equal,
/// because the slot is part of its turn.
///
/// It is one number, because branches would be hard to predict. (Positive floating-point numbers
/// are ordered as their bits are.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(u128);

impl Key {
    /// The cost is not negative.
    pub(crate) fn new(cost: f64, turn: Turn) -> Self {
        Self(u128::from(cost.to_bits()) << 64 | u128::from(turn.0))
    }

    #[allow(clippy::cast_possible_truncation, reason = "the lower half")]
    pub(crate) const fn turn(self) -> Turn {
        Turn(self.0 as u64)
    }

    pub(crate) fn with_turn(self, turn: Turn) -> Self {
        Self(self.0 >> 64 << 64 | u128::from(turn.0))
    }

    /// Of a slot that is not in the tree: greater than those that are.
    const NONE: Self = Self(u128::MAX);
}

/// The slots by their keys, to find the least: a tree of winners.
///
/// Four keys are a group, and the least of each is in a group of the level above. A change goes all
/// the way up, without a branch that depends on what it finds. In a heap it would not go as far,
/// but how far is up to chance, which costs more.
#[derive(Clone, Debug)]
pub(crate) struct Winners {
    /// Each level after the one above it: the keys of group `n` are the least ones of the groups
    /// `4n + 1` to `4n + 4`. The last level is that of the slots.
    groups: Vec<[Key; ARITY]>,
    /// How many groups there are above the slots.
    above: usize,
}

impl Winners {
    pub(crate) const fn new() -> Self {
        Self { groups: Vec::new(), above: 0 }
    }

    pub(crate) fn first(&self) -> Option<Key> {
        self.groups.first().map(least).filter(|key| *key != Key::NONE)
    }

    pub(crate) fn key(&self, slot: usize) -> Option<Key> {
        let key = self.groups.get(self.above + slot / ARITY)?[slot % ARITY];
        (key != Key::NONE).then_some(key)
    }

    /// Puts the key in, instead of the one that its slot had.
    pub(crate) fn set(&mut self, key: Key) {
        let slot = key.turn().slot();
        if self.above + slot / ARITY >= self.groups.len() {
            self.grow(slot);
        }
        self.replace(slot, key);
    }

    pub(crate) fn remove(&mut self, slot: usize) {
        if self.above + slot / ARITY < self.groups.len() {
            self.replace(slot, Key::NONE);
        }
    }

    /// Changes all keys.
    pub(crate) fn change(&mut self, mut change: impl FnMut(Key) -> Key) {
        let keys = self.groups[self.above..].as_flattened_mut().iter_mut();
        keys.filter(|key| **key != Key::NONE).for_each(|key| *key = change(*key));
        self.build();
    }

    fn replace(&mut self, slot: usize, mut key: Key) {
        let (mut group, mut place) = (self.above + slot / ARITY, slot % ARITY);
        loop {
            self.groups[group][place] = key;
            if group == 0 {
                return;
            }
            key = least(&self.groups[group]);
            (group, place) = ((group - 1) / ARITY, (group - 1) % ARITY);
        }
    }

    /// Makes room for the slot.
    #[cold]
    fn grow(&mut self, slot: usize) {
        let keys = self.groups.split_off(self.above.min(self.groups.len()));
        let mut count = 1;
        self.above = 0;
        while count * ARITY <= slot {
            self.above += count;
            count *= ARITY;
        }
        self.groups.clear();
        self.groups.resize(self.above, [Key::NONE; ARITY]);
        self.groups.extend(keys);
        self.groups.resize(self.above + count, [Key::NONE; ARITY]);
        self.build();
    }

    /// Finds the least keys of all groups.
    fn build(&mut self) {
        for group in (1..self.groups.len()).rev() {
            self.groups[(group - 1) / ARITY][(group - 1) % ARITY] = least(&self.groups[group]);
        }
    }
}

fn least(&[a, b, c, d]: &[Key; ARITY]) -> Key {
    a.min(b).min(c.min(d))
}

const ARITY: usize = 4;
