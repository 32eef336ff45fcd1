//! The settings of messages.

use super::Builder;
use crate::error::Error;
use crate::messages::Received;
use crate::post::{MESSAGE_BYTES_MAX, MESSAGE_HANDLES_MAX, Terms};

/// # Messages
impl Builder {
    /// Called with every message from a worker, on the master's thread: it must not block, so it
    /// must not wait for a reply or for room. [`Handle::messages`](crate::Handle::messages) gets
    /// none then.
    ///
    /// Without this, [`run`](Self::run) drops messages, and requests fail.
    ///
    /// ```
    /// use runtime::Cluster;
    ///
    /// let builder = Cluster::builder().on_message(|received| {
    ///     if received.is_request() {
    ///         let reply = format!("hello, worker {}", received.from);
    ///         if let Err(error) = received.reply(reply) {
    ///             eprintln!("{error}");
    ///         }
    ///     }
    /// });
    /// ```
    pub fn on_message(mut self, hook: impl FnMut(Received) + Send + 'static) -> Self {
        self.on_message = Some(Box::new(hook));
        self
    }

    /// The longest message between the master's program and workers, in bytes, 1 GiB at most.
    /// Default 1 MiB.
    ///
    /// In each direction between the master and a worker 256 messages may wait to be taken, with as
    /// many bytes as two of the longest have, 1 MiB at least, and 32 handles; as much again of
    /// replies. Memory for them is used as they come.
    pub fn message_bytes_max(mut self, bytes: usize) -> Self {
        self.message_bytes_max = bytes;
        self
    }

    /// The most handles of a message, 16 at most. Default 4. Workers that run as another user
    /// ([`SlotOptions::uid`](crate::SlotOptions::uid)) may be hostile, and get handles but send
    /// none.
    ///
    /// A process that has no descriptors left when handles come loses its channel: a worker stops
    /// then, and is replaced.
    pub fn message_handles_max(mut self, handles: usize) -> Self {
        self.message_handles_max = handles;
        self
    }

    /// The limits on messages.
    pub(super) fn terms(&self) -> Result<Terms, Error> {
        let within = |given: usize, max: u32| u32::try_from(given).ok().filter(|it| *it <= max);
        let bytes = within(self.message_bytes_max, MESSAGE_BYTES_MAX).ok_or_else(|| {
            let given = self.message_bytes_max;
            Error::invalid(format!("message_bytes_max is {given}; at most {MESSAGE_BYTES_MAX}"))
        })?;
        let handles = within(self.message_handles_max, MESSAGE_HANDLES_MAX).ok_or_else(|| {
            let given = self.message_handles_max;
            Error::invalid(format!("message_handles_max is {given}; at most {MESSAGE_HANDLES_MAX}"))
        })?;
        Ok(Terms { message_bytes_max: bytes, message_handles_max: handles })
    }
}
