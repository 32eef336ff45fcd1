//! An owned handle of any kind, and the way from and to types that say what it is.

use std::{error, fmt, io};

use crate::sys::{self, Raw};
use crate::{HandleError, HandleKind};

/// An owned handle of any kind, together with the kind that it is announced as.
///
/// It is made [from](From) a type that says what it is, a [`TcpListener`](std::net::TcpListener)
/// say, and becomes such a type again, in the process that received it, by
/// [`into_type`](Self::into_type). In between it travels as a mere handle and a
/// [kind](HandleKind). Who receives a handle knows only what its sender claims, so
/// `into_type` asks the system what it really is: a handle that is not what its receiver
/// takes it for is more than a nuisance. Reading a pipe that was taken for a socket may block for
/// ever, and Unix sockets in flight can form cycles that only the kernel's garbage collector finds.
///
/// Dropping it closes the handle.
///
/// # Examples
///
/// ```
/// use std::net::{TcpListener, UdpSocket};
/// use handle_passing::{Handle, HandleKind};
///
/// let handle = Handle::from(TcpListener::bind("127.0.0.1:0")?);
/// assert_eq!(handle.kind(), HandleKind::TcpListener);
///
/// // The error tells what it is, and gives the handle back.
/// let error = handle.into_type::<UdpSocket>().unwrap_err();
/// assert_eq!(error.to_string(), "handle 0 is a TCP listener where a UDP socket was expected");
/// let listener = error.into_handle().into_type::<TcpListener>()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Handle {
    raw: Raw,
    kind: HandleKind,
}

/// A type that a [`Handle`] of the right kind can become.
///
/// Implemented for std's sockets, files and pipe ends, for this crate's [`MemoryHandle`],
/// [`ProcessHandle`] and [`EventHandle`], for [`Handle`] itself and the system's own owned handle,
/// which take any kind, for mio's types with the feature `mio`, and for socket2's with `socket2`.
pub trait FromHandle: Sized {
    /// Makes sure that the handle is of the right kind, and converts it.
    ///
    /// # Errors
    ///
    /// When it is of another kind, or was announced as another. The error holds the handle.
    fn from_handle(handle: Handle) -> Result<Self, FromHandleError>;
}

impl Handle {
    /// A handle that is announced as `kind`. Nothing is checked here: the receiver does.
    #[must_use]
    pub fn announced(self, kind: HandleKind) -> Self {
        Self { kind, ..self }
    }

    /// What the handle is announced as: by the type that it was made from, or by the peer that
    /// sent it. [`HandleKind::Any`] leaves it open.
    #[must_use]
    pub fn kind(&self) -> HandleKind {
        self.kind
    }

    /// Asks the system what the handle is: two to four system calls, none of which blocks.
    ///
    /// # Errors
    ///
    /// The system's, which does not happen for an open descriptor on Linux.
    pub fn actual_kind(&self) -> io::Result<HandleKind> {
        sys::actual_kind(&self.raw)
    }

    /// Makes sure that the handle is what it is announced as.
    ///
    /// # Errors
    ///
    /// [`HandleError::WrongKind`] if it is something else.
    pub fn verify(&self) -> Result<(), HandleError> {
        match self.kind {
            HandleKind::Any => Ok(()),
            announced => self.check(&[announced]),
        }
    }

    /// The handle as a type that says what it is, after making sure that it is that.
    ///
    /// # Errors
    ///
    /// When it is something else, or was announced as something else. The error holds the handle.
    pub fn into_type<T: FromHandle>(self) -> Result<T, FromHandleError> {
        T::from_handle(self)
    }

    /// Another handle to the same thing, announced alike.
    ///
    /// # Errors
    ///
    /// The system's, most likely that this process has too many open.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { raw: self.raw.try_clone()?, kind: self.kind })
    }

    /// Gives the handle on if it is one of `kinds`, and what it was announced as. For
    /// implementations of [`FromHandle`].
    ///
    /// # Errors
    ///
    /// [`HandleError::WrongKind`] if it is something else. The error holds the handle.
    ///
    /// # Panics
    ///
    /// When no kinds are given.
    pub fn expect_kind(self, kinds: &[HandleKind]) -> Result<Self, FromHandleError> {
        match self.check(kinds) {
            Ok(()) => Ok(self),
            Err(error) => Err(FromHandleError::new(self, error)),
        }
    }

    pub(crate) fn from_raw(raw: Raw, kind: HandleKind) -> Self {
        Self { raw, kind }
    }

    pub(crate) fn raw(&self) -> &Raw {
        &self.raw
    }

    pub(crate) fn into_raw(self) -> Raw {
        self.raw
    }

    fn check(&self, kinds: &[HandleKind]) -> Result<(), HandleError> {
        let wrong = |expected, found| Err(HandleError::WrongKind { index: 0, expected, found });
        let found = self.actual_kind().map_err(HandleError::Io)?;
        if !kinds.contains(&found) {
            return wrong(kinds[0], found);
        }
        if self.kind != HandleKind::Any && self.kind != found {
            return wrong(self.kind, found);
        }
        Ok(())
    }
}

impl FromHandle for Handle {
    fn from_handle(handle: Handle) -> Result<Self, FromHandleError> {
        Ok(handle)
    }
}

/// Why a [`Handle`] did not become the type that was asked for. It holds the handle.
#[derive(Debug)]
pub struct FromHandleError {
    handle: Handle,
    error: HandleError,
}

impl FromHandleError {
    /// For implementations of [`FromHandle`].
    #[must_use]
    pub fn new(handle: Handle, error: HandleError) -> Self {
        Self { handle, error }
    }

    /// The reason.
    #[must_use]
    pub fn error(&self) -> &HandleError {
        &self.error
    }

    /// The handle, untouched.
    #[must_use]
    pub fn into_handle(self) -> Handle {
        self.handle
    }

    /// The handle, untouched, and the reason.
    #[must_use]
    pub fn into_parts(self) -> (Handle, HandleError) {
        (self.handle, self.error)
    }
}

impl fmt::Display for FromHandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl error::Error for FromHandleError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.error.source()
    }
}

impl From<FromHandleError> for io::Error {
    fn from(e: FromHandleError) -> Self {
        e.error.into()
    }
}

/// A type around a handle that was found to be of one kind.
macro_rules! typed {
    ($(#[$doc:meta])* $name:ident, $kind:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(Handle);

        impl FromHandle for $name {
            fn from_handle(handle: Handle) -> Result<Self, FromHandleError> {
                Ok(Self(handle.expect_kind(&[HandleKind::$kind])?.announced(HandleKind::$kind)))
            }
        }

        impl From<$name> for Handle {
            fn from(typed: $name) -> Self {
                typed.0
            }
        }

        impl AsRef<Handle> for $name {
            fn as_ref(&self) -> &Handle {
                &self.0
            }
        }
    };
}

typed! {
    /// A handle to memory whose size nobody can change, see [`HandleKind::Memory`].
    MemoryHandle, Memory
}
typed! {
    /// A handle to a process, see [`HandleKind::Process`].
    ProcessHandle, Process
}
typed! {
    /// A handle to an event, see [`HandleKind::Event`].
    EventHandle, Event
}
