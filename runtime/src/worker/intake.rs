//! Where a worker's connections come from: its slot's mailbox, or a listening socket.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use super::connection::Connection;
use super::control::{Control, Stop, lock};
use super::tally::Tally;
use crate::address::{Address, Peer};
use crate::bound::Bound;
use crate::listen::Dispatch;
use crate::machine::Joined;
use crate::mailbox::{Accepted, Taken, Taker};
use crate::sys::{self, AcceptFailure, ExclusiveEntry, ExclusiveWait, accept_failure};

/// How many connections a worker that stops takes at most of what waits in a socket's backlog:
/// under load there is always one more.
const LAST_MAX: u32 = 4096;

/// A listener's source of connections, and how the worker waits for them.
#[derive(Debug)]
pub(super) struct Intake {
    control: Arc<Control>,
    joined: Joined,
    source: Queue,
    tally: Arc<Tally>,
    watch: Mutex<Watch>,
    /// Set when the worker shall stop and has taken what there was.
    is_done: AtomicBool,
    /// How many more it takes, once it stops.
    last_left: AtomicU32,
    /// Set while what comes is left to others, for want of descriptors.
    is_short: AtomicBool,
}

#[derive(Debug)]
enum Queue {
    Mailbox {
        receiver: OwnedFd,
        taker: Mutex<Taker>,
    },
    Socket(Bound),
    /// One that the worker has opened for itself, of which the master does not know.
    Own(Bound),
}

/// How the application waits.
#[derive(Debug, Default)]
struct Watch {
    registered: Option<Registered>,
    /// The places of threads that wait without an event loop.
    blocked: Vec<Weak<Mutex<ExclusiveEntry>>>,
    /// How many connections were taken since others were let go first.
    taken: u32,
    /// Whether it went to the end of the queue with the last connection that it took: the loop is
    /// told if more waits, so there is no need to look.
    has_rotated: bool,
}

#[derive(Debug)]
enum Registered {
    /// Among other processes, of which the kernel wakes one.
    Exclusive(ExclusiveEntry),
    /// Edge-triggered, as everything in mio.
    Plain { registry: Registry, token: Token, interests: Interest },
}

impl Intake {
    pub(super) fn new(
        control: Arc<Control>,
        joined: Joined,
        handle: OwnedFd,
        tally: Arc<Tally>,
    ) -> Arc<Intake> {
        let source = match (joined.dispatch, &joined.address) {
            (Dispatch::Auto | Dispatch::Handoff, _) => {
                Queue::Mailbox { receiver: handle, taker: Mutex::default() }
            }
            (Dispatch::Shared | Dispatch::Steered, Address::Unix(_) | Address::Abstract(_)) => {
                Queue::Socket(Bound::InheritedUnix(UnixListener::from_std(handle.into())))
            }
            (Dispatch::Shared | Dispatch::Steered, _) => {
                Queue::Socket(Bound::Tcp(TcpListener::from_std(handle.into())))
            }
        };
        Intake::of(control, joined, source, tally)
    }

    /// That of a socket which the worker has opened for itself.
    pub(super) fn own(control: Arc<Control>, socket: Bound, address: Address) -> Arc<Intake> {
        // As a steered one, it gets what the kernel puts into its backlog.
        let joined = Joined { listener: u32::MAX, dispatch: Dispatch::Steered, weight: 1, address };
        Intake::of(control, joined, Queue::Own(socket), Arc::new(Tally::new(None)))
    }

    fn of(control: Arc<Control>, joined: Joined, source: Queue, tally: Arc<Tally>) -> Arc<Intake> {
        let intake = Arc::new(Intake {
            control,
            joined,
            source,
            tally,
            watch: Mutex::default(),
            is_done: AtomicBool::new(false),
            last_left: AtomicU32::new(LAST_MAX),
            is_short: AtomicBool::new(false),
        });
        intake.tally.set_intake(&intake);
        intake
    }

    pub(super) fn id(&self) -> u32 {
        self.joined.listener
    }

    pub(super) fn address(&self) -> &Address {
        &self.joined.address
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether several processes wait for one socket.
    pub(super) fn is_shared(&self) -> bool {
        self.joined.dispatch == Dispatch::Shared
    }

    /// How many connections the worker takes before others go first.
    pub(super) fn weight(&self) -> u32 {
        self.joined.weight
    }

    /// Whether nothing is to be taken any more, since the worker stops.
    pub(super) fn is_over(&self) -> bool {
        let leaves_the_rest =
            self.control.stop() == Some(Stop::AtOnce) && self.joined.dispatch != Dispatch::Steered;
        leaves_the_rest || self.is_done()
    }

    /// Takes a connection for an application that waits with an event loop.
    pub(super) fn take_in_turn(&self) -> io::Result<Option<(Connection, Peer)>> {
        if self.is_shared()
            && std::mem::take(&mut self.watch().has_rotated)
            && self.control.stop().is_none()
        {
            // Where the way to the end of the queue has failed, it is out.
            self.resume();
            return Ok(None);
        }
        let taken = self.take()?;
        if taken.is_some() && self.is_shared() {
            self.count_turn();
        }
        Ok(taken)
    }

    /// Goes to the end of the queue after as many connections as the weight. At once, while the
    /// application has yet to serve the last one: the next that comes wakes another worker.
    fn count_turn(&self) {
        let mut guard = self.watch();
        let watch = &mut *guard;
        watch.taken += 1;
        if watch.taken >= self.joined.weight
            && let Some(Registered::Exclusive(entry)) = &mut watch.registered
        {
            (watch.taken, watch.has_rotated) = (0, true);
            if let Err(error) = entry.rotate() {
                tracing::error!(%error, "a shared listener can't be watched");
            }
        }
    }

    /// Takes a connection, if one waits and the worker may have it.
    pub(super) fn take(&self) -> io::Result<Option<(Connection, Peer)>> {
        if self.is_over() || (self.is_shared() && self.joined.weight == 0) {
            return Ok(None);
        }
        if !self.tally.has_room() {
            // Another thread was quicker; this one may have been woken for what it leaves.
            if self.rest() {
                self.control.pass(self.id());
            }
            if !self.tally.has_room() {
                return Ok(None);
            }
            self.resume();
        }
        // Before the look: what came before the request to stop is taken.
        let stops = self.control.stop().is_some();
        let found = self.look();
        match &found {
            Err(error) if is_closed(error) => return self.end(stops),
            Err(error) if sys::is_shortage(error) => {
                self.fall_short();
            }
            Err(_) => {}
            Ok(_) if self.is_short.swap(false, Ordering::AcqRel) => self.resume(),
            Ok(_) => {}
        }
        let found = found?;
        if stops && (found.is_none() || self.last_left.fetch_sub(1, Ordering::AcqRel) <= 1) {
            self.finish();
        }
        Ok(found.map(|accepted| self.admit(accepted)))
    }

    /// The socket was shut down: by the master, once the worker shall stop, or by a worker that
    /// holds it too.
    fn end(&self, stops: bool) -> io::Result<Option<(Connection, Peer)>> {
        if stops {
            self.finish();
            return Ok(None);
        }
        // It stays readable for ever.
        self.rest();
        let text = "somebody has shut the listening socket down, for all who share it: a worker \
                    that wants no more connections drops its listener instead";
        Err(io::Error::new(io::ErrorKind::NotConnected, text))
    }

    /// There are no descriptors. Who was woken for what it can't take has somebody else look, each
    /// time.
    pub(super) fn fall_short(&self) {
        self.is_short.store(true, Ordering::Release);
        if self.rest() {
            self.control.pass(self.id());
        }
    }

    /// Whether there were no descriptors at the last look.
    pub(super) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Acquire)
    }

    /// A thread without an event loop takes its place among those who wait.
    pub(super) fn queue_up(&self) -> io::Result<ExclusiveWait> {
        let wait = ExclusiveWait::new(self.as_fd(), self.control.stop_fd())?;
        let blocked = &mut self.watch().blocked;
        blocked.retain(|entry| entry.strong_count() > 0);
        blocked.push(Arc::downgrade(wait.entry()));
        Ok(wait)
    }

    fn look(&self) -> io::Result<Option<Accepted>> {
        match &self.source {
            Queue::Mailbox { receiver, taker } => {
                let mut taker = lock(taker);
                match taker.take(receiver.as_fd())? {
                    Taken::Connection(accepted) => Ok(Some(accepted)),
                    Taken::Empty | Taken::Closed => Ok(None),
                }
            }
            Queue::Socket(socket) | Queue::Own(socket) => accept(|| socket.accept()),
        }
    }

    fn admit(&self, accepted: Accepted) -> (Connection, Peer) {
        let peer = accepted.peer;
        let connection = Connection::new(accepted.socket, peer, self.tally.admit());
        if !self.tally.has_room() {
            self.rest();
            // One that ended meanwhile may have found nothing to resume.
            if self.tally.has_room() {
                self.resume();
            }
        }
        (connection, peer)
    }

    /// Is woken no more until [`resume`](Self::resume): what comes is for the others. Says whether
    /// it could have been woken until now.
    pub(super) fn rest(&self) -> bool {
        let Some(Registered::Exclusive(entry)) = &mut self.watch().registered else { return false };
        let was_in = entry.is_in();
        if let Err(error) = entry.rest() {
            tracing::error!(%error, "a shared listener can't be left to others");
        }
        was_in
    }

    /// There is room again.
    pub(super) fn resume(&self) {
        if self.is_over() || !self.tally.has_room() {
            return;
        }
        let mut watch = self.watch();
        let result = match &mut watch.registered {
            Some(Registered::Exclusive(entry)) => entry.resume(),
            // Registering again tells of what waits already.
            Some(Registered::Plain { registry, token, interests }) => {
                let fd = self.as_fd().as_raw_fd();
                SourceFd(&fd).reregister(registry, *token, *interests)
            }
            None => Ok(()),
        };
        if let Err(error) = result {
            tracing::error!(%error, "a listener can't be watched again");
        }
    }

    /// The master says that something may wait that nobody was woken for.
    pub(super) fn look_again(&self) {
        let mut watch = self.watch();
        let looked = match &mut watch.registered {
            Some(Registered::Exclusive(entry)) => entry.rotate(),
            Some(Registered::Plain { .. }) | None => Ok(()),
        };
        let blocked = watch.blocked.iter().filter_map(Weak::upgrade);
        let looked = blocked.fold(looked, |looked, entry| looked.and(lock(&entry).rotate()));
        if let Err(error) = looked {
            tracing::error!(%error, "a shared listener can't be watched");
        }
    }

    /// The worker shall stop.
    pub(super) fn begin_stop(&self) {
        if self.is_shared() && self.is_over() {
            self.rest();
            self.control.pass(self.id());
        }
    }

    /// Whether it has told the master that it takes no more.
    pub(super) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }

    /// What there was is taken.
    fn finish(&self) {
        if self.is_mailbox() || self.is_done.swap(true, Ordering::AcqRel) {
            return;
        }
        self.rest();
        if self.is_own() {
            // Who connects from now on is refused, and does not wait.
            let _ = SockRef::from(self).shutdown(Shutdown::Both);
        } else {
            self.control.close_listener(self.id());
        }
    }

    /// Whether the master does not know of it.
    pub(super) fn is_own(&self) -> bool {
        matches!(self.source, Queue::Own(_))
    }

    fn is_mailbox(&self) -> bool {
        matches!(self.source, Queue::Mailbox { .. })
    }

    pub(super) fn register(
        &self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        let mut watch = self.watch();
        if self.is_shared() {
            // An entry of before would be in the way of the new one.
            watch.registered = None;
            if self.joined.weight > 0 {
                let entry = ExclusiveEntry::add(registry.as_fd(), self.as_fd(), token.0 as u64)?;
                watch.registered = Some(Registered::Exclusive(entry));
            }
            return Ok(());
        }
        let fd = self.as_fd().as_raw_fd();
        match watch.registered {
            None => SourceFd(&fd).register(registry, token, interests)?,
            Some(_) => SourceFd(&fd).reregister(registry, token, interests)?,
        }
        let registry = registry.try_clone()?;
        watch.registered = Some(Registered::Plain { registry, token, interests });
        Ok(())
    }

    pub(super) fn deregister(&self, registry: &Registry) -> io::Result<()> {
        match self.watch().registered.take() {
            Some(Registered::Plain { .. }) => {
                SourceFd(&self.as_fd().as_raw_fd()).deregister(registry)
            }
            Some(Registered::Exclusive(_)) | None => Ok(()),
        }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        lock(&self.watch)
    }
}

impl AsFd for Intake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Queue::Mailbox { receiver, .. } => receiver.as_fd(),
            Queue::Socket(socket) | Queue::Own(socket) => socket.as_fd(),
        }
    }
}

/// Accepts until there is a connection, nothing, or a reason to wait.
fn accept(mut accept_once: impl FnMut() -> io::Result<Accepted>) -> io::Result<Option<Accepted>> {
    loop {
        let error = match accept_once() {
            Ok(accepted) => return Ok(Some(accepted)),
            Err(error) => error,
        };
        match accept_failure(&error) {
            AcceptFailure::Empty => return Ok(None),
            AcceptFailure::Retry => tracing::debug!(%error, "accept: connection lost"),
            AcceptFailure::Pause | AcceptFailure::NoDescriptor => return Err(error),
        }
    }
}

/// Whether somebody has shut the socket down: nothing will come any more.
fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}
