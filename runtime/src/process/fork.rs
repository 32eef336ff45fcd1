use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::time::Instant;

use ipc_core::{Limits, Prepared};

use super::attended::Attended;
use super::child::Child;
use super::children::Children;
use super::command::Command;
use super::error::{SpawnError, Step};
use super::handle::ChildHandle;
use super::link::{Link, RecvError, SendError};
use super::parent::{BOOTSTRAP, FUNCTION_VARIABLE};
use super::signal::Signal;
use super::start::{Extra, Started};
use super::stdio::{Kind, Stdio};
use crate::clock::time_left;
use crate::message::Message;
use crate::sys;

/// Under which number a child that is forked has its channel, unless the command says another.
const CHANNEL: u32 = 3;

/// Starts a program with arguments and a channel: [`Command::fork`] without options.
///
/// # Errors
///
/// As [`Command::fork`].
pub fn fork<A: Into<OsString>>(
    program: impl Into<OsString>,
    args: impl IntoIterator<Item = A>,
) -> Result<Child, SpawnError> {
    Command::new(program).args(args).fork()
}

impl Command {
    /// Starts it with a channel for messages, which it gets by [`parent`](super::parent()).
    ///
    /// What the command does not set of standard input, output and error is inherited. The channel
    /// is the child's descriptor 3, or the one that is [`Stdio::ipc`].
    ///
    /// A program without this crate finds the number in the variable `PROCESS_CHANNEL_FD`, and
    /// reads and writes [frames](ipc_core::frame) of kind 0 there.
    ///
    /// ```no_run
    /// use runtime::process::fork;
    ///
    /// let mut child = fork("my-worker", ["--verbose"])?;
    /// child.send("a job")?;
    /// let answer = child.recv()?;
    /// child.disconnect()?;
    /// assert_eq!(child.wait()?.code(), Some(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When it can't be started; nothing of it is left then.
    pub fn fork(&mut self) -> Result<Child, SpawnError> {
        let number = self.channel_number()?.unwrap_or(CHANNEL);
        if self.stdio.get(&number).is_some_and(|stdio| !matches!(stdio.0, Kind::Ipc)) {
            let reason = format!(
                "descriptor {number}: the channel is there; give the channel another number, by \
                 Stdio::ipc()"
            );
            return Err(SpawnError::check(&self.file, reason));
        }
        let (started, link) = self.start_linked(Some(number), Stdio::inherit)?;
        Ok(Child::new(self, started, link))
    }

    /// The limits on the messages of its channel, and on what waits to be sent to it. To receive
    /// longer messages, the child must [raise its own](super::Parent::set_limits). Default: 1 MiB a
    /// message, and 4 MiB or 1024 messages that wait.
    pub fn channel_limits(&mut self, limits: Limits) -> &mut Command {
        self.channel_limits = limits;
        self
    }

    /// Starts it, with its channel if it shall have one.
    pub(super) fn start_linked(
        &self,
        channel: Option<u32>,
        standard: fn() -> Stdio,
    ) -> Result<(Started, Option<Link>), SpawnError> {
        let Some(number) = channel else {
            return Ok((self.start(Extra { standard, ..Extra::default() })?, None));
        };
        let fail = |error| SpawnError::new(&self.file, Step::Stdio(number), error);
        let Prepared { theirs, variables, ours } = BOOTSTRAP.prepare(number).map_err(fail)?;
        let function = self.function.map(|name| (FUNCTION_VARIABLE.into(), name.into()));
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        let extra = Extra {
            stdio: BTreeMap::from([(number, Stdio::given(theirs))]),
            env: variables.chain(function).collect(),
            standard,
        };
        let started = self.start(extra)?;
        let channel = sys::connect(ours, &started.process).map_err(|error| {
            let _ = started.process.signal(Signal::KILL.number());
            fail(error)
        })?;
        Ok((started, Some(Link::new(channel.with_limits(self.channel_limits)))))
    }

    /// Which of its descriptors is the channel.
    pub(super) fn channel_number(&self) -> Result<Option<u32>, SpawnError> {
        let mut numbers = self.stdio.iter().filter(|(_, stdio)| matches!(stdio.0, Kind::Ipc));
        let number = numbers.next().map(|(number, _)| *number);
        match (number, numbers.next()) {
            (Some(first), Some((second, _))) => {
                let reason = format!("descriptors {first} and {second}: a child has one channel");
                Err(SpawnError::check(&self.file, reason))
            }
            (number, _) => Ok(number),
        }
    }
}

/// # Messages
///
/// For a child with a channel: [`Command::fork`], or [`Command::spawn`] with [`Stdio::ipc`]. One
/// without is always disconnected. The calls that block mind its timeout and its cancellation, as
/// [`wait`](Child::wait) does.
///
/// A message carries bytes and handles, which move to the child: to keep one here too, send a
/// `try_clone` of it. Those that nobody has taken are closed with the message.
impl Child {
    /// Sends it a message, or queues it. Never blocks.
    ///
    /// What is queued goes with any later call of [`next_event`](Self::next_event),
    /// [`recv_deadline`](Self::recv_deadline), [`wait`](Self::wait) or this one.
    ///
    /// # Errors
    ///
    /// When the message is not taken; the error holds it. After `Full`,
    /// [`Event::Drained`](super::Event::Drained) tells when to go on.
    pub fn send(&mut self, message: impl Into<Message>) -> Result<(), SendError> {
        let Some(link) = self.link_mut() else {
            return Err(SendError::Disconnected(message.into()));
        };
        let result = link.send(message.into());
        if link.retry_after().is_some() {
            // No readiness tells whoever attends to it when to go on.
            self.ring();
        }
        result
    }

    /// Sends it a message and what is queued before it; blocks until the deadline at most.
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
        let (mut message, deadline) = (message.into(), deadline.into());
        loop {
            let turn = match self.channel_turn(deadline) {
                Ok(turn) => turn,
                Err(error) => return Err(SendError::Io(error, message)),
            };
            let Some(link) = self.link_mut() else { return Err(SendError::Disconnected(message)) };
            match link.send_deadline(message, turn) {
                Err(SendError::Full(refused)) if !is_over(deadline) => message = refused,
                result => return result,
            }
        }
    }

    /// Its next message, which is no [event](Self::next_event) then; blocks until there is one, and
    /// sends what is queued meanwhile.
    ///
    /// # Errors
    ///
    /// [`RecvError::Disconnected`] when none comes any more.
    pub fn recv(&mut self) -> Result<Message, RecvError> {
        self.recv_deadline(None)
    }

    /// As [`recv`](Self::recv), but blocks until the deadline at most.
    ///
    /// # Errors
    ///
    /// [`RecvError::Nothing`] after the deadline; `Disconnected` when none comes any more.
    pub fn recv_deadline(
        &mut self,
        deadline: impl Into<Option<Instant>>,
    ) -> Result<Message, RecvError> {
        let deadline = deadline.into();
        loop {
            let turn = self.channel_turn(deadline).map_err(RecvError::Io)?;
            if let Some(message) = self.take_message() {
                return Ok(message);
            }
            let link = self.link_mut().ok_or(RecvError::Disconnected)?;
            match link.recv_deadline(turn) {
                Err(RecvError::Nothing) if !is_over(deadline) => {}
                result => return result,
            }
        }
    }

    /// Whether messages can be sent, as far as is known.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link().is_some_and(Link::is_connected)
    }

    /// Whether something is queued, since it reads more slowly than this process sends.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.link().is_some_and(Link::has_unsent)
    }

    /// Sends what is queued; blocks until the deadline at most.
    ///
    /// # Errors
    ///
    /// `TimedOut`; `BrokenPipe` when it has closed its end, or is gone.
    pub fn flush_deadline(&mut self, deadline: impl Into<Option<Instant>>) -> io::Result<()> {
        let deadline = deadline.into();
        loop {
            let turn = self.channel_turn(deadline)?;
            let Some(link) = self.link_mut() else { return Ok(()) };
            match link.flush_deadline(turn) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut && !is_over(deadline) => {}
                result => return result,
            }
        }
    }

    /// Closes its channel, for both sides, as soon as what is queued has been sent. What it has
    /// sent before it learns of that is still told, and then [`Event::Disconnected`] is.
    ///
    /// # Errors
    ///
    /// What the system reports.
    ///
    /// [`Event::Disconnected`]: super::Event::Disconnected
    pub fn disconnect(&mut self) -> io::Result<()> {
        let Some(link) = self.link_mut() else { return Ok(()) };
        let result = link.disconnect();
        // Not every system tells of what was closed on this side.
        self.ring();
        result
    }

    /// The messages that were queued and did not go before the channel was closed, in order.
    pub fn take_unsent(&mut self) -> Vec<Message> {
        self.link_mut().map_or_else(Vec::new, Link::take_unsent)
    }
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| time_left(deadline).is_zero())
}

impl ChildHandle {
    /// As [`Child::send`].
    ///
    /// # Errors
    ///
    /// As [`Child::send`]; `Disconnected` also when [`Children`] was dropped.
    pub fn send(&self, message: impl Into<Message>) -> Result<(), SendError> {
        self.lock().child_mut().send(message)
    }

    /// As [`Child::is_connected`].
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.lock().child().is_connected()
    }

    /// As [`Child::has_unsent`].
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.lock().child().has_unsent()
    }

    /// As [`Child::disconnect`].
    ///
    /// # Errors
    ///
    /// As [`Child::disconnect`].
    pub fn disconnect(&self) -> io::Result<()> {
        self.lock().child_mut().disconnect()
    }

    /// As [`Child::take_unsent`].
    #[must_use]
    pub fn take_unsent(&self) -> Vec<Message> {
        self.lock().child_mut().take_unsent()
    }
}

impl Children {
    /// As [`Command::fork`]. Its events may come before this returns.
    ///
    /// # Errors
    ///
    /// As [`Command::fork`], and when there is no descriptor left to attend to it.
    pub fn fork(&self, command: &mut Command) -> Result<ChildHandle, SpawnError> {
        let child = command.fork()?;
        self.add(Attended::Child(child), command.program())
    }
}
