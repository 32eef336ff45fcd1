//! What Linux has and other Unix systems lack.
#![allow(unsafe_code)] // System calls.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use libc::c_int;

use super::unix::{INT_BYTES, socket_option};
use crate::HandleKind;

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

/// The bits of a file's mode that tell its type. Not by `fstat`, which asks the process behind a
/// FUSE file system, or the network: a peer could keep us waiting for the answer.
pub(super) fn file_type(file: BorrowedFd<'_>) -> io::Result<libc::mode_t> {
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    let mask = libc::STATX_TYPE;
    // SAFETY: the path is empty and ends with 0, `stat` has room for what the kernel writes, and
    // both outlive the call.
    let result =
        unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, mask, stat.as_mut_ptr()) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a statx is plain integers, for which zeros are valid where nothing was written.
    let stat = unsafe { stat.assume_init() };
    Ok(libc::mode_t::from(stat.stx_mode) & libc::S_IFMT)
}

/// Whether this is memory that can't change its size any more.
pub(super) fn is_sealed_memory(file: BorrowedFd<'_>) -> bool {
    const SEALS: c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: the descriptor is open, and F_GET_SEALS takes no argument. What has no seals at all
    // answers -1, in which all bits are set.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    seals != -1 && seals & SEALS == SEALS
}

/// What a descriptor is that is neither a socket nor a file of any type. Only its name tells.
pub(super) fn kind_of_untyped(handle: BorrowedFd<'_>) -> HandleKind {
    let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
    match std::fs::read_link(link).as_deref().ok().and_then(std::path::Path::to_str) {
        Some("anon_inode:[eventfd]") => HandleKind::Event,
        Some("anon_inode:[pidfd]") => HandleKind::Process,
        // From Linux 6.9 to 6.13, a name in a file system of its own.
        Some(name) if name.starts_with("pidfd:[") => HandleKind::Process,
        _ => HandleKind::Other,
    }
}

/// Sets `SO_PASSRIGHTS` to 0.
pub(super) fn refuse_handles(socket: BorrowedFd<'_>) -> io::Result<()> {
    const SO_PASSRIGHTS: c_int = 83; // On all architectures but SPARC and PA-RISC.
    set_option(socket, SO_PASSRIGHTS, false).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOPROTOOPT) => {
            let reason = "a socket can't refuse handles (SO_PASSRIGHTS) before Linux 6.16";
            io::Error::new(io::ErrorKind::Unsupported, reason)
        }
        _ => error,
    })
}

/// Sets an option of the level `SOL_SOCKET` that is on or off.
pub(super) fn set_option(socket: BorrowedFd<'_>, option: c_int, is_on: bool) -> io::Result<()> {
    let value = c_int::from(is_on);
    // SAFETY: the option's value is an integer, which outlives the call and is only read.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            INT_BYTES,
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
