use crate::turns::Turn;

/// What slots are ordered by: the least cost first, and then whose turn it is. No two are equal,
/// because the slot is part of its turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// Not negative.
    pub(crate) cost: f64,
    pub(crate) turn: Turn,
}

impl Key {
    /// As one number, because branches would be hard to predict. (Positive floating-point numbers
    /// are ordered as their bits are.)
    fn number(&self) -> u128 {
        u128::from(self.cost.to_bits()) << 64 | u128::from(self.turn.0)
    }

    fn is_less(&self, other: &Self) -> bool {
        self.number() < other.number()
    }
}

/// The slots by their keys, the least first, with an index: a slot's key can be changed wherever it
/// stands.
#[derive(Clone, Debug)]
pub(crate) struct Heap {
    /// Each is less than its children: those of number `n` have the four from `4n + 1` on.
    keys: Vec<Key>,
    /// Which key is the slot's.
    indices: Vec<u16>,
}

impl Heap {
    pub(crate) const fn new() -> Self {
        Self { keys: Vec::new(), indices: Vec::new() }
    }

    pub(crate) fn first(&self) -> Option<Key> {
        self.keys.first().copied()
    }

    pub(crate) fn key(&self, slot: usize) -> Option<Key> {
        let index = *self.indices.get(slot)?;
        self.keys.get(usize::from(index)).copied()
    }

    /// Puts the key in, or where it belongs now.
    pub(crate) fn set(&mut self, key: Key) {
        let slot = key.turn.slot();
        if slot >= self.indices.len() {
            self.indices.resize(slot + 1, NOWHERE);
            self.keys.reserve(self.indices.len() - self.keys.len());
        }
        let mut index = usize::from(self.indices[slot]);
        if index >= self.keys.len() {
            index = self.keys.len();
            self.keys.push(key);
        }
        self.settle(index, key);
    }

    /// Changes the key of the first slot, which may only become greater.
    pub(crate) fn set_first(&mut self, key: Key) {
        self.sink(0, key);
    }

    pub(crate) fn remove(&mut self, slot: usize) {
        let Some(index) = self.indices.get_mut(slot) else { return };
        let index = usize::from(std::mem::replace(index, NOWHERE));
        if index >= self.keys.len() {
            return;
        }
        let last = self.keys.pop();
        if let Some(last) = last.filter(|_| index < self.keys.len()) {
            self.settle(index, last);
        }
    }

    /// Changes all keys.
    pub(crate) fn change(&mut self, change: impl FnMut(&mut Key)) {
        self.keys.iter_mut().for_each(change);
        for index in (0..self.keys.len()).rev() {
            self.sink(index, self.keys[index]);
        }
    }

    /// Puts the key where it belongs, where `index` is free and on its way.
    fn settle(&mut self, index: usize, key: Key) {
        let mut hole = index;
        while hole > 0 {
            let parent = (hole - 1) / ARITY;
            if !key.is_less(&self.keys[parent]) {
                break;
            }
            self.put(hole, self.keys[parent]);
            hole = parent;
        }
        if hole == index { self.sink(hole, key) } else { self.put(hole, key) }
    }

    /// Puts the key where it belongs, at the index or below.
    fn sink(&mut self, mut index: usize, key: Key) {
        while let Some((child, least)) = self.least_child(index) {
            if !least.is_less(&key) {
                break;
            }
            self.put(index, least);
            index = child;
        }
        self.put(index, key);
    }

    fn least_child(&self, index: usize) -> Option<(usize, Key)> {
        let first = ARITY * index + 1;
        let children = self.keys.get(first..)?;
        let less = |a: usize, b: usize| {
            // So that it is arithmetic, and not a branch.
            let second = usize::from(children[b].is_less(&children[a]));
            a + (b - a) * second
        };
        let child = match children.len() {
            0 => return None,
            1 => 0,
            2 => less(0, 1),
            3 => less(less(0, 1), 2),
            _ => less(less(0, 1), less(2, 3)),
        };
        Some((first + child, children[child]))
    }

    fn put(&mut self, index: usize, key: Key) {
        self.keys[index] = key;
        self.indices[key.turn.slot()] = u16::try_from(index).expect("slots are below SLOTS_MAX");
    }
}

/// Four children lie in one or two lines of the cache, and make the heap half as deep as two.
const ARITY: usize = 4;

const NOWHERE: u16 = u16::MAX;
