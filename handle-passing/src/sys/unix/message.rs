//! Messages that carry handles over a Unix socket, and what a received descriptor is.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Wait, raw};
use crate::{HandleError, HandleKind, RecvError, SendError};

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
    super::send(socket.as_fd(), &[IoSlice::new(bytes)], handles, Wait::AsSocket)
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
    super::send(socket.as_fd(), bytes, handles, Wait::AsSocket)
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
    super::send(socket.as_fd(), &[IoSlice::new(bytes)], handles, Wait::Never)
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
    super::send(socket.as_fd(), bytes, handles, Wait::Never)
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
    super::recv(socket.as_fd(), &mut [RecvBuffer::Slice(bytes)], handles, Wait::AsSocket)
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
    super::recv(socket.as_fd(), &mut [RecvBuffer::Slice(bytes)], handles, Wait::Never)
}

/// Like [`recv`], with several places for the bytes, which are filled one after the other: a header
/// and a body, say.
///
/// # Errors
///
/// Like [`recv`]. More than 8 places are an I/O error.
///
/// # Examples
///
/// ```
/// use std::os::unix::net::UnixStream;
/// use handle_passing::RecvBuffer;
///
/// let (ours, theirs) = UnixStream::pair()?;
/// handle_passing::send(&ours, b"4:body", &[])?;
/// let (mut header, mut body) = ([0; 2], Vec::with_capacity(100));
/// let mut buffers = [RecvBuffer::Slice(&mut header), RecvBuffer::Spare(&mut body)];
/// assert_eq!(handle_passing::recv_vectored(&theirs, &mut buffers, &mut Vec::new())?, 6);
/// assert_eq!((&header, body.as_slice()), (b"4:", b"body".as_slice()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn recv_vectored(
    socket: impl AsFd,
    bytes: &mut [RecvBuffer<'_>],
    handles: &mut Vec<OwnedFd>,
) -> Result<usize, RecvError> {
    super::recv(socket.as_fd(), bytes, handles, Wait::AsSocket)
}

/// Like [`recv_vectored`], but never blocks, whatever the socket's mode is.
///
/// # Errors
///
/// Like [`recv_vectored`]; [`RecvError::WouldBlock`] when nothing is there.
pub fn try_recv_vectored(
    socket: impl AsFd,
    bytes: &mut [RecvBuffer<'_>],
    handles: &mut Vec<OwnedFd>,
) -> Result<usize, RecvError> {
    super::recv(socket.as_fd(), bytes, handles, Wait::Never)
}

/// Where received bytes go.
#[derive(Debug)]
pub enum RecvBuffer<'a> {
    /// Over what the slice holds.
    Slice(&'a mut [u8]),
    /// To the end of the vector, as far as its capacity goes. It costs no time to fill that with
    /// zeros first. On an error, the vector is as it was before.
    Spare(&'a mut Vec<u8>),
}

/// Refuses handles that a peer sends over this socket (`SO_PASSRIGHTS`): its attempt fails with
/// `EPERM`, and nothing of it arrives. For an end that never takes handles from its peer.
///
/// It holds for the open socket, so also for other processes that share it. Who receives on it is
/// safe without: [`recv`] gives out or closes whatever comes.
///
/// # Errors
///
/// `Unsupported` where the system can't do it: before Linux 6.16, and on other systems.
#[doc(alias = "SO_PASSRIGHTS")]
pub fn refuse_handles(socket: impl AsFd) -> io::Result<()> {
    super::os::refuse_handles(socket.as_fd())
}

/// Tells what a handle is, by asking the kernel: two to four system calls, none of which blocks.
///
/// # Errors
///
/// The kernel's, which does not happen for an open descriptor on Linux.
///
/// # Examples
///
/// ```
/// use handle_passing::{HandleKind, kind};
///
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// assert_eq!(kind(&listener)?, HandleKind::TcpListener);
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "SO_ACCEPTCONN")]
pub fn kind(handle: impl AsFd) -> io::Result<HandleKind> {
    super::kind(handle.as_fd())
}

/// Checks that received handles are exactly those that were announced, in this order.
///
/// The announcement comes from the bytes of the same message, or is known beforehand: a mailbox of
/// connections expects one [`HandleKind::TcpStream`] each time. A handle that is not what its
/// receiver takes it for is more than a nuisance: reading a pipe that was taken for a
/// socket may block for ever, and Unix sockets in flight can form cycles that only the kernel's
/// garbage collector finds.
///
/// # Errors
///
/// When count or kinds differ; all handles are closed then.
///
/// # Examples
///
/// ```
/// use handle_passing::{HandleError, HandleKind, expect};
///
/// let (reader, _writer) = std::io::pipe()?;
/// let error = expect(vec![reader.into()], &[HandleKind::TcpStream]).unwrap_err();
/// assert!(matches!(error, HandleError::WrongKind { found: HandleKind::Pipe, .. }));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn expect(handles: Vec<OwnedFd>, kinds: &[HandleKind]) -> Result<Vec<OwnedFd>, HandleError> {
    match check(&handles, kinds) {
        Ok(()) => Ok(handles),
        Err(error) => {
            handles.into_iter().for_each(raw::close);
            Err(error)
        }
    }
}

fn check(handles: &[OwnedFd], kinds: &[HandleKind]) -> Result<(), HandleError> {
    let (expected, received) = (kinds.len(), handles.len());
    if received < expected {
        return Err(HandleError::Missing { expected, received });
    }
    if received > expected {
        return Err(HandleError::Surplus { expected, received });
    }
    for (index, (handle, &expected)) in handles.iter().zip(kinds).enumerate() {
        let found = kind(handle).map_err(HandleError::Io)?;
        if found != expected {
            return Err(HandleError::WrongKind { index, expected, found });
        }
    }
    Ok(())
}
