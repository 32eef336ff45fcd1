//! One small error type per operation.

use std::{error, fmt, io};

use crate::{HANDLES_MAX, HandleKind};

/// Why a message was not sent. Nothing of it was: neither bytes nor handles.
#[derive(Debug)]
pub enum SendError {
    /// The socket's buffer is full. A poll reports when it has room again.
    WouldBlock,
    /// The kernel has no memory for the message just now (`ENOBUFS`, `ENOMEM`).
    ///
    /// No poll on this socket reports when it has: try again after a while.
    NoMemory,
    /// This user has more descriptors in flight, in all its processes together, than this process
    /// may have open (`ETOOMANYREFS`).
    ///
    /// It passes when receivers take their messages, which no poll on this socket reports: try
    /// again after a while, or raise the soft limit of `RLIMIT_NOFILE`.
    TooManyInFlight,
    /// One message carries at most [`HANDLES_MAX`] handles.
    TooManyHandles {
        /// How many were to be sent.
        given: usize,
    },
    /// A message needs at least one byte: without, a stream socket drops the handles and a
    /// seqpacket socket delivers what looks like the end of the stream.
    NoBytes,
    /// The peer is gone, or was never there.
    Closed,
    /// Anything else that the operating system reports.
    Io(io::Error),
}

impl SendError {
    /// Whether the same message may be sent again later: the channel is well, only full.
    #[must_use]
    pub fn is_back_pressure(&self) -> bool {
        matches!(self, Self::WouldBlock | Self::NoMemory | Self::TooManyInFlight)
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("the socket's buffer is full"),
            Self::NoMemory => f.write_str("the system has no memory for the message just now"),
            Self::TooManyInFlight => f.write_str(
                "this user has too many descriptors in flight: wait for the receivers, or raise \
                 the soft limit of RLIMIT_NOFILE",
            ),
            Self::TooManyHandles { given } => {
                write!(f, "{given} handles in one message: at most {HANDLES_MAX} are possible")
            }
            Self::NoBytes => f.write_str("a message needs at least one byte"),
            Self::Closed => f.write_str("the peer has closed the connection"),
            Self::Io(e) => write!(f, "sending failed: {e}"),
        }
    }
}

impl error::Error for SendError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Io(e) => Some(e),
            _ => None,
        }
    }
}

impl From<SendError> for io::Error {
    fn from(e: SendError) -> Self {
        let kind = match e {
            SendError::Io(e) => return e,
            SendError::WouldBlock => io::ErrorKind::WouldBlock,
            SendError::NoMemory => io::ErrorKind::OutOfMemory,
            SendError::TooManyInFlight => io::ErrorKind::QuotaExceeded,
            SendError::TooManyHandles { .. } | SendError::NoBytes => io::ErrorKind::InvalidInput,
            SendError::Closed => io::ErrorKind::BrokenPipe,
        };
        Self::new(kind, e)
    }
}

/// Why nothing was received.
///
/// Except for `WouldBlock`, `NoBuffer` and `Io`, a message was taken from the socket and is lost;
/// all handles that came with it are closed. Only a peer that does not keep to the protocol (or a
/// process out of descriptors) gets there, so the usual answer is to close the channel.
#[derive(Debug)]
pub enum RecvError {
    /// No message is there.
    WouldBlock,
    /// Not all handles could be delivered, in most cases because this process is at its
    /// `RLIMIT_NOFILE`. The others are gone for good: only the sender can send them again.
    HandlesTruncated {
        /// How many came, and were closed.
        received: usize,
    },
    /// The buffer was too short for the message (message-oriented sockets only).
    MessageTruncated,
    /// An empty message, with or without handles (message-oriented sockets only). It is *not* the
    /// end of the stream.
    NoBytes,
    /// Something came that is neither bytes nor one set of handles, such as credentials.
    UnexpectedControl,
    /// The buffer for the bytes is empty, so that the end of the stream could not be told.
    NoBuffer,
    /// Anything else that the operating system reports.
    Io(io::Error),
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("no message is there"),
            Self::HandlesTruncated { received } => write!(
                f,
                "only {received} handles of a message could be received: check RLIMIT_NOFILE"
            ),
            Self::MessageTruncated => f.write_str("the message is longer than the buffer"),
            Self::NoBytes => f.write_str("the peer sent an empty message"),
            Self::UnexpectedControl => f.write_str("the peer sent unexpected control data"),
            Self::NoBuffer => f.write_str("the buffer to receive into is empty"),
            Self::Io(e) => write!(f, "receiving failed: {e}"),
        }
    }
}

impl error::Error for RecvError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Io(e) => Some(e),
            _ => None,
        }
    }
}

impl From<RecvError> for io::Error {
    fn from(e: RecvError) -> Self {
        let kind = match e {
            RecvError::Io(e) => return e,
            RecvError::WouldBlock => io::ErrorKind::WouldBlock,
            RecvError::NoBuffer => io::ErrorKind::InvalidInput,
            RecvError::HandlesTruncated { .. }
            | RecvError::MessageTruncated
            | RecvError::NoBytes
            | RecvError::UnexpectedControl => io::ErrorKind::InvalidData,
        };
        Self::new(kind, e)
    }
}

/// Why a handle, or several received together, are not the expected ones.
#[derive(Debug)]
pub enum HandleError {
    /// Fewer came than were announced.
    Missing {
        /// How many should have come.
        expected: usize,
        /// How many came.
        received: usize,
    },
    /// More came than were announced.
    Surplus {
        /// How many should have come.
        expected: usize,
        /// How many came.
        received: usize,
    },
    /// One is something else than was announced.
    WrongKind {
        /// Its place in the message, from 0.
        index: usize,
        /// What it should have been.
        expected: HandleKind,
        /// What it is.
        found: HandleKind,
    },
    /// One is of the right kind, but not open for what is needed: the other end of a pipe, or
    /// memory that may only be read.
    WrongAccess {
        /// Its place in the message, from 0.
        index: usize,
        /// What it would have to be open for.
        needed: &'static str,
    },
    /// The operating system could not tell what one of them is, or what it is can't be used.
    Io(io::Error),
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { expected, received } | Self::Surplus { expected, received } => {
                write!(f, "{received} handles came where {expected} were expected")
            }
            Self::WrongKind { index, expected, found } => {
                write!(f, "handle {index} is {found} where {expected} was expected")
            }
            Self::WrongAccess { index, needed } => {
                write!(f, "handle {index} is not open for {needed}")
            }
            Self::Io(e) => write!(f, "a received handle can't be used: {e}"),
        }
    }
}

impl error::Error for HandleError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Io(e) => Some(e),
            _ => None,
        }
    }
}

impl HandleError {
    /// The same error about the handle at another place of the message.
    #[must_use]
    pub fn at(self, place: usize) -> Self {
        match self {
            Self::WrongKind { expected, found, .. } => {
                Self::WrongKind { index: place, expected, found }
            }
            Self::WrongAccess { needed, .. } => Self::WrongAccess { index: place, needed },
            same @ (Self::Missing { .. } | Self::Surplus { .. } | Self::Io(_)) => same,
        }
    }
}

impl From<HandleError> for io::Error {
    fn from(e: HandleError) -> Self {
        match e {
            HandleError::Io(e) => e,
            e => Self::new(io::ErrorKind::InvalidData, e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_lower_case_and_name_the_culprit() {
        let texts = [
            SendError::TooManyHandles { given: 254 }.to_string(),
            SendError::Closed.to_string(),
            SendError::TooManyInFlight.to_string(),
            RecvError::HandlesTruncated { received: 2 }.to_string(),
            RecvError::UnexpectedControl.to_string(),
            HandleError::Missing { expected: 1, received: 0 }.to_string(),
            HandleError::WrongKind {
                index: 0,
                expected: HandleKind::TcpStream,
                found: HandleKind::Pipe,
            }
            .to_string(),
        ];
        for text in &texts {
            assert!(!text.ends_with('.'), "{text}");
            assert!(!text.starts_with(char::is_uppercase), "{text}");
        }
        assert!(texts[0].contains("254") && texts[0].contains("253"));
        assert!(texts[6].contains("a pipe") && texts[6].contains("a TCP stream"));
    }

    #[test]
    fn an_operating_system_error_survives_the_conversion() {
        let os = || io::Error::from_raw_os_error(1);
        assert_eq!(io::Error::from(SendError::Io(os())).raw_os_error(), Some(1));
        assert_eq!(io::Error::from(RecvError::Io(os())).raw_os_error(), Some(1));
        assert_eq!(io::Error::from(HandleError::Io(os())).raw_os_error(), Some(1));
        assert_eq!(io::Error::from(SendError::WouldBlock).kind(), io::ErrorKind::WouldBlock);
        assert_eq!(io::Error::from(RecvError::WouldBlock).kind(), io::ErrorKind::WouldBlock);
        assert_eq!(io::Error::from(SendError::Closed).kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn only_a_full_channel_is_back_pressure() {
        assert!(SendError::WouldBlock.is_back_pressure());
        assert!(SendError::NoMemory.is_back_pressure());
        assert!(SendError::TooManyInFlight.is_back_pressure());
        assert!(!SendError::Closed.is_back_pressure());
        assert!(!SendError::NoBytes.is_back_pressure());
        assert!(!SendError::TooManyHandles { given: 300 }.is_back_pressure());
        assert!(!SendError::Io(io::Error::from_raw_os_error(1)).is_back_pressure());
    }
}
