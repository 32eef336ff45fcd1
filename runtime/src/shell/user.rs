//! The master's user: what it can ask for, and how it hears what happens.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use crate::event::{Event, WorkerId, WorkerInfo};

/// How many events wait for a slow reader before further ones are lost and counted.
const EVENTS_MAX: usize = 4096;

/// What the handle and the master share.
#[derive(Debug, Default)]
pub(crate) struct Control {
    shutdowns: AtomicU32,
    waker: OnceLock<mio::Waker>,
    workers: Mutex<Vec<WorkerInfo>>,
}

impl Control {
    /// The workers that have a process now.
    pub(crate) fn workers(&self) -> Vec<WorkerInfo> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_waker(&self, waker: mio::Waker) {
        let _ = self.waker.set(waker);
    }

    /// How often a shutdown was asked for since the last call.
    pub(crate) fn take_shutdowns(&self) -> u32 {
        self.shutdowns.swap(0, Ordering::AcqRel)
    }

    /// Asks the master to stop, or to stop quicker.
    pub(crate) fn shutdown(&self) {
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
