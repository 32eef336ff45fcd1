use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// At most one point in time for each key. Pure: it is told what time it is.
#[derive(Debug)]
pub(super) struct Timers<K> {
    times: BTreeMap<K, Instant>,
    order: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Ord> Timers<K> {
    pub(super) fn new() -> Self {
        Self { times: BTreeMap::new(), order: BTreeSet::new() }
    }

    /// Starts the timer of this key, instead of one that runs already.
    pub(super) fn start(&mut self, key: K, at: Instant) {
        self.stop(key);
        self.times.insert(key, at);
        self.order.insert((at, key));
    }

    pub(super) fn stop(&mut self, key: K) {
        if let Some(at) = self.times.remove(&key) {
            self.order.remove(&(at, key));
        }
    }

    pub(super) fn is_running(&self, key: K) -> bool {
        self.times.contains_key(&key)
    }

    /// When the first one is over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _key)| *at)
    }

    /// Takes out a timer that is over.
    pub(super) fn pop(&mut self, now: Instant) -> Option<K> {
        let (_at, key) = *self.order.first().filter(|(at, _key)| *at <= now)?;
        self.stop(key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timers_are_over_in_order_once_and_not_when_stopped() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::new();
        for (key, ms) in [('a', 30), ('b', 10), ('c', 20), ('d', 10)] {
            timers.start(key, at(ms));
        }
        timers.stop('c');
        timers.start('d', at(40));
        assert!(timers.is_running('d') && !timers.is_running('c'));
        assert_eq!((timers.next(), timers.pop(at(9))), (Some(at(10)), None));
        assert_eq!((timers.pop(at(10)), timers.pop(at(10))), (Some('b'), None));
        assert_eq!((timers.pop(at(50)), timers.pop(at(50))), (Some('a'), Some('d')));
        assert_eq!((timers.pop(at(50)), timers.next()), (None, None));
    }
}
