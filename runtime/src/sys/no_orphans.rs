//! Systems on which the orphans of children can't be got.

use std::io;

use super::Process;

/// Becomes the parent of descendants whose parents end.
pub(crate) fn become_subreaper() -> io::Result<()> {
    let text = "only Linux lets a process become the parent of orphans; leave it out";
    Err(io::Error::new(io::ErrorKind::Unsupported, text))
}

/// There is no use for it.
pub(crate) fn own_session() -> u32 {
    0
}

/// There is no use for it.
pub(crate) fn own_start() -> u64 {
    0
}

/// None.
pub(crate) fn orphans(_is_orphan: impl Fn(u32, &str) -> bool) -> Vec<Process> {
    Vec::new()
}
