//! What the kernel holds: clients, listening sockets with backlogs, mailboxes.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::Time;

/// A connection in the machine's hands. To drop it there is the loss that nobody notices, so that
/// is counted.
#[derive(Debug)]
pub struct Token {
    id: usize,
    key: u64,
    dropped: Option<Rc<Cell<usize>>>,
}

impl Token {
    /// The connection `id`; `dropped` is counted up when it is dropped.
    #[must_use]
    pub fn new(id: usize, key: u64, dropped: &Rc<Cell<usize>>) -> Token {
        Token { id, key, dropped: Some(Rc::clone(dropped)) }
    }

    /// Takes it out of the machine's hands: the connection's id, and its key, which must be what
    /// came with it.
    #[must_use]
    pub fn into_parts(mut self) -> (usize, u64) {
        self.dropped = None;
        (self.id, self.key)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if let Some(dropped) = &self.dropped {
            dropped.set(dropped.get() + 1);
        }
    }
}

/// Where a client's connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a backlog.
    Backlog,
    /// In the master's hands.
    Held,
    /// In this slot's mailbox.
    Mailbox(usize),
    /// With the worker of this process.
    Taken(usize),
    /// Served, by the worker of this slot.
    Served(usize),
    /// Lost with a worker that had taken it.
    Lost,
    /// Accepted, and closed at the end.
    Abandoned,
    /// Never accepted by the machine.
    Reset,
}

impl Place {
    const KINDS: usize = 8;

    fn kind(self) -> usize {
        match self {
            Place::Backlog => 0,
            Place::Held => 1,
            Place::Mailbox(_) => 2,
            Place::Taken(_) => 3,
            Place::Served(_) => 4,
            Place::Lost => 5,
            Place::Abandoned => 6,
            Place::Reset => 7,
        }
    }
}

/// Where each connection is. Its id is its index.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    places: Vec<Place>,
    listeners: Vec<usize>,
    counts: [usize; Place::KINDS],
}

impl Ledger {
    /// A client connects to a listener; its connection's id.
    pub(super) fn arrive(&mut self, listener: usize) -> usize {
        self.places.push(Place::Backlog);
        self.listeners.push(listener);
        self.counts[Place::Backlog.kind()] += 1;
        self.places.len() - 1
    }

    pub(super) fn listener(&self, id: usize) -> usize {
        self.listeners[id]
    }

    /// Moves a connection, and says where it was if it was not at `from`.
    pub(super) fn shift(&mut self, id: usize, from: Place, to: Place) -> Result<(), Place> {
        let place = self.places[id];
        if place != from {
            return Err(place);
        }
        self.counts[from.kind()] -= 1;
        self.counts[to.kind()] += 1;
        self.places[id] = to;
        Ok(())
    }

    /// How many are at a place of this kind.
    pub(super) fn count(&self, kind: Place) -> usize {
        self.counts[kind.kind()]
    }

    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }
}

/// A message in a mailbox.
#[derive(Clone, Copy, Debug)]
pub(super) enum Message {
    Connection(usize),
    Probe,
}

#[derive(Debug)]
pub(super) struct Mailbox {
    pub(super) queue: VecDeque<Message>,
    bound: usize,
    /// Whether `Room` shall be told.
    pub(super) watched: bool,
    /// The process that was told that it reads this mailbox.
    pub(super) reader: Option<usize>,
    pub(super) read_since: Time,
    /// When its reader last took something, or it was last empty.
    pub(super) moved_at: Time,
    /// When a worker last took something.
    pub(super) taken_at: Option<Time>,
    /// Since when the machine takes its reader for stalled.
    pub(super) stalled_at: Option<Time>,
    /// Whether a probe could not be put in.
    pub(super) probe_failed: bool,
}

impl Mailbox {
    pub(super) fn new(bound: usize) -> Mailbox {
        Mailbox {
            queue: VecDeque::new(),
            bound,
            watched: false,
            reader: None,
            read_since: Time::ZERO,
            moved_at: Time::ZERO,
            taken_at: None,
            stalled_at: None,
            probe_failed: false,
        }
    }

    pub(super) fn attach(&mut self, now: Time, reader: usize) {
        self.reader = Some(reader);
        self.read_since = now;
        self.moved_at = now;
    }

    /// Puts a message in, unless it is full.
    pub(super) fn push(&mut self, now: Time, message: Message) -> bool {
        self.note_empty(now);
        let has_room = self.queue.len() < self.bound;
        if has_room {
            self.queue.push_back(message);
        }
        has_room
    }

    /// The master takes the oldest message back.
    pub(super) fn take_back(&mut self, now: Time) -> Option<Message> {
        let message = self.queue.pop_front();
        self.note_empty(now);
        message
    }

    fn note_empty(&mut self, now: Time) {
        if self.queue.is_empty() {
            self.moved_at = now;
        }
    }

    /// Its reader takes the oldest message.
    pub(super) fn pop(&mut self, now: Time) -> Option<Message> {
        self.moved_at = now;
        self.taken_at = Some(now);
        self.queue.pop_front()
    }

    pub(super) fn has_connections(&self) -> bool {
        self.queue.iter().any(|message| matches!(message, Message::Connection(_)))
    }

    /// Whether a watch ends: three quarters are free.
    pub(super) fn is_roomy(&self) -> bool {
        self.queue.len() <= self.bound / 4
    }
}

/// A listener, from the request to open it on. It is never removed, since ids are indices.
#[derive(Debug)]
pub(super) struct Socket {
    /// Which of the plan's addresses.
    pub(super) address: usize,
    pub(super) state: SocketState,
    pub(super) accepting: bool,
    /// After `AcceptLast`: how many more are accepted at most.
    pub(super) last: Option<usize>,
    /// Whether `ListenerDry` was told.
    pub(super) was_dry: bool,
    pub(super) backlog: VecDeque<usize>,
    /// By slot.
    pub(super) mailboxes: Vec<Mailbox>,
    /// How many of its connections the machine holds.
    pub(super) held: usize,
    /// When the kernel last had no room for a descriptor in flight.
    pub(super) busy_at: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketState {
    /// It was asked for; the answer is due at this time of the world's.
    Opening(Time),
    Open,
    Closed,
}

impl Socket {
    pub(super) fn new(address: usize, slots: usize, mailbox_bound: usize) -> Socket {
        Socket {
            address,
            state: SocketState::Closed,
            accepting: false,
            last: None,
            was_dry: false,
            backlog: VecDeque::new(),
            mailboxes: (0..slots).map(|_| Mailbox::new(mailbox_bound)).collect(),
            held: 0,
            busy_at: None,
        }
    }

    /// Whether the last share of the backlog was accepted.
    pub(super) fn is_dry(&self) -> bool {
        self.last.is_some_and(|left| left == 0 || self.backlog.is_empty())
    }

    /// Whether the shell has something to do for it.
    pub(super) fn is_readable(&self) -> bool {
        let open = self.state == SocketState::Open && self.accepting;
        open && (!self.backlog.is_empty() || self.is_dry())
    }
}
