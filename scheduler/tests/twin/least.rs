//! The least busy slot, found by looking at all.

use std::collections::BTreeMap;
use std::time::Duration;

use scheduler::{Load, Outcome, Policy, Request};

use super::Loads;

/// Compares connections by weight, or times them by average times that have a half-life.
#[derive(Debug)]
pub(crate) struct NaiveLeast {
    half_life: Option<Duration>,
    loads: Loads,
    clock: u64,
    /// Of all slots that ever were eligible.
    turns: BTreeMap<usize, u64>,
    /// Each slot's average time, and what it would have to be at time 0; and those of all.
    times: BTreeMap<usize, (f64, f64)>,
    all: (f64, f64),
}

impl NaiveLeast {
    pub(crate) fn new(half_life: Option<Duration>) -> Self {
        Self {
            half_life,
            loads: Loads::default(),
            clock: 0,
            turns: BTreeMap::new(),
            times: BTreeMap::new(),
            all: (0.0, 1.0),
        }
    }

    fn cost(&self, slot: usize) -> f64 {
        let load = self.loads.0[&slot];
        let (connections, weight) =
            (f64::from(self.loads.connections(slot)), f64::from(load.weight));
        match self.half_life {
            None => connections / weight,
            Some(_) => self.times[&slot].1 * (connections + 1.0) / weight,
        }
    }
}

impl Policy for NaiveLeast {
    fn update(&mut self, slot: usize, load: Load) {
        let before = self.loads.insert(slot, load).is_some_and(|load| load.is_eligible());
        if load.is_eligible() && !before {
            let first = self.clock + duration(load.weight) / 2;
            let turn = self.turns.get(&slot).map_or(first, |turn| *turn.max(&self.clock));
            self.turns.insert(slot, turn);
            self.times.entry(slot).or_insert((0.0, self.all.1));
        }
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        let eligible = self.loads.eligible();
        let mut winner = *eligible.first()?;
        for slot in eligible {
            let (cost, best) = (self.cost(slot), self.cost(winner));
            if cost < best || cost == best && self.turns[&slot] < self.turns[&winner] {
                winner = slot;
            }
        }
        let weight = self.loads.0[&winner].weight;
        self.clock = self.clock.max(self.turns[&winner]);
        self.turns.insert(winner, self.clock + duration(weight));
        self.loads.place(winner);
        Some(winner)
    }

    fn name(&self) -> &'static str {
        "naive-least"
    }

    fn report(&mut self, slot: usize, outcome: &Outcome) {
        let (Some(half_life), Some(own)) = (self.half_life, self.times.get_mut(&slot)) else {
            return;
        };
        if outcome.failed || outcome.connections == 0 {
            return;
        }
        let (now, half_life) = (outcome.now.as_nanos(), half_life.as_nanos());
        let mut growth = 1.0 + (now % half_life) as f64 / half_life as f64;
        (0..now / half_life).for_each(|_| growth *= 2.0);
        let is_first = self.all.0 == 0.0;
        for (time, at_start) in [&mut self.all, own] {
            let kept = if *time == 0.0 { 0.0 } else { power(0.875, outcome.connections) };
            *time = *time * kept + outcome.time.as_secs_f64().max(1e-6) * (1.0 - kept);
            *at_start = *time * growth;
        }
        if is_first {
            let unknown = self.times.values_mut().filter(|(time, _)| *time == 0.0);
            unknown.for_each(|(_, at_start)| *at_start = self.all.1);
        }
    }
}

/// How long a turn takes.
fn duration(weight: u32) -> u64 {
    ((1 << 28) / u64::from(weight)).max(1)
}

/// By squaring, as the real one: another order of the factors would be rounded otherwise.
fn power(base: f64, exponent: u32) -> f64 {
    match exponent {
        0 => 1.0,
        _ => (0..32)
            .filter(|bit| exponent >> bit & 1 == 1)
            .fold(1.0, |power, bit| power * (0..bit).fold(base, |square, _| square * square)),
    }
}
