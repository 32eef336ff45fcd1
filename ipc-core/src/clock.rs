//! The only place of this crate that reads the clock.

use std::io;
use std::time::{Duration, Instant};

pub(crate) fn now() -> Instant {
    Instant::now()
}

/// How long a call may still wait; `None` is for ever.
///
/// # Errors
///
/// `TimedOut` when the deadline has passed.
pub(crate) fn time_left(deadline: Option<Instant>) -> io::Result<Option<Duration>> {
    let Some(deadline) = deadline else { return Ok(None) };
    let left = deadline.saturating_duration_since(now());
    if left.is_zero() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the deadline has passed"));
    }
    Ok(Some(left))
}
