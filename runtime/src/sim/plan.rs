//! What a run is about: the cluster, its clients, and how often what goes wrong.
//!
//! Rates are drawn before anything happens, and most of them are 0 (*swarm testing*: Groce et al.,
//! ISSTA 2012). Many runs that each have a few faults, often, find more than runs that have all of
//! them now and then.

use scheduler::{Policy, RoundRobin, SmoothWeighted};

use super::script::Script;
use super::source::Source;
use super::{MASTER_LATE_MAX, Time};
use crate::listen::Dispatch;
use crate::machine::{Config, PolicyFactory, RestartPolicy};

/// What can go wrong, or just be unusual. Its rate is how often in 255 it does, where it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process can't be started for lack of something that comes back.
    SpawnShortage,
    /// A process can't be started because of its program.
    SpawnFailure,
    /// Listening fails: the address is in use.
    OpenFailure,
    /// The answer to a request to listen comes later.
    OpenLate,
    /// The kernel has no room for more descriptors in flight, for a while.
    Busy,
    /// A probe can't be sent.
    ProbeFailure,
    /// The master runs out of descriptors and sheds clients.
    Shed,
    /// The master runs out of descriptors and can't even shed.
    Exhausted,
    /// There is no descriptor to take a connection back with.
    TakeBackFailure,
    /// The master is slow to wake up.
    MasterLate,
    /// The wait status is late.
    ExitLate,
    /// The machine is suspended: its clock leaps.
    Leap,
    /// What a dead worker sent comes after its end.
    Stale,
    /// A worker takes a connection while the master is in the middle of something.
    Race,
    /// A worker is never heard of.
    Mute,
    /// A worker crashes, or exits, at some time.
    Crash,
    /// A worker crashes after it has taken some connections.
    CrashTaking,
    /// All workers of a slot crash soon.
    CrashLoop,
    /// A worker is stopped by SIGSTOP for a while.
    Freeze,
    /// A worker that is stopped is killed, and not continued.
    KillFrozen,
    /// A worker takes and serves slowly.
    Slow,
    /// A worker closes its channel and runs on.
    HangUp,
    /// A worker sends what is no message.
    Garbage,
    /// A worker repeats messages.
    Repeat,
    /// A worker closes listeners that it does not have.
    CloseForeign,
    /// A worker closes its listener, and may listen again.
    CloseOwn,
    /// A worker ignores the request to stop.
    IgnoreStop,
    /// A worker ignores SIGTERM.
    IgnoreTerm,
    /// A worker asks for nothing, or for less than others.
    Partial,
    /// A child of the worker keeps its channel open after its end.
    Grandchild,
    /// A worker speaks another version of the protocol.
    Version,
    /// A worker asks to be let go.
    Leave,
}

/// What the user wants of a slot, or of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// So many slots.
    Scale(usize),
    /// A worker in this slot.
    Start(usize),
    /// None any more in this slot, after so long at the latest.
    Disconnect(usize, Option<Time>),
    /// Another in this slot.
    Restart(usize, Option<Time>),
    /// A signal for the worker in this slot.
    Signal(usize, i32),
}

impl Fault {
    /// How many there are.
    pub const COUNT: usize = Fault::Leave as usize + 1;
}

/// The cluster and its world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The machine's configuration.
    pub config: Config,
    /// Smooth weighted round robin instead of plain.
    pub weighted: bool,
    /// How many addresses there are to listen on.
    pub addresses: usize,
    /// How many messages a mailbox holds.
    pub mailbox_bound: usize,
    /// How many clients a listener's backlog holds.
    pub backlog_bound: usize,
    /// How many clients come while things go wrong, and in which time.
    pub clients: u64,
    /// For how long things go wrong.
    pub span: Time,
    /// When the cluster is asked to stop.
    pub shutdowns: Vec<Time>,
    /// What the user wants, and when.
    pub wishes: Vec<(Time, Wish)>,
    /// How all workers of a slot behave, where that is not left to chance.
    pub cast: Vec<Option<Script>>,
    /// How often in 255 each fault happens, by its number.
    pub rates: [u8; Fault::COUNT],
}

impl Default for Plan {
    /// Four slots, one address, no clients, no faults.
    fn default() -> Self {
        Plan {
            config: Config {
                weights: vec![1; 4],
                dispatch: Dispatch::Handoff,
                dispatch_auto: Dispatch::Handoff,
                rotates_by_weight: true,
                restart: RestartPolicy {
                    delay_min: Time::from_millis(100),
                    delay_max: Time::from_secs(1),
                    stable_uptime: Time::from_secs(1),
                    failures_max: 4,
                    start_failures_max: 2,
                },
                start_timeout: Time::from_secs(1),
                drain_timeout: Time::from_secs(2),
                kill_timeout: Time::from_millis(500),
                stall_timeout: Time::from_millis(400),
                ends_when_empty: false,
                seed: 1,
            },
            weighted: false,
            addresses: 1,
            mailbox_bound: 16,
            backlog_bound: 1024,
            clients: 0,
            span: Time::from_secs(2),
            shutdowns: Vec::new(),
            wishes: Vec::new(),
            cast: vec![None; 4],
            rates: [0; Fault::COUNT],
        }
    }
}

impl Plan {
    /// Draws a plan.
    pub fn draw(source: &mut Source) -> Plan {
        let millis = |source: &mut Source, all: &[u64]| Time::from_millis(source.one_of(all));
        let slots = source.one_of(&[4, 1, 2, 3, 6]);
        let mut plan = Plan {
            config: Config {
                weights: (0..slots).map(|_| source.one_of(&[1, 1, 2, 3])).collect(),
                dispatch: Dispatch::Handoff,
                dispatch_auto: Dispatch::Handoff,
                rotates_by_weight: true,
                restart: RestartPolicy {
                    delay_min: millis(source, &[100, 1, 20]),
                    delay_max: millis(source, &[1000, 200]),
                    stable_uptime: millis(source, &[500, 1000, 50]),
                    failures_max: source.one_of(&[3, 0, 1, 2, 10]),
                    start_failures_max: source.one_of(&[3, 0, 1, 2]),
                },
                start_timeout: millis(source, &[300, 1000]),
                drain_timeout: millis(source, &[1000, 0, 100]),
                kill_timeout: millis(source, &[300, 0, 50]),
                stall_timeout: millis(source, &[200, 40, 1000]),
                ends_when_empty: source.chance(64),
                seed: source.below(1 << 16),
            },
            weighted: source.chance(64),
            addresses: source.one_of(&[1, 1, 2, 3]),
            mailbox_bound: source.one_of(&[16, 1, 2, 4]),
            backlog_bound: source.one_of(&[64, 4, 16]),
            clients: source.one_of(&[20, 0, 5, 50, 80]),
            span: millis(source, &[1000, 300, 2000]),
            cast: vec![None; slots],
            ..Plan::default()
        };
        if source.chance(128) {
            let mut at = source.micros(0, 2_000_000);
            for _ in 0..source.one_of(&[1, 2, 3]) {
                plan.shutdowns.push(at);
                at += millis(source, &[1, 50, 400, 0]);
            }
        }
        if source.chance(96) {
            plan.draw_wishes(source);
        }
        // In one run of eight all is well, in the others each rate is 0 three times of four.
        if !source.chance(32) {
            for rate in &mut plan.rates {
                *rate = if source.chance(64) { source.one_of(&[8, 40, 128, 255]) } else { 0 };
            }
        }
        for slot in 0..slots {
            if source.chance(plan.rate(Fault::CrashLoop)) {
                plan.cast[slot] = Some(Script::crash(source.micros(0, 30_000)));
            }
        }
        plan
    }

    fn draw_wishes(&mut self, source: &mut Source) {
        let most = u64::try_from(self.span.as_micros()).expect("short");
        for _ in 0..source.one_of(&[2, 1, 5, 10]) {
            let at = source.micros(0, most);
            let slot = source.index(8);
            let timeout = source.one_of(&[None, None, Some(0), Some(20), Some(3000)]);
            let timeout = timeout.map(Time::from_millis);
            let wish = match source.below(8) {
                0..=2 => Wish::Scale(slot + 1),
                3 => Wish::Start(slot),
                4 | 5 => Wish::Disconnect(slot, timeout),
                6 => Wish::Restart(slot, timeout),
                _ => Wish::Signal(slot, source.one_of(&[9, 15, 11])),
            };
            self.wishes.push((at, wish));
        }
    }

    /// How often in 255.
    #[must_use]
    pub fn rate(&self, fault: Fault) -> u8 {
        self.rates[fault as usize]
    }

    /// Changes how often.
    pub fn set_rate(&mut self, fault: Fault, rate: u8) {
        self.rates[fault as usize] = rate;
    }

    /// The same plan with as many slots as weights.
    #[must_use]
    pub fn with_weights(mut self, weights: &[u32]) -> Plan {
        self.config.weights = weights.to_vec();
        self.cast = vec![None; weights.len()];
        self
    }

    pub(super) fn slots(&self) -> usize {
        self.config.weights.len()
    }

    pub(super) fn is_faultless(&self) -> bool {
        // A cluster that stops while nobody is there to take what waits abandons it.
        let ends_early = !self.shutdowns.is_empty() || self.config.ends_when_empty;
        let is_violent = |(_, wish): &(Time, Wish)| ends_early || matches!(wish, Wish::Signal(..));
        self.rates.iter().all(|rate| *rate == 0)
            && self.cast.iter().all(Option::is_none)
            && !self.wishes.iter().any(is_violent)
    }

    pub(super) fn calm_down(&mut self) {
        self.rates = [0; Fault::COUNT];
        self.cast.fill(None);
    }

    pub(super) fn policy(&self) -> PolicyFactory {
        let weighted = self.weighted;
        Box::new(move || -> Box<dyn Policy> {
            if weighted { Box::new(SmoothWeighted::new()) } else { Box::new(RoundRobin::new()) }
        })
    }

    /// How late the master may wake up.
    pub(super) fn lateness(&self) -> Time {
        if self.rate(Fault::MasterLate) > 0 { MASTER_LATE_MAX } else { Time::ZERO }
    }
}
