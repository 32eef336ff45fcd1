use std::time::Duration;

use crate::{Load, Outcome, Policy, Request, assert_slot};

/// Lets a slot warm up: one that is new or was away gets its weight little by little.
///
/// From the first pick after its return, the slot's weight grows evenly, in 64 steps, from a 64th
/// of it to all of it. Slots that are there at the first pick of all have their weights at once,
/// since somebody has to do the work. nginx calls it `slow_start`.
///
/// A slot that was full for a moment needs no warming up: only one that could not take for a second
/// at least (or what [`after`](Self::after) says) was away.
///
/// It is of use with policies that go by weight and adapt to a change of it easily. Those that
/// build tables from weights ([`SourceHash`](crate::SourceHash),
/// [`ConsistentHash`](crate::ConsistentHash), [`Maglev`](crate::Maglev)) would build them 64 times,
/// and move keys each time; nginx forbids it for them.
///
/// # Implementation notes
///
/// While a slot warms up, all weights are counted in 64ths, so that a weight of 1 can grow too;
/// then the policy is given the weights as they are. Weights above 2^26 are taken for that.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use scheduler::{Load, Policy, Request, SlowStart, SmoothWeighted};
///
/// let mut policy = SlowStart::new(SmoothWeighted::new(), Duration::from_secs(64));
/// let free = Load { can_take: true, ..Load::default() };
/// policy.update(0, free);
/// assert_eq!(policy.pick(&Request::default()), Some(0));
///
/// policy.update(1, free);
/// let shares = [1, 32, 63, 64, 65].map(|second| {
///     let request = Request::default().at(Duration::from_secs(second));
///     (0..100).filter(|_| policy.pick(&request) == Some(1)).count()
/// });
/// assert_eq!(shares, [2, 32, 49, 50, 50]);
/// ```
#[derive(Clone, Debug)]
pub struct SlowStart<P> {
    policy: P,
    time: Duration,
    after: Duration,
    /// The time of the last call that told it.
    now: Duration,
    /// Whether there was a pick.
    started: bool,
    /// How many slots are about to warm up, or do.
    warming: usize,
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    load: Load,
    /// The weight that the policy knows.
    told: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Warm,
    /// Since the time, if it ever was there.
    Away(Option<Duration>),
    /// It is back; until the next pick it is not known for how long it was away.
    Back(Option<Duration>),
    /// Since the time.
    Warming(Duration),
}

impl<P: Policy> SlowStart<P> {
    /// Lets slots of the policy warm up for so long.
    #[must_use]
    pub const fn new(policy: P, time: Duration) -> Self {
        Self {
            policy,
            time,
            after: Duration::from_secs(1),
            now: Duration::ZERO,
            started: false,
            warming: 0,
            slots: Vec::new(),
        }
    }

    /// How long a slot must have been away to warm up when it returns. Default 1 s.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self { after: time, ..self }
    }

    fn is_warming(state: State) -> bool {
        matches!(state, State::Back(_) | State::Warming(_))
    }

    fn set_state(&mut self, slot: usize, state: State) {
        let before = std::mem::replace(&mut self.slots[slot].state, state);
        self.warming += usize::from(Self::is_warming(state));
        self.warming -= usize::from(Self::is_warming(before));
    }

    /// Lets the slots that are back begin, ends what is over, and tells the policy the weights.
    fn warm_up(&mut self, now: Duration) {
        for slot in 0..self.slots.len() {
            match self.slots[slot].state {
                State::Back(since) => {
                    let away = since.is_none_or(|since| now.saturating_sub(since) >= self.after);
                    let warms = away && !self.time.is_zero();
                    let state = if warms { State::Warming(now) } else { State::Warm };
                    self.set_state(slot, state);
                }
                State::Warming(since) if now.saturating_sub(since) >= self.time => {
                    self.set_state(slot, State::Warm);
                }
                _ => {}
            }
        }
        self.tell(now);
    }

    /// Tells the policy the weights that are others now.
    fn tell(&mut self, now: Duration) {
        for slot in 0..self.slots.len() {
            let weight = self.weight(slot, now);
            if weight != self.slots[slot].told {
                self.slots[slot].told = weight;
                self.policy.update(slot, Load { weight, ..self.slots[slot].load });
            }
        }
    }

    /// The slot's weight as it is now, in 64ths while any slot warms up.
    fn weight(&self, slot: usize, now: Duration) -> u32 {
        let Slot { load: Load { weight, .. }, state, .. } = self.slots[slot];
        match state {
            _ if self.warming == 0 => weight,
            State::Warming(since) => {
                let elapsed = now.saturating_sub(since).min(self.time).as_nanos();
                let steps = elapsed * u128::from(STEPS) / self.time.as_nanos();
                weight.min(WEIGHT_MAX) * u32::try_from(steps).map_or(STEPS, |steps| steps.max(1))
            }
            _ => weight.min(WEIGHT_MAX) * STEPS,
        }
    }
}

impl<P: Policy> Policy for SlowStart<P> {
    fn update(&mut self, slot: usize, load: Load) {
        assert_slot(slot);
        if slot >= self.slots.len() {
            let new = Slot { load: Load::default(), told: 0, state: State::Away(None) };
            self.slots.resize(slot + 1, new);
        }
        let present = load.is_eligible();
        let state = match self.slots[slot].state {
            State::Away(_) if present && !self.started => State::Warm,
            State::Away(since) if present => State::Back(since),
            // As if it had not been back.
            State::Back(since) if !present => State::Away(since),
            State::Warm | State::Warming(_) if !present => State::Away(Some(self.now)),
            state => state,
        };
        let before = self.warming;
        self.set_state(slot, state);
        self.slots[slot].load = load;
        let told = self.weight(slot, self.now);
        self.slots[slot].told = told;
        self.policy.update(slot, Load { weight: told, ..load });
        if before > 0 && self.warming == 0 {
            self.tell(self.now);
        }
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        self.now = self.now.max(request.now);
        self.started = true;
        if self.warming > 0 {
            self.warm_up(self.now);
        }
        self.policy.pick(request)
    }

    fn name(&self) -> &'static str {
        self.policy.name()
    }

    fn report(&mut self, slot: usize, outcome: &Outcome) {
        self.now = self.now.max(outcome.now);
        self.policy.report(slot, outcome);
    }

    fn uses_connections(&self) -> bool {
        self.policy.uses_connections()
    }
}

/// In how many steps a weight grows.
const STEPS: u32 = 64;

/// Larger weights would overflow in steps.
const WEIGHT_MAX: u32 = u32::MAX / STEPS;
