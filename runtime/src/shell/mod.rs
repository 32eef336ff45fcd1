//! The master's hands: a mio loop that turns readiness into inputs of the machine, and executes its
//! outputs. It decides nothing.

mod connections;
mod direct;
mod inherited;
mod listener;
mod peek;
mod post;
mod program;
mod signals;
mod steered;
mod user;
mod workers;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use scheduler::PolicyKind;

pub(crate) use self::post::{MessageHook, limits};
pub(crate) use self::program::Program;
pub(crate) use self::user::{Command, Control, EventHook, Publisher};

use self::connections::Listening;
use self::peek::Peeking;
use self::signals::Signals;
use self::steered::Steered;
use self::workers::Seated;
use crate::clock::Clock;
use crate::error::Error;
use crate::event::{Event, WorkerId};
use crate::machine::{Input, ListenerId, Machine, MailboxId, Order, Output, Time, ToWorker};
use crate::mailbox::{Accepted, Mailbox};
use crate::peek::PeekOptions;
use crate::post::Terms;
use crate::slot_options::{self, SlotOptions};
use crate::sys::{self, Board, OomKills, Timer};

/// How long to wait before a channel that was throttled tries again.
const THROTTLE_PAUSE: Duration = Duration::from_millis(20);

/// How many messages of one worker are handled before others get their turn.
const MESSAGE_BATCH_MAX: usize = 64;

/// What the shell needs to know beyond the machine.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) program: Program,
    pub(crate) slots: Vec<SlotOptions>,
    pub(crate) terms: Terms,
    /// `None` for one of the user's own.
    pub(crate) policy: Option<PolicyKind>,
    pub(crate) backlog: u32,
    pub(crate) mailbox_connections: usize,
    pub(crate) handle_signals: bool,
    pub(crate) peek: Option<PeekOptions>,
}

/// How many turns a driver has before its host's loop goes on.
const TURNS_MAX: usize = 64;

/// Whether a turn waits until something is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Yes,
    No,
}

/// What an event of the poll is about. Tokens are never used twice, so an event that comes too late
/// finds nothing.
#[derive(Clone, Copy, Debug)]
enum Subject {
    Signals,
    Commands,
    Timer,
    Process(WorkerId),
    Channel(WorkerId),
    Listener(ListenerId),
    Room(MailboxId),
    Peek(u64),
}

/// The master: the machine and everything that it commands.
pub(crate) struct Master {
    config: Config,
    machine: Machine<Accepted>,
    clock: Clock,
    /// The time of this turn: reading the clock for every connection would be felt.
    now: Time,
    timer: Timer,
    /// What the timer is set to.
    alarm: Option<Time>,
    poll: Poll,
    next_token: usize,
    subjects: BTreeMap<Token, Subject>,
    signals: Option<Signals>,
    control: Arc<Control>,
    publisher: Publisher,
    workers: BTreeMap<WorkerId, Seated>,
    listeners: BTreeMap<ListenerId, Listening>,
    mailboxes: BTreeMap<MailboxId, Mailbox>,
    steered: BTreeMap<ListenerId, Steered>,
    /// What workers count, for each listener.
    boards: BTreeMap<ListenerId, Arc<Board>>,
    room_tokens: BTreeMap<MailboxId, Token>,
    /// Channels that had more to say than their turn allowed.
    unheard: VecDeque<WorkerId>,
    /// Channels that could not send for the number of descriptors in flight: no event tells when
    /// they can again.
    throttled: Vec<WorkerId>,
    /// When they are tried again.
    flush_at: Option<Time>,
    oom_kills: OomKills,
    on_message: Option<MessageHook>,
    is_started: bool,
    peeking: Option<Peeking>,
    finished: Option<bool>,
}

impl Master {
    /// Prepares a master, which `control` reaches from now on.
    pub(crate) fn new(
        mut config: Config,
        machine: Machine<Accepted>,
        control: Arc<Control>,
        publisher: Publisher,
        on_message: Option<MessageHook>,
    ) -> io::Result<Master> {
        let poll = Poll::new()?;
        let peeking = config.peek.take().map(Peeking::new);
        let mut master = Master {
            config,
            machine,
            clock: Clock::start(),
            now: Time::ZERO,
            timer: Timer::new()?,
            alarm: None,
            poll,
            next_token: 0,
            subjects: BTreeMap::new(),
            signals: None,
            control,
            publisher,
            workers: BTreeMap::new(),
            listeners: BTreeMap::new(),
            mailboxes: BTreeMap::new(),
            steered: BTreeMap::new(),
            boards: BTreeMap::new(),
            room_tokens: BTreeMap::new(),
            unheard: VecDeque::new(),
            throttled: Vec::new(),
            flush_at: None,
            oom_kills: OomKills::new(),
            on_message,
            is_started: false,
            peeking,
            finished: None,
        };
        let token = master.token(Subject::Commands);
        let waker = mio::Waker::new(master.poll.registry(), token)?;
        master.control.set_waker(waker);
        let token = master.token(Subject::Timer);
        let timer = master.timer.as_fd().as_raw_fd();
        master.poll.registry().register(&mut SourceFd(&timer), token, Interest::READABLE)?;
        if master.config.handle_signals {
            let mut signals = Signals::install()?;
            let token = master.token(Subject::Signals);
            let interest = Interest::READABLE;
            master.poll.registry().register(signals.source(), token, interest)?;
            master.signals = Some(signals);
        }
        Ok(master)
    }

    /// Runs until the machine says that everything is over.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        let mut events = Events::with_capacity(256);
        while self.outcome()?.is_continue() {
            self.start();
            self.turn(&mut events, Wait::Yes)?;
        }
        Ok(())
    }

    /// Does what can be done without waiting, up to a number of turns; breaks when everything is
    /// over.
    pub(crate) fn advance(&mut self, events: &mut Events) -> Result<ControlFlow<()>, Error> {
        self.start();
        for _ in 0..TURNS_MAX {
            if self.outcome()?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if !self.turn(events, Wait::No)? {
                return Ok(ControlFlow::Continue(()));
            }
        }
        self.control.wake();
        self.outcome()
    }

    fn start(&mut self) {
        if std::mem::replace(&mut self.is_started, true) {
            return;
        }
        match sys::raise_descriptor_limit() {
            Ok(limit) => {
                tracing::debug!(limit, "open descriptors");
                if let Some(peeking) = &mut self.peeking {
                    peeking.share_descriptors(limit);
                }
            }
            Err(error) => tracing::warn!(%error, "the limit of open descriptors stays as it is"),
        }
        self.handle(Input::Start);
    }

    fn outcome(&self) -> Result<ControlFlow<()>, Error> {
        match self.finished {
            None => Ok(ControlFlow::Continue(())),
            Some(false) => Ok(ControlFlow::Break(())),
            Some(true) => Err(Error::all_slots_failed()),
        }
    }

    /// One turn: wait, then control first, connections after, time last. Says whether anything was
    /// ready.
    fn turn(&mut self, events: &mut Events, wait: Wait) -> Result<bool, Error> {
        let busy = !self.unheard.is_empty() || self.listeners.values().any(Listening::is_due);
        if !busy {
            self.set_alarm().map_err(|error| Error::io("set the timer", error))?;
        }
        let timeout = (busy || wait == Wait::No).then_some(Duration::ZERO);
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(Error::io("wait for events", error));
            }
            _ => {}
        }
        if events.is_empty() && !busy {
            return Ok(false);
        }
        self.now = self.clock.now();
        let mut ended = Vec::new();
        let mut heard: VecDeque<WorkerId> = std::mem::take(&mut self.unheard);
        for event in events.iter() {
            match self.subjects.get(&event.token()).copied() {
                Some(Subject::Process(worker)) => ended.push(worker),
                Some(Subject::Channel(worker)) => heard.push_back(worker),
                Some(Subject::Listener(listener)) => {
                    if let Some(listening) = self.listeners.get_mut(&listener) {
                        listening.ready = true;
                    }
                }
                Some(Subject::Room(mailbox)) => self.room(mailbox),
                Some(Subject::Peek(id)) => self.peek(id),
                Some(Subject::Signals) => self.take_signals(),
                Some(Subject::Commands) => self.take_commands(),
                Some(Subject::Timer) => self.alarm = None,
                None => {}
            }
        }
        self.flush_at = None;
        self.flush_throttled();
        for worker in heard {
            self.hear(worker, MESSAGE_BATCH_MAX);
        }
        for worker in ended {
            self.reap(worker);
        }
        self.accept();
        self.expire_peeks();
        // Last, so that what had come in time is not too late because we were suspended.
        if self.machine.next_timeout().is_some_and(|at| at <= self.now) {
            self.now = self.clock.now();
            self.machine.handle_timeout(self.now);
            self.drain();
        }
        self.deliver_posts();
        Ok(true)
    }

    /// Sets the timer to the next timeout, if that has changed.
    fn set_alarm(&mut self) -> io::Result<()> {
        if self.throttled.is_empty() {
            self.flush_at = None;
        } else {
            self.flush_at.get_or_insert(self.clock.now() + THROTTLE_PAUSE);
        }
        let peeks = self.peeking.as_ref().and_then(Peeking::next_timeout);
        let next = self.machine.next_timeout().into_iter().chain(self.flush_at).chain(peeks).min();
        if next != self.alarm {
            self.timer.set(next.map(|time| self.clock.until(time)))?;
            self.alarm = next;
        }
        Ok(())
    }

    fn handle(&mut self, input: Input<Accepted>) {
        self.machine.handle(self.now, input);
        self.drain();
    }

    /// Executes outputs, and hands back their outcomes, until there are none.
    fn drain(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            // With these, and with events, the state of workers changes; before they hear of it.
            if matches!(
                output,
                Output::Signal { .. }
                    | Output::Tell {
                        message: ToWorker::Listening { .. } | ToWorker::Stop { .. },
                        ..
                    }
            ) {
                self.control.set_workers(self.machine.workers().collect());
            }
            if let Some(input) = self.execute(output) {
                self.machine.handle(self.now, input);
            }
        }
    }

    fn execute(&mut self, output: Output<Accepted>) -> Option<Input<Accepted>> {
        match output {
            Output::Spawn { worker } => Some(self.spawn(worker)),
            Output::Tell { worker, message } => self.tell(worker, &message),
            Output::Signal { worker, signal } => {
                self.signal(worker, signal);
                None
            }
            Output::OpenListener { listener, address, dispatch, options } => {
                Some(self.open(listener, &address, dispatch, &options))
            }
            Output::CloseListener { listener } => {
                self.close(listener);
                None
            }
            Output::Steer { listener, shares } => {
                self.steer(listener, &shares);
                None
            }
            Output::Reopen { mailbox } => {
                self.reopen(mailbox);
                None
            }
            Output::Accept { listener, on } => {
                self.set_accepting(listener, on);
                None
            }
            Output::AcceptLast { listener } => {
                self.accept_last(listener);
                None
            }
            Output::Deliver { mailbox, connection, key } => {
                Some(self.deliver(mailbox, connection, key))
            }
            Output::Probe { mailbox } => self.probe(mailbox),
            Output::WatchRoom { mailbox } => self.watch_room(mailbox),
            Output::Count { mailbox } => self.count(mailbox),
            Output::TakeBack { mailbox } => Some(self.take_back(mailbox)),
            Output::Close { connection } => {
                tracing::debug!(peer = %connection.peer, "connection closed: nobody serves it");
                None
            }
            Output::Event(event) => {
                self.tell_user(event);
                None
            }
            Output::Finished { failed } => {
                self.finished = Some(failed);
                None
            }
        }
    }

    fn take_signals(&mut self) {
        let count = self.signals.as_mut().map_or(0, Signals::take);
        for _ in 0..count {
            self.handle(Input::Shutdown);
        }
    }

    fn take_commands(&mut self) {
        for command in self.control.take_commands() {
            let input = match command {
                Command::Shutdown => Input::Shutdown,
                Command::Scale(slots) => {
                    let weights = slot_options::weights(&slots);
                    self.config.slots = slots;
                    Input::Order(Order::Scale { weights })
                }
                Command::Order(order) => Input::Order(order),
            };
            self.handle(input);
        }
    }

    fn tell_user(&mut self, event: Event) {
        tracing::info!("{event}");
        self.control.set_workers(self.machine.workers().collect());
        self.publisher.publish(event);
    }

    fn token(&mut self, subject: Subject) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.subjects.insert(token, subject);
        token
    }
}

/// Readable when something is ready for a turn.
impl AsFd for Master {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        // Only if the loop has failed, or was left, is anybody left: no orphan stays.
        for seated in self.workers.values() {
            let _ = seated.process.signal(sys::SIGKILL);
            seated.process.wait();
        }
        self.close_post();
        self.control.close();
    }
}
