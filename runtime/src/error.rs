//! Why a cluster, or a worker's part in one, failed.

use std::fmt;
use std::io;

/// Why a cluster could not start, or ended; or why a worker did.
///
/// [`io_error`](Error::io_error) gives the operating system's reason where there is one.
#[derive(Debug)]
pub struct Error(Box<Kind>);

#[derive(Debug)]
enum Kind {
    Io { operation: String, error: io::Error },
    Invalid(String),
    AllSlotsFailed,
    Handshake(String),
    Serve(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    pub(crate) fn io(operation: impl Into<String>, error: io::Error) -> Error {
        Error(Box::new(Kind::Io { operation: operation.into(), error }))
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Error {
        Error(Box::new(Kind::Invalid(text.into())))
    }

    pub(crate) fn all_slots_failed() -> Error {
        Error(Box::new(Kind::AllSlotsFailed))
    }

    pub(crate) fn handshake(text: impl Into<String>) -> Error {
        Error(Box::new(Kind::Handshake(text.into())))
    }

    pub(crate) fn serve(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
        Error(Box::new(Kind::Serve(error)))
    }

    /// The operating system's error, if it is one.
    pub fn io_error(&self) -> Option<&io::Error> {
        match &*self.0 {
            Kind::Io { error, .. } => Some(error),
            _ => None,
        }
    }

    /// Whether the cluster ended because the workers of every slot failed too often in a row.
    pub fn is_all_slots_failed(&self) -> bool {
        matches!(*self.0, Kind::AllSlotsFailed)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::Io { operation, error } => write!(f, "can't {operation}: {error}"),
            Kind::Invalid(text) => f.write_str(text),
            Kind::AllSlotsFailed => f.write_str(
                "the workers of every slot failed too often in a row; see the events before this",
            ),
            Kind::Handshake(text) => write!(f, "this process is no worker of its parent: {text}"),
            Kind::Serve(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Kind::Io { error, .. } => Some(error),
            Kind::Serve(error) => error.source(),
            Kind::Invalid(_) | Kind::AllSlotsFailed | Kind::Handshake(_) => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = error.io_error().map_or(io::ErrorKind::Other, io::Error::kind);
        io::Error::new(kind, error)
    }
}
