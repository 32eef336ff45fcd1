//! Round-robin by weight: the scan of all slots, and the walk through all levels.

use std::collections::BTreeMap;

use scheduler::{Load, Policy, Request};

use super::Loads;

/// Looks at every slot again for each step of a pick.
#[derive(Debug, Default)]
pub(crate) struct NaiveSmoothWeighted {
    loads: Loads,
    /// In parts of `unit`, which is one connection; of slots that are away, in connections.
    credits: BTreeMap<usize, f64>,
    unit: f64,
}

impl NaiveSmoothWeighted {
    /// Keeps so many bits that any sum of credits up to 32 units is exact.
    fn round(&self, credit: f64) -> f64 {
        if self.unit == 0.0 {
            return 0.0;
        }
        let mut grain = 1.0;
        while self.unit * 32.0 < grain * 2.0_f64.powi(52) {
            grain /= 2.0;
        }
        (credit / grain).round_ties_even() * grain
    }
}

impl Policy for NaiveSmoothWeighted {
    fn update(&mut self, slot: usize, load: Load) {
        let before = self.loads.insert(slot, load).is_some_and(|load| load.is_eligible());
        let credit = *self.credits.entry(slot).or_insert(0.0);
        let credit = match (before, load.is_eligible()) {
            (true, false) if self.unit > 0.0 => credit / self.unit,
            (false, true) => self.round(credit * self.unit),
            _ => credit,
        };
        self.credits.insert(slot, credit);
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        let slots = self.loads.eligible();
        let weight = |slot: &usize| f64::from(self.loads.0[slot].weight);
        let unit: f64 = slots.iter().map(weight).sum();
        slots.first()?;
        let ratio = if self.unit > 0.0 { unit / self.unit } else { 1.0 };
        self.unit = unit;
        for slot in &slots {
            let credit = self.credits[slot];
            let credit = if ratio == 1.0 { credit } else { self.round(credit * ratio) };
            self.credits.insert(*slot, credit + weight(slot));
        }
        let credit = |slot: &usize| self.credits[slot];
        let highest = slots.iter().map(credit).fold(f64::NEG_INFINITY, f64::max);
        let tie = unit / 2.0_f64.powi(32);
        let winner = *slots.iter().find(|slot| credit(slot) >= highest - tie)?;
        *self.credits.get_mut(&winner)? -= unit;
        Some(winner)
    }

    fn name(&self) -> &'static str {
        "naive-smooth-weighted"
    }
}

/// Goes through the levels, and in each through all slots.
#[derive(Debug, Default)]
pub(crate) struct NaiveClassicWeighted {
    loads: Loads,
    level: u32,
    next: usize,
}

impl Policy for NaiveClassicWeighted {
    fn update(&mut self, slot: usize, load: Load) {
        self.loads.insert(slot, load);
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        let eligible = self.loads.eligible();
        let weight = |slot: &usize| self.loads.0[slot].weight;
        let highest = eligible.iter().map(weight).max()?;
        loop {
            let has_turn = |slot: &&usize| **slot >= self.next && weight(slot) >= self.level;
            if self.level > 0
                && let Some(slot) = eligible.iter().find(has_turn)
            {
                self.next = slot + 1;
                return Some(*slot);
            }
            self.next = 0;
            self.level = if self.level <= 1 { highest } else { highest.min(self.level - 1) };
        }
    }

    fn name(&self) -> &'static str {
        "naive-classic-weighted"
    }
}
