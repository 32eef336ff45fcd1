//! The handle of a running cluster.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::Receiver;

use crate::builder::Builder;
use crate::error::Error;
use crate::event::{Event, WorkerInfo};
use crate::shell::Control;

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
        self.control.workers()
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
