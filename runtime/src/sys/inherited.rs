//! Descriptors that this process was started with.
#![allow(unsafe_code)] // They are known by their numbers, which no safe function takes.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// A duplicate, close-on-exec, of a descriptor that this process was started with.
///
/// One that is close-on-exec was not there at the start, but is somebody's in this process.
pub(crate) fn inherited_descriptor(number: u32) -> io::Result<OwnedFd> {
    let missing = |why: &str| {
        let reason = format!("descriptor {number} {why}");
        io::Error::new(io::ErrorKind::NotFound, reason)
    };
    let not_open = || missing("is not open: pass it on to this process when you start it");
    let number = RawFd::try_from(number).map_err(|_| not_open())?;
    // SAFETY: F_GETFD takes no memory of ours; of a number that is not open it is an error.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    let flags = Errno::result(flags).map_err(|_| not_open())?;
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(missing(
            "was opened by this process and is not inherited: if it may be listened on, take its \
             close-on-exec flag away",
        ));
    }
    // SAFETY: F_DUPFD_CLOEXEC takes no memory of ours, and opens a new descriptor.
    let duplicate = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    let duplicate = Errno::result(duplicate)?;
    // SAFETY: the call succeeded, so `duplicate` is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}
