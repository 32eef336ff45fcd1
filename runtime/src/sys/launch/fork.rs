//! Systems without clone(2): fork(2), and what its child does by calls that differ.
//!
//! The child has a copy of this process's memory, so that it may use the C library's functions as
//! far as they are safe in signal handlers.
#![allow(unsafe_code)] // fork, and system calls in its child

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};

use crate::process::Resource;
use crate::process::launch::Limit;
use crate::sys::Process;

/// How many processors a set of them could hold.
pub(crate) const CPUS_MAX: usize = 1024;

/// The largest number of a signal.
pub(crate) const SIGNAL_MAX: i32 = 31;

/// What the child leaves behind that could not execute its program, in memory of both processes.
struct Failure<F>(NonNull<Option<F>>);

impl<F: Copy> Failure<F> {
    fn new() -> io::Result<Failure<F>> {
        let (bytes, access) = (size_of::<Option<F>>(), libc::PROT_READ | libc::PROT_WRITE);
        let kind = libc::MAP_SHARED | libc::MAP_ANON;
        // SAFETY: new memory, wherever the system wants it to be.
        let memory = unsafe { libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast::<Option<F>>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: it begins with a page, has room for one, and nobody else knows it.
        unsafe { memory.write(None) };
        Ok(Failure(memory))
    }

    fn set(&self, failure: F) {
        // SAFETY: it is mapped, and only the child writes to it.
        unsafe { self.0.write_volatile(Some(failure)) };
    }

    /// After the child's end.
    fn get(&self) -> Option<F> {
        // SAFETY: it is mapped, and nobody writes to it any more.
        unsafe { self.0.read_volatile() }
    }
}

impl<F> Drop for Failure<F> {
    fn drop(&mut self) {
        // SAFETY: it was mapped like this, and is not used any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<Option<F>>()) };
    }
}

/// Runs this in a new process, which becomes another program, or says why not, and is gone then.
/// What it needs below `descriptors_end` it puts there itself.
pub(in crate::sys) fn start<F: Copy>(
    _changes_ids: bool,
    descriptors_end: RawFd,
    run: &dyn Fn() -> F,
) -> io::Result<Result<Process, F>> {
    let failure = Failure::new()?;
    let (reader, writer) = io::pipe()?;
    // Out of the way of what the child puts in place. It is closed by the program's start.
    // SAFETY: F_DUPFD_CLOEXEC takes no memory.
    let above = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_DUPFD_CLOEXEC, descriptors_end) };
    // SAFETY: the call has just opened it for us, if it has not failed.
    let above = Errno::result(above).map(|number| unsafe { OwnedFd::from_raw_fd(number) })?;
    drop(writer);
    let blocked = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: the child makes system calls only, with what was prepared for it, and ends itself.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        failure.set(run());
        // SAFETY: the call takes no memory, and runs nothing of this process.
        unsafe { libc::_exit(127) };
    }
    let pid = Errno::result(pid);
    blocked.thread_set_mask()?;
    drop(above);
    let pid = pid?;
    // Its end comes when the child is another program, or has ended.
    let _ = File::from(OwnedFd::from(reader)).read_to_end(&mut Vec::new());
    let process = Process::new(pid)?;
    Ok(match failure.get() {
        None => Ok(process),
        Some(failure) => {
            process.wait();
            Err(failure)
        }
    })
}

pub(in crate::sys) fn unblock_signals() {
    let _ = SigSet::empty().thread_set_mask();
}

/// What this process ignores would be ignored by the program too, which could then be deaf to
/// SIGTERM, or not wait for its own children.
pub(in crate::sys) fn reset_signals() {
    // SAFETY: all zeros are a sigaction: the default, no flags, an empty mask.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: sigaction reads one struct, which outlives the call. It fails, without effect,
        // for those signals that can't be changed.
        unsafe { libc::sigaction(signal, &default, ptr::null_mut()) };
    }
}

/// There are no control groups.
pub(in crate::sys) fn join(_processes: &OwnedFd) -> i32 {
    Errno::ENOSYS.set();
    -1
}

#[allow(clippy::unnecessary_cast, reason = "systems differ in the type")]
pub(in crate::sys) fn limit(resource: i32, limit: &Limit) -> i32 {
    let number = |number| match number {
        Resource::UNLIMITED => libc::RLIM_INFINITY,
        number => number as libc::rlim_t,
    };
    let limit = libc::rlimit { rlim_cur: number(limit.soft), rlim_max: number(limit.hard) };
    // SAFETY: the kernel reads one struct, which outlives the call.
    unsafe { libc::setrlimit(resource, &raw const limit) }
}

pub(in crate::sys) type Processors = ();

pub(in crate::sys) fn processors(_numbers: &[usize]) -> Processors {}

/// They can't be chosen.
pub(in crate::sys) fn set_processors((): &Processors) -> i32 {
    Errno::ENOSYS.set();
    -1
}

pub(in crate::sys) fn set_groups(groups: &[libc::gid_t]) -> i32 {
    let Ok(count) = groups.len().try_into() else {
        Errno::EINVAL.set();
        return -1;
    };
    // SAFETY: setgroups reads so many group ids, which outlive the call.
    unsafe { libc::setgroups(count, groups.as_ptr()) }
}

pub(in crate::sys) fn set_gid(gid: libc::gid_t) -> i32 {
    // SAFETY: setgid takes no memory.
    unsafe { libc::setgid(gid) }
}

pub(in crate::sys) fn set_uid(uid: libc::uid_t) -> i32 {
    // SAFETY: setuid takes no memory.
    unsafe { libc::setuid(uid) }
}

/// Marks a range of descriptors, open or not, both ends included.
pub(in crate::sys) fn close_on_exec(first: RawFd, last: Option<RawFd>) {
    // SAFETY: neither call takes memory of ours.
    unsafe {
        for descriptor in first..=last.unwrap_or_else(|| libc::getdtablesize()) {
            libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}
