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
        pin_to(usable(&before).next_back())?;
        Ok(Pinned { before })
    }

    /// Does something on the first of the processors instead, such as to start a process.
    #[allow(dead_code, reason = "not all benches put two processes apart")]
    pub(crate) fn elsewhere<T>(&self, f: impl FnOnce() -> T) -> Result<T> {
        pin_to(usable(&self.before).next())?;
        let result = f();
        pin_to(usable(&self.before).next_back())?;
        Ok(result)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It could be set before; if not, what follows is only slower.
        let _ = sched_setaffinity(THIS_THREAD, &self.before);
    }
}

fn usable(set: &CpuSet) -> impl DoubleEndedIterator<Item = usize> {
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false))
}

fn pin_to(processor: Option<usize>) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(processor.unwrap_or(0))?;
    sched_setaffinity(THIS_THREAD, &one)
}

const THIS_THREAD: Pid = Pid::from_raw(0);
