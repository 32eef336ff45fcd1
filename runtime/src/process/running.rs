use std::io;

use super::descendants::Lineage;
use super::signal::Signal;
use crate::sys::Process;

/// A process and what it starts in its turn, as something to send signals to, from any thread.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) process: Process,
    pub(super) lineage: Lineage,
    /// What ends it ends its tree.
    pub(super) is_tree_killed: bool,
}

impl Running {
    /// Signals what is meant by it, the process or its tree; `false` if that has ended.
    pub(super) fn end(&self, signal: Signal) -> io::Result<bool> {
        if !self.is_tree_killed {
            return self.kill(signal);
        }
        let was_alive = self.process.is_alive();
        if let Ok(count) = self.kill_tree(signal) {
            return Ok(count > 0);
        }
        // It is what counts, if not all can be found, or signalled; and it may have been reached.
        Ok(self.kill(signal)? || was_alive)
    }

    /// Signals the process alone; `false` if it has ended.
    pub(super) fn kill(&self, signal: Signal) -> io::Result<bool> {
        // One that nobody has collected takes signals, too.
        if !self.process.is_alive() {
            return Ok(false);
        }
        let result = self.process.signal(signal.number());
        result.map_err(|error| self.error(&format!("send {signal} to"), &error))
    }

    /// Signals all, whether or not the process itself has ended; says how many.
    pub(super) fn kill_tree(&self, signal: Signal) -> io::Result<usize> {
        let result = self.lineage.kill(&self.process, signal);
        result.map_err(|error| self.error(&format!("send {signal} to the tree of"), &error))
    }

    pub(super) fn error(&self, what: &str, error: &io::Error) -> io::Error {
        let pid = self.process.pid();
        io::Error::new(error.kind(), format!("can't {what} process {pid}: {error}"))
    }
}
