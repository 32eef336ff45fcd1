//! The groups of a user.

pub(super) use nix::unistd::getgrouplist;
