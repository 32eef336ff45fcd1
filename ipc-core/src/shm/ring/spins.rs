//! How long a side looks for what it waits for, before it sleeps.

use std::hint;

use super::Violation;
use super::core::Attempt;
use super::core::layout::Slot;

/// How many looks there are in a wait by default: they take about as long as a sleep, and the
/// wake-up from it on a processor that has nothing else to do.
pub(super) const SPINS_MAX: u32 = 2000;

/// So many waits at most go to sleep at once, before one looks again: what such a look costs in
/// vain is then little, shared among them all.
const SKIPS_MAX: u32 = 1023;

/// Whether to look, and for how long.
///
/// A wait looks for as long as it may, or not at all. What pays is not known beforehand: a peer on
/// the same processor does not answer while this side looks, one that sleeps has to be woken first,
/// and both may have become so accustomed to the other's sleep that only a long look finds out that
/// it would answer at once. So each look in vain, in a row, doubles the number of waits without
/// one, and one that finds something ends that.
#[derive(Debug)]
pub(super) struct Spins {
    max: u32,
    /// Waits that go to sleep at once before the next look.
    skips_left: u32,
    /// As many as there were before the last one.
    skips: u32,
}

impl Spins {
    pub(super) fn new(max: u32) -> Self {
        Self { max, skips_left: 0, skips: 0 }
    }

    /// Looks for a moment, or just once.
    #[inline]
    pub(super) fn spin(&mut self, side: &mut impl Attempt) -> Result<Option<Slot>, Violation> {
        if let Some(slot) = side.attempt()? {
            return Ok(Some(slot));
        }
        if self.skips_left > 0 {
            self.skips_left -= 1;
            return Ok(None);
        }
        for _ in 0..self.max {
            hint::spin_loop();
            if let Some(slot) = side.attempt()? {
                self.skips = 0;
                return Ok(Some(slot));
            }
        }
        self.skips = (self.skips * 2 + 1).min(SKIPS_MAX);
        self.skips_left = self.skips;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// Finds something at one of its looks, or never.
    struct Side {
        looks: u32,
        found_at: u32,
    }

    impl Attempt for Side {
        fn attempt(&mut self) -> Result<Option<Slot>, Violation> {
            self.looks += 1;
            Ok((self.looks == self.found_at).then(|| Slot::new(0, 8, 0)))
        }

        fn wait_word(&self) -> &AtomicU32 {
            unreachable!("nobody sleeps here")
        }
    }

    /// The looks of a wait, the first of which is in any case.
    fn looks(spins: &mut Spins, found_at: u32) -> u32 {
        let mut side = Side { looks: 0, found_at };
        let found = spins.spin(&mut side).expect("no violation");
        assert_eq!(found.is_some(), side.looks == found_at);
        side.looks
    }

    const NEVER: u32 = u32::MAX;

    #[test]
    fn a_peer_that_never_answers_in_time_is_looked_for_less_and_less() {
        let mut spins = Spins::new(SPINS_MAX);
        let waits = 100_000;
        let total: u32 = (0..waits).map(|_| looks(&mut spins, NEVER) - 1).sum();
        assert!((SPINS_MAX..waits * 3).contains(&total), "{total} looks in {waits} waits");
    }

    #[test]
    fn a_peer_that_answers_in_time_again_is_looked_for_again_soon_and_then_always() {
        let mut spins = Spins::new(SPINS_MAX);
        for _ in 0..100_000 {
            looks(&mut spins, NEVER);
        }
        let slept = (0..).take_while(|_| looks(&mut spins, SPINS_MAX) != SPINS_MAX).count();
        assert!(slept <= SKIPS_MAX as usize, "{slept} waits");
        assert!((0..1000).all(|_| looks(&mut spins, SPINS_MAX) == SPINS_MAX));
    }

    #[test]
    fn one_look_in_vain_changes_little() {
        let mut spins = Spins::new(SPINS_MAX);
        assert_eq!(looks(&mut spins, NEVER), SPINS_MAX + 1);
        assert_eq!(looks(&mut spins, 100), 1, "the next wait sleeps");
        assert_eq!(looks(&mut spins, 100), 100, "and no other");
        assert_eq!(looks(&mut spins, NEVER), SPINS_MAX + 1);
    }

    #[test]
    fn who_is_not_to_spin_does_not() {
        let mut spins = Spins::new(0);
        assert!((0..1000).all(|_| looks(&mut spins, 2) == 1));
    }
}
