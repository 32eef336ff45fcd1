//! A cluster whose master is a thread of the test.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::{Address, Builder, Cluster, Dispatch, Error, Event, WorkerId};

use super::{DEADLINE, proc_field};
use crate::harness::ROLE;

/// A cluster of workers in a role.
pub(crate) fn role(name: &str, args: &[&str]) -> Builder {
    Cluster::builder().dispatch(Dispatch::Handoff).args([&[ROLE, name], args].concat())
}

/// A cluster that runs, and all that has happened in it.
pub(crate) struct Running {
    pub(crate) cluster: Cluster,
    events: Receiver<Event>,
    pub(crate) log: Vec<Event>,
}

impl Running {
    #[track_caller]
    pub(crate) fn start(builder: Builder) -> Running {
        let cluster = builder.spawn().unwrap_or_else(|error| panic!("start a cluster: {error}"));
        Running { events: cluster.events().clone(), cluster, log: Vec::new() }
    }

    /// Waits until `find` finds something in all that has happened.
    #[track_caller]
    pub(crate) fn until<T>(&mut self, what: &str, find: impl Fn(&[Event]) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = find(&self.log) {
                return found;
            }
            match self.events.recv_deadline(deadline) {
                Ok(event) => self.log.push(event),
                Err(_) => panic!("waited in vain until {what}; what happened:\n{}", self.told()),
            }
        }
    }

    /// Waits until something like this has happened.
    #[track_caller]
    pub(crate) fn happens(&mut self, what: &str, is_it: impl Fn(&Event) -> bool) -> Event {
        self.until(what, |log| log.iter().find(|event| is_it(event)).cloned())
    }

    /// Waits until the master has heard of so many workers.
    #[track_caller]
    pub(crate) fn online(&mut self, workers: usize) {
        self.until(&format!("{workers} workers are online"), |log| {
            let online = log.iter().filter(|event| matches!(event, Event::Online { .. }));
            (online.count() >= workers).then_some(())
        });
    }

    /// Waits until so many workers that live listen, and says where.
    #[track_caller]
    pub(crate) fn listening(&mut self, workers: usize) -> Address {
        self.until(&format!("{workers} workers listen"), |log| {
            let listening = listening(log);
            (listening.len() >= workers).then(|| listening.into_values().next())?
        })
    }

    /// Waits until exactly so many workers listen, after as many were too many or too few.
    #[track_caller]
    pub(crate) fn listening_now(&mut self, workers: usize) {
        self.until(&format!("{workers} workers listen, no more"), |log| {
            (listening(log).len() == workers).then_some(())
        });
    }

    /// Kills a worker that listens, the `number`-th of them, round and round; waits for its end.
    #[track_caller]
    pub(crate) fn kill_some(&mut self, number: usize) {
        self.listening(1);
        let listening = listening(&self.log);
        let worker = *listening.keys().nth(number % listening.len()).expect("one listens");
        self.signal(worker.slot, Signal::SIGKILL);
        self.exits(worker.slot, worker.generation);
    }

    /// Takes in what happens for some time: a pace, no way to wait for anything.
    pub(crate) fn passes(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Ok(event) = self.events.recv_deadline(end) {
            self.log.push(event);
        }
    }

    /// Waits until this worker listens.
    #[track_caller]
    pub(crate) fn listens(&mut self, slot: usize, generation: u32) {
        let id = WorkerId { slot, generation };
        self.happens(
            &format!("worker {id} listens"),
            |event| matches!(event, Event::Listening { worker, .. } if *worker == id),
        );
    }

    /// Waits for the end of this worker.
    #[track_caller]
    pub(crate) fn exits(&mut self, slot: usize, generation: u32) -> Event {
        let id = WorkerId { slot, generation };
        self.happens(
            &format!("worker {id} ends"),
            |event| matches!(event, Event::Exited { worker, .. } if *worker == id),
        )
    }

    /// The process in a slot.
    #[track_caller]
    pub(crate) fn pid(&self, slot: usize) -> u32 {
        let workers = self.cluster.workers();
        let worker = workers.iter().find(|worker| worker.id.slot == slot);
        worker.unwrap_or_else(|| panic!("nobody is in slot {slot}")).pid
    }

    #[track_caller]
    pub(crate) fn signal(&self, slot: usize, signal: Signal) {
        let pid = Pid::from_raw(self.pid(slot).cast_signed());
        kill(pid, signal).unwrap_or_else(|error| panic!("{signal} to slot {slot}: {error}"));
    }

    /// Whether all threads of all workers sleep.
    pub(crate) fn is_idle(&self) -> bool {
        self.cluster.workers().iter().all(|worker| {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", worker.pid));
            tasks.into_iter().flatten().flatten().all(|task| {
                let status = format!("{}/task/{}/status", worker.pid, task.file_name().display());
                proc_field(&status, "State").is_none_or(|state| state.starts_with('S'))
            })
        })
    }

    /// Stops the cluster and waits for its end; gives all that has happened.
    #[track_caller]
    pub(crate) fn stop(self) -> Vec<Event> {
        self.cluster.shutdown();
        let (result, log) = self.end();
        result.unwrap_or_else(|error| panic!("{error}\n{}", told(&log)));
        log
    }

    /// Waits for the end of the cluster; gives its outcome, and all that has happened.
    #[track_caller]
    pub(crate) fn end(mut self) -> (Result<(), Error>, Vec<Event>) {
        // The channel's end is the cluster's, and has a deadline, which `wait` has not.
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.events.recv_deadline(deadline) {
                Ok(event) => self.log.push(event),
                Err(error) if error.is_disconnected() => break,
                Err(_) => panic!("waited in vain for the end; what happened:\n{}", self.told()),
            }
        }
        assert_eq!(self.cluster.workers(), [], "nobody is left");
        let result = self.cluster.wait();
        assert_order(&self.log);
        (result, self.log)
    }

    pub(crate) fn told(&self) -> String {
        told(&self.log)
    }
}

/// The workers that listen and live, and where.
fn listening(log: &[Event]) -> BTreeMap<WorkerId, Address> {
    let mut listening = BTreeMap::new();
    for event in log {
        match event {
            Event::Listening { worker, address } => {
                listening.insert(*worker, address.clone());
            }
            Event::Exited { worker, .. } => drop(listening.remove(worker)),
            _ => {}
        }
    }
    listening
}

pub(crate) fn told(log: &[Event]) -> String {
    log.iter().map(|event| format!("  {event}\n")).collect()
}

/// The exit of a worker: how, and whether it was asked to.
#[track_caller]
pub(crate) fn exit_of(log: &[Event], slot: usize, generation: u32) -> (runtime::Exit, bool) {
    let id = WorkerId { slot, generation };
    let exit = log.iter().find_map(|event| match event {
        Event::Exited { worker, exit, asked, .. } if *worker == id => Some((*exit, *asked)),
        _ => None,
    });
    exit.unwrap_or_else(|| panic!("worker {id} has not ended:\n{}", told(log)))
}

/// How many connections nobody served, as the last event says.
#[track_caller]
pub(crate) fn abandoned(log: &[Event]) -> u64 {
    match log.last() {
        Some(Event::Stopped { abandoned }) => *abandoned,
        _ => panic!("the last event is not that it has stopped:\n{}", told(log)),
    }
}

/// Asserts, of a whole life of a cluster, what holds for every worker in it: it is spawned, is
/// online once, then listens, then ends, once; and generations follow one another.
#[track_caller]
fn assert_order(log: &[Event]) {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum State {
        Spawned,
        Online,
        Killed,
        Disconnected,
        Ended,
    }
    use State::*;
    let mut states: BTreeMap<WorkerId, State> = BTreeMap::new();
    let mut disconnected = BTreeSet::new();
    for event in log {
        let (worker, before, after): (_, &[_], _) = match event {
            Event::Spawned { worker, .. } => (worker, &[None], Spawned),
            Event::SpawnFailed { worker, .. } => (worker, &[None], Ended),
            Event::Online { worker } => (worker, &[Some(Spawned)], Online),
            Event::Listening { worker, .. } | Event::ListenFailed { worker, .. } => {
                (worker, &[Some(Online)], Online)
            }
            Event::Killed { worker, .. } => {
                (worker, &[Some(Spawned), Some(Online), Some(Disconnected)], Killed)
            }
            Event::Disconnected { worker } => {
                assert!(disconnected.insert(*worker), "{event}, twice:\n{}", told(log));
                (worker, &[Some(Spawned), Some(Online), Some(Killed)], Disconnected)
            }
            Event::Exited { worker, .. } => {
                assert!(disconnected.contains(worker), "{event}, too early:\n{}", told(log));
                (worker, &[Some(Disconnected), Some(Killed)], Ended)
            }
            _ => continue,
        };
        let state = states.insert(*worker, after);
        assert!(before.contains(&state), "{event}, after {state:?}:\n{}", told(log));
        let predecessor = WorkerId { generation: worker.generation - 1, ..*worker };
        let succeeds = worker.generation == 1 || states.get(&predecessor) == Some(&Ended);
        assert!(succeeds, "{event}, before {predecessor} has ended:\n{}", told(log));
    }
    assert!(states.values().all(|state| *state == Ended), "left over:\n{}", told(log));
}
