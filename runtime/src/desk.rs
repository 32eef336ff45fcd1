//! The side of a program on which its threads send and take messages, and wait for them.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use handle_passing::Handle;
use ipc_core::Message as Frame;

use crate::clock::time_left;
use crate::event::WorkerId;
use crate::post::{
    Arrival, Hub, Message, Outcome, RequestError, SendError, Sender, Sent, Spoke, Ticket,
};

/// How many frames are put together for one write.
const FRAME_BATCH_MAX: usize = 64;

/// How many bytes are put together for one write, if a single frame has no more.
const FRAME_BATCH_BYTES: usize = 64 << 10;

/// What a desk needs of a hub or a spoke.
pub(crate) trait Side {
    /// Who can send to this side.
    type From;
    fn take(&mut self) -> Option<Arrival<Self::From, Handle>>;
    fn has_messages(&self) -> bool;
    fn is_closed(&self) -> bool;
    fn take_progress(&mut self) -> bool;
    fn poll_sent(&mut self, ticket: Ticket) -> Sent<Handle>;
    fn withdraw(&mut self, ticket: Ticket) -> Option<Message>;
    fn poll_reply(&mut self, request: u32) -> Option<Outcome<Handle>>;
    fn forget(&mut self, request: u32, was_sent: bool);
}

/// One side, behind a lock, with what its threads wait for.
#[derive(Debug)]
pub(crate) struct Desk<S> {
    inner: Mutex<Inner<S>>,
    arrived: Condvar,
    progress: Condvar,
    bell: Bell,
}

#[derive(Debug)]
struct Inner<S> {
    side: S,
    /// Whether the bell rings.
    rings: bool,
    /// How many threads wait for messages.
    takers: usize,
    /// How many threads wait for room or replies.
    waiters: usize,
}

/// Why there is no message.
#[derive(Debug)]
pub(crate) enum Nothing {
    Yet,
    Anymore,
}

impl<S: Side> Desk<S> {
    pub(crate) fn new(side: S) -> io::Result<Desk<S>> {
        Ok(Desk {
            inner: Mutex::new(Inner { side, rings: false, takers: 0, waiters: 0 }),
            arrived: Condvar::new(),
            progress: Condvar::new(),
            bell: Bell::new()?,
        })
    }

    /// Does something, and wakes those who have waited for it.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut S) -> T) -> T {
        let mut inner = self.lock();
        let result = act(&mut inner.side);
        self.settle(&mut inner);
        result
    }

    /// Readable while a message waits, and from the end on.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.reader.as_fd()
    }

    /// Takes a message if one waits; until a deadline, or without one, if it `may_wait`.
    pub(crate) fn take(
        &self,
        may_wait: bool,
        deadline: Option<Instant>,
    ) -> Result<Arrival<S::From, Handle>, Nothing> {
        let mut inner = self.lock();
        loop {
            if let Some(arrival) = inner.side.take() {
                self.settle(&mut inner);
                return Ok(arrival);
            }
            if inner.side.is_closed() {
                return Err(Nothing::Anymore);
            }
            inner.takers += 1;
            let (guard, is_over) = wait(&self.arrived, inner, may_wait, deadline);
            inner = guard;
            inner.takers -= 1;
            if is_over && !inner.side.has_messages() {
                return Err(Nothing::Yet);
            }
        }
    }

    /// Waits until a message has left, and takes it back at the deadline.
    pub(crate) fn wait_sent(
        &self,
        ticket: Ticket,
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        let mut inner = self.lock();
        let mut is_over = false;
        loop {
            match inner.side.poll_sent(ticket) {
                Sent::Yes => return Ok(()),
                Sent::Returned(message) => return Err(SendError::Gone(message)),
                Sent::Not if is_over => {
                    let withdrawn = inner.side.withdraw(ticket);
                    self.settle(&mut inner);
                    return withdrawn.map_or(Ok(()), |message| Err(SendError::Full(message)));
                }
                Sent::Not => (inner, is_over) = self.wait_progress(inner, deadline),
            }
        }
    }

    /// Waits for what becomes of a request, and gives it up at the deadline.
    pub(crate) fn wait_reply(
        &self,
        request: u32,
        ticket: Ticket,
        deadline: Option<Instant>,
    ) -> Result<Message, RequestError> {
        if let Err(error) = self.wait_sent(ticket, deadline) {
            self.with(|side| side.forget(request, false));
            return Err(RequestError::NotSent(error));
        }
        let mut inner = self.lock();
        let mut is_over = false;
        loop {
            match inner.side.poll_reply(request) {
                Some(Ok(reply)) => return Ok(reply),
                Some(Err(failure)) => return Err(failure.into()),
                None if is_over => {
                    inner.side.forget(request, true);
                    self.settle(&mut inner);
                    return Err(RequestError::TimedOut);
                }
                None => (inner, is_over) = self.wait_progress(inner, deadline),
            }
        }
    }

    fn wait_progress<'a>(
        &self,
        mut inner: MutexGuard<'a, Inner<S>>,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, Inner<S>>, bool) {
        inner.waiters += 1;
        let (mut inner, is_over) = wait(&self.progress, inner, true, deadline);
        inner.waiters -= 1;
        (inner, is_over)
    }

    /// Tells the threads that wait, and the bell.
    fn settle(&self, inner: &mut Inner<S>) {
        let (has_messages, is_closed) = (inner.side.has_messages(), inner.side.is_closed());
        if (inner.side.take_progress() || is_closed) && inner.waiters > 0 {
            self.progress.notify_all();
        }
        if is_closed && inner.takers > 0 {
            self.arrived.notify_all();
        } else if has_messages && inner.takers > 0 {
            // Who takes one message comes by here and wakes the next.
            self.arrived.notify_one();
        }
        let rings = has_messages || is_closed;
        if rings != inner.rings {
            self.bell.ring(rings);
            inner.rings = rings;
        }
    }

    /// No code panics while it holds the lock; if it did, the data would still be whole.
    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits; says whether the time is over.
fn wait<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    may_wait: bool,
    deadline: Option<Instant>,
) -> (MutexGuard<'a, T>, bool) {
    match deadline.map(time_left) {
        _ if !may_wait => (guard, true),
        None => (condition.wait(guard).unwrap_or_else(PoisonError::into_inner), false),
        Some(Duration::ZERO) => (guard, true),
        Some(left) => {
            let waited = condition.wait_timeout(guard, left);
            (waited.unwrap_or_else(PoisonError::into_inner).0, false)
        }
    }
}

/// So many frames as are worth a write.
pub(crate) fn batch<H>(mut poll: impl FnMut() -> Option<Frame<H>>) -> Vec<Frame<H>> {
    let (mut frames, mut bytes) = (Vec::new(), 0);
    while frames.len() < FRAME_BATCH_MAX && bytes < FRAME_BATCH_BYTES {
        let Some(frame) = poll() else { break };
        bytes += frame.payload.len();
        frames.push(frame);
    }
    frames
}

/// A descriptor that is readable, or not.
#[derive(Debug)]
struct Bell {
    reader: UnixStream,
    writer: UnixStream,
}

impl Bell {
    fn new() -> io::Result<Bell> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Bell { reader, writer })
    }

    /// Called when it changes, so that one byte at most is in it.
    fn ring(&self, rings: bool) {
        let result =
            if rings { (&self.writer).write(&[0]) } else { (&self.reader).read(&mut [0; 2]) };
        if let Err(error) = result {
            tracing::error!(%error, "who waits for messages by a descriptor can't be told");
        }
    }
}

impl Side for Hub<Handle> {
    type From = WorkerId;

    fn take(&mut self) -> Option<Arrival<WorkerId, Handle>> {
        self.take()
    }

    fn has_messages(&self) -> bool {
        self.has_messages()
    }

    fn is_closed(&self) -> bool {
        self.is_closed()
    }

    fn take_progress(&mut self) -> bool {
        self.take_progress()
    }

    fn poll_sent(&mut self, ticket: Ticket) -> Sent<Handle> {
        self.poll_sent(ticket)
    }

    fn withdraw(&mut self, ticket: Ticket) -> Option<Message> {
        self.withdraw(ticket)
    }

    fn poll_reply(&mut self, request: u32) -> Option<Outcome<Handle>> {
        self.poll_reply(request)
    }

    fn forget(&mut self, request: u32, _was_sent: bool) {
        self.forget(request);
    }
}

impl Side for Spoke<Handle> {
    type From = Sender;

    fn take(&mut self) -> Option<Arrival<Sender, Handle>> {
        self.take()
    }

    fn has_messages(&self) -> bool {
        self.has_messages()
    }

    fn is_closed(&self) -> bool {
        self.is_closed()
    }

    fn take_progress(&mut self) -> bool {
        self.take_progress()
    }

    fn poll_sent(&mut self, ticket: Ticket) -> Sent<Handle> {
        self.poll_sent(ticket)
    }

    fn withdraw(&mut self, ticket: Ticket) -> Option<Message> {
        self.withdraw(ticket)
    }

    fn poll_reply(&mut self, request: u32) -> Option<Outcome<Handle>> {
        self.poll_reply(request)
    }

    fn forget(&mut self, request: u32, was_sent: bool) {
        self.forget(request, was_sent);
    }
}
