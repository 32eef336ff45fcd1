//! What an application takes messages with.

use std::fmt;
use std::iter::FusedIterator;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{RecvError, RecvTimeoutError, TryRecvError};
use handle_passing::Handle;

use crate::desk::Nothing;
use crate::event::WorkerId;
use crate::post::{Arrival, Message, SendError};

/// What the rest of a side does for its messages.
pub(crate) trait End<F>: Send + Sync {
    fn take(
        &self,
        may_wait: bool,
        deadline: Option<Instant>,
    ) -> Result<Arrival<F, Handle>, Nothing>;
    fn reply(&self, to: F, request: u32, message: Message) -> Result<(), SendError>;
    fn refuse(&self, to: F, request: u32);
    fn message_fd(&self) -> BorrowedFd<'_>;
}

/// The messages that have come for this program, in order, from [`Handle::messages`] or
/// [`Worker::messages`].
///
/// Several threads may take messages, each from a clone; each message goes to one of them. What
/// waits is bounded: whoever sends more is told that there is no room. So take messages as they
/// come, or nobody can send to this program after a while.
///
/// It is also an event source for mio, and has a descriptor for other loops, which is readable
/// while messages wait. With mio, whose events are edge-triggered, call
/// [`try_recv`](Self::try_recv) until it says `Empty`.
///
/// [`Handle::messages`]: crate::Handle::messages
/// [`Worker::messages`]: crate::Worker::messages
pub struct Messages<F = WorkerId> {
    end: Arc<dyn End<F>>,
}

impl<F: Copy> Messages<F> {
    pub(crate) fn new(end: Arc<dyn End<F>>) -> Messages<F> {
        Messages { end }
    }

    /// The next message, if one waits.
    ///
    /// # Errors
    ///
    /// `Empty` when none waits, `Disconnected` when none will come any more.
    pub fn try_recv(&self) -> Result<Received<F>, TryRecvError> {
        self.take(false, None).map_err(|nothing| match nothing {
            Nothing::Yet => TryRecvError::Empty,
            Nothing::Anymore => TryRecvError::Disconnected,
        })
    }

    /// The next message; blocks until there is one.
    ///
    /// # Errors
    ///
    /// When none will come any more: the cluster has ended, or the worker's master is gone.
    pub fn recv(&self) -> Result<Received<F>, RecvError> {
        self.take(true, None).map_err(|_| RecvError)
    }

    /// The next message; blocks until the deadline at most.
    ///
    /// # Errors
    ///
    /// `Timeout` after the deadline, `Disconnected` when none will come any more.
    pub fn recv_deadline(&self, deadline: Instant) -> Result<Received<F>, RecvTimeoutError> {
        self.take(true, Some(deadline)).map_err(|nothing| match nothing {
            Nothing::Yet => RecvTimeoutError::Timeout,
            Nothing::Anymore => RecvTimeoutError::Disconnected,
        })
    }

    /// All messages to the end; blocks while none waits.
    pub fn iter(&self) -> impl FusedIterator<Item = Received<F>> {
        std::iter::from_fn(|| self.recv().ok()).fuse()
    }

    fn take(&self, may_wait: bool, deadline: Option<Instant>) -> Result<Received<F>, Nothing> {
        let arrival = self.end.take(may_wait, deadline)?;
        Ok(Received::new(arrival, Arc::clone(&self.end)))
    }
}

impl<F> Clone for Messages<F> {
    fn clone(&self) -> Self {
        Messages { end: Arc::clone(&self.end) }
    }
}

impl<F> fmt::Debug for Messages<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").finish_non_exhaustive()
    }
}

/// Readable while messages wait, and from the end on.
impl<F> AsFd for Messages<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.message_fd()
    }
}

source_by_descriptor!(
    /// Readable while messages wait, and from the end on.
    Messages<F>
);

/// A message that has come. The master's program gets them from workers, a worker from a
/// [`Sender`](crate::Sender).
pub struct Received<F: Copy = WorkerId> {
    /// From whom it is.
    pub from: F,
    /// The message.
    pub message: Message,
    question: Option<Question<F>>,
}

impl<F: Copy> Received<F> {
    pub(crate) fn new(arrival: Arrival<F, Handle>, end: Arc<dyn End<F>>) -> Received<F> {
        let Arrival { from, request, message, .. } = arrival;
        let question = request.map(|request| Question { end: Some(end), from, request });
        Received { from, message, question }
    }

    /// Whether it is a request, that somebody waits for the reply to.
    pub fn is_request(&self) -> bool {
        self.question.is_some()
    }

    /// Replies to the request; from any thread. Never blocks. A request that is dropped without
    /// fails at once, with [`RequestError::Unanswered`](crate::RequestError::Unanswered).
    ///
    /// # Errors
    ///
    /// `Gone` when nobody waits for a reply, because the message is no request, or whoever asked
    /// has ended; `TooLarge`; and `Full` when so many replies are on their way that the asking
    /// process must be stuck.
    pub fn reply(self, message: impl Into<Message>) -> Result<(), SendError> {
        let message = message.into();
        match self.question {
            None => Err(SendError::Gone(message)),
            Some(question) => question.answer(message),
        }
    }
}

impl<F: Copy + fmt::Debug> fmt::Debug for Received<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("from", &self.from)
            .field("message", &self.message)
            .field("is_request", &self.is_request())
            .finish()
    }
}

/// A request that is answered, or says in the end that it is not.
struct Question<F: Copy> {
    /// `None` when it is answered.
    end: Option<Arc<dyn End<F>>>,
    from: F,
    request: u32,
}

impl<F: Copy> Question<F> {
    fn answer(mut self, message: Message) -> Result<(), SendError> {
        if let Some(end) = &self.end {
            end.reply(self.from, self.request, message)?;
        }
        self.end = None;
        Ok(())
    }
}

impl<F: Copy> Drop for Question<F> {
    fn drop(&mut self) {
        if let Some(end) = &self.end {
            end.refuse(self.from, self.request);
        }
    }
}
