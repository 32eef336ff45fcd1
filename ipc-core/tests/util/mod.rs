//! What the test binaries share.
#![allow(dead_code, unused_imports, reason = "each of them uses a part")]

#[cfg(unix)]
pub(crate) mod named;
#[cfg(unix)]
mod unix;

use std::time::{Duration, Instant};

#[cfg(unix)]
pub(crate) use unix::*;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A deadline that only a test that hangs gets to see.
pub(crate) fn soon() -> Option<Instant> {
    Some(Instant::now() + TIMEOUT)
}

pub(crate) fn in_ms(ms: u64) -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(ms))
}
