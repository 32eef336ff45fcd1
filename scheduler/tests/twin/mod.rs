//! The policies once more, in the plainest way: what the fast ones are compared with.

use scheduler::{Load, Outcome, Policy, Request};

/// One policy for the primaries, and another one like it for the backups while no primary is
/// eligible.
#[derive(Debug, Default)]
pub(crate) struct Tiered<P> {
    primaries: P,
    backups: P,
}

impl<P: Policy> Policy for Tiered<P> {
    fn update(&mut self, slot: usize, load: Load) {
        let out = Load::default();
        self.primaries.update(slot, if load.backup { out } else { load });
        self.backups.update(slot, if load.backup { load } else { out });
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        self.primaries.pick(request).or_else(|| self.backups.pick(request))
    }

    fn name(&self) -> &'static str {
        self.primaries.name()
    }

    fn report(&mut self, slot: usize, outcome: &Outcome) {
        self.primaries.report(slot, outcome);
        self.backups.report(slot, outcome);
    }
}

/// Walks from slot to slot.
#[derive(Debug, Default)]
pub(crate) struct NaiveRoundRobin {
    loads: Vec<Load>,
    next: usize,
}

impl Policy for NaiveRoundRobin {
    fn update(&mut self, slot: usize, load: Load) {
        self.loads.resize(self.loads.len().max(slot + 1), Load::default());
        self.loads[slot] = load;
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        let slots = self.loads.len();
        let slot =
            (self.next..slots).chain(0..slots).find(|&slot| self.loads[slot].is_eligible())?;
        self.next = slot + 1;
        Some(slot)
    }

    fn name(&self) -> &'static str {
        "naive-round-robin"
    }
}

/// Looks at every slot again for each step of a pick.
#[derive(Debug, Default)]
pub(crate) struct NaiveSmoothWeighted {
    loads: Vec<Load>,
    credits: Vec<f64>,
    last_total: Option<f64>,
}

impl Policy for NaiveSmoothWeighted {
    fn update(&mut self, slot: usize, load: Load) {
        self.loads.resize(self.loads.len().max(slot + 1), Load::default());
        self.credits.resize(self.loads.len(), 0.0);
        self.loads[slot] = load;
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        let slots: Vec<usize> =
            (0..self.loads.len()).filter(|&slot| self.loads[slot].is_eligible()).collect();
        let total: f64 = slots.iter().map(|&slot| f64::from(self.loads[slot].weight)).sum();
        let mut winner = *slots.first()?;
        if let Some(last_total) = self.last_total.replace(total) {
            self.credits.iter_mut().for_each(|credit| *credit *= total / last_total);
        }
        for &slot in &slots {
            self.credits[slot] += f64::from(self.loads[slot].weight);
        }
        for &slot in &slots {
            if self.credits[slot] > self.credits[winner] + total / 2.0_f64.powi(32) {
                winner = slot;
            }
        }
        self.credits[winner] -= total;
        Some(winner)
    }

    fn name(&self) -> &'static str {
        "naive-smooth-weighted"
    }
}
