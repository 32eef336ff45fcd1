//! What Linux has and other Unix systems lack.
#![allow(unsafe_code)] // System calls, and the environment, for which std has no safe function.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use handle_passing::{Handle, HandleKind};
use nix::sys::socket::{getsockopt, sockopt};

use super::unix::named::is_same_user;
use crate::PeerIdentity;

/// What fits into an address beside `/proc/self/fd/NUMBER/` and a NUL.
pub(crate) const PATH_BYTES_MAX: usize = 82;

/// Whether a name is reached through its open directory, whose path may then be of any length.
pub(crate) const NAMES_FROM_DIRECTORY: bool = true;

pub(super) const HAS_ABSTRACT_NAMES: bool = true;

/// A path to a file in an open directory, which nobody can bend.
pub(super) fn place_in(directory: &BorrowedFd<'_>, _path: &Path, name: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name)
}

/// The mode that the file gets when the socket is bound.
pub(super) fn set_mode_before_bind(socket: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    Ok(nix::sys::stat::fchmod(socket, nix::sys::stat::Mode::from_bits_truncate(mode))?)
}

pub(super) fn peer_identity(socket: BorrowedFd<'_>) -> io::Result<PeerIdentity> {
    let peer = getsockopt(&socket, sockopt::PeerCredentials)?;
    Ok(PeerIdentity {
        process_id: u32::try_from(peer.pid()).ok().filter(|process| *process != 0),
        user_id: Some(peer.uid()),
        group_id: Some(peer.gid()),
        is_same_user: is_same_user(Some(peer.uid())),
        process: peer_process(socket),
    })
}

/// A descriptor of the process, if it still exists and the kernel is 6.5 or later.
fn peer_process(socket: BorrowedFd<'_>) -> Option<Handle> {
    const SO_PEERPIDFD: libc::c_int = 77; // On all architectures but SPARC and PA-RISC.
    let mut number: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(size_of_val(&number)).ok()?;
    // SAFETY: `number` has room for `length` bytes, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    if result == -1 || number < 0 {
        return None;
    }
    // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows it.
    let process = unsafe { OwnedFd::from_raw_fd(number) };
    Some(Handle::from(process).announced(HandleKind::Process))
}

/// Marks all descriptors from this one on as close-on-exec. For between fork and exec.
pub(super) fn close_on_exec_from(first: i32) {
    let (first, flags) = (first.cast_unsigned(), libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: the call takes no pointers, is async-signal-safe, and closes nothing before an exec.
    // A kernel before 5.11 refuses it: what its opener has not marked is inherited there.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) };
}

/// Takes variables out of the environment, so that no child inherits them, unless another thread
/// runs already, since it might be reading the environment.
pub(super) fn remove_variables<'a>(names: impl Iterator<Item = &'a str>) {
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1);
    if alone {
        for name in names {
            #[allow(clippy::disallowed_methods, reason = "this is the only thread")]
            // SAFETY: this is the only thread, so nobody reads or writes the environment now.
            unsafe {
                std::env::remove_var(name)
            };
        }
    }
}
