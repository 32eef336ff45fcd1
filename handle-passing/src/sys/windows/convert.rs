//! From types of std, mio and socket2 to [`Handle`] and back.
#![allow(unsafe_code)] // mio has no safe conversions here.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::windows::io::{AsHandle, BorrowedHandle, OwnedHandle, OwnedSocket};

use super::Raw;
use super::kind::{Access, allows};
use crate::{
    EventHandle, FromHandle, FromHandleError, Handle, HandleError, HandleKind, MemoryHandle,
    ProcessHandle,
};

impl From<OwnedHandle> for Handle {
    fn from(handle: OwnedHandle) -> Self {
        Self::from_raw(Raw::Object(handle), HandleKind::Any)
    }
}

impl From<OwnedSocket> for Handle {
    fn from(socket: OwnedSocket) -> Self {
        Self::from_raw(Raw::Socket(socket), HandleKind::Any)
    }
}

impl Handle {
    /// The handle itself, for calls that take one; `None` if it is a socket, which has a type of
    /// its own on Windows.
    #[must_use]
    pub fn as_object(&self) -> Option<BorrowedHandle<'_>> {
        match self.raw() {
            Raw::Object(object) => Some(object.as_handle()),
            Raw::Socket(_) => None,
        }
    }
}

/// Anything but a socket.
impl FromHandle for OwnedHandle {
    fn from_handle(handle: Handle) -> Result<Self, FromHandleError> {
        let kind = handle.kind();
        match handle.into_raw() {
            Raw::Object(object) => Ok(object),
            socket @ Raw::Socket(_) => Err(other_than_expected(socket, kind, "is a socket")),
        }
    }
}

/// Any socket.
impl FromHandle for OwnedSocket {
    fn from_handle(handle: Handle) -> Result<Self, FromHandleError> {
        let kind = handle.kind();
        match handle.into_raw() {
            Raw::Socket(socket) => Ok(socket),
            object @ Raw::Object(_) => Err(other_than_expected(object, kind, "is no socket")),
        }
    }
}

fn other_than_expected(raw: Raw, kind: HandleKind, what: &str) -> FromHandleError {
    let reason = format!("the handle {what}, which has a type of its own on Windows");
    let error = io::Error::new(io::ErrorKind::InvalidData, reason);
    FromHandleError::new(Handle::from_raw(raw, kind), HandleError::Io(error))
}

macro_rules! typed_handles {
    ($($type:ty),*) => {$(
        impl AsHandle for $type {
            fn as_handle(&self) -> BorrowedHandle<'_> {
                match self.as_ref().raw() {
                    Raw::Object(object) => object.as_handle(),
                    Raw::Socket(_) => unreachable!("the kind has been checked"),
                }
            }
        }

        impl From<$type> for OwnedHandle {
            fn from(typed: $type) -> Self {
                match Handle::from(typed).into_raw() {
                    Raw::Object(object) => object,
                    Raw::Socket(_) => unreachable!("the kind has been checked"),
                }
            }
        }
    )*};
}

typed_handles!(MemoryHandle, ProcessHandle, EventHandle);

/// Both ways, for types that one kind stands for.
macro_rules! sockets {
    ($($type:ty: $kind:ident,)*) => {$(
        impl From<$type> for Handle {
            fn from(socket: $type) -> Self {
                Self::from_raw(Raw::Socket(socket.into()), HandleKind::$kind)
            }
        }

        impl FromHandle for $type {
            fn from_handle(handle: Handle) -> Result<Self, FromHandleError> {
                let handle = handle.expect_kind(&[HandleKind::$kind])?;
                handle.into_type::<OwnedSocket>().map(Into::into)
            }
        }
    )*};
}

sockets! {
    TcpListener: TcpListener,
    TcpStream: TcpStream,
    UdpSocket: UdpSocket,
}

/// A file may be much, so the receiver learns only that it is something to read or write.
impl From<File> for Handle {
    fn from(file: File) -> Self {
        OwnedHandle::from(file).into()
    }
}

impl FromHandle for File {
    fn from_handle(handle: Handle) -> Result<Self, FromHandleError> {
        const KINDS: [HandleKind; 4] =
            [HandleKind::File, HandleKind::Directory, HandleKind::CharDevice, HandleKind::Pipe];
        handle.expect_kind(&KINDS)?.into_type::<OwnedHandle>().map(Into::into)
    }
}

macro_rules! pipes {
    ($($type:ty: $access:expr, $needed:literal;)*) => {$(
        impl From<$type> for Handle {
            fn from(pipe: $type) -> Self {
                Self::from_raw(Raw::Object(pipe.into()), HandleKind::Pipe)
            }
        }

        impl FromHandle for $type {
            fn from_handle(handle: Handle) -> Result<Self, FromHandleError> {
                let handle = handle.expect_kind(&[HandleKind::Pipe])?;
                let end = handle.into_type::<OwnedHandle>()?;
                let error = match allows(end.as_handle(), $access) {
                    Ok(true) => return Ok(end.into()),
                    Ok(false) => HandleError::WrongAccess { index: 0, needed: $needed },
                    Err(error) => HandleError::Io(error),
                };
                let handle = Handle::from(end).announced(HandleKind::Pipe);
                Err(FromHandleError::new(handle, error))
            }
        }
    )*};
}

pipes! {
    PipeReader: Access::Read, "reading";
    PipeWriter: Access::Write, "writing";
}

#[cfg(feature = "socket2")]
impl From<socket2::Socket> for Handle {
    fn from(socket: socket2::Socket) -> Self {
        OwnedSocket::from(socket).into()
    }
}

/// A socket of any kind.
#[cfg(feature = "socket2")]
impl FromHandle for socket2::Socket {
    fn from_handle(handle: Handle) -> Result<Self, FromHandleError> {
        match handle.verify() {
            Ok(()) => handle.into_type::<OwnedSocket>().map(Into::into),
            Err(error) => Err(FromHandleError::new(handle, error)),
        }
    }
}

/// By way of std's types, because mio takes for granted that a socket does not block.
#[cfg(feature = "mio")]
mod of_mio {
    use std::os::windows::io::{FromRawSocket, IntoRawSocket};

    use super::*;

    macro_rules! sources {
        ($($type:ty, $std:ty;)*) => {$(
            impl From<$type> for Handle {
                fn from(source: $type) -> Self {
                    // SAFETY: it was the source's own, which has given it up.
                    unsafe { <$std>::from_raw_socket(source.into_raw_socket()) }.into()
                }
            }

            /// Sets the socket to non-blocking.
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
        mio::net::TcpListener, TcpListener;
        mio::net::TcpStream, TcpStream;
        mio::net::UdpSocket, UdpSocket;
    }
}
