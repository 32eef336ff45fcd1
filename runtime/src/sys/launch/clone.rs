//! Linux: clone(2), and what its child does by calls that other systems lack.
#![allow(unsafe_code)] // clone, and system calls in its child

use std::cell::Cell;
use std::ffi::{c_int, c_long, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::{Mutex, PoisonError};

// On these, the plain calls take ids of 16 bits.
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
use libc::{SYS_setgid, SYS_setgroups, SYS_setuid};
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
use libc::{
    SYS_setgid32 as SYS_setgid, SYS_setgroups32 as SYS_setgroups, SYS_setuid32 as SYS_setuid,
};
use nix::errno::Errno;

use crate::process::launch::Limit;
use crate::sys::Process;

/// How many processors a set of them can hold.
pub(crate) const CPUS_MAX: usize = libc::CPU_SETSIZE as usize;

/// The largest number of a signal.
pub(crate) const SIGNAL_MAX: i32 = 64;

/// For the child's few calls, in lines of 16 bytes, as a stack must be aligned. It lies in the
/// parent's stack, which is in memory already.
const STACK_LINES: usize = (16 << 10) / size_of::<StackLine>();

type StackLine = MaybeUninit<u128>;

/// All signals, as the kernel takes them.
type SignalSet = u64;

struct Start<'a, F> {
    run: &'a dyn Fn() -> F,
    failure: Cell<Option<F>>,
}

/// Runs this in a new process, which becomes another program, or says why not, and is gone then.
pub(in crate::sys) fn start<F: Copy>(
    changes_ids: bool,
    _descriptors_end: RawFd,
    run: &dyn Fn() -> F,
) -> io::Result<Result<Process, F>> {
    let _dumpable = changes_ids.then(Dumpable::keep);
    start_in_our_memory(run)
}

/// Keeps this process dumpable, that is: as it was in /proc, for debuggers, and for core files.
///
/// The kernel takes that away from memory whose process becomes another user, so that this user
/// can't look into it; and the memory of a child is its parent's until it executes a program. It is
/// given back when no such child is left.
struct Dumpable;

/// How many such children there are, and how it was before the first.
static DUMPABLE: Mutex<(usize, c_int)> = Mutex::new((0, 0));

impl Dumpable {
    fn keep() -> Dumpable {
        let mut kept = DUMPABLE.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0 == 0 {
            // SAFETY: PR_GET_DUMPABLE takes no memory.
            kept.1 = unsafe { libc::prctl(libc::PR_GET_DUMPABLE) };
        }
        kept.0 += 1;
        Dumpable
    }
}

impl Drop for Dumpable {
    fn drop(&mut self) {
        let mut kept = DUMPABLE.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0 -= 1;
        if kept.0 == 0 {
            // SAFETY: PR_SET_DUMPABLE takes no memory; it refuses what can't be set.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, kept.1) };
        }
    }
}

fn start_in_our_memory<F: Copy>(function: &dyn Fn() -> F) -> io::Result<Result<Process, F>> {
    let start = Start { run: function, failure: Cell::new(None) };
    let mut stack = [StackLine::uninit(); STACK_LINES];
    let mut pidfd: RawFd = -1;
    let blocked = set_signals(to_block());
    // SAFETY: the stack ends at the given address, which is aligned, and outlives the child's use
    // of it: with CLONE_VFORK the call returns when the child has executed a program or ended. For
    // so long, `start` stays in place too, and this thread does not touch it. The child's function
    // neither unwinds nor returns into frames of this stack; no signal handler runs in it, since
    // all signals that have one are blocked until it is gone. `pidfd` is where the kernel writes
    // the descriptor before the call returns.
    let pid = unsafe {
        let top = stack.as_mut_ptr_range().end.cast();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        let argument = (&raw const start).cast_mut().cast();
        libc::clone(run::<F>, top, flags, argument, &raw mut pidfd)
    };
    let pid = Errno::result(pid);
    set_signals(blocked);
    let pid = pid?;
    if pidfd == -1 {
        return Err(too_old(pid));
    }
    // SAFETY: the kernel has just opened it, close-on-exec, for nobody else.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let process = Process::new(pid.cast_unsigned(), pidfd);
    Ok(match start.failure.get() {
        None => Ok(process),
        Some(failure) => {
            process.wait();
            Err(failure)
        }
    })
}

extern "C" fn run<F>(start: *mut c_void) -> c_int {
    // SAFETY: it is the `Start` of the thread that waits.
    let start = unsafe { &*start.cast::<Start<'_, F>>() };
    start.failure.set(Some((start.run)()));
    127
}

/// Before Linux 5.2, the flag does nothing.
fn too_old(pid: libc::pid_t) -> io::Error {
    // SAFETY: neither call touches memory of ours; the child was not collected yet.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, ptr::null_mut(), 0);
    }
    let text = "this kernel has no CLONE_PIDFD; use Linux 5.4 or later";
    io::Error::new(io::ErrorKind::Unsupported, text)
}

/// All signals, but for SIGCHLD if nobody handles it: for a thread that blocks it, the end of
/// another child is a signal that waits, and calls of other threads are interrupted to take it.
fn to_block() -> SignalSet {
    // SAFETY: all zeros are a sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: sigaction writes one struct, which outlives the call.
    unsafe { libc::sigaction(libc::SIGCHLD, ptr::null(), &raw mut action) };
    match action.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => !(1 << (libc::SIGCHLD - 1)),
        _ => SignalSet::MAX,
    }
}

/// The C library's own function leaves out two signals of its own.
fn set_signals(set: SignalSet) -> SignalSet {
    let mut old: SignalSet = 0;
    // SAFETY: the kernel reads one set and writes another, of the given size; both outlive it.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const set,
            &raw mut old,
            size_of::<SignalSet>(),
        )
    };
    old
}

pub(in crate::sys) fn unblock_signals() {
    set_signals(0);
}

/// What this process ignores would be ignored by the program too, which could then be deaf to
/// SIGTERM, or not wait for its own children.
pub(in crate::sys) fn reset_signals() {
    // The kernel's sigaction, which all zeros are the default of, is at most so long.
    let default = [0_u64; 8];
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: the kernel reads a sigaction, and a set of the given size in it. It fails,
        // without effect, for those signals that can't be changed.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null_mut::<c_void>(),
                size_of::<SignalSet>(),
            )
        };
    }
}

/// 0 is the process that writes it.
pub(in crate::sys) fn join(processes: &OwnedFd) -> i32 {
    // SAFETY: write reads one byte, which is there.
    let written = unsafe { libc::write(processes.as_raw_fd(), b"0".as_ptr().cast(), 1) };
    if written == 1 { 0 } else { -1 }
}

pub(in crate::sys) fn limit(resource: i32, limit: &Limit) -> c_long {
    let limit = libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard };
    let old = ptr::null_mut::<libc::rlimit64>();
    // SAFETY: the kernel reads one struct, which outlives the call; 0 is the calling process.
    unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, old) }
}

pub(in crate::sys) type Processors = libc::cpu_set_t;

pub(in crate::sys) fn processors(numbers: &[usize]) -> Processors {
    // SAFETY: all zeros are an empty set.
    let mut set: Processors = unsafe { std::mem::zeroed() };
    for number in numbers.iter().filter(|number| **number < CPUS_MAX) {
        // SAFETY: the number is within the set.
        unsafe { libc::CPU_SET(*number, &mut set) };
    }
    set
}

pub(in crate::sys) fn set_processors(cpus: &Processors) -> i32 {
    // SAFETY: sched_setaffinity reads a set of the given size, which outlives the call; 0 is the
    // calling thread, the only one.
    unsafe { libc::sched_setaffinity(0, size_of_val(cpus), cpus) }
}

pub(in crate::sys) fn set_groups(groups: &[libc::gid_t]) -> c_long {
    // SAFETY: setgroups reads so many group ids, which outlive the call.
    unsafe { libc::syscall(SYS_setgroups, groups.len(), groups.as_ptr()) }
}

pub(in crate::sys) fn set_gid(gid: libc::gid_t) -> c_long {
    // SAFETY: setgid takes no memory.
    unsafe { libc::syscall(SYS_setgid, gid) }
}

pub(in crate::sys) fn set_uid(uid: libc::uid_t) -> c_long {
    // SAFETY: setuid takes no memory.
    unsafe { libc::syscall(SYS_setuid, uid) }
}

/// Marks a range of descriptors, open or not, both ends included.
pub(in crate::sys) fn close_on_exec(first: RawFd, last: Option<RawFd>) {
    let upto = last.map_or(u32::MAX, RawFd::cast_unsigned);
    // SAFETY: close_range takes no memory.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, first.cast_unsigned(), upto, libc::CLOSE_RANGE_CLOEXEC)
    };
    if result == 0 {
        return;
    }
    // Before Linux 5.11.
    close_each_on_exec(first, last);
}

/// One by one, of those that are open: the limit of open files says nothing, neither of how many
/// they are, nor of those that were opened before it was lowered.
fn close_each_on_exec(first: RawFd, last: Option<RawFd>) {
    // What getdents64(2) writes is aligned like its first field.
    let mut entries = [0_u64; 128];
    // SAFETY: the path is a string that ends with a zero byte.
    let directory = unsafe {
        libc::open(c"/proc/self/fd".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC)
    };
    loop {
        let (to, size) = (entries.as_mut_ptr(), size_of_val(&entries));
        // SAFETY: the kernel writes at most so many bytes there.
        let written = unsafe { libc::syscall(libc::SYS_getdents64, directory, to, size) };
        let Ok(written @ 1..) = usize::try_from(written) else { break };
        // SAFETY: these bytes of the array were written; a number has no invalid ones.
        let bytes = unsafe { std::slice::from_raw_parts(entries.as_ptr().cast::<u8>(), written) };
        for descriptor in numbers_in(bytes) {
            if descriptor >= first && last.is_none_or(|last| descriptor <= last) {
                // SAFETY: F_SETFD takes no memory.
                unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
            }
        }
    }
    // SAFETY: it is this function's, if it is open.
    unsafe { libc::close(directory) };
}

/// The numbers that are names in such entries: an inode, an offset, the entry's length as 16 bits,
/// a type, the name, zeros. It can't panic, which a child may not.
fn numbers_in(mut entries: &[u8]) -> impl Iterator<Item = RawFd> {
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(*entries.get(16..)?.first_chunk()?);
        let (entry, rest) = entries.split_at_checked(length.max(1).into())?;
        entries = rest;
        let name = entry.get(19..)?.iter().take_while(|byte| **byte != 0);
        let digit = |byte: &u8| byte.is_ascii_digit().then(|| RawFd::from(byte - b'0'));
        let number = name
            .copied()
            .try_fold(0_i32, |number, byte| number.checked_mul(10)?.checked_add(digit(&byte)?));
        // The directory itself and its parent are no numbers.
        Some(number)
    })
    .flatten()
}
