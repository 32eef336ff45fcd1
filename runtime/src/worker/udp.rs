//! Datagrams.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::control::Control;
use super::{ANSWER_TIMEOUT, Worker};
use crate::address::{Address, ParseAddressError};
use crate::bound::Bound;
use crate::clock::deadline;
use crate::listen::ListenOptions;
use crate::machine::Joined;

/// A UDP socket that the workers of a cluster share: each datagram that comes is received by one of
/// them, by whoever is first.
///
/// A drop-in for `mio::net::UdpSocket`: an event source, non-blocking, that any number of threads
/// may use. All workers hold the one socket, which is open as long as the cluster, so that nothing
/// is lost while none of them listens, as long as it fits into the socket's buffer. Options that
/// are set on it (through [`AsFd`], with `socket2::SockRef`, say) are set for all of them, and so
/// is its mode: leave it non-blocking. Who wants to block calls [`wait`](Self::wait).
///
/// [Steered](crate::Dispatch::Steered), each slot has a socket of its own, and the kernel chooses
/// one for each datagram, which then waits there for that slot's worker, or its successor.
///
/// Dropping it ends this worker's share.
#[derive(Debug)]
pub struct UdpSocket {
    control: Arc<Control>,
    /// By which number the master knows it, if it does.
    listener: Option<u32>,
    address: Address,
    socket: mio::net::UdpSocket,
}

impl UdpSocket {
    /// What the socket is of, all workers' or this one's, its binder knows.
    pub(super) fn new(
        control: Arc<Control>,
        listener: Option<u32>,
        address: Address,
        socket: mio::net::UdpSocket,
    ) -> UdpSocket {
        UdpSocket { control, listener, address, socket }
    }

    /// Receives a datagram that waits, without blocking; gives its length and its sender. What does
    /// not fit into the buffer is lost.
    ///
    /// With mio, whose events are edge-triggered, call it until it says `WouldBlock`.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when none waits: another worker may have been first. What the system reports,
    /// such as `ConnectionRefused` on some systems when nobody received an earlier answer; the
    /// socket goes on.
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket.recv_from(buffer)
    }

    /// Sends a datagram from the shared address, without blocking; gives how many bytes were sent,
    /// which is all.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the socket's buffer is full; what else the system reports.
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.socket.send_to(bytes, to)
    }

    /// Blocks until a datagram waits, and says true; or says false, since the worker shall stop.
    ///
    /// What waits then is for other workers, or lost with the cluster; who wants it receives until
    /// `WouldBlock`.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let worker = runtime::Worker::from_env()?.unwrap();
    /// let socket = worker.bind("udp:127.0.0.1:5353")?;
    /// let mut buffer = [0; 1500];
    /// while socket.wait()? {
    ///     match socket.recv_from(&mut buffer) {
    ///         Ok((length, sender)) => drop(socket.send_to(&buffer[..length], sender)?),
    ///         // Another worker was first.
    ///         Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
    ///         Err(error) => return Err(error.into()),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// What the system reports.
    pub fn wait(&self) -> io::Result<bool> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [readable(self.socket.as_fd()), readable(self.control.stop_fd())];
        loop {
            if self.control.stop().is_some() {
                return Ok(false);
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) if fds[0].any() == Some(true) => return Ok(true),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The address that others send to, with the real port.
    pub fn local_address(&self) -> &Address {
        &self.address
    }
}

impl Worker {
    /// Asks the master for the socket of a UDP address; all workers that ask for it share it.
    ///
    /// `HOST:PORT` means UDP here. Port 0, and everything else, is as with
    /// [`listen`](Self::listen): the address stays open until the cluster ends, and counts as one
    /// of its 64.
    ///
    /// # Errors
    ///
    /// Those of [`listen`](Self::listen); `InvalidInput` when the address is not one of UDP.
    pub fn bind<A>(&self, address: A) -> io::Result<UdpSocket>
    where
        A: TryInto<Address>,
        A::Error: Into<ParseAddressError>,
    {
        self.bind_with(address, ListenOptions::new())
    }

    /// As [`bind`](Self::bind), and says how the address is opened if it is not open yet.
    ///
    /// # Errors
    ///
    /// Those of [`bind`](Self::bind).
    pub fn bind_with<A>(&self, address: A, options: ListenOptions) -> io::Result<UdpSocket>
    where
        A: TryInto<Address>,
        A::Error: Into<ParseAddressError>,
    {
        let address = match super::resolve(address)? {
            Address::Tcp(address) => Address::Udp(address),
            other => other,
        };
        let refuse = |why: &str| {
            let reason = format!("bind to {address}: {why}");
            Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
        };
        if let Address::Unix(_) | Address::Abstract(_) = address {
            return refuse("it is no UDP address, see Worker::listen");
        }
        let control = Arc::clone(&self.control);
        if options.exclusive {
            return match super::exclusive::open(&address, &options)? {
                (Bound::Udp(socket), address) => Ok(UdpSocket::new(control, None, address, socket)),
                _ => refuse("it is no UDP socket"),
            };
        }
        let (joined, handle, _board) =
            control.listen(&address, &options, deadline(ANSWER_TIMEOUT))?;
        let Joined { listener, address: real, .. } = joined;
        if let Address::Udp(_) = real {
            let socket = mio::net::UdpSocket::from_std(handle.into());
            return Ok(UdpSocket::new(control, Some(listener), real, socket));
        }
        control.close_listener(listener);
        refuse(&format!("it is a socket for connections to {real}, see Worker::listen"))
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        if let Some(listener) = self.listener {
            self.control.close_listener(listener);
        }
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Source for UdpSocket {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).deregister(registry)
    }
}
