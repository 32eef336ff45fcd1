//! The handle of a running cluster, and how the master speaks to its user.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};

use crate::builder::Builder;
use crate::error::Error;
use crate::event::{Event, WorkerId};

/// How many events wait for a slow reader before further ones are lost and counted.
const EVENTS_MAX: usize = 4096;

/// A running cluster: workers in slots, and a master thread that keeps them there.
///
/// Made by [`Builder::spawn`]. Dropping it stops the cluster quickly (workers get SIGTERM at once)
/// and waits for the end; call [`shutdown`](Self::shutdown) and [`wait`](Self::wait) to let workers
/// finish.
#[derive(Debug)]
pub struct Cluster {
    control: Arc<Control>,
    events: Receiver<Event>,
    master: Option<JoinHandle<Result<(), Error>>>,
}

/// A worker that has a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// The worker.
    pub id: WorkerId,
    /// Its process id.
    pub pid: u32,
}

impl Cluster {
    /// A cluster's settings, all of which have defaults.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(
        control: Arc<Control>,
        events: Receiver<Event>,
        master: JoinHandle<Result<(), Error>>,
    ) -> Cluster {
        Cluster { control, events, master: Some(master) }
    }

    /// What happens in the cluster, from its start on. It ends when the cluster does.
    ///
    /// At most 4096 events wait; a reader that is slower finds an [`Event::Lost`] instead.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// The workers that have a process now, by slot.
    pub fn workers(&self) -> Vec<WorkerInfo> {
        self.control.workers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the cluster to stop: what the listeners' backlogs and the mailboxes hold is served, and
    /// workers finish what they have, for `drain_timeout` at most; then SIGTERM, and SIGKILL after
    /// `kill_timeout`. Each further call goes one step further at once. Returns immediately.
    pub fn shutdown(&self) {
        self.control.shutdown();
    }

    /// Waits for the end of the cluster.
    ///
    /// # Errors
    ///
    /// When the master failed, or every slot was given up.
    ///
    /// # Panics
    ///
    /// When the master thread has panicked.
    pub fn wait(mut self) -> Result<(), Error> {
        match self.master.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(master) = self.master.take() {
            self.control.shutdown();
            self.control.shutdown();
            let _ = master.join();
        }
    }
}

/// What the handle and the master share.
#[derive(Debug, Default)]
pub(crate) struct Control {
    shutdowns: AtomicU32,
    waker: OnceLock<mio::Waker>,
    workers: Mutex<Vec<WorkerInfo>>,
}

impl Control {
    pub(crate) fn set_waker(&self, waker: mio::Waker) {
        let _ = self.waker.set(waker);
    }

    /// How often a shutdown was asked for since the last call.
    pub(crate) fn take_shutdowns(&self) -> u32 {
        self.shutdowns.swap(0, Ordering::AcqRel)
    }

    fn shutdown(&self) {
        self.shutdowns.fetch_add(1, Ordering::AcqRel);
        if let Some(waker) = self.waker.get()
            && let Err(error) = waker.wake()
        {
            tracing::error!(%error, "the master can't be woken");
        }
    }
}

/// What is called with every event, on the master's thread.
pub(crate) type EventHook = Box<dyn FnMut(&Event) + Send>;

/// The master's way to its user.
pub(crate) struct Publisher {
    control: Arc<Control>,
    hook: Option<EventHook>,
    events: Option<Sender<Event>>,
    lost: u64,
}

impl Publisher {
    /// A publisher to a hook, and to a receiver if `with_events`.
    pub(crate) fn new(
        control: Arc<Control>,
        hook: Option<EventHook>,
        with_events: bool,
    ) -> (Publisher, Option<Receiver<Event>>) {
        let (events, receiver) =
            with_events.then(|| crossbeam_channel::bounded(EVENTS_MAX + 1)).unzip();
        (Publisher { control, hook, events, lost: 0 }, receiver)
    }

    /// Tells of `event`, after which `workers` have processes.
    pub(crate) fn publish(&mut self, event: Event, workers: impl Iterator<Item = (WorkerId, u32)>) {
        if matches!(event, Event::Spawned { .. } | Event::Exited { .. }) {
            let workers = workers.map(|(id, pid)| WorkerInfo { id, pid }).collect();
            *self.control.workers.lock().unwrap_or_else(PoisonError::into_inner) = workers;
        }
        if let Some(hook) = &mut self.hook {
            hook(&event);
        }
        let Some(events) = &self.events else { return };
        let full = events.len() >= EVENTS_MAX;
        if full || (self.lost > 0 && events.len() + 1 >= EVENTS_MAX) {
            return self.lost += 1;
        }
        self.tell_lost();
        if let Some(events) = &self.events {
            let _ = events.try_send(event);
        }
    }

    /// Tells how many events are missing, if any are.
    fn tell_lost(&mut self) {
        if let Some(events) = &self.events
            && self.lost > 0
            && events.try_send(Event::Lost { events: self.lost }).is_ok()
        {
            self.lost = 0;
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // The channel has a place more than events may take.
        self.tell_lost();
    }
}
