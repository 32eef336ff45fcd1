//! Windows: handles are pushed into the process that shall have them.
#![allow(unsafe_code)] // System calls.

mod convert;
mod kind;
pub(crate) mod push;

use std::io;
use std::os::windows::io::{OwnedHandle, OwnedSocket};

pub(crate) use kind::actual_kind;

/// An owned handle of any kind. Sockets are closed by another call than everything else.
#[derive(Debug)]
pub(crate) enum Raw {
    Object(OwnedHandle),
    Socket(OwnedSocket),
}

impl Raw {
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Object(handle) => handle.try_clone().map(Self::Object),
            Self::Socket(socket) => socket.try_clone().map(Self::Socket),
        }
    }
}
