//! What Linux has and other Unix systems lack.
#![allow(unsafe_code)] // System calls.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use libc::c_int;

use super::unix::socket_option;

/// Received descriptors are close-on-exec from the start: no fork in between can leak one.
pub(super) const RECV_FLAGS: c_int = libc::MSG_CMSG_CLOEXEC;

/// A control message that carries a descriptor, of the sending process (`SCM_PIDFD`).
pub(super) const PIDFD_RECORD: Option<c_int> = Some(4);

/// Close-on-exec is set already, see [`RECV_FLAGS`].
pub(super) fn set_close_on_exec(_handle: &OwnedFd) -> io::Result<()> {
    Ok(())
}

/// Whether the peer will send nothing more. Zero bytes alone don't say it: they may be an empty
/// message.
pub(super) fn has_ended(socket: BorrowedFd<'_>) -> bool {
    let events = libc::POLLRDHUP;
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events, revents: 0 };
    // SAFETY: `poll` is one valid pollfd; a timeout of zero does not block.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready > 0 && poll.revents & (libc::POLLRDHUP | libc::POLLHUP) != 0
}

/// The address family. `ENOTSOCK` when it is no socket, `EBADF` when it was opened with `O_PATH`.
pub(super) fn domain(handle: BorrowedFd<'_>) -> io::Result<c_int> {
    socket_option(handle, libc::SO_DOMAIN)
}

/// Whether a stream socket of the Internet family is TCP, and not SCTP.
pub(super) fn is_tcp(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let protocol = socket_option(socket, libc::SO_PROTOCOL)?;
    Ok(protocol == libc::IPPROTO_TCP || protocol == libc::IPPROTO_MPTCP)
}

/// Whether a datagram socket of the Internet family is UDP, and not for pings.
pub(super) fn is_udp(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(socket_option(socket, libc::SO_PROTOCOL)? == libc::IPPROTO_UDP)
}
