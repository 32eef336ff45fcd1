use std::error::Error;
use std::fmt;
use std::io;

/// Why a handle could not be mapped as memory.
#[derive(Debug)]
pub enum MemoryError {
    /// It is something else: a file on a disk, a socket, huge pages.
    NotMemory,
    /// It may still be resized, or written where it must not: its owner has not sealed it.
    NotSealed,
    /// It can't be written to, which was asked for.
    ReadOnly,
    /// It has no byte, or more than allowed.
    Size {
        /// How many it has.
        bytes: u64,
        /// How many it may have.
        bytes_max: usize,
    },
    /// The system refused.
    Io(io::Error),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMemory => f.write_str("the handle is not one of shared memory"),
            Self::NotSealed => f.write_str("the memory is not sealed against changes of its size"),
            Self::ReadOnly => f.write_str("the memory can't be written to"),
            Self::Size { bytes, bytes_max } => {
                write!(f, "the memory has {bytes} bytes, where 1 to {bytes_max} are allowed")
            }
            Self::Io(error) => write!(f, "cannot map memory: {error}"),
        }
    }
}

impl Error for MemoryError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        if let Self::Io(error) = self { Some(error) } else { None }
    }
}

impl From<io::Error> for MemoryError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// An access to memory where there is none, or none that is aligned to its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBounds;

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the access is beyond the memory's end, or not aligned")
    }
}

impl Error for OutOfBounds {}
