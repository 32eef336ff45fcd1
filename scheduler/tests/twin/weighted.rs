//! Round-robin by weight: the scan of all slots, and the walk through all levels.

use scheduler::{Load, Policy, Request};

use super::Loads;

/// Looks at every slot again for each step of a pick.
#[derive(Debug, Default)]
pub(crate) struct NaiveSmoothWeighted {
    loads: Loads,
    /// In parts of `unit`, which is one connection.
    credits: Vec<i64>,
    unit: i64,
    last: Vec<(usize, u32)>,
}

impl Policy for NaiveSmoothWeighted {
    fn update(&mut self, slot: usize, load: Load) {
        self.loads.insert(slot, load);
        self.credits.resize(self.credits.len().max(slot + 1), 0);
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        let weights: Vec<(usize, u32)> =
            self.loads.eligible().iter().map(|slot| (*slot, self.loads.0[slot].weight)).collect();
        let total: u64 = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
        weights.first()?;
        let mut scale = 1;
        while total * scale < 1 << 57 {
            scale *= 2;
        }
        let unit = i64::try_from(total * scale).unwrap();
        for credit in &mut self.credits {
            if self.unit != 0 && self.unit != unit {
                #[allow(clippy::cast_possible_truncation, reason = "it is far below 2^63")]
                let converted = (*credit as f64 * (unit as f64 / self.unit as f64)) as i64;
                *credit = converted;
            }
            if weights != self.last {
                *credit = (*credit).clamp(-8 * unit, 8 * unit);
            }
        }
        self.unit = unit;
        for (slot, weight) in &weights {
            self.credits[*slot] += i64::try_from(u64::from(*weight) * scale).unwrap();
        }
        let highest = weights.iter().map(|(slot, _)| self.credits[*slot]).max()?;
        let is_tied = |slot: &usize| self.credits[*slot] >= highest - unit / (1 << 32);
        let winner = weights.iter().map(|(slot, _)| *slot).find(is_tied)?;
        self.credits[winner] -= unit;
        self.last = weights;
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
