use std::fmt;
use std::io;

use super::exec_error::ExecError;
use super::output::Output;
use crate::exit::Exit;
use crate::message::Message;

/// What happens to a child.
///
/// Most come once at most, in this order: `Spawned`, `Killed`, `Exited`, `Closed`. If it has a
/// channel, `Disconnected` comes after all of its messages, and before `Exited`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// It was started.
    Spawned {
        /// The number of its process.
        pid: u32,
    },
    /// It has sent a message.
    Message(Message),
    /// There is room for messages again, after one was [refused](super::SendError::Full).
    Drained,
    /// Its channel is closed: no message comes any more, and none can be sent.
    Disconnected,
    /// It was sent a signal, by us, so that it ends. [`Child::kill`](super::Child::kill) is not
    /// told.
    Killed(KillReason),
    /// It has ended. What it wrote can still be read, and those that it started may still write.
    Exited(Exit),
    /// It has ended, and so have its streams and its channel: nothing comes any more. Streams that
    /// are at their end or were dropped have ended, and so have those that nobody has used by the
    /// time that it exits.
    Closed(Exit),
    /// A command whose output was collected, by [`Children::exec`](super::Children::exec), has
    /// finished. This is all that it tells.
    Finished(Result<Output, ExecError>),
    /// Something failed that does not end it, as when we may not send it a signal, or when it has
    /// sent what is no message, for which its channel is closed.
    Error(io::Error),
}

/// Why a child was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KillReason {
    /// It ran for longer than [`Command::timeout`](super::Command::timeout).
    Timeout,
    /// Its [`CancelToken`](super::CancelToken) was cancelled.
    Cancelled,
    /// It wrote more than [`Command::max_buffer`](super::Command::max_buffer).
    OutputTooLong,
}

impl fmt::Display for KillReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KillReason::Timeout => "its time was over",
            KillReason::Cancelled => "it was cancelled",
            KillReason::OutputTooLong => "its output was too long",
        })
    }
}
