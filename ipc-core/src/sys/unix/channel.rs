//! Channels and descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::Socket;
use crate::{Channel, Receiver, Sender};

impl Channel {
    /// The end of a connection that somebody else made: inherited, received, or accepted. The
    /// limits are the default ones.
    ///
    /// It may be a Unix socket, stream or seqpacket, or another stream socket, TCP say: that
    /// carries no handles.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when the descriptor is not such a socket, or not connected; the error says
    /// what it is instead.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Socket::from_fd(fd).map(Self::new)
    }

    /// The descriptor. What is queued and not sent is dropped, and so is what has been read from
    /// the socket and not been given out.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        let (sender, receiver) = self.into_split();
        drop(sender);
        let socket = Arc::into_inner(receiver.socket);
        socket.expect("only the two halves share the socket, and one is gone").into_fd()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl AsFd for Sender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
