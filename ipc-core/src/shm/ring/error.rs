use std::error::Error;
use std::fmt;
use std::io;

/// What the other side of a ring has done that it must not.
///
/// From then on this side is detached: every call fails with the same violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The consumer's cursor went backwards, past what was sent, or to the middle of a word.
    Head,
    /// The producer's cursor went backwards, past the capacity, or to the middle of a word.
    Tail,
    /// A record is longer than records may be, or than what was sent.
    Length,
    /// The mark that a record begins at the front stands where none can.
    Wrap,
}

/// Why a record could not be sent, or reserved, at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrySendError {
    /// The consumer must release records first.
    Full,
    /// The record does not fit in this ring, even when it is empty.
    TooLarge {
        /// The length of the largest record.
        bytes_max: usize,
    },
    /// The consumer is gone.
    Closed,
    /// The consumer broke the ring.
    Violation(Violation),
}

/// Why a record could not be sent, or reserved, in time.
#[derive(Debug)]
pub enum SendError {
    /// The deadline has passed, and the consumer has not released enough.
    TimedOut,
    /// The record does not fit in this ring, even when it is empty.
    TooLarge {
        /// The length of the largest record.
        bytes_max: usize,
    },
    /// The consumer is gone.
    Closed,
    /// The consumer broke the ring.
    Violation(Violation),
    /// The system refused to wait.
    Io(io::Error),
}

/// Why there is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRecvError {
    /// Nothing was sent that has not been received.
    Empty,
    /// The producer is gone, and everything that it had committed has been received.
    Closed,
    /// The producer broke the ring.
    Violation(Violation),
}

/// Why there was no record in time.
#[derive(Debug)]
pub enum RecvError {
    /// The deadline has passed.
    TimedOut,
    /// The producer is gone, and everything that it had committed has been received.
    Closed,
    /// The producer broke the ring.
    Violation(Violation),
    /// The system refused to wait.
    Io(io::Error),
}

/// Why a half of a ring could not be made of handles.
#[derive(Debug)]
pub enum AttachError {
    /// The memory is not what a ring's memory must be.
    Memory(crate::shm::MemoryError),
    /// The memory is no ring of this version, or its size and capacity disagree.
    NotARing,
    /// The cursors in the memory can't be those of a ring.
    Violation(Violation),
    /// The bell is not a connected Unix stream socket.
    Bell(io::Error),
}

/// Why a wait ended without what was waited for.
#[derive(Debug)]
pub(super) enum WaitError {
    TimedOut,
    Closed,
    Violation(Violation),
    Io(io::Error),
}

impl From<Violation> for WaitError {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<Violation> for SendError {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<WaitError> for SendError {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::TimedOut => Self::TimedOut,
            WaitError::Closed => Self::Closed,
            WaitError::Violation(violation) => Self::Violation(violation),
            WaitError::Io(error) => Self::Io(error),
        }
    }
}

impl From<Violation> for RecvError {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<WaitError> for RecvError {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::TimedOut => Self::TimedOut,
            WaitError::Closed => Self::Closed,
            WaitError::Violation(violation) => Self::Violation(violation),
            WaitError::Io(error) => Self::Io(error),
        }
    }
}

impl From<Violation> for TrySendError {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<Violation> for TryRecvError {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head => "the peer broke the ring: its read position is impossible",
            Self::Tail => "the peer broke the ring: its write position is impossible",
            Self::Length => "the peer broke the ring: a record's length is impossible",
            Self::Wrap => "the peer broke the ring: a record can't begin at the front here",
        })
    }
}

impl fmt::Display for TrySendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the ring is full, the consumer does not keep up"),
            Self::TooLarge { bytes_max } => write_too_large(f, *bytes_max),
            Self::Closed => f.write_str(CONSUMER_GONE),
            Self::Violation(violation) => violation.fmt(f),
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("the ring stayed full until the deadline"),
            Self::TooLarge { bytes_max } => write_too_large(f, *bytes_max),
            Self::Closed => f.write_str(CONSUMER_GONE),
            Self::Violation(violation) => violation.fmt(f),
            Self::Io(error) => write!(f, "cannot wait for room in a ring: {error}"),
        }
    }
}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no record is there yet"),
            Self::Closed => f.write_str(PRODUCER_GONE),
            Self::Violation(violation) => violation.fmt(f),
        }
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("no record came before the deadline"),
            Self::Closed => f.write_str(PRODUCER_GONE),
            Self::Violation(violation) => violation.fmt(f),
            Self::Io(error) => write!(f, "cannot wait for a record in a ring: {error}"),
        }
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => error.fmt(f),
            Self::NotARing => f.write_str("the memory is not a ring of this version"),
            Self::Violation(violation) => violation.fmt(f),
            Self::Bell(error) => write!(f, "a ring's bell: {error}"),
        }
    }
}

impl Error for Violation {}
impl Error for TrySendError {}
impl Error for TryRecvError {}

impl Error for SendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        if let Self::Io(error) = self { Some(error) } else { None }
    }
}

impl Error for RecvError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        if let Self::Io(error) = self { Some(error) } else { None }
    }
}

impl Error for AttachError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Memory(error) => Some(error),
            Self::Bell(error) => Some(error),
            Self::NotARing | Self::Violation(_) => None,
        }
    }
}

const CONSUMER_GONE: &str = "the consumer is gone";
const PRODUCER_GONE: &str = "the producer is gone";

fn write_too_large(f: &mut fmt::Formatter<'_>, bytes_max: usize) -> fmt::Result {
    write!(f, "records of this ring have at most {bytes_max} bytes")
}
