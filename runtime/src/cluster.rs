//! The handle of a running cluster.

mod messages;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Receiver;

pub use self::messages::Broadcast;

use crate::builder::Builder;
use crate::error::Error;
use crate::event::{Event, WorkerId, WorkerInfo};
use crate::machine::Order;
use crate::shell::{Command, Control};
use crate::status::ListenerInfo;
use crate::sys::SIGNAL_MAX;

/// Reaches a running cluster, from any thread.
///
/// Every call returns at once: the master does what was asked, in the order of the calls, and
/// [events](Event) tell what comes of it. Calls that come too late, because the worker or the
/// cluster has ended, or the cluster stops, do nothing.
///
/// | in Node | here |
/// |---|---|
/// | `cluster.workers` | [`workers`](Self::workers) |
/// | `worker.isDead()` | [`worker`](Self::worker) gives `None` |
/// | `worker.isConnected()`, `worker.state` | [`WorkerInfo::is_connected`], [`WorkerInfo::state`] |
/// | `worker.disconnect()` | [`disconnect`](Self::disconnect) |
/// | `worker.kill(signal)` | [`kill`](Self::kill) |
/// | `cluster.disconnect()` | [`shutdown`](Self::shutdown) |
/// | `cluster.fork()` | [`scale`](Self::scale), [`start`](Self::start) |
/// | `worker.exitedAfterDisconnect` | `asked` in [`Event::Exited`] |
#[derive(Clone)]
pub struct Handle {
    control: Arc<Control>,
}

impl Handle {
    pub(crate) fn new(control: Arc<Control>) -> Handle {
        Handle { control }
    }

    pub(crate) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// The workers that have a process now, by slot.
    pub fn workers(&self) -> Vec<WorkerInfo> {
        self.control.workers()
    }

    /// What the cluster listens on, in the order in which it was first asked for.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let cluster = runtime::Cluster::builder().workers(4).spawn()?;
    /// for listener in cluster.listeners() {
    ///     let open: Vec<_> = (0..4).map(|slot| listener.open(slot)).collect();
    ///     println!("{} ({}): {open:?} open", listener.address, listener.dispatch);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn listeners(&self) -> Vec<ListenerInfo> {
        self.control.listeners()
    }

    /// What is known of a worker; `None` when it has no process, not yet or no more.
    pub fn worker(&self, worker: WorkerId) -> Option<WorkerInfo> {
        self.control.workers().into_iter().find(|info| info.id == worker)
    }

    /// Changes the number of slots, 1 to 1024.
    ///
    /// The options of all slots are asked for again and hold for workers that start from now on.
    /// New slots get workers at once; a slot whose worker still finishes, as soon as that is gone.
    /// Of slots that are too many, the highest, what waits in their mailboxes goes to others at
    /// once; their workers are asked to stop, have `drain_timeout` to finish, then get SIGTERM, and
    /// SIGKILL after `kill_timeout`. An [`Event::Scaled`] tells of it.
    ///
    /// # Errors
    ///
    /// When there can't be so many, no slot that is left would get a connection, or the options of
    /// one can't work.
    pub fn scale(&self, workers: usize) -> Result<(), Error> {
        let slots = self.control.slot_plan().slots(workers)?;
        self.control.send(Command::Scale(slots));
        Ok(())
    }

    /// Puts a worker into a slot that has none: one that was given up, or whose worker was
    /// disconnected. A slot that waits for its next worker gets it now; one whose worker was asked
    /// to end, after that.
    pub fn start(&self, slot: usize) {
        self.order(Order::Start { slot });
    }

    /// Asks a worker to stop taking connections, finish those that it has, and exit; its slot then
    /// stays empty until [`start`](Self::start), [`restart`](Self::restart) or a
    /// [`scale`](Self::scale) that comes past it.
    ///
    /// What waits for it goes to others at once. It has `timeout` to finish, `drain_timeout` if
    /// that is `None`; then it gets SIGTERM, and SIGKILL after `kill_timeout`. Called again, the
    /// earlier deadline holds. A worker that has just ended is not replaced either.
    pub fn disconnect(&self, worker: WorkerId, timeout: impl Into<Option<Duration>>) {
        self.order(Order::Disconnect { worker, timeout: timeout.into(), successor: false });
    }

    /// Ends a worker as [`disconnect`](Self::disconnect) does, and puts another into its slot when
    /// it is gone.
    pub fn restart(&self, worker: WorkerId, timeout: impl Into<Option<Duration>>) {
        self.order(Order::Disconnect { worker, timeout: timeout.into(), successor: true });
    }

    /// Sends a signal to a worker. One that it ends by, it is replaced after, as if somebody else
    /// had sent it.
    ///
    /// # Errors
    ///
    /// When there is no signal with this number.
    pub fn kill(&self, worker: WorkerId, signal: i32) -> Result<(), Error> {
        if !(1..=SIGNAL_MAX).contains(&signal) {
            return Err(Error::invalid(format!("{signal} is no signal; they are 1 to 64")));
        }
        self.order(Order::Signal { worker, signal });
        Ok(())
    }

    /// Asks the cluster to stop: what the listeners' backlogs and the mailboxes hold is served, and
    /// workers finish what they have, for `drain_timeout` at most; then SIGTERM, and SIGKILL after
    /// `kill_timeout`. Each further call goes one step further at once.
    pub fn shutdown(&self) {
        self.control.send(Command::Shutdown);
    }

    /// Gives the master a turn.
    pub(crate) fn wake(&self) {
        self.control.wake();
    }

    fn order(&self, order: Order) {
        self.control.send(Command::Order(order));
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("workers", &self.workers()).finish_non_exhaustive()
    }
}

/// A running cluster: workers in slots, and a master thread that keeps them there.
///
/// Made by [`Builder::spawn`]. It is a [`Handle`] that owns the thread: dropping it stops the
/// cluster quickly (workers get SIGTERM at once) and waits for the end; call
/// [`shutdown`](Handle::shutdown) and [`wait`](Self::wait) to let workers finish.
#[derive(Debug)]
pub struct Cluster {
    handle: Handle,
    events: Receiver<Event>,
    master: Option<JoinHandle<Result<(), Error>>>,
}

impl Cluster {
    /// A cluster's settings, all of which have defaults.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(
        handle: Handle,
        events: Receiver<Event>,
        master: JoinHandle<Result<(), Error>>,
    ) -> Cluster {
        Cluster { handle, events, master: Some(master) }
    }

    /// What reaches the cluster from other threads, and is theirs to keep.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// What happens in the cluster, from its start on. It ends when the cluster does.
    ///
    /// At most 4096 events wait; a reader that is slower finds an [`Event::Lost`] instead.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
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

impl Deref for Cluster {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(master) = self.master.take() {
            self.handle.shutdown();
            self.handle.shutdown();
            let _ = master.join();
        }
    }
}
