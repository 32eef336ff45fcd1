//! Linux.
#![allow(unsafe_code)] // system calls that no safe wrapper offers

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll, ppoll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, setsockopt, shutdown, socketpair,
    sockopt,
};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::geteuid;

use super::timer::Timer;
use crate::clock::time_left;
use crate::exit::Exit;

pub(crate) use libc::{EADDRINUSE, EDQUOT, EMFILE, ENOTCONN, SIGKILL, SIGTERM};

/// What the kernel charges a mailbox for one message: a socket buffer with a short payload.
/// Measured on 6.18 (278 messages fit the default of 212,992 bytes); older kernels charge within a
/// tenth of it.
const MESSAGE_CHARGE_BYTES: usize = 768;

/// The path that these bytes are.
pub(crate) fn path_from_bytes(bytes: &[u8]) -> Option<PathBuf> {
    Some(PathBuf::from(OsStr::from_bytes(bytes)))
}

/// A child process, held by its pidfd: readable when it has ended, never another process.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    pidfd: OwnedFd,
    /// The tick in which we have collected it; 0 if we have not.
    collected_at: AtomicU64,
}

impl Process {
    /// A child that nobody has waited for, and its pidfd.
    pub(super) fn new(pid: u32, pidfd: OwnedFd) -> Process {
        Process { pid, pidfd, collected_at: AtomicU64::new(0) }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal; `false` if it has ended and was collected.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<bool> {
        match pidfd_signal(self.as_fd(), signal, 0) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        let mut ended = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut ended, PollTimeout::ZERO) {
                Err(Errno::EINTR) => {}
                result => return result == Ok(0),
            }
        }
    }

    /// Waits until it has ended, the timer rings, or the deadline is there.
    pub(crate) fn wait_until(
        &self,
        timer: Option<&Timer>,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let descriptors = [Some(self.pidfd.as_fd()), timer.map(AsFd::as_fd)];
        let descriptors = descriptors.into_iter().flatten();
        let mut ready: Vec<_> = descriptors.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        loop {
            let timeout = deadline.map(|deadline| TimeSpec::from_duration(time_left(deadline)));
            match ppoll(&mut ready, timeout, None) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Waits for the end of a process that was killed, and collects it.
    pub(crate) fn wait(&self) {
        let flags = WaitPidFlag::WEXITED;
        while waitid(Id::PIDFd(self.pidfd.as_fd()), flags) == Err(Errno::EINTR) {}
    }

    /// The tick of [`ticks`] in which this process has collected it, 0 if it has not: since then
    /// its number may be another's.
    pub(super) fn collected_at(&self) -> u64 {
        self.collected_at.load(Ordering::Acquire)
    }

    /// Collects the status if the process has ended.
    pub(crate) fn reap(&self) -> io::Result<Option<Exit>> {
        let pidfd = libc::id_t::try_from(self.pidfd.as_raw_fd()).map_err(io::Error::other)?;
        let flags = libc::WEXITED | libc::WNOHANG;
        // nix, which could do this, knows no real-time signals.
        // SAFETY: all zeros are a siginfo_t, in which the process id is 0 for "none has ended".
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let now = ticks();
        let result = loop {
            // SAFETY: waitid writes one siginfo_t, to `info`, which outlives the call.
            let result = unsafe { libc::waitid(libc::P_PIDFD, pidfd, &mut info, flags) };
            match Errno::result(result) {
                Err(Errno::EINTR) => {}
                result => break result,
            }
        };
        match result {
            Ok(_) => {}
            Err(Errno::ECHILD) => return Ok(Some(Exit::Unknown)),
            Err(error) => return Err(error.into()),
        }
        // SAFETY: waitid fills in the fields of a child's end, or leaves zeros.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid != 0 {
            self.collected_at.store(now, Ordering::Release);
        }
        Ok(match info.si_code {
            _ if pid == 0 => None,
            libc::CLD_EXITED => Some(Exit::Code(status)),
            code => Some(Exit::Signal { signal: status, core_dumped: code == libc::CLD_DUMPED }),
        })
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

source_by_descriptor!(
    /// Readable when it has ended.
    &Process
);

/// Sends a signal, 0 for none, to the process that this pidfd holds; or with
/// [`libc::PIDFD_SIGNAL_PROCESS_GROUP`] to the group that it has begun.
pub(super) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32, flags: u32) -> Result<(), Errno> {
    // SAFETY: pidfd_send_signal takes an open pidfd, a signal number, no siginfo, and flags, and
    // touches no memory of ours.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            flags,
        )
    };
    Errno::result(result).map(drop)
}

pub(super) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes a pid and no flags, and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(fd)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the call succeeded, so `fd` is open and nobody else's (and close-on-exec).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The time since the system's start, in those ticks in which `/proc` tells when a process began.
fn ticks() -> u64 {
    /// `USER_HZ`, the same on all systems.
    const TICKS_A_SECOND: u64 = 100;
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    let now = now.map_or(Duration::ZERO, Duration::from);
    now.as_secs() * TICKS_A_SECOND + u64::from(now.subsec_millis()) * TICKS_A_SECOND / 1000
}

/// Whether this process may become any user.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// The two ends of a mailbox for about `connections` connections: what is sent on the first comes
/// out of the second, message by message.
pub(crate) fn mailbox_pair(connections: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (sender, receiver) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    // The kernel doubles the value, for its own overhead, which the charge already counts.
    let bytes = connections.saturating_mul(MESSAGE_CHARGE_BYTES) / 2;
    setsockopt(&sender, sockopt::SndBuf, &bytes)?;
    // The worker that gets the receiving end has nothing to say here.
    shutdown(receiver.as_raw_fd(), Shutdown::Write)?;
    Ok((sender, receiver))
}

/// How many bytes wait to be received from this socket.
pub(crate) fn waiting_bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, to `bytes`, which outlives the call.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &mut bytes) })?;
    usize::try_from(bytes).map_err(io::Error::other)
}

/// Copies the first bytes that have come on a connection, without taking them.
pub(crate) fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    Ok(recv(socket.as_raw_fd(), buffer, flags)?)
}

/// Raises the soft limit of open descriptors to the hard one; says the limit.
pub(crate) fn raise_descriptor_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Whether this error says that something ran out that comes back.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOBUFS)
    )
}

/// What a failure to accept means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptFailure {
    /// The backlog is empty.
    Empty,
    /// This connection is gone; the next may be well.
    Retry,
    /// There is no descriptor for it.
    NoDescriptor,
    /// There is no memory, or the listener itself is broken.
    Pause,
}

/// Sorts the errors of accept(2); Linux also reports network errors of the new connection there.
pub(crate) fn accept_failure(error: &io::Error) -> AcceptFailure {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => AcceptFailure::Empty,
        Some(libc::EMFILE | libc::ENFILE) => AcceptFailure::NoDescriptor,
        Some(
            libc::EINTR
            | libc::ECONNABORTED
            | libc::EPROTO
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::ETIMEDOUT,
        ) => AcceptFailure::Retry,
        _ => AcceptFailure::Pause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f04_every_errno_of_accept_has_a_meaning() {
        let sort = |errno| accept_failure(&io::Error::from_raw_os_error(errno));
        assert_eq!(sort(libc::EWOULDBLOCK), AcceptFailure::Empty);
        for errno in [libc::ECONNABORTED, libc::EPROTO, libc::EPERM, libc::EINTR] {
            assert_eq!(sort(errno), AcceptFailure::Retry, "{errno}");
        }
        for errno in [libc::EMFILE, libc::ENFILE] {
            assert_eq!(sort(errno), AcceptFailure::NoDescriptor, "{errno}");
        }
        for errno in [libc::ENOMEM, libc::ENOBUFS, libc::EBADF, libc::EINVAL, libc::ENOTSOCK] {
            assert_eq!(sort(errno), AcceptFailure::Pause, "{errno}");
        }
    }
}
