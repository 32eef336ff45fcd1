//! How many connections of one listener a worker has open: for its own limit, and for the master
//! to see.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::intake::Intake;
use crate::sys::{CellWriter, coarse_now};

/// A listener's count, which outlives the listener: connections end later.
#[derive(Debug)]
pub(super) struct Tally {
    /// Where the master sees it; none for a listener that it does not know.
    cell: Option<CellWriter>,
    open: AtomicU32,
    max: AtomicU32,
    /// What to tell when there is room below `max` again.
    intake: Mutex<Weak<Intake>>,
    /// Held while a thread that waits for room decides to.
    waiting: Mutex<()>,
    room: Condvar,
}

impl Tally {
    pub(super) fn new(cell: Option<CellWriter>) -> Tally {
        Tally {
            cell,
            open: AtomicU32::new(0),
            max: AtomicU32::new(u32::MAX),
            intake: Mutex::default(),
            waiting: Mutex::default(),
            room: Condvar::new(),
        }
    }

    pub(super) fn set_intake(&self, intake: &Arc<Intake>) {
        *self.intake.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(intake);
    }

    pub(super) fn set_max(&self, connections: u32) {
        self.max.store(connections, Ordering::SeqCst);
        self.tell_room();
    }

    pub(super) fn open(&self) -> u32 {
        self.open.load(Ordering::SeqCst)
    }

    /// Whether the worker may take another.
    pub(super) fn has_room(&self) -> bool {
        self.open() < self.max.load(Ordering::SeqCst)
    }

    /// Waits until the worker may take another, but not longer than `pause`.
    pub(super) fn wait_for_room(&self, pause: Duration) {
        let guard = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.room.wait_timeout_while(guard, pause, |()| !self.has_room());
    }

    /// Counts a connection that was taken until the guard is dropped.
    pub(super) fn admit(self: &Arc<Self>) -> OpenConnection {
        self.open.fetch_add(1, Ordering::SeqCst);
        if let Some(cell) = &self.cell {
            cell.took();
            cell.opened();
        }
        OpenConnection { tally: Arc::clone(self), since: coarse_now() }
    }

    fn tell_room(&self) {
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.room.notify_all();
        let intake = self.intake.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(intake) = intake {
            intake.resume();
        }
    }
}

/// Counts a connection as open for as long as it exists.
///
/// A [`Connection`](super::Connection) holds it. Who takes the stream out of the connection
/// ([`Connection::into_parts`](super::Connection::into_parts)) keeps it beside the stream, so that
/// policies that look at the number of connections, and the worker's own limit, go on counting it.
pub struct OpenConnection {
    tally: Arc<Tally>,
    since: Duration,
}

impl fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenConnection").field("since", &self.since).finish_non_exhaustive()
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if let Some(cell) = &self.tally.cell {
            cell.closed(coarse_now().saturating_sub(self.since));
        }
        let max = self.tally.max.load(Ordering::SeqCst);
        // Whoever takes decides after it has counted, so one of both sees the other.
        if self.tally.open.fetch_sub(1, Ordering::SeqCst) >= max {
            self.tally.tell_room();
        }
    }
}
