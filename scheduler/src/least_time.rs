use std::time::Duration;

use crate::tiers::{Tier, Tiers};
use crate::turns::{Turn, Turns, duration};
use crate::winners::{Key, Winners};
use crate::{Load, Outcome, Policy, Request};

/// Picks the slot that is expected to be done first: by its average time and its connections.
///
/// What counts is `time * (connections + 1) / weight`, the least wins, and ties have turns by
/// weight as in [`LeastConnections`](crate::LeastConnections). `time` is a moving average of the
/// times that were [reported](Policy::report), in which a connection counts for an eighth. It is
/// halved over every ten seconds (or what [`with_half_life`](Self::with_half_life) says) without a
/// report: a slot that was slow gets another chance. Failures don't count, for better or worse: a
/// slot that fails fast would be the fastest.
///
/// Without a report, a slot is taken to be as fast as the average of all; and without any, it is
/// the number of connections that counts. A pick counts as one more connection of its slot until
/// the slot's next update.
///
/// # Implementation notes
///
/// Time decides nothing between two picks: all averages decay alike. So each is kept as what it
/// would have to be at a fixed time to be now what it is, the order stands, and a tree finds
/// the first. The decay is a polygon through the powers of two.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use scheduler::{LeastTime, Load, Outcome, Policy, Request};
///
/// let mut policy = LeastTime::new();
/// for slot in 0..2 {
///     policy.update(slot, Load { can_take: true, ..Load::default() });
/// }
/// policy.report(0, &Outcome::new(Duration::ZERO, Duration::from_millis(30), 1));
/// policy.report(1, &Outcome::new(Duration::ZERO, Duration::from_millis(10), 1));
/// let picked = [(); 4].map(|()| policy.pick(&Request::default()).unwrap());
/// assert_eq!(picked, [1, 1, 0, 1]);
/// ```
#[derive(Clone, Debug)]
pub struct LeastTime {
    tiers: Tiers<Expected>,
}

impl LeastTime {
    /// A policy that knows no slot yet, whose averages are halved in ten seconds.
    #[must_use]
    pub const fn new() -> Self {
        Self::with_half_life(Duration::from_secs(10))
    }

    /// The same with another time.
    ///
    /// # Panics
    ///
    /// When the time is 0.
    #[must_use]
    pub const fn with_half_life(time: Duration) -> Self {
        assert!(!time.is_zero(), "an average that is halved in no time is none");
        Self { tiers: Tiers::new(Expected::new(time), Expected::new(time)) }
    }
}

impl Default for LeastTime {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for LeastTime {
    fn update(&mut self, slot: usize, load: Load) {
        self.tiers.update(slot, load);
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        self.tiers.pick(request)
    }

    fn name(&self) -> &'static str {
        "least-time"
    }

    fn report(&mut self, slot: usize, outcome: &Outcome) {
        self.tiers.report(slot, outcome);
    }

    fn uses_connections(&self) -> bool {
        true
    }
}

#[derive(Clone, Debug)]
struct Expected {
    half_life: Duration,
    /// The time that all averages are related to.
    start: Duration,
    /// The eligible slots.
    winners: Winners,
    turns: Turns,
    slots: Vec<Slot>,
    /// The average over all slots.
    all: Average,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    eligible: bool,
    connections: u32,
    weight: u32,
    /// How long its turns take.
    duration: u32,
    average: Average,
    /// Where it is up to date: while the slot is known and not eligible.
    turn: Option<Turn>,
}

#[derive(Clone, Copy, Debug)]
struct Average {
    /// In seconds; 0 if there was no report.
    time: f64,
    /// What it would have to be at `start`; a guess if there was no report.
    at_start: f64,
}

impl Average {
    const NONE: Self = Self { time: 0.0, at_start: 1.0 };

    /// Adds reports: `time` is the average of so many, and `growth` that from `start` until now.
    fn add(&mut self, time: f64, connections: u32, growth: f64) {
        let kept = if self.time == 0.0 { 0.0 } else { power(KEPT, connections) };
        self.time = self.time * kept + time * (1.0 - kept);
        self.at_start = self.time * growth;
    }
}

impl Slot {
    const NEW: Self = Self {
        eligible: false,
        connections: 0,
        weight: 0,
        duration: 0,
        average: Average::NONE,
        turn: None,
    };

    fn key(&self, turn: Turn) -> Key {
        let connections = f64::from(self.connections) + 1.0;
        Key::new(self.average.at_start * connections / f64::from(self.weight), turn)
    }

    /// Whether there is nothing new about it.
    fn is_as(&self, load: Load) -> bool {
        let same = (self.connections, self.weight) == (load.connections, load.weight);
        self.eligible == load.is_eligible() && (same || !self.eligible)
    }
}

impl Expected {
    const fn new(half_life: Duration) -> Self {
        Self {
            half_life,
            start: Duration::ZERO,
            winners: Winners::new(),
            turns: Turns::new(),
            slots: Vec::new(),
            all: Average::NONE,
        }
    }

    /// By how much a time at `start` shrinks until now.
    fn growth(&mut self, now: Duration) -> f64 {
        let elapsed = now.saturating_sub(self.start).as_nanos();
        let half_life = self.half_life.as_nanos();
        let (halvings, rest) = (elapsed / half_life, elapsed % half_life);
        let polygon = 1.0 + rest as f64 / half_life as f64;
        if halvings <= HALVINGS_MAX.into() {
            let halvings = u32::try_from(halvings).expect("at most HALVINGS_MAX");
            return polygon * power(2.0, halvings);
        }
        // Numbers get too large: from now on, times are related to a later start.
        let shrink = power(0.5, u32::try_from(halvings).unwrap_or(u32::MAX));
        let later = |average: &mut Average| {
            average.at_start = (average.at_start * shrink).max(AT_START_MIN);
        };
        later(&mut self.all);
        self.slots.iter_mut().for_each(|slot| later(&mut slot.average));
        self.sort();
        let rest = Duration::from_nanos(u64::try_from(rest).unwrap_or(u64::MAX));
        self.start = now.saturating_sub(rest);
        polygon
    }

    /// Puts all slots in order again.
    fn sort(&mut self) {
        let slots = &self.slots;
        self.winners.change(|key| slots[key.turn().slot()].key(key.turn()));
    }

    #[inline(never)]
    fn change(&mut self, slot: usize, load: Load) {
        let Load { connections, weight, .. } = load;
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, Slot::NEW);
        }
        let known = &mut self.slots[slot];
        if !load.is_eligible() {
            if std::mem::replace(&mut known.eligible, false) {
                known.turn = self.winners.key(slot).map(Key::turn);
                self.winners.remove(slot);
            }
            return;
        }
        if known.weight != weight {
            (known.weight, known.duration) = (weight, duration(weight));
        }
        known.connections = connections;
        let present = self.winners.key(slot).map(Key::turn);
        let turn = match (known.eligible, known.turn, present) {
            (true, _, Some(turn)) => turn,
            (false, Some(turn), _) => self.turns.returned(turn),
            _ => {
                // Nothing is known of it, so it is like the others.
                known.average.at_start = self.all.at_start;
                self.turns.first(slot, known.duration)
            }
        };
        known.eligible = true;
        self.winners.set(known.key(turn));
    }

    fn set_turns_back(&mut self) {
        self.turns.set_clock_back();
        self.winners.change(|key| key.with_turn(Turns::set_back(key.turn())));
        let turns = self.slots.iter_mut().filter_map(|slot| slot.turn.as_mut());
        turns.for_each(|turn| *turn = Turns::set_back(*turn));
    }
}

impl Tier for Expected {
    #[inline]
    fn update(&mut self, slot: usize, load: Load) {
        // Most updates confirm what the pick has noted already.
        if !self.slots.get(slot).is_some_and(|known| known.is_as(load)) {
            self.change(slot, load);
        }
    }

    #[inline]
    fn pick(&mut self, _request: &Request) -> Option<usize> {
        let turn = self.winners.first()?.turn();
        let slot = turn.slot();
        let picked = &mut self.slots[slot];
        picked.connections = picked.connections.saturating_add(1);
        self.winners.set(picked.key(self.turns.take(turn, picked.duration)));
        if self.turns.is_late() {
            self.set_turns_back();
        }
        Some(slot)
    }

    fn report(&mut self, slot: usize, outcome: &Outcome) {
        let is_known = |slot: &Slot| slot.eligible || slot.turn.is_some();
        if outcome.failed || outcome.connections == 0 || !self.slots.get(slot).is_some_and(is_known)
        {
            return;
        }
        let time = outcome.time.as_secs_f64().max(TIME_S_MIN);
        let growth = self.growth(outcome.now);
        let is_first = self.all.time == 0.0;
        self.all.add(time, outcome.connections, growth);
        self.slots[slot].average.add(time, outcome.connections, growth);
        if is_first {
            let unknown = self.slots.iter_mut().filter(|slot| slot.average.time == 0.0);
            unknown.for_each(|slot| slot.average.at_start = self.all.at_start);
            self.sort();
        } else if let Some(key) = self.winners.key(slot) {
            self.winners.set(self.slots[slot].key(key.turn()));
        }
    }
}

/// `powi`, whose precision is not the same everywhere.
fn power(mut base: f64, mut exponent: u32) -> f64 {
    let mut power = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            power *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    power
}

/// How much of the average stays when one connection is added.
const KEPT: f64 = 0.875;

/// What ends sooner than this was not measured well; and 0 would be the least with any number of
/// connections.
const TIME_S_MIN: f64 = 1e-6;

/// Far from where numbers overflow, at 2^1024.
const HALVINGS_MAX: u32 = 256;

/// What has decayed to this is as good as nothing, but not 0.
const AT_START_MIN: f64 = 1e-200;
