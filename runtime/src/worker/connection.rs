use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mio::net::{TcpStream, UnixStream};

use super::tally::OpenConnection;
use crate::address::Peer;

/// A client's connection: TCP or Unix-domain, as the address it came to.
///
/// Reads, writes and registers with mio alike for both. While it exists it counts as open: policies
/// that look at the number of connections, and the worker's own limit, go by that. To get at the
/// stream itself take it [apart](Self::into_parts), or convert it to a descriptor, of which the
/// standard library's and other crates' streams are made; it no longer counts then.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    open: OpenConnection,
}

/// The stream of a [`Connection`].
#[derive(Debug)]
pub enum Stream {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A Unix-domain connection.
    Unix(UnixStream),
}

impl Connection {
    pub(super) fn new(socket: OwnedFd, peer: Peer, open: OpenConnection) -> Connection {
        let stream = match peer {
            Peer::Tcp(_) => Stream::Tcp(TcpStream::from_std(socket.into())),
            Peer::Unix => Stream::Unix(UnixStream::from_std(socket.into())),
        };
        Connection { stream, open }
    }

    /// The stream, and what counts it as open while it is kept.
    pub fn into_parts(self) -> (Stream, OpenConnection) {
        (self.stream, self.open)
    }

    /// Whether reads and writes return `WouldBlock` instead of blocking.
    ///
    /// # Errors
    ///
    /// What the system reports.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        socket2::SockRef::from(self).set_nonblocking(nonblocking)
    }

    /// Whether TCP sends small segments at once; without effect on a Unix-domain connection.
    ///
    /// # Errors
    ///
    /// What the system reports.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_nodelay(nodelay),
            Stream::Unix(_) => Ok(()),
        }
    }

    /// Closes the reading half, the writing half, or both.
    ///
    /// # Errors
    ///
    /// What the system reports.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(how),
            Stream::Unix(stream) => stream.shutdown(how),
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.read_vectored(buffers),
            Stream::Unix(stream) => stream.read_vectored(buffers),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write(buffer),
            Stream::Unix(stream) => stream.write(buffer),
        }
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_vectored(buffers),
            Stream::Unix(stream) => stream.write_vectored(buffers),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl From<Connection> for OwnedFd {
    fn from(connection: Connection) -> OwnedFd {
        match connection.stream {
            Stream::Tcp(stream) => stream.into(),
            Stream::Unix(stream) => stream.into(),
        }
    }
}

source_by_descriptor!(Connection);
