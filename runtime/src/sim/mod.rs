//! The whole master in virtual time, from a seed, with faults.
//!
//! The real [`Machine`](crate::machine::Machine) runs in a model of everything around it: the shell
//! that executes its outputs, the kernel (backlogs, mailboxes, wait statuses), workers that follow
//! a script, and clients. Nothing else decides anything, and nothing depends on the host, so a seed
//! is all it takes to see a failure again.
//!
//! A run has two parts. In the first, things go wrong as the seed says; in the second, nothing
//! does, and the cluster must recover by itself: liveness. The invariants are checked all the time;
//! each message names its own:
//!
//! - I1 every accepted connection is in exactly one place: in the machine's hands, in a mailbox,
//!   with a worker, served, lost with a worker that had taken it, or closed at the end;
//! - I2 at most one worker takes a connection: only what the machine holds is delivered;
//! - I3 at the end the machine holds nothing, and no listener is open;
//! - I4 restarts keep to their policy: spacing, backoff, giving up;
//! - I5 a shutdown ends in time, once, and nothing follows;
//! - I7 every request gets one answer;
//! - I8 only workers that were not yet waited for are told or signalled anything;
//! - I9 everything is bounded: pending connections, mailboxes, outputs, turns;
//! - I10 what comes from a dead worker changes nothing; lives go in order;
//! - I11 after the faults: every slot that shall have a worker listens, the others have none,
//!   nothing waits, no timer runs;
//! - I12 the same seed gives the same run (checked by running it twice);
//! - I13 a worker harms no other: it takes no connections with it but the ones that it had taken,
//!   and nobody is signalled without a reason.

mod check;
mod kernel;
mod oracle;
mod plan;
mod process;
mod script;
mod shell;
mod source;
mod trace;
mod turn;
mod wish;
mod world;

use std::fmt;
use std::path::Path;
use std::time::Duration;

pub use self::kernel::{Place, Token};
pub use self::plan::{Fault, Plan, Wish};
pub use self::script::{Act, Script};
pub use self::source::Source;
pub use self::world::World;

use self::kernel::SocketState;
use self::world::Happening;
use crate::address::Address;
use crate::event::{Event, WorkerInfo};

type Time = Duration;

/// How late the master wakes up at most.
const MASTER_LATE_MAX: Time = Time::from_millis(30);

/// How late a wait status comes at most.
const EXIT_LATE_MAX: Time = Time::from_millis(200);

/// How long the cluster may take to recover, and then to end.
const REST_MAX: Time = Time::from_secs(60);

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which, and how.
    pub text: String,
    /// What happened last.
    pub trace: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.trace, self.text)
    }
}

impl std::error::Error for Violation {}

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Stands for all that happened: the same for the same run.
    pub digest: u64,
    /// How many things happened.
    pub steps: usize,
    /// How many clients were served.
    pub served: usize,
    /// How many were lost with a worker.
    pub lost: usize,
}

/// Runs a world that is drawn from `source`, from its start to its end.
///
/// # Errors
///
/// With the first invariant that did not hold.
pub fn run(mut source: Source) -> Result<Summary, Violation> {
    let plan = Plan::draw(&mut source);
    let span = plan.span;
    let faultless = plan.is_faultless();
    let mut world = World::new(plan, source);
    world.start();
    world.run_for(span);
    world.calm_down();
    world.run_to_rest(REST_MAX);
    world.populate();
    if !world.is_finished() {
        world.check_rest();
        world.check_all_take();
        world.shutdown();
        world.run_to_rest(REST_MAX);
    }
    world.check_over(faultless);
    world.verdict()?;
    Ok(world.summary())
}

impl World {
    /// Whether the machine said that everything is over.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.oracle.is_finished()
    }

    /// How many clients each slot's workers have served.
    #[must_use]
    pub fn served(&self) -> Vec<usize> {
        let mut served = vec![0; self.plan.slots()];
        for place in self.ledger.places() {
            if let Place::Served(slot) = place {
                served[*slot] += 1;
            }
        }
        served
    }

    /// How many clients are at a place of this kind.
    #[must_use]
    pub fn count(&self, kind: Place) -> usize {
        self.ledger.count(kind)
    }

    /// How many messages wait in a slot's mailboxes.
    #[must_use]
    pub fn waiting(&self, slot: usize) -> usize {
        self.sockets.iter().map(|socket| socket.mailboxes[slot].queue.len()).sum()
    }

    /// The workers that have a process, as the machine tells it.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerInfo> {
        self.machine.workers().collect()
    }

    /// What the machine told its user.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Clients connect to an address, now.
    pub fn connect(&mut self, address: usize, clients: usize) {
        for _ in 0..clients {
            self.schedule(Time::ZERO, Happening::Arrive(address));
        }
    }

    /// The cluster is asked to stop, now.
    pub fn shutdown(&mut self) {
        self.schedule(Time::ZERO, Happening::Shutdown);
    }

    /// The user wants something, now.
    pub fn wish(&mut self, wish: Wish) {
        self.schedule(Time::ZERO, Happening::Wish(wish));
    }

    /// The machine's clock leaps ahead, now.
    pub fn leap(&mut self, leap: Time) {
        self.schedule(Time::ZERO, Happening::Leap(leap));
    }

    /// The kernel has no more room for descriptors in flight, or has again, now.
    pub fn set_busy(&mut self, busy: bool) {
        self.schedule(Time::ZERO, Happening::Busy(busy));
    }

    /// How the workers of a slot behave from the next on.
    pub fn cast(&mut self, slot: usize, script: Script) {
        self.plan.cast[slot] = Some(script);
    }

    /// Changes how often something goes wrong from now on.
    pub fn set_rate(&mut self, fault: Fault, rate: u8) {
        self.plan.set_rate(fault, rate);
    }

    /// What came of it.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            digest: self.digest(),
            steps: self.steps(),
            served: self.count(Place::Served(0)),
            lost: self.count(Place::Lost),
        }
    }

    /// At rest, every slot that shall have a worker listens, the others are empty, and nothing
    /// waits.
    pub fn check_rest(&mut self) {
        for slot in 0..self.plan.slots() {
            if !self.oracle.slot(slot).is_expected() {
                if self.seats[slot].is_some() {
                    self.violate(format!("I11: slot {slot} shall be empty, and has a worker"));
                }
                continue;
            }
            let open = |s: &&kernel::Socket| s.state == SocketState::Open;
            let idle =
                self.sockets.iter().filter(open).find(|s| s.mailboxes[slot].reader.is_none());
            if idle.is_some() || !self.sockets.iter().any(|s| s.state == SocketState::Open) {
                self.violate(format!("I11: slot {slot} does not listen"));
            }
            if !self.oracle.slot(slot).stalled.is_empty() {
                self.violate(format!("I11: slot {slot} is stalled for ever"));
            }
            let pid = self.seats[slot];
            if pid.is_some_and(|pid| self.processes[pid].has_open_requests()) {
                self.violate(format!("I7: a request of slot {slot} is not answered"));
            }
        }
        for place in [Place::Backlog, Place::Held, Place::Mailbox(0), Place::Taken(0)] {
            let count = self.ledger.count(place);
            if count > 0 {
                self.violate(format!("I11: at rest, {count} connections are {place:?}"));
            }
        }
        let counts = self.oracle.check_counts();
        self.judge(counts);
    }

    /// Every slot that was not given up gets a share of new clients, and serves it.
    fn check_all_take(&mut self) {
        let weights: u32 = self.plan.config.weights.iter().sum();
        for address in 0..self.plan.addresses {
            let before = self.served();
            for _ in 0..2 * weights {
                self.connect(address, 1);
                self.run_for(Time::from_millis(2));
            }
            self.run_to_rest(REST_MAX);
            let after = self.served();
            for slot in 0..self.plan.slots() {
                if self.oracle.slot(slot).is_expected() && before[slot] == after[slot] {
                    self.violate(format!("I11: slot {slot} gets nothing from address {address}"));
                }
            }
        }
        self.check_rest();
    }

    /// When all is over.
    fn check_over(&mut self, faultless: bool) {
        if !self.is_finished() {
            self.violate("I5: the cluster has not ended".into());
        }
        for place in [Place::Backlog, Place::Held, Place::Mailbox(0), Place::Taken(0)] {
            let count = self.ledger.count(place);
            if count > 0 {
                self.violate(format!("I3: at the end, {count} connections are {place:?}"));
            }
        }
        let hurried = self.oracle.shutdowns.len() > 1
            || self.processes.iter().any(|p| p.termed_at.is_some() || p.killed_at.is_some());
        let (lost, abandoned) = (self.count(Place::Lost), self.count(Place::Abandoned));
        if faultless && !hurried && lost + abandoned > 0 {
            self.violate(format!("I1: {lost} lost and {abandoned} abandoned without a reason"));
        }
    }
}

/// One of the addresses.
fn address(number: usize) -> Address {
    Address::Unix(format!("/sim/{number}").into())
}

/// Which of the addresses it is.
fn number_of(address: &Address) -> usize {
    let Address::Unix(path) = address else { return 0 };
    let number = path.strip_prefix(Path::new("/sim")).ok().and_then(Path::to_str);
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
