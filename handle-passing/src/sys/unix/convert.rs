//! From types of std, mio and socket2 to [`Handle`] and back.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use super::{Access, Raw};
use crate::{
    EventHandle, FromHandle, FromHandleError, Handle, HandleError, HandleKind, MemoryHandle,
    ProcessHandle,
};

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw().as_fd()
    }
}

impl From<OwnedFd> for Handle {
    fn from(fd: OwnedFd) -> Self {
        Self::from_raw(fd.into(), HandleKind::Any)
    }
}

impl Handle {
    /// A handle that a peer has sent, announced as anything.
    ///
    /// Unlike one that is made [from](From) a descriptor, it does not let the peer choose how long
    /// dropping it takes: a socket lingers no longer (`SO_LINGER`). That ends when it is taken as
    /// another type.
    #[must_use]
    pub fn received(fd: OwnedFd) -> Self {
        Self::from_raw(Raw::received(fd), HandleKind::Any)
    }
}

impl From<Handle> for OwnedFd {
    fn from(handle: Handle) -> Self {
        handle.into_raw().into()
    }
}

impl FromHandle for OwnedFd {
    fn from_handle(handle: Handle) -> Result<Self, FromHandleError> {
        Ok(handle.into())
    }
}

macro_rules! typed_descriptors {
    ($($type:ty),*) => {$(
        impl AsFd for $type {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.as_ref().as_fd()
            }
        }

        impl From<$type> for OwnedFd {
            fn from(typed: $type) -> Self {
                Handle::from(typed).into()
            }
        }
    )*};
}

typed_descriptors!(MemoryHandle, ProcessHandle, EventHandle);

/// Both ways, for types that one kind stands for.
macro_rules! sockets {
    ($($type:ty: $kind:ident,)*) => {$(
        impl From<$type> for Handle {
            fn from(socket: $type) -> Self {
                Self::from_raw(OwnedFd::from(socket).into(), HandleKind::$kind)
            }
        }

        impl FromHandle for $type {
            fn from_handle(handle: Handle) -> Result<Self, FromHandleError> {
                Ok(OwnedFd::from(handle.expect_kind(&[HandleKind::$kind])?).into())
            }
        }
    )*};
}

sockets! {
    TcpListener: TcpListener,
    TcpStream: TcpStream,
    UdpSocket: UdpSocket,
    UnixListener: UnixListener,
    UnixStream: UnixStream,
    UnixDatagram: UnixDatagram,
}

/// A file may be much, so the receiver learns only that it is something to read or write.
impl From<File> for Handle {
    fn from(file: File) -> Self {
        Self::from_raw(OwnedFd::from(file).into(), HandleKind::Any)
    }
}

impl FromHandle for File {
    fn from_handle(handle: Handle) -> Result<Self, FromHandleError> {
        const KINDS: [HandleKind; 5] = [
            HandleKind::File,
            HandleKind::Memory,
            HandleKind::Directory,
            HandleKind::CharDevice,
            HandleKind::Pipe,
        ];
        Ok(OwnedFd::from(handle.expect_kind(&KINDS)?).into())
    }
}

macro_rules! pipes {
    ($($type:ty: $access:expr,)*) => {$(
        impl From<$type> for Handle {
            fn from(pipe: $type) -> Self {
                Self::from_raw(OwnedFd::from(pipe).into(), HandleKind::Pipe)
            }
        }

        impl FromHandle for $type {
            fn from_handle(handle: Handle) -> Result<Self, FromHandleError> {
                Ok(pipe_end(handle, $access)?.into())
            }
        }
    )*};
}

pipes! {
    PipeReader: Access::Read,
    PipeWriter: Access::Write,
}

fn pipe_end(handle: Handle, needed: Access) -> Result<OwnedFd, FromHandleError> {
    let handle = handle.expect_kind(&[HandleKind::Pipe])?;
    match super::allows(handle.as_fd(), needed) {
        Ok(true) => Ok(handle.into()),
        Ok(false) => {
            let needed = match needed {
                Access::Read => "reading",
                Access::Write => "writing",
            };
            Err(FromHandleError::new(handle, HandleError::WrongAccess { index: 0, needed }))
        }
        Err(error) => Err(FromHandleError::new(handle, HandleError::Io(error))),
    }
}

#[cfg(feature = "socket2")]
impl From<socket2::Socket> for Handle {
    fn from(socket: socket2::Socket) -> Self {
        Self::from_raw(OwnedFd::from(socket).into(), HandleKind::Any)
    }
}

/// A socket of any kind.
#[cfg(feature = "socket2")]
impl FromHandle for socket2::Socket {
    fn from_handle(handle: Handle) -> Result<Self, FromHandleError> {
        if let Err(error) = handle.verify() {
            return Err(FromHandleError::new(handle, error));
        }
        match super::is_socket(handle.as_fd()) {
            Ok(true) => Ok(OwnedFd::from(handle).into()),
            Ok(false) => {
                let error = io::Error::new(io::ErrorKind::InvalidData, "the handle is no socket");
                Err(FromHandleError::new(handle, HandleError::Io(error)))
            }
            Err(error) => Err(FromHandleError::new(handle, HandleError::Io(error))),
        }
    }
}

/// By way of std's types, because mio takes for granted that a socket does not block.
#[cfg(feature = "mio")]
mod of_mio {
    use super::*;

    macro_rules! sources {
        ($($type:ty, $std:ty: $kind:ident,)*) => {$(
            impl From<$type> for Handle {
                fn from(source: $type) -> Self {
                    Self::from_raw(OwnedFd::from(source).into(), HandleKind::$kind)
                }
            }

            /// Sets the socket to non-blocking, for everybody who shares it.
            impl FromHandle for $type {
                fn from_handle(handle: Handle) -> Result<Self, FromHandleError> {
                    let socket = handle.into_type::<$std>()?;
                    match socket.set_nonblocking(true) {
                        Ok(()) => Ok(Self::from_std(socket)),
                        Err(error) => {
                            Err(FromHandleError::new(socket.into(), HandleError::Io(error)))
                        }
                    }
                }
            }
        )*};
    }

    sources! {
        mio::net::TcpListener, TcpListener: TcpListener,
        mio::net::TcpStream, TcpStream: TcpStream,
        mio::net::UdpSocket, UdpSocket: UdpSocket,
        mio::net::UnixListener, UnixListener: UnixListener,
        mio::net::UnixStream, UnixStream: UnixStream,
        mio::net::UnixDatagram, UnixDatagram: UnixDatagram,
    }

    macro_rules! pipe_sources {
        ($($type:ty, $std:ty;)*) => {$(
            impl From<$type> for Handle {
                fn from(source: $type) -> Self {
                    Self::from_raw(OwnedFd::from(source).into(), HandleKind::Pipe)
                }
            }

            /// Sets the pipe to non-blocking, for everybody who shares this end of it.
            impl FromHandle for $type {
                fn from_handle(handle: Handle) -> Result<Self, FromHandleError> {
                    let source = Self::from(OwnedFd::from(handle.into_type::<$std>()?));
                    match source.set_nonblocking(true) {
                        Ok(()) => Ok(source),
                        Err(error) => {
                            Err(FromHandleError::new(source.into(), HandleError::Io(error)))
                        }
                    }
                }
            }
        )*};
    }

    pipe_sources! {
        mio::unix::pipe::Receiver, PipeReader;
        mio::unix::pipe::Sender, PipeWriter;
    }
}

/// What a handle is, by asking the system.
pub(crate) fn actual_kind(fd: &Raw) -> io::Result<HandleKind> {
    super::kind(fd.as_fd())
}
