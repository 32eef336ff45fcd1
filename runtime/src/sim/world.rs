//! Time, and whose turn it is: the world goes on, and the master has a turn when something is
//! ready.

use std::cell::Cell;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::rc::Rc;

use super::kernel::{Ledger, Socket, SocketState};
use super::oracle::Oracle;
use super::plan::{Fault, Plan, Wish};
use super::process::{Process, Step};
use super::source::Source;
use super::trace::Trace;
use super::turn::Ready;
use super::{Time, Violation};
use crate::event::Event;
use crate::machine::{Input, Machine};

/// Turns in a row without the passing of time that are taken for an endless loop.
const TURNS_MAX: u32 = 10_000;

/// The master, and everything around it.
#[derive(Debug)]
pub struct World {
    pub(super) plan: Plan,
    pub(super) source: Source,
    pub(super) machine: Machine<super::Token>,
    /// How many connections the machine dropped instead of handing them out.
    pub(super) dropped: Rc<Cell<usize>>,
    /// The world's time. The machine's clock is ahead of it by `leaps`.
    pub(super) now: Time,
    pub(super) leaps: Time,
    pub(super) leapt_at: Option<Time>,
    queue: BinaryHeap<Reverse<Entry>>,
    entries: u64,
    pub(super) master_at: Option<Time>,
    pub(super) asleep_until: Time,
    turns: u32,
    pub(super) ready: Vec<Ready>,
    /// By listener id.
    pub(super) sockets: Vec<Socket>,
    /// By process id.
    pub(super) processes: Vec<Process>,
    /// The process in each slot that was not yet waited for.
    pub(super) seats: Vec<Option<usize>>,
    pub(super) ledger: Ledger,
    pub(super) oracle: Oracle,
    pub(super) events: Vec<Event>,
    pub(super) busy: bool,
    pub(super) calm: bool,
    /// Whether connections were left in a mailbox at the end, for want of descriptors.
    pub(super) left_behind: bool,
    /// How much later than its deadline anything of the master's may be done.
    pub(super) slack: Time,
    pub(super) shutdowns_due: u32,
    pub(super) wishes_due: Vec<Wish>,
    trace: Trace,
    violation: Option<String>,
}

/// Something that will happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    /// A client connects to an address.
    Arrive(usize),
    /// A process does something.
    Process(usize, Step),
    /// The cluster is asked to stop.
    Shutdown,
    /// The user wants something.
    Wish(Wish),
    /// The kernel has no more room for descriptors in flight, or has again.
    Busy(bool),
    /// The machine's clock leaps ahead.
    Leap(Time),
    /// Something becomes ready.
    Ready,
}

#[derive(Debug)]
struct Entry {
    at: Time,
    number: u64,
    happening: Happening,
}

impl World {
    /// A world in which nothing has happened yet.
    #[must_use]
    pub fn new(plan: Plan, source: Source) -> World {
        let slots = plan.slots();
        let mut world = World {
            machine: Machine::new(plan.config.clone(), plan.policy()),
            source,
            dropped: Rc::default(),
            now: Time::ZERO,
            leaps: Time::ZERO,
            leapt_at: None,
            queue: BinaryHeap::new(),
            entries: 0,
            master_at: None,
            asleep_until: Time::ZERO,
            turns: 0,
            ready: Vec::new(),
            sockets: Vec::new(),
            processes: Vec::new(),
            seats: vec![None; slots],
            ledger: Ledger::default(),
            oracle: Oracle::new(&plan.config),
            events: Vec::new(),
            busy: false,
            calm: false,
            left_behind: false,
            slack: plan.lateness() + Time::from_millis(1),
            shutdowns_due: 0,
            wishes_due: Vec::new(),
            trace: Trace::new(),
            violation: None,
            plan,
        };
        world.schedule_plan();
        world
    }

    /// Starts the cluster.
    pub fn start(&mut self) {
        self.note("start", [0; 3]);
        self.feed(Input::Start);
    }

    /// Runs for this long.
    pub fn run_for(&mut self, span: Time) {
        let end = self.now + span;
        while self.violation.is_none() && self.next_at().is_some_and(|at| at <= end) {
            self.step();
        }
        self.now = self.now.max(end);
    }

    /// Runs until nothing will happen any more, not even a timeout.
    pub fn run_to_rest(&mut self, limit: Time) {
        let end = self.now + limit;
        while self.violation.is_none()
            && let Some(at) = self.next_at()
        {
            if at > end {
                let timeout = self.machine.next_timeout();
                self.violate(format!("I11: not at rest after {limit:?}; next timeout {timeout:?}"));
            }
            self.step();
        }
    }

    /// The time since the beginning.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// What is wrong, if anything is.
    ///
    /// # Errors
    ///
    /// With the first invariant that did not hold.
    pub fn verdict(&self) -> Result<(), Violation> {
        match &self.violation {
            None => Ok(()),
            Some(text) => Err(Violation { text: text.clone(), trace: self.trace.tail() }),
        }
    }

    /// A number that stands for all that happened.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.trace.digest()
    }

    /// How many things happened.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.trace.count()
    }

    /// The machine's clock.
    pub(super) fn clock(&self) -> Time {
        self.now + self.leaps
    }

    pub(super) fn schedule(&mut self, after: Time, happening: Happening) {
        self.entries += 1;
        self.queue.push(Reverse(Entry { at: self.now + after, number: self.entries, happening }));
    }

    pub(super) fn note(&mut self, text: &'static str, numbers: [u64; 3]) {
        self.trace.note(self.now, text, numbers);
    }

    /// Keeps the first violation.
    pub(super) fn violate(&mut self, text: String) {
        let at = self.now;
        self.violation.get_or_insert_with(|| format!("{text} (at {at:?})"));
    }

    pub(super) fn is_violated(&self) -> bool {
        self.violation.is_some()
    }

    /// Something is ready for the master.
    pub(super) fn wake_master(&mut self) {
        self.master_at.get_or_insert(self.now);
    }

    /// Hands an input to the machine and executes what follows from it.
    pub(super) fn feed(&mut self, input: Input<super::Token>) {
        let clock = self.clock();
        self.machine.handle(clock, input);
        self.drain();
    }

    fn schedule_plan(&mut self) {
        let most = u64::try_from(self.plan.span.as_micros()).expect("short");
        for _ in 0..self.plan.clients {
            let address = self.source.index(self.plan.addresses);
            let after = self.source.micros(0, most);
            self.schedule(after, Happening::Arrive(address));
        }
        for after in self.plan.shutdowns.clone() {
            self.schedule(after, Happening::Shutdown);
        }
        for (after, wish) in self.plan.wishes.clone() {
            self.schedule(after, Happening::Wish(wish));
        }
        if self.source.chance(self.plan.rate(Fault::Busy)) {
            for _ in 0..self.source.between(1, 4) {
                let (after, span) = (self.source.micros(0, most), self.source.micros(0, 100_000));
                self.schedule(after, Happening::Busy(true));
                self.schedule(after + span, Happening::Busy(false));
            }
        }
        if self.source.chance(self.plan.rate(Fault::Leap)) {
            let (after, leap) = (self.source.micros(0, most), self.source.micros(0, 5_000_000));
            self.schedule(after, Happening::Leap(leap));
        }
    }

    fn next_at(&self) -> Option<Time> {
        if self.oracle.is_finished() {
            return None;
        }
        let happening = self.queue.peek().map(|Reverse(entry)| entry.at);
        happening.into_iter().chain(self.next_turn()).min()
    }

    fn next_turn(&self) -> Option<Time> {
        let timeout = self.machine.next_timeout().map(|at| at.saturating_sub(self.leaps));
        let at = timeout.into_iter().chain(self.master_at).min()?;
        Some(at.max(self.asleep_until).max(self.now))
    }

    fn step(&mut self) {
        let turn = self.next_turn();
        let entry_at = self.queue.peek().map(|Reverse(entry)| entry.at);
        if let Some(turn) = turn
            && entry_at.is_none_or(|at| turn < at)
        {
            self.turns = if turn > self.now { 0 } else { self.turns + 1 };
            self.now = turn;
            if self.turns > TURNS_MAX {
                self.violate("I9: the master turns without end".into());
            }
            self.turn();
        } else if let Some(Reverse(entry)) = self.queue.pop() {
            self.now = self.now.max(entry.at);
            self.happen(entry.happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive(address) => self.arrive(address),
            Happening::Process(pid, step) => self.process_step(pid, step),
            Happening::Shutdown => {
                self.shutdowns_due += 1;
                self.wake_master();
            }
            Happening::Wish(wish) => {
                self.wishes_due.push(wish);
                self.wake_master();
            }
            Happening::Busy(busy) => {
                self.note("kernel busy: {}", [u64::from(busy), 0, 0]);
                self.busy = busy && !self.calm;
            }
            Happening::Leap(leap) => {
                self.note("the clock leaps", [0; 3]);
                self.leaps += leap;
                self.leapt_at = Some(self.clock());
            }
            Happening::Ready => self.wake_master(),
        }
    }

    fn arrive(&mut self, address: usize) {
        let open = |s: &Socket| s.address == address && s.state == SocketState::Open;
        let Some(listener) = self.sockets.iter().position(open) else {
            self.note("a client is refused at address {}", [address as u64, 0, 0]);
            return;
        };
        if self.sockets[listener].backlog.len() >= self.plan.backlog_bound {
            self.note("a client finds backlog {} full", [listener as u64, 0, 0]);
            return;
        }
        let id = self.ledger.arrive(listener);
        self.note("client {} is in backlog {}", [id as u64, listener as u64, 0]);
        self.sockets[listener].backlog.push_back(id);
        self.wake_master();
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
