//! Systems with kqueue(2), which tells of the ends of processes, and of timers. A queue is a
//! descriptor that is readable when it has something to tell; nobody takes that from it.
#![allow(unsafe_code)] // waitpid and kill, whose answers no safe wrapper gives as they are

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::event::{EvFlags, EventFilter, FilterFlag, KEvent, Kqueue};

use crate::clock::time_left;
use crate::exit::Exit;
use crate::process::descendants::Lineage;

/// A child process: readable when it has ended, never another process.
#[derive(Debug)]
pub(crate) struct Process {
    pid: libc::pid_t,
    end: Kqueue,
    /// As long as it was not collected, the number is its own.
    exit: Mutex<Option<Exit>>,
}

impl Process {
    /// A child that nobody has waited for; kills it if that fails.
    pub(super) fn new(pid: libc::pid_t) -> io::Result<Process> {
        match watch(pid) {
            Ok(end) => Ok(Process { pid, end, exit: Mutex::default() }),
            Err(error) => {
                let mut status = 0;
                // SAFETY: the number is our child's; waitpid writes one number, to `status`.
                unsafe {
                    libc::kill(pid, libc::SIGKILL);
                    libc::waitpid(pid, &raw mut status, 0);
                }
                Err(error)
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.cast_unsigned()
    }

    /// Sends a signal; `false` if it has ended and was collected.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<bool> {
        let exit = self.exit();
        if exit.is_some() {
            return Ok(false);
        }
        send(self.pid, signal)
    }

    /// Whether it has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        self.exit().is_none() && wait_readable(&[self.end.as_fd()], Some(Duration::ZERO)) == Ok(0)
    }

    /// Waits until it has ended, the timer rings, or the deadline is there.
    pub(crate) fn wait_until(
        &self,
        timer: Option<&Timer>,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let descriptors = [Some(self.as_fd()), timer.map(AsFd::as_fd)];
        let descriptors: Vec<_> = descriptors.into_iter().flatten().collect();
        wait_readable(&descriptors, deadline.map(time_left))?;
        Ok(())
    }

    /// Waits for the end of a process that was killed, and collects it.
    pub(super) fn wait(&self) {
        let mut exit = self.exit();
        while exit.is_none() {
            match collect(self.pid, 0) {
                Ok(collected) => *exit = collected,
                Err(_) => return,
            }
        }
    }

    /// Collects the status if the process has ended.
    pub(crate) fn reap(&self) -> io::Result<Option<Exit>> {
        let mut exit = self.exit();
        if exit.is_none() {
            *exit = collect(self.pid, libc::WNOHANG)?;
        }
        Ok(*exit)
    }

    fn exit(&self) -> MutexGuard<'_, Option<Exit>> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

source_by_descriptor!(
    /// Readable when it has ended.
    &Process
);

/// Has a queue tell of a child's end.
fn watch(pid: libc::pid_t) -> io::Result<Kqueue> {
    let queue = Kqueue::new()?;
    let ident = usize::try_from(pid).map_err(io::Error::other)?;
    let (filter, event) = (EventFilter::EVFILT_PROC, FilterFlag::NOTE_EXIT);
    let end = KEvent::new(ident, filter, EvFlags::EV_ADD, event, 0, 0);
    match queue.kevent(&[end], &mut [], None) {
        Ok(_) => {}
        // It has ended already: something else has to tell.
        Err(Errno::ESRCH) => set_timer(&queue, Duration::ZERO)?,
        Err(error) => return Err(error.into()),
    }
    Ok(queue)
}

fn collect(pid: libc::pid_t, flags: i32) -> io::Result<Option<Exit>> {
    let mut status = 0;
    // SAFETY: waitpid writes one number, to `status`, which outlives the call.
    let result = Errno::result(unsafe { libc::waitpid(pid, &raw mut status, flags) });
    match result {
        Ok(0) | Err(Errno::EINTR) => Ok(None),
        Ok(_) if libc::WIFSIGNALED(status) => Ok(Some(Exit::Signal {
            signal: libc::WTERMSIG(status),
            core_dumped: libc::WCOREDUMP(status),
        })),
        Ok(_) => Ok(Some(Exit::Code(libc::WEXITSTATUS(status)))),
        Err(Errno::ECHILD) => Ok(Some(Exit::Unknown)),
        Err(error) => Err(error.into()),
    }
}

/// Whether there is somebody of this number, or, if it is negative, of that group.
fn send(number: libc::pid_t, signal: i32) -> io::Result<bool> {
    // SAFETY: kill takes numbers only.
    match Errno::result(unsafe { libc::kill(number, signal) }) {
        Ok(_) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Signals a child and its group, if it was started with one of its own; what has left that is not
/// found here. Says whether there was anybody, as a number.
pub(crate) fn kill_tree(
    process: &Process,
    lineage: &Lineage,
    signal: i32,
    _orphan: impl FnMut(Process),
) -> io::Result<usize> {
    let is_there = if lineage.leads { send(-process.pid, signal) } else { process.signal(signal) };
    is_there.map(usize::from)
}

/// The longest delay, about 136 years.
const DELAY_MAX: Duration = Duration::from_secs(1 << 32);

/// A descriptor that becomes readable, once, after the delay that it is set to.
#[derive(Debug)]
pub(crate) struct Timer(Kqueue);

impl Timer {
    pub(crate) fn new() -> io::Result<Timer> {
        Ok(Timer(Kqueue::new()?))
    }

    /// Replaces the delay; `None` turns the timer off.
    pub(crate) fn set(&self, delay: Option<Duration>) -> io::Result<()> {
        let none = FilterFlag::empty();
        let off = KEvent::new(0, EventFilter::EVFILT_TIMER, EvFlags::EV_DELETE, none, 0, 0);
        match self.0.kevent(&[off], &mut [], None) {
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        delay.map_or(Ok(()), |delay| set_timer(&self.0, delay))
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

source_by_descriptor!(&Timer);

fn set_timer(queue: &Kqueue, delay: Duration) -> io::Result<()> {
    let micros = delay.min(DELAY_MAX).as_nanos().div_ceil(1000).max(1);
    let micros = isize::try_from(micros).map_err(io::Error::other)?;
    let (filter, flags) = (EventFilter::EVFILT_TIMER, EvFlags::EV_ADD | EvFlags::EV_ONESHOT);
    let timer = KEvent::new(0, filter, flags, FilterFlag::NOTE_USECONDS, micros, 0);
    queue.kevent(&[timer], &mut [], None)?;
    Ok(())
}

/// How many of them are readable, at the latest after that time.
fn wait_readable(descriptors: &[BorrowedFd<'_>], time: Option<Duration>) -> Result<i32, Errno> {
    let entries = descriptors.iter().map(|each| PollFd::new(*each, PollFlags::POLLIN));
    let mut entries: Vec<_> = entries.collect();
    // Rounded up, so that a caller whose time is not quite over does not spin.
    let millis = time.map(|time| i32::try_from(time.as_nanos().div_ceil(1_000_000)));
    let timeout = millis.map(|millis| PollTimeout::try_from(millis.unwrap_or(i32::MAX)));
    match poll(&mut entries, timeout.and_then(Result::ok).unwrap_or(PollTimeout::NONE)) {
        // The caller looks, and waits again.
        Err(Errno::EINTR) => Ok(0),
        result => result,
    }
}
