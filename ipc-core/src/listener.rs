use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::{Interest, Registry, Token};

use crate::clock::{now, time_left};
use crate::sys::{self, Accepted};
use crate::{Address, Channel, Limits, PeerIdentity, PeerPolicy};

/// Waits for others to connect, and gives out a [`Channel`] to each.
///
/// It is secure by default: on Unix the socket's file has mode 0600 before anybody can see it, it
/// lies in a directory in which nobody else can exchange it, and only processes of the same user,
/// and of root, are let in. A file that a dead process has left at the path is replaced; a socket
/// that somebody listens on is not. The file is removed on drop if it is still this listener's.
///
/// # With mio
///
/// A listener is an event source. mio is edge-triggered: when it is readable, call
/// [`try_accept`](Self::try_accept) until [`AcceptError::Empty`]. An event that says
/// [`is_read_closed`](mio::event::Event::is_read_closed) means that somebody who shares the socket
/// has shut it down: nobody will connect any more.
///
/// # Examples
///
/// ```
/// use ipc_core::{Address, Channel, Listener, Message};
///
/// # let directory = std::env::temp_dir().join(format!("ipc-core-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// let address = Address::path(directory.join("control.sock"))?;
/// let mut listener = Listener::bind(&address)?;
///
/// let mut client = Channel::connect(&address)?;
/// let (mut server, peer) = listener.accept_deadline(None)?;
/// assert_eq!(peer.process_id(), Some(std::process::id()));
///
/// client.try_send(Message::new(1, "hello"))?;
/// assert_eq!(server.recv_deadline(None)?.payload, b"hello");
/// # drop(listener);
/// # std::fs::remove_dir(directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Listener {
    pub(crate) listening: sys::Listening,
    address: Address,
    policy: PeerPolicy,
    limits: Limits,
    refused: u64,
}

/// How to listen; made by [`Listener::options`].
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    pub(crate) mode: u32,
    pub(crate) backlog: u32,
    pub(crate) packets: bool,
    pub(crate) any_directory: bool,
    pub(crate) respects_umask: bool,
    policy: PeerPolicy,
    limits: Limits,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            mode: 0o600,
            backlog: 128,
            packets: false,
            any_directory: false,
            respects_umask: false,
            policy: PeerPolicy::default(),
            limits: Limits::default(),
        }
    }
}

impl ListenerOptions {
    /// The permissions of the socket's file (Unix). Default: 0600. Who may write may connect, if
    /// the [policy](Self::policy) lets him in.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// How many may wait to be accepted. Default: 128. The system's own limit holds too.
    #[must_use]
    pub fn backlog(mut self, backlog: u32) -> Self {
        self.backlog = backlog;
        self
    }

    /// Channels that keep messages apart, see [`Channel::packet_pair`] (Unix). Default: false.
    #[must_use]
    pub fn packets(mut self, packets: bool) -> Self {
        self.packets = packets;
        self
    }

    /// Lets the process's umask take bits away from the [mode](Self::mode), as from any new file
    /// (Unix). Default: false, the mode is as it was asked for.
    #[must_use]
    pub fn respects_umask(mut self, respects_umask: bool) -> Self {
        self.respects_umask = respects_umask;
        self
    }

    /// Listens also in a directory where other users could exchange the socket for one of theirs
    /// (Unix). Default: false.
    #[must_use]
    pub fn any_directory(mut self, any_directory: bool) -> Self {
        self.any_directory = any_directory;
        self
    }

    /// Whom to let in. Default: [`PeerPolicy::same_user`].
    #[must_use]
    pub fn policy(mut self, policy: PeerPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The limits of the channels that come from this listener.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Listens.
    ///
    /// # Errors
    ///
    /// `AddrInUse` when somebody listens there already: the error says who. `PermissionDenied` when
    /// others could exchange the socket: the error says where. What else the system reports. All
    /// name the address.
    pub fn bind(&self, address: &Address) -> io::Result<Listener> {
        let listening = sys::Listening::bind(address.name(), self).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen at {address}: {error}"))
        })?;
        Ok(Listener::new(listening, address.clone(), self))
    }
}

impl Listener {
    /// Listens with the default options.
    ///
    /// # Errors
    ///
    /// See [`ListenerOptions::bind`].
    pub fn bind(address: &Address) -> io::Result<Self> {
        Self::options().bind(address)
    }

    /// The default options, to be changed.
    #[must_use]
    pub fn options() -> ListenerOptions {
        ListenerOptions::default()
    }

    pub(crate) fn new(
        listening: sys::Listening,
        address: Address,
        options: &ListenerOptions,
    ) -> Self {
        let (policy, limits) = (options.policy.clone(), options.limits);
        Self { listening, address, policy, limits, refused: 0 }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// How many were turned away by the policy so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The next one who has connected, if there is one. Never blocks. Who is refused by the policy
    /// is closed and counted, and the next one is taken.
    ///
    /// # Errors
    ///
    /// [`AcceptError::Empty`] when nobody waits. [`AcceptError::Refusing`] after many refusals in a
    /// row, so that whoever is refused can't keep the caller here. [`AcceptError::Exhausted`] when
    /// this process, or the system, has no descriptor or memory for him: he keeps waiting, so try
    /// again after a while, and not at once.
    pub fn try_accept(&mut self) -> Result<(Channel, PeerIdentity), AcceptError> {
        for _ in 0..REFUSALS_MAX {
            match self.listening.accept()? {
                Accepted::Peer(socket, peer) if self.policy.admits(&peer) => {
                    return Ok((Channel::new(socket).with_limits(self.limits), peer));
                }
                Accepted::Peer(..) => self.refused += 1,
                Accepted::Nobody => return Err(AcceptError::Empty),
            }
        }
        Err(AcceptError::Refusing)
    }

    /// The next one who connects; blocks until the deadline at most. Without one it blocks until
    /// somebody comes.
    ///
    /// # Errors
    ///
    /// [`AcceptError::TimedOut`]; [`AcceptError::Exhausted`], only after a pause, so that calling
    /// again and again is no busy loop; [`AcceptError::Io`].
    pub fn accept_deadline(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<(Channel, PeerIdentity), AcceptError> {
        loop {
            match self.try_accept() {
                Err(AcceptError::Empty) => {
                    let left = time_left(deadline).map_err(|_passed| AcceptError::TimedOut)?;
                    self.listening.wait(left).map_err(AcceptError::Io)?;
                }
                Err(AcceptError::Refusing) => {
                    time_left(deadline).map_err(|_passed| AcceptError::TimedOut)?;
                }
                Err(AcceptError::Exhausted(error)) => {
                    let left = time_left(deadline).unwrap_or(Some(Duration::ZERO));
                    let pause = left.map_or(EXHAUSTED_PAUSE, |left| left.min(EXHAUSTED_PAUSE));
                    sys::pause(pause).map_err(AcceptError::Io)?;
                    return Err(AcceptError::Exhausted(error));
                }
                other => return other,
            }
        }
    }
}

impl Source for Listener {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.listening.register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.listening.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.listening.deregister(registry)
    }
}

/// Why nobody was accepted.
#[derive(Debug)]
pub enum AcceptError {
    /// Nobody waits.
    Empty,
    /// The deadline has passed.
    TimedOut,
    /// So many in a row were refused by the policy that it is the turn of other work. More may
    /// wait: call again, without an event to wait for.
    Refusing,
    /// There is no descriptor or memory for whoever waits, who keeps waiting.
    Exhausted(io::Error),
    /// Anything else that the system reports, such as that somebody who shares the socket has shut
    /// it down. It won't pass: stop listening.
    Io(io::Error),
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("nobody waits to be accepted"),
            Self::TimedOut => f.write_str("nobody connected before the deadline"),
            Self::Refusing => f.write_str("many were refused; more may wait to be accepted"),
            Self::Exhausted(error) => write!(
                f,
                "cannot accept for now: {error} (try again after a while, or raise RLIMIT_NOFILE)"
            ),
            Self::Io(error) => write!(f, "cannot accept: {error}"),
        }
    }
}

impl std::error::Error for AcceptError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Empty | Self::TimedOut | Self::Refusing => None,
            Self::Exhausted(error) | Self::Io(error) => Some(error),
        }
    }
}

/// How many may be refused in one call.
const REFUSALS_MAX: usize = 64;

/// How long to wait, for others to give descriptors or memory back.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(20);

/// How long to wait between two attempts to connect: from, and up to.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(50);

impl Channel {
    /// Connects to a [`Listener`], which must be there already and be run by the same user or by
    /// root. Never waits.
    ///
    /// # Errors
    ///
    /// `NotFound` or `ConnectionRefused` when nobody listens there, `WouldBlock` when too many wait
    /// to be accepted, `PermissionDenied` when this user may not connect, or when the listener is
    /// somebody else's. All name the address.
    pub fn connect(address: &Address) -> io::Result<Self> {
        Self::connect_once(address, &PeerPolicy::default())
    }

    /// Connects to a [`Listener`] that may still have to start: tries again until the deadline.
    /// Without one it tries for ever.
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Self::connect): of what may pass, the last one before the deadline.
    pub fn connect_deadline(address: &Address, deadline: Option<Instant>) -> io::Result<Self> {
        Self::connect_with(address, &PeerPolicy::default(), deadline)
    }

    /// Like [`connect_deadline`](Self::connect_deadline), to a listener that is run by somebody
    /// whom the policy admits.
    ///
    /// # Errors
    ///
    /// Those of [`connect_deadline`](Self::connect_deadline).
    pub fn connect_with(
        address: &Address,
        server: &PeerPolicy,
        deadline: Option<Instant>,
    ) -> io::Result<Self> {
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let error = match Self::connect_once(address, server) {
                Err(error) if may_pass(&error) => error,
                other => return other,
            };
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(error);
            }
            sys::pause(left.map_or(pause, |left| left.min(pause)))?;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// Who is at the other end, see [`PeerIdentity`].
    ///
    /// # Errors
    ///
    /// What the system reports; of a TCP connection nothing is known.
    pub fn peer_identity(&self) -> io::Result<PeerIdentity> {
        sys::peer_identity(self.socket())
    }

    fn connect_once(address: &Address, server: &PeerPolicy) -> io::Result<Self> {
        let name = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot connect to {address}: {error}"))
        };
        let socket = sys::connect(address.name()).map_err(name)?;
        let peer = sys::peer_identity(&socket).map_err(name)?;
        if !server.admits(&peer) {
            let reason = format!(
                "cannot connect to {address}: {peer} listens there, which the policy does not \
                 admit (PeerPolicy)"
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        Ok(Self::new(socket))
    }
}

/// Whether a server that starts, or that is busy, explains the error.
fn may_pass(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
    )
}
