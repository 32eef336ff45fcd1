//! Keeps all that happens on one processor.

use nix::Result;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// While it lives, this thread, and every process that it starts, runs on one processor only.
#[derive(Debug)]
pub(crate) struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// Chooses the last of the processors that this thread may use: the first often has more to do
    /// for the system.
    pub(crate) fn new() -> Result<Pinned> {
        let before = sched_getaffinity(THIS_THREAD)?;
        let usable = |cpu: &usize| before.is_set(*cpu).unwrap_or(false);
        let mut one = CpuSet::new();
        one.set((0..CpuSet::count()).rev().find(usable).unwrap_or(0))?;
        sched_setaffinity(THIS_THREAD, &one)?;
        Ok(Pinned { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It could be set before; if not, what follows is only slower.
        let _ = sched_setaffinity(THIS_THREAD, &self.before);
    }
}

const THIS_THREAD: Pid = Pid::from_raw(0);
