//! How bytes and handles share a pipe: on Windows nothing travels beside the bytes, so that what a
//! Unix socket does in the kernel is done here. Pure, and compiled everywhere, so that it is tested
//! and fuzzed where fuzzers run.
//!
//! ```text
//!   byte   0 .. 4              4 .. 8             8         9 .. 12    12 ..
//!        +-------------------+------------------+---------+----------+-------+-------+
//!        | bytes             | table's length   | handles | reserved | table | bytes |
//!        | u32, 0..=65536    | u32              | 0..=253 | = 0      |       |       |
//!        +-------------------+------------------+---------+----------+-------+-------+
//! ```
//!
//! The table has a token for each handle, with its length as a u16 in front; numbers are
//! little-endian. A segment without bytes ends the stream, and has no handles.

use handle_passing::HANDLES_MAX;

/// The most bytes in a segment, beside its table.
pub const SEGMENT_BYTES_MAX: usize = 64 * 1024;

/// The longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 1024;

const HEADER_BYTES: usize = 12;
const TABLE_BYTES_MAX: usize = HANDLES_MAX * (2 + TOKEN_BYTES_MAX);

/// Writes a segment: its header and table, behind which the bytes follow.
///
/// # Panics
///
/// When there are too many bytes or tokens, or a token is too long.
pub fn write(segment: &mut Vec<u8>, bytes: usize, tokens: &[impl AsRef<[u8]>]) {
    assert!(bytes <= SEGMENT_BYTES_MAX && tokens.len() <= HANDLES_MAX, "a segment is bounded");
    let table: usize = tokens.iter().map(|token| 2 + token.as_ref().len()).sum();
    let number = |length: usize| u32::try_from(length).expect("far less").to_le_bytes();
    segment.extend_from_slice(&number(bytes));
    segment.extend_from_slice(&number(table));
    segment.extend_from_slice(&[u8::try_from(tokens.len()).expect("at most 253"), 0, 0, 0]);
    for token in tokens {
        let token = token.as_ref();
        assert!(token.len() <= TOKEN_BYTES_MAX, "a token is bounded");
        segment.extend_from_slice(&u16::try_from(token.len()).expect("bounded").to_le_bytes());
        segment.extend_from_slice(token);
    }
}

/// What the peer wrote is no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSegment;

/// Takes segments apart again, however the bytes were split.
///
/// It holds what was [fed](Self::feed) and not yet taken, and a table: whoever feeds it only when
/// [`take`](Self::take) has nothing more to give bounds it.
#[derive(Debug, Default)]
pub struct Segments {
    received: Vec<u8>,
    /// How much of `received` was taken.
    taken: usize,
    /// How many bytes of the current segment are still to come, or to be taken.
    bytes_left: usize,
    /// The tokens that go with the next byte.
    tokens: Vec<Vec<u8>>,
    has_ended: bool,
}

/// What a segment, or a part of one, holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Bytes, at least one, and the tokens that go with the first of them.
    Bytes(&'a [u8], Vec<Vec<u8>>),
    /// More must be fed.
    Nothing,
    /// The peer has ended the stream.
    End,
}

impl Segments {
    /// Takes note of what was read from the pipe.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.received.drain(..self.taken);
        self.taken = 0;
        self.received.extend_from_slice(bytes);
    }

    /// Takes up to so many bytes, at least one. Bytes of two segments never come at once.
    ///
    /// # Errors
    ///
    /// When what was fed is no segment; it stays so.
    pub fn take(&mut self, room: usize) -> Result<Part<'_>, NoSegment> {
        if self.bytes_left == 0 && !self.has_ended && !self.begin_segment()? {
            return Ok(Part::Nothing);
        }
        if self.has_ended {
            return Ok(Part::End);
        }
        let length = (self.received.len() - self.taken).min(self.bytes_left).min(room);
        if length == 0 {
            return Ok(Part::Nothing);
        }
        let start = self.taken;
        self.taken += length;
        self.bytes_left -= length;
        let tokens = std::mem::take(&mut self.tokens);
        Ok(Part::Bytes(&self.received[start..start + length], tokens))
    }

    /// Whether all bytes of the segments that have begun were taken.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.bytes_left == 0
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.received.len() + self.tokens.iter().map(Vec::len).sum::<usize>()
    }

    /// Reads a header and its table, once they are there as a whole.
    fn begin_segment(&mut self) -> Result<bool, NoSegment> {
        let rest = &self.received[self.taken..];
        let Some((header, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(false);
        };
        let [a, b, c, d, e, f, g, h, handles, reserved @ ..] = *header;
        let bytes = u32::from_le_bytes([a, b, c, d]) as usize;
        let table_bytes = u32::from_le_bytes([e, f, g, h]) as usize;
        let is_sound = bytes <= SEGMENT_BYTES_MAX
            && table_bytes <= TABLE_BYTES_MAX
            && usize::from(handles) <= HANDLES_MAX
            && reserved == [0; 3]
            && (bytes > 0 || handles == 0 && table_bytes == 0);
        if !is_sound {
            return Err(NoSegment);
        }
        let Some(table) = rest.get(..table_bytes) else { return Ok(false) };
        self.tokens = read_table(table, handles.into())?;
        self.taken += HEADER_BYTES + table_bytes;
        self.bytes_left = bytes;
        self.has_ended = bytes == 0;
        Ok(true)
    }
}

fn read_table(mut table: &[u8], count: usize) -> Result<Vec<Vec<u8>>, NoSegment> {
    let mut tokens = Vec::with_capacity(count);
    for _ in 0..count {
        let (length, rest) = table.split_first_chunk().ok_or(NoSegment)?;
        let length = usize::from(u16::from_le_bytes(*length));
        let (token, rest) = rest.split_at_checked(length).ok_or(NoSegment)?;
        if length > TOKEN_BYTES_MAX {
            return Err(NoSegment);
        }
        tokens.push(token.to_vec());
        table = rest;
    }
    if table.is_empty() { Ok(tokens) } else { Err(NoSegment) }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn segment(bytes: &[u8], tokens: &[Vec<u8>]) -> Vec<u8> {
        let mut segment = Vec::new();
        write(&mut segment, bytes.len(), tokens);
        segment.extend_from_slice(bytes);
        segment
    }

    #[test]
    fn a_segment_without_bytes_ends_the_stream() {
        let mut segments = Segments::default();
        segments.feed(&[segment(b"last", &[]), segment(b"", &[]), vec![9; 50]].concat());
        assert_eq!(segments.take(9), Ok(Part::Bytes(b"last", vec![])));
        assert_eq!(segments.take(9), Ok(Part::End));
        assert_eq!(segments.take(9), Ok(Part::End));
    }

    #[test]
    fn hostile_what_is_no_segment_is_refused() {
        let good = segment(b"x", &[vec![1, 2]]);
        assert!(matches!(take_all(&good), Ok(taken) if taken.len() == 1));
        for (place, value) in [(2, 0x02), (4, 3), (4, 5), (6, 9), (8, 0), (8, 2), (8, 254), (9, 1)]
        {
            let mut bad = [good.clone(), vec![0; 10]].concat();
            bad[place] = value;
            assert_eq!(take_all(&bad), Err(NoSegment), "byte {place} is {value}");
        }
        let mut handles_without_bytes = good.clone();
        handles_without_bytes[0] = 0;
        assert_eq!(take_all(&handles_without_bytes), Err(NoSegment));
    }

    type Taken = Vec<(Vec<u8>, Vec<Vec<u8>>)>;

    fn take_all(bytes: &[u8]) -> Result<Taken, NoSegment> {
        let mut segments = Segments::default();
        segments.feed(bytes);
        let mut taken = Vec::new();
        while let Part::Bytes(bytes, tokens) = segments.take(usize::MAX)? {
            taken.push((bytes.to_vec(), tokens));
        }
        Ok(taken)
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_bytes_and_tokens(
            sent in vec((vec(any::<u8>(), 1..60), vec(vec(any::<u8>(), 0..20), 0..4)), 0..8),
            sizes in vec(1..40_usize, 1..6),
            room in 1..80_usize,
        ) {
            let stream: Vec<u8> = sent.iter().flat_map(|(b, t)| segment(b, t)).collect();
            let mut segments = Segments::default();
            let mut received: Taken = Vec::new();
            let mut rest = stream.as_slice();
            for size in sizes.iter().cycle() {
                let part;
                (part, rest) = rest.split_at(rest.len().min(*size));
                segments.feed(part);
                while let Part::Bytes(bytes, tokens) = segments.take(room).expect("sound") {
                    let is_whole = received.last().zip(sent.get(received.len().wrapping_sub(1)))
                        .is_none_or(|(last, whole)| last.0.len() == whole.0.len());
                    if is_whole {
                        received.push((bytes.to_vec(), tokens));
                    } else {
                        prop_assert!(tokens.is_empty(), "they came with the first byte");
                        received.last_mut().expect("not the first").0.extend_from_slice(bytes);
                    }
                }
                prop_assert!(segments.held_bytes() <= 12 + 88 + 40 + 60, "it is bounded");
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(received, sent);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..100)) {
            let _ = take_all(&bytes);
        }
    }
}
