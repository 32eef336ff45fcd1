use super::long::LongFrame;
use super::{DIRECT_BYTES, HEADER_BYTES, Header, Limits, PACKET_BYTES_MAX, ProtocolError, Room};

/// How much is read at once, in bytes; also what an idle decoder keeps allocated. A packet must
/// be read at once.
pub(super) const BUFFER_BYTES: usize = PACKET_BYTES_MAX;

/// Cuts a stream of bytes into frames.
///
/// Bytes are written into [`spare`](Self::spare), or with one copy less into
/// [`room`](Self::room), and reported to [`received`](Self::received); then
/// [`next_frame`](Self::next_frame) is called until it has no more to give. However the
/// bytes are split over the calls, the same frames come out.
///
/// Short frames pass through a buffer of 64 KiB, so that many of them take one read. A long body
/// gets memory of its own, which at most doubles with what has arrived and which leaves with the
/// frame. Behind a long frame another is expected, and [`room`](Self::room) has a place for its
/// body already, which is as long as that of the one before; [`relax`](Self::relax) gives it up,
/// and then a decoder between two frames holds the 64 KiB and no more.
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
    /// Empty, `BUFFER_BYTES` long, or longer until its bytes are given out. Received and not yet
    /// given out: `start..end`.
    buffer: Vec<u8>,
    /// `0 <= start <= end <= buffer.len()`
    start: usize,
    end: usize,
    /// A long frame that is being received; then `start == end`.
    long: Option<LongFrame>,
    /// The length of the last frame's body if it was a long one, or else 0.
    expected_bytes: usize,
    /// Room for the body of the next frame, which was given out as such; then `start == end`, and
    /// there is no `long`. Its header goes to the start of the buffer.
    ahead: Option<Vec<u8>>,
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

impl Decoder {
    /// A decoder at the start of a stream. It allocates nothing before the first byte is due.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            long: None,
            expected_bytes: 0,
            ahead: None,
            failed: None,
        }
    }

    /// Where to put the next bytes of the stream.
    ///
    /// It is never empty once [`next_frame`](Self::next_frame) has answered `None`. Before that it
    /// may be: complete frames that wait are not moved out of the way.
    pub fn spare(&mut self) -> &mut [u8] {
        self.relax();
        match self.long {
            Some(ref mut long) => long.spare(),
            None => self.spare_of_buffer(),
        }
    }

    /// Where to put the next bytes of the stream, with one copy less of long bodies than
    /// [`spare`](Self::spare), and without filling memory with zeros first.
    ///
    /// For packets, there is room for [`PACKET_BYTES_MAX`] bytes between two frames, and within a
    /// long one for as many as have arrived of it, so that no packet is cut. For a stream, a read
    /// of frames of equal length ends with the frame, and the next one goes where it stays, too.
    #[inline]
    pub fn room(&mut self, is_of_packets: bool) -> Room<'_> {
        if let Some(ref mut long) = self.long {
            long.reserve(self.expected_bytes, is_of_packets);
            return Room { head: &mut [], body: Some(&mut long.body), tail: &mut [] };
        }
        self.spare_of_buffer();
        if self.end > 0 || self.expected_bytes == 0 {
            return Room { head: &mut self.buffer[self.end..], body: None, tail: &mut [] };
        }
        let (head, tail) = self.buffer.split_at_mut(HEADER_BYTES);
        let body = self.ahead.get_or_insert_with(|| Vec::with_capacity(self.expected_bytes));
        Room { head, body: Some(body), tail: if is_of_packets { tail } else { &mut [] } }
    }

    /// Takes note that the first `bytes` of [`spare`](Self::spare) or [`room`](Self::room),
    /// whichever was called last, have been filled.
    ///
    /// # Panics
    ///
    /// When there was not so much room.
    #[inline]
    pub fn received(&mut self, bytes: usize) {
        if let Some(long) = &mut self.long {
            long.filled += bytes;
            assert!(long.filled <= long.body.len(), "more bytes than there was room for");
        } else if let Some(body) = self.ahead.take_if(|_| bytes > 0) {
            self.received_ahead(bytes, body);
        } else {
            assert!(bytes <= self.buffer.len() - self.end, "more bytes than there was room for");
            self.end += bytes;
        }
    }

    /// Gives up memory that is held for what comes next, when that may take a while.
    pub fn relax(&mut self) {
        self.ahead = None;
    }

    /// The next complete frame, or `None` when more bytes are needed for it.
    ///
    /// # Errors
    ///
    /// A header that is malformed or over the limits. The decoder stays failed: it gives the same
    /// error again, whatever is received.
    #[inline]
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

    /// Whether a short frame is incomplete; only of use after [`next_frame`](Self::next_frame)
    /// answered `None`.
    pub(crate) fn is_cut_short(&self) -> bool {
        self.long.is_none() && self.start < self.end
    }

    /// Whether nothing is there, not even a part of a frame, nor a failure.
    pub(crate) fn is_drained(&self) -> bool {
        self.start == self.end && self.long.is_none() && self.failed.is_none()
    }

    /// Bytes of memory that the decoder holds.
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        let long = self.long.as_ref().map(|long| &long.body);
        let bodies = long.into_iter().chain(&self.ahead).map(Vec::capacity);
        self.buffer.capacity() + bodies.sum::<usize>()
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Fails for good, and forgets what was received.
    pub(crate) fn fail(&mut self, error: ProtocolError) {
        let limits = self.limits;
        *self = Self { failed: Some(error), ..Self::new(limits) };
    }

    #[inline]
    fn cut_frame(&mut self) -> Result<Option<Frame>, ProtocolError> {
        if self.long.is_some() {
            let complete = self.long.take_if(|long| long.is_complete());
            return Ok(complete.map(|long| self.frame(long.header, long.body)));
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
            return Ok(Some(self.frame(header, body)));
        }
        if length >= DIRECT_BYTES {
            self.long = Some(LongFrame::new(header, rest));
            self.start = self.end;
            if self.buffer.len() > BUFFER_BYTES {
                self.buffer = Vec::new();
                (self.start, self.end) = (0, 0);
            }
        }
        Ok(None)
    }

    fn frame(&mut self, header: Header, body: Vec<u8>) -> Frame {
        self.expected_bytes = if body.len() >= DIRECT_BYTES { body.len() } else { 0 };
        Frame { header, body }
    }

    #[inline]
    fn spare_of_buffer(&mut self) -> &mut [u8] {
        let rest = self.start..self.end;
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() != BUFFER_BYTES && rest.len() < BUFFER_BYTES {
            let mut buffer = vec![0; BUFFER_BYTES];
            buffer[..rest.len()].copy_from_slice(&self.buffer[rest]);
            self.buffer = buffer;
        } else if rest.start > 0 {
            // What is left of the last read is less than one short frame: it is moved only once.
            self.buffer.copy_within(rest, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Sorts out what was received to the places for a header, a long body, and more.
    fn received_ahead(&mut self, bytes: usize, mut body: Vec<u8>) {
        let head_bytes = bytes.min(HEADER_BYTES);
        let behind_bytes = bytes.checked_sub(head_bytes + body.len()).filter(|behind| {
            *behind == 0 || body.len() == body.capacity() && bytes - body.len() <= BUFFER_BYTES
        });
        let behind_bytes = behind_bytes.expect("as many bytes as there was room for, in order");
        self.end = head_bytes + behind_bytes;
        let (head, behind) = self.buffer[..self.end].split_at(head_bytes);
        let header = head.first_chunk().and_then(|bytes| Header::decode(*bytes).ok());
        let is_as_expected = |header: &Header| {
            let bytes = header.body_bytes as usize;
            let is_long = bytes >= DIRECT_BYTES && bytes >= body.len() + behind.len();
            is_long && header.check(&self.limits).is_ok()
        };
        if let Some(header) = header.filter(is_as_expected) {
            body.reserve_exact(behind.len());
            body.extend_from_slice(behind);
            // It may be shorter than expected: no byte of the next frame may get in there.
            body.shrink_to(header.body_bytes as usize);
            self.long = Some(LongFrame { header, filled: body.len(), body });
            self.end = 0;
        } else if !body.is_empty() {
            // Something else came, so all of it goes the way of short frames, in one piece.
            self.end = bytes;
            let mut buffer = Vec::with_capacity(bytes.max(BUFFER_BYTES));
            [head, &body, behind].iter().for_each(|part| buffer.extend_from_slice(part));
            buffer.resize(buffer.capacity(), 0);
            self.buffer = buffer;
        }
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

    /// Puts bytes where the next ones belong, says how many found room.
    type Put = fn(&mut Decoder, &[u8]) -> usize;

    const PUTS: [Put; 4] = [
        |decoder, bytes| {
            let spare = decoder.spare();
            let length = spare.len().min(bytes.len());
            spare[..length].copy_from_slice(&bytes[..length]);
            length
        },
        |decoder, bytes| decoder.room(false).put(bytes),
        |decoder, bytes| decoder.room(true).put(bytes),
        |decoder, bytes| {
            decoder.room(true);
            if bytes.len() > 1_000 {
                decoder.spare();
            }
            decoder.room(bytes.len() % 2 == 0).put(bytes)
        },
    ];

    /// Feeds the stream in parts of at most `sizes` bytes, taken in turn.
    fn decode(
        decoder: &mut Decoder,
        mut stream: &[u8],
        sizes: &[usize],
        put: Put,
    ) -> Result<Vec<(u8, Vec<u8>)>, ProtocolError> {
        let mut frames = Vec::new();
        for size in sizes.iter().cycle() {
            while let Some(frame) = decoder.next_frame()? {
                frames.push((frame.header.kind, frame.body));
            }
            if stream.is_empty() {
                break;
            }
            let length = put(decoder, &stream[..stream.len().min(*size)]);
            assert!(length > 0, "there is room");
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
            for put in PUTS {
                let mut decoder = Decoder::new(Limits::default());
                let decoded = decode(&mut decoder, &encode(&frames), &sizes, put);
                prop_assert!(decoded.as_ref() == Ok(&frames));
                prop_assert_eq!(decoder.pending(), Pending::Nothing);
                decoder.spare();
                prop_assert!(decoder.allocated_bytes() <= BUFFER_BYTES, "long frames stay");
            }
        }

        #[test]
        fn f34_memory_grows_only_with_what_arrives(announced: u32, arrived in 0..300_000_usize) {
            let limits = Limits { payload_bytes_max: usize::MAX, ..Limits::default() };
            let header = Header { kind: 0, handles: 0, body_bytes: announced };
            let mut stream = header.encode().to_vec();
            stream.resize(HEADER_BYTES + arrived.min(announced as usize), 0);
            for put in PUTS {
                let mut decoder = Decoder::new(limits);
                decode(&mut decoder, &stream, &[30_000], put).expect("the header is well formed");
                put(&mut decoder, &[]);
                prop_assert!(decoder.allocated_bytes() <= 2 * (arrived + BUFFER_BYTES));
            }
        }
    }

    #[test]
    fn a_long_body_behind_another_is_read_to_where_it_stays() {
        let frames = vec![(1, vec![1; 20_000]), (2, vec![2; 20_000]), (3, vec![3; 30_000])];
        let mut decoder = Decoder::new(Limits::default());
        let mut stream = encode(&frames).into_iter();
        let mut next = |bytes| stream.by_ref().take(bytes).collect::<Vec<_>>();
        let frame = |decoder: &mut Decoder| decoder.next_frame().expect("well formed");
        let put = |decoder: &mut Decoder, bytes: &[u8]| {
            let put = decoder.room(false).put(bytes);
            decoder.received(put);
            put
        };
        put(&mut decoder, &next(20_008));
        assert_eq!(frame(&mut decoder).expect("whole").body, vec![1; 20_000]);
        let room = decoder.room(false);
        let (head, body) = (room.head.len(), room.body.expect("a long one is expected"));
        assert_eq!((head, body.capacity(), room.tail.len()), (HEADER_BYTES, 20_000, 0));
        let place = body.as_ptr();
        assert_eq!(put(&mut decoder, &next(20_008)), 20_008);
        assert_eq!(frame(&mut decoder).expect("whole").body.as_ptr(), place, "no copy is made");
        // The next is longer, and what is missing goes behind what is there.
        assert_eq!(put(&mut decoder, &next(20_008)), 20_008);
        assert_eq!(frame(&mut decoder), None);
        assert_eq!(put(&mut decoder, &next(10_000)), 10_000);
        assert_eq!(frame(&mut decoder).expect("whole").body, vec![3; 30_000]);
    }

    #[test]
    fn f34_what_was_expected_is_given_up_or_used() {
        let frames = [(1, vec![1; 500_000]), (2, vec![2; 20_000]), (3, vec![3; 10])];
        let mut stream = encode(&frames).into_iter();
        let mut decoder = Decoder::new(Limits::default());
        let first: Vec<u8> = stream.by_ref().take(HEADER_BYTES + 500_000).collect();
        decode(&mut decoder, &first, &[usize::MAX], PUTS[1]).expect("well formed");
        decoder.room(false);
        assert_eq!(decoder.allocated_bytes(), BUFFER_BYTES + 500_000);
        decoder.relax();
        assert_eq!(decoder.allocated_bytes(), BUFFER_BYTES);
        let rest: Vec<u8> = stream.collect();
        let put = decoder.room(false).put(&rest[..10_000]);
        decoder.received(put);
        assert_eq!(decoder.next_frame(), Ok(None));
        assert_eq!(decoder.allocated_bytes(), BUFFER_BYTES + 20_000, "no more than it needs");
        let frames = decode(&mut decoder, &rest[put..], &[usize::MAX], PUTS[1]);
        assert_eq!(frames.expect("well formed").len(), 2);
    }

    #[test]
    fn f34_what_is_expected_must_be_within_the_limits_too() {
        for is_of_packets in [false, true] {
            let limits = Limits { payload_bytes_max: 50_000, ..Limits::default() };
            let mut decoder = Decoder::new(limits);
            let long = encode(&[(1, vec![1; 50_000])]);
            decode(&mut decoder, &long, &[usize::MAX], PUTS[1]).expect("well formed");
            let over = encode(&[(2, vec![2; 50_001])]);
            let put = decoder.room(is_of_packets).put(&over[..20_000]);
            decoder.received(put);
            let refused = ProtocolError::PayloadTooLarge { bytes: 50_001, max: 50_000 };
            assert_eq!(decoder.next_frame(), Err(refused), "before all of it is there");
        }
    }

    #[test]
    fn a_packet_finds_room_whatever_came_before() {
        for last in [0, DIRECT_BYTES, BUFFER_BYTES, 300_000] {
            let mut decoder = Decoder::new(Limits::default());
            let stream = encode(&[(1, vec![1; last])]);
            decode(&mut decoder, &stream, &[usize::MAX], PUTS[2]).expect("well formed");
            let packet = encode(&[(2, vec![2; PACKET_BYTES_MAX - HEADER_BYTES])]);
            assert_eq!(decoder.room(true).put(&packet), packet.len(), "after {last} bytes");
            decoder.received(packet.len());
            assert!(decoder.next_frame().expect("well formed").is_some());
            assert_eq!((decoder.next_frame(), decoder.is_cut_short()), (Ok(None), false));
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
    fn room_that_is_asked_for_too_early_harms_nothing() {
        let long = encode(&[(1, vec![1; 3 * BUFFER_BYTES])]);
        let short: Vec<_> = (0..200).map(|kind| (kind, vec![kind; 900])).collect();
        let mut decoder = Decoder::new(Limits::default());
        assert_eq!(decode(&mut decoder, &long, &[usize::MAX], PUTS[1]).map(|f| f.len()), Ok(1));
        let stream = encode(&short);
        let count = decoder.room(false).put(&stream);
        decoder.received(count);
        for (kind, payload) in &short {
            let frame = decoder.next_frame().expect("well formed").expect("complete");
            assert_eq!((frame.header.kind, &frame.body), (*kind, payload));
            decoder.spare();
        }
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
            decode(&mut decoder, &stream[..cut], &[1], PUTS[0]).expect("well formed");
            let pending = match cut {
                0 | 13 => Pending::Nothing,
                1..8 => Pending::Header,
                _ => Pending::Body(header),
            };
            assert_eq!(decoder.pending(), pending, "after {cut} bytes");
        }
    }
}
