use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use handle_passing::{RecvError, SendError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getpeername, getsockname, getsockopt,
    sockopt,
};

use super::{Received, Sent};
use crate::ProtocolError;

/// Most slices in one write. Linux would take 1024, but the bytes of so many do not fit in a
/// socket's buffer anyway.
const SLICES_MAX: usize = 16;

#[derive(Debug)]
pub(crate) struct Socket(UnixStream);

impl Socket {
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        UnixStream::pair().map(|(a, b)| (Self(a), Self(b)))
    }

    pub(crate) fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        match describe_other_than_connected_unix_stream(fd.as_fd())? {
            None => Ok(Self(fd.into())),
            Some(other) => {
                let reason = format!("a channel needs a connected Unix stream socket, not {other}");
                Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
            }
        }
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0.into()
    }

    pub(crate) fn send<'a>(
        &self,
        slices: impl Iterator<Item = &'a [u8]>,
        handles: &[OwnedFd],
    ) -> io::Result<Sent> {
        let mut vectors = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for (vector, slice) in vectors.iter_mut().zip(slices) {
            *vector = IoSlice::new(slice);
            count += 1;
        }
        let handles: Vec<BorrowedFd<'_>> = handles.iter().map(AsFd::as_fd).collect();
        match handle_passing::try_send_vectored(&self.0, &vectors[..count], &handles) {
            Ok(bytes) => Ok(Sent::Bytes(bytes)),
            Err(SendError::WouldBlock) => Ok(Sent::Full),
            Err(SendError::TooManyInFlight) => Ok(Sent::Throttled),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn recv(
        &self,
        bytes: &mut [u8],
        handles: &mut Vec<OwnedFd>,
    ) -> io::Result<Received> {
        match handle_passing::try_recv(&self.0, bytes, handles) {
            Ok(0) => Ok(Received::Closed),
            Ok(count) => Ok(Received::Bytes(count)),
            Err(RecvError::WouldBlock) => Ok(Received::Nothing),
            Err(RecvError::HandlesTruncated { .. }) => {
                Ok(Received::Broken(ProtocolError::HandlesTruncated))
            }
            Err(
                RecvError::UnexpectedControl | RecvError::NoBytes | RecvError::MessageTruncated,
            ) => Ok(Received::Broken(ProtocolError::UnexpectedAncillary)),
            Err(error @ (RecvError::Io(_) | RecvError::NoBuffer)) => Err(error.into()),
        }
    }

    pub(crate) fn wait_readable(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.wait(PollFlags::POLLIN, timeout)
    }

    pub(crate) fn wait_writable(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.wait(PollFlags::POLLOUT, timeout)
    }

    /// Returns early only when the peer is gone.
    pub(crate) fn pause(&self, timeout: Duration) -> io::Result<()> {
        self.wait(PollFlags::empty(), Some(timeout))
    }

    pub(crate) fn shutdown(&self) -> io::Result<()> {
        match self.0.shutdown(Shutdown::Both) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    fn wait(&self, events: PollFlags, timeout: Option<Duration>) -> io::Result<()> {
        // Rounded up, so that a caller whose time is not quite over does not spin.
        let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
            let millis = timeout.as_nanos().div_ceil(1_000_000);
            i32::try_from(millis).map_or(PollTimeout::MAX, |millis| {
                PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
            })
        });
        match poll(&mut [PollFd::new(self.as_fd(), events)], timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Says what the descriptor is, unless it is what a channel needs.
fn describe_other_than_connected_unix_stream(fd: BorrowedFd<'_>) -> io::Result<Option<String>> {
    let kind = match getsockopt(&fd, sockopt::SockType) {
        Err(Errno::ENOTSOCK) => return Ok(Some("something that is no socket".into())),
        kind => kind?,
    };
    let family = getsockname::<SockaddrStorage>(raw(fd))?.family();
    if family != Some(AddressFamily::Unix) || kind != SockType::Stream {
        let family = family.map_or("unknown".into(), |family| format!("{family:?}"));
        return Ok(Some(format!("a socket of family {family} and type {kind:?}")));
    }
    match getpeername::<SockaddrStorage>(raw(fd)) {
        Err(Errno::ENOTCONN) => Ok(Some("one that is not connected".into())),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(None),
    }
}

fn raw(fd: BorrowedFd<'_>) -> std::os::fd::RawFd {
    std::os::fd::AsRawFd::as_raw_fd(&fd)
}
