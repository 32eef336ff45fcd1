//! Stands in for `linux.rs` where the system has less. Type-checked only, so far.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use super::unix::named::is_same_user;
use crate::PeerIdentity;

/// What fits into an address beside a NUL.
pub(crate) const PATH_BYTES_MAX: usize = 103;

/// Whether a name is reached through its open directory.
pub(crate) const NAMES_FROM_DIRECTORY: bool = false;

pub(super) const HAS_ABSTRACT_NAMES: bool = false;

/// The path as it was given: who can rename what is above the directory can bend it.
pub(super) fn place_in(_directory: &BorrowedFd<'_>, path: &Path, name: &Path) -> PathBuf {
    path.join(name)
}

/// The file's mode is set after the socket is bound, and before it listens.
pub(super) fn set_mode_before_bind(_socket: BorrowedFd<'_>, _mode: u32) -> io::Result<()> {
    Ok(())
}

pub(super) fn peer_identity(socket: BorrowedFd<'_>) -> io::Result<PeerIdentity> {
    let (user, group) = nix::unistd::getpeereid(socket)?;
    Ok(PeerIdentity {
        process_id: None,
        user_id: Some(user.as_raw()),
        group_id: Some(group.as_raw()),
        is_same_user: is_same_user(Some(user.as_raw())),
        process: None,
    })
}

pub(super) fn close_on_exec_from(_first: i32) {}

pub(super) fn remove_variables<'a>(_names: impl Iterator<Item = &'a str>) {}
