//! An owned descriptor, and how one that nobody wanted is closed.
#![allow(unsafe_code)] // System calls.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libc::c_int;

/// An owned descriptor of any kind.
#[derive(Debug)]
pub(crate) struct Raw {
    /// There until it is taken or closed.
    fd: Option<OwnedFd>,
    /// A peer chose it, so closing it must not make us wait.
    is_received: bool,
}

impl Raw {
    pub(crate) fn received(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), is_received: true }
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        let fd = self.as_fd().try_clone_to_owned()?;
        Ok(Self { fd: Some(fd), is_received: self.is_received })
    }
}

impl From<OwnedFd> for Raw {
    fn from(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), is_received: false }
    }
}

impl From<Raw> for OwnedFd {
    fn from(mut raw: Raw) -> Self {
        raw.fd.take().expect("nobody has taken it")
    }
}

impl AsFd for Raw {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("nobody has taken it").as_fd()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take_if(|_| self.is_received) {
            close(fd);
        }
    }
}

/// Closes a descriptor that a peer chose. If it is a socket with `SO_LINGER` and unsent data, and
/// ours is the last duplicate, the kernel would let `close` wait for as long as the option says.
pub(crate) fn close(fd: OwnedFd) {
    let mut linger = libc::linger { l_onoff: 0, l_linger: 0 };
    let mut len = size_of_val(&linger) as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_LINGER);
    // SAFETY: `linger` has room for `len` bytes, and both outlive the call.
    let result: c_int = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, option, (&raw mut linger).cast(), &raw mut len)
    };
    // What is no socket does not linger. Zero seconds are no wait, but a reset of the connection.
    if result == 0 && linger.l_onoff != 0 && linger.l_linger != 0 {
        linger.l_onoff = 0;
        // SAFETY: `linger` holds `len` bytes, which outlive the call and are only read.
        unsafe {
            libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const linger).cast(), len);
        }
    }
}
