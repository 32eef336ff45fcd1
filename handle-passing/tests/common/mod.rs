//! What the test binaries share.
#![allow(dead_code, reason = "each binary uses some of it")]

use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use handle_passing::{RecvError, fuzzing};
use nix::sys::pthread::{Pthread, pthread_self};

/// After which a test fails instead of hanging.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Serialises the tests of a binary, and checks that each leaves as many descriptors as it found.
pub(crate) struct Ledger {
    before: usize,
    _guard: MutexGuard<'static, ()>,
}

impl Ledger {
    pub(crate) fn open() -> Self {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        Self { before: descriptors(), _guard: guard }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if !thread::panicking() {
            assert_eq!(descriptors(), self.before, "descriptors are left over");
        }
    }
}

/// How many descriptors this process has open.
pub(crate) fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A pipe whose write end is sent around: the read end tells when no duplicate is left anywhere.
pub(crate) struct Probe {
    reader: PipeReader,
    writer: PipeWriter,
}

impl Probe {
    pub(crate) fn new() -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        Self { reader, writer }
    }

    /// The handle to send.
    pub(crate) fn handle(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    /// Closes our own copy, and tells whether it was the last.
    pub(crate) fn released(self) -> bool {
        fuzzing::is_hung_up(self.into_reader()).unwrap()
    }

    /// Closes our own copy.
    pub(crate) fn into_reader(self) -> PipeReader {
        self.reader
    }
}

/// Two connected sockets. They time out, so that no test hangs.
///
/// For a seqpacket socket too the type is `UnixStream`, only as the owner that has time-outs.
pub(crate) fn pair(kind: Kind) -> (UnixStream, UnixStream) {
    let (ours, theirs) = match kind {
        Kind::Stream => UnixStream::pair().unwrap(),
        Kind::Seqpacket => {
            let (ours, theirs) = fuzzing::seqpacket_pair().unwrap();
            (UnixStream::from(ours), UnixStream::from(theirs))
        }
    };
    for socket in [&ours, &theirs] {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
    }
    (ours, theirs)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stream,
    Seqpacket,
}

pub(crate) const KINDS: [Kind; 2] = [Kind::Stream, Kind::Seqpacket];

/// Receives up to 64 bytes: the bytes, and what came with them.
pub(crate) fn receive(socket: impl AsFd) -> Result<(Vec<u8>, Vec<OwnedFd>), RecvError> {
    let mut bytes = [0; 64];
    let mut handles = Vec::new();
    let len = handle_passing::recv(socket, &mut bytes, &mut handles)?;
    Ok((bytes[..len].to_vec(), handles))
}

/// Sends one-byte messages with `handle` until the socket takes no more; returns how many it took.
pub(crate) fn fill(socket: impl AsFd, handle: BorrowedFd<'_>) -> usize {
    let mut sent = 0;
    loop {
        match handle_passing::try_send(&socket, b"x", &[handle]) {
            Ok(1) => sent += 1,
            Err(handle_passing::SendError::WouldBlock) => return sent,
            other => panic!("message {sent}: {other:?}"),
        }
    }
}

pub(crate) fn dev_null() -> File {
    File::open("/dev/null").unwrap()
}

/// This test binary again, to run only `test`, which finds out by [`is_child`] that it is the
/// other process.
pub(crate) fn child(test: &str) -> Command {
    // Not `current_exe`: another user may not be able to reach the binary by its path.
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", test, "--nocapture"]).env(CHILD, "1");
    command
}

pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs a child to its end, which must be a success.
#[track_caller]
pub(crate) fn run(command: &mut Command) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(
        status.success(),
        "{status}\n{}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
}

/// Waits for an event that can only be looked for.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut has_happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !has_happened() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::yield_now();
    }
}

/// Runs `call` in a thread of its own, and `meanwhile` once that blocks in a system call.
pub(crate) fn while_blocked<T: Send>(
    number: libc::c_long,
    call: impl FnOnce() -> T + Send,
    meanwhile: impl FnOnce(&Caller),
) -> T {
    in_thread(number, call, |caller, _| {
        caller.wait_until_blocked();
        meanwhile(caller);
    })
}

/// Runs `call` in a thread of its own, which must not block in a system call.
pub(crate) fn without_blocking<T: Send>(
    number: libc::c_long,
    call: impl FnOnce() -> T + Send,
) -> T {
    in_thread(number, call, |caller, has_returned| {
        wait_until("the call returns", || {
            assert!(!caller.is_blocked(), "the call blocks");
            has_returned()
        });
    })
}

/// A thread that is about to be in a system call.
pub(crate) struct Caller {
    number: libc::c_long,
    task: i32,
    pub(crate) thread: Pthread,
}

impl Caller {
    pub(crate) fn wait_until_blocked(&self) {
        wait_until("the call blocks", || self.is_blocked());
    }

    fn is_blocked(&self) -> bool {
        // Once the thread has ended, the file is gone.
        let path = format!("/proc/self/task/{}/syscall", self.task);
        let state = fs::read_to_string(path).unwrap_or_default();
        state.split(' ').next() == Some(&self.number.to_string())
    }
}

fn in_thread<T: Send>(
    number: libc::c_long,
    call: impl FnOnce() -> T + Send,
    meanwhile: impl FnOnce(&Caller, &dyn Fn() -> bool),
) -> T {
    let started = OnceLock::new();
    thread::scope(|scope| {
        let running = scope.spawn(|| {
            let (task, thread) = (nix::unistd::gettid().as_raw(), pthread_self());
            assert!(started.set(Caller { number, task, thread }).is_ok());
            call()
        });
        meanwhile(started.wait(), &|| running.is_finished());
        running.join().unwrap()
    })
}

const CHILD: &str = "HANDLE_PASSING_TEST_CHILD";
