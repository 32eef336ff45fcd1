//! The worker's side: who it is, what it listens on, and when it shall stop.

mod connection;
mod control;
mod exclusive;
mod intake;
mod listener;
mod post;
mod tally;
mod udp;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipc_core::{Bootstrap, Channel};

pub use self::connection::{Connection, Stream};
pub use self::listener::{Incoming, Listener};
pub use self::tally::OpenConnection;
pub use self::udp::UdpSocket;

use self::control::Control;
use self::post::Post;
use crate::address::{Address, ParseAddressError};
use crate::clock::deadline;
use crate::error::Error;
use crate::event::WorkerId;
use crate::listen::ListenOptions;
use crate::machine::{FromWorker, PROTOCOL_VERSION, ToWorker};
use crate::post::{Amount, NOTICE_TO_WORKER, Notice, Spoke, Terms};
use crate::shell::limits;

/// The variable that tells a process that it is a worker: its id.
pub(crate) const ID_VARIABLE: &str = "CLUSTER_WORKER_ID";

/// The channel's way from the master into a worker: `CLUSTER_CHANNEL_FD`, `CLUSTER_CHANNEL_INODE`.
pub(crate) const BOOTSTRAP: Bootstrap =
    Bootstrap::named("CLUSTER_CHANNEL").with_variables(&[ID_VARIABLE]);

/// Whether this process has taken its part in a cluster.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// How long the master may take to greet a worker, or to answer it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// This process, as a worker of a cluster.
///
/// Keep it for as long as the process serves: dropping it closes the channel to the master, which
/// then ends this process.
///
/// # Stopping
///
/// A worker is asked to stop when the cluster stops, and stops by itself when its master is gone.
/// Then [`is_stopping`](Self::is_stopping) becomes true, the worker becomes readable, as an event
/// source for mio or (by its descriptor) for any other loop, and [`Listener::incoming`] ends once
/// the connections that already wait are taken. The process finishes what it has and exits. If the
/// master is gone, a process that has not exited after the cluster's `drain_timeout` is ended from
/// within, with exit code 1, so that no orphan stays.
#[derive(Debug)]
pub struct Worker {
    control: Arc<Control>,
    reader: Option<JoinHandle<()>>,
    /// Dropped with the worker, by which the reader knows that the process goes on without it.
    _alive: crossbeam_channel::Sender<()>,
}

impl Worker {
    /// This process's part in a cluster; `None` when it was not started by one.
    ///
    /// Call it early: it takes its variables out of the environment, so that children don't inherit
    /// them, if no other thread runs yet.
    ///
    /// # Errors
    ///
    /// When this process was started as a worker but its master does not greet it within ten
    /// seconds, or is of another version; and on every call after the first.
    pub fn from_env() -> Result<Option<Worker>, Error> {
        if TAKEN.load(Ordering::Acquire) {
            return Err(Error::handshake("it has taken its part in the cluster already"));
        }
        let Some(id) = std::env::var_os(ID_VARIABLE) else { return Ok(None) };
        let channel = match BOOTSTRAP.take() {
            Ok(Some(channel)) => channel,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Inherited from a worker that did not take them: they are not for this process.
                tracing::warn!(%error, "this is no worker");
                return Ok(None);
            }
            Err(error) => return Err(Error::io("use the channel to the master", error)),
        };
        TAKEN.store(true, Ordering::Release);
        let id = id.to_str().and_then(|id| id.parse().ok()).ok_or_else(|| {
            Error::handshake(format!("{ID_VARIABLE} is set, but not by a cluster; unset it"))
        })?;
        Worker::greet(id, channel.with_limits(limits(Terms::default()))).map(Some)
    }

    fn greet(expected: WorkerId, mut channel: Channel) -> Result<Worker, Error> {
        let deadline = Some(deadline(ANSWER_TIMEOUT));
        let hello = channel
            .recv_deadline(deadline)
            .map_err(|error| Error::handshake(format!("no greeting came: {error}")))?;
        let (version, worker, drain_timeout) = match ToWorker::decode(hello.kind, &hello.payload) {
            Ok(ToWorker::Hello { version, worker, drain_timeout }) => {
                (version, worker, drain_timeout)
            }
            _ => return Err(Error::handshake("the greeting is none of a cluster's master")),
        };
        if version != PROTOCOL_VERSION || worker != expected {
            return Err(Error::handshake(format!(
                "the master (protocol {version}) greets worker {worker}; \
                 this is {expected} (protocol {PROTOCOL_VERSION})"
            )));
        }
        let (kind, payload) = FromWorker::Online { version: PROTOCOL_VERSION }.encode();
        channel
            .send_deadline(ipc_core::Message::new(kind, payload), deadline)
            .map_err(|error| Error::handshake(format!("can't answer: {error}")))?;

        let (terms, credit) = open_messages(&mut channel, deadline)?;
        let (sender, receiver) = channel.with_limits(limits(terms)).into_split();
        let (alive, ended) = crossbeam_channel::bounded(0);
        let control = Post::new(Spoke::new(terms, credit))
            .and_then(|post| Control::new(worker, sender, post))
            .map_err(|error| Error::io("prepare the worker", error))?;
        let control = Arc::new(control);
        let reader = std::thread::Builder::new()
            .name("cluster-channel".to_owned())
            .spawn({
                let control = Arc::clone(&control);
                move || control.read(receiver, drain_timeout, &ended)
            })
            .map_err(|error| Error::io("start the channel's thread", error))?;
        Ok(Worker { control, reader: Some(reader), _alive: alive })
    }

    /// Who this is.
    pub fn id(&self) -> WorkerId {
        self.control.id
    }

    /// Asks the master for connections to `address`; all workers that ask for one address share it.
    ///
    /// With port 0 the system chooses a port, the same for every worker: the n-th such call of each
    /// worker gets the same listener, also when it has dropped one of them meanwhile. Other
    /// addresses, and the real one of a listener on port 0, may be listened on once at a time by a
    /// worker, and again after that.
    ///
    /// Dropping the listener ends this worker's share; the address itself stays open, and its
    /// clients wait, until the cluster ends. A cluster has at most 64 addresses. One that could not
    /// be opened is none of them, and anybody may try it again.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let worker = runtime::Worker::from_env()?.unwrap();
    /// let listener = worker.listen("127.0.0.1:8080")?;
    /// println!("{} on {}", worker.id(), listener.local_address());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidInput` when `address` is none, or one of datagrams; what the master met when it
    /// opened the listener (such as `AddrInUse` and `PermissionDenied`), with what can be done
    /// about it; `AddrInUse` when this worker listens there already; `QuotaExceeded` when the
    /// cluster has as many addresses as it may; `NotConnected` when the master is gone, or the
    /// worker shall stop.
    pub fn listen<A>(&self, address: A) -> io::Result<Listener>
    where
        A: TryInto<Address>,
        A::Error: Into<ParseAddressError>,
    {
        self.listen_with(address, ListenOptions::new())
    }

    /// As [`listen`](Self::listen), and says how the address is opened if it is not open yet.
    ///
    /// # Errors
    ///
    /// Those of [`listen`](Self::listen).
    pub fn listen_with<A>(&self, address: A, options: ListenOptions) -> io::Result<Listener>
    where
        A: TryInto<Address>,
        A::Error: Into<ParseAddressError>,
    {
        let address = resolve(address)?;
        let is_udp = || {
            let reason = format!("listen on {address}: it is a UDP socket, see Worker::bind");
            Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
        };
        if let Address::Udp(_) = address {
            return is_udp();
        }
        if options.exclusive {
            return self.listen_alone(&address, &options);
        }
        let (joined, handle, board) =
            self.control.listen(&address, &options, deadline(ANSWER_TIMEOUT))?;
        let listener = joined.listener;
        if let Address::Udp(_) = joined.address {
            self.control.close_listener(listener);
            return is_udp();
        }
        match self.control.join(joined, handle, board.as_fd()) {
            Ok(intake) => Ok(Listener::new(Arc::clone(&self.control), intake)),
            Err(error) => {
                self.control.close_listener(listener);
                Err(error)
            }
        }
    }

    /// Takes this worker out of the cluster: no connection is given to it any more, what waits for
    /// it goes to others, and [`is_stopping`](Self::is_stopping) becomes true. Returns when the
    /// master has confirmed that. The process then finishes what it has, within `drain_timeout`,
    /// and exits; it counts as asked to ([`Event::Exited`](crate::Event::Exited)), so its slot
    /// stays empty until the master's user [starts](crate::Handle::start) another.
    ///
    /// In a worker that shall stop already, it does nothing.
    ///
    /// # Errors
    ///
    /// `NotConnected` when the master is gone, `TimedOut` when it does not answer within ten
    /// seconds.
    pub fn disconnect(&self) -> io::Result<()> {
        self.control.disconnect(deadline(ANSWER_TIMEOUT))
    }

    /// Whether this process shall stop: take no new work, finish what it has, exit.
    pub fn is_stopping(&self) -> bool {
        self.control.stop().is_some()
    }
}

/// What a worker asks for: an address that can be one, and that does not depend on where it is.
fn resolve<A>(address: A) -> io::Result<Address>
where
    A: TryInto<Address>,
    A::Error: Into<ParseAddressError>,
{
    let address = address.try_into().map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidInput, Into::<ParseAddressError>::into(error))
    })?;
    if let Some(why) = address.check() {
        let reason = format!("listen on {address}: {why}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    match address {
        Address::Unix(path) => Ok(Address::Unix(std::path::absolute(path)?)),
        other => Ok(other),
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.control.close();
        let _ = std::mem::replace(&mut self._alive, crossbeam_channel::bounded(0).0);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Readable once the worker shall stop, and from then on.
impl AsFd for Worker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.stop_fd()
    }
}

source_by_descriptor!(
    /// Readable once the worker shall stop, and from then on.
    Worker
);

/// Fails in a process that was started as a worker and becomes a master instead: its workers would
/// do the same, without end.
pub(crate) fn refuse_to_be_master() -> Result<(), Error> {
    if std::env::var_os(ID_VARIABLE).is_some() && BOOTSTRAP.is_pending() {
        return Err(Error::invalid(
            "this process is a worker of a cluster; it has to call Worker::from_env before it \
             starts a cluster of its own",
        ));
    }
    Ok(())
}

/// Hears what the worker may send; the second thing that a master says.
fn open_messages(
    channel: &mut Channel,
    deadline: Option<Instant>,
) -> Result<(Terms, [Amount; 2]), Error> {
    let frame = channel
        .recv_deadline(deadline)
        .map_err(|error| Error::handshake(format!("the greeting was cut short: {error}")))?;
    match Notice::decode(&frame.payload, true) {
        Ok(Notice::Open { terms, credit }) if frame.kind == NOTICE_TO_WORKER => Ok((terms, credit)),
        _ => Err(Error::handshake("the greeting is not followed by the limits of messages")),
    }
}
