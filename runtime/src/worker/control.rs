//! The worker's end of the channel to its master, read by a thread of its own, so that a request to
//! stop and the master's death are noticed whatever the application does.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use ipc_core::{Receiver, Sender};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::post::Post;
use crate::address::Address;
use crate::clock::time_left;
use crate::event::WorkerId;
use crate::listen::ListenOptions;
use crate::machine::{FromWorker, Joined, ListenFailure, ToWorker};
use crate::sys::CellWriter;

use super::intake::Intake;
use super::tally::Tally;

/// How a worker shall stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Serve what waits in the mailboxes first: nobody else will.
    AfterTheRest,
    /// Leave it to others.
    AtOnce,
}

const RUNNING: u8 = 0;
const STOP_AFTER_THE_REST: u8 = 1;
const STOP_AT_ONCE: u8 = 2;

type Answer = io::Result<(Joined, OwnedFd, OwnedFd)>;

/// What the worker, its listeners and the channel's thread share.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) id: WorkerId,
    pub(super) sender: Mutex<Sender>,
    pub(super) post: Post,
    stop: AtomicU8,
    /// Whether the channel is at its end.
    lost: AtomicBool,
    /// Readable, by its end, once the other half is dropped.
    stop_reader: UnixStream,
    stop_writer: Mutex<Option<UnixStream>>,
    next_request: AtomicU32,
    requests: Mutex<BTreeMap<u32, crossbeam_channel::Sender<Answer>>>,
    /// How many listeners this worker has had on each address with port 0.
    indices: Mutex<BTreeMap<Address, u16>>,
    /// The listeners that this worker has or had.
    listeners: Mutex<BTreeMap<u32, Had>>,
}

/// What is left of a listener when it is dropped is the count of its open connections.
#[derive(Debug)]
struct Had {
    intake: Weak<Intake>,
    tally: Arc<Tally>,
}

impl Control {
    pub(super) fn new(id: WorkerId, sender: Sender, post: Post) -> io::Result<Control> {
        let (stop_reader, stop_writer) = UnixStream::pair()?;
        Ok(Control {
            id,
            sender: Mutex::new(sender),
            post,
            stop: AtomicU8::new(RUNNING),
            lost: AtomicBool::new(false),
            stop_reader,
            stop_writer: Mutex::new(Some(stop_writer)),
            next_request: AtomicU32::new(0),
            requests: Mutex::default(),
            indices: Mutex::default(),
            listeners: Mutex::default(),
        })
    }

    /// How the worker shall stop, if it shall.
    pub(super) fn stop(&self) -> Option<Stop> {
        match self.stop.load(Ordering::Acquire) {
            RUNNING => None,
            STOP_AFTER_THE_REST => Some(Stop::AfterTheRest),
            _ => Some(Stop::AtOnce),
        }
    }

    /// Readable once the worker shall stop.
    pub(super) fn stop_fd(&self) -> BorrowedFd<'_> {
        self.stop_reader.as_fd()
    }

    /// Rests for a while, or until the worker shall stop.
    pub(super) fn pause(&self, pause: Duration) {
        let mut fds = [PollFd::new(self.stop_fd(), PollFlags::POLLIN)];
        // Once the worker stops its descriptor stays readable, and would end no rest.
        let watched = if self.stop().is_some() { &mut fds[..0] } else { &mut fds[..] };
        let _ = poll(watched, PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX));
    }

    /// Asks the master to let this worker go, and waits until it says so.
    pub(super) fn disconnect(&self, deadline: Instant) -> io::Result<()> {
        if self.stop().is_none() {
            self.say(&FromWorker::Disconnect)?;
        }
        while self.stop().is_none() {
            let left = time_left(deadline);
            if left.is_zero() {
                let text = "the master does not answer";
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            self.pause(left);
        }
        if self.lost.load(Ordering::Acquire) { Err(gone()) } else { Ok(()) }
    }

    /// Asks the master for a listener, and waits for the answer.
    pub(super) fn listen(
        &self,
        address: &Address,
        options: &ListenOptions,
        deadline: Instant,
    ) -> Answer {
        // Held to the end, so that two threads do not ask for the same one.
        let mut indices = lock(&self.indices);
        let index = indices.get(address).copied().unwrap_or(0);
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = crossbeam_channel::bounded(1);
        lock(&self.requests).insert(request, sender);
        let options = options.clone();
        let message = FromWorker::Listen { request, index, options, address: address.clone() };
        // After the request is known: a reader that ends from here on answers it.
        let sent = match self.stop() {
            Some(_) => Err(gone()),
            None => self.say(&message),
        };
        let heard = sent.map(|()| answer.recv_deadline(deadline).ok());
        // From here on nothing comes any more; what came just now counts.
        lock(&self.requests).remove(&request);
        let answer = heard.and_then(|heard| {
            let late =
                || Err(io::Error::new(io::ErrorKind::TimedOut, "the master does not answer"));
            heard.or_else(|| answer.try_recv().ok()).unwrap_or_else(late)
        });
        if answer.is_ok() && is_on_any_port(address) {
            indices.insert(address.clone(), index.saturating_add(1));
        }
        answer
            .map_err(|error| io::Error::new(error.kind(), format!("listen on {address}: {error}")))
    }

    /// Takes part in a listener, with what the master has given for it.
    pub(super) fn join(
        self: &Arc<Self>,
        joined: Joined,
        handle: OwnedFd,
        board: BorrowedFd<'_>,
    ) -> io::Result<Arc<Intake>> {
        let mut listeners = lock(&self.listeners);
        let tally = match listeners.get(&joined.listener) {
            Some(had) => Arc::clone(&had.tally),
            None => Arc::new(Tally::new(Some(CellWriter::map(board, self.id.slot)?))),
        };
        let id = joined.listener;
        let intake = Intake::new(Arc::clone(self), joined, handle, Arc::clone(&tally));
        listeners.insert(id, Had { intake: Arc::downgrade(&intake), tally });
        drop(listeners);
        // The request to stop may have come before the intake was known.
        if self.stop().is_some() {
            intake.begin_stop();
        }
        Ok(intake)
    }

    /// The application has dropped a listener.
    pub(super) fn forget(&self, intake: &Intake) {
        if !intake.is_done() && !intake.is_own() {
            // What it was woken for, until here, the others are told of.
            intake.rest();
            self.close_listener(intake.id());
        }
    }

    fn intakes(&self) -> Vec<Arc<Intake>> {
        lock(&self.listeners).values().filter_map(|had| had.intake.upgrade()).collect()
    }

    /// Tells the master that this worker was woken for a connection that it leaves to others.
    pub(super) fn pass(&self, listener: u32) {
        // Unsent, the connection waits until the next one comes.
        let _ = self.say(&FromWorker::Passed { listener });
    }

    /// Tells the master that no connections of a listener are wanted any more.
    pub(super) fn close_listener(&self, listener: u32) {
        // Never blocks a destructor. Unsent, it is as if we took no connections: others get them.
        let _ = self.say(&FromWorker::Close { listener });
    }

    /// Ends the channel.
    pub(super) fn close(&self) {
        self.linger();
        let _ = lock(&self.sender).shutdown();
    }

    /// Reads the channel to its end; the body of the channel's thread.
    pub(super) fn read(
        &self,
        mut receiver: Receiver,
        drain_timeout: Duration,
        worker_dropped: &crossbeam_channel::Receiver<()>,
    ) {
        while let Some(message) = self.next_frame(&mut receiver) {
            let mut handles = message.handles.into_iter().map(OwnedFd::from);
            match ToWorker::decode(message.kind, &message.payload) {
                Ok(ToWorker::Listening { request, result }) => {
                    let answer = match (result, handles.next(), handles.next()) {
                        (Ok(joined), Some(handle), Some(board)) => Ok((joined, handle, board)),
                        (Ok(_), ..) => Err(io::Error::other("the answer lacks its handles")),
                        (Err(failure), ..) => Err(refused(failure)),
                    };
                    let opened = answer.as_ref().ok().map(|(joined, ..)| joined.listener);
                    let heard = lock(&self.requests)
                        .remove(&request)
                        .is_some_and(|sender| sender.try_send(answer).is_ok());
                    if let (false, Some(listener)) = (heard, opened) {
                        // Nobody waits for it any more, so nobody would take its connections.
                        self.close_listener(listener);
                    }
                }
                Ok(ToWorker::Look { listener }) => {
                    let had = lock(&self.listeners).get(&listener).map(|had| had.intake.clone());
                    if let Some(intake) = had.and_then(|intake| intake.upgrade()) {
                        intake.look_again();
                    }
                }
                Ok(ToWorker::Stop { take_rest: true }) => self.begin_stop(STOP_AFTER_THE_REST),
                Ok(ToWorker::Stop { take_rest: false }) => self.begin_stop(STOP_AT_ONCE),
                Ok(ToWorker::Hello { .. }) | Err(_) => {
                    tracing::error!(
                        kind = message.kind,
                        "the master sent what this is no time for"
                    );
                }
            }
        }
        // The master is gone, or the worker was dropped.
        self.lost.store(true, Ordering::Release);
        self.begin_stop(STOP_AFTER_THE_REST);
        self.close_post();
        for (_, sender) in std::mem::take(&mut *lock(&self.requests)) {
            let _ = sender.try_send(Err(gone()));
        }
        if let Err(crossbeam_channel::RecvTimeoutError::Timeout) =
            worker_dropped.recv_timeout(drain_timeout)
        {
            tracing::error!(worker = %self.id, "the master is gone and the drain timeout is over");
            #[allow(clippy::disallowed_methods, reason = "nothing else ends a stuck process")]
            std::process::exit(1);
        }
    }

    fn begin_stop(&self, stop: u8) {
        let _ = self.stop.compare_exchange(RUNNING, stop, Ordering::AcqRel, Ordering::Acquire);
        drop(lock(&self.stop_writer).take());
        for intake in self.intakes() {
            intake.begin_stop();
        }
    }
}

/// Whether the system chooses the port.
fn is_on_any_port(address: &Address) -> bool {
    matches!(address, Address::Tcp(socket) | Address::Udp(socket) if socket.port() == 0)
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the worker shall stop, or its master is gone")
}

fn refused(failure: ListenFailure) -> io::Error {
    let kind = io::Error::from_raw_os_error(failure.errno).kind();
    io::Error::new(kind, failure.reason)
}

/// No code panics while it holds one of these locks; if it did, the data would still be whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
