use super::{HEADER_BYTES, Header, Limits, PACKET_BYTES_MAX, ProtocolError};

/// How much is read at once, in bytes; also what an idle decoder keeps allocated. A packet must
/// be read at once.
const BUFFER_BYTES: usize = PACKET_BYTES_MAX;

/// From this length on, in bytes, the rest of an incomplete body is read to where it stays.
const DIRECT_BYTES: usize = 16 * 1024;

/// Cuts a stream of bytes into frames.
///
/// Bytes are written into [`spare`](Self::spare) and reported to [`received`](Self::received);
/// then [`next_frame`](Self::next_frame) is called until it has no more to give. However the
/// bytes are split over the calls, the same frames come out.
///
/// Short frames pass through a buffer of 64 KiB, so that many of them take one read. A long
/// payload gets memory of its own, which at most doubles with what has arrived and which leaves
/// with the frame: a decoder between two frames holds the 64 KiB and no more.
///
/// # Examples
///
/// ```
/// use ipc_core::Limits;
/// use ipc_core::frame::{Decoder, Header};
///
/// let mut decoder = Decoder::new(Limits::default());
/// let header = Header { kind: 3, handles: 0, body_bytes: 2 };
/// let bytes = [header.encode().as_slice(), b"hi"].concat();
///
/// // It does not matter where the stream is cut.
/// for part in bytes.chunks(3) {
///     assert!(decoder.next_frame()?.is_none());
///     decoder.spare()[..part.len()].copy_from_slice(part);
///     decoder.received(part.len());
/// }
/// let frame = decoder.next_frame()?.expect("all ten bytes are there");
/// assert_eq!((frame.header, frame.body), (header, b"hi".to_vec()));
/// # Ok::<(), ipc_core::ProtocolError>(())
/// ```
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    /// Empty or `BUFFER_BYTES` long. Received and not yet given out: `start..end`.
    buffer: Vec<u8>,
    /// `0 <= start <= end <= buffer.len()`
    start: usize,
    end: usize,
    /// A long frame that is being received; then `start == end`.
    long: Option<LongFrame>,
    failed: Option<ProtocolError>,
}

/// One frame as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Its body, `header.body_bytes` long.
    pub body: Vec<u8>,
}

/// What a decoder is in the middle of, once it has given out all complete frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing: the last byte received was the last of a frame.
    Nothing,
    /// A header of which 1 to 7 bytes are there.
    Header,
    /// The body that belongs to this header.
    Body(Header),
}

#[derive(Debug)]
struct LongFrame {
    header: Header,
    /// As long as the bytes that arrived, plus room for some that follow.
    body: Vec<u8>,
    /// `filled <= body.len() <= header.body_bytes`
    filled: usize,
}

impl Decoder {
    /// A decoder at the start of a stream. It allocates nothing before the first byte is due.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, buffer: Vec::new(), start: 0, end: 0, long: None, failed: None }
    }

    /// Where to put the next bytes of the stream.
    ///
    /// It is never empty once [`next_frame`](Self::next_frame) has answered `None`. Before that it
    /// may be: complete frames that wait are not moved out of the way.
    pub fn spare(&mut self) -> &mut [u8] {
        if let Some(long) = &mut self.long {
            return long.spare();
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; BUFFER_BYTES];
        }
        // What is left of the last read is less than one short frame, so it is moved only once.
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// Takes note that the first `bytes` of [`spare`](Self::spare) have been filled.
    ///
    /// # Panics
    ///
    /// When there was not so much room.
    pub fn received(&mut self, bytes: usize) {
        if let Some(long) = &mut self.long {
            assert!(bytes <= long.body.len() - long.filled, "more bytes than there was room for");
            long.filled += bytes;
        } else {
            assert!(bytes <= self.buffer.len() - self.end, "more bytes than there was room for");
            self.end += bytes;
        }
    }

    /// The next complete frame, or `None` when more bytes are needed for it.
    ///
    /// # Errors
    ///
    /// A header that is malformed or over the limits. The decoder stays failed: it gives the same
    /// error again, whatever is received.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, ProtocolError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.cut_frame().inspect_err(|error| self.fail(*error))
    }

    /// What the stream is in the middle of; only of use after [`next_frame`](Self::next_frame)
    /// answered `None`.
    #[must_use]
    pub fn pending(&self) -> Pending {
        if let Some(long) = &self.long {
            return Pending::Body(long.header);
        }
        let rest = &self.buffer[self.start..self.end];
        match rest.first_chunk().map(|bytes| Header::decode(*bytes)) {
            Some(Ok(header)) => Pending::Body(header),
            Some(Err(_)) => Pending::Nothing,
            None if rest.is_empty() => Pending::Nothing,
            None => Pending::Header,
        }
    }

    /// Whether what waits is one frame, whole, and nothing else.
    pub(crate) fn holds_one_frame(&self) -> bool {
        let rest = &self.buffer[self.start..self.end];
        let header = rest.first_chunk().map(|bytes| Header::decode(*bytes));
        let Some(Ok(header)) = header else { return false };
        self.long.is_none() && rest.len() - HEADER_BYTES == header.body_bytes as usize
    }

    /// Bytes of memory that the decoder holds.
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        self.buffer.capacity() + self.long.as_ref().map_or(0, |long| long.body.capacity())
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Fails for good, and forgets what was received.
    pub(crate) fn fail(&mut self, error: ProtocolError) {
        let limits = self.limits;
        *self = Self { failed: Some(error), ..Self::new(limits) };
    }

    fn cut_frame(&mut self) -> Result<Option<Frame>, ProtocolError> {
        if self.long.is_some() {
            let complete = self.long.take_if(|long| long.is_complete());
            return Ok(complete.map(|long| Frame { header: long.header, body: long.body }));
        }
        let Some((&bytes, rest)) = self.buffer[self.start..self.end].split_first_chunk() else {
            return Ok(None);
        };
        let header = Header::decode(bytes)?;
        header.check(&self.limits)?;
        let length = header.body_bytes as usize;
        if let Some(body) = rest.get(..length) {
            let body = body.to_vec();
            self.start += HEADER_BYTES + length;
            return Ok(Some(Frame { header, body }));
        }
        if length >= DIRECT_BYTES {
            self.long = Some(LongFrame::new(header, rest));
            self.start = self.end;
        }
        Ok(None)
    }
}

impl LongFrame {
    fn new(header: Header, received: &[u8]) -> Self {
        let mut long = Self { header, body: Vec::new(), filled: received.len() };
        long.body.reserve_exact(long.room());
        long.body.extend_from_slice(received);
        long
    }

    fn spare(&mut self) -> &mut [u8] {
        if self.filled == self.body.len() {
            let room = self.room();
            self.body.reserve_exact(room - self.filled);
            self.body.resize(room, 0);
        }
        &mut self.body[self.filled..]
    }

    /// Memory for what has arrived and as much again, but no more than the frame needs: a peer
    /// that only announces a long frame gets nothing for it.
    fn room(&self) -> usize {
        let twice = self.filled + self.filled.max(BUFFER_BYTES);
        twice.min(self.header.body_bytes as usize)
    }

    fn is_complete(&self) -> bool {
        self.filled == self.header.body_bytes as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn encode(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let limits = Limits::default();
        frames
            .iter()
            .flat_map(|(kind, payload)| {
                let header = Header::new(*kind, payload.len(), 0, &limits).expect("within limits");
                [header.encode().as_slice(), payload].concat()
            })
            .collect()
    }

    /// Feeds the stream in parts of at most `sizes` bytes, taken in turn.
    fn decode(
        decoder: &mut Decoder,
        mut stream: &[u8],
        sizes: &[usize],
    ) -> Result<Vec<(u8, Vec<u8>)>, ProtocolError> {
        let mut frames = Vec::new();
        for size in sizes.iter().cycle() {
            while let Some(frame) = decoder.next_frame()? {
                frames.push((frame.header.kind, frame.body));
            }
            if stream.is_empty() {
                break;
            }
            let spare = decoder.spare();
            assert!(!spare.is_empty());
            let length = spare.len().min(stream.len()).min(*size);
            spare[..length].copy_from_slice(&stream[..length]);
            decoder.received(length);
            stream = &stream[length..];
        }
        Ok(frames)
    }

    fn frames() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
        let lengths = prop_oneof![
            4 => 0..200_usize,
            1 => DIRECT_BYTES - 2..DIRECT_BYTES + 2,
            1 => BUFFER_BYTES - 10..BUFFER_BYTES + 2,
            1 => BUFFER_BYTES * 3..BUFFER_BYTES * 3 + 2,
        ];
        let frame = (any::<u8>(), lengths, any::<u8>());
        vec(frame, 0..12).prop_map(|frames| {
            let payload = |length, seed: u8| (0..=u8::MAX).cycle().skip(seed.into()).take(length);
            frames
                .into_iter()
                .map(|(k, length, seed)| (k, payload(length, seed).collect()))
                .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn f36_any_split_gives_the_same_frames(
            frames in frames(),
            sizes in vec(prop_oneof![1..20_usize, 1..200_000_usize], 1..8),
        ) {
            let mut decoder = Decoder::new(Limits::default());
            prop_assert_eq!(decode(&mut decoder, &encode(&frames), &sizes), Ok(frames));
            prop_assert_eq!(decoder.pending(), Pending::Nothing);
            prop_assert!(decoder.allocated_bytes() <= BUFFER_BYTES, "long frames leave nothing");
        }

        #[test]
        fn f34_memory_grows_only_with_what_arrives(announced: u32, arrived in 0..300_000_usize) {
            let limits = Limits { payload_bytes_max: usize::MAX, ..Limits::default() };
            let header = Header { kind: 0, handles: 0, body_bytes: announced };
            let mut stream = header.encode().to_vec();
            stream.resize(HEADER_BYTES + arrived.min(announced as usize), 0);
            let mut decoder = Decoder::new(limits);
            decode(&mut decoder, &stream, &[30_000]).expect("the header is well formed");
            decoder.spare();
            prop_assert!(decoder.allocated_bytes() <= 2 * (arrived + BUFFER_BYTES));
        }
    }

    #[test]
    fn frames_that_arrive_together_are_decoded_from_one_read() {
        let frames: Vec<_> = (0..100).map(|kind| (kind, vec![kind; 64])).collect();
        let stream = encode(&frames);
        let mut decoder = Decoder::new(Limits::default());
        decoder.spare()[..stream.len()].copy_from_slice(&stream);
        decoder.received(stream.len());
        for (kind, payload) in frames {
            let frame = decoder.next_frame().expect("well formed").expect("complete");
            assert_eq!((frame.header.kind, frame.body), (kind, payload));
        }
        assert_eq!(decoder.next_frame(), Ok(None));
    }

    #[test]
    fn frames_before_a_bad_one_come_out_and_the_failure_stays() {
        let stream = [encode(&[(1, vec![1]), (2, vec![2])]), vec![0; HEADER_BYTES]].concat();
        let mut decoder = Decoder::new(Limits::default());
        decoder.spare()[..stream.len()].copy_from_slice(&stream);
        decoder.received(stream.len());
        for kind in 1..=2 {
            let frame = decoder.next_frame().expect("well formed").expect("complete");
            assert_eq!(frame.header.kind, kind);
        }
        for _ in 0..3 {
            assert_eq!(decoder.next_frame(), Err(ProtocolError::Version { found: 0 }));
            let good = encode(&[(3, vec![])]);
            decoder.spare()[..good.len()].copy_from_slice(&good);
            decoder.received(good.len());
        }
    }

    #[test]
    fn pending_tells_what_the_stream_is_in_the_middle_of() {
        let stream = encode(&[(9, vec![0; 5])]);
        let header = Header { kind: 9, handles: 0, body_bytes: 5 };
        for cut in 0..=stream.len() {
            let mut decoder = Decoder::new(Limits::default());
            decode(&mut decoder, &stream[..cut], &[1]).expect("well formed");
            let pending = match cut {
                0 | 13 => Pending::Nothing,
                1..8 => Pending::Header,
                _ => Pending::Body(header),
            };
            assert_eq!(decoder.pending(), pending, "after {cut} bytes");
        }
    }
}
