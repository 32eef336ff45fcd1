//! What a handle is, and whether it is what was expected.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::HandleError;
use crate::sys;

/// What a handle stands for, as far as its user cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandleKind {
    /// A TCP socket that listens, over IPv4 or IPv6. MPTCP counts as TCP.
    TcpListener,
    /// A TCP socket that does not listen: in most cases connected, but not surely.
    TcpStream,
    /// A UDP socket.
    UdpSocket,
    /// A Unix stream socket that listens.
    UnixListener,
    /// A Unix stream socket that does not listen.
    UnixStream,
    /// A Unix seqpacket socket that listens.
    UnixSeqpacketListener,
    /// A Unix seqpacket socket that does not listen.
    UnixSeqpacket,
    /// A Unix datagram socket.
    UnixDatagram,
    /// Either end of a pipe, or a FIFO.
    Pipe,
    /// A regular file, also one that is only in memory (memfd).
    File,
    /// A directory.
    Directory,
    /// A character device: a terminal, `/dev/null`.
    CharDevice,
    /// Anything else, such as a raw or netlink socket, an epoll, event, timer or process
    /// descriptor, a block device, or a descriptor opened with `O_PATH`.
    Other,
}

impl fmt::Display for HandleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TcpListener => "a TCP listener",
            Self::TcpStream => "a TCP stream",
            Self::UdpSocket => "a UDP socket",
            Self::UnixListener => "a Unix listener",
            Self::UnixStream => "a Unix stream",
            Self::UnixSeqpacketListener => "a Unix seqpacket listener",
            Self::UnixSeqpacket => "a Unix seqpacket socket",
            Self::UnixDatagram => "a Unix datagram socket",
            Self::Pipe => "a pipe",
            Self::File => "a file",
            Self::Directory => "a directory",
            Self::CharDevice => "a character device",
            Self::Other => "something else",
        })
    }
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
    sys::kind(handle.as_fd())
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
    Ok(handles)
}
