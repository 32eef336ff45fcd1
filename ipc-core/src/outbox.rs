use std::collections::VecDeque;
use std::error::Error;
use std::fmt;

use crate::frame::{DIRECT_BYTES, HEADER_BYTES, Header, Limits, PACKET_BYTES_MAX};
use crate::{Attachment, Inbox, Message};

/// Frames are collected into chunks of about this length, in bytes.
const CHUNK_BYTES: usize = 4 * DIRECT_BYTES;

/// Messages that wait to be sent, as the bytes and handles of the writes to come. Pure: it does
/// no I/O.
///
/// The write that is due consists of [`slices`](Self::slices), which belong one after the other
/// in one gathering write, and of [`handles`](Self::handles), which go with its first byte. What
/// the system took of it is reported to [`sent`](Self::sent).
///
/// One write takes as many waiting messages as it can. Only a message with handles begins a write
/// of its own, because its handles must arrive with its first byte (see
/// [`Inbox`](crate::Inbox#how-handles-find-their-message)); messages without handles may follow it
/// in the same write.
///
/// # Examples
///
/// With integers for handles:
///
/// ```
/// use ipc_core::{Limits, Message, Outbox};
///
/// let mut outbox = Outbox::new(Limits::default());
/// outbox.push(Message::new(1, "one"))?;
/// outbox.push(Message::new(2, "two"))?;
/// outbox.push(Message::new(3, "three").with_handle(1001_u32))?;
///
/// // The first two go together, without handles.
/// assert_eq!(outbox.slices().map(<[u8]>::len).sum::<usize>(), 11 + 11);
/// assert!(outbox.handles().is_empty());
/// outbox.sent(22);
///
/// // As soon as a part of the third has gone, its handle has too.
/// assert_eq!(outbox.handles(), [1001]);
/// outbox.sent(1);
/// assert_eq!(outbox.slices().map(<[u8]>::len).sum::<usize>(), 13);
/// assert!(outbox.handles().is_empty());
/// # Ok::<(), ipc_core::PushError<u32>>(())
/// ```
#[derive(Debug)]
pub struct Outbox<H> {
    limits: Limits,
    chunks: VecDeque<Chunk<H>>,
    /// How much of the front chunk has gone: less than its length.
    front_sent: usize,
    /// For each message that waits, how many of its bytes do.
    messages: VecDeque<usize>,
    /// A part of the first of them has gone.
    is_front_begun: bool,
    /// How many bytes wait: the sum of `messages`, and of what is left of `chunks`.
    bytes: usize,
    /// How many handles wait: the sum over `chunks`.
    handles: usize,
    /// The memory of a chunk that has gone, for one to come.
    recycled: Vec<u8>,
    /// What the socket takes in one packet; `usize::MAX` for a stream.
    packet_bytes_max: usize,
}

/// Why a message was not queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushError<H> {
    /// One of the limits on the queue is reached. Try again when some of it has been sent.
    Full(Message<H>),
    /// The message is over the limits by itself, and would never be taken.
    TooLarge(Message<H>),
}

/// A part of the stream: headers and payloads, of which the first begins with the handles.
#[derive(Debug)]
struct Chunk<H> {
    /// Never empty.
    bytes: Vec<u8>,
    /// What goes with the first byte, and has not gone yet.
    handles: Vec<H>,
    /// The bytes are a payload that was not copied; nothing may be added to it.
    is_payload: bool,
}

impl<H: Attachment> Outbox<H> {
    /// An empty outbox.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            chunks: VecDeque::new(),
            front_sent: 0,
            messages: VecDeque::new(),
            is_front_begun: false,
            bytes: 0,
            handles: 0,
            recycled: Vec::new(),
            packet_bytes_max: usize::MAX,
        }
    }

    /// An empty outbox for a socket that keeps writes apart, and takes so many bytes in one.
    ///
    /// A write consists of whole messages then, of up to [`PACKET_BYTES_MAX`] bytes together, or of
    /// a part of a longer one. What follows the first part of such a one is as long as what went
    /// before, and at most as long as the socket takes: the other side has made room for that.
    #[must_use]
    pub fn of_packets(limits: Limits, packet_bytes_max: usize) -> Self {
        Self { packet_bytes_max, ..Self::new(limits) }
    }

    /// Whether nothing waits to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many bytes wait to be sent, headers included.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.bytes
    }

    /// How many messages wait to be sent, the one that is partly sent included.
    #[must_use]
    pub fn queued_messages(&self) -> usize {
        self.messages.len()
    }

    /// How many handles wait to be sent.
    #[must_use]
    pub fn queued_handles(&self) -> usize {
        self.handles
    }

    /// Queues a message.
    ///
    /// # Errors
    ///
    /// When it does not fit; the error holds the message.
    pub fn push(&mut self, message: Message<H>) -> Result<(), PushError<H>> {
        let Some(header) = self.header(&message) else {
            return Err(PushError::TooLarge(message));
        };
        let bytes = HEADER_BYTES + header.body_bytes as usize;
        if self.messages.len() >= self.limits.queued_messages_max
            || bytes > self.limits.queued_bytes_max.saturating_sub(self.bytes)
            || message.handles.len() > self.limits.queued_handles_max.saturating_sub(self.handles)
        {
            return Err(PushError::Full(message));
        }
        self.messages.push_back(bytes);
        self.bytes += bytes;
        self.handles += message.handles.len();
        self.append(header, message);
        Ok(())
    }

    /// The header that the message gets, or `None` if it is over the limits by itself.
    #[must_use]
    pub fn header(&self, message: &Message<H>) -> Option<Header> {
        let (bytes, handles) = (message.payload.len(), message.handles.len());
        if HEADER_BYTES + bytes + handles > self.limits.queued_bytes_max
            || handles > self.limits.queued_handles_max
            || self.limits.queued_messages_max == 0
        {
            return None;
        }
        Header::new(message.kind, bytes, handles, &self.limits)
    }

    /// The bytes of the write that is due, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut chunks = self.chunks.iter();
        let front = chunks.next();
        let sent = front.map_or(0, |chunk| if chunk.is_payload { self.front_sent } else { 0 });
        let front = front.map(|chunk| &chunk.bytes[self.front_sent..]);
        let glued = chunks.take_while(|chunk| match self.is_of_packets() {
            false => chunk.handles.is_empty(),
            true => chunk.is_payload,
        });
        let slices = front.into_iter().chain(glued.map(|chunk| chunk.bytes.as_slice()));
        first(slices, self.write_bytes_max(sent))
    }

    /// How long a write may be, when so much of the message in front has gone.
    pub(crate) fn write_bytes_max(&self, payload_sent: usize) -> usize {
        match self.is_of_packets() {
            false => usize::MAX,
            true => self.packet_bytes_max.min(payload_sent.max(PACKET_BYTES_MAX)),
        }
    }

    /// The handles that go with the first byte of the write that is due.
    #[must_use]
    pub fn handles(&self) -> &[H] {
        self.chunks.front().map_or(&[], |chunk| &chunk.handles)
    }

    /// Takes note that the first `bytes` of [`slices`](Self::slices) have gone. With the first
    /// byte the handles went too: they are dropped, and never offered again.
    ///
    /// # Panics
    ///
    /// When `bytes` is more than the slices held.
    pub fn sent(&mut self, mut bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.bytes = self.bytes.checked_sub(bytes).expect("no more is sent than waits");
        self.settle_messages(bytes);
        let front = self.chunks.front_mut().expect("bytes wait, so a chunk does");
        self.handles -= front.handles.len();
        front.handles.clear();
        while let Some(front) = self.chunks.front() {
            let left = front.bytes.len() - self.front_sent;
            if bytes < left {
                self.front_sent += bytes;
                return;
            }
            bytes -= left;
            self.front_sent = 0;
            self.recycle();
            let next_has_handles = self.chunks.front().is_some_and(|next| !next.handles.is_empty());
            assert!(bytes == 0 || !next_has_handles, "a message with handles begins its own write");
        }
    }

    /// The messages of which nothing has gone, in order, when nothing more can be sent.
    ///
    /// ```
    /// use ipc_core::{Limits, Message, Outbox};
    ///
    /// let mut outbox = Outbox::new(Limits::default());
    /// outbox.push(Message::new(1, "one"))?;
    /// outbox.push(Message::new(2, "two").with_handle(1002_u32))?;
    /// outbox.sent(5); // a part of the first
    /// assert_eq!(outbox.into_unsent(), [Message::new(2, "two").with_handle(1002_u32)]);
    /// # Ok::<(), ipc_core::PushError<u32>>(())
    /// ```
    #[must_use]
    pub fn into_unsent(mut self) -> Vec<Message<H>> {
        if let Some(rest) = self.messages.front().filter(|_| self.is_front_begun) {
            self.sent(*rest);
        }
        // The limits may be lower by now than they were; what was queued was within them.
        let limits = Limits { payload_bytes_max: usize::MAX, ..Limits::default() };
        let mut inbox = Inbox::new(limits);
        let mut unsent = Vec::new();
        for Chunk { bytes, handles, .. } in self.chunks {
            let mut rest = &bytes[std::mem::take(&mut self.front_sent)..];
            let mut handles = Some(handles);
            while !rest.is_empty() {
                let spare = inbox.spare();
                let (taken, left) = rest.split_at(rest.len().min(spare.len()));
                spare[..taken.len()].copy_from_slice(taken);
                inbox.received(taken.len(), handles.take().into_iter().flatten());
                rest = left;
                while let Ok(Some(message)) = inbox.next_message() {
                    unsent.push(message);
                }
            }
        }
        unsent
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    fn is_of_packets(&self) -> bool {
        self.packet_bytes_max < usize::MAX
    }

    fn append(&mut self, header: Header, message: Message<H>) {
        let Message { mut payload, handles, .. } = message;
        let is_direct = payload.len() >= DIRECT_BYTES;
        let copied = HEADER_BYTES + if is_direct { 0 } else { payload.len() };
        let is_glued = header.handles == 0 && !(is_direct && self.is_of_packets());
        let chunk_bytes_max = CHUNK_BYTES.min(self.packet_bytes_max);
        let has_room =
            |chunk: &Chunk<H>| !chunk.is_payload && chunk.bytes.len() + copied <= chunk_bytes_max;
        if !(is_glued && self.chunks.back().is_some_and(has_room)) {
            let bytes = std::mem::take(&mut self.recycled);
            self.chunks.push_back(Chunk { bytes, handles: Vec::new(), is_payload: false });
        }
        let back = self.chunks.back_mut().expect("one was pushed if there was none");
        back.bytes.extend_from_slice(&header.encode());
        let body = if is_direct {
            &mut payload
        } else {
            back.bytes.extend_from_slice(&payload);
            &mut back.bytes
        };
        if header.handles > 0 {
            back.handles = handles.into_iter().collect();
            body.extend(back.handles.iter().map(|handle| handle.kind().code()));
        }
        if is_direct {
            let chunk = Chunk { bytes: payload, handles: Vec::new(), is_payload: true };
            self.chunks.push_back(chunk);
        }
    }

    fn settle_messages(&mut self, mut bytes: usize) {
        while let Some(front) = self.messages.front_mut() {
            if bytes < *front {
                *front -= bytes;
                self.is_front_begun |= bytes > 0;
                return;
            }
            bytes -= *front;
            self.messages.pop_front();
            self.is_front_begun = false;
        }
    }

    /// Takes the front chunk away. Its memory serves again, unless a large message made it large.
    fn recycle(&mut self) {
        let Some(mut gone) = self.chunks.pop_front().map(|chunk| chunk.bytes) else { return };
        if (self.recycled.capacity()..=2 * CHUNK_BYTES).contains(&gone.capacity()) {
            gone.clear();
            self.recycled = gone;
        }
    }
}

/// The first so many bytes.
pub(crate) fn first<'a>(
    slices: impl Iterator<Item = &'a [u8]>,
    mut bytes: usize,
) -> impl Iterator<Item = &'a [u8]> {
    let part = move |slice: &'a [u8]| {
        let part = &slice[..slice.len().min(bytes)];
        bytes -= part.len();
        part
    };
    slices.map(part).filter(|part| !part.is_empty())
}

impl<H> PushError<H> {
    /// The message that was not queued.
    #[must_use]
    pub fn into_message(self) -> Message<H> {
        match self {
            Self::Full(message) | Self::TooLarge(message) => message,
        }
    }
}

impl<H> fmt::Display for PushError<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Full(message) | Self::TooLarge(message)) = self;
        let (bytes, handles) = (message.payload.len(), message.handles.len());
        match self {
            Self::Full(_) => {
                write!(f, "the queue has no room for {bytes} bytes with {handles} handles")
            }
            Self::TooLarge(_) => write!(
                f,
                "a message of {bytes} bytes with {handles} handles is over the limits \
                 (ipc_core::Limits)"
            ),
        }
    }
}

impl<H: fmt::Debug> Error for PushError<H> {}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use handle_passing::HandleKind;

    fn message(kind: u8, length: usize, handles: &[u32]) -> Message<u32> {
        Message { kind, payload: vec![kind; length], handles: handles.to_vec().into() }
    }

    fn outbox(messages: &[Message<u32>]) -> Outbox<u32> {
        let mut outbox = Outbox::new(Limits::default());
        for message in messages {
            outbox.push(message.clone()).expect("within limits");
        }
        outbox
    }

    fn write_bytes(outbox: &Outbox<u32>) -> usize {
        outbox.slices().map(<[u8]>::len).sum()
    }

    #[test]
    fn packets_are_whole_messages_or_a_part_of_a_long_one() {
        let mut outbox = Outbox::of_packets(Limits::default(), 150_000);
        let long = 4 * PACKET_BYTES_MAX + 150_010;
        for length in [5, 10, long, 7, DIRECT_BYTES, 0, PACKET_BYTES_MAX - HEADER_BYTES] {
            outbox.push(message(1, length, &[])).expect("within limits");
        }
        outbox.push(message(1, DIRECT_BYTES, &[9, 9])).expect("within limits");
        let mut packets = Vec::new();
        while !outbox.is_empty() {
            packets.push((write_bytes(&outbox), outbox.handles().len()));
            outbox.sent(write_bytes(&outbox));
        }
        let gone = 2 * PACKET_BYTES_MAX - HEADER_BYTES;
        let expected = [
            2 * HEADER_BYTES + 15,
            PACKET_BYTES_MAX,
            PACKET_BYTES_MAX,
            gone,
            150_000,
            10 + 2 * HEADER_BYTES,
            HEADER_BYTES + 7,
            HEADER_BYTES + DIRECT_BYTES,
            HEADER_BYTES,
            PACKET_BYTES_MAX,
        ];
        let expected = expected.into_iter().map(|bytes| (bytes, 0));
        let last = (HEADER_BYTES + DIRECT_BYTES + 2, 2);
        assert_eq!(packets, expected.chain([last]).collect::<Vec<_>>());
    }

    #[test]
    fn small_messages_leave_as_one_slice_of_one_write() {
        let outbox = outbox(&(0..100).map(|kind| message(kind, 64, &[])).collect::<Vec<_>>());
        assert_eq!(outbox.slices().count(), 1);
        assert_eq!(write_bytes(&outbox), 100 * (HEADER_BYTES + 64));
    }

    #[test]
    fn k4_a_message_with_handles_begins_a_write_and_others_follow_in_it() {
        let messages = [
            message(1, 5, &[]),
            message(2, 5, &[20, 21]),
            message(3, 5, &[]),
            message(4, DIRECT_BYTES, &[]),
            message(5, 5, &[]),
            message(6, 0, &[60]),
        ];
        let mut outbox = outbox(&messages);
        assert_eq!((write_bytes(&outbox), outbox.handles()), (13, [].as_slice()));
        outbox.sent(13);
        let bytes = 3 * 13 + 2 + HEADER_BYTES + DIRECT_BYTES;
        assert_eq!((write_bytes(&outbox), outbox.handles()), (bytes, [20, 21].as_slice()));
        outbox.sent(bytes);
        assert_eq!((write_bytes(&outbox), outbox.handles()), (HEADER_BYTES + 1, [60].as_slice()));
        outbox.sent(HEADER_BYTES + 1);
        assert!(outbox.is_empty());
    }

    #[test]
    fn f12_k5_handles_are_not_offered_again_after_a_partial_send() {
        let mut outbox = outbox(&[message(1, 100, &[7])]);
        outbox.sent(0);
        assert_eq!(outbox.handles(), [7], "nothing went yet");
        outbox.sent(1);
        assert_eq!((outbox.handles(), outbox.queued_handles()), ([].as_slice(), 0));
        assert_eq!(outbox.queued_messages(), 1, "the message is still on its way");
        outbox.push(message(2, 3, &[])).expect("within limits");
        assert_eq!(write_bytes(&outbox), HEADER_BYTES + 100 + HEADER_BYTES + 3);
    }

    #[test]
    fn a_large_payload_is_not_copied() {
        let large = message(1, DIRECT_BYTES, &[]);
        let place = large.payload.as_ptr();
        let mut outbox = Outbox::new(Limits::default());
        outbox.push(large).expect("within limits");
        outbox.push(message(2, 1, &[])).expect("within limits");
        let slices: Vec<_> = outbox.slices().collect();
        assert_eq!(slices.iter().map(|s| s.len()).collect::<Vec<_>>(), [8, DIRECT_BYTES, 9]);
        assert_eq!(slices[1].as_ptr(), place);
    }

    #[test]
    fn a_full_queue_gives_the_message_back_and_takes_it_when_there_is_room() {
        let limits = Limits {
            queued_bytes_max: 100,
            queued_messages_max: 3,
            queued_handles_max: 2,
            ..Limits::default()
        };
        for (first, over) in [
            (vec![message(1, 80, &[])], message(2, 5, &[])),
            (vec![message(1, 1, &[]); 3], message(2, 1, &[])),
            (vec![message(1, 1, &[5])], message(2, 1, &[6, 7])),
        ] {
            let mut outbox = Outbox::new(limits);
            for message in first {
                outbox.push(message).expect("within limits");
            }
            assert_eq!(outbox.push(over.clone()), Err(PushError::Full(over.clone())));
            while outbox.push(over.clone()).is_err() {
                let bytes = write_bytes(&outbox);
                assert!(bytes > 0, "an empty queue takes it");
                outbox.sent(bytes);
            }
        }
    }

    #[test]
    fn what_would_never_fit_is_refused_as_too_large() {
        let limits = Limits {
            payload_bytes_max: 50,
            handles_per_message_max: 3,
            queued_bytes_max: 40,
            queued_handles_max: 2,
            ..Limits::default()
        };
        let mut outbox = Outbox::new(limits);
        let over = [
            message(0, 51, &[]),
            message(0, 33, &[]),
            message(0, 31, &[1, 2]),
            message(0, 0, &[1, 2, 3]),
        ];
        for over in over {
            assert_eq!(outbox.push(over.clone()), Err(PushError::TooLarge(over)));
        }
        outbox.push(message(0, 30, &[1, 2])).expect("fits to the byte and to the handle");
    }

    #[test]
    #[should_panic(expected = "begins its own write")]
    fn a_write_across_the_handles_of_another_message_is_a_bug() {
        outbox(&[message(1, 0, &[]), message(2, 0, &[9])]).sent(HEADER_BYTES + 1);
    }

    fn messages() -> impl Strategy<Value = Vec<Message<u32>>> {
        let length = prop_oneof![3 => 0..100_usize, 1 => 16_000..70_000_usize];
        vec((length, 0..3_usize), 0..20).prop_map(|lengths| {
            let mut handle = 0..;
            let message = |(kind, (length, handles))| {
                message(kind, length, &handle.by_ref().take(handles).collect::<Vec<_>>())
            };
            (0..).zip(lengths).map(message).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_has_not_gone_comes_back_whole_and_nothing_else_does(
            messages in messages(),
            sizes in vec(prop_oneof![1..100_usize, 1..100_000_usize], 0..8),
        ) {
            let mut outbox = outbox(&messages);
            let mut gone = 0;
            for size in sizes {
                let size = size.min(write_bytes(&outbox));
                outbox.sent(size);
                gone += size;
            }
            let mut at = 0;
            let not_begun = messages.iter().filter(|message| {
                let begin = at;
                at += HEADER_BYTES + message.payload.len() + message.handles.len();
                begin >= gone
            });
            let expected: Vec<_> = not_begun.cloned().collect();
            prop_assert!(outbox.into_unsent() == expected);
        }

        #[test]
        fn any_partial_sends_make_the_same_stream(
            messages in messages(),
            sizes in vec(prop_oneof![1..100_usize, 1..100_000_usize], 1..8),
        ) {
            let mut outbox = outbox(&messages);
            let (mut bytes, mut handles) = (Vec::<u8>::new(), Vec::new());
            for size in sizes.iter().cycle() {
                if outbox.is_empty() {
                    break;
                }
                handles.extend(outbox.handles().iter().map(|handle| (bytes.len(), *handle)));
                let before = bytes.len();
                bytes.extend(outbox.slices().flatten().take(*size));
                outbox.sent(bytes.len() - before);
                prop_assert_eq!(outbox.is_empty(), outbox.queued_bytes() == 0);
            }
            prop_assert_eq!((outbox.queued_messages(), outbox.queued_handles()), (0, 0));
            let (mut expected_bytes, mut expected_handles) = (Vec::new(), Vec::new());
            for message in &messages {
                let at = expected_bytes.len();
                expected_handles.extend(message.handles.iter().map(|handle| (at, *handle)));
                let header = outbox.header(message).expect("within limits");
                expected_bytes.extend_from_slice(&header.encode());
                expected_bytes.extend_from_slice(&message.payload);
                expected_bytes.extend(message.handles.iter().map(|_| HandleKind::Any.code()));
            }
            prop_assert!(bytes == expected_bytes, "the bytes differ");
            prop_assert_eq!(handles, expected_handles, "once, with the message's first byte");
        }
    }
}
