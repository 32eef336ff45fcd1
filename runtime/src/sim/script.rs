//! How a simulated worker behaves.

use super::Time;
use super::plan::{Fault, Plan};
use super::source::Source;
use crate::exit::Exit;

/// What a worker does out of turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It ends.
    Die(Exit),
    /// It is stopped by SIGSTOP, and goes on after this time.
    Freeze(Time),
    /// It closes its channel and runs on.
    HangUp,
    /// It sends what is no message.
    Garbage,
    /// It says again that it is online.
    RepeatOnline,
    /// It asks again to listen where it listens already.
    RepeatListen,
    /// It closes a listener that it may not have.
    CloseForeign(u32),
    /// It closes its listeners, and listens again after this time.
    CloseOwn(Time),
    /// It asks to be let go.
    Leave,
}

/// A worker's behaviour; times count from the master's greeting.
#[derive(Clone, Debug)]
pub struct Script {
    /// When it says that it is online; `None` is never.
    pub online_after: Option<Time>,
    /// How many of the addresses it listens on, from the first.
    pub addresses: usize,
    /// The time between two connections that it takes.
    pub take_every: Time,
    /// How long it serves each of them.
    pub serve_for: Time,
    /// It crashes when it has taken so many.
    pub crash_after_taking: Option<u32>,
    /// Whether it goes on taking while it finishes what it has, or stops at an empty mailbox.
    pub takes_to_the_end: bool,
    /// It does nothing on a request to stop.
    pub ignores_stop: bool,
    /// It does nothing on SIGTERM.
    pub ignores_term: bool,
    /// Its channel stays open after its end.
    pub has_grandchild: bool,
    /// It says that it speaks another version of the protocol.
    pub wrong_version: bool,
    /// What it does out of turn, and when.
    pub acts: Vec<(Time, Act)>,
}

impl Default for Script {
    /// Online after 5 ms, takes one connection each millisecond and serves each for 5 ms.
    fn default() -> Self {
        Script {
            online_after: Some(Time::from_millis(5)),
            addresses: usize::MAX,
            take_every: Time::from_millis(1),
            serve_for: Time::from_millis(5),
            crash_after_taking: None,
            takes_to_the_end: true,
            ignores_stop: false,
            ignores_term: false,
            has_grandchild: false,
            wrong_version: false,
            acts: Vec::new(),
        }
    }
}

/// SIGSEGV, as a way to end.
pub(super) const CRASH: Exit = Exit::Signal { signal: 11, core_dumped: false };

/// SIGKILL, as a way to end.
pub(super) const KILLED: Exit = Exit::Signal { signal: 9, core_dumped: false };

impl Script {
    /// A worker that crashes at this time.
    #[must_use]
    pub fn crash(at: Time) -> Script {
        Script { acts: vec![(at, Act::Die(CRASH))], ..Script::default() }
    }

    /// A worker that is never heard of.
    #[must_use]
    pub fn mute() -> Script {
        Script { online_after: None, ..Script::default() }
    }

    pub(super) fn draw(plan: &Plan, source: &mut Source) -> Script {
        let mut has = |fault| source.chance(plan.rate(fault));
        let mut script = Script {
            ignores_stop: has(Fault::IgnoreStop),
            ignores_term: has(Fault::IgnoreTerm),
            has_grandchild: has(Fault::Grandchild),
            wrong_version: has(Fault::Version),
            ..Script::default()
        };
        let (mute, slow) = (has(Fault::Mute), has(Fault::Slow));
        let (partial, taking) = (has(Fault::Partial), has(Fault::CrashTaking));
        script.acts = Script::draw_acts(plan, source);
        let times = if slow { 50 } else { 1 };
        script.online_after = (!mute).then(|| source.micros(1000, 10_000 * times));
        script.take_every = source.micros(200, 1000 * times);
        script.serve_for = source.micros(500, 10_000 * times);
        script.takes_to_the_end = !source.chance(64);
        if partial {
            script.addresses = source.index(plan.addresses + 1);
        }
        if taking {
            script.crash_after_taking = Some(if source.chance(128) { 1 } else { 4 });
        }
        script
    }

    fn draw_acts(plan: &Plan, source: &mut Source) -> Vec<(Time, Act)> {
        let mut acts = Vec::new();
        let all = [
            (Fault::Crash, Act::Die(CRASH)),
            (Fault::Freeze, Act::Freeze(Time::ZERO)),
            (Fault::HangUp, Act::HangUp),
            (Fault::Garbage, Act::Garbage),
            (Fault::Repeat, Act::RepeatOnline),
            (Fault::Repeat, Act::RepeatListen),
            (Fault::CloseForeign, Act::CloseForeign(0)),
            (Fault::CloseOwn, Act::CloseOwn(Time::ZERO)),
            (Fault::Leave, Act::Leave),
        ];
        for (fault, act) in all {
            if !source.chance(plan.rate(fault)) {
                continue;
            }
            let act = match act {
                Act::Die(_) => Act::Die(source.one_of(&[
                    CRASH,
                    Exit::Code(0),
                    Exit::Code(1),
                    KILLED,
                    Exit::Unknown,
                    Exit::OutOfMemory,
                ])),
                Act::Freeze(_) => {
                    let most = source.one_of(&[100_000, 1_000_000, 3_000_000]);
                    Act::Freeze(source.micros(0, most))
                }
                Act::CloseForeign(_) => Act::CloseForeign(source.one_of(&[0, 1, 2, u32::MAX])),
                Act::CloseOwn(_) => Act::CloseOwn(source.micros(0, 200_000)),
                Act::HangUp | Act::Garbage | Act::RepeatOnline | Act::RepeatListen | Act::Leave => {
                    act
                }
            };
            // Often soon, when most is going on.
            let most = source.one_of(&[20_000, 100_000, 1_000_000]);
            acts.push((source.micros(0, most), act));
        }
        acts
    }

    /// The same worker, from now on without faults.
    pub(super) fn calm_down(&mut self) {
        *self = Script { online_after: self.online_after, ..Script::default() };
        self.online_after.get_or_insert(Time::ZERO);
    }
}
