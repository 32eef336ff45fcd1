//! Where a run's choices come from: a seed, or bytes that a fuzzer mutates.

use super::Time;

/// A stream of choices. Whatever is not chosen is 0, which always means the ordinary: no fault, the
/// first, the shortest.
#[derive(Clone, Debug)]
pub enum Source {
    /// Random numbers from a seed.
    Seed(u64),
    /// The given bytes, then zeros.
    Bytes(std::vec::IntoIter<u8>),
}

impl Source {
    /// Chooses by `data`.
    #[must_use]
    pub fn bytes(data: &[u8]) -> Source {
        Source::Bytes(Vec::from(data).into_iter())
    }

    /// A number below `bound`; 0 if `bound` is.
    pub fn below(&mut self, bound: u64) -> u64 {
        match self {
            Source::Seed(state) => {
                let product = u128::from(split_mix(state)) * u128::from(bound);
                u64::try_from(product >> 64).expect("the upper half of 128 bits")
            }
            Source::Bytes(bytes) => {
                let mut number = 0;
                let mut reach = 1_u64;
                while reach < bound {
                    number = number << 8 | u64::from(bytes.next().unwrap_or(0));
                    reach = reach.saturating_mul(256);
                }
                number.checked_rem(bound).unwrap_or(0)
            }
        }
    }

    /// True `rate` times in 255. A rate of 0 uses up nothing.
    pub fn chance(&mut self, rate: u8) -> bool {
        rate > 0 && self.below(255) >= 255 - u64::from(rate)
    }

    /// A number from `least` to `most`.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// A time from `least` to `most` microseconds.
    pub fn micros(&mut self, least: u64, most: u64) -> Time {
        Time::from_micros(self.between(least, most))
    }

    /// An index into something of this length.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("less than a usize")
    }

    /// One of several.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.index(all.len())]
    }

    /// Puts `all` into any order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            // Counted from the end, so that 0 leaves everything where it is.
            let other = last - self.index(last + 1);
            all.swap(last, other);
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
