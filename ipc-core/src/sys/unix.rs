mod bell;
pub(super) mod bootstrap;
mod channel;
mod directory;
mod listener;
pub(super) mod named;

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use handle_passing::{HANDLES_MAX, Handle, RecvBuffer, RecvError, SendError};
use mio::event::Source as _;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getpeername, getsockname, getsockopt,
    sockopt,
};
use socket2::{Domain, Type};

use super::{Received, Sent, Wait};
use crate::ProtocolError;
use crate::frame::{DIRECT_BYTES, HEADER_BYTES, PACKET_BYTES_MAX, Room};

pub(crate) use bell::Bell;

/// Most slices in one write. Linux would take 1024, but the bytes of so many do not fit in a
/// socket's buffer anyway.
const SLICES_MAX: usize = 16;

/// The longest packet. A longer one costs less per byte, but then only one at a time fits in a
/// socket's buffer.
const PART_BYTES_MAX: usize = 192 * 1024;

/// More than the system keeps free in a socket's buffer beside a packet.
const OVERHEAD_BYTES_MAX: usize = 256;

/// What a read delivers beside the bytes.
pub(crate) type ReceivedHandle = OwnedFd;

pub(crate) fn into_handle(received: ReceivedHandle) -> Handle {
    Handle::received(received)
}

#[derive(Debug)]
pub(crate) struct Socket {
    /// Not only streams: std's type serves for what all sockets have in common.
    socket: UnixStream,
    is_of_packets: bool,
    /// Only Unix sockets can.
    carries_handles: bool,
}

impl Socket {
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        UnixStream::pair().map(|(a, b)| (Self::stream(a), Self::stream(b)))
    }

    pub(crate) fn packet_pair() -> io::Result<(Self, Self)> {
        let (a, b) = socket2::Socket::pair(Domain::UNIX, Type::SEQPACKET, None)?;
        Ok((Self::connected(a.into(), true), Self::connected(b.into(), true)))
    }

    pub(crate) fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let (family, kind) = connected_socket(fd.as_fd()).map_err(|error| match error {
            Unsuitable::Is(what) => {
                let reason = format!("a channel needs a connected socket, not {what}");
                io::Error::new(io::ErrorKind::InvalidInput, reason)
            }
            Unsuitable::Io(error) => error,
        })?;
        let is_unix = family == AddressFamily::Unix;
        Ok(Self {
            socket: fd.into(),
            is_of_packets: kind == SockType::SeqPacket,
            carries_handles: is_unix,
        })
    }

    pub(crate) fn is_of_packets(&self) -> bool {
        self.is_of_packets
    }

    /// Less than the socket's buffer, which counts what the system adds to it, too. By default,
    /// Linux takes 212,960 bytes.
    pub(crate) fn packet_bytes_max(&self) -> usize {
        let buffer_bytes = getsockopt(&self.socket, sockopt::SndBuf).unwrap_or(PACKET_BYTES_MAX);
        // The other side takes no part of a short frame, so with less the system may refuse it.
        let least = HEADER_BYTES + DIRECT_BYTES + HANDLES_MAX;
        PART_BYTES_MAX.min(buffer_bytes.saturating_sub(OVERHEAD_BYTES_MAX)).max(least)
    }

    pub(crate) fn check_handles(&self, count: usize) -> io::Result<()> {
        if count == 0 || self.carries_handles {
            return Ok(());
        }
        let reason = "this channel's socket can't carry handles, only a Unix socket can";
        Err(io::Error::new(io::ErrorKind::Unsupported, reason))
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.socket.into()
    }

    pub(crate) fn send<'a>(
        &self,
        slices: impl Iterator<Item = &'a [u8]>,
        handles: impl Iterator<Item = &'a Handle>,
        wait: Wait,
    ) -> io::Result<Sent> {
        let mut vectors = [IoSlice::new(&[]); SLICES_MAX];
        let slices = slices.filter(|slice| !slice.is_empty());
        let count = vectors.iter_mut().zip(slices).map(|(v, s)| *v = IoSlice::new(s)).count();
        let mut vectors = &vectors[..count];
        let handles: Vec<BorrowedFd<'_>> = handles.map(AsFd::as_fd).collect();
        let send = match wait {
            Wait::MayBlock => handle_passing::send_vectored,
            Wait::Never => handle_passing::try_send_vectored,
        };
        let mut sent = send(self.as_fd(), vectors, &handles);
        // For a long packet, Linux needs memory in one piece. If it is that which lacks, and not
        // that the peer must read first, a shorter part of the same message still goes.
        let short;
        if let (Err(SendError::WouldBlock | SendError::NoMemory), [one]) = (&sent, vectors)
            && self.is_of_packets
            && one.len() > PACKET_BYTES_MAX
        {
            short = [IoSlice::new(&one[..PACKET_BYTES_MAX])];
            vectors = &short;
            sent = send(self.as_fd(), vectors, &handles);
        }
        outcome(sent)
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8], wait: Wait) -> io::Result<Sent> {
        outcome(match wait {
            Wait::MayBlock => handle_passing::send(&self.socket, bytes, &[]),
            Wait::Never => handle_passing::try_send(&self.socket, bytes, &[]),
        })
    }

    pub(crate) fn recv(
        &self,
        room: Room<'_>,
        handles: &mut Vec<OwnedFd>,
        wait: Wait,
    ) -> io::Result<Received> {
        let recv = match wait {
            Wait::MayBlock => handle_passing::recv_vectored,
            Wait::Never => handle_passing::try_recv_vectored,
        };
        let head = RecvBuffer::Slice(room.head);
        let received = match room.body {
            None => recv(self.as_fd(), &mut [head], handles),
            Some(body) => {
                let parts = [head, RecvBuffer::Spare(body), RecvBuffer::Slice(room.tail)];
                recv(self.as_fd(), &mut { parts }, handles)
            }
        };
        match received {
            Ok(0) => Ok(Received::Closed),
            Ok(count) => Ok(Received::Bytes(count)),
            Err(RecvError::WouldBlock) => Ok(Received::Nothing),
            Err(RecvError::HandlesTruncated { .. }) => {
                Ok(Received::Broken(ProtocolError::HandlesTruncated))
            }
            Err(RecvError::UnexpectedControl) => {
                Ok(Received::Broken(ProtocolError::UnexpectedAncillary))
            }
            Err(RecvError::NoBytes) => Ok(Received::Broken(ProtocolError::CutFrame)),
            Err(RecvError::MessageTruncated) => Ok(Received::Broken(ProtocolError::PacketTooLarge)),
            Err(error @ (RecvError::Io(_) | RecvError::NoBuffer)) => Err(error.into()),
        }
    }

    pub(crate) fn wait_readable(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.wait(PollFlags::POLLIN, timeout)
    }

    pub(crate) fn wait_writable(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.wait(PollFlags::POLLOUT, timeout)
    }

    pub(crate) fn wait_either(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.wait(PollFlags::POLLIN | PollFlags::POLLOUT, timeout)
    }

    /// Returns early only when the peer is gone.
    pub(crate) fn pause(&self, timeout: Duration) -> io::Result<()> {
        self.wait(PollFlags::empty(), Some(timeout))
    }

    pub(crate) fn register(
        &self,
        registry: &Registry,
        token: Token,
        on: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).register(registry, token, on)
    }

    pub(crate) fn reregister(
        &self,
        registry: &Registry,
        token: Token,
        on: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).reregister(registry, token, on)
    }

    pub(crate) fn deregister(&self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).deregister(registry)
    }

    pub(crate) fn has_left(&self) -> io::Result<bool> {
        Ok(true)
    }

    pub(crate) fn shutdown(&self) -> io::Result<()> {
        match self.socket.shutdown(Shutdown::Both) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    fn stream(socket: UnixStream) -> Self {
        Self { socket, is_of_packets: false, carries_handles: true }
    }

    /// A socket that is known to be a connected Unix one.
    fn connected(fd: OwnedFd, is_of_packets: bool) -> Self {
        Self { is_of_packets, ..Self::stream(UnixStream::from(fd)) }
    }

    fn wait(&self, events: PollFlags, timeout: Option<Duration>) -> io::Result<()> {
        wait(self.as_fd(), events, timeout)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn wait(fd: BorrowedFd<'_>, events: PollFlags, timeout: Option<Duration>) -> io::Result<()> {
    poll_for(&mut [PollFd::new(fd, events)], timeout)
}

fn poll_for(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    // Rounded up, so that a caller whose time is not quite over does not spin.
    let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
        let millis = timeout.as_nanos().div_ceil(1_000_000);
        i32::try_from(millis).map_or(PollTimeout::MAX, |millis| {
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        })
    });
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn outcome(sent: Result<usize, SendError>) -> io::Result<Sent> {
    match sent {
        Ok(bytes) => Ok(Sent::Bytes(bytes)),
        Err(SendError::WouldBlock) => Ok(Sent::Full),
        // For neither does the socket become writable: it is, all the while.
        Err(SendError::TooManyInFlight | SendError::NoMemory) => Ok(Sent::Throttled),
        Err(error) => Err(error.into()),
    }
}

/// Why a descriptor is good for no channel.
enum Unsuitable {
    Is(String),
    Io(io::Error),
}

impl<E: Into<io::Error>> From<E> for Unsuitable {
    fn from(error: E) -> Self {
        Self::Io(error.into())
    }
}

/// The family and type of a socket that a channel can use.
fn connected_socket(fd: BorrowedFd<'_>) -> Result<(AddressFamily, SockType), Unsuitable> {
    let kind = match getsockopt(&fd, sockopt::SockType) {
        Err(Errno::ENOTSOCK) => return Err(Unsuitable::Is("something that is no socket".into())),
        kind => kind?,
    };
    let family = getsockname::<SockaddrStorage>(raw(fd))?.family();
    let is_unix = family == Some(AddressFamily::Unix);
    match family {
        Some(family) if kind == SockType::Stream || is_unix && kind == SockType::SeqPacket => {
            match getpeername::<SockaddrStorage>(raw(fd)) {
                Err(Errno::ENOTCONN) => Err(Unsuitable::Is("one that is not connected".into())),
                Err(error) => Err(error.into()),
                Ok(_) => Ok((family, kind)),
            }
        }
        family => {
            let family = family.map_or("unknown".into(), |family| format!("{family:?}"));
            Err(Unsuitable::Is(format!("a socket of family {family} and type {kind:?}")))
        }
    }
}

fn raw(fd: BorrowedFd<'_>) -> std::os::fd::RawFd {
    std::os::fd::AsRawFd::as_raw_fd(&fd)
}
