//! For fuzz targets and tests: the parser alone, and what a hostile peer does.
//!
//! Not part of the crate's interface, and not for users.
#![allow(unsafe_code)] // System calls.
#![allow(
    clippy::cast_possible_truncation,
    reason = "the types of lengths differ between C libraries; those here are far below 2 GiB"
)]

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::c_int;

use super::os::set_option;
use super::unix::{control, message_header};

/// What was found in control data. Owns nothing: the descriptors are mere numbers.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// Every descriptor number, in order.
    pub descriptors: Vec<i32>,
    /// How many records of `SCM_RIGHTS` there were.
    pub sets: usize,
    /// Whether anything else was there.
    pub is_unexpected: bool,
}

/// Reads control data, which may be any bytes.
#[must_use]
pub fn parse(control: &[u8]) -> Parsed {
    let mut descriptors = Vec::new();
    let summary = control::read(control, |number| descriptors.push(number));
    Parsed { descriptors, sets: summary.sets, is_unexpected: summary.is_unexpected }
}

/// Makes two connected seqpacket sockets.
///
/// # Errors
///
/// The kernel's.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `pair` has room for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) })?;
    // SAFETY: socketpair has succeeded: both are open, and nobody else knows them.
    Ok(unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) })
}

/// Sends, never blocking, without any of the checks: no bytes, too many handles, several records,
/// or out-of-band.
///
/// # Errors
///
/// The kernel's.
pub fn send_raw(
    socket: impl AsFd,
    bytes: &[u8],
    records: &[&[BorrowedFd<'_>]],
    is_out_of_band: bool,
) -> io::Result<usize> {
    let mut space: Vec<MaybeUninit<u8>> = Vec::new();
    for handles in records {
        let start = space.len();
        // With room for the padding, of 7 bytes at most.
        let room = (control::HEADER_BYTES + size_of_val(*handles)).next_multiple_of(8);
        space.resize(start + room, MaybeUninit::new(0));
        control::write(&mut space[start..], handles);
    }
    let part = IoSlice::new(bytes);
    let mut message = message_header();
    message.msg_iov = (&raw const part).cast_mut().cast();
    message.msg_iovlen = 1;
    message.msg_control = space.as_mut_ptr().cast();
    message.msg_controllen = space.len() as _;
    let out_of_band = if is_out_of_band { libc::MSG_OOB } else { 0 };
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | out_of_band;
    // SAFETY: `message` points to `part` and to `space`, which is initialized; both outlive the
    // call and are only read.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Has the kernel add the sender's credentials (`SCM_CREDENTIALS`) to what `socket` receives.
///
/// # Errors
///
/// The kernel's.
pub fn receive_credentials(socket: impl AsFd, is_on: bool) -> io::Result<()> {
    set_option(socket.as_fd(), libc::SO_PASSCRED, is_on)
}

/// Has the kernel add a descriptor of the sending process (`SCM_PIDFD`) to what `socket` receives.
///
/// # Errors
///
/// The kernel's: `ENOPROTOOPT` before Linux 6.5.
pub fn receive_pidfds(socket: impl AsFd, is_on: bool) -> io::Result<()> {
    const SO_PASSPIDFD: c_int = 76; // On all architectures but SPARC and PA-RISC.
    set_option(socket.as_fd(), SO_PASSPIDFD, is_on)
}

/// Whether the write end of a pipe, or all of its duplicates, are closed. Tells of each leaked
/// duplicate, in any process and even in flight, where counting descriptors would disturb other
/// threads.
///
/// # Errors
///
/// The kernel's.
pub fn is_hung_up(pipe: impl AsFd) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: pipe.as_fd().as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: `poll` is one valid pollfd; a timeout of zero does not block.
    check(unsafe { libc::poll(&raw mut poll, 1, 0) })?;
    Ok(poll.revents & libc::POLLHUP != 0)
}

fn check(result: c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
