//! What both processes do with their end of a connection.

use std::hint;
use std::time::{Duration, Instant};

use crate::contender::Result;

/// Sends and receives messages of one length.
pub(crate) trait End {
    /// Sends a message, as soon as there is room for it.
    fn send(&mut self) -> Result<()>;

    /// Receives a message, as soon as there is one.
    fn receive(&mut self) -> Result<()>;
}

/// An end of whatever type. The first message shows that both are there, and is not measured.
pub(crate) trait Connection {
    /// Sends a message, waits until it is back, and sends it again, as often as that.
    fn round_trips(&mut self, messages: u64) -> Result<Duration>;

    /// The other side of it.
    fn send_back(&mut self, messages: u64) -> Result<()>;

    /// Sends so many messages, and waits until the last has been received.
    fn one_way(&mut self, messages: u64) -> Result<Duration>;

    /// The other side of it.
    fn take(&mut self, messages: u64) -> Result<()>;
}

impl<E: End> Connection for E {
    fn round_trips(&mut self, messages: u64) -> Result<Duration> {
        self.send()?;
        self.receive()?;
        let start = Instant::now();
        for _ in 0..messages {
            self.send()?;
            self.receive()?;
        }
        Ok(start.elapsed())
    }

    fn send_back(&mut self, messages: u64) -> Result<()> {
        for _ in 0..=messages {
            self.receive()?;
            self.send()?;
        }
        Ok(())
    }

    fn one_way(&mut self, messages: u64) -> Result<Duration> {
        self.send()?;
        self.receive()?;
        let start = Instant::now();
        for _ in 0..messages {
            self.send()?;
        }
        self.receive()?;
        Ok(start.elapsed())
    }

    fn take(&mut self, messages: u64) -> Result<()> {
        self.receive()?;
        self.send()?;
        for _ in 0..messages {
            self.receive()?;
        }
        self.send()
    }
}

/// Looks until there is something.
#[inline]
pub(crate) fn spin<T>(mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    for _ in 0..LOOKS_MAX {
        if let Some(found) = look()? {
            return Ok(found);
        }
        hint::spin_loop();
    }
    Err("the other process does not answer".into())
}

/// Takes minutes, or half of one.
const LOOKS_MAX: u64 = 1 << 31;
