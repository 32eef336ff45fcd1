use std::collections::VecDeque;

use handle_passing::HandleKind;

use crate::frame::{Decoder, Frame, Limits, Pending, ProtocolError, Room};
use crate::{Attachment, Handles, Message};

/// Cuts a stream of bytes, and of handles beside them, into messages. Pure: it does no I/O.
///
/// Bytes are written into [`spare`](Self::spare) and reported, with the handles that the same
/// read delivered, to [`received`](Self::received); then
/// [`next_message`](Self::next_message) is called until it has no more to give, and only then more
/// is read. That is what bounds an inbox: the bytes of one read, one incomplete message, and the
/// handles of one message and of one read.
///
/// # How handles find their message
///
/// On a Unix stream socket a write's handles arrive with its first byte, and one read never
/// delivers the handles of two writes; but bytes of earlier writes may be glued in front. So the
/// first byte of a message that has handles is always the first byte of a write (the
/// [`Outbox`](crate::Outbox) sees to it), received handles queue up here, and each header takes as
/// many as it announces. A peer that does not play by this is found out as soon as the bytes of a
/// read are used up, and everything it sent is closed.
///
/// # Examples
///
/// With integers for handles:
///
/// ```
/// use ipc_core::{Inbox, Limits, Message};
///
/// let mut inbox = Inbox::new(Limits::default());
/// let bytes = [1, 42, 1, 0, 3, 0, 0, 0, b'h', b'i', 0];
/// inbox.spare()[..11].copy_from_slice(&bytes);
/// inbox.received(11, [1001]);
///
/// assert_eq!(inbox.next_message()?, Some(Message::new(42, "hi").with_handle(1001_u32)));
/// assert_eq!(inbox.next_message()?, None);
/// # Ok::<(), ipc_core::ProtocolError>(())
/// ```
#[derive(Debug)]
pub struct Inbox<H> {
    decoder: Decoder,
    /// Received and not yet claimed by a complete message, in the order of arrival.
    handles: VecDeque<H>,
    handles_per_message_max: usize,
}

impl<H: Attachment> Inbox<H> {
    /// An inbox at the start of a stream. It allocates nothing before the first byte is due.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            decoder: Decoder::new(limits),
            handles: VecDeque::new(),
            handles_per_message_max: limits.handles_per_message(),
        }
    }

    /// Where to put the next bytes of the stream; never empty once
    /// [`next_message`](Self::next_message) has answered `None`.
    pub fn spare(&mut self) -> &mut [u8] {
        self.decoder.spare()
    }

    /// Where to put the next bytes of the stream, with one copy less of long payloads, see
    /// [`Decoder::room`].
    pub fn room(&mut self, is_of_packets: bool) -> Room<'_> {
        self.decoder.room(is_of_packets)
    }

    /// Gives up memory that is held for what comes next, when that may take a while.
    pub fn relax(&mut self) {
        self.decoder.relax();
    }

    /// Takes note that a read filled the first `bytes` of [`spare`](Self::spare) or
    /// [`room`](Self::room), whichever was called last, and delivered `handles` with them.
    ///
    /// # Panics
    ///
    /// When there was not so much room.
    pub fn received(&mut self, bytes: usize, handles: impl IntoIterator<Item = H>) {
        self.received_bytes(bytes);
        self.handles.extend(handles);
    }

    pub(crate) fn received_bytes(&mut self, bytes: usize) {
        self.decoder.received(bytes);
    }

    /// The next complete message, or `None` when more bytes are needed for it.
    ///
    /// # Errors
    ///
    /// What the peer did against the protocol. The inbox stays failed: it has dropped all handles
    /// and gives the same error again, whatever is received.
    pub fn next_message(&mut self) -> Result<Option<Message<H>>, ProtocolError> {
        self.cut_message().inspect_err(|error| self.fail(*error))
    }

    /// Whether a part of a message is there, which may be as little as one byte of its header.
    ///
    /// It is for whoever limits how long a peer may take to finish a message.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.decoder.pending() != Pending::Nothing
    }

    /// Whether a short message is incomplete; only of use after
    /// [`next_message`](Self::next_message) answered `None`.
    pub(crate) fn is_cut_short(&self) -> bool {
        self.decoder.is_cut_short()
    }

    /// Whether nothing is there, not even a part of a message: a quick look, to save another.
    pub(crate) fn is_drained(&self) -> bool {
        self.decoder.is_drained() && self.handles.is_empty()
    }

    /// Bytes of memory that the inbox holds for payloads.
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        self.decoder.allocated_bytes()
    }

    /// Fails for good, and drops everything received: for what only the reader of the socket can
    /// notice, such as handles that the system could not deliver.
    pub fn fail(&mut self, error: ProtocolError) {
        self.decoder.fail(error);
        self.handles = VecDeque::new();
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.handles_per_message_max = limits.handles_per_message();
        self.decoder.set_limits(limits);
    }

    #[inline]
    fn cut_message(&mut self) -> Result<Option<Message<H>>, ProtocolError> {
        let Some(Frame { header, body: mut payload }) = self.decoder.next_frame()? else {
            return self.check_pending().map(|()| None);
        };
        let mut handles = Handles::default();
        if header.handles > 0 {
            // The decoder has checked that the kinds are there.
            let kinds = payload.split_off(payload.len() - usize::from(header.handles));
            handles = self.claim(&kinds)?;
        }
        Ok(Some(Message { kind: header.kind, payload, handles }))
    }

    fn claim(&mut self, kinds: &[u8]) -> Result<Handles<H>, ProtocolError> {
        let (claimed, received) = (kinds.len(), self.handles.len());
        if claimed > received {
            return Err(ProtocolError::HandlesMissing { claimed, received });
        }
        let announce = |(handle, code): (H, &u8)| match HandleKind::from_code(*code) {
            Some(kind) => Ok(handle.announced(kind)),
            None => Err(ProtocolError::UnknownKind { found: *code }),
        };
        self.handles.drain(..claimed).zip(kinds).map(announce).collect()
    }

    /// With the bytes used up, the handles that are left can only be those of the incomplete
    /// message, and they are all there: they came with its first byte.
    fn check_pending(&self) -> Result<(), ProtocolError> {
        let received = self.handles.len();
        let (least, most) = match self.decoder.pending() {
            Pending::Nothing => (0, 0),
            Pending::Header => (0, self.handles_per_message_max),
            Pending::Body(header) => (header.handles.into(), header.handles.into()),
        };
        if received < least {
            return Err(ProtocolError::HandlesMissing { claimed: least, received });
        }
        if received > most {
            return Err(ProtocolError::HandlesUnclaimed { received, claimed: most });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::Outbox;
    use crate::frame::{HEADER_BYTES, Header};

    fn frame(kind: u8, handles: u8, payload: &[u8]) -> Vec<u8> {
        let kinds = vec![0; handles.into()];
        let body_bytes = u32::try_from(payload.len() + kinds.len()).expect("short");
        [&Header { kind, handles, body_bytes }.encode(), payload, &kinds].concat()
    }

    fn read(inbox: &mut Inbox<u32>, bytes: &[u8], handles: &[u32]) {
        inbox.spare()[..bytes.len()].copy_from_slice(bytes);
        inbox.received(bytes.len(), handles.iter().copied());
    }

    fn message(kind: u8, payload: &[u8], handles: &[u32]) -> Message<u32> {
        Message { kind, payload: payload.to_vec(), handles: handles.to_vec().into() }
    }

    #[test]
    fn k4_handles_find_the_message_behind_others_in_the_same_read() {
        let mut inbox = Inbox::new(Limits::default());
        let bytes = [frame(1, 0, b"A"), frame(2, 2, b"B"), frame(3, 0, b"C")].concat();
        read(&mut inbox, &bytes, &[10, 11]);
        assert_eq!(inbox.next_message(), Ok(Some(message(1, b"A", &[]))));
        assert_eq!(inbox.next_message(), Ok(Some(message(2, b"B", &[10, 11]))));
        assert_eq!(inbox.next_message(), Ok(Some(message(3, b"C", &[]))));
        assert_eq!(inbox.next_message(), Ok(None));
    }

    #[test]
    fn handles_of_a_header_that_is_cut_wait_for_the_rest_of_it() {
        let bytes = [frame(1, 1, b"first"), frame(2, 2, b"second")].concat();
        let start = frame(1, 1, b"first").len();
        for cut in start + 1..bytes.len() {
            let mut inbox = Inbox::new(Limits::default());
            read(&mut inbox, &bytes[..3], &[10]);
            assert_eq!(inbox.next_message(), Ok(None));
            read(&mut inbox, &bytes[3..cut], &[20, 21]);
            assert_eq!(inbox.next_message(), Ok(Some(message(1, b"first", &[10]))));
            assert_eq!(inbox.next_message(), Ok(None), "cut at {cut}");
            assert!(inbox.is_mid_message());
            read(&mut inbox, &bytes[cut..], &[]);
            assert_eq!(inbox.next_message(), Ok(Some(message(2, b"second", &[20, 21]))));
            assert!(!inbox.is_mid_message());
        }
    }

    fn failure(reads: &[(&[u8], &[u32])]) -> ProtocolError {
        let mut inbox = Inbox::new(Limits::default());
        for (bytes, handles) in reads {
            read(&mut inbox, bytes, handles);
            while let Some(_message) = match inbox.next_message() {
                Ok(next) => next,
                Err(error) => {
                    assert!(inbox.handles.is_empty(), "all handles are dropped");
                    assert_eq!(inbox.next_message(), Err(error), "the failure stays");
                    return error;
                }
            } {}
        }
        panic!("the inbox took it");
    }

    #[test]
    fn f26_claimed_handles_that_did_not_come_fail_the_channel() {
        let missing = |claimed, received| ProtocolError::HandlesMissing { claimed, received };
        assert_eq!(failure(&[(&frame(1, 3, b"x"), &[1, 2])]), missing(3, 2));
        let header = &frame(1, 3, b"x")[..HEADER_BYTES];
        assert_eq!(failure(&[(header, &[])]), missing(3, 0), "noticed before the payload is there");
        let third = frame(3, 1, b"");
        let reads: [(&[u8], &[u32]); 2] = [(&frame(2, 1, b""), &[5]), (&third, &[])];
        assert_eq!(failure(&reads), missing(1, 0));
    }

    #[test]
    fn f27_handles_that_no_header_announces_fail_the_channel() {
        let surplus = |received, claimed| ProtocolError::HandlesUnclaimed { received, claimed };
        assert_eq!(failure(&[(&frame(1, 0, b"x"), &[1])]), surplus(1, 0));
        assert_eq!(failure(&[(&frame(1, 1, b"x"), &[1, 2, 3])]), surplus(2, 0));
        let part = &frame(1, 1, b"long")[..HEADER_BYTES + 1];
        assert_eq!(failure(&[(part, &[1, 2])]), surplus(2, 1), "in the middle of a payload");
    }

    #[test]
    fn f28_a_header_that_is_never_completed_collects_no_handles() {
        let most: Vec<u32> = (0..253).collect();
        let reads: [(&[u8], &[u32]); 2] = [(&[1], &most), (&[0], &[253])];
        let error = ProtocolError::HandlesUnclaimed { received: 254, claimed: 253 };
        assert_eq!(failure(&reads), error);
    }

    #[test]
    fn messages_before_the_offence_come_out() {
        let mut inbox = Inbox::new(Limits::default());
        read(&mut inbox, &[frame(1, 1, b"good"), frame(2, 1, b"bad")].concat(), &[7]);
        assert_eq!(inbox.next_message(), Ok(Some(message(1, b"good", &[7]))));
        assert!(inbox.next_message().is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn packets_of_an_outbox_find_room_and_give_the_same_messages(
            sent in vec(
                (
                    any::<u8>(),
                    prop_oneof![3 => 0..100_usize, 1 => 9_000..90_000_usize, 1 => 0..900_000_usize],
                    0..3_u32,
                ),
                1..12,
            ),
            batches in vec(1..5_usize, 1..5),
            packet_bytes_max in prop_oneof![Just(192 * 1024), 20_000..300_000_usize],
        ) {
            let mut outbox = Outbox::of_packets(Limits::default(), packet_bytes_max);
            let mut inbox: Inbox<u32> = Inbox::new(Limits::default());
            let mut to_send = sent.iter().map(|(kind, length, handles)| {
                message(*kind, &vec![*kind; *length], &(0..*handles).collect::<Vec<_>>())
            });
            let mut expected = to_send.clone();
            for batch in batches.iter().cycle() {
                let before = outbox.queued_messages();
                let batch = to_send.by_ref().take(*batch);
                batch.for_each(|message| outbox.push(message).expect("within limits"));
                if outbox.queued_messages() == before {
                    break;
                }
                while !outbox.is_empty() {
                    let packet: Vec<u8> = outbox.slices().collect::<Vec<_>>().concat();
                    prop_assert!((1..=packet_bytes_max).contains(&packet.len()));
                    let mut room = inbox.room(true);
                    prop_assert_eq!(room.put(&packet), packet.len(), "it is not cut");
                    inbox.received(packet.len(), outbox.handles().iter().copied());
                    outbox.sent(packet.len());
                    while let Some(message) = inbox.next_message().expect("an honest peer") {
                        prop_assert!(Some(message) == expected.next());
                    }
                    prop_assert!(!inbox.is_cut_short());
                }
            }
            prop_assert!(expected.next().is_none() && !inbox.is_mid_message());
        }
    }

    proptest! {
        /// Each message is a write of its own; a read takes bytes of several, but stops where
        /// handles would follow handles, as the kernel does.
        #[test]
        fn any_reads_give_the_same_messages(
            sent in vec((any::<u8>(), 0..40_usize, 0..4_u32), 0..20),
            sizes in vec(1..60_usize, 1..8),
        ) {
            let mut next_handle = 0;
            let mut expected = Vec::new();
            let mut stream = VecDeque::new();
            for (kind, length, count) in sent {
                let handles: Vec<u32> = (next_handle..next_handle + count).collect();
                next_handle += count;
                let bytes = frame(kind, u8::try_from(count).expect("few"), &vec![kind; length]);
                let first = handles.clone();
                let later = bytes.iter().skip(1).map(|byte| (*byte, Vec::new()));
                stream.extend([(bytes[0], first)].into_iter().chain(later));
                expected.push(message(kind, &vec![kind; length], &handles));
            }
            let mut inbox = Inbox::new(Limits::default());
            let mut received = Vec::new();
            for size in sizes.iter().cycle() {
                let (mut bytes, mut handles) = (Vec::new(), Vec::new());
                while let Some((byte, first)) = stream.front() {
                    if bytes.len() == *size || !first.is_empty() && !handles.is_empty() {
                        break;
                    }
                    bytes.push(*byte);
                    handles.extend_from_slice(first);
                    stream.pop_front();
                }
                if bytes.is_empty() {
                    break;
                }
                read(&mut inbox, &bytes, &handles);
                while let Some(message) = inbox.next_message().expect("an honest peer") {
                    received.push(message);
                }
            }
            prop_assert_eq!(received, expected);
            prop_assert!(!inbox.is_mid_message());
        }
    }
}
