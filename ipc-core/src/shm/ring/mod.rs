//! A ring of records in shared memory, from one process to another.
//!
//! A record is any number of bytes up to half of the ring; records arrive whole and in order. As
//! long as neither side waits, they go without a system call. [`create`] makes both halves, one of
//! which goes to another process; for answers, make a second ring.
//!
//! * **Hostile peers.** What the other side writes into the memory is checked before it is used.
//!   When it can't be right, this side fails with a [`Violation`], and stays failed; the other side
//!   can make it neither panic nor leave the memory, nor wait beyond its deadline.
//! * **Peers that die**, by `kill -9` in the middle of a call too, are noticed: a wait ends within
//!   10 ms, and what was committed before is received.
//! * **Who waits** looks for a moment, then sleeps until the other side wakes it. The moment is
//!   [`with_spins_max`](Consumer::with_spins_max); when it has not paid lately, many waits do
//!   without.
//!
//! # Guide
//!
//! ## Two processes
//!
//! The half that goes to the other process becomes two handles, the memory and a socket that rings.
//! Here a [`Channel`](crate::Channel) brings them, as any other way would:
//!
//! ```
//! use ipc_core::{Channel, Message};
//! use ipc_core::shm::ring;
//!
//! # let (mut channel, mut theirs) = Channel::pair()?;
//! let (mut producer, consumer) = ring::create(1 << 20)?;
//! let mut message = Message::new(1, "a ring");
//! message.handles = Vec::from(consumer.into_handles()).into();
//! channel.send_deadline(message, None)?;
//!
//! producer.try_send(b"hello")?;
//! # other(&mut theirs)?;
//! #
//! # fn other(channel: &mut Channel) -> Result<(), Box<dyn std::error::Error>> {
//! # use ipc_core::shm::ring::Consumer;
//! // In the other process, which allows a megabyte:
//! let message = channel.recv_deadline(None)?;
//! let mut consumer = Consumer::from_handles(message.handles, 1 << 20)?;
//! let mut record = Vec::new();
//! consumer.recv_deadline(&mut record, None)?;
//! assert_eq!(record, b"hello");
//! # Ok(())
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ## In place
//!
//! A large record need not be copied: [`try_reserve`](Producer::try_reserve) gives its place in the
//! ring, and [`try_peek`](Consumer::try_peek) shows it there. What is in the ring the peer can
//! change, so both are views of atomic bytes; slices are there for who trusts the peer, and are
//! unsafe.
//!
//! ```
//! use std::sync::atomic::Ordering;
//! use ipc_core::shm::ring;
//!
//! let (mut producer, mut consumer) = ring::create(1 << 16)?;
//! let grant = producer.try_reserve(20_000)?;
//! grant.bytes()[19_999].store(7, Ordering::Relaxed);
//! grant.commit();
//!
//! let record = consumer.try_peek()?;
//! assert_eq!(record.bytes().len(), 20_000);
//! assert_eq!(record.bytes()[19_999].load(Ordering::Relaxed), 7);
//! record.release();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ## In an event loop
//!
//! A half is a mio event source. Once it is registered, a `try_` call that finds nothing, or no
//! room, asks the other side for an event, and an event is a reason to try again: so try first, and
//! until there is [nothing](TryRecvError::Empty), or [no room](TrySendError::Full). The events are
//! readable ones for both halves. The end of the other side is an event too.
//!
//! ```
//! use ipc_core::shm::ring::{self, TryRecvError};
//! use mio::{Events, Interest, Poll, Token};
//!
//! let (mut producer, mut consumer) = ring::create(1 << 16)?;
//! let mut poll = Poll::new()?;
//! poll.registry().register(&mut consumer, Token(0), Interest::READABLE)?;
//! let other = std::thread::spawn(move || producer.try_send(b"hello"));
//!
//! let mut events = Events::with_capacity(16);
//! let mut record = Vec::new();
//! 'open: loop {
//!     loop {
//!         match consumer.try_recv(&mut record) {
//!             Ok(()) => assert_eq!(record, b"hello"),
//!             Err(TryRecvError::Empty) => break,
//!             Err(TryRecvError::Closed) => break 'open,
//!             Err(error) => return Err(error.into()),
//!         }
//!     }
//!     poll.poll(&mut events, None)?;
//! }
//! # other.join().expect("no panic")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it is not
//!
//! One producer, one consumer: for many, make many rings. What a consumer has taken and not done
//! dies with it. A peer that stops without dying is told by your deadlines only.

mod core;
mod error;

// The core's model has loom's atomics, which can't lie in shared memory.
#[cfg(not(loom))]
mod consumer;
#[cfg(not(loom))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(not(loom))]
mod link;
#[cfg(not(loom))]
mod producer;
#[cfg(not(loom))]
mod spins;

#[cfg(not(loom))]
use std::io;

#[cfg(not(loom))]
pub use consumer::{Consumer, Record};
pub use error::{AttachError, RecvError, SendError, TryRecvError, TrySendError, Violation};
#[cfg(not(loom))]
pub use producer::{Grant, Producer};

/// Makes a ring.
///
/// The capacity counts records with their lengths: each takes its bytes, rounded up to a multiple
/// of 8, and 8 more.
///
/// # Errors
///
/// `InvalidInput` if the capacity is not a power of two from 4 KiB to 2 GiB; else the system's.
#[cfg(not(loom))]
pub fn create(capacity_bytes: usize) -> io::Result<(Producer, Consumer)> {
    let (producer, consumer) = link::Link::pair(capacity_bytes)?;
    let is_new = "the memory is new and nobody else's: its cursors are zero";
    Ok((Producer::new(producer).expect(is_new), Consumer::new(consumer).expect(is_new)))
}
