use std::io;
use std::sync::Arc;
use std::time::Instant;

use mio::event::Source;
use mio::{Interest, Registry, Token};

use crate::sys::Socket;
use crate::{Limits, Message, Receiver, RecvError, SendError, Sender, TryRecvError, TrySendError};

/// One end of a two-way connection that carries [`Message`]s: bytes and handles.
///
/// The calls that start with `try_`, and [`queue`](Self::queue) and [`flush`](Self::flush), never
/// block, whether or not the descriptor is in non-blocking mode. Those that end with `_deadline`
/// block, until the deadline at most. Both may be mixed.
///
/// # With mio
///
/// A channel is an event source. mio is edge-triggered: an event comes once, so
///
/// * when it is readable, call [`try_recv`](Self::try_recv) until it answers
///   [`TryRecvError::Empty`]. To stop earlier, for fairness, remember to go on without an event;
/// * while [`has_unsent`](Self::has_unsent) is true, call [`flush`](Self::flush) when it is
///   writable, and from a timer if the channel [is throttled](Self::is_throttled).
///
/// Take the channel out of the poll before its descriptor is passed on or closed: events of a
/// descriptor that another process holds a duplicate of go on for ever.
///
/// # On Windows
///
/// A channel is a named pipe. To be registered with a poll is an event of its own, whether there is
/// something to receive or not. Handles can be sent only by the end that holds the other's process:
/// by the parent's end of a [`Bootstrap`](crate::Bootstrap), and by both ends of a
/// [`pair`](Self::pair). What the system has not taken yet ([`has_unsent`](Self::has_unsent)) is
/// lost when the channel is dropped.
///
/// # Examples
///
/// ```
/// use std::time::{Duration, Instant};
/// use ipc_core::{Channel, Message};
///
/// let (mut ours, mut theirs) = Channel::pair()?;
/// ours.try_send(Message::new(1, "a file").with_handle(std::fs::File::open("/dev/null")?))?;
///
/// let deadline = Instant::now() + Duration::from_secs(5);
/// let message = theirs.recv_deadline(Some(deadline))?;
/// assert_eq!((message.kind, message.payload.as_slice()), (1, b"a file".as_slice()));
/// assert_eq!(message.handles.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Channel {
    sender: Sender,
    receiver: Receiver,
}

impl Channel {
    /// Two connected ends, with default [`Limits`]. Both descriptors are close-on-exec.
    ///
    /// # Errors
    ///
    /// What the system reports, such as that this process has too many descriptors open.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (ours, theirs) = Socket::pair()?;
        Ok((Self::new(ours), Self::new(theirs)))
    }

    /// Two connected ends of a socket that keeps packets apart (`SOCK_SEQPACKET`), with default
    /// [`Limits`].
    ///
    /// A packet is one or several whole messages, or a part of one that is longer than
    /// [`PACKET_BYTES_MAX`](crate::frame::PACKET_BYTES_MAX), header and kinds of handles included.
    /// So as long as [`Limits::payload_bytes_max`] keeps messages shorter than that, several
    /// processes may hold duplicates of one end and receive from it: each message goes to one of
    /// them, whole.
    ///
    /// On Linux, a round trip takes a tenth less time than over [`pair`](Self::pair) while both
    /// sides share a processor, and long messages a fifth. Where each side sleeps on a processor of
    /// its own, the stream is quicker: there, the sender is woken when its message is taken, and
    /// is awake already when the answer comes.
    ///
    /// # Errors
    ///
    /// What the system reports; macOS has no such sockets.
    pub fn packet_pair() -> io::Result<(Self, Self)> {
        let (ours, theirs) = Socket::packet_pair()?;
        Ok((Self::new(ours), Self::new(theirs)))
    }

    /// Replaces the limits. They hold for what comes next: nothing queued or received is dropped.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.sender.set_limits(limits);
        self.receiver.set_limits(limits);
        self
    }

    /// Takes the channel apart into two halves, for two threads.
    ///
    /// The descriptor is closed when both are dropped. To end a thread that blocks in a call of
    /// one half, call [`shutdown`](Sender::shutdown) on the other.
    ///
    /// # Examples
    ///
    /// ```
    /// use ipc_core::{Channel, Message, RecvError};
    ///
    /// let (ours, mut theirs) = Channel::pair()?;
    /// let (sender, mut receiver) = ours.into_split();
    /// let reader = std::thread::spawn(move || {
    ///     assert_eq!(receiver.recv_deadline(None).map(|message| message.kind).ok(), Some(1));
    ///     assert!(matches!(receiver.recv_deadline(None), Err(RecvError::Closed)));
    /// });
    /// theirs.send_deadline(Message::new(1, "hello"), None)?;
    /// sender.shutdown()?;
    /// reader.join().expect("the thread does not panic");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn into_split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }

    /// Sends a message, or queues what the socket does not take of it, see [`Sender::try_send`].
    ///
    /// # Errors
    ///
    /// When the message is not taken; the error holds it, untouched.
    pub fn try_send(&mut self, message: Message) -> Result<(), TrySendError> {
        self.sender.try_send(message)
    }

    /// Queues a message for the next [`flush`](Self::flush), see [`Sender::queue`].
    ///
    /// # Errors
    ///
    /// [`TrySendError::Full`] and [`TrySendError::TooLarge`], which hold the message.
    pub fn queue(&mut self, message: Message) -> Result<(), TrySendError> {
        self.sender.queue(message)
    }

    /// Sends what is queued, as far as the socket takes it; true when nothing is left, see
    /// [`Sender::flush`].
    ///
    /// # Errors
    ///
    /// `BrokenPipe` when the peer has closed its end, or died; what else the system reports.
    pub fn flush(&mut self) -> io::Result<bool> {
        self.sender.flush()
    }

    /// Whether something is queued that the socket has not taken yet.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.sender.has_unsent()
    }

    /// Whether only a timer tells when to flush again, see [`Sender::is_throttled`].
    #[must_use]
    pub fn is_throttled(&self) -> bool {
        self.sender.is_throttled()
    }

    /// Sends a whole message; blocks until the deadline at most, see [`Sender::send_deadline`].
    ///
    /// # Errors
    ///
    /// When the message did not go as a whole; the error holds it if no byte of it went.
    pub fn send_deadline(
        &mut self,
        message: Message,
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        self.sender.send_deadline(message, deadline)
    }

    /// Sends all that is queued; blocks until the deadline at most.
    ///
    /// # Errors
    ///
    /// `TimedOut`, and those of [`flush`](Self::flush). What has not gone stays queued.
    pub fn flush_deadline(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        self.sender.flush_deadline(deadline)
    }

    /// The next message, if it is there, see [`Receiver::try_recv`].
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] when it is not there yet, [`TryRecvError::Closed`] at the end.
    pub fn try_recv(&mut self) -> Result<Message, TryRecvError> {
        self.receiver.try_recv()
    }

    /// The next message; blocks until the deadline at most, see [`Receiver::recv_deadline`].
    /// Meanwhile it sends what is queued, so that two sides that wait for each other go on.
    ///
    /// # Errors
    ///
    /// [`RecvError::TimedOut`] after the deadline, [`RecvError::Closed`] at the end.
    pub fn recv_deadline(&mut self, deadline: Option<Instant>) -> Result<Message, RecvError> {
        // A peer that takes nothing any more may still have sent something.
        while self.sender.has_unsent() && self.sender.flush().is_ok_and(|is_done| !is_done) {
            match self.receiver.try_recv() {
                Err(TryRecvError::Empty) => {}
                Ok(message) => return Ok(message),
                Err(error) => return Err(error.into()),
            }
            self.sender.wait_or_readable(deadline)?;
        }
        self.receiver.recv_deadline(deadline)
    }

    /// Closes the channel, and gives the messages of which nothing has gone, in order.
    #[must_use]
    pub fn into_unsent(self) -> Vec<Message> {
        self.sender.into_unsent()
    }

    /// Whether a part of a message has been received, see [`Receiver::is_mid_message`].
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.receiver.is_mid_message()
    }

    /// Closes the channel in both directions, for both sides, see [`Sender::shutdown`].
    ///
    /// # Errors
    ///
    /// What the system reports. That the peer is gone already is no error.
    pub fn shutdown(&self) -> io::Result<()> {
        self.sender.shutdown()
    }

    pub(crate) fn socket(&self) -> &Socket {
        self.sender.socket()
    }

    pub(crate) fn new(socket: Socket) -> Self {
        let socket = Arc::new(socket);
        Self { sender: Sender::new(Arc::clone(&socket)), receiver: Receiver::new(socket) }
    }
}

impl Source for Channel {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.socket().register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.socket().reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket().deregister(registry)
    }
}
