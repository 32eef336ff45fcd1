//! The next timeout as a descriptor.
//!
//! A timeout of the poll itself is set up and taken down by the kernel for every wait, which every
//! connection that comes alone would pay for. The machine's next timeout changes a few times a
//! second.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// The monotonic time since the system's start, as of its last tick: to a few milliseconds, for a
/// tenth of the price.
pub(crate) fn coarse_now() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE);
    now.map_or(Duration::ZERO, Duration::from)
}

/// The longest delay, about 136 years.
const DELAY_MAX: Duration = Duration::from_secs(1 << 32);

/// A descriptor that becomes readable, once, after the delay that it is set to.
#[derive(Debug)]
pub(crate) struct Timer(TimerFd);

impl Timer {
    pub(crate) fn new() -> io::Result<Timer> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Timer(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?))
    }

    /// Replaces the delay; `None` turns the timer off.
    pub(crate) fn set(&self, delay: Option<Duration>) -> io::Result<()> {
        match delay {
            Some(delay) => {
                // Zero would turn it off; and what the system can't count to is never.
                let delay = delay.clamp(Duration::from_nanos(1), DELAY_MAX);
                let expiration = Expiration::OneShot(TimeSpec::from_duration(delay));
                self.0.set(expiration, TimerSetTimeFlags::empty())?;
            }
            None => self.0.unset()?,
        }
        Ok(())
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

source_by_descriptor!(&Timer);
