//! A slot: what outlives its workers, and the life of the worker in it.

use std::time::Duration;

use super::Time;
use super::restart::History;
use crate::event::{WorkerId, WorkerInfo, WorkerState};

/// The life of the process in a slot.
///
/// ```text
///             spawn            hello           attach
///   Empty ───────────► Spawning ────► Online ────────► Listening
///    ▲ │ │                │ │            │  stop           │ stop
///    │ │ │ give up        │ │ stop       ▼                 ▼
///    │ │ └───► Failed     │ │         Draining ◄───────────┘
///    │ │          │retire │ │            │ deadline
///    │ │ retire   ▼       │ └───────────►▼
///    │ └─────► Retired    │         Terminating (SIGTERM sent, or the channel was lost)
///    │                    │ deadline     │ deadline
///    │                    └─────────────►▼
///    └────── exited (from any) ─────  Killing (SIGKILL sent)
/// ```
///
/// Only the wait status (`exited`) ends a life: a lost channel does not, and neither does a signal.
/// A slot that failed or is retired has a process again (`spawn`) when somebody asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// No process. A worker is started at the slot's deadline, if it has one.
    Empty,
    /// No process, since too many have failed, and none until somebody asks for it.
    Failed,
    /// No process, as somebody wished, and none until somebody asks for it.
    Retired,
    /// A process was asked for and has not been heard of.
    Spawning,
    /// It said hello.
    Online,
    /// It holds the receiving end of a mailbox.
    Listening,
    /// It was asked to stop, and finishes what it has.
    Draining,
    /// It was sent SIGTERM, or its channel is gone.
    Terminating,
    /// It was sent SIGKILL.
    Killing,
}

/// What can happen to the process in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stimulus {
    /// Start a process.
    Spawn,
    /// The process said hello.
    Hello,
    /// A mailbox was attached.
    Attach,
    /// It shall stop taking connections, finish, and exit.
    Stop,
    /// Its channel is gone.
    Lost,
    /// It is sent SIGTERM.
    Terminate,
    /// It is sent SIGKILL.
    Kill,
    /// The process ended, or was never there.
    Exited,
    /// The slot is given up.
    GiveUp,
    /// The slot shall stay empty.
    Retire,
}

impl Life {
    /// Every life.
    #[cfg(test)]
    pub(crate) const ALL: [Life; 9] = [
        Life::Empty,
        Life::Failed,
        Life::Retired,
        Life::Spawning,
        Life::Online,
        Life::Listening,
        Life::Draining,
        Life::Terminating,
        Life::Killing,
    ];

    /// The life after `stimulus`, or `None` where it changes nothing.
    pub(crate) fn after(self, stimulus: Stimulus) -> Option<Life> {
        use Life::*;
        match (self, stimulus) {
            (Empty, Stimulus::Spawn) => Some(Spawning),
            (Empty, Stimulus::GiveUp) => Some(Failed),
            (Empty | Failed, Stimulus::Retire) => Some(Retired),
            (
                Empty,
                Stimulus::Hello
                | Stimulus::Attach
                | Stimulus::Stop
                | Stimulus::Lost
                | Stimulus::Terminate
                | Stimulus::Kill
                | Stimulus::Exited,
            ) => None,

            (Failed | Retired, Stimulus::Spawn) => Some(Spawning),
            (
                Failed | Retired,
                Stimulus::Hello
                | Stimulus::Attach
                | Stimulus::Stop
                | Stimulus::Lost
                | Stimulus::Terminate
                | Stimulus::Kill
                | Stimulus::Exited
                | Stimulus::GiveUp,
            )
            | (Retired, Stimulus::Retire) => None,

            (Spawning, Stimulus::Hello) => Some(Online),
            // It has nothing to finish, so it need not be asked.
            (Spawning, Stimulus::Stop | Stimulus::Terminate) => Some(Terminating),
            (Spawning, Stimulus::Lost) => Some(Terminating),
            (Spawning, Stimulus::Kill) => Some(Killing),
            (Spawning, Stimulus::Exited) => Some(Empty),
            (
                Spawning,
                Stimulus::Spawn | Stimulus::Attach | Stimulus::GiveUp | Stimulus::Retire,
            ) => None,

            (Online, Stimulus::Attach) => Some(Listening),
            (Online | Listening, Stimulus::Stop) => Some(Draining),
            (Online | Listening, Stimulus::Lost | Stimulus::Terminate) => Some(Terminating),
            (Online | Listening, Stimulus::Kill) => Some(Killing),
            (Online | Listening, Stimulus::Exited) => Some(Empty),
            (
                Online | Listening,
                Stimulus::Spawn | Stimulus::Hello | Stimulus::GiveUp | Stimulus::Retire,
            ) => None,
            (Listening, Stimulus::Attach) => None,

            // A worker that drains closes its channel when it is done: nothing is lost by that.
            (Draining, Stimulus::Lost) => None,
            (Draining, Stimulus::Terminate) => Some(Terminating),
            (Draining, Stimulus::Kill) => Some(Killing),
            (Draining, Stimulus::Exited) => Some(Empty),
            (
                Draining,
                Stimulus::Spawn
                | Stimulus::Hello
                | Stimulus::Attach
                | Stimulus::Stop
                | Stimulus::GiveUp
                | Stimulus::Retire,
            ) => None,

            (Terminating, Stimulus::Kill) => Some(Killing),
            (Terminating, Stimulus::Exited) => Some(Empty),
            (
                Terminating,
                Stimulus::Spawn
                | Stimulus::Hello
                | Stimulus::Attach
                | Stimulus::Stop
                | Stimulus::Lost
                | Stimulus::Terminate
                | Stimulus::GiveUp
                | Stimulus::Retire,
            ) => None,

            (Killing, Stimulus::Exited) => Some(Empty),
            (
                Killing,
                Stimulus::Spawn
                | Stimulus::Hello
                | Stimulus::Attach
                | Stimulus::Stop
                | Stimulus::Lost
                | Stimulus::Terminate
                | Stimulus::Kill
                | Stimulus::GiveUp
                | Stimulus::Retire,
            ) => None,
        }
    }

    /// Whether there is, or may be, a process.
    pub(crate) fn is_alive(self) -> bool {
        !matches!(self, Life::Empty | Life::Failed | Life::Retired)
    }

    /// Whether the process was heard of and obeys: it may ask, and be told.
    pub(crate) fn is_heard(self) -> bool {
        matches!(self, Life::Online | Life::Listening | Life::Draining)
    }
}

/// A slot and the worker in it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) worker: WorkerId,
    pub(crate) life: Life,
    /// Whether the slot shall have a worker: it is no longer wanted when it is scaled away, or
    /// after its worker was disconnected.
    pub(crate) is_wanted: bool,
    /// When the life's own time is up: to start (`Empty`), to be online (`Spawning`), to finish
    /// (`Draining`), to die (`Terminating`).
    pub(crate) deadline: Option<Time>,
    pub(crate) spawned_at: Time,
    pub(crate) was_online: bool,
    /// Whether the end of this worker is our wish.
    pub(crate) asked: bool,
    /// Whether the master had to kill this worker.
    pub(crate) at_fault: bool,
    pub(crate) pid: Option<u32>,
    /// Whether its end of the channel was not yet closed, since it was spawned.
    pub(crate) is_connected: bool,
    pub(crate) history: History,
}

impl Slot {
    pub(crate) fn new(index: usize) -> Slot {
        Slot {
            worker: WorkerId { slot: index, generation: 0 },
            life: Life::Empty,
            is_wanted: true,
            deadline: None,
            spawned_at: Duration::ZERO,
            was_online: false,
            asked: false,
            at_fault: false,
            pid: None,
            is_connected: false,
            history: History::default(),
        }
    }

    /// Seats a new worker, of the next generation.
    pub(crate) fn seat(&mut self, now: Time, deadline: Time) -> WorkerId {
        self.worker.generation += 1;
        self.life = self.life.after(Stimulus::Spawn).expect("only an empty slot is seated");
        self.deadline = Some(deadline);
        self.spawned_at = now;
        self.was_online = false;
        self.asked = false;
        self.at_fault = false;
        self.pid = None;
        self.is_connected = false;
        self.worker
    }

    /// What users see of it, while it has a process.
    pub(crate) fn info(&self) -> Option<WorkerInfo> {
        let state = match self.life {
            Life::Empty | Life::Failed | Life::Retired => return None,
            Life::Spawning => WorkerState::Spawning,
            Life::Online => WorkerState::Online,
            Life::Listening => WorkerState::Listening,
            Life::Draining => WorkerState::Draining,
            Life::Terminating => WorkerState::Terminating,
            Life::Killing => WorkerState::Killing,
        };
        let (id, is_connected) = (self.worker, self.is_connected);
        Some(WorkerInfo { id, pid: self.pid?, state, is_connected })
    }

    /// Applies `stimulus`; a change of life replaces the deadline. Says whether it changed.
    pub(crate) fn apply(&mut self, stimulus: Stimulus, deadline: Option<Time>) -> bool {
        let Some(next) = self.life.after(stimulus) else { return false };
        self.life = next;
        self.deadline = deadline;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STIMULI: [Stimulus; 10] = [
        Stimulus::Spawn,
        Stimulus::Hello,
        Stimulus::Attach,
        Stimulus::Stop,
        Stimulus::Lost,
        Stimulus::Terminate,
        Stimulus::Kill,
        Stimulus::Exited,
        Stimulus::GiveUp,
        Stimulus::Retire,
    ];

    #[test]
    fn only_the_wait_status_ends_a_life() {
        for life in Life::ALL.into_iter().filter(|life| life.is_alive()) {
            for stimulus in STIMULI {
                let next = life.after(stimulus).unwrap_or(life);
                assert_eq!(!next.is_alive(), stimulus == Stimulus::Exited, "{life:?} {stimulus:?}");
            }
        }
    }

    #[test]
    fn nothing_leads_back_from_the_way_out() {
        let rank = |life| match life {
            Life::Empty | Life::Failed | Life::Retired => 0,
            Life::Spawning => 1,
            Life::Online => 2,
            Life::Listening => 3,
            Life::Draining => 4,
            Life::Terminating => 5,
            Life::Killing => 6,
        };
        for life in Life::ALL.into_iter().filter(|life| life.is_alive()) {
            for stimulus in STIMULI {
                if let Some(next) = life.after(stimulus) {
                    assert!(rank(next) == 0 || rank(next) > rank(life), "{life:?} {stimulus:?}");
                }
            }
        }
    }

    #[test]
    fn an_empty_slot_gets_a_process_only_by_being_asked_for_one() {
        for life in Life::ALL.into_iter().filter(|life| !life.is_alive()) {
            for stimulus in STIMULI {
                let next = life.after(stimulus).unwrap_or(life);
                assert_eq!(next.is_alive(), stimulus == Stimulus::Spawn, "{life:?} {stimulus:?}");
            }
        }
    }

    #[test]
    fn f45_a_second_hello_changes_nothing() {
        assert_eq!(Life::Spawning.after(Stimulus::Hello), Some(Life::Online));
        for life in [Life::Online, Life::Listening, Life::Draining, Life::Terminating] {
            assert_eq!(life.after(Stimulus::Hello), None);
        }
    }
}
