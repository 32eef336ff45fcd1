//! Stands in for `linux.rs` where the system has less. Type-checked only, so far.
#![allow(unsafe_code)] // System calls.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use libc::c_int;

use crate::HandleKind;

/// macOS has no flag for close-on-exec, see [`set_close_on_exec`].
pub(super) const RECV_FLAGS: c_int = 0;

/// No control message but `SCM_RIGHTS` carries descriptors here.
pub(super) const PIDFD_RECORD: Option<c_int> = None;

/// Sets close-on-exec. A program that another thread starts just now may inherit the handle.
pub(super) fn set_close_on_exec(handle: &OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is open, and F_SETFD takes an integer.
    match unsafe { libc::fcntl(handle.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Zero bytes are taken for the end of the stream.
pub(super) fn has_ended(_socket: BorrowedFd<'_>) -> bool {
    true
}

/// The address family, from the socket's name. `ENOTSOCK` when it is no socket.
pub(super) fn domain(handle: BorrowedFd<'_>) -> io::Result<c_int> {
    // SAFETY: a sockaddr_storage is plain data, for which zeros are valid.
    let mut address: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: `address` has room for `len` bytes, and both outlive the call.
    match unsafe { libc::getsockname(handle.as_raw_fd(), (&raw mut address).cast(), &raw mut len) }
    {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(c_int::from(address.ss_family)),
    }
}

/// Taken for granted: macOS can't tell the protocol of a socket.
pub(super) fn is_tcp(_socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(true)
}

/// Taken for granted: macOS can't tell the protocol of a socket.
pub(super) fn is_udp(_socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(true)
}

/// The bits of a file's mode that tell its type.
pub(super) fn file_type(file: BorrowedFd<'_>) -> io::Result<libc::mode_t> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` has room for what the kernel writes.
    if unsafe { libc::fstat(file.as_raw_fd(), stat.as_mut_ptr()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstat has succeeded, so it has filled the structure.
    Ok(unsafe { stat.assume_init() }.st_mode & libc::S_IFMT)
}

/// Memory has no seals here: it is told from no other file.
pub(super) fn is_sealed_memory(_file: BorrowedFd<'_>) -> bool {
    false
}

/// What is neither a socket nor a file has no name to tell it by.
pub(super) fn kind_of_untyped(_handle: BorrowedFd<'_>) -> HandleKind {
    HandleKind::Other
}

/// Only Linux can.
pub(super) fn refuse_handles(_socket: BorrowedFd<'_>) -> io::Result<()> {
    let reason = "a socket can't refuse handles on this system";
    Err(io::Error::new(io::ErrorKind::Unsupported, reason))
}
