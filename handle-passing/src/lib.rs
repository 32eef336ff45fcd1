//! Pass OS handles (sockets, files, pipes, shared memory) to another process, typed and leak-free.
//!
//! A handle travels with a message over a connected Unix socket, and the receiving process gets a
//! duplicate: two processes share one open socket or file then. Sending borrows,
//! receiving owns. Whatever a peer does, each handle that arrives is either given to the
//! caller or closed, is close-on-exec, and no call panics or blocks beyond what the caller allows.
//!
//! # Guide
//!
//! A server hands an accepted connection to another process, here played by the other end of a
//! socket pair:
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::{TcpListener, TcpStream};
//! use std::os::unix::net::UnixStream;
//!
//! use handle_passing::{HandleKind, expect, recv, send};
//! # use std::os::fd::AsFd;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
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
//! # What this crate does not do
//!
//! It frames no messages, queues nothing and waits for nothing; it never peeks (each peek would
//! duplicate the handles), and does not pass credentials.

mod error;
mod handle;
mod sys;

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub use error::{HandleError, RecvError, SendError};
pub use handle::{HandleKind, expect, kind};

use sys::Wait;

/// The most handles that one message can carry (Linux's `SCM_MAX_FD`).
pub const HANDLES_MAX: usize = 253;

/// Sends one message: `bytes`, and duplicates of `handles`.
///
/// Blocks while the socket's buffer is full, unless the socket is non-blocking. Never raises
/// `SIGPIPE`, and goes on when a signal interrupts. Does not allocate.
///
/// Returns how many bytes were sent. On a stream socket that may be fewer than given; `handles`
/// went with the first of them, and must not be sent again with the rest.
///
/// # Errors
///
/// Nothing was sent then; see [`SendError`].
///
/// # Examples
///
/// ```
/// use std::os::fd::AsFd;
/// use std::os::unix::net::UnixStream;
///
/// let (ours, theirs) = UnixStream::pair()?;
/// let file = std::fs::File::open("/dev/null")?;
/// assert_eq!(handle_passing::send(&ours, b"log", &[file.as_fd()])?, 3);
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "SCM_RIGHTS")]
#[doc(alias = "sendmsg")]
pub fn send(
    socket: impl AsFd,
    bytes: &[u8],
    handles: &[BorrowedFd<'_>],
) -> Result<usize, SendError> {
    sys::send(socket.as_fd(), &[IoSlice::new(bytes)], handles, Wait::AsSocket)
}

/// Like [`send`], with the bytes in several places: a header and a body, say.
///
/// # Errors
///
/// Like [`send`]. More parts than the system takes (1024 on Linux) are an I/O error.
pub fn send_vectored(
    socket: impl AsFd,
    bytes: &[IoSlice<'_>],
    handles: &[BorrowedFd<'_>],
) -> Result<usize, SendError> {
    sys::send(socket.as_fd(), bytes, handles, Wait::AsSocket)
}

/// Like [`send`], but never blocks, whatever the socket's mode is.
///
/// The mode belongs to the open socket and not to this process: a peer that shares it may have
/// cleared `O_NONBLOCK`.
///
/// # Errors
///
/// Like [`send`]; [`SendError::WouldBlock`] when the socket's buffer is full.
pub fn try_send(
    socket: impl AsFd,
    bytes: &[u8],
    handles: &[BorrowedFd<'_>],
) -> Result<usize, SendError> {
    sys::send(socket.as_fd(), &[IoSlice::new(bytes)], handles, Wait::Never)
}

/// Like [`send_vectored`], but never blocks, whatever the socket's mode is.
///
/// # Errors
///
/// Like [`try_send`].
pub fn try_send_vectored(
    socket: impl AsFd,
    bytes: &[IoSlice<'_>],
    handles: &[BorrowedFd<'_>],
) -> Result<usize, SendError> {
    sys::send(socket.as_fd(), bytes, handles, Wait::Never)
}

/// Receives one message, or the next part of a stream, and appends the handles that came with it.
///
/// Blocks while nothing is there, unless the socket is non-blocking. Goes on when a signal
/// interrupts. All handles are close-on-exec. Allocates only what `handles` needs to grow.
///
/// Returns how many bytes came, where 0 is the end of the stream: the peer has closed, and all that
/// it had sent is received.
///
/// # Errors
///
/// See [`RecvError`]. Every handle that came with the message is closed then, and `handles` is as
/// it was before.
///
/// # Examples
///
/// ```
/// use std::os::unix::net::UnixStream;
///
/// let (ours, theirs) = UnixStream::pair()?;
/// drop(theirs);
/// let mut handles = Vec::new();
/// assert_eq!(handle_passing::recv(&ours, &mut [0; 64], &mut handles)?, 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "SCM_RIGHTS")]
#[doc(alias = "recvmsg")]
pub fn recv(
    socket: impl AsFd,
    bytes: &mut [u8],
    handles: &mut Vec<OwnedFd>,
) -> Result<usize, RecvError> {
    sys::recv(socket.as_fd(), bytes, handles, Wait::AsSocket)
}

/// Like [`recv`], but never blocks, whatever the socket's mode is.
///
/// # Errors
///
/// Like [`recv`]; [`RecvError::WouldBlock`] when nothing is there.
pub fn try_recv(
    socket: impl AsFd,
    bytes: &mut [u8],
    handles: &mut Vec<OwnedFd>,
) -> Result<usize, RecvError> {
    sys::recv(socket.as_fd(), bytes, handles, Wait::Never)
}

#[doc(hidden)]
pub mod fuzzing {
    //! For this workspace's fuzz targets and tests only: no part of the interface.
    #[allow(unused_imports, unreachable_pub, reason = "empty where no fuzz target runs")]
    pub use crate::sys::fuzzing::*;
}
