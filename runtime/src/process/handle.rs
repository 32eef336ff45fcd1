use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::attended::Attended;
use super::running::Running;
use super::signal::Signal;
use super::stream::{PipeReader, PipeWriter, Stream};

/// A child of [`Children`](super::Children), by a number that no other of them ever has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId(pub(super) usize);

impl fmt::Display for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reaches a child of [`Children`](super::Children), from any thread.
///
/// The child's streams are here until somebody takes them. Its last handle closes those that are
/// left, and it may outlive the child and `Children`.
#[derive(Clone, Debug)]
pub struct ChildHandle {
    id: ChildId,
    running: Arc<Running>,
    attended: Arc<Mutex<Attended>>,
}

impl ChildHandle {
    pub(super) fn new(id: ChildId, attended: Attended) -> ChildHandle {
        let running = attended.child().running().clone();
        ChildHandle { id, running, attended: Arc::new(Mutex::new(attended)) }
    }

    /// By which [events](super::Children::events) name it.
    #[must_use]
    pub fn id(&self) -> ChildId {
        self.id
    }

    /// The number of its process; once it has ended, that may be another's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.process.pid()
    }

    /// As [`Child::kill`](super::Child::kill).
    ///
    /// # Errors
    ///
    /// As [`Child::kill`](super::Child::kill).
    pub fn kill(&self, signal: Signal) -> io::Result<bool> {
        self.running.kill(signal)
    }

    /// As [`Child::kill_tree`](super::Child::kill_tree).
    ///
    /// # Errors
    ///
    /// As [`Child::kill_tree`](super::Child::kill_tree).
    pub fn kill_tree(&self, signal: Signal) -> io::Result<usize> {
        self.running.kill_tree(signal)
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.running.process.is_alive()
    }

    /// What it reads as standard input, if that is a pipe that nobody has taken.
    #[must_use]
    pub fn take_stdin(&self) -> Option<PipeWriter> {
        self.lock().child_mut().stdin.take()
    }

    /// What it writes as standard output, if that is a pipe that nobody has taken.
    #[must_use]
    pub fn take_stdout(&self) -> Option<PipeReader> {
        self.lock().child_mut().stdout.take()
    }

    /// What it writes as standard error, if that is a pipe that nobody has taken.
    #[must_use]
    pub fn take_stderr(&self) -> Option<PipeReader> {
        self.lock().child_mut().stderr.take()
    }

    /// As [`Child::take_stream`](super::Child::take_stream).
    #[must_use]
    pub fn take_stream(&self, number: u32) -> Option<Stream> {
        self.lock().child_mut().take_stream(number)
    }

    /// The child itself, which nobody keeps for long.
    pub(super) fn lock(&self) -> MutexGuard<'_, Attended> {
        self.attended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
