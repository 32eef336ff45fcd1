use std::fmt;

use crate::event::WorkerId;

/// Who has sent a message to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sender {
    /// The master's program.
    Master,
    /// A worker.
    Worker(WorkerId),
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sender::Master => f.write_str("the master"),
            Sender::Worker(worker) => write!(f, "worker {worker}"),
        }
    }
}

/// Which worker a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Recipient {
    /// This worker, and no successor of it.
    Worker(WorkerId),
    /// Whichever worker is in this slot when the message comes by.
    Slot(usize),
}

impl From<WorkerId> for Recipient {
    fn from(worker: WorkerId) -> Self {
        Recipient::Worker(worker)
    }
}

impl From<usize> for Recipient {
    fn from(slot: usize) -> Self {
        Recipient::Slot(slot)
    }
}
