mod rota;
mod timers;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};

use self::rota::Rota;
use self::timers::Timers;
use crate::clock::{now, time_left};
use crate::{Channel, Message, RecvError, TryRecvError, TrySendError};

/// How many messages a channel gives in its turn, unless told otherwise.
const BUDGET: usize = 16;

/// How many events one look at the system takes.
const EVENTS_MAX: usize = 256;

/// How long to wait before another attempt while the user's descriptors in flight are at their
/// limit.
const THROTTLE_PAUSE: Duration = Duration::from_millis(5);

/// The token that wakes; no channel's.
const WAKE: Token = Token(usize::MAX);

/// Waits for many channels at once, in one thread, and gives each a fair share of it.
///
/// [`wait`](Self::wait) answers with the next message of any channel. The channels take turns, in
/// the order in which they became ready; in its turn a channel gives a [budget](Self::with_budget)
/// of messages at most. So a peer that sends without end delays the message of another by two
/// budgets, and no more.
///
/// What a channel's socket does not take at once, the set sends later, during `wait`: when the
/// socket becomes writable, or a few milliseconds later if the channel
/// [is throttled](Channel::is_throttled). So call `wait` again soon.
///
/// A channel that has ended leaves the set with its last event. Ids are not used twice, and nothing
/// more is heard of one whose channel has left, by itself or by [`remove`](Self::remove).
///
/// # Examples
///
/// Answers whatever comes, until all peers have gone:
///
/// ```
/// use ipc_core::{Channel, ChannelSet, Message, SetEvent};
///
/// let mut set = ChannelSet::new()?;
/// for name in ["one", "two"] {
///     let (ours, mut theirs) = Channel::pair()?;
///     set.insert(ours)?;
///     std::thread::spawn(move || {
///         theirs.send_deadline(Message::new(1, name), None)?;
///         let answer = theirs.recv_deadline(None)?;
///         assert_eq!(answer.payload, name.as_bytes());
///         Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
///     });
/// }
/// while !set.is_empty() {
///     match set.wait(None)? {
///         Some((id, SetEvent::Message(message))) => {
///             set.queue(id, Message::new(2, message.payload))?;
///         }
///         Some((id, SetEvent::Closed(_channel))) => println!("{id} has closed"),
///         Some((id, SetEvent::Failed(_channel, error))) => println!("{id} has failed: {error}"),
///         None => println!("somebody wakes us"),
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ChannelSet {
    poll: Poll,
    events: Events,
    members: BTreeMap<ChannelId, Member>,
    next_id: usize,
    rota: Rota<ChannelId>,
    timers: Timers<(ChannelId, Timer)>,
    /// Whose outbox may hold what no event will tell of.
    unflushed: Vec<ChannelId>,
    partial_message_timeout: Option<Duration>,
    waker: Option<SetWaker>,
}

/// Names a channel of a [`ChannelSet`]. The set never gives the same one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(usize);

/// What happened to a channel of a [`ChannelSet`].
#[derive(Debug)]
pub enum SetEvent {
    /// A message has come.
    Message(Message),
    /// The peer has closed its end, or died, and all its complete messages have been given out.
    /// The channel has left the set; [`is_mid_message`](Channel::is_mid_message) and
    /// [`has_unsent`](Channel::has_unsent) tell how it ended.
    Closed(Box<Channel>),
    /// The channel has left the set because of this error, and is here to be closed, or to be put
    /// in again if a failure of the system may have passed. [`RecvError::TimedOut`] is a message
    /// that took its peer too long, see
    /// [`with_partial_message_timeout`](ChannelSet::with_partial_message_timeout).
    Failed(Box<Channel>, RecvError),
}

/// Makes a [`ChannelSet::wait`] in another thread return, see [`ChannelSet::waker`].
#[derive(Clone, Debug)]
pub struct SetWaker(Arc<Waker>);

/// Why [`ChannelSet::insert`] did not take a channel, which comes back.
#[derive(Debug)]
pub struct InsertError {
    /// The channel, unchanged.
    pub channel: Box<Channel>,
    /// What the system reported.
    pub error: io::Error,
}

#[derive(Debug)]
struct Member {
    channel: Box<Channel>,
    /// Why nothing more can be sent; told when everything has been received.
    send_error: Option<io::Error>,
    /// The message that is there in part has taken its peer too long.
    is_late: bool,
    /// It is among those that `unflushed` lists.
    is_unflushed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// To try again to send.
    Flush,
    /// The rest of a message shall have come.
    PartialMessage,
}

impl ChannelSet {
    /// An empty set.
    ///
    /// # Errors
    ///
    /// What the system reports, such as that this process has too many descriptors open.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_MAX),
            members: BTreeMap::new(),
            next_id: 0,
            rota: Rota::new(BUDGET),
            timers: Timers::new(),
            unflushed: Vec::new(),
            partial_message_timeout: None,
            waker: None,
        })
    }

    /// Sets how many messages a channel gives in its turn: 16 by default, and at least one.
    #[must_use]
    pub fn with_budget(mut self, messages: usize) -> Self {
        self.rota.set_budget(messages);
        self
    }

    /// Limits how long a peer may take to finish a message that it has begun, and fails its
    /// channel after that. By default it may take for ever.
    ///
    /// The time runs from when the set has first found the message incomplete, and bytes that
    /// trickle in do not extend it.
    #[must_use]
    pub fn with_partial_message_timeout(mut self, timeout: Duration) -> Self {
        self.partial_message_timeout = Some(timeout);
        self
    }

    /// Takes a channel in. It may hold messages already, or what waits to be sent.
    ///
    /// # Errors
    ///
    /// What the system reports when the channel is registered; the error holds the channel.
    pub fn insert(&mut self, channel: Channel) -> Result<ChannelId, InsertError> {
        let mut channel = Box::new(channel);
        let id = ChannelId(self.next_id);
        let interests = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut *channel, Token(id.0), interests) {
            return Err(InsertError { channel, error });
        }
        // At a million a second, half a million years of ids.
        self.next_id += 1;
        let member = Member { channel, send_error: None, is_late: false, is_unflushed: false };
        self.members.insert(id, member);
        self.look_after(id);
        Ok(id)
    }

    /// Takes a channel out. It is as usable as before, and the set gives no event of it any more,
    /// not even one that has happened already.
    pub fn remove(&mut self, id: ChannelId) -> Option<Channel> {
        self.take_out(id).map(|channel| *channel)
    }

    /// The channel with this id, while it is in the set.
    #[must_use]
    pub fn get(&self, id: ChannelId) -> Option<&Channel> {
        self.members.get(&id).map(|member| &*member.channel)
    }

    /// The channel with this id, while it is in the set, for any use. What is queued is sent by
    /// the next [`wait`](Self::wait), and what is not received there.
    pub fn get_mut(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.look_after(id);
        self.members.get_mut(&id).map(|member| &mut *member.channel)
    }

    /// How many channels there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are no channels, or none any more.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The ids of the channels, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = ChannelId> {
        self.members.keys().copied()
    }

    /// Sends a message, or queues what the socket does not take of it; the set sends that later.
    ///
    /// # Errors
    ///
    /// When the message is not taken; the error holds it. [`TrySendError::Closed`] also when the
    /// channel has left the set.
    pub fn try_send(&mut self, id: ChannelId, message: Message) -> Result<(), TrySendError> {
        let Some(member) = self.members.get_mut(&id) else {
            return Err(TrySendError::Closed(message));
        };
        let sent = member.channel.try_send(message);
        self.pace(id);
        sent
    }

    /// Queues a message, which leaves with all that is queued until the turn of the channel whose
    /// message was given out last is over, or [`wait`](Self::wait) has none to give: one system
    /// call for many.
    ///
    /// # Errors
    ///
    /// When the message is not taken; the error holds it. [`TrySendError::Closed`] also when the
    /// channel has left the set.
    pub fn queue(&mut self, id: ChannelId, message: Message) -> Result<(), TrySendError> {
        let Some(member) = self.members.get_mut(&id) else {
            return Err(TrySendError::Closed(message));
        };
        match member.channel.queue(message) {
            Ok(()) => {
                member.flush_soon(id, &mut self.unflushed);
                Ok(())
            }
            Err(TrySendError::Full(message)) => self.try_send(id, message),
            Err(error) => Err(error),
        }
    }

    /// What happens next, on any channel; blocks until the deadline at most. `None` when the
    /// deadline has passed, or a [waker](Self::waker) was used. With a deadline that has passed
    /// already, it gives what is there.
    ///
    /// # Errors
    ///
    /// What the system reports about the poll. What goes wrong with a channel is an event.
    pub fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Option<(ChannelId, SetEvent)>> {
        loop {
            while let Some(id) = self.rota.current() {
                if let Some(event) = self.receive(id) {
                    return Ok(Some((id, event)));
                }
            }
            self.flush_unflushed();
            if self.rota.next_turn() {
                continue;
            }
            // The round is over: a look at what has become ready, before the next one.
            let is_over = self.poll(deadline)?;
            self.rota.next_round();
            if is_over {
                return Ok(None);
            }
        }
    }

    /// Something to end a [`wait`](Self::wait) with, from any thread: then it returns `None`, at
    /// the end of the current round of turns. One that is used while nobody waits ends the next
    /// wait.
    ///
    /// # Errors
    ///
    /// What the system reports the first time, such as that this process has too many descriptors
    /// open.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut set = ipc_core::ChannelSet::new()?;
    /// let waker = set.waker()?;
    /// let other = std::thread::spawn(move || waker.wake());
    /// assert!(set.wait(None)?.is_none());
    /// other.join().expect("it does not panic")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn waker(&mut self) -> io::Result<SetWaker> {
        if let Some(waker) = &self.waker {
            return Ok(waker.clone());
        }
        let waker = SetWaker(Arc::new(Waker::new(self.poll.registry(), WAKE)?));
        self.waker = Some(waker.clone());
        Ok(waker)
    }

    fn take_out(&mut self, id: ChannelId) -> Option<Box<Channel>> {
        let mut member = self.members.remove(&id)?;
        // It fails for what is not registered; this is. And whatever came after all would find no
        // member of this id.
        let _ = self.poll.registry().deregister(&mut *member.channel);
        self.rota.remove(id);
        self.timers.stop((id, Timer::Flush));
        self.timers.stop((id, Timer::PartialMessage));
        Some(member.channel)
    }

    /// What comes of asking the channel whose turn it is; `None` when it has nothing to give.
    fn receive(&mut self, id: ChannelId) -> Option<SetEvent> {
        let Some(member) = self.members.get_mut(&id) else {
            self.rota.remove(id);
            return None;
        };
        let error = match member.channel.try_recv() {
            Ok(message) => {
                member.is_late = false;
                self.timers.stop((id, Timer::PartialMessage));
                self.rota.gave();
                return Some(SetEvent::Message(message));
            }
            Err(TryRecvError::Empty) => match member.failure() {
                Some(error) => error,
                None => {
                    self.rota.finished();
                    self.time_partial_message(id);
                    return None;
                }
            },
            Err(TryRecvError::Closed) => return self.take_out(id).map(SetEvent::Closed),
            Err(TryRecvError::Protocol(error)) => RecvError::Protocol(error),
            Err(TryRecvError::Io(error)) => RecvError::Io(error),
        };
        self.take_out(id).map(|channel| SetEvent::Failed(channel, error))
    }

    /// Starts the clock of a message that is there in part, unless it runs already.
    fn time_partial_message(&mut self, id: ChannelId) {
        let Some(timeout) = self.partial_message_timeout else { return };
        let timer = (id, Timer::PartialMessage);
        let is_partial = self.get(id).is_some_and(Channel::is_mid_message);
        if is_partial && !self.timers.is_running(timer) {
            // A time that the clock cannot count to never comes.
            if let Some(at) = now().checked_add(timeout) {
                self.timers.start(timer, at);
            }
        }
    }

    /// Waits for events, unless somebody is in line, and takes note of them; true when the caller
    /// shall not wait any longer.
    fn poll(&mut self, deadline: Option<Instant>) -> io::Result<bool> {
        let until = deadline.into_iter().chain(self.timers.next()).min();
        let left = time_left(until).unwrap_or(Some(Duration::ZERO));
        let timeout = if self.rota.is_empty() { left } else { Some(Duration::ZERO) };
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            result => result?,
        }
        let mut is_woken = false;
        for event in &self.events {
            is_woken |= event.token() == WAKE;
            let id = ChannelId(event.token().0);
            let Some(member) = self.members.get_mut(&id) else { continue };
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.rota.ready(id);
            }
            // Linux reports a socket as writable after each attempt that is refused for want of
            // descriptors in flight: to try again at once would go on without end.
            let is_due = member.channel.has_unsent() && !member.channel.is_throttled();
            if event.is_writable() && is_due {
                member.flush_soon(id, &mut self.unflushed);
            }
        }
        self.expire_timers();
        self.flush_unflushed();
        Ok(is_woken || self.rota.is_empty() && time_left(deadline).is_err())
    }

    fn expire_timers(&mut self) {
        if self.timers.next().is_none() {
            return;
        }
        let now = now();
        while let Some((id, timer)) = self.timers.pop(now) {
            match (timer, self.members.get_mut(&id)) {
                (_, None) => {}
                (Timer::Flush, Some(member)) => member.flush_soon(id, &mut self.unflushed),
                (Timer::PartialMessage, Some(member)) => {
                    member.is_late = true;
                    self.rota.ready(id);
                }
            }
        }
    }

    /// Anything may have been done to this channel, or left undone.
    fn look_after(&mut self, id: ChannelId) {
        if let Some(member) = self.members.get_mut(&id) {
            member.flush_soon(id, &mut self.unflushed);
            self.rota.ready(id);
        }
    }

    fn flush_unflushed(&mut self) {
        while let Some(id) = self.unflushed.pop() {
            if let Some(member) = self.members.get_mut(&id) {
                member.is_unflushed = false;
                self.flush(id);
            }
        }
    }

    fn flush(&mut self, id: ChannelId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.send_error.is_some() {
            return;
        }
        if let Err(error) = member.channel.flush() {
            // What the peer had sent before comes first, and perhaps a better reason.
            member.send_error = Some(error);
            self.rota.ready(id);
        }
        self.pace(id);
    }

    /// Sees to it that a channel is flushed of which no event will tell when.
    fn pace(&mut self, id: ChannelId) {
        let is_throttled = self.get(id).is_some_and(Channel::is_throttled);
        let timer = (id, Timer::Flush);
        match is_throttled {
            true if self.timers.is_running(timer) => {}
            true => self.timers.start(timer, now() + THROTTLE_PAUSE),
            false => self.timers.stop(timer),
        }
    }
}

impl Member {
    fn flush_soon(&mut self, id: ChannelId, unflushed: &mut Vec<ChannelId>) {
        if !self.is_unflushed {
            self.is_unflushed = true;
            unflushed.push(id);
        }
    }

    /// Why the channel cannot stay although it is open.
    fn failure(&mut self) -> Option<RecvError> {
        if let Some(error) = self.send_error.take() {
            return Some(RecvError::Io(error));
        }
        (self.is_late && self.channel.is_mid_message()).then_some(RecvError::TimedOut)
    }
}

impl SetWaker {
    /// Ends the wait.
    ///
    /// # Errors
    ///
    /// What the system reports.
    pub fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "channel {}", self.0)
    }
}

impl fmt::Display for InsertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the channel can't be waited for: {}", self.error)
    }
}

impl Error for InsertError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

impl From<InsertError> for io::Error {
    fn from(error: InsertError) -> Self {
        let kind = error.error.kind();
        io::Error::new(kind, error)
    }
}
