//! Pass OS handles (sockets, files, pipes, shared memory) to another process, typed and leak-free.
//!
//! A handle travels with a message over a connected Unix socket, or on Windows is pushed into the
//! other process, which gets a duplicate: two processes share one open socket or file then. Sending
//! borrows, receiving owns. Whatever a peer does, each handle that arrives is either given to the
//! caller or closed, is close-on-exec, and no call panics or blocks beyond what the caller allows.
//! (One thing is out of reach: closing a file of a FUSE file system waits for the process that
//! serves it, so a peer that may mount one can make whoever closes its file wait.)
//!
//! # Guide
//!
//! A server hands an accepted connection to another process, here played by the other end of a
//! socket pair:
//!
//! ```
//! # #[cfg(not(unix))]
//! # fn main() {}
//! # #[cfg(unix)]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::io::{Read, Write};
//! use std::net::{TcpListener, TcpStream};
//! use std::os::unix::net::UnixStream;
//!
//! use handle_passing::{HandleKind, expect, recv, send};
//! # use std::os::fd::AsFd;
//!
//! let (master, worker) = UnixStream::pair()?;
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let mut client = TcpStream::connect(listener.local_addr()?)?;
//!
//! // The master: a message needs at least one byte. Its own copy may go once the message is sent.
//! let (connection, _peer) = listener.accept()?;
//! send(&master, b"c", &[connection.as_fd()])?;
//! drop(connection);
//!
//! // The worker: takes what came, and nothing but what it expects.
//! let mut bytes = [0; 16];
//! let mut handles = Vec::new();
//! let len = recv(&worker, &mut bytes, &mut handles)?;
//! assert_eq!(&bytes[..len], b"c");
//! let handles = expect(handles, &[HandleKind::TcpStream])?;
//! for handle in handles {
//!     TcpStream::from(handle).write_all(b"hello")?;
//! }
//!
//! let mut greeting = String::new();
//! client.read_to_string(&mut greeting)?;
//! assert_eq!(greeting, "hello");
//! # Ok(())
//! # }
//! ```
//!
//! ## Handles that say what they are
//!
//! [`Handle`] holds a handle of any kind together with the [kind](HandleKind) that its sender
//! announces: it is made from a `TcpListener`, a `File` and so on, and becomes one again by
//! [`Handle::into_type`], which asks the system first. A kind has a number for the wire
//! ([`HandleKind::code`]). With the features `mio` and `socket2` the types of these crates convert
//! too.
//!
//! ```
//! use std::net::UdpSocket;
//! use handle_passing::{Handle, HandleKind};
//!
//! let sent = Handle::from(UdpSocket::bind("127.0.0.1:0")?);
//! let code = sent.kind().code();
//!
//! // In the process that has received `code`, and a handle with it:
//! let received = sent.announced(HandleKind::from_code(code).ok_or("unknown kind")?);
//! let socket = received.into_type::<UdpSocket>()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ## Which socket
//!
//! *Seqpacket* (`SOCK_SEQPACKET`, on Linux and the BSDs) keeps messages apart: handles arrive with
//! exactly the bytes that they were sent with. A *stream* glues messages together, up to
//! and including the next one with handles, and cuts them where the reader's buffer ends; handles
//! come with the first byte of their message, and two sets of handles never come at once. So on a
//! stream, the bytes must say how many handles belong to what.
//!
//! All reading must be done by [`recv`] or [`try_recv`]: the kernel closes handles that a plain
//! `read` passes over.
//!
//! ## Partial sends
//!
//! On a stream socket, [`send`] may take fewer bytes than it was given. The handles went with
//! them: send the rest *without* handles, or the peer gets them twice.
//!
//! ## Full is not broken
//!
//! A socket takes a bounded number of messages (278 small ones by Linux's default), and a user's
//! descriptors in flight are limited too. Both are back-pressure, see
//! [`SendError::is_back_pressure`]; the handles are only borrowed, so the caller still has them and
//! may send them to somebody else.
//!
//! ## What is shared
//!
//! Both processes' handles refer to the same open file: `O_NONBLOCK`, file position and socket
//! options are shared. A peer can switch a socket back to blocking; who must never block uses
//! [`try_send`] and [`try_recv`], which don't rely on `O_NONBLOCK`. And a handle that is registered
//! with an epoll must be removed from it *before* it is passed on: closing it does not do that
//! while another process holds it, and its events go on.
//!
//! ## Many at once
//!
//! Up to [`HANDLES_MAX`] handles in one message cost a fifth to a tenth of sending each by itself.
//! The price is that a receiver that dies has lost them all.
//!
//! ## On Windows
//!
//! There is no message that carries handles. Who has the handle of another process, as a parent
//! has its child's, makes a `Target` of it and opens duplicates in that process by `push`; the
//! other process learns by a token, bytes to be sent over a pipe, say, what it has been given, and
//! takes it up by `adopt`. A token that could not be delivered is dropped, which closes the
//! duplicate. [`Handle`] and its conversions are the same; sockets are pushed as Windows wants it
//! (`WSADuplicateSocketW`).
//!
//! It works in one direction only: a parent that took a handle's number from its child, or
//! duplicated one out of it, could be made to open, use or close any handle. And a pipe end or file
//! that is registered with a completion port, as mio's pipes are, stays with it: push it before.
//!
//! # What this crate does not do
//!
//! It frames no messages, queues nothing and waits for nothing; it never peeks (each peek would
//! duplicate the handles), and does not pass credentials.

mod error;
mod handle;
mod kind;
mod sys;
mod token;

pub use error::{HandleError, RecvError, SendError};
pub use handle::{EventHandle, FromHandle, FromHandleError, Handle, MemoryHandle, ProcessHandle};
pub use kind::HandleKind;
pub use sys::api::*;

/// The most handles that one message can carry (Linux's `SCM_MAX_FD`).
pub const HANDLES_MAX: usize = 253;

#[doc(hidden)]
pub mod fuzzing {
    //! For this workspace's fuzz targets and tests only: no part of the interface.
    #[allow(unused_imports, unreachable_pub, reason = "empty where no fuzz target runs")]
    pub use crate::sys::fuzzing::*;
    pub use crate::token::{DESCRIPTION_BYTES, Token, TokenError, is_handle_number};
}
