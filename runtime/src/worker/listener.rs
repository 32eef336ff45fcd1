use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::event::Source;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::connection::Connection;
use super::control::Control;
use super::intake::Intake;
use crate::address::{Address, Peer};
use crate::sys::{self, ExclusiveWait};

/// How long `incoming` rests when the process has no descriptor left.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// How often a thread that waits for one of its connections to end looks whether it shall stop.
const ROOM_PAUSE: Duration = Duration::from_millis(50);

/// Gives this worker its share of the connections to an address.
///
/// A drop-in for `mio::net::TcpListener`: an event source with [`accept`](Self::accept), which any
/// number of threads may call. A connection is the worker's from the moment that `accept` returns
/// it; until then it survives the worker. So take one when you can serve one, not more.
///
/// Its descriptor becomes readable when a connection waits, so any other loop can watch it too. But
/// where the workers share one socket ([`Dispatch::Shared`](crate::Dispatch::Shared), the default
/// for round-robin) only mio and [`incoming`](Self::incoming) take part in the kernel's rotation:
/// with another loop, choose [`Dispatch::Handoff`](crate::Dispatch::Handoff), or shares are uneven.
#[derive(Debug)]
pub struct Listener {
    control: Arc<Control>,
    intake: Arc<Intake>,
}

impl Listener {
    pub(super) fn new(control: Arc<Control>, intake: Arc<Intake>) -> Listener {
        Listener { control, intake }
    }

    /// Takes a connection that waits, without blocking. It is in non-blocking mode.
    ///
    /// With mio call it until it says `WouldBlock`, also after the worker was asked to stop: what
    /// waits then is for it to serve. `WouldBlock` does not always mean that none waits: it may be
    /// others' turn, or the worker may have as many as it wants; then mio tells of the next one.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none for this worker. When this process has no descriptor left,
    /// the error says so (`EMFILE`) and the connection goes on waiting, or to another worker; try
    /// again a little later, since no event tells when there are descriptors again. `NotConnected`
    /// when somebody has shut the socket down, which the workers share: it listens no more.
    pub fn accept(&self) -> io::Result<(Connection, Peer)> {
        self.intake.take_in_turn()?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
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
        Incoming { listener: self, wait: None, taken: 0 }
    }

    /// The address that clients connect to, with the real port.
    pub fn local_address(&self) -> &Address {
        self.intake.address()
    }

    /// How many connections this worker has open of this listener.
    ///
    /// One counts until its [`Connection`] is dropped, or the
    /// [`OpenConnection`](crate::OpenConnection) that was taken out of it.
    pub fn open_connections(&self) -> u32 {
        self.intake.tally().open()
    }

    /// Takes no more connections than these at a time: while so many are open, others get what
    /// comes, or it waits.
    ///
    /// Others get it at once where they [share](crate::Dispatch::Shared) the socket, and after
    /// `stall_timeout` where connections are [handed over](crate::Dispatch::Handoff). What the
    /// kernel [steers](crate::Dispatch::Steered) to this worker waits until it has room.
    pub fn set_connections_max(&self, connections: u32) {
        self.intake.tally().set_max(connections);
    }

    /// Blocks until a connection waits, or the worker shall stop.
    fn wait(&self) -> io::Result<()> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [readable(self.intake.as_fd()), readable(self.control.stop_fd())];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.control.forget(&self.intake);
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.intake.as_fd()
    }
}

impl Source for Listener {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.intake.register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.intake.register(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.intake.deregister(registry)
    }
}

/// The iterator of [`Listener::incoming`].
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a Listener,
    /// Its place among the workers that share a socket.
    wait: Option<ExclusiveWait>,
    /// How many connections were taken since others were let go first.
    taken: u32,
}

impl Incoming<'_> {
    /// Blocks until a connection may wait, or the worker shall stop. Those who share a socket wait
    /// before each look, since it may be others' turn.
    fn wait(&mut self) -> io::Result<()> {
        let intake = &self.listener.intake;
        if !intake.is_shared() {
            return self.listener.wait();
        }
        if self.wait.is_none() {
            self.wait = Some(intake.queue_up()?);
        }
        self.wait.as_ref().map_or(Ok(()), ExclusiveWait::wait)
    }

    /// Goes to the end of the queue after as many connections as the weight.
    fn count_turn(&mut self) -> io::Result<()> {
        self.taken = self.taken.saturating_add(1);
        match &self.wait {
            Some(wait) if self.taken >= self.listener.intake.weight() => {
                self.taken = 0;
                wait.rotate()
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The next connection, or `None` when the worker shall stop and none waits.
    fn take(&mut self) -> io::Result<Option<Connection>> {
        let (control, intake) = (&self.listener.control, &self.listener.intake);
        // Without descriptors there is no place among those who wait: it looks now and then.
        let mut has_waited = !intake.is_shared() || intake.is_short();
        loop {
            // Before the look: what comes before the request to stop is taken.
            let stops = control.stop().is_some();
            if intake.is_over() {
                return Ok(None);
            }
            if has_waited || stops {
                if let Some((connection, _)) = intake.take()? {
                    self.count_turn()?;
                    return Ok(Some(connection));
                }
                if stops {
                    return Ok(None);
                }
            }
            if intake.is_shared() && intake.weight() == 0 {
                control.pause(Duration::MAX);
            } else if intake.tally().has_room() {
                self.wait()?;
                has_waited = true;
            } else {
                // What comes meanwhile is for the others, as is what this one was woken for.
                if self.wait.take().is_some() && has_waited {
                    control.pass(intake.id());
                }
                intake.tally().wait_for_room(ROOM_PAUSE);
            }
        }
    }
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<Connection>;

    fn next(&mut self) -> Option<io::Result<Connection>> {
        loop {
            match self.take() {
                Ok(None) => return None,
                Ok(Some(connection)) => {
                    return Some(connection.set_nonblocking(false).map(|()| connection));
                }
                Err(error) if sys::is_shortage(&error) => {
                    tracing::warn!(%error, "connections wait until there are descriptors again");
                    let intake = &self.listener.intake;
                    intake.fall_short();
                    if self.wait.take().is_some() {
                        self.listener.control.pass(intake.id());
                    }
                    self.listener.control.pause(SHORTAGE_PAUSE);
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
