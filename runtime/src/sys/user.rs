//! The system's list of users.

use std::ffi::CString;
use std::io;

use nix::unistd::{User as Entry, getegid, geteuid};

use super::groups::getgrouplist;

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All that it is a member of.
    pub(crate) groups: Vec<u32>,
}

/// Who this process is.
pub(crate) fn user_and_group() -> (u32, u32) {
    (geteuid().as_raw(), getegid().as_raw())
}

/// The user of this name.
pub(crate) fn user(name: &str) -> io::Result<Option<User>> {
    let Some(entry) = Entry::from_name(name)? else { return Ok(None) };
    let groups = getgrouplist(&CString::new(name)?, entry.gid)?;
    let groups = groups.into_iter().map(|group| group.as_raw()).collect();
    Ok(Some(User { uid: entry.uid.as_raw(), gid: entry.gid.as_raw(), groups }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_its_ids_and_groups_and_a_stranger_has_none() {
        let root = user("root").unwrap().expect("every system has it");
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        assert_eq!(user("no such user").unwrap(), None);
        assert_eq!(user("").unwrap(), None);
    }
}
