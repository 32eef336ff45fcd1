//! Wakes whoever waits for a child, from any thread.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::sys::Timer;

/// What the parts of a child share with it: they ring when it has something to do.
///
/// The timer is also the child's own, for its next timeout. A ring overwrites that, so the child
/// sets it anew whenever it has heard one. To have a bell that makes no sound costs no descriptor.
#[derive(Debug, Default)]
pub(super) struct Bell {
    timer: OnceLock<Timer>,
    /// Changes together with the timer, or a ring that was heard already could undo what it is set
    /// to.
    is_rung: Mutex<bool>,
    open_streams: AtomicUsize,
}

impl Bell {
    /// Gives it a sound: from now on a ring can wake somebody.
    pub(super) fn hang(&self) -> io::Result<&Timer> {
        if self.timer.get().is_none() {
            // One of two threads that come here at once drops its own.
            let _ = self.timer.set(Timer::new()?);
        }
        Ok(self.timer.get().expect("it was set"))
    }

    pub(super) fn timer(&self) -> Option<&Timer> {
        self.timer.get()
    }

    /// Wakes the child's owner, if somebody waits.
    pub(super) fn ring(&self) {
        let mut is_rung = self.lock();
        *is_rung = true;
        if let Some(timer) = self.timer.get() {
            // To set a timer that exists can't fail.
            let _ = timer.set(Some(Duration::ZERO));
        }
    }

    /// Whether it was rung since the last time.
    pub(super) fn hear(&self) -> bool {
        std::mem::take(&mut *self.lock())
    }

    /// Sets the timer, unless it rings.
    pub(super) fn arm(&self, delay: Option<Duration>) -> io::Result<()> {
        let is_rung = self.lock();
        match self.timer.get() {
            Some(timer) if !*is_rung => timer.set(delay),
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn is_rung(&self) -> bool {
        *self.lock()
    }

    pub(super) fn has_open_streams(&self) -> bool {
        self.open_streams.load(Ordering::SeqCst) > 0
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_rung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream on which a child writes, as long as it has not ended. Its end rings the bell.
#[derive(Debug)]
pub(super) struct OpenStream(Arc<Bell>);

impl OpenStream {
    pub(super) fn new(bell: &Arc<Bell>) -> OpenStream {
        bell.open_streams.fetch_add(1, Ordering::SeqCst);
        OpenStream(bell.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if self.0.open_streams.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.ring();
        }
    }
}
