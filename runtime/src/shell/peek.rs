//! Connections whose first bytes say to whom they go: they wait here until enough has come.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::{Master, Subject};
use crate::machine::{Input, ListenerId, Time};
use crate::mailbox::Accepted;
use crate::peek::{Peek, PeekOptions};
use crate::sys;

/// How many connections wait at most; further ones are known by their clients' addresses.
const WAITING_MAX: usize = 4096;

/// What waits, and how it is looked at.
pub(super) struct Peeking {
    options: PeekOptions,
    buffer: Vec<u8>,
    waiting: BTreeMap<u64, Waiting>,
    waiting_max: usize,
    next: u64,
}

struct Waiting {
    listener: ListenerId,
    connection: Accepted,
    token: Token,
    deadline: Time,
}

impl Peeking {
    pub(super) fn new(options: PeekOptions) -> Peeking {
        let buffer = vec![0; options.bytes_max];
        Peeking { options, buffer, waiting: BTreeMap::new(), waiting_max: WAITING_MAX, next: 0 }
    }

    /// There are so many descriptors: clients that send nothing are not to have them all.
    pub(super) fn share_descriptors(&mut self, limit: u64) {
        self.waiting_max = usize::try_from(limit / 2).unwrap_or(WAITING_MAX).min(WAITING_MAX);
    }

    /// When the first of them has waited long enough. All wait for the same time, in order.
    pub(super) fn next_timeout(&self) -> Option<Time> {
        self.waiting.first_key_value().map(|(_, waiting)| waiting.deadline)
    }

    /// The key, as far as it can be told now; `None` while more is needed.
    fn look(&mut self, connection: &Accepted) -> Option<Peek> {
        match sys::peek(connection.socket.as_fd(), &mut self.buffer) {
            Ok(0) => Some(Peek::Nothing),
            Ok(length) => match (self.options.find)(&self.buffer[..length]) {
                Peek::More if length < self.buffer.len() => None,
                peek => Some(peek),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => Some(Peek::Nothing),
        }
    }
}

impl Master {
    /// A connection was accepted: finds its key, now or later, then tells the machine.
    pub(super) fn arrived(&mut self, listener: ListenerId, connection: Accepted) {
        let Some(peeking) = &mut self.peeking else { return self.is_known(listener, connection) };
        match peeking.look(&connection) {
            Some(peek) => self.has_key(listener, connection, peek),
            None if peeking.waiting.len() >= peeking.waiting_max => {
                self.is_known(listener, connection)
            }
            None => self.wait_for_more(listener, connection),
        }
    }

    fn wait_for_more(&mut self, listener: ListenerId, connection: Accepted) {
        let Some(peeking) = &mut self.peeking else { return };
        let id = peeking.next;
        let deadline = self.clock.now().saturating_add(peeking.options.timeout);
        peeking.next += 1;
        let token = self.token(Subject::Peek(id));
        let fd = connection.socket.as_raw_fd();
        let registered =
            self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE);
        if let Err(error) = registered {
            tracing::error!(%error, "can't wait for the first bytes of a connection");
            self.subjects.remove(&token);
            return self.is_known(listener, connection);
        }
        if let Some(peeking) = &mut self.peeking {
            peeking.waiting.insert(id, Waiting { listener, connection, token, deadline });
        }
    }

    /// Something came for a connection that waits.
    pub(super) fn peek(&mut self, id: u64) {
        let Some(peeking) = &mut self.peeking else { return };
        let Some(waiting) = peeking.waiting.remove(&id) else { return };
        match peeking.look(&waiting.connection) {
            Some(peek) => self.let_go(waiting, peek),
            None => drop(peeking.waiting.insert(id, waiting)),
        }
    }

    /// Goes on with those that have waited long enough.
    pub(super) fn expire_peeks(&mut self) {
        while let Some(peeking) = &mut self.peeking
            && let Some(deadline) = peeking.next_timeout()
            && deadline <= self.clock.now()
            && let Some((_, waiting)) = peeking.waiting.pop_first()
        {
            self.let_go(waiting, Peek::Nothing);
        }
    }

    /// Goes on with all that wait for this listener.
    pub(super) fn end_peeks(&mut self, listener: ListenerId) {
        let Some(peeking) = &mut self.peeking else { return };
        let ids = peeking.waiting.iter().filter(|(_, waiting)| waiting.listener == listener);
        for id in ids.map(|(id, _)| *id).collect::<Vec<_>>() {
            if let Some(waiting) = self.peeking.as_mut().and_then(|p| p.waiting.remove(&id)) {
                self.let_go(waiting, Peek::Nothing);
            }
        }
    }

    fn let_go(&mut self, waiting: Waiting, peek: Peek) {
        let fd = waiting.connection.socket.as_raw_fd();
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        self.subjects.remove(&waiting.token);
        self.has_key(waiting.listener, waiting.connection, peek);
    }

    fn has_key(&mut self, listener: ListenerId, mut connection: Accepted, peek: Peek) {
        if let Peek::Key(key) = peek {
            connection.key = key;
        }
        self.is_known(listener, connection);
    }

    fn is_known(&mut self, listener: ListenerId, connection: Accepted) {
        let key = connection.key;
        self.handle(Input::Accepted { listener, connection, key });
    }
}
