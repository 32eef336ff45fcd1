use std::cmp::Ordering;

/// What slots are ordered by.
pub(crate) trait Key: Copy {
    fn compare(&self, other: &Self) -> Ordering;
}

/// The slots by their keys, the least first, with an index: a slot's key can be changed wherever it
/// stands. Between equal keys, the lower slot is less.
#[derive(Clone, Debug)]
pub(crate) struct Heap<K> {
    /// Node `n` is less than its children, nodes `2n + 1` and `2n + 2`.
    nodes: Vec<Node<K>>,
    /// Each slot's node.
    indices: Vec<u16>,
}

#[derive(Clone, Copy, Debug)]
struct Node<K> {
    key: K,
    slot: u16,
}

impl<K: Key> Node<K> {
    fn is_less(&self, other: &Self) -> bool {
        self.key.compare(&other.key).then(self.slot.cmp(&other.slot)).is_lt()
    }
}

impl<K: Key> Heap<K> {
    pub(crate) const fn new() -> Self {
        Self { nodes: Vec::new(), indices: Vec::new() }
    }

    pub(crate) fn first(&self) -> Option<(usize, K)> {
        self.nodes.first().map(|node| (node.slot.into(), node.key))
    }

    pub(crate) fn key(&self, slot: usize) -> Option<K> {
        let index = *self.indices.get(slot)?;
        self.nodes.get(usize::from(index)).map(|node| node.key)
    }

    /// Puts the slot in, or where its new key belongs.
    pub(crate) fn set(&mut self, slot: usize, key: K) {
        if slot >= self.indices.len() {
            self.indices.resize(slot + 1, NOWHERE);
            self.nodes.reserve(self.indices.len() - self.nodes.len());
        }
        let node = Node { key, slot: number(slot) };
        let mut index = usize::from(self.indices[slot]);
        if index >= self.nodes.len() {
            index = self.nodes.len();
            self.nodes.push(node);
        }
        self.settle(index, node);
    }

    /// Changes the key of the first slot, which may only become greater.
    pub(crate) fn set_first(&mut self, key: K) {
        let node = Node { key, ..self.nodes[0] };
        self.sink(0, node);
    }

    pub(crate) fn remove(&mut self, slot: usize) {
        let Some(index) = self.indices.get_mut(slot) else { return };
        let index = usize::from(std::mem::replace(index, NOWHERE));
        if index >= self.nodes.len() {
            return;
        }
        let last = self.nodes.pop();
        if let Some(last) = last.filter(|_| index < self.nodes.len()) {
            self.settle(index, last);
        }
    }

    /// Changes all keys.
    pub(crate) fn change(&mut self, mut change: impl FnMut(usize, K) -> K) {
        for node in &mut self.nodes {
            node.key = change(node.slot.into(), node.key);
        }
        for index in (0..self.nodes.len()).rev() {
            self.sink(index, self.nodes[index]);
        }
    }

    /// Puts the node where it belongs, where `index` is free and on its way.
    fn settle(&mut self, index: usize, node: Node<K>) {
        let mut hole = index;
        while hole > 0 {
            let parent = (hole - 1) / 2;
            if !node.is_less(&self.nodes[parent]) {
                break;
            }
            self.put(hole, self.nodes[parent]);
            hole = parent;
        }
        if hole == index { self.sink(hole, node) } else { self.put(hole, node) }
    }

    /// Puts the node where it belongs, at the index or below.
    fn sink(&mut self, mut index: usize, node: Node<K>) {
        loop {
            let mut child = 2 * index + 1;
            let Some(left) = self.nodes.get(child) else { break };
            if let Some(right) = self.nodes.get(child + 1) {
                child += usize::from(right.is_less(left));
            }
            if !self.nodes[child].is_less(&node) {
                break;
            }
            self.put(index, self.nodes[child]);
            index = child;
        }
        self.put(index, node);
    }

    fn put(&mut self, index: usize, node: Node<K>) {
        self.nodes[index] = node;
        self.indices[usize::from(node.slot)] = number(index);
    }
}

fn number(index: usize) -> u16 {
    u16::try_from(index).expect("slots are below SLOTS_MAX")
}

const NOWHERE: u16 = u16::MAX;
