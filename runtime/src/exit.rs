use std::fmt;

use crate::process::Signal;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether the kernel wrote a core file.
        core_dumped: bool,
    },
    /// The kernel killed it because there was no memory left, the machine's or the control group's,
    /// as far as its counters tell.
    OutOfMemory,
    /// Somebody else collected the status first, for example a host program that waits for any
    /// child.
    Unknown,
}

impl Exit {
    /// The code, if it exited by itself.
    #[must_use]
    pub fn code(self) -> Option<i32> {
        match self {
            Exit::Code(code) => Some(code),
            Exit::Signal { .. } | Exit::OutOfMemory | Exit::Unknown => None,
        }
    }

    /// The number of the signal that ended it, if one did.
    #[must_use]
    pub fn signal(self) -> Option<i32> {
        match self {
            Exit::Signal { signal, .. } => Some(signal),
            Exit::OutOfMemory => Some(Signal::KILL.number()),
            Exit::Code(_) | Exit::Unknown => None,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with code {code}"),
            Exit::Signal { signal, core_dumped: false } => write!(f, "killed by signal {signal}"),
            Exit::Signal { signal, core_dumped: true } => {
                write!(f, "killed by signal {signal} (core dumped)")
            }
            Exit::OutOfMemory => f.write_str("killed by the kernel, out of memory"),
            Exit::Unknown => f.write_str("ended; its status was collected by somebody else"),
        }
    }
}
