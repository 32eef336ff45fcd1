use std::collections::{BTreeSet, VecDeque};

/// Whose turn it is, among channels that may have something to give. Pure.
///
/// Each has one turn a round, in the order in which they became ready, and gives at most a budget
/// of messages in it; what it has left waits for the next round. Who becomes ready between two
/// rounds comes before those that had a turn. So between two messages of one channel that is never
/// empty, each other one gives at most two budgets.
#[derive(Debug)]
pub(super) struct Rota<K> {
    budget: usize,
    /// Whose turn it is, and how much of the budget is left: at least one.
    current: Option<(K, usize)>,
    /// Who has a turn in this round still.
    this_round: VecDeque<K>,
    /// Who has had its turn, and was not finished.
    next_round: VecDeque<K>,
    /// All of these: nobody stands in line twice.
    in_line: BTreeSet<K>,
}

impl<K: Copy + Ord> Rota<K> {
    pub(super) fn new(budget: usize) -> Self {
        Self {
            budget: budget.max(1),
            current: None,
            this_round: VecDeque::new(),
            next_round: VecDeque::new(),
            in_line: BTreeSet::new(),
        }
    }

    /// Sets what each may give in its next turns, at least one.
    pub(super) fn set_budget(&mut self, budget: usize) {
        self.budget = budget.max(1);
    }

    /// This one may have something to give. Nothing changes if it is in line already.
    pub(super) fn ready(&mut self, key: K) {
        if self.in_line.insert(key) {
            self.this_round.push_back(key);
        }
    }

    /// Whose turn it is.
    pub(super) fn current(&self) -> Option<K> {
        self.current.map(|(key, _left)| key)
    }

    /// Passes the turn on; false when the round is over.
    pub(super) fn next_turn(&mut self) -> bool {
        if self.current.is_none() {
            self.current = self.this_round.pop_front().map(|key| (key, self.budget));
        }
        self.current.is_some()
    }

    /// Begins a round, for those that became ready, and then those that were not finished.
    pub(super) fn next_round(&mut self) {
        self.this_round.append(&mut self.next_round);
    }

    /// Whether anybody is in line.
    pub(super) fn is_empty(&self) -> bool {
        self.in_line.is_empty()
    }

    /// Whose turn it is has given a message.
    pub(super) fn gave(&mut self) {
        let Some((key, left)) = self.current else { return };
        self.current = Some((key, left - 1));
        if left == 1 {
            self.current = None;
            self.next_round.push_back(key);
        }
    }

    /// Whose turn it is has nothing more to give.
    pub(super) fn finished(&mut self) {
        if let Some((key, _left)) = self.current.take() {
            self.in_line.remove(&key);
        }
    }

    /// Takes this one out of the line.
    pub(super) fn remove(&mut self, key: K) {
        if self.in_line.remove(&key) {
            self.current = self.current.filter(|(current, _left)| *current != key);
            self.this_round.retain(|other| *other != key);
            self.next_round.retain(|other| *other != key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Channels as counts of messages, and a poll that knows who has become ready.
    struct World {
        rota: Rota<u8>,
        stock: BTreeMap<u8, usize>,
        news: Vec<u8>,
    }

    impl World {
        fn new(budget: usize) -> Self {
            Self { rota: Rota::new(budget), stock: BTreeMap::new(), news: Vec::new() }
        }

        /// As with an edge-triggered poll, only what arrives is told, not what is there.
        fn arrive(&mut self, key: u8, count: usize) {
            *self.stock.entry(key).or_default() += count;
            self.news.push(key);
        }

        /// What a set does to find the next message.
        fn next(&mut self) -> Option<u8> {
            loop {
                while let Some(key) = self.rota.current() {
                    match self.stock.get_mut(&key) {
                        Some(count) if *count > 0 => {
                            *count -= 1;
                            self.rota.gave();
                            return Some(key);
                        }
                        _ => self.rota.finished(),
                    }
                }
                if !self.rota.next_turn() {
                    if self.rota.is_empty() && self.news.is_empty() {
                        return None;
                    }
                    self.news.drain(..).for_each(|key| self.rota.ready(key));
                    self.rota.next_round();
                }
            }
        }
    }

    #[test]
    fn f41_turns_go_round_in_the_order_of_becoming_ready() {
        let mut world = World::new(2);
        for (key, count) in [(3, 5), (1, 1), (2, 3)] {
            world.arrive(key, count);
        }
        let order: Vec<u8> = std::iter::from_fn(|| world.next()).collect();
        assert_eq!(order, [3, 3, 1, 2, 2, 3, 3, 2, 3]);
    }

    #[test]
    fn f41_who_becomes_ready_comes_before_who_had_a_turn() {
        let mut world = World::new(2);
        world.arrive(1, 100);
        assert_eq!((world.next(), world.next()), (Some(1), Some(1)));
        world.arrive(2, 1);
        assert_eq!((world.next(), world.next()), (Some(2), Some(1)));
    }

    #[test]
    fn who_is_removed_has_no_turn_and_may_come_back() {
        let mut rota = Rota::new(1);
        [1, 2, 3].into_iter().for_each(|key| rota.ready(key));
        assert!(rota.next_turn());
        rota.remove(1);
        rota.remove(3);
        assert_eq!(rota.current(), None);
        rota.ready(1);
        assert!(rota.next_turn());
        assert_eq!(rota.current(), Some(2));
        rota.finished();
        assert!(rota.next_turn());
        assert_eq!(rota.current(), Some(1));
        rota.finished();
        assert!(!rota.next_turn() && rota.is_empty());
    }

    proptest! {
        #[test]
        fn f41_nothing_is_forgotten_and_nobody_waits_for_more_than_two_budgets_of_another(
            budget in 1..5_usize,
            steps in vec((0..6_u8, 0..9_usize, 0..12_usize), 1..60),
        ) {
            let mut world = World::new(budget);
            let mut sent = BTreeMap::<u8, usize>::new();
            let mut given = BTreeMap::<u8, usize>::new();
            // For each, how many messages of each other came since it had something to give.
            let mut waits = BTreeMap::<u8, BTreeMap<u8, usize>>::new();
            let calm = std::iter::repeat_n((0, 0, 1000), 1);
            for (key, count, takes) in steps.into_iter().chain(calm) {
                if count > 0 {
                    world.arrive(key, count);
                    *sent.entry(key).or_default() += count;
                    waits.entry(key).or_default();
                }
                for _ in 0..takes {
                    let Some(from) = world.next() else { break };
                    *given.entry(from).or_default() += 1;
                    for (waiting, wait) in &mut waits {
                        let count = wait.entry(from).or_default();
                        *count += usize::from(*waiting != from);
                        prop_assert!(*count <= 2 * budget, "{waiting} waits for {from}");
                    }
                    waits.remove(&from);
                    if world.stock[&from] > 0 {
                        waits.entry(from).or_default();
                    }
                    let places = world.rota.this_round.len() + world.rota.next_round.len();
                    prop_assert!(places <= 6, "bounded by the number of channels");
                }
            }
            prop_assert_eq!(given, sent);
            prop_assert!(world.rota.is_empty());
        }
    }
}
