//! The groups of a user.
#![allow(unsafe_code)] // a call that no safe wrapper offers

use std::ffi::CStr;
use std::io;

use nix::unistd::Gid;

pub(super) fn getgrouplist(user: &CStr, group: Gid) -> io::Result<Vec<Gid>> {
    // More than the system lets a user have.
    let (mut groups, mut count) = ([0; 1024], 1024);
    let group = group.as_raw().cast_signed();
    // SAFETY: `user` ends with a zero byte; `groups` has room for so many as `count` says; both
    // outlive the call.
    let result =
        unsafe { libc::getgrouplist(user.as_ptr(), group, groups.as_mut_ptr(), &raw mut count) };
    if result == -1 {
        return Err(io::Error::other("the user is in too many groups"));
    }
    let count = usize::try_from(count).map_err(io::Error::other)?;
    Ok(groups[..count].iter().map(|group| Gid::from_raw(group.cast_unsigned())).collect())
}
