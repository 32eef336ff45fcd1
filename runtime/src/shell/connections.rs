//! Connections on their way: from a listener's backlog through the master into a mailbox.

use std::collections::btree_map::Entry;
use std::io;
use std::ops::Bound;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use handle_passing::SendError;
use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::listener::{Accept, Listener};
use super::{Master, Subject};
use crate::address::Address;
use crate::listen::{Dispatch, ListenOptions};
use crate::machine::{Input, ListenerId, MailboxId, Refusal, SLOTS_MAX};
use crate::mailbox::{Accepted, Mailbox, Taken, Taker};
use crate::status::ListenerInfo;
use crate::sys::Board;

/// How many connections are accepted on one listener before other events get their turn.
const ACCEPT_BATCH_MAX: usize = 64;

/// How many connections are accepted at most from a backlog when the cluster stops.
const ACCEPT_LAST_MAX: usize = 4096;

#[derive(Debug)]
pub(super) struct Listening {
    listener: Listener,
    /// Set while it accepts; it is out of the poll otherwise, since a backlog that fills would
    /// wake us for nothing.
    token: Option<Token>,
    /// Whether the backlog may hold something, as far as edge-triggered events tell.
    pub(super) ready: bool,
    /// How many more may be accepted, once the cluster stops.
    last: Option<usize>,
}

impl Listening {
    /// The socket, for the workers that share it.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    pub(super) fn is_due(&self) -> bool {
        self.ready && self.token.is_some()
    }
}

/// What came of the request to listen.
pub(super) struct Opened {
    /// The real address.
    pub(super) address: Address,
    pub(super) dispatch: Dispatch,
    /// Why it is another dispatch than was asked for.
    pub(super) reason: Option<String>,
}

impl Master {
    pub(super) fn open(
        &mut self,
        listener: ListenerId,
        address: &Address,
        dispatch: Dispatch,
        options: &ListenOptions,
    ) -> Input<Accepted> {
        match self.try_open(listener, address, dispatch, options) {
            Ok(Opened { address, dispatch, reason }) => {
                if let Some(board) = self.boards.get(&listener) {
                    self.control.add_listener(ListenerInfo {
                        address: address.clone(),
                        dispatch,
                        policy: self.machine.policy_name(listener, dispatch, &address),
                        reason: reason.clone(),
                        board: Arc::clone(board),
                    });
                }
                Input::ListenerOpened { listener, address, dispatch, reason }
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or_else(|| errno_of(error.kind()));
                Input::ListenerFailed { listener, errno, error: error.to_string() }
            }
        }
    }

    fn try_open(
        &mut self,
        id: ListenerId,
        address: &Address,
        asked: Dispatch,
        options: &ListenOptions,
    ) -> io::Result<Opened> {
        let mut reason = match asked {
            Dispatch::Steered => match self.try_steering(address) {
                Ok(steering) => return self.open_steered(id, address, steering, options),
                Err(reason) => Some(reason),
            },
            Dispatch::Auto | Dispatch::Handoff | Dispatch::Shared => None,
        };
        let (listener, address) = Listener::open(address, options, self.config.backlog)?;
        let mut dispatch = self.unsteered(asked);
        if listener.is_udp() {
            dispatch = Dispatch::Shared;
            // Of what the cluster says for all listeners, this one takes what there is.
            let is_handoff = options.dispatch == Some(Dispatch::Handoff);
            reason = reason.or_else(|| is_handoff.then(|| "datagrams are shared".to_owned()));
        }
        self.boards.insert(id, Arc::new(Board::new(SLOTS_MAX)?));
        let listening = Listening { listener, token: None, ready: false, last: None };
        self.listeners.insert(id, listening);
        Ok(Opened { address, dispatch, reason })
    }

    /// The receiving end of a mailbox, which is made when the first worker of its slot listens.
    pub(super) fn receiver(&mut self, id: MailboxId) -> io::Result<OwnedFd> {
        let mailbox = match self.mailboxes.entry(id) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Mailbox::new(self.config.mailbox_connections)?),
        };
        mailbox.receiver().try_clone_to_owned()
    }

    pub(super) fn set_accepting(&mut self, id: ListenerId, on: bool) {
        let token = if on { Some(self.token(Subject::Listener(id))) } else { None };
        let Some(listening) = self.listeners.get_mut(&id) else { return };
        if let Some(old) = listening.token.take() {
            let _ = listening.listener.deregister(self.poll.registry());
            self.subjects.remove(&old);
        }
        if let Some(token) = token {
            listening.token = Some(token);
            // Should this fail for lack of memory, the next turn accepts all the same.
            listening.ready = true;
            if let Err(error) = listening.listener.register(self.poll.registry(), token) {
                tracing::error!(%error, "can't watch a listener");
            }
        }
    }

    pub(super) fn close(&mut self, id: ListenerId) {
        if let Some(steered) = self.steered.remove(&id) {
            steered.close();
        }
        self.set_accepting(id, false);
        if let Some(listening) = self.listeners.remove(&id) {
            // Workers may still hold it: who connects from now on is refused, and does not wait.
            listening.listener.shut_down();
        }
    }

    /// From now on, the machine is told when the backlog of this listener is empty.
    pub(super) fn accept_last(&mut self, id: ListenerId) {
        if let Some(listening) = self.listeners.get_mut(&id) {
            listening.last = Some(ACCEPT_LAST_MAX);
            listening.ready = true;
        }
    }

    /// Accepts on every listener that may have something, each up to its batch.
    pub(super) fn accept(&mut self) {
        let mut from = Bound::Unbounded;
        while let Some((id, _)) =
            self.listeners.range((from, Bound::Unbounded)).find(|(_, listening)| listening.is_due())
        {
            let listener = *id;
            from = Bound::Excluded(listener);
            self.look_at_board(listener);
            let mut shed = 0;
            for _ in 0..ACCEPT_BATCH_MAX {
                let Some(listening) = self.listeners.get_mut(&listener) else { break };
                if !listening.is_due() {
                    break;
                }
                if listening.last == Some(0) {
                    self.end_peeks(listener);
                    self.handle(Input::ListenerDry { listener });
                    break;
                }
                match listening.listener.accept() {
                    Accept::Connection(connection) => {
                        listening.last = listening.last.map(|left| left - 1);
                        self.arrived(listener, connection);
                    }
                    Accept::Empty => {
                        listening.ready = false;
                        if listening.last.is_some() {
                            self.end_peeks(listener);
                            self.handle(Input::ListenerDry { listener });
                        }
                        break;
                    }
                    Accept::Shed => shed += 1,
                    Accept::Exhausted(error) => {
                        tracing::error!(%error, "can't accept");
                        self.handle(Input::Exhausted { listener });
                        break;
                    }
                }
            }
            if shed > 0 {
                self.handle(Input::Shed { listener, connections: shed });
            }
        }
    }

    pub(super) fn deliver(
        &mut self,
        id: MailboxId,
        connection: Accepted,
        key: u64,
    ) -> Input<Accepted> {
        let Some(mailbox) = self.mailboxes.get(&id) else {
            // It could not be made.
            return Input::Refused { mailbox: id, connection, key, refusal: Refusal::Busy };
        };
        let refusal = match mailbox.put(&connection) {
            Ok(()) => return Input::Delivered { mailbox: id },
            Err(SendError::WouldBlock) => Refusal::Full,
            Err(SendError::TooManyInFlight | SendError::NoMemory) => Refusal::Busy,
            Err(error) => {
                tracing::error!(%error, slot = id.slot, "a mailbox is broken; it gets a new one");
                self.mend(id);
                Refusal::Busy
            }
        };
        Input::Refused { mailbox: id, connection, key, refusal }
    }

    /// Replaces a mailbox that its worker has broken, with what waits in it, and the worker too.
    ///
    /// A worker can do that because both duplicates of the receiving end are one socket, which any
    /// holder may shut down.
    fn mend(&mut self, id: MailboxId) {
        let Ok(new) = Mailbox::new(self.config.mailbox_connections) else { return };
        if let Some(old) = self.mailboxes.get(&id) {
            let mut taker = Taker::default();
            while let Ok(Taken::Connection(connection)) = taker.take(old.receiver()) {
                if let Err(error) = new.put(&connection) {
                    tracing::error!(%error, "a waiting connection is lost");
                }
            }
        }
        self.unwatch_room(id);
        self.mailboxes.insert(id, new);
        let worker = self.workers.keys().find(|worker| worker.slot == id.slot).copied();
        if let Some(worker) = worker {
            self.machine.handle(self.now, Input::Violation { worker });
        }
        self.machine.handle(self.now, Input::Room { mailbox: id });
    }

    pub(super) fn probe(&self, id: MailboxId) -> Option<Input<Accepted>> {
        self.mailboxes.get(&id)?.probe().ok().map(|()| Input::Delivered { mailbox: id })
    }

    pub(super) fn count(&self, id: MailboxId) -> Option<Input<Accepted>> {
        let waiting = self.mailboxes.get(&id)?.waiting();
        let waiting = waiting.inspect_err(|error| tracing::error!(%error, "mailbox"));
        Some(Input::Counted { mailbox: id, waiting: waiting.unwrap_or(0) })
    }

    pub(super) fn take_back(&mut self, id: MailboxId) -> Input<Accepted> {
        let Some(mailbox) = self.mailboxes.get(&id) else { return Input::Emptied { mailbox: id } };
        match Taker::default().take(mailbox.receiver()) {
            Ok(Taken::Connection(connection)) => {
                let key = connection.key;
                Input::TakenBack { mailbox: id, connection, key }
            }
            Ok(Taken::Empty | Taken::Closed) => Input::Emptied { mailbox: id },
            Err(error) => {
                tracing::error!(%error, slot = id.slot, "can't take back from a mailbox");
                Input::TakeBackFailed { mailbox: id }
            }
        }
    }

    pub(super) fn watch_room(&mut self, id: MailboxId) -> Option<Input<Accepted>> {
        let token = self.token(Subject::Room(id));
        let sender = self.mailboxes.get(&id)?.sender().as_raw_fd();
        let registry = self.poll.registry();
        match registry.register(&mut SourceFd(&sender), token, Interest::WRITABLE) {
            Ok(()) => {
                self.room_tokens.insert(id, token);
                None
            }
            Err(error) => {
                tracing::error!(%error, "can't watch a mailbox");
                self.subjects.remove(&token);
                Some(Input::Room { mailbox: id })
            }
        }
    }

    pub(super) fn room(&mut self, id: MailboxId) {
        self.unwatch_room(id);
        self.handle(Input::Room { mailbox: id });
    }

    fn unwatch_room(&mut self, id: MailboxId) {
        if let Some(token) = self.room_tokens.remove(&id) {
            self.subjects.remove(&token);
            if let Some(mailbox) = self.mailboxes.get(&id) {
                let sender = mailbox.sender().as_raw_fd();
                let _ = self.poll.registry().deregister(&mut SourceFd(&sender));
            }
        }
    }
}

/// What a worker is told of an error that has lost its number on the way.
fn errno_of(kind: io::ErrorKind) -> i32 {
    match kind {
        io::ErrorKind::AddrInUse => libc::EADDRINUSE,
        io::ErrorKind::AddrNotAvailable => libc::EADDRNOTAVAIL,
        io::ErrorKind::NotFound => libc::ENOENT,
        io::ErrorKind::PermissionDenied => libc::EACCES,
        _ => libc::EINVAL,
    }
}
