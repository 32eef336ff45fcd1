//! A connected pipe as a pair of streams with handles beside the bytes.
#![allow(unsafe_code)] // Handles that a trusted peer has pushed here.

use std::io;
use std::os::windows::io::{AsHandle, BorrowedHandle, OwnedHandle};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use handle_passing::{Handle, HandleKind, Pushed, Target, adopt};
use mio::{Interest, Registry, Token};
use windows_sys::Win32::Foundation::{ERROR_BROKEN_PIPE, ERROR_NO_DATA, ERROR_PIPE_NOT_CONNECTED};

use super::alarm::{Bell, Watch, lock};
use super::overlapped::{Operation, os_code};
use super::security::{self, Side};
use crate::ProtocolError;
use crate::frame::Room;
use crate::segment::{Part, SEGMENT_BYTES_MAX, Segments, write};
use crate::sys::{Received, Sent, Wait};

/// How much is read from the pipe at once.
const READ_BYTES: usize = 64 * 1024;

/// A connected pipe. The two halves of a channel share it.
///
/// It uses operations of its own, and not mio's: of those only their poll knows when they are over,
/// so that what the peer has sent last could not be read before that has run once more.
#[derive(Debug)]
pub(crate) struct Socket {
    reader: Mutex<Reader>,
    writer: Mutex<Writer>,
    bell: Arc<Bell>,
    /// Behind the two, whose operations end before.
    pipe: OwnedHandle,
    side: Side,
    /// Where handles are pushed; `None` on the side that does not hold the peer's process.
    target: Option<Target>,
    /// Whether handles are taken from the peer: not from one that we push to (F103).
    adopts: bool,
}

#[derive(Debug)]
struct Reader {
    /// As long as a poll waits for the operation, which must be closed later.
    watch: Option<Watch>,
    operation: Operation,
    segments: Segments,
    has_ended: bool,
}

#[derive(Debug)]
struct Writer {
    /// As long as a poll waits for the operation, which must be closed later.
    watch: Option<Watch>,
    operation: Operation,
    /// How much of its bytes has gone.
    at: usize,
    /// The handles of the segment that is being written.
    pushed: Vec<Pushed>,
    is_shut: bool,
}

impl Socket {
    pub(super) fn new(
        pipe: OwnedHandle,
        side: Side,
        target: Option<Target>,
        adopts: bool,
    ) -> io::Result<Self> {
        let reader = Reader {
            watch: None,
            operation: Operation::new()?,
            segments: Segments::default(),
            has_ended: false,
        };
        let writer = Writer {
            watch: None,
            operation: Operation::new()?,
            at: 0,
            pushed: Vec::new(),
            is_shut: false,
        };
        let (reader, writer) = (Mutex::new(reader), Mutex::new(writer));
        Ok(Self { reader, writer, bell: Arc::default(), pipe, side, target, adopts })
    }

    /// Two ends in this process.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (server, client) = super::named::unnamed_pair()?;
        let this = || Some(Target::this_process()).transpose();
        Ok((
            Self::new(server, Side::Server, this()?, true)?,
            Self::new(client, Side::Client, this()?, true)?,
        ))
    }

    pub(crate) fn packet_pair() -> io::Result<(Self, Self)> {
        let reason = "channels of packets need Unix sockets: use Channel::pair";
        Err(io::Error::new(io::ErrorKind::Unsupported, reason))
    }

    pub(crate) fn packet_bytes_max(&self) -> usize {
        usize::MAX
    }

    pub(crate) fn is_of_packets(&self) -> bool {
        false
    }

    pub(crate) fn check_handles(&self, count: usize) -> io::Result<()> {
        if count == 0 || self.target.is_some() {
            return Ok(());
        }
        let reason = "this end can't send handles: on Windows only the end that holds the other's \
                      process can, such as a parent's (Bootstrap)";
        Err(io::Error::new(io::ErrorKind::Unsupported, reason))
    }

    pub(crate) fn send<'a>(
        &self,
        slices: impl Iterator<Item = &'a [u8]>,
        handles: impl Iterator<Item = &'a Handle>,
        _wait: Wait,
    ) -> io::Result<Sent> {
        let mut writer = lock(&self.writer);
        if !self.drive(&mut writer)? {
            return Ok(Sent::Full);
        }
        let mut bytes = Vec::new();
        for slice in slices {
            let room = SEGMENT_BYTES_MAX - bytes.len();
            bytes.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        let pushed: Vec<Pushed> = match &self.target {
            Some(target) => handles.map(|handle| target.push(handle)).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        let mut segment = Vec::with_capacity(bytes.len() + 64);
        write(&mut segment, bytes.len(), &pushed.iter().map(Pushed::token).collect::<Vec<_>>());
        segment.extend_from_slice(&bytes);
        self.begin(&mut writer, segment, pushed)?;
        Ok(Sent::Bytes(bytes.len()))
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8], wait: Wait) -> io::Result<Sent> {
        self.send([bytes].into_iter(), std::iter::empty(), wait)
    }

    /// Whether the system has taken all that was sent.
    pub(crate) fn has_left(&self) -> io::Result<bool> {
        self.drive(&mut lock(&self.writer))
    }

    pub(crate) fn recv(
        &self,
        mut room: Room<'_>,
        handles: &mut Vec<Handle>,
        _wait: Wait,
    ) -> io::Result<Received> {
        let mut reader = lock(&self.reader);
        loop {
            match reader.segments.take(room.bytes_max()) {
                Ok(Part::Bytes(bytes, tokens)) => {
                    let count = room.put(bytes);
                    return Ok(match self.take_up(tokens, handles) {
                        Ok(()) => Received::Bytes(count),
                        Err(error) => Received::Broken(error),
                    });
                }
                Ok(Part::End) => return Ok(Received::Closed),
                Ok(Part::Nothing) => {}
                Err(_no_segment) => {
                    return Ok(Received::Broken(ProtocolError::UnexpectedAncillary));
                }
            }
            match self.fill(&mut reader) {
                Ok(true) => {}
                // What had come before the end is read first.
                Ok(false) if reader.has_ended => return Ok(Received::Closed),
                Ok(false) => return Ok(Received::Nothing),
                Err(error) if is_gone(&error) => return Ok(Received::Closed),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes up the handles that the peer has pushed here; on error none of them is kept.
    fn take_up(
        &self,
        tokens: Vec<Vec<u8>>,
        handles: &mut Vec<Handle>,
    ) -> Result<(), ProtocolError> {
        if !tokens.is_empty() && !self.adopts {
            return Err(ProtocolError::UnexpectedAncillary);
        }
        let before = handles.len();
        let count = tokens.len();
        // All of them, whatever comes of one: they are open in this process already.
        handles.extend(tokens.iter().filter_map(|token| {
            // SAFETY: we adopt from the process alone that has started this one, or from
            // ourselves, over a pipe whose name nobody else knows; each token is read once.
            unsafe { adopt(token) }.ok()
        }));
        if handles.len() < before + count {
            handles.truncate(before);
            return Err(ProtocolError::HandlesTruncated);
        }
        Ok(())
    }

    pub(crate) fn wait_readable(&self, timeout: Option<Duration>) -> io::Result<()> {
        let mut reader = lock(&self.reader);
        if !reader.operation.is_pending()
            && reader.operation.begin_read(self.pipe.as_handle(), READ_BYTES).is_err()
        {
            return Ok(()); // The next attempt to receive tells why.
        }
        reader.operation.wait(timeout).map(drop)
    }

    pub(crate) fn wait_writable(&self, timeout: Option<Duration>) -> io::Result<()> {
        let writer = lock(&self.writer);
        if writer.operation.is_pending() {
            writer.operation.wait(timeout).map(drop)
        } else {
            Ok(())
        }
    }

    /// One operation can be waited for at a time, so it looks after the other every now and then.
    pub(crate) fn wait_either(&self, timeout: Option<Duration>) -> io::Result<()> {
        const SLICE: Duration = Duration::from_millis(5);
        self.wait_readable(Some(timeout.map_or(SLICE, |timeout| timeout.min(SLICE))))
    }

    pub(crate) fn pause(&self, timeout: Duration) -> io::Result<()> {
        super::named::pause(timeout)
    }

    /// Tells the peer that nothing follows, and ends a call on the other half.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        // A thread may be waiting with the reader's lock: this ends its wait.
        security::cancel_all(self.pipe.as_handle());
        lock(&self.reader).has_ended = true;
        let mut writer = lock(&self.writer);
        let is_free = !writer.is_shut && self.drive(&mut writer).unwrap_or(false);
        writer.is_shut = true;
        if is_free {
            let mut end = Vec::new();
            write(&mut end, 0, &[] as &[&[u8]]);
            let _ = self.begin(&mut writer, end, Vec::new());
        }
        Ok(())
    }

    /// The pipe, without what was read from it and not taken.
    ///
    /// # Panics
    ///
    /// When it can't be duplicated.
    pub(super) fn into_handle(mut self) -> Handle {
        self.stop();
        Handle::from(self.pipe.try_clone().expect("a duplicate")).announced(HandleKind::Pipe)
    }

    /// Ends all operations, whose memory goes with us.
    fn stop(&mut self) {
        let reader = self.reader.get_mut().unwrap_or_else(PoisonError::into_inner);
        reader.operation.cancel(self.pipe.as_handle());
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        let count = writer.operation.cancel(self.pipe.as_handle());
        writer.settle(count);
    }

    pub(super) fn side(&self) -> Side {
        self.side
    }

    /// What a function says of the pipe.
    pub(super) fn with_handle<T>(&self, ask: impl FnOnce(BorrowedHandle<'_>) -> T) -> T {
        ask(self.pipe.as_handle())
    }

    /// An event of its own, which finds out what there is.
    pub(crate) fn register(
        &self,
        registry: &Registry,
        token: Token,
        _: Interest,
    ) -> io::Result<()> {
        self.bell.register(registry, token)
    }

    pub(crate) fn reregister(
        &self,
        registry: &Registry,
        token: Token,
        _: Interest,
    ) -> io::Result<()> {
        self.bell.reregister(registry, token)
    }

    pub(crate) fn deregister(&self, registry: &Registry) -> io::Result<()> {
        lock(&self.reader).watch = None;
        lock(&self.writer).watch = None;
        self.bell.deregister(registry)
    }

    /// Reads what is there; false if nothing is.
    fn fill(&self, reader: &mut Reader) -> io::Result<bool> {
        let Reader { watch, operation, segments, .. } = reader;
        let pipe = self.pipe.as_handle();
        if !operation.is_pending() {
            operation.begin_read(pipe, READ_BYTES)?;
        }
        match operation.finish(pipe, Some(Duration::ZERO)) {
            Ok(None) => {
                self.bell.watch(watch, operation.event())?;
                return Ok(false);
            }
            Ok(Some(count)) => segments.feed(&operation.buffer()[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        *watch = None;
        Ok(true)
    }

    /// Goes on with what is being written; whether all of it has gone.
    fn drive(&self, writer: &mut Writer) -> io::Result<bool> {
        if writer.is_shut {
            return Err(closed());
        }
        let pipe = self.pipe.as_handle();
        while writer.operation.is_pending() {
            match writer.operation.finish(pipe, Some(Duration::ZERO)) {
                Ok(Some(count)) => writer.at += count,
                Ok(None) => {
                    self.bell.watch(&mut writer.watch, writer.operation.event())?;
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // How much has gone, the system does not say.
                    writer.settle(usize::MAX);
                    return Err(named_closed(error));
                }
            }
            writer.watch = None;
            if writer.at < writer.operation.buffer().len() {
                writer.operation.begin_write(pipe, writer.at).map_err(named_closed)?;
            }
        }
        writer.settle(usize::MAX);
        Ok(true)
    }

    fn begin(&self, writer: &mut Writer, segment: Vec<u8>, pushed: Vec<Pushed>) -> io::Result<()> {
        *writer.operation.buffer() = segment;
        writer.at = 0;
        writer.operation.begin_write(self.pipe.as_handle(), 0).map_err(named_closed)?;
        writer.pushed = pushed;
        self.drive(writer).map(drop)
    }
}

impl Writer {
    /// Takes note of how many bytes of the segment have gone. With the first of them the peer may
    /// have taken its handles up, so that they are no longer ours to take back.
    fn settle(&mut self, bytes: usize) {
        if bytes > 0 {
            self.pushed.drain(..).for_each(Pushed::delivered);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether the peer has closed its end, and all that it wrote was read.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
        || matches!(os_code(error), ERROR_BROKEN_PIPE | ERROR_NO_DATA | ERROR_PIPE_NOT_CONNECTED)
}

/// The kind of error that says that the peer is gone, whatever the system calls it.
fn named_closed(error: io::Error) -> io::Error {
    if is_gone(&error) { closed() } else { error }
}

fn closed() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Whether the handle of a segment stays open when the segment is given up, of which so much
    /// had gone.
    fn is_open_after(bytes: usize) -> bool {
        let (reader, mut other_end) = io::pipe().expect("a pipe");
        let pushed = Target::this_process().and_then(|target| target.push(&reader.into()));
        let pushed = pushed.expect("a pipe can be pushed");
        let token = pushed.token().to_vec();
        let operation = Operation::new().expect("an event");
        let mut writer =
            Writer { watch: None, operation, at: 0, pushed: vec![pushed], is_shut: false };
        writer.settle(bytes);
        drop(writer);
        let is_open = other_end.write(&[0]).is_ok();
        if is_open {
            // SAFETY: it was pushed just now, and is taken up once.
            unsafe { adopt(&token) }.expect("it is open");
        }
        is_open
    }

    #[test]
    fn handles_are_taken_back_only_if_nothing_of_their_segment_has_gone() {
        assert!(is_open_after(1));
        assert!(!is_open_after(0));
    }
}
