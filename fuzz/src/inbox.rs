//! An outbox, a simulated stream socket that carries handles the way the kernel does, and an
//! inbox: in any order of calls, with a peer that keeps to the protocol or does not.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use arbitrary::{Arbitrary, Unstructured};
use handle_passing::HandleKind;
use ipc_core::frame::{HEADER_BYTES, PACKET_BYTES_MAX};
use ipc_core::{Attachment, Inbox, Limits, Message, Outbox, ProtocolError, PushError};

/// What an inbox keeps allocated beside the payload of an incomplete message.
const INBOX_BUFFER_BYTES: usize = PACKET_BYTES_MAX;
/// Below and above what an inbox and an outbox keep together, which is little for a fuzzer.
const PAYLOAD_BYTES_MAX: [usize; 4] =
    if cfg!(fuzzing) { [10, 100, 200, 1_500] } else { [10, 1_000, 20_000, 150_000] };
/// Above, and below.
const SOCKET_PACKET_BYTES_MAX: [usize; 2] =
    if cfg!(fuzzing) { [2_000, 400] } else { [192 * 1024, 20_000] };
/// Keeps one input from taking too long.
const OPERATIONS_MAX: usize = if cfg!(fuzzing) { 80 } else { 300 };

#[derive(Arbitrary, Debug)]
enum Operation {
    /// The sender queues a message.
    Push { kind: u8, length: u32, handles: u8 },
    /// The sender writes, and the kernel takes at most so many bytes.
    Send { room: u16 },
    /// The receiver reads at most so many bytes, and takes all messages out.
    Receive { room: u16 },
    /// Somebody writes the next bytes of the input as they are, with so many handles.
    Raw { length: u8, handles: u8 },
}

/// Runs the operations that the bytes stand for.
pub fn inbox(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(choice) = input.arbitrary() else { return };
    let mut world = World::new(limits(choice));
    if choice & 64 != 0 {
        let packet_bytes_max = SOCKET_PACKET_BYTES_MAX[usize::from(choice / 128)];
        world.outbox = Outbox::of_packets(world.limits, packet_bytes_max);
        world.is_of_packets = true;
    }
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            break;
        }
        match Operation::arbitrary(&mut input).expect("zeros stand for what is missing") {
            Operation::Push { kind, length, handles } => world.push(kind, length, few(handles)),
            Operation::Send { room } => world.send(room.into()),
            Operation::Receive { room } => world.receive(room.into()),
            Operation::Raw { length, handles } => {
                let length = input.len().min(length.into());
                let bytes = input.bytes(length).expect("they are there");
                world.send_raw(bytes, few(handles).into());
            }
        }
        world.check();
    }
    world.finish();
}

/// Few handles in most cases, because many take long, and around the limit at times.
fn few(handles: u8) -> u8 {
    if (8..240).contains(&handles) { handles % 4 } else { handles }
}

fn limits(choice: u8) -> Limits {
    let payload_bytes_max = PAYLOAD_BYTES_MAX[usize::from(choice % 4)];
    let handles_per_message_max = [253, 3][usize::from(choice / 4 % 2)];
    Limits {
        payload_bytes_max,
        handles_per_message_max,
        queued_bytes_max: [3 * payload_bytes_max, payload_bytes_max][usize::from(choice / 8 % 2)],
        queued_messages_max: [20, 3][usize::from(choice / 16 % 2)],
        queued_handles_max: [506, 4][usize::from(choice / 32 % 2)],
    }
}

/// A descriptor: a number, and the count of all that are open. A clone is a `dup`.
#[derive(Debug)]
struct Handle {
    id: usize,
    open: Rc<Cell<usize>>,
}

impl Handle {
    fn new(id: usize, open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self { id, open: Rc::clone(open) }
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self::new(self.id, &self.open)
    }
}

impl Attachment for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
    }
}

/// A stream socket's buffer.
#[derive(Default)]
struct Socket {
    writes: VecDeque<(Vec<u8>, Vec<Handle>)>,
}

impl Socket {
    fn write(&mut self, bytes: Vec<u8>, handles: &[Handle]) {
        if !bytes.is_empty() {
            self.writes.push_back((bytes, handles.to_vec()));
        }
    }

    /// The bytes of several writes are glued together. A write's handles come with its first
    /// byte, and the read ends with the write that brought some.
    fn read(&mut self, room: usize) -> (Vec<u8>, Vec<Handle>) {
        let (mut bytes, mut handles) = (Vec::new(), Vec::new());
        while let Some((written, given)) = self.writes.front_mut() {
            if bytes.len() == room || !handles.is_empty() {
                break;
            }
            let length = written.len().min(room - bytes.len());
            bytes.extend_from_slice(&written[..length]);
            written.drain(..length);
            handles.append(given);
            if written.is_empty() {
                self.writes.pop_front();
            }
        }
        (bytes, handles)
    }

    fn handles(&self) -> usize {
        self.writes.iter().map(|(_, handles)| handles.len()).sum()
    }
}

/// What of a message the tests compare: kind, payload, ids of handles.
type Summary = (u8, Vec<u8>, Vec<usize>);

struct World {
    limits: Limits,
    outbox: Outbox<Handle>,
    socket: Socket,
    inbox: Inbox<Handle>,
    /// Each write arrives as one read.
    is_of_packets: bool,
    delivered: Vec<Message<Handle>>,
    failure: Option<ProtocolError>,

    // The naive twins.
    accepted: Vec<Summary>,
    /// Bytes and handles that wait, for each message in the outbox.
    waiting: VecDeque<(usize, usize)>,
    read_bytes: Vec<u8>,
    read_handles: Vec<usize>,
    is_honest: bool,
    next_id: usize,
    open: Rc<Cell<usize>>,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            outbox: Outbox::new(limits),
            socket: Socket::default(),
            inbox: Inbox::new(limits),
            is_of_packets: false,
            delivered: Vec::new(),
            failure: None,
            accepted: Vec::new(),
            waiting: VecDeque::new(),
            read_bytes: Vec::new(),
            read_handles: Vec::new(),
            is_honest: true,
            next_id: 0,
            open: Rc::default(),
        }
    }

    fn new_handles(&mut self, count: usize) -> Vec<Handle> {
        let first = self.next_id;
        self.next_id += count;
        (first..self.next_id).map(|id| Handle::new(id, &self.open)).collect()
    }

    fn push(&mut self, kind: u8, length: u32, handles: u8) {
        // One length in so many is over the limit.
        let length = length as usize % (self.limits.payload_bytes_max + 2);
        let handles = self.new_handles(handles.into());
        let message = Message { kind, payload: vec![kind; length], handles: handles.into() };
        let summary = summarize(&message);
        let handles = message.handles.len();
        let bytes = HEADER_BYTES + length + handles;

        let limits = self.limits;
        let is_too_large = length > limits.payload_bytes_max
            || handles > limits.handles_per_message_max
            || bytes > limits.queued_bytes_max
            || handles > limits.queued_handles_max;
        let (waiting_bytes, waiting_handles) =
            self.waiting.iter().fold((0, 0), |(b, h), waiting| (b + waiting.0, h + waiting.1));
        let is_full = self.waiting.len() == limits.queued_messages_max
            || waiting_bytes + bytes > limits.queued_bytes_max
            || waiting_handles + handles > limits.queued_handles_max;

        match self.outbox.push(message) {
            Ok(()) => {
                assert!(!is_too_large && !is_full);
                self.accepted.push(summary);
                self.waiting.push_back((bytes, handles));
            }
            Err(PushError::TooLarge(message)) => {
                assert!(is_too_large);
                assert_eq!(summarize(&message), summary, "it comes back as it was");
            }
            Err(PushError::Full(message)) => {
                assert!(is_full && !is_too_large);
                assert_eq!(summarize(&message), summary, "it comes back as it was");
            }
        }
    }

    fn send(&mut self, room: usize) {
        let mut bytes = Vec::new();
        let room = if self.is_of_packets { usize::MAX } else { room };
        for slice in self.outbox.slices() {
            bytes.extend_from_slice(&slice[..slice.len().min(room - bytes.len())]);
        }
        let mut sent = bytes.len();
        self.socket.write(bytes, self.outbox.handles());
        self.outbox.sent(sent);
        while let Some((bytes, handles)) = self.waiting.front_mut().filter(|_| sent > 0) {
            let now = sent.min(*bytes);
            *bytes -= now;
            *handles = 0;
            sent -= now;
            if *bytes == 0 {
                self.waiting.pop_front();
            }
        }
    }

    fn send_raw(&mut self, bytes: &[u8], handles: usize) {
        // The kernel takes no more than this in one write.
        let handles = self.new_handles(handles % 254);
        self.socket.write(bytes.to_vec(), &handles);
        self.is_honest = false;
    }

    fn receive(&mut self, room: usize) {
        if self.failure.is_some() {
            return;
        }
        let (bytes, handles) = if self.is_of_packets {
            let Some((packet, handles)) = self.socket.writes.pop_front() else { return };
            if self.inbox.room(true).put(&packet) < packet.len() {
                assert!(!self.is_honest, "a packet of an honest peer finds room");
                self.failure = Some(ProtocolError::PacketTooLarge);
                self.inbox.fail(ProtocolError::PacketTooLarge);
                return;
            }
            (packet, handles)
        } else if room.is_multiple_of(3) {
            let spare = self.inbox.spare();
            assert!(!spare.is_empty(), "there is room once all messages are taken out");
            let (bytes, handles) = self.socket.read(room.min(spare.len()));
            spare[..bytes.len()].copy_from_slice(&bytes);
            (bytes, handles)
        } else {
            let mut place = self.inbox.room(room % 3 == 1);
            assert!(place.bytes_max() > 0, "there is room once all messages are taken out");
            let (bytes, handles) = self.socket.read(room.min(place.bytes_max()));
            assert_eq!(place.put(&bytes), bytes.len());
            (bytes, handles)
        };
        self.read_bytes.extend_from_slice(&bytes);
        self.read_handles.extend(handles.iter().map(|handle| handle.id));
        self.inbox.received(bytes.len(), handles);
        loop {
            match self.inbox.next_message() {
                Ok(Some(message)) => self.delivered.push(message),
                Ok(None) => return,
                Err(error) => {
                    assert!(!self.is_honest, "an honest peer gets {error}");
                    assert_eq!(self.inbox.next_message().err(), Some(error), "a failure stays");
                    self.failure = Some(error);
                    return;
                }
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.outbox.queued_messages(), self.waiting.len());
        assert_eq!(self.outbox.queued_bytes(), self.waiting.iter().map(|(bytes, _)| bytes).sum());
        assert_eq!(self.outbox.queued_handles(), self.waiting.iter().map(|(_, h)| h).sum());
        assert_eq!(self.outbox.is_empty(), self.waiting.is_empty());
        let most = INBOX_BUFFER_BYTES + self.limits.payload_bytes_max + 253;
        assert!(self.inbox.allocated_bytes() <= most, "memory is bounded");

        let delivered: usize = self.delivered.iter().map(|message| message.handles.len()).sum();
        let elsewhere = self.outbox.queued_handles() + self.socket.handles() + delivered;
        let in_inbox = self.open.get() - elsewhere;
        let most = if self.failure.is_some() { 0 } else { self.limits.handles_per_message_max };
        assert!(in_inbox <= most, "an inbox holds {in_inbox} handles");
    }

    fn finish(mut self) {
        while !self.outbox.is_empty() {
            self.send(usize::MAX);
        }
        while !self.socket.writes.is_empty() && self.failure.is_none() {
            self.receive(usize::MAX);
        }
        self.check();
        let delivered: Vec<Summary> = self.delivered.iter().map(summarize).collect();
        if self.is_honest {
            assert!(delivered == self.accepted, "all arrive, once and in order");
        }
        let naive = decode_naively(&self.read_bytes, &self.read_handles);
        assert!(naive.starts_with(&delivered), "each has its own bytes and handles");
        assert!(self.failure.is_some() || naive.len() == delivered.len(), "none is held back");
        let open = Rc::clone(&self.open);
        drop((self, delivered));
        assert_eq!(open.get(), 0, "no handle is left over");
    }
}

fn summarize(message: &Message<Handle>) -> Summary {
    let handles = message.handles.iter().map(|handle| handle.id).collect();
    (message.kind, message.payload.clone(), handles)
}

/// The messages of a stream that is there as a whole: each takes the next handles. What comes
/// after an error does not matter, because nothing of it may be delivered.
fn decode_naively(mut bytes: &[u8], mut handles: &[usize]) -> Vec<Summary> {
    let mut messages = Vec::new();
    while let [_version, kind, count, _reserved, a, b, c, d, rest @ ..] = bytes {
        let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        let Some((body, rest)) = rest.split_at_checked(length) else { break };
        let Some(payload_bytes) = length.checked_sub(usize::from(*count)) else { break };
        let (payload, kinds) = body.split_at(payload_bytes);
        if kinds.iter().any(|code| HandleKind::from_code(*code).is_none()) {
            break;
        }
        let Some((own, others)) = handles.split_at_checked(usize::from(*count)) else { break };
        messages.push((*kind, payload.to_vec(), own.to_vec()));
        (bytes, handles) = (rest, others);
    }
    messages
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpus() {
        crate::corpus::run("inbox", super::inbox);
    }
}
