//! Channels between processes of one machine, whose messages carry OS handles.
//!
//! A [`Channel`] is one end of a Unix socket pair. What it carries is [`Message`]s: a kind, bytes,
//! and handles (sockets, files, memory), which the other process gets duplicates of. Messages
//! arrive whole and in order, with exactly their own handles.
//!
//! * **Bounded.** [`Limits`] holds for what is sent and for what a peer can make us keep. A
//!   channel that is full gives the message back, handles and all.
//! * **Hostile peers.** No bytes or handles that a peer sends make this side panic, block, leak a
//!   descriptor, or allocate for what has only been announced. A peer against the protocol is an
//!   error ([`ProtocolError`]), after which the channel stays failed.
//! * **Not async.** Non-blocking calls for an event loop ([`Channel`] is a mio event source), and
//!   blocking calls with a deadline for threads.
//!
//! # Guide
//!
//! ## A child process
//!
//! [`Bootstrap`] starts a process with one end of a channel, and gives the other:
//!
//! ```no_run
//! use std::process::Command;
//! use ipc_core::{Bootstrap, Message};
//!
//! let (mut channel, mut child) = Bootstrap::new().spawn(&mut Command::new("worker"))?;
//!
//! // A listening socket, for the child to accept from.
//! let listener = std::net::TcpListener::bind("127.0.0.1:8080")?;
//! channel.send_deadline(Message::new(1, "http").with_handle(listener), None)?;
//! # child.wait()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! and in the child:
//!
//! ```no_run
//! use std::net::TcpListener;
//! use ipc_core::Bootstrap;
//!
//! let mut channel = Bootstrap::new().take()?.ok_or("start me from another program")?;
//! let mut message = channel.recv_deadline(None)?;
//! let listener = message.take_handle::<TcpListener>(0)?;
//! println!("{} on {}", String::from_utf8_lossy(&message.payload), listener.local_addr()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A handle that arrives is whatever the peer chose to send. [`Message::take_handle`] asks the
//! system what it is before it gives it out, and what nobody takes is closed with the message.
//!
//! ## Two ends
//!
//! [`Channel::pair`] makes two ends, for two threads, or for a process that is started in another
//! way: [`Channel::into_fd`] gives the descriptor of one, and [`Channel::from_fd`] makes a channel
//! of it again.
//!
//! ## By name
//!
//! Processes that do not start each other meet at an [`Address`]: one has a [`Listener`] there,
//! others [connect](Channel::connect). Both sides know the other as a [`PeerIdentity`], and turn
//! away whom their [`PeerPolicy`] does not admit; by default that is everybody but the same
//! user and root.
//!
//! ## In an event loop
//!
//! Receive until [`TryRecvError::Empty`], send what you like, and flush when the socket has become
//! writable. One loop turn:
//!
//! ```
//! use ipc_core::{Channel, Message, TryRecvError};
//! use mio::{Events, Interest, Poll, Token};
//!
//! let (mut ours, mut theirs) = Channel::pair()?;
//! let mut poll = Poll::new()?;
//! poll.registry().register(&mut ours, Token(0), Interest::READABLE | Interest::WRITABLE)?;
//! theirs.try_send(Message::new(1, "ping"))?;
//!
//! let mut events = Events::with_capacity(16);
//! let mut is_open = true;
//! while theirs.try_recv().is_err() {
//!     poll.poll(&mut events, None)?;
//!     for event in &events {
//!         if event.is_writable() {
//!             ours.flush()?;
//!         }
//!         while event.is_readable() && is_open {
//!             match ours.try_recv() {
//!                 Ok(message) => ours.try_send(Message::new(2, message.payload))?,
//!                 Err(TryRecvError::Empty) => break,
//!                 Err(TryRecvError::Closed) => is_open = false,
//!                 Err(error) => return Err(error.into()),
//!             }
//!         }
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ## Many channels
//!
//! A [`ChannelSet`] is such a loop, for any number of channels: [`wait`](ChannelSet::wait) answers
//! with the next message of any of them, in fair turns, and sends what their sockets did not take
//! at once.
//!
//! ## In threads
//!
//! [`Channel::into_split`] makes a [`Sender`] and a [`Receiver`], so that one thread waits for
//! messages while others, behind a lock of their own, send.
//!
//! ## Many small messages
//!
//! [`Channel::try_send`] makes a system call for each message. To send many,
//! [`queue`](Channel::queue) them and [`flush`](Channel::flush) once: they leave in one write, and
//! the other side gets them from one read.
//!
//! ## Values instead of bytes
//!
//! With the feature `typed`, `Typed<Request, Answer>` makes a channel of anything that
//! [serde](https://serde.rs) can write and read, in postcard's format, with handles beside it.
//!
//! ## Without the socket
//!
//! [`Outbox`] and [`Inbox`] are what a channel consists of, without the I/O and generic over the
//! handle: for another transport, and for tests of what is built on top. The wire format is in
//! [`frame`].
//!
//! # What it is not
//!
//! A channel does not reconnect, encrypt or compress, and it does not say how old
//! a partial message may get ([`Channel::is_mid_message`] is what to build that on). Fairness
//! between channels is the event loop's: a peer that sends valid messages without end is always
//! readable, so take a bounded number of messages in a turn. [`ChannelSet`] does both.
#![cfg_attr(loom, allow(dead_code, unused_imports, reason = "the ring is built in part only"))]

pub mod frame;
pub mod shm;

mod address;
mod bootstrap;
mod channel;
mod clock;
mod error;
mod inbox;
mod listener;
mod message;
mod outbox;
mod peer;
mod receiver;
mod segment;
mod sender;
mod set;
mod sys;
#[cfg(feature = "typed")]
mod typed;

#[doc(hidden)]
pub mod overlapped {
    //! Operations on pipes, on Windows. For this workspace only: no part of the interface.
    #[allow(unused_imports, unreachable_pub, reason = "empty on other systems")]
    pub use crate::sys::{alarm::*, overlapped::*};
}

pub use address::{Address, AddressError};
pub use bootstrap::{Bootstrap, Prepared, PreparedEnd};
pub use channel::Channel;
pub use error::{RecvError, SendError, TryRecvError, TrySendError};
pub use frame::{Limits, ProtocolError};
pub use inbox::Inbox;
pub use listener::{AcceptError, Listener, ListenerOptions};
pub use message::{Attachment, Handles, Message, TakeHandleError};
pub use outbox::{Outbox, PushError};
pub use peer::{PeerIdentity, PeerPolicy};
pub use receiver::Receiver;
pub use sender::Sender;
pub use set::{ChannelId, ChannelSet, InsertError, SetEvent, SetWaker};
#[cfg(feature = "typed")]
pub use typed::{CodecError, Typed, TypedRecvError, TypedSendError, from_bytes, to_bytes};

#[doc(hidden)]
pub mod fuzzing {
    //! For this workspace's fuzz targets and tests only: no part of the interface.
    pub use crate::segment::*;
}
