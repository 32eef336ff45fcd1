/// A set of slots, in which the next one from anywhere is found in three steps at most.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits {
    /// Bit `slot % 64` of word `slot / 64` is set while the slot is in the set.
    words: Vec<u64>,
    /// Bit `w` is set while word `w` is not 0. A word has room for all: `SLOTS_MAX` is 64 * 64.
    summary: u64,
}

impl Bits {
    pub(crate) const fn new() -> Self {
        Self { words: Vec::new(), summary: 0 }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.summary == 0
    }

    pub(crate) fn contains(&self, slot: usize) -> bool {
        self.words.get(slot / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// Puts the slot in or takes it out, and says whether that changed anything.
    pub(crate) fn set(&mut self, slot: usize, present: bool) -> bool {
        let (index, bit) = (slot / 64, 1 << (slot % 64));
        if index >= self.words.len() {
            if !present {
                return false;
            }
            self.words.resize(index + 1, 0);
        }
        let word = &mut self.words[index];
        let changed = (*word & bit != 0) != present;
        *word = if present { *word | bit } else { *word & !bit };
        self.summary = self.summary & !(1 << index) | u64::from(*word != 0) << index;
        changed
    }

    pub(crate) fn clear(&mut self) {
        self.words.fill(0);
        self.summary = 0;
    }

    /// The first slot of the set at `start` or above.
    pub(crate) fn first_from(&self, start: usize) -> Option<usize> {
        let index = start / 64;
        let word = self.words.get(index)? & (!0 << (start % 64));
        if word != 0 {
            return Some(index * 64 + word.trailing_zeros() as usize);
        }
        let above = self.summary & (!0 << index) & !(1 << index);
        if above == 0 {
            return None;
        }
        let index = above.trailing_zeros() as usize;
        Some(index * 64 + self.words[index].trailing_zeros() as usize)
    }

    /// The slots of the set in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let next = |slot: &usize| self.first_from(slot + 1);
        std::iter::successors(self.first_from(0), next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SLOTS_MAX;

    #[test]
    fn finds_the_next_slot_across_words_and_holes() {
        let mut bits = Bits::new();
        let slots = [0, 63, 64, 200, SLOTS_MAX - 1];
        for slot in slots {
            assert!(bits.set(slot, true));
            assert!(!bits.set(slot, true));
        }
        assert_eq!(bits.iter().collect::<Vec<_>>(), slots);
        for start in 0..SLOTS_MAX {
            let expected = slots.into_iter().find(|&slot| slot >= start);
            assert_eq!(bits.first_from(start), expected, "from {start}");
            assert_eq!(bits.contains(start), slots.contains(&start));
        }
        assert_eq!(bits.first_from(SLOTS_MAX), None);
    }

    #[test]
    fn what_was_taken_out_is_gone() {
        let mut bits = Bits::new();
        assert!(!bits.set(70, false));
        assert!(bits.set(70, true) && bits.set(70, false));
        assert!(bits.is_empty());
        bits.set(70, true);
        bits.clear();
        assert_eq!((bits.is_empty(), bits.first_from(0)), (true, None));
    }
}
