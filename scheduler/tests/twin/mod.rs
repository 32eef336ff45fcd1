//! The policies once more, in the plainest way: what the fast ones are compared with.

mod hash;
mod least;
mod weighted;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use scheduler::{
    BoundedHash, ClassicWeighted, ConsistentHash, Failover, FirstIdle, LeastConnections, LeastTime,
    Load, Maglev, Outcome, Policy, PowerOfTwo, Random, Request, RoundRobin, SlowStart,
    SmoothWeighted, SourceHash, Sticky,
};

pub(crate) use hash::{NaiveMaglev, NaiveRing};
pub(crate) use least::NaiveLeast;
pub(crate) use weighted::{NaiveClassicWeighted, NaiveSmoothWeighted};

/// A policy, and its twin.
pub(crate) type Pair = [Box<dyn Policy>; 2];

/// The policies that take weights of any size without a table of points.
pub(crate) fn pairs() -> Vec<Pair> {
    vec![
        [Box::new(RoundRobin::new()), Box::<Tiered<NaiveRoundRobin>>::default()],
        [Box::new(FirstIdle::new()), Box::<Tiered<NaiveFirstIdle>>::default()],
        [Box::new(SmoothWeighted::new()), Box::<Tiered<NaiveSmoothWeighted>>::default()],
        [Box::new(ClassicWeighted::new()), Box::<Tiered<NaiveClassicWeighted>>::default()],
        [Box::new(LeastConnections::new()), Box::new(Tiered::new(|| NaiveLeast::new(None)))],
        [
            Box::new(LeastTime::with_half_life(HALF_LIFE)),
            Box::new(Tiered::new(|| NaiveLeast::new(Some(HALF_LIFE)))),
        ],
        [
            Box::new(Maglev::with_entries(ENTRIES)),
            Box::new(Tiered::new(|| NaiveMaglev::new(ENTRIES))),
        ],
        [
            Box::new(Sticky::new(SmoothWeighted::new(), TIME, 1 << 12)),
            Box::<NaiveSticky<Tiered<NaiveSmoothWeighted>>>::default(),
        ],
    ]
}

/// Those whose tables grow with the weights.
pub(crate) fn ring_pairs() -> Vec<Pair> {
    vec![
        [Box::new(ConsistentHash::new()), Box::new(Tiered::new(|| NaiveRing::new(None)))],
        [Box::new(BoundedHash::new()), Box::new(Tiered::new(|| NaiveRing::new(Some(125))))],
        [
            Box::new(BoundedHash::with_percent(100)),
            Box::new(Tiered::new(|| NaiveRing::new(Some(100)))),
        ],
    ]
}

/// Policies that have no twin, because chance decides or other policies do: what must hold of them
/// are the contract and that the same calls give the same picks.
pub(crate) fn loners() -> Vec<Box<dyn Policy>> {
    vec![
        Box::new(Random::new(1)),
        Box::new(PowerOfTwo::new(2)),
        Box::new(SourceHash::new()),
        Box::new(SlowStart::new(SmoothWeighted::new(), TIME)),
        Box::new(SlowStart::new(LeastConnections::new(), Duration::ZERO).after(Duration::ZERO)),
    ]
}

/// Those that take a slot that fails for one that can't take.
pub(crate) fn failovers() -> Vec<Box<dyn Policy>> {
    vec![
        Box::new(Failover::new(RoundRobin::new()).timeout(TIME)),
        Box::new(Failover::new(SmoothWeighted::new()).failures_max(3).recovering_slowly()),
        Box::new(Failover::new(SlowStart::new(Random::new(3), TIME)).recovering_slowly()),
    ]
}

const HALF_LIFE: Duration = Duration::from_millis(700);
const TIME: Duration = Duration::from_secs(3);
const ENTRIES: u32 = 61;

/// One policy for the primaries, and another one like it for the backups while no primary is
/// eligible.
#[derive(Debug, Default)]
pub(crate) struct Tiered<P> {
    primaries: P,
    backups: P,
}

impl<P> Tiered<P> {
    fn new(policy: impl Fn() -> P) -> Self {
        Self { primaries: policy(), backups: policy() }
    }
}

impl<P: Policy> Policy for Tiered<P> {
    fn update(&mut self, slot: usize, load: Load) {
        let out = Load { weight: 0, ..Load::default() };
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

/// The last load of each slot, and how often it was picked since.
#[derive(Debug, Default)]
struct Loads(BTreeMap<usize, Load>, BTreeMap<usize, u32>);

impl Loads {
    fn insert(&mut self, slot: usize, load: Load) -> Option<Load> {
        self.1.insert(slot, 0);
        self.0.insert(slot, load)
    }

    fn place(&mut self, slot: usize) {
        *self.1.entry(slot).or_default() += 1;
    }

    fn connections(&self, slot: usize) -> u32 {
        self.0[&slot].connections + self.1[&slot]
    }

    fn eligible(&self) -> Vec<usize> {
        self.0.iter().filter(|(_, load)| load.is_eligible()).map(|(slot, _)| *slot).collect()
    }
}

/// Walks from slot to slot.
#[derive(Debug, Default)]
pub(crate) struct NaiveRoundRobin {
    loads: Loads,
    next: usize,
}

impl Policy for NaiveRoundRobin {
    fn update(&mut self, slot: usize, load: Load) {
        self.loads.insert(slot, load);
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        let slots = self.loads.eligible();
        let slot = *slots.iter().find(|slot| **slot >= self.next).or(slots.first())?;
        self.next = slot + 1;
        Some(slot)
    }

    fn name(&self) -> &'static str {
        "naive-round-robin"
    }
}

/// Slots walk from the end of one queue to that of another.
#[derive(Debug, Default)]
pub(crate) struct NaiveFirstIdle {
    idle: VecDeque<usize>,
    busy: VecDeque<usize>,
}

impl Policy for NaiveFirstIdle {
    fn update(&mut self, slot: usize, load: Load) {
        let is_idle = load.is_eligible() && load.connections == 0;
        let is_busy = load.is_eligible() && load.connections > 0;
        for (queue, belongs) in [(&mut self.idle, is_idle), (&mut self.busy, is_busy)] {
            if !belongs {
                queue.retain(|other| *other != slot);
            } else if !queue.contains(&slot) {
                queue.push_back(slot);
            }
        }
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        let slot = self.idle.pop_front().or_else(|| self.busy.pop_front())?;
        self.busy.push_back(slot);
        Some(slot)
    }

    fn name(&self) -> &'static str {
        "naive-first-idle"
    }
}

/// Remembers every key for ever; there are so few that the real one must forget none either.
#[derive(Debug, Default)]
pub(crate) struct NaiveSticky<P> {
    policy: P,
    loads: Loads,
    known: BTreeMap<u64, (usize, Duration)>,
}

impl<P: Policy> Policy for NaiveSticky<P> {
    fn update(&mut self, slot: usize, load: Load) {
        self.loads.insert(slot, load);
        self.policy.update(slot, load);
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        let eligible = self.loads.eligible();
        let has_primary = eligible.iter().any(|slot| !self.loads.0[slot].backup);
        let known = self.known.get(&request.key).filter(|(slot, seen)| {
            let may_pick = !has_primary || !self.loads.0[slot].backup;
            eligible.contains(slot) && may_pick && request.now.saturating_sub(*seen) <= TIME
        });
        let slot = match known {
            Some((slot, _)) => *slot,
            None => self.policy.pick(request)?,
        };
        self.known.insert(request.key, (slot, request.now));
        Some(slot)
    }

    fn name(&self) -> &'static str {
        "naive-sticky"
    }
}
