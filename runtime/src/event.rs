//! What happens in a cluster, as its users see it: workers, their exits, events.

use std::fmt;
use std::time::Duration;

use crate::address::Address;
use crate::exit::Exit;
use crate::listen::Dispatch;

/// A worker: the process that sits in a slot, told from its predecessors by a generation.
///
/// Slots are numbered from 0 and live as long as the cluster; the generation counts the processes
/// that a slot has had, from 1. Shown as `slot.generation`, for example `2.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId {
    /// The slot, from 0.
    pub slot: usize,
    /// The how-manieth process of this slot it is, from 1.
    pub generation: u32,
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

impl std::str::FromStr for WorkerId {
    type Err = ParseWorkerIdError;

    fn from_str(text: &str) -> Result<Self, ParseWorkerIdError> {
        let (slot, generation) = text.split_once('.').ok_or(ParseWorkerIdError)?;
        Ok(WorkerId {
            slot: slot.parse().map_err(|_| ParseWorkerIdError)?,
            generation: generation.parse().map_err(|_| ParseWorkerIdError)?,
        })
    }
}

/// A text that is not a worker's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseWorkerIdError;

impl fmt::Display for ParseWorkerIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a worker id; expected SLOT.GENERATION, for example 2.1")
    }
}

impl std::error::Error for ParseWorkerIdError {}

/// A worker that has a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// The worker.
    pub id: WorkerId,
    /// Its process id.
    pub pid: u32,
    /// How far it is in its life.
    pub state: WorkerState,
    /// Whether its channel is open on both ends; until [`Event::Disconnected`].
    pub is_connected: bool,
}

/// How far the process of a worker is in its life, which goes downwards here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum WorkerState {
    /// It was started, and has not been heard of.
    Spawning,
    /// It answered.
    Online,
    /// It has listened on an address.
    Listening,
    /// It was asked to stop, takes no more, and finishes what it has.
    Draining,
    /// It was sent SIGTERM, or its channel is gone.
    Terminating,
    /// It was sent SIGKILL.
    Killing,
}

/// Something that happened in the cluster.
///
/// For one worker the order is:
///
/// 1. [`Spawned`](Event::Spawned), once, or [`SpawnFailed`](Event::SpawnFailed), and nothing else;
/// 2. [`Online`](Event::Online), at most once;
/// 3. [`Listening`](Event::Listening), once for each listener;
/// 4. [`Killed`](Event::Killed), at most once, before or after the next;
/// 5. [`Disconnected`](Event::Disconnected), exactly once;
/// 6. [`Exited`](Event::Exited), exactly once, after everything that it had sent was handled.
///
/// The next worker in the slot comes after that. The cluster itself tells of
/// [`Stopping`](Event::Stopping) and, last of all, [`Stopped`](Event::Stopped). `Display` gives a
/// line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A worker's process was started.
    Spawned {
        /// The new worker.
        worker: WorkerId,
        /// Its process id.
        pid: u32,
    },
    /// A worker's process could not be started; the slot tries again or fails.
    SpawnFailed {
        /// The worker that did not come to be.
        worker: WorkerId,
        /// The operating system's error.
        error: String,
    },
    /// A worker answered for the first time.
    Online {
        /// The worker.
        worker: WorkerId,
    },
    /// An address is listened on, for the first worker that asked for it.
    Opened {
        /// The address, with the real port.
        address: Address,
        /// How its connections get to workers.
        dispatch: Dispatch,
        /// The name of the policy that balances them; `rotation` where workers take turns at one
        /// socket, `none` for datagrams that they share.
        policy: &'static str,
        /// Why it is another dispatch than was asked for.
        reason: Option<String>,
    },
    /// A worker listens: connections to this address may now be given to it.
    Listening {
        /// The worker.
        worker: WorkerId,
        /// The address, with the real port.
        address: Address,
    },
    /// A worker asked for an address that could not be listened on.
    ListenFailed {
        /// The worker.
        worker: WorkerId,
        /// The operating system's error, with the address.
        error: String,
    },
    /// A worker broke the protocol, or was not online in time, and is killed.
    Killed {
        /// The worker.
        worker: WorkerId,
        /// Why.
        reason: KillReason,
    },
    /// A worker's channel is at its end: the worker closed it, or has ended. Its process may go on
    /// for a while, and is told nothing any more.
    Disconnected {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker's process ended.
    Exited {
        /// The worker.
        worker: WorkerId,
        /// How it ended.
        exit: Exit,
        /// How long it had run.
        uptime: Duration,
        /// Whether it ended because it was asked to, or had asked to itself: its slot gets no
        /// worker because of this end, unless it was for a restart.
        asked: bool,
    },
    /// The number of slots was changed. Workers of slots that are gone finish and exit.
    Scaled {
        /// How many there were.
        from: usize,
        /// How many there are.
        to: usize,
    },
    /// A slot will get a new worker after a delay.
    Restarting {
        /// The slot.
        slot: usize,
        /// The time until then.
        delay: Duration,
        /// Failures in a row, 0 when the last worker had run well.
        failures: u32,
    },
    /// A slot is given up: its workers failed too often in a row. The other slots go on.
    SlotFailed {
        /// The slot.
        slot: usize,
        /// Failures in a row.
        failures: u32,
    },
    /// A worker took no connection for `stall_timeout` although some waited: they are given to
    /// others, and it gets no new ones of this listener. That ends when it takes again
    /// ([`Resumed`](Event::Resumed)), closes the listener, or dies.
    Stalled {
        /// The worker.
        worker: WorkerId,
        /// The listener's address.
        address: Address,
        /// How many waited.
        waiting: u32,
    },
    /// A stalled worker takes connections again.
    Resumed {
        /// The worker.
        worker: WorkerId,
        /// The listener's address.
        address: Address,
    },
    /// Connections that had waited for a dead or stalled worker were given to others.
    TakenBack {
        /// The slot whose mailbox they were in.
        slot: usize,
        /// How many.
        connections: u32,
    },
    /// The process has no descriptors left: clients were accepted and closed at once.
    Shed {
        /// The address they came to.
        address: Address,
        /// How many since the last such event.
        connections: u64,
    },
    /// The cluster stops: no new connections, workers finish what they have.
    Stopping,
    /// The last worker is gone.
    Stopped {
        /// Connections that were accepted and that no worker took before the end.
        abandoned: u64,
    },
    /// The reader of events was too slow; this many before this one are missing.
    Lost {
        /// How many.
        events: u64,
    },
}

/// Why the master killed a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KillReason {
    /// It did not say that it is online within `start_timeout`.
    NotOnline,
    /// It sent what no worker may send.
    Protocol,
    /// It closed its channel and went on running.
    ChannelClosed,
    /// It was asked to stop, and again by SIGTERM, and still ran at the end of `kill_timeout`.
    NotStopped,
}

impl fmt::Display for KillReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KillReason::NotOnline => "it was not online in time",
            KillReason::Protocol => "it broke the protocol",
            KillReason::ChannelClosed => "it closed its channel and went on running",
            KillReason::NotStopped => "it did not stop in time",
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Spawned { worker, pid } => write!(f, "worker {worker} started, pid {pid}"),
            Event::SpawnFailed { worker, error } => {
                write!(f, "worker {worker} could not be started: {error}")
            }
            Event::Online { worker } => write!(f, "worker {worker} online"),
            Event::Opened { address, dispatch, policy, reason } => {
                write!(f, "{address} open: {dispatch}, {policy}")?;
                reason.as_ref().map_or(Ok(()), |reason| write!(f, " ({reason})"))
            }
            Event::Listening { worker, address } => {
                write!(f, "worker {worker} listening on {address}")
            }
            Event::ListenFailed { worker, error } => {
                write!(f, "worker {worker} can't listen: {error}")
            }
            Event::Killed { worker, reason } => write!(f, "worker {worker} killed: {reason}"),
            Event::Disconnected { worker } => write!(f, "worker {worker} disconnected"),
            Event::Scaled { from, to } => write!(f, "scaled from {from} slots to {to}"),
            Event::Exited { worker, exit, uptime, asked } => {
                let asked = if *asked { ", as asked" } else { "" };
                write!(f, "worker {worker} {exit} after {:.1} s{asked}", uptime.as_secs_f64())
            }
            Event::Restarting { slot, delay, failures } => write!(
                f,
                "slot {slot} gets a new worker in {} ms (failures in a row: {failures})",
                delay.as_millis()
            ),
            Event::SlotFailed { slot, failures } => {
                write!(f, "slot {slot} is given up after {failures} failures in a row")
            }
            Event::Stalled { worker, address, waiting } => {
                write!(f, "worker {worker} stalled: {waiting} connections to {address} waited")
            }
            Event::Resumed { worker, address } => {
                write!(f, "worker {worker} takes connections to {address} again")
            }
            Event::TakenBack { slot, connections } => {
                write!(f, "slot {slot}: {connections} waiting connections given to others")
            }
            Event::Shed { address, connections } => write!(
                f,
                "{address}: no descriptors left, {connections} clients closed; raise RLIMIT_NOFILE"
            ),
            Event::Stopping => f.write_str("stopping"),
            Event::Stopped { abandoned: 0 } => f.write_str("stopped"),
            Event::Stopped { abandoned } => {
                write!(f, "stopped; {abandoned} accepted connections were not served")
            }
            Event::Lost { events } => write!(f, "{events} events were lost: read them faster"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_ids_read_back_what_they_show() {
        let worker = WorkerId { slot: 3, generation: 17 };
        assert_eq!(worker.to_string(), "3.17");
        assert_eq!("3.17".parse(), Ok(worker));
        for bad in ["", "3", "3.", ".1", "a.1", "3.1.2", "-1.1"] {
            assert_eq!(bad.parse::<WorkerId>(), Err(ParseWorkerIdError), "{bad:?}");
        }
    }
}
