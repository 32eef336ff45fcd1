use std::io;
use std::iter::FusedIterator;
use std::time::{Duration, Instant};

use ipc_core::{Bootstrap, Channel, Limits};
use mio::event::Source;
use mio::{Interest, Registry, Token};

use super::link::{Heard, Link, RecvError, SendError};
use crate::clock::deadline;
use crate::message::Message;
use crate::sys::Timer;

/// The variable that names the function which a child is to run.
pub(super) const FUNCTION_VARIABLE: &str = "PROCESS_FUNCTION";

/// The channel's way into a child.
pub(super) const BOOTSTRAP: Bootstrap =
    Bootstrap::named("PROCESS_CHANNEL").with_variables(&[FUNCTION_VARIABLE]);

/// What concerns a parent and its child, and nobody else.
pub(super) const PRIVATE_VARIABLES: &[&str] = &[
    FUNCTION_VARIABLE,
    "PROCESS_CHANNEL_FD",
    "PROCESS_CHANNEL_INODE",
    "PROCESS_CHANNEL_PARENT",
    "PROCESS_CHANNEL_HANDLE",
];

/// How long a [`Parent`] that is dropped goes on sending what it has sent.
const LINGER: Duration = Duration::from_secs(5);

/// The channel to the process that has started this one by [`Command::fork`], or `None` if this one
/// was started in another way, or has taken the channel before.
///
/// Call it early: as long as the process has no other thread, the variables that name the channel
/// are taken out of its environment. What it starts itself never gets the channel.
///
/// ```
/// match runtime::process::parent()? {
///     Some(mut parent) => parent.send("hello")?,
///     None => println!("started by hand"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// When the variables hold nonsense, or the system refuses. Variables that were meant for another
/// process are none.
///
/// [`Command::fork`]: super::Command::fork
pub fn parent() -> io::Result<Option<Parent>> {
    match BOOTSTRAP.take() {
        Ok(channel) => Ok(channel.map(Parent::new)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The channel of a child to its parent, from [`parent`], or given to a
/// [`Function`](super::Function).
///
/// It holds nothing up: no thread serves it, and a process that has nothing else to do ends,
/// whether its parent still has the channel or not. When the parent disconnects or ends, however it
/// ends, messages end; so a child that works for its parent alone goes with it:
///
/// ```no_run
/// use runtime::process;
///
/// let mut parent = process::parent()?.ok_or("start me from another program")?;
/// while let Ok(message) = parent.recv() {
///     parent.send(format!("{} bytes", message.bytes.len()))?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # In your own loop
///
/// It is an event source for mio, whose interests do not matter. Whenever it is ready, call
/// [`try_recv`](Self::try_recv) until it says [`RecvError::Nothing`]: that also sends what is
/// queued.
///
/// # At the end
///
/// What the operating system has taken when the process ends reaches the parent, which is told of
/// it before it is told of the end. What is still [queued](Self::has_unsent) is sent when the
/// `Parent` is dropped, for up to five seconds if the parent does not read. But
/// [`std::process::exit`] drops nothing: call [`flush_deadline`](Self::flush_deadline) before.
#[derive(Debug)]
pub struct Parent {
    link: Link,
    /// Wakes a loop that it is registered with, where the channel does not.
    timer: Option<Timer>,
}

impl Parent {
    pub(super) fn new(channel: Channel) -> Parent {
        Parent { link: Link::new(channel), timer: None }
    }

    /// Replaces the limits on messages and what is queued; the parent has those of
    /// [`Command::channel_limits`](super::Command::channel_limits).
    pub fn set_limits(&mut self, limits: Limits) {
        self.link.set_limits(limits);
    }

    /// Sends a message, or queues it. Never blocks.
    ///
    /// What is queued goes with the next call that sends or receives; and when this is dropped.
    ///
    /// # Errors
    ///
    /// When the message is not taken; the error holds it.
    pub fn send(&mut self, message: impl Into<Message>) -> Result<(), SendError> {
        self.link.send(message.into())
    }

    /// Sends a message and what is queued before it; blocks until the deadline at most.
    ///
    /// Two sides that only send, and neither receives, wait for each other.
    ///
    /// # Errors
    ///
    /// When the message is not taken; the error holds it, and is `Full` after the deadline.
    pub fn send_deadline(
        &mut self,
        message: impl Into<Message>,
        deadline: impl Into<Option<Instant>>,
    ) -> Result<(), SendError> {
        self.link.send_deadline(message.into(), deadline.into())
    }

    /// The next message, if it is there. Never blocks, and sends what is queued.
    ///
    /// # Errors
    ///
    /// When none is there, or comes any more.
    pub fn try_recv(&mut self) -> Result<Message, RecvError> {
        loop {
            return match self.link.next() {
                Ok(Some(Heard::Message(message))) => Ok(message),
                Ok(Some(Heard::Drained)) => continue,
                Ok(Some(Heard::Failed(error))) | Err(error) => Err(RecvError::Io(error)),
                Ok(None) if self.link.is_open() => {
                    if let (Some(pause), Some(timer)) = (self.link.retry_after(), &self.timer) {
                        timer.set(Some(pause)).map_err(RecvError::Io)?;
                    }
                    Err(RecvError::Nothing)
                }
                Ok(None | Some(Heard::Disconnected)) => Err(RecvError::Disconnected),
            };
        }
    }

    /// The next message; blocks until there is one, and sends what is queued meanwhile.
    ///
    /// # Errors
    ///
    /// When none will come any more: the parent has disconnected, or ended.
    pub fn recv(&mut self) -> Result<Message, RecvError> {
        self.recv_deadline(None)
    }

    /// As [`recv`](Self::recv); blocks until the deadline at most.
    ///
    /// # Errors
    ///
    /// [`RecvError::Nothing`] after the deadline, and those of [`recv`](Self::recv).
    pub fn recv_deadline(
        &mut self,
        deadline: impl Into<Option<Instant>>,
    ) -> Result<Message, RecvError> {
        self.link.recv_deadline(deadline.into())
    }

    /// All messages until the channel is closed; blocks while there is none.
    pub fn messages(&mut self) -> impl FusedIterator<Item = Message> {
        std::iter::from_fn(|| self.recv().ok()).fuse()
    }

    /// Whether messages can be sent, as far as is known.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.is_connected()
    }

    /// Whether something is queued, since the parent reads more slowly than this process sends.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.link.has_unsent()
    }

    /// Sends what is queued; blocks until the deadline at most.
    ///
    /// # Errors
    ///
    /// `TimedOut`; `BrokenPipe` when the parent is gone.
    pub fn flush_deadline(&mut self, deadline: impl Into<Option<Instant>>) -> io::Result<()> {
        self.link.flush_deadline(deadline.into())
    }

    /// Closes the channel, for both sides, as soon as what is queued has been sent. What the parent
    /// has sent before it learns of that can still be received.
    ///
    /// # Errors
    ///
    /// What the system reports.
    pub fn disconnect(&mut self) -> io::Result<()> {
        self.link.disconnect()
    }

    /// The messages that were queued and did not go before the channel was closed, in order.
    pub fn take_unsent(&mut self) -> Vec<Message> {
        self.link.take_unsent()
    }
}

/// Ready when a message has come, when the channel is closed, and when there is room to send.
impl Source for Parent {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        self.link.register(registry, token, interest)?;
        let mut timer = &*self.timer.insert(Timer::new()?);
        timer.register(registry, token, Interest::READABLE)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        self.link.reregister(registry, token, interest)?;
        let mut timer = self.timer.as_ref().ok_or(io::ErrorKind::NotFound)?;
        timer.reregister(registry, token, Interest::READABLE)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.link.deregister(registry)?;
        self.timer.take().map_or(Ok(()), |timer| (&timer).deregister(registry))
    }
}

/// Sends what is queued.
impl Drop for Parent {
    fn drop(&mut self) {
        if self.link.has_unsent() {
            // The parent may be gone, or stuck.
            let _ = self.link.flush_deadline(Some(deadline(LINGER)));
        }
    }
}
