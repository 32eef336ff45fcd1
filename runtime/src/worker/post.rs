//! Messages in a worker: from its threads to the channel, and from the channel's thread to them.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use handle_passing::Handle;
use ipc_core::{Message as Frame, Receiver, Sender as ChannelSender, TryRecvError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Worker;
use super::control::{Control, lock};
use crate::clock::{deadline, deadline_after};
use crate::desk::{Desk, Nothing, batch};
use crate::machine::FromWorker;
use crate::messages::{End, Messages};
use crate::post::{
    Arrival, MESSAGE_TO_WORKER, Message, NOTICE_TO_WORKER, Peer, Recipient, RequestError,
    SendError, Sender, Spoke, Violation, What,
};

/// How long to wait before a channel that was throttled tries again.
const THROTTLE_PAUSE: Duration = Duration::from_millis(5);

/// How long a worker that is dropped goes on sending what it has sent.
const LINGER: Duration = Duration::from_secs(1);

/// What a worker's threads share for messages.
#[derive(Debug)]
pub(super) struct Post {
    desk: Desk<Spoke<Handle>>,
    /// Wakes the channel's thread.
    nudge: UnixStream,
    nudged: UnixStream,
}

impl Post {
    pub(super) fn new(spoke: Spoke<Handle>) -> io::Result<Post> {
        let (nudge, nudged) = UnixStream::pair()?;
        nudge.set_nonblocking(true)?;
        nudged.set_nonblocking(true)?;
        Ok(Post { desk: Desk::new(spoke)?, nudge, nudged })
    }
}

impl Control {
    /// Says something to the master that is no message of the application's. Never blocks.
    pub(super) fn say(&self, message: &FromWorker) -> io::Result<()> {
        let (kind, payload) = message.encode();
        let mut sender = lock(&self.sender);
        let sent = sender.try_send(Frame::new(kind, payload));
        self.leave(&sender);
        sent.map_err(|error| io::Error::new(io::ErrorKind::NotConnected, error.to_string()))
    }

    /// The next frame from the master that is about no message; `None` at the channel's end.
    pub(super) fn next_frame(&self, receiver: &mut Receiver) -> Option<Frame> {
        loop {
            match receiver.try_recv() {
                Ok(frame) if matches!(frame.kind, MESSAGE_TO_WORKER | NOTICE_TO_WORKER) => {
                    if let Err(Violation) = self.post.desk.with(|spoke| spoke.heard(frame)) {
                        tracing::error!("the master sent a message that is none");
                    }
                    self.pump();
                }
                Ok(frame) => return Some(frame),
                Err(TryRecvError::Empty) => self.rest(receiver),
                Err(error) => {
                    tracing::debug!(%error, "channel");
                    return None;
                }
            }
        }
    }

    /// The channel is at its end.
    pub(super) fn close_post(&self) {
        self.post.desk.with(Spoke::close);
    }

    /// Sends what has been sent, until the deadline at most.
    pub(super) fn flush(&self, deadline: Option<Instant>) -> io::Result<()> {
        let mut sender = lock(&self.sender);
        loop {
            sender.flush_deadline(deadline)?;
            if !self.fill(&mut sender) {
                return Ok(());
            }
        }
    }

    /// The same, before the channel is closed.
    pub(super) fn linger(&self) {
        if let Err(error) = self.flush(Some(deadline(LINGER))) {
            tracing::debug!(%error, "what was sent last is lost");
        }
    }

    fn send_message(
        &self,
        to: Peer,
        message: Message,
        may_wait: bool,
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        let ticket = self.with_spoke(|spoke| spoke.send(to, What::Note, message, may_wait))?;
        self.post.desk.wait_sent(ticket, deadline)
    }

    fn request(
        &self,
        to: Peer,
        message: Message,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        let deadline = deadline_after(timeout);
        let (request, ticket) = self.with_spoke(|spoke| spoke.request(to, message))?;
        let result = self.post.desk.wait_reply(request, ticket, deadline);
        if result.is_err() {
            self.pump();
        }
        result
    }

    fn with_spoke<T>(&self, act: impl FnOnce(&mut Spoke<Handle>) -> T) -> T {
        let result = self.post.desk.with(act);
        self.pump();
        result
    }

    /// Sends what there is, as far as the channel takes it. Never blocks.
    fn pump(&self) {
        if !self.post.desk.with(|spoke| spoke.has_frames()) {
            return;
        }
        let mut sender = lock(&self.sender);
        while sender.flush().is_ok_and(|is_done| is_done) && self.fill(&mut sender) {}
        self.leave(&sender);
    }

    /// Queues some frames; false if there are none.
    fn fill(&self, sender: &mut ChannelSender) -> bool {
        let frames = self.post.desk.with(|spoke| batch(|| spoke.poll_frame()));
        let is_some = !frames.is_empty();
        for frame in frames {
            if let Err(error) = sender.queue(frame) {
                // The channel's limits are above those of messages.
                tracing::error!(%error, "a message can't be sent");
            }
        }
        is_some
    }

    /// What the channel has not taken is the channel's thread's to send.
    fn leave(&self, sender: &ChannelSender) {
        if sender.has_unsent() {
            // A full pipe wakes it as well.
            let _ = (&self.post.nudge).write(&[0]);
        }
    }

    /// Waits until there is something to receive, or to send.
    fn rest(&self, receiver: &Receiver) {
        let (has_unsent, is_throttled) = {
            let sender = lock(&self.sender);
            (sender.has_unsent(), sender.is_throttled())
        };
        let is_due = has_unsent && !is_throttled;
        let events =
            if is_due { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        let mut fds = [
            PollFd::new(receiver.as_fd(), events),
            PollFd::new(self.post.nudged.as_fd(), PollFlags::POLLIN),
        ];
        let pause = PollTimeout::try_from(THROTTLE_PAUSE).unwrap_or(PollTimeout::MAX);
        let timeout = if is_throttled { pause } else { PollTimeout::NONE };
        if let Err(error) = poll(&mut fds, timeout) {
            tracing::debug!(%error, "channel");
        }
        let is_nudged = fds[1].any() == Some(true);
        if is_nudged {
            let _ = (&self.post.nudged).read(&mut [0; 64]);
        }
        if has_unsent || is_nudged {
            let mut sender = lock(&self.sender);
            while sender.flush().is_ok_and(|is_done| is_done) && self.fill(&mut sender) {}
        }
    }
}

impl End<Sender> for Control {
    fn take(
        &self,
        may_wait: bool,
        deadline: Option<Instant>,
    ) -> Result<Arrival<Sender, Handle>, Nothing> {
        let arrival = self.post.desk.take(may_wait, deadline);
        self.pump();
        arrival
    }

    fn reply(&self, to: Sender, request: u32, message: Message) -> Result<(), SendError> {
        self.with_spoke(|spoke| spoke.reply(to, request, message))
    }

    fn refuse(&self, to: Sender, request: u32) {
        self.with_spoke(|spoke| spoke.refuse(to, request));
    }

    fn message_fd(&self) -> BorrowedFd<'_> {
        self.post.desk.as_fd()
    }
}

/// # Messages
///
/// Messages to the master's program and to other workers, and from them, with handles if need be.
/// Those of one sender to one receiver come in order, each once.
///
/// What waits is bounded, see [`Builder::message_bytes_max`](crate::Builder::message_bytes_max).
/// A message to another worker counts until that has room for it: so one that does not take its
/// messages makes those who write to it hear that there is no room, also for others.
///
/// What is sent is on its way, but not yet with the master: dropping the worker sends the rest, for
/// a second at most. A process that ends otherwise, by
/// [`std::process::exit`] say, calls [`flush`](Worker::flush) first.
///
/// All of these can be called from any thread.
impl Worker {
    /// Sends a message to the master's program. Never blocks.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let worker = runtime::Worker::from_env()?.unwrap();
    /// worker.send("ready to serve")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When it is not sent: `Full` when the program does not take its messages. The error holds the
    /// message.
    pub fn send(&self, message: impl Into<Message>) -> Result<(), SendError> {
        self.control.send_message(Peer::Master, message.into(), false, None)
    }

    /// Sends a message to the master's program; waits for room, until the deadline at most.
    ///
    /// # Errors
    ///
    /// When it is not sent. The error holds the message.
    pub fn send_deadline(
        &self,
        message: impl Into<Message>,
        deadline: Instant,
    ) -> Result<(), SendError> {
        self.control.send_message(Peer::Master, message.into(), true, Some(deadline))
    }

    /// Sends a message to another worker, by its id, or to whichever worker is in a slot. Never
    /// blocks. It goes through the master; if nobody is there, it is dropped.
    ///
    /// # Errors
    ///
    /// When it is not sent. The error holds the message.
    pub fn send_to(
        &self,
        to: impl Into<Recipient>,
        message: impl Into<Message>,
    ) -> Result<(), SendError> {
        self.control.send_message(peer(to.into()), message.into(), false, None)
    }

    /// Sends a message to another worker; waits for room, until the deadline at most.
    ///
    /// # Errors
    ///
    /// When it is not sent. The error holds the message.
    pub fn send_to_deadline(
        &self,
        to: impl Into<Recipient>,
        message: impl Into<Message>,
        deadline: Instant,
    ) -> Result<(), SendError> {
        self.control.send_message(peer(to.into()), message.into(), true, Some(deadline))
    }

    /// Sends bytes to all other workers; not to the master's program. Never blocks. Those that have
    /// no room get it when they have.
    ///
    /// # Errors
    ///
    /// When they are not sent. The error holds them.
    pub fn broadcast(&self, bytes: impl Into<Vec<u8>>) -> Result<(), SendError> {
        self.control.send_message(Peer::Others, Message::new(bytes), false, None)
    }

    /// Sends a request to the master's program, and waits for the reply.
    ///
    /// # Errors
    ///
    /// When there is no reply in time, or it is clear that there will be none.
    pub fn request(
        &self,
        message: impl Into<Message>,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        self.control.request(Peer::Master, message.into(), timeout)
    }

    /// Sends a request to another worker, and waits for the reply.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let worker = runtime::Worker::from_env()?.unwrap();
    /// use std::time::Duration;
    ///
    /// let reply = worker.request_of(0, "your cache of user 17", Duration::from_secs(1))?;
    /// println!("{} bytes", reply.bytes.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When there is no reply in time, or it is clear that there will be none: at once when that
    /// worker ends, or drops the request.
    pub fn request_of(
        &self,
        worker: impl Into<Recipient>,
        message: impl Into<Message>,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        self.control.request(peer(worker.into()), message.into(), timeout)
    }

    /// The messages that have come for this worker.
    ///
    /// A loop of your own watches them beside everything else, as an event source for mio or by
    /// their descriptor; threads wait in [`Messages::recv`].
    ///
    /// ```no_run
    /// use mio::{Events, Interest, Poll, Token};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let worker = runtime::Worker::from_env()?.unwrap();
    /// let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(64));
    /// let mut messages = worker.messages();
    /// poll.registry().register(&mut messages, Token(0), Interest::READABLE)?;
    /// while !worker.is_stopping() {
    ///     poll.poll(&mut events, None)?;
    ///     while let Ok(received) = messages.try_recv() {
    ///         println!("{} says {:?}", received.from, received.message);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn messages(&self) -> Messages<Sender> {
        Messages::new(Arc::<Control>::clone(&self.control))
    }

    /// Waits until everything that was sent is with the master, or at least with the system.
    ///
    /// # Errors
    ///
    /// `TimedOut`; `BrokenPipe` when the master is gone.
    pub fn flush(&self, timeout: Duration) -> io::Result<()> {
        self.control.flush(deadline_after(timeout))
    }
}

fn peer(recipient: Recipient) -> Peer {
    match recipient {
        Recipient::Worker(worker) => Peer::Worker(worker),
        Recipient::Slot(slot) => Peer::Slot(slot),
    }
}
