use std::error::Error;
use std::fmt;
use std::io;

use handle_passing::Handle;

use crate::{Message, ProtocolError, PushError};

/// Why [`try_send`](crate::Sender::try_send) or [`queue`](crate::Sender::queue) did not take a
/// message. The message comes back.
#[derive(Debug)]
pub enum TrySendError {
    /// The peer does not read, and one of the limits on the queue is reached.
    Full(Message),
    /// The message is over the limits by itself.
    TooLarge(Message),
    /// The peer has closed its end, or died.
    Closed(Message),
    /// The system refused for another reason.
    Io {
        /// The reason.
        error: io::Error,
        /// The message, of which nothing went.
        message: Message,
    },
}

/// Why [`send_deadline`](crate::Sender::send_deadline) did not send a message.
///
/// The message comes back as long as no byte of it went. After that there is none to give: its
/// handles are with the peer.
#[derive(Debug)]
pub enum SendError {
    /// The deadline has passed. If there is no message, a part of it went and the rest is queued:
    /// it goes with the next flush or send.
    TimedOut(Option<Message>),
    /// The message is over the limits by itself.
    TooLarge(Message),
    /// The peer has closed its end, or died.
    Closed(Option<Message>),
    /// The system refused for another reason.
    Io {
        /// The reason.
        error: io::Error,
        /// The message, unless a part of it went.
        message: Option<Message>,
    },
}

/// Why [`try_recv`](crate::Receiver::try_recv) has no message.
#[derive(Debug)]
pub enum TryRecvError {
    /// Nothing is there yet, or only a part of a message.
    Empty,
    /// The peer has closed its end, or died, and all its complete messages have been received.
    Closed,
    /// The peer violated the protocol; the channel stays failed.
    Protocol(ProtocolError),
    /// The system refused. What was received before is kept, so a later call may succeed.
    Io(io::Error),
}

/// Why [`recv_deadline`](crate::Receiver::recv_deadline) has no message.
#[derive(Debug)]
pub enum RecvError {
    /// The deadline has passed. A part of a message that is there is kept for the next call.
    TimedOut,
    /// The peer has closed its end, or died, and all its complete messages have been received.
    Closed,
    /// The peer violated the protocol; the channel stays failed.
    Protocol(ProtocolError),
    /// The system refused. What was received before is kept, so a later call may succeed.
    Io(io::Error),
}

impl TrySendError {
    /// The message that was not taken.
    #[must_use]
    pub fn into_message(self) -> Message {
        match self {
            Self::Full(message)
            | Self::TooLarge(message)
            | Self::Closed(message)
            | Self::Io { message, .. } => message,
        }
    }

    pub(crate) fn from_io(error: io::Error, message: Message) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed(message),
            _ => Self::Io { error, message },
        }
    }
}

impl SendError {
    /// The message, unless a part of it went.
    #[must_use]
    pub fn into_message(self) -> Option<Message> {
        match self {
            Self::TooLarge(message) => Some(message),
            Self::TimedOut(message) | Self::Closed(message) | Self::Io { message, .. } => message,
        }
    }

    pub(crate) fn from_io(error: io::Error, message: Option<Message>) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed(message),
            io::ErrorKind::TimedOut => Self::TimedOut(message),
            _ => Self::Io { error, message },
        }
    }
}

impl From<PushError<Handle>> for TrySendError {
    fn from(error: PushError<Handle>) -> Self {
        match error {
            PushError::Full(message) => Self::Full(message),
            PushError::TooLarge(message) => Self::TooLarge(message),
        }
    }
}

impl From<ProtocolError> for TryRecvError {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

/// What was not there will not come in time.
impl From<TryRecvError> for RecvError {
    fn from(error: TryRecvError) -> Self {
        match error {
            TryRecvError::Empty => Self::TimedOut,
            TryRecvError::Closed => Self::Closed,
            TryRecvError::Protocol(error) => Self::Protocol(error),
            TryRecvError::Io(error) => error.into(),
        }
    }
}

impl From<io::Error> for RecvError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Io(error),
        }
    }
}

impl fmt::Display for TrySendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the queue is full, the peer does not read"),
            Self::TooLarge(message) => write_too_large(f, message),
            Self::Closed(_) => f.write_str(CLOSED),
            Self::Io { error, .. } => write!(f, "cannot send: {error}"),
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(Some(_)) => f.write_str("the peer did not read before the deadline"),
            Self::TimedOut(None) => {
                f.write_str("the peer read only a part of the message before the deadline")
            }
            Self::TooLarge(message) => write_too_large(f, message),
            Self::Closed(_) => f.write_str(CLOSED),
            Self::Io { error, .. } => write!(f, "cannot send: {error}"),
        }
    }
}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no complete message is there yet"),
            Self::Closed => f.write_str(CLOSED),
            Self::Protocol(error) => error.fmt(f),
            Self::Io(error) => write!(f, "cannot receive: {error}"),
        }
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("no complete message came before the deadline"),
            Self::Closed => f.write_str(CLOSED),
            Self::Protocol(error) => error.fmt(f),
            Self::Io(error) => write!(f, "cannot receive: {error}"),
        }
    }
}

impl Error for TrySendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            Self::Full(_) | Self::TooLarge(_) | Self::Closed(_) => None,
        }
    }
}

impl Error for SendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            Self::TimedOut(_) | Self::TooLarge(_) | Self::Closed(_) => None,
        }
    }
}

impl Error for TryRecvError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Protocol(error) => Some(error),
            Self::Io(error) => Some(error),
            Self::Empty | Self::Closed => None,
        }
    }
}

impl Error for RecvError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Protocol(error) => Some(error),
            Self::Io(error) => Some(error),
            Self::TimedOut | Self::Closed => None,
        }
    }
}

const CLOSED: &str = "the peer has closed the channel";

fn write_too_large(f: &mut fmt::Formatter<'_>, message: &Message) -> fmt::Result {
    let (bytes, handles) = (message.payload.len(), message.handles.len());
    write!(
        f,
        "a message of {bytes} bytes with {handles} handles is over the limits (ipc_core::Limits)"
    )
}
