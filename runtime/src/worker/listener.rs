use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::connection::Connection;
use super::control::{Control, Stop};
use crate::address::{Address, Peer};
use crate::machine::Joined;
use crate::mailbox::{Taken, Taker};
use crate::sys;

/// How long `incoming` rests when the process has no descriptor left.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// Gives this worker its share of the connections to an address.
///
/// A drop-in for `mio::net::TcpListener`: an event source with [`accept`](Self::accept), which any
/// number of threads may call. Its descriptor becomes readable when a connection waits, so any
/// other loop can watch it too. A connection is the worker's from the moment that `accept` returns
/// it; until then it survives the worker. So take one when you can serve one, not more.
#[derive(Debug)]
pub struct Listener {
    control: Arc<Control>,
    id: u32,
    address: Address,
    mailbox: OwnedFd,
    taker: Mutex<Taker>,
}

impl Listener {
    pub(super) fn new(control: Arc<Control>, joined: Joined, mailbox: OwnedFd) -> Listener {
        let Joined { listener: id, address, .. } = joined;
        Listener { control, id, address, mailbox, taker: Mutex::default() }
    }

    /// Takes a connection that waits, without blocking. It is in non-blocking mode.
    ///
    /// With mio, whose events are edge-triggered, call it until it says `WouldBlock`, also after
    /// the worker was asked to stop: what waits then is for it to serve.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when none waits. When this process has no descriptor left, the error says so
    /// (`EMFILE`) and the connection goes on waiting, or to another worker; try again a little
    /// later, since no event tells when there are descriptors again.
    pub fn accept(&self) -> io::Result<(Connection, Peer)> {
        if self.control.stop() == Some(Stop::AtOnce) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match self.take()? {
            Taken::Connection(accepted) => {
                Ok((Connection::new(accepted.socket, accepted.peer), accepted.peer))
            }
            Taken::Empty | Taken::Closed => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Connections in blocking mode, one after the other; blocks while none waits, or this process
    /// has no descriptor left, and ends when the worker was asked to stop and none waits any more.
    ///
    /// ```no_run
    /// use std::io::Write;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let worker = runtime::Worker::from_env()?.unwrap();
    /// for connection in worker.listen("127.0.0.1:8080")?.incoming() {
    ///     connection?.write_all(b"hello\n")?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }

    /// The address that clients connect to, with the real port.
    pub fn local_address(&self) -> &Address {
        &self.address
    }

    fn take(&self) -> io::Result<Taken> {
        self.taker.lock().unwrap_or_else(PoisonError::into_inner).take(self.mailbox.as_fd())
    }

    /// Blocks until a connection waits, or the worker shall stop.
    fn wait(&self) -> io::Result<()> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [readable(self.mailbox.as_fd()), readable(self.control.stop_fd())];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.control.close_listener(self.id);
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mailbox.as_fd()
    }
}

impl Source for Listener {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.mailbox.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.mailbox.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.mailbox.as_raw_fd()).deregister(registry)
    }
}

/// The iterator of [`Listener::incoming`].
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a Listener,
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<Connection>;

    fn next(&mut self) -> Option<io::Result<Connection>> {
        loop {
            // Before the look into the mailbox: what is put in before the request to stop is taken.
            let stop = self.listener.control.stop();
            if stop == Some(Stop::AtOnce) {
                return None;
            }
            match self.listener.take() {
                Ok(Taken::Connection(accepted)) => {
                    let connection = Connection::new(accepted.socket, accepted.peer);
                    return Some(connection.set_nonblocking(false).map(|()| connection));
                }
                Ok(Taken::Closed) => return None,
                Ok(Taken::Empty) if stop.is_some() => return None,
                Ok(Taken::Empty) => {
                    if let Err(error) = self.listener.wait() {
                        return Some(Err(error));
                    }
                }
                Err(error) if sys::is_shortage(&error) => {
                    tracing::warn!(%error, "connections wait until there are descriptors again");
                    self.listener.control.pause(SHORTAGE_PAUSE);
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
