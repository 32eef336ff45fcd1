use std::error::Error;
use std::fmt;

use handle_passing::Handle;

use super::{Failure, Message};

/// Why a message was not sent. It holds the message, untouched.
#[derive(Debug, PartialEq, Eq)]
pub enum SendError<H = Handle> {
    /// As much waits for the receiver as may wait: it does not take its messages. There is room
    /// again when it has taken some, about a quarter of what may wait.
    Full(Message<H>),
    /// The receiver has ended, or nobody is there.
    Gone(Message<H>),
    /// The message is over a limit by itself.
    TooLarge(Message<H>),
}

impl<H> SendError<H> {
    /// The message that was not sent.
    #[must_use]
    pub fn into_message(self) -> Message<H> {
        match self {
            SendError::Full(message) | SendError::Gone(message) | SendError::TooLarge(message) => {
                message
            }
        }
    }
}

impl<H> fmt::Display for SendError<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Full(_) => f.write_str("the receiver does not take its messages"),
            SendError::Gone(_) => f.write_str("the receiver is gone"),
            SendError::TooLarge(message) => write!(
                f,
                "a message of {} bytes with {} handles is over the limits \
                 (Builder::message_bytes_max, Builder::message_handles_max)",
                message.bytes.len(),
                message.handles.len()
            ),
        }
    }
}

impl<H: fmt::Debug> Error for SendError<H> {}

/// Why a request got no reply.
#[derive(Debug, PartialEq, Eq)]
pub enum RequestError<H = Handle> {
    /// It was not sent; `Full` says that there was no room for it until the deadline, or that too
    /// many requests are without an answer.
    NotSent(SendError<H>),
    /// The worker that was asked has ended, or there is none.
    Gone,
    /// Whoever took the request dropped it without a reply.
    Unanswered,
    /// No reply came in time. One that comes later is dropped.
    TimedOut,
}

impl<H> From<SendError<H>> for RequestError<H> {
    fn from(error: SendError<H>) -> Self {
        RequestError::NotSent(error)
    }
}

impl<H> From<Failure> for RequestError<H> {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Gone => RequestError::Gone,
            Failure::Unanswered => RequestError::Unanswered,
        }
    }
}

impl<H> fmt::Display for RequestError<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::NotSent(error) => error.fmt(f),
            RequestError::Gone => f.write_str("who was asked is gone"),
            RequestError::Unanswered => f.write_str("the request was dropped without a reply"),
            RequestError::TimedOut => f.write_str("no reply came in time"),
        }
    }
}

impl<H: fmt::Debug> Error for RequestError<H> {}
