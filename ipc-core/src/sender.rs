use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use handle_passing::{HANDLES_MAX, Handle};

use crate::clock::time_left;
use crate::frame::HEADER_BYTES;
use crate::sys::{Sent, Socket, Wait};
use crate::{Limits, Message, Outbox, SendError, TrySendError, outbox};

/// Payloads up to this length, in bytes, are copied behind their header: that costs less than it
/// costs the kernel to collect a message from two places.
const SHORT_BYTES_MAX: usize = 2 * 1024;

/// How long a blocking call pauses while the user's descriptors in flight are at their limit.
const THROTTLE_PAUSE: Duration = Duration::from_millis(5);

/// The sending half of a [`Channel`](crate::Channel), see
/// [`Channel::into_split`](crate::Channel::into_split).
///
/// What the socket does not take at once waits in a queue whose size [`Limits`] bounds. Dropping
/// the sender drops what still waits; it does not close the channel as long as the receiving half
/// exists.
#[derive(Debug)]
pub struct Sender {
    socket: Arc<Socket>,
    outbox: Outbox<Handle>,
    is_throttled: bool,
    /// Memory for a short frame.
    short: Vec<u8>,
}

impl Sender {
    pub(crate) fn new(socket: Arc<Socket>) -> Self {
        let limits = Limits::default();
        let outbox = match socket.is_of_packets() {
            false => Outbox::new(limits),
            true => Outbox::of_packets(limits, socket.packet_bytes_max()),
        };
        Self { socket, outbox, is_throttled: false, short: Vec::new() }
    }

    /// Sends a message, or queues what the socket does not take of it. Never blocks.
    ///
    /// A message that is taken is on its way, but not necessarily with the peer: while
    /// [`has_unsent`](Self::has_unsent) is true, [`flush`](Self::flush) when the socket becomes
    /// writable.
    ///
    /// # Errors
    ///
    /// When the message is not taken; the error holds it, untouched.
    pub fn try_send(&mut self, message: Message) -> Result<(), TrySendError> {
        match self.flush() {
            Ok(false) => return self.queue(message),
            Ok(true) => {}
            Err(error) => return Err(TrySendError::from_io(error, message)),
        }
        // Nothing waits in front of it, so it is written from where it is: no copy is made, and
        // a peer that is gone costs nothing.
        match self.begin(&message, Wait::Never) {
            Ok(None) => Err(TrySendError::TooLarge(message)),
            Ok(Some(sent)) => {
                self.queue_rest(message, sent);
                Ok(())
            }
            Err(error) => Err(TrySendError::from_io(error, message)),
        }
    }

    /// Queues a message without sending it: a [`flush`](Self::flush) after several of these sends
    /// them all in one system call. Never blocks, and does no I/O.
    ///
    /// # Errors
    ///
    /// [`TrySendError::Full`] and [`TrySendError::TooLarge`], which hold the message.
    pub fn queue(&mut self, message: Message) -> Result<(), TrySendError> {
        match self.socket.check_handles(message.handles.len()) {
            Ok(()) => Ok(self.outbox.push(message)?),
            Err(error) => Err(TrySendError::Io { error, message }),
        }
    }

    /// Sends what is queued, as far as the socket takes it; true when nothing is left. Never
    /// blocks.
    ///
    /// When something is left, go on when the socket becomes writable; if the sender
    /// [is throttled](Self::is_throttled), also a few milliseconds later.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` when the peer has closed its end, or died; what else the system reports.
    pub fn flush(&mut self) -> io::Result<bool> {
        self.flush_or(Wait::Never)
    }

    /// Whether something is queued that the socket has not taken yet.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.outbox.is_empty() || matches!(self.socket.has_left(), Ok(false))
    }

    /// Whether the last attempt to send stopped because this user has as many descriptors in
    /// flight, in all its processes together, as `RLIMIT_NOFILE` lets a process have open; or
    /// because the system had no memory for it.
    ///
    /// The socket may be writable all the while, so that no readiness event comes; or, on Linux,
    /// one comes after each attempt. Heed none, and try again after a few milliseconds.
    #[must_use]
    pub fn is_throttled(&self) -> bool {
        self.is_throttled
    }

    /// Sends a whole message, and all that was queued before it; blocks until the deadline at
    /// most. Without a deadline it blocks for as long as the peer takes.
    ///
    /// # Errors
    ///
    /// When the message did not go as a whole; the error holds it if no byte of it went.
    pub fn send_deadline(
        &mut self,
        message: Message,
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        if self.has_unsent()
            && let Err(error) = self.flush_deadline(deadline)
        {
            return Err(SendError::from_io(error, Some(message)));
        }
        let sent = loop {
            let result = match self.begin(&message, Self::may_block(deadline)) {
                Ok(None) => return Err(SendError::TooLarge(message)),
                Ok(Some(0)) => self.wait(deadline),
                Ok(Some(sent)) => break sent,
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                return Err(SendError::from_io(error, Some(message)));
            }
        };
        self.queue_rest(message, sent);
        if self.has_unsent() {
            self.flush_deadline(deadline).map_err(|error| SendError::from_io(error, None))?;
        }
        Ok(())
    }

    /// Sends all that is queued; blocks until the deadline at most.
    ///
    /// # Errors
    ///
    /// `TimedOut`, and those of [`flush`](Self::flush). What has not gone stays queued.
    pub fn flush_deadline(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        while !self.flush_or(Self::may_block(deadline))? {
            self.wait(deadline)?;
        }
        Ok(())
    }

    /// The messages of which nothing has gone, in order: for when the peer is gone.
    #[must_use]
    pub fn into_unsent(self) -> Vec<Message> {
        self.outbox.into_unsent()
    }

    /// Closes the channel in both directions, for both sides, and for every process that holds a
    /// duplicate of the descriptor. A call on the other half that blocks in another thread
    /// returns.
    ///
    /// # Errors
    ///
    /// What the system reports. That the peer is gone already is no error.
    pub fn shutdown(&self) -> io::Result<()> {
        self.socket.shutdown()
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.outbox.set_limits(limits);
    }

    fn flush_or(&mut self, wait: Wait) -> io::Result<bool> {
        self.is_throttled = false;
        while !self.outbox.is_empty() {
            match self.socket.send(self.outbox.slices(), self.outbox.handles().iter(), wait)? {
                Sent::Bytes(bytes) => self.outbox.sent(bytes),
                Sent::Full => return Ok(false),
                Sent::Throttled => {
                    self.is_throttled = true;
                    return Ok(false);
                }
            }
        }
        self.socket.has_left()
    }

    /// Only a deadline needs a wait of its own: a system call that blocks knows of none.
    fn may_block(deadline: Option<Instant>) -> Wait {
        if deadline.is_none() { Wait::MayBlock } else { Wait::Never }
    }

    /// Writes what the socket takes of a message that nothing waits in front of, and says how
    /// many bytes that was; `None` if the message is too large.
    fn begin(&mut self, message: &Message, wait: Wait) -> io::Result<Option<usize>> {
        let Some(header) = self.outbox.header(message) else { return Ok(None) };
        self.socket.check_handles(header.handles.into())?;
        if message.handles.is_empty() && message.payload.len() <= SHORT_BYTES_MAX {
            self.short.clear();
            self.short.extend_from_slice(&header.encode());
            self.short.extend_from_slice(&message.payload);
            let sent = self.socket.send_bytes(&self.short, wait)?;
            return Ok(Some(self.bytes(sent)));
        }
        let mut kinds = [0; HANDLES_MAX];
        let kinds = &mut kinds[..header.handles.into()];
        for (code, handle) in kinds.iter_mut().zip(message.handles.iter()) {
            *code = handle.kind().code();
        }
        let header = header.encode();
        let slices = [&header, message.payload.as_slice(), kinds].into_iter();
        let slices = outbox::first(slices, self.outbox.write_bytes_max(0));
        let sent = self.socket.send(slices, message.handles.iter(), wait)?;
        Ok(Some(self.bytes(sent)))
    }

    fn bytes(&mut self, sent: Sent) -> usize {
        self.is_throttled = sent == Sent::Throttled;
        match sent {
            Sent::Bytes(bytes) => bytes,
            Sent::Full | Sent::Throttled => 0,
        }
    }

    /// Queues what [`begin`](Self::begin) left of a message.
    fn queue_rest(&mut self, message: Message, sent: usize) {
        if sent < HEADER_BYTES + message.payload.len() + message.handles.len() {
            let queued = self.outbox.push(message);
            assert!(queued.is_ok(), "an empty queue takes any message within the limits");
            self.outbox.sent(sent);
        }
    }

    /// Waits until there is something to receive, too.
    pub(crate) fn wait_or_readable(&self, deadline: Option<Instant>) -> io::Result<()> {
        let left = time_left(deadline)?;
        if self.is_throttled {
            let pause = left.map_or(THROTTLE_PAUSE, |left| left.min(THROTTLE_PAUSE));
            return self.socket.wait_readable(Some(pause));
        }
        self.socket.wait_either(left)
    }

    fn wait(&self, deadline: Option<Instant>) -> io::Result<()> {
        let left = time_left(deadline)?;
        if self.is_throttled {
            return self.socket.pause(left.map_or(THROTTLE_PAUSE, |left| left.min(THROTTLE_PAUSE)));
        }
        self.socket.wait_writable(left)
    }
}
