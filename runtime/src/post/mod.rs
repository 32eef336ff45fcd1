//! Messages between the master's program and workers, and between workers: who may send how much,
//! what waits for whom, and which request a reply belongs to. Pure: frames in, frames out.
//!
//! The master has a [`Hub`], each worker a [`Spoke`]; a frame goes from one to the other over the
//! worker's channel. Every direction of a channel has a window of credit for each [`Lane`]. A
//! message uses credit when it leaves its sender, and gives it back when the application at the
//! other end takes it; so what waits anywhere is bounded, whatever anybody does, and messages never
//! fill the channel so that other frames would have to wait for an application.
//!
//! A message from worker to worker uses its sender's credit until the receiver's window has room
//! for it. Credit for what workers send belongs to the slot: what a dead worker has left behind
//! counts against its successor.

mod credit;
mod error;
mod frame;
mod hub;
mod outgoing;
mod party;
mod spoke;

pub use self::credit::{Account, Amount, Window};
pub use self::error::{RequestError, SendError};
pub use self::frame::{
    ENVELOPE_BYTES, Envelope, FrameError, Lane, MESSAGE_FROM_WORKER, MESSAGE_TO_WORKER,
    NOTICE_FROM_WORKER, NOTICE_TO_WORKER, Notice, Peer, What,
};
pub use self::hub::Hub;
pub use self::outgoing::{Sent, Ticket};
pub use self::party::{Recipient, Sender};
pub use self::spoke::Spoke;
pub use crate::message::Message;

/// How many messages of one direction and lane wait at most.
pub const WINDOW_MESSAGES: u32 = 256;

/// How many bytes of messages wait at least, if that many are sent; twice the longest message, if
/// that is more.
pub const WINDOW_BYTES_MIN: u32 = 1 << 20;

/// How many handles of messages wait at most.
pub const WINDOW_HANDLES: u32 = 32;

/// The most handles that a message may be allowed to have.
pub const MESSAGE_HANDLES_MAX: u32 = WINDOW_HANDLES / 2;

/// The most bytes that a message may be allowed to have.
pub const MESSAGE_BYTES_MAX: u32 = 1 << 30;

/// How many requests of one worker may be without an answer at a time.
pub const REQUESTS_MAX: usize = 1024;

/// The limits on messages, the same for everybody in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The longest message, in bytes; [`MESSAGE_BYTES_MAX`] at most.
    pub message_bytes_max: u32,
    /// The most handles of a message; [`MESSAGE_HANDLES_MAX`] at most.
    pub message_handles_max: u32,
}

impl Terms {
    /// The window of each lane. It has room for two of the largest messages, so that a receiver may
    /// keep a quarter of the credit to itself.
    pub fn window(self) -> Amount {
        Amount {
            messages: WINDOW_MESSAGES,
            bytes: self.message_bytes_max.saturating_mul(2).max(WINDOW_BYTES_MIN),
            handles: WINDOW_HANDLES,
        }
    }

    /// What a message costs; `None` if it is over the limits.
    pub fn cost<H>(self, message: &Message<H>) -> Option<Amount> {
        let fits = |cost: &Amount| {
            cost.bytes <= self.message_bytes_max && cost.handles <= self.message_handles_max
        };
        Amount::of(message).filter(fits)
    }
}

impl Default for Terms {
    fn default() -> Self {
        Terms { message_bytes_max: 1 << 20, message_handles_max: 4 }
    }
}

/// Why a request got no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The worker that was asked has ended, or there is none.
    Gone,
    /// Whoever took the request dropped it.
    Unanswered,
}

/// A worker has sent what no worker may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation;

/// What became of a request that waits for its reply.
pub type Outcome<H> = Result<Message<H>, Failure>;

/// A message at its destination, until the application takes it.
#[derive(Debug)]
pub struct Arrival<F, H> {
    /// From whom it is.
    pub from: F,
    /// The sender's number for it, if it is a request.
    pub request: Option<u32>,
    /// The message.
    pub message: Message<H>,
    cost: Amount,
}
