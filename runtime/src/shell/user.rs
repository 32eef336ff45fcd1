//! The master's user: what it can ask for, and how it hears what happens.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use super::post::Post;
use crate::event::{Event, WorkerInfo};
use crate::machine::Order;
use crate::slot_options::{SlotOptions, SlotPlan};
use crate::status::ListenerInfo;

/// How many events wait for a slow reader before further ones are lost and counted.
const EVENTS_MAX: usize = 4096;

/// What the handle and the master share.
#[derive(Debug, Default)]
pub(crate) struct Control {
    commands: Mutex<Vec<Command>>,
    is_over: AtomicBool,
    slot_plan: SlotPlan,
    waker: OnceLock<mio::Waker>,
    workers: Mutex<Vec<WorkerInfo>>,
    listeners: Mutex<Vec<ListenerInfo>>,
    pub(crate) post: Post,
}

impl Control {
    /// For slots that have what the plan says.
    pub(crate) fn new(slot_plan: SlotPlan) -> Control {
        Control { slot_plan, ..Control::default() }
    }

    pub(crate) fn slot_plan(&self) -> &SlotPlan {
        &self.slot_plan
    }

    /// The workers that have a process now.
    pub(crate) fn workers(&self) -> Vec<WorkerInfo> {
        lock(&self.workers).clone()
    }

    pub(crate) fn set_workers(&self, workers: Vec<WorkerInfo>) {
        *lock(&self.workers) = workers;
    }

    /// What is listened on.
    pub(crate) fn listeners(&self) -> Vec<ListenerInfo> {
        lock(&self.listeners).clone()
    }

    pub(crate) fn add_listener(&self, listener: ListenerInfo) {
        lock(&self.listeners).push(listener);
    }

    pub(crate) fn set_waker(&self, waker: mio::Waker) {
        let _ = self.waker.set(waker);
    }

    /// What was asked for since the last call, in order.
    pub(crate) fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut *lock(&self.commands))
    }

    /// Asks the master for something.
    pub(crate) fn send(&self, command: Command) {
        if !self.is_over.load(Ordering::Acquire) {
            lock(&self.commands).push(command);
            self.wake();
        }
    }

    /// The master is gone, and all workers with it.
    pub(crate) fn close(&self) {
        self.is_over.store(true, Ordering::Release);
        self.set_workers(Vec::new());
        self.take_commands();
    }

    /// Gives the master a turn.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get()
            && let Err(error) = waker.wake()
        {
            tracing::error!(%error, "the master can't be woken");
        }
    }
}

/// No code panics while it holds one of these locks; if it did, the data would still be whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a user can ask of the master.
#[derive(Debug)]
pub(crate) enum Command {
    /// To stop, or to stop quicker.
    Shutdown,
    /// As many slots, with these options.
    Scale(Vec<SlotOptions>),
    /// What the machine does.
    Order(Order),
}

/// What is called with every event, on the master's thread.
pub(crate) type EventHook = Box<dyn FnMut(&Event) + Send>;

/// The master's way to its user.
pub(crate) struct Publisher {
    hook: Option<EventHook>,
    events: Option<Sender<Event>>,
    lost: u64,
}

impl Publisher {
    /// A publisher to a hook, and to a receiver if `with_events`.
    pub(crate) fn new(
        hook: Option<EventHook>,
        with_events: bool,
    ) -> (Publisher, Option<Receiver<Event>>) {
        let (events, receiver) =
            with_events.then(|| crossbeam_channel::bounded(EVENTS_MAX + 1)).unzip();
        (Publisher { hook, events, lost: 0 }, receiver)
    }

    /// Tells of `event`.
    pub(crate) fn publish(&mut self, event: Event) {
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
