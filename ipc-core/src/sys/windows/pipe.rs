//! A connected pipe as a pair of streams with handles beside the bytes.
#![allow(unsafe_code)] // Handles that a trusted peer has pushed here.

use std::io::{self, Read, Write};
use std::os::windows::io::{AsHandle, BorrowedHandle, OwnedHandle};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use handle_passing::{Handle, HandleKind, Pushed, Target, adopt};
use mio::event::Source as _;
use mio::windows::NamedPipe;
use mio::{Interest, Registry, Token};
use windows_sys::Win32::Foundation::{ERROR_BROKEN_PIPE, ERROR_NO_DATA, ERROR_PIPE_NOT_CONNECTED};

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
/// Until it is registered with a poll it uses operations of its own, which a thread can wait for;
/// from then on mio's, which only the poll can. A pipe stays with its first poll for ever.
#[derive(Debug)]
pub(crate) struct Socket {
    io: RwLock<Io>,
    side: Side,
    reader: Mutex<Reader>,
    writer: Mutex<Writer>,
    /// Where handles are pushed; `None` on the side that does not hold the peer's process.
    target: Option<Target>,
    /// Whether handles are taken from the peer: not from one that we push to (F103).
    adopts: bool,
}

#[derive(Debug)]
enum Io {
    Own(OwnedHandle),
    Mio(NamedPipe),
    /// In between, and never seen from outside.
    Moving,
}

#[derive(Debug)]
struct Reader {
    operation: Operation,
    segments: Segments,
    has_ended: bool,
}

#[derive(Debug)]
struct Writer {
    operation: Operation,
    /// With mio, what it has not taken yet.
    rest: Vec<u8>,
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
        Self::around(Io::Own(pipe), side, target, adopts)
    }

    pub(super) fn of_mio(
        pipe: NamedPipe,
        side: Side,
        target: Option<Target>,
        adopts: bool,
    ) -> io::Result<Self> {
        Self::around(Io::Mio(pipe), side, target, adopts)
    }

    fn around(io: Io, side: Side, target: Option<Target>, adopts: bool) -> io::Result<Self> {
        let reader = Reader {
            operation: Operation::new()?,
            segments: Segments::default(),
            has_ended: false,
        };
        let writer = Writer {
            operation: Operation::new()?,
            rest: Vec::new(),
            pushed: Vec::new(),
            is_shut: false,
        };
        let (reader, writer) = (Mutex::new(reader), Mutex::new(writer));
        Ok(Self { io: RwLock::new(io), side, reader, writer, target, adopts })
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
        self.check_waitable()?;
        let mut reader = lock(&self.reader);
        if let Io::Own(pipe) = &*self.io()
            && !reader.operation.is_pending()
            && reader.operation.begin_read(pipe.as_handle(), READ_BYTES).is_err()
        {
            return Ok(()); // The next attempt to receive tells why.
        }
        reader.operation.wait(timeout).map(drop)
    }

    pub(crate) fn wait_writable(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.check_waitable()?;
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
        if let Io::Own(pipe) = &*self.io() {
            // A thread may be waiting with the reader's lock: this ends its wait.
            security::cancel_all(pipe.as_handle());
        }
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
    /// When it was with mio, which does not give it back, and can't be duplicated.
    pub(super) fn into_handle(mut self) -> Handle {
        self.stop();
        let io = std::mem::replace(&mut *self.io_mut(), Io::Moving);
        let pipe = match io {
            Io::Own(pipe) => pipe,
            Io::Mio(pipe) => security::borrow(&pipe).try_clone_to_owned().expect("a duplicate"),
            Io::Moving => unreachable!("only while it is registered, which nobody sees"),
        };
        Handle::from(pipe).announced(HandleKind::Pipe)
    }

    /// Ends all operations of our own, whose memory goes with us.
    fn stop(&mut self) {
        if let Io::Own(pipe) = self.io.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let reader = self.reader.get_mut().unwrap_or_else(PoisonError::into_inner);
            reader.operation.cancel(pipe.as_handle());
            let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
            let count = writer.operation.cancel(pipe.as_handle());
            writer.settle(count);
        }
    }

    pub(super) fn side(&self) -> Side {
        self.side
    }

    /// What a function says of the pipe.
    pub(super) fn with_handle<T>(&self, ask: impl FnOnce(BorrowedHandle<'_>) -> T) -> T {
        match &*self.io() {
            Io::Own(pipe) => ask(pipe.as_handle()),
            Io::Mio(pipe) => ask(security::borrow(pipe)),
            Io::Moving => unreachable!("only while it is registered, which nobody sees"),
        }
    }

    pub(crate) fn register(
        &self,
        registry: &Registry,
        token: Token,
        on: Interest,
    ) -> io::Result<()> {
        self.move_to_mio();
        self.with_source(|pipe| pipe.register(registry, token, on))
    }

    pub(crate) fn reregister(
        &self,
        registry: &Registry,
        token: Token,
        on: Interest,
    ) -> io::Result<()> {
        self.with_source(|pipe| pipe.reregister(registry, token, on))
    }

    pub(crate) fn deregister(&self, registry: &Registry) -> io::Result<()> {
        self.with_source(|pipe| pipe.deregister(registry))
    }

    fn with_source(&self, act: impl FnOnce(&mut NamedPipe) -> io::Result<()>) -> io::Result<()> {
        match &mut *self.io_mut() {
            Io::Mio(pipe) => act(pipe),
            Io::Own(_) | Io::Moving => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn io(&self) -> RwLockReadGuard<'_, Io> {
        self.io.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn io_mut(&self) -> RwLockWriteGuard<'_, Io> {
        self.io.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_waitable(&self) -> io::Result<()> {
        match &*self.io() {
            Io::Own(_) => Ok(()),
            Io::Mio(_) | Io::Moving => {
                let reason = "a channel that is registered with a poll can't block on Windows: use \
                              the calls that start with `try_`";
                Err(io::Error::new(io::ErrorKind::Unsupported, reason))
            }
        }
    }

    /// Reads what is there; false if nothing is.
    fn fill(&self, reader: &mut Reader) -> io::Result<bool> {
        match &*self.io() {
            Io::Own(pipe) => {
                let pipe = pipe.as_handle();
                if !reader.operation.is_pending() {
                    reader.operation.begin_read(pipe, READ_BYTES)?;
                }
                let Some(count) = reader.operation.finish(pipe, Some(Duration::ZERO))? else {
                    return Ok(false);
                };
                let Reader { operation, segments, .. } = reader;
                segments.feed(&operation.buffer()[..count]);
                Ok(true)
            }
            Io::Mio(pipe) => {
                let Reader { operation, segments, .. } = reader;
                let buffer = operation.buffer();
                buffer.resize(READ_BYTES, 0);
                match { pipe }.read(buffer) {
                    Ok(0) => Err(closed()),
                    Ok(count) => {
                        segments.feed(&buffer[..count]);
                        Ok(true)
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                    Err(error) => Err(error),
                }
            }
            Io::Moving => unreachable!("only while it is registered, which nobody sees"),
        }
    }

    /// Goes on with what is being written; whether all of it has gone.
    fn drive(&self, writer: &mut Writer) -> io::Result<bool> {
        if writer.is_shut {
            return Err(closed());
        }
        match &*self.io() {
            Io::Own(pipe) if writer.operation.is_pending() => {
                match writer.operation.finish(pipe.as_handle(), Some(Duration::ZERO)) {
                    Ok(Some(_all)) => {}
                    Ok(None) => return Ok(false),
                    Err(error) => {
                        // How much has gone, the system does not say.
                        writer.settle(usize::MAX);
                        return Err(named_closed(error));
                    }
                }
            }
            Io::Own(_) => {}
            Io::Mio(pipe) => {
                while !writer.rest.is_empty() {
                    match { pipe }.write(&writer.rest) {
                        Ok(count) => drop(writer.rest.drain(..count)),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            return Ok(false);
                        }
                        Err(error) => return Err(named_closed(error)),
                    }
                }
            }
            Io::Moving => unreachable!("only while it is registered, which nobody sees"),
        }
        writer.settle(usize::MAX);
        Ok(true)
    }

    fn begin(&self, writer: &mut Writer, segment: Vec<u8>, pushed: Vec<Pushed>) -> io::Result<()> {
        match &*self.io() {
            Io::Own(pipe) => {
                *writer.operation.buffer() = segment;
                writer.operation.begin_write(pipe.as_handle(), 0).map_err(named_closed)?;
            }
            Io::Mio(_) | Io::Moving => writer.rest = segment,
        }
        writer.pushed = pushed;
        self.drive(writer).map(drop)
    }

    /// Hands the pipe to mio, with all that was read and not taken, or not written yet.
    fn move_to_mio(&self) {
        let mut io = self.io_mut();
        let pipe = match std::mem::replace(&mut *io, Io::Moving) {
            Io::Own(pipe) => pipe,
            other => {
                *io = other;
                return;
            }
        };
        let mut reader = lock(&self.reader);
        let count = reader.operation.cancel(pipe.as_handle());
        let read = reader.operation.buffer()[..count].to_vec();
        reader.segments.feed(&read);
        let mut writer = lock(&self.writer);
        if writer.operation.is_pending() {
            let count = writer.operation.cancel(pipe.as_handle());
            writer.settle(count);
            writer.rest = writer.operation.buffer().split_off(count);
        }
        *io = Io::Mio(security::into_mio(pipe));
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
            Writer { operation, rest: Vec::new(), pushed: vec![pushed], is_shut: false };
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
