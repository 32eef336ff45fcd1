//! The only place of this crate that reads the clock.

use std::time::{Duration, Instant};

/// The monotonic time since its start.
#[derive(Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    pub(crate) fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// The moment at which it is `time`; `None` if that is never.
    pub(crate) fn instant(&self, time: Duration) -> Option<Instant> {
        self.0.checked_add(time)
    }

    /// How long it is until `time`.
    pub(crate) fn until(&self, time: Duration) -> Duration {
        time.saturating_sub(self.now())
    }
}

/// How long it is until `deadline`.
pub(crate) fn time_left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// The moment at which `timeout` is over.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    Instant::now() + timeout
}

/// The moment at which `timeout` is over; `None` if that is never.
pub(crate) fn deadline_after(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}
