//! Numbers that look random: from a seed, and from a key.

use crate::bits::Bits;

/// Spreads a number over all 64 bits, one to one: the last step of splitmix64.
pub(crate) const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Of a number that may be any, what it is in a range of `bound`; high bits count.
pub(crate) fn scale(number: u64, bound: u64) -> u64 {
    #[allow(clippy::cast_possible_truncation, reason = "it is less than `bound`")]
    let scaled = ((u128::from(number) * u128::from(bound)) >> 64) as u64;
    scaled
}

/// splitmix64 (Steele, Lea and Flood 2014): small, fast, and good enough to deal with.
#[derive(Clone, Debug)]
pub(crate) struct Generator {
    state: u64,
}

impl Generator {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }
}

/// The same number for the same key and attempt, another one for the next attempt.
pub(crate) const fn attempt(key: u64, attempt: u64) -> u64 {
    mix(key.wrapping_add(attempt.wrapping_add(1).wrapping_mul(GOLDEN)))
}

/// The slot that the key likes best of those that `accept` takes: its keys alone move when it goes,
/// and only to it when one comes (highest random weight, Thaler and Ravishankar 1996).
pub(crate) fn favourite(key: u64, slots: &Bits, accept: impl Fn(usize) -> bool) -> Option<usize> {
    let liking = |slot: &usize| mix(key ^ mix(*slot as u64 + 1));
    slots.iter().filter(|&slot| accept(slot)).max_by_key(liking)
}

/// CRC-32 of IEEE 802.3, as zlib and nginx have it; `state` is the last result, or 0.
pub(crate) fn crc32(state: u32, bytes: &[u8]) -> u32 {
    let step = |crc: u32, &byte: &u8| CRC[0][usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8);
    !bytes.iter().fold(!state, step)
}

/// The same of a number's eight bytes, the lowest first, in one step instead of eight.
pub(crate) fn crc32_of(number: u64) -> u32 {
    let bytes = (number ^ 0xffff_ffff).to_le_bytes();
    let parts = bytes.iter().zip(CRC.iter().rev());
    !parts.fold(0, |crc, (&byte, table)| crc ^ table[usize::from(byte)])
}

/// What splitmix64 adds to its state: 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// `CRC[n][byte]` is what becomes of the byte when `n` more bytes follow.
static CRC: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        #[allow(clippy::cast_possible_truncation, reason = "it is less than 256")]
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc: u32 = tables[table - 1][byte];
            tables[table][byte] = tables[0][(crc & 0xff) as usize] ^ (crc >> 8);
            byte += 1;
        }
        table += 1;
    }
    tables
};

#[cfg(test)]
mod tests {
    use super::*;

    /// From the reference implementation (prng.di.unimi.it/splitmix64.c).
    #[test]
    fn the_generator_is_splitmix64() {
        let mut generator = Generator::new(1_234_567);
        let numbers = [(); 3].map(|()| generator.next());
        let expected =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(numbers, expected);
    }

    #[test]
    fn the_checksum_is_that_of_zlib() {
        assert_eq!(crc32(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(crc32(0, b"1234"), b"56789"), 0xcbf4_3926);
        assert_eq!(crc32(0, b""), 0);
        for number in [0, 1, 0xff, u64::MAX, 0x0123_4567_89ab_cdef] {
            assert_eq!(crc32_of(number), crc32(0, &number.to_le_bytes()), "{number:x}");
        }
    }

    #[test]
    fn scaling_reaches_both_ends() {
        assert_eq!([0, u64::MAX / 2, u64::MAX].map(|number| scale(number, 10)), [0, 4, 9]);
    }
}
