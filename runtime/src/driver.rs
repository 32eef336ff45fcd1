//! A cluster that lives in its user's event loop.

use std::fmt;
use std::ops::{ControlFlow, Deref};
use std::os::fd::{AsFd, BorrowedFd};

use crossbeam_channel::Receiver;
use mio::Events;

use crate::cluster::Handle;
use crate::error::Error;
use crate::event::Event;
use crate::shell::Master;

/// A cluster's master without a thread, from [`Builder::driver`](crate::Builder::driver).
///
/// It goes on whenever [`turn`](Self::turn) is called, on the caller's thread, and never blocks it.
/// It is an event source for mio, and by its descriptor for any other loop, that becomes readable
/// when a turn has something to do; its timeouts are among that. A process can have several.
///
/// It is a [`Handle`] as well, and [`handle`](Self::handle) can be cloned for other threads.
/// Dropped before the cluster has ended, it kills the workers and waits for them.
///
/// ```no_run
/// use mio::{Events, Interest, Poll, Token};
/// use runtime::Cluster;
///
/// let mut driver = Cluster::builder().program("worker").driver()?;
/// let mut poll = Poll::new()?;
/// poll.registry().register(&mut driver, Token(0), Interest::READABLE)?;
/// let mut events = Events::with_capacity(64);
/// while driver.turn()?.is_continue() {
///     for event in driver.events().try_iter() {
///         println!("{event}");
///     }
///     poll.poll(&mut events, None)?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Driver {
    master: Master,
    ready: Events,
    handle: Handle,
    events: Receiver<Event>,
}

impl Driver {
    pub(crate) fn new(master: Master, handle: Handle, events: Receiver<Event>) -> Driver {
        // So that the loop comes to the first turn.
        handle.wake();
        Driver { master, ready: Events::with_capacity(256), handle, events }
    }

    /// Does all that can be done now without waiting; the first one starts the workers.
    ///
    /// Breaks when the cluster has ended. When there is very much to do, some is left, and the
    /// source is readable again at once.
    ///
    /// # Errors
    ///
    /// When every slot was given up, or the operating system refuses what the master needs; the
    /// cluster has ended then too, or does when this is dropped.
    pub fn turn(&mut self) -> Result<ControlFlow<()>, Error> {
        self.master.advance(&mut self.ready)
    }

    /// What reaches the cluster from other threads, and is theirs to keep.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// What happens in the cluster, as [`Cluster::events`](crate::Cluster::events) tells it: what a
    /// turn has done can be read after it.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }
}

impl Deref for Driver {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

/// Readable when a turn has something to do.
impl AsFd for Driver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

source_by_descriptor!(
    /// Readable when a turn has something to do.
    Driver
);

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("handle", &self.handle).finish_non_exhaustive()
    }
}
