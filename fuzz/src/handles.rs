//! Handle passing with a hostile peer, on real sockets.

use std::collections::VecDeque;
use std::io::PipeWriter;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use handle_passing::{
    HANDLES_MAX, HandleError, HandleKind, RecvError, SendError, expect, fuzzing, recv, try_recv,
    try_send,
};

/// Plays a hostile peer. Panics when a twin disagrees, and when a descriptor is left over.
///
/// The first byte says what sockets are like (`Setup`), and each three further ones are an
/// operation (`Operation`).
pub fn handles(data: &[u8]) {
    if let [setup, operations @ ..] = data {
        converse(&Setup::new(*setup), operations);
    }
}

/// What the sockets are like, bit by bit.
struct Setup {
    /// Stream, or else seqpacket.
    is_stream: bool,
    /// The kernel adds credentials or a process descriptor, so that no message is acceptable.
    has_credentials: bool,
    has_pidfd: bool,
    /// The peer closes with unread data.
    is_reset: bool,
    /// We close with unread messages.
    is_abandoned: bool,
}

impl Setup {
    fn new(bits: u8) -> Self {
        let bit = |number: u8| bits >> number & 1 == 1;
        Self {
            is_stream: bit(0),
            has_credentials: bit(1),
            has_pidfd: bit(2),
            is_reset: bit(3),
            is_abandoned: bit(4),
        }
    }
}

/// What one side does.
enum Operation {
    /// An honest peer's message.
    Send { bytes: usize, handles: usize },
    /// Past all checks: several records, none, too many; no bytes.
    SendRaw { bytes: usize, handles: usize, records: usize },
    /// We receive, if `is_waiting` with the call that may block.
    Receive { room: usize, is_waiting: bool },
    /// We want so many handles more or fewer than we got.
    Expect { wanted: usize },
}

impl Operation {
    fn new([kind, first, second]: [u8; 3]) -> Self {
        let bytes = usize::from(first);
        // Few handles in most cases, because many take long, and around the limit at times.
        let handles = match second {
            0..=239 => usize::from(second % 4),
            _ => HANDLES_MAX - 14 + usize::from(second - 240),
        };
        match kind % 8 {
            0 | 1 => Self::Send { bytes, handles },
            2 => Self::SendRaw { bytes, handles, records: 1 },
            3 => Self::SendRaw { bytes, handles, records: usize::from(kind / 8 % 8) },
            4 | 5 => Self::Receive { room: bytes, is_waiting: second % 2 == 1 },
            6 => Self::Receive { room: 256, is_waiting: second % 2 == 1 },
            _ => Self::Expect { wanted: usize::from(second % 8) },
        }
    }
}

fn converse(setup: &Setup, operations: &[u8]) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut conversation = Conversation::new(setup, writer);
    for operation in operations.chunks_exact(3).take(OPERATIONS_MAX) {
        conversation.operate(Operation::new(operation.try_into().unwrap()));
    }
    if !setup.is_abandoned {
        conversation.end(setup);
    }
    drop(conversation);
    assert!(fuzzing::is_hung_up(reader).unwrap(), "a descriptor is left over");
}

/// Two sockets, and a twin that knows what must come out of them.
struct Conversation {
    ours: OwnedFd,
    peers: Option<OwnedFd>,
    /// What is sent around: the write end of a pipe, whose read end tells of leaks.
    handle: PipeWriter,
    twin: Twin,
    /// What we have received and keep.
    kept: Vec<OwnedFd>,
    /// The next byte to send.
    next: u8,
}

impl Conversation {
    fn new(setup: &Setup, handle: PipeWriter) -> Self {
        let (ours, peers) = if setup.is_stream {
            let (ours, peers) = UnixStream::pair().unwrap();
            (ours.into(), peers.into())
        } else {
            fuzzing::seqpacket_pair().unwrap()
        };
        fuzzing::receive_credentials(&ours, setup.has_credentials).unwrap();
        if setup.has_pidfd {
            fuzzing::receive_pidfds(&ours, true).unwrap();
        }
        let twin = Twin {
            is_stream: setup.is_stream,
            is_foreign: setup.has_credentials || setup.has_pidfd,
            queue: VecDeque::new(),
        };
        Self { ours, peers: Some(peers), handle, twin, kept: Vec::new(), next: 0 }
    }

    fn operate(&mut self, operation: Operation) {
        match operation {
            Operation::Send { bytes, handles } => self.send(bytes, handles),
            Operation::SendRaw { bytes, handles, records } => {
                self.send_raw(bytes, handles, records);
            }
            Operation::Receive { room, is_waiting } => {
                self.receive(room, is_waiting && !self.twin.queue.is_empty());
            }
            Operation::Expect { wanted } => self.expect(wanted),
        }
    }

    fn send(&mut self, bytes: usize, handles: usize) {
        let text = self.text(bytes);
        let sent = try_send(self.peer(), &text, &vec![self.handle.as_fd(); handles]);
        match sent {
            Err(SendError::NoBytes) => assert_eq!(bytes, 0),
            Err(SendError::TooManyHandles { given }) => {
                assert!(given == handles && handles > HANDLES_MAX);
            }
            // Then nothing of it must come out; the user's limits are not ours to know.
            Err(SendError::WouldBlock | SendError::TooManyInFlight) => {}
            Ok(sent) => {
                assert!(sent == bytes && bytes > 0 && handles <= HANDLES_MAX);
                self.twin.queue.push_back((text, handles));
            }
            Err(error) => panic!("sending failed: {error}"),
        }
    }

    fn send_raw(&mut self, bytes: usize, handles: usize, records: usize) {
        let text = self.text(bytes);
        let record: &[BorrowedFd<'_>] = &vec![self.handle.as_fd(); handles];
        match fuzzing::send_raw(self.peer(), &text, &vec![record; records], false) {
            // A stream drops handles without bytes.
            Ok(0) if self.twin.is_stream => assert_eq!(bytes, 0),
            Ok(sent) => {
                assert!(sent == bytes && handles * records <= HANDLES_MAX);
                self.twin.queue.push_back((text, handles * records));
            }
            Err(_) => {}
        }
    }

    /// Receives, and compares with the twin.
    fn receive(&mut self, room: usize, is_waiting: bool) {
        let before = self.kept.len();
        let call = if is_waiting { recv } else { try_recv };
        let mut bytes = [0; 256];
        let received = call(&self.ours, &mut bytes[..room], &mut self.kept);
        let expected = self.twin.receive(room);
        match (&received, &expected) {
            (&Ok(len), Ok((text, handles))) => {
                assert_eq!((&bytes[..len], self.kept.len() - before), (&text[..], *handles));
            }
            (Err(RecvError::WouldBlock), Err(Refused::Nothing))
            | (Err(RecvError::UnexpectedControl), Err(Refused::Foreign))
            | (Err(RecvError::MessageTruncated), Err(Refused::TooLong))
            | (Err(RecvError::NoBytes), Err(Refused::Empty))
            | (Err(RecvError::NoBuffer), Err(Refused::NoRoom)) => {
                assert_eq!(self.kept.len(), before, "handles came with an error");
            }
            _ => panic!("{received:?}, and the twin: {expected:?}"),
        }
        if self.kept.len() > KEPT_MAX {
            self.kept.clear();
        }
    }

    fn expect(&mut self, wanted: usize) {
        let kept = std::mem::take(&mut self.kept);
        let count = kept.len();
        match expect(kept, &vec![HandleKind::Pipe; wanted]) {
            Ok(handles) => assert!(handles.len() == count && count == wanted),
            Err(HandleError::Missing { .. }) => assert!(count < wanted),
            Err(HandleError::Surplus { .. }) => assert!(count > wanted),
            Err(error) => panic!("{error}"),
        }
    }

    /// The peer closes; what it had sent must come, and then the end.
    fn end(&mut self, setup: &Setup) {
        if setup.is_reset {
            try_send(&self.ours, b"unread", &[]).unwrap();
        }
        self.peers = None;
        while !self.twin.queue.is_empty() {
            let room = 256;
            // What is empty can't be told from the end, once the peer has closed.
            if self.twin.queue.iter().any(|(text, _)| text.is_empty()) {
                return;
            }
            self.receive(room, true);
        }
        let end = recv(&self.ours, &mut [0; 8], &mut self.kept);
        match end {
            Ok(0) => {}
            // Even the end of a stream comes with credentials.
            Err(RecvError::UnexpectedControl) if setup.has_credentials && setup.is_stream => {}
            other => panic!("{other:?} at the end"),
        }
    }

    fn text(&mut self, bytes: usize) -> Vec<u8> {
        (0..bytes)
            .map(|_| {
                self.next = self.next.wrapping_add(1);
                self.next
            })
            .collect()
    }

    fn peer(&self) -> BorrowedFd<'_> {
        self.peers.as_ref().expect("the peer closes last").as_fd()
    }
}

/// What the kernel and the receiver do with messages, in a few lines.
struct Twin {
    is_stream: bool,
    is_foreign: bool,
    queue: VecDeque<(Vec<u8>, usize)>,
}

#[derive(Debug)]
enum Refused {
    Nothing,
    Foreign,
    TooLong,
    Empty,
    NoRoom,
}

impl Twin {
    fn receive(&mut self, room: usize) -> Result<(Vec<u8>, usize), Refused> {
        if room == 0 {
            return Err(Refused::NoRoom);
        }
        let Some((mut text, mut handles)) = self.queue.pop_front() else {
            return Err(Refused::Nothing);
        };
        let is_too_long = text.len() > room;
        if self.is_stream {
            if is_too_long {
                self.queue.push_front((text.split_off(room), 0));
            }
            // Messages without handles go on with the next, up to one with handles.
            while handles == 0 && text.len() < room {
                let Some((mut more, more_handles)) = self.queue.pop_front() else { break };
                let rest = more.split_off(more.len().min(room - text.len()));
                text.append(&mut more);
                handles = more_handles;
                if !rest.is_empty() {
                    self.queue.push_front((rest, 0));
                }
            }
        }
        match () {
            () if self.is_foreign => Err(Refused::Foreign),
            () if is_too_long && !self.is_stream => Err(Refused::TooLong),
            () if text.is_empty() => Err(Refused::Empty),
            () => Ok((text, handles)),
        }
    }
}

const OPERATIONS_MAX: usize = 64;
const KEPT_MAX: usize = 4;

#[cfg(test)]
mod tests {
    #[test]
    fn handles() {
        crate::corpus::run("handles", super::handles);
    }
}
