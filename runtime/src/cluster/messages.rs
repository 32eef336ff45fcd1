//! Messages between a cluster's program and its workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::Handle;
use crate::event::WorkerId;
use crate::messages::Messages;
use crate::post::{Message, Recipient, RequestError, SendError};

/// # Messages
///
/// Messages to workers and from them, with handles if need be. Those of one sender to one receiver
/// come in order, each once; what a worker has sent before its end comes before
/// [`Event::Exited`](crate::Event::Exited). A message that is sent is with the worker when that
/// takes it: one that ends before has not got it.
///
/// What waits is bounded, see [`Builder::message_bytes_max`](crate::Builder::message_bytes_max):
/// a worker that does not take its messages makes its senders hear that there is no room, and
/// holds up nobody else.
impl Handle {
    /// Sends a message to a worker, by its id, or to whichever worker is in a slot. Never blocks. A
    /// slot has a worker from [`Event::Spawned`](crate::Event::Spawned) on: before, and between two
    /// workers, it is `Gone`.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use runtime::{Cluster, Message, SendError};
    ///
    /// let cluster = Cluster::builder().workers(2).program("my-worker").spawn()?;
    /// match cluster.send(0, "rotate the logs") {
    ///     Ok(()) => {}
    ///     Err(SendError::Full(message)) => eprintln!("worker 0 is busy, {message:?} waits"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// let log = std::fs::File::create("access.log")?;
    /// cluster.send(1, Message::new("log to this").with_handle(log))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When it is not sent. The error holds the message.
    pub fn send(
        &self,
        to: impl Into<Recipient>,
        message: impl Into<Message>,
    ) -> Result<(), SendError> {
        self.control().send_message(to.into(), message.into(), false, None)
    }

    /// Sends a message; waits for room, until the deadline at most. While others wait too, each
    /// gets its turn.
    ///
    /// # Errors
    ///
    /// When it is not sent: `Full` when there was no room until the deadline. The error holds the
    /// message.
    pub fn send_deadline(
        &self,
        to: impl Into<Recipient>,
        message: impl Into<Message>,
        deadline: Instant,
    ) -> Result<(), SendError> {
        self.control().send_message(to.into(), message.into(), true, Some(deadline))
    }

    /// Sends bytes to every worker that has room for them; says to how many, and which have none.
    /// Never blocks.
    ///
    /// # Errors
    ///
    /// `TooLarge`. The error holds the bytes.
    pub fn broadcast(&self, bytes: impl Into<Vec<u8>>) -> Result<Broadcast, SendError> {
        let (reached, full) = self.control().broadcast(bytes.into())?;
        Ok(Broadcast { reached, full })
    }

    /// Sends a request to a worker, and waits for the reply. Not on the master's own thread: in a
    /// hook, or where a [`Driver`](crate::Driver) is driven, nobody would bring it.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let cluster = runtime::Cluster::builder().workers(2).program("my-worker").spawn()?;
    /// let reply = cluster.request(0, "how many sessions?", Duration::from_secs(1))?;
    /// println!("{}", String::from_utf8_lossy(&reply.bytes));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When there is no reply in time, or it is clear that there will be none: at once when the
    /// worker ends, or drops the request.
    pub fn request(
        &self,
        to: impl Into<Recipient>,
        message: impl Into<Message>,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        self.control().request(to.into(), message.into(), timeout)
    }

    /// The messages that workers have sent to this program.
    ///
    /// Take them, on a thread of their own, say: while 256 of one worker wait, it can't send more.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let cluster = runtime::Cluster::builder().workers(2).program("my-worker").spawn()?;
    /// for received in cluster.messages().iter() {
    ///     println!("{} says {:?}", received.from, received.message);
    ///     if received.is_request() {
    ///         received.reply("yes")?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn messages(&self) -> Messages {
        Messages::new(Arc::<crate::shell::Control>::clone(self.control()))
    }
}

/// What became of a broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// How many workers have room for it.
    pub reached: usize,
    /// The workers that have none, and don't get it.
    pub full: Vec<WorkerId>,
}
