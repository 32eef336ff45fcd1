use std::time::Duration;

use crate::{Load, Outcome, Policy, Request, assert_slot};

/// Keeps away from slots that fail, and tries them again after a while: nginx's `max_fails` and
/// `fail_timeout`.
///
/// A slot of which so many failures were [reported](Policy::report) is out for the timeout. Then it
/// gets one connection in each timeout, until one is reported to have ended well: then all is
/// forgotten. (Only then: an old connection's good end before the trial says nothing.) When nobody
/// is left, the slots that are out are taken back at once, since it can't get worse.
///
/// To the policy, a slot that is out is one that can't take: backups stand in for it.
///
/// By default a slot is in or out. With [`recovering_slowly`](Self::recovering_slowly) each failure
/// also takes the slot's weight, divided by the number of failures that put it out, off its
/// *effective weight*, down to 0; and each pick in which it takes part gives back one. This is how
/// nginx's round-robin comes back to a slot in small steps. It changes weights often, which is not
/// for policies that build tables from them.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use scheduler::{Failover, Load, Outcome, Policy, Request, RoundRobin};
///
/// let mut policy = Failover::new(RoundRobin::new());
/// for slot in 0..2 {
///     policy.update(slot, Load { can_take: true, ..Load::default() });
/// }
/// let at = |second| Request::default().at(Duration::from_secs(second));
/// policy.report(0, &Outcome::failure(Duration::from_secs(5)));
/// assert_eq!([5, 10, 15].map(|second| policy.pick(&at(second))), [Some(1); 3]);
/// // One trial, and what follows from it.
/// assert_eq!([16, 16, 16].map(|second| policy.pick(&at(second))), [0, 1, 1].map(Some));
/// policy.report(0, &Outcome::new(Duration::from_secs(17), Duration::from_secs(1), 1));
/// assert_eq!([17, 17, 17].map(|second| policy.pick(&at(second))), [0, 1, 0].map(Some));
/// ```
#[derive(Clone, Debug)]
pub struct Failover<P> {
    policy: P,
    failures_max: u32,
    timeout: Duration,
    recovering_slowly: bool,
    /// The time of the last call that told it.
    now: Duration,
    slots: Vec<Slot>,
    /// How many slots have failures, or less than their weight.
    marked: usize,
    /// Whether slots got some of their weight back that the policy was not told of.
    untold: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    load: Load,
    /// What the policy knows.
    told: Load,
    failures: u32,
    /// How much is missing from the weight.
    missing: u32,
    /// When the last failure was.
    failed_at: Duration,
    /// When the last failure was, or the last trial began.
    checked_at: Duration,
}

impl Slot {
    fn is_marked(&self) -> bool {
        self.failures > 0 || self.missing > 0
    }
}

impl<P: Policy> Failover<P> {
    /// Watches over the slots of the policy, as nginx does by default: one failure puts a slot out,
    /// for ten seconds.
    #[must_use]
    pub const fn new(policy: P) -> Self {
        Self {
            policy,
            failures_max: 1,
            timeout: Duration::from_secs(10),
            recovering_slowly: false,
            now: Duration::ZERO,
            slots: Vec::new(),
            marked: 0,
            untold: false,
        }
    }

    /// How many failures put a slot out; 0 is none. They add up while there is no trial: those that
    /// happened longer ago than the timeout are forgotten with the next connection that ends well.
    #[must_use]
    pub fn failures_max(self, failures: u32) -> Self {
        Self { failures_max: failures, ..self }
    }

    /// For how long it is out.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Also reduces weights.
    #[must_use]
    pub fn recovering_slowly(self) -> Self {
        Self { recovering_slowly: true, ..self }
    }

    /// The slot's weight, less what failures have taken off it; 0 while it is not eligible or out.
    #[must_use]
    pub fn effective_weight(&self, slot: usize) -> u32 {
        let load = self.slots.get(slot).map_or(Load::default(), |slot| self.effective(slot));
        if load.is_eligible() { load.weight } else { 0 }
    }

    /// The load as it is to be taken now.
    fn effective(&self, slot: &Slot) -> Load {
        let fresh = self.now.saturating_sub(slot.checked_at) <= self.timeout;
        let out = self.failures_max > 0 && slot.failures >= self.failures_max && fresh;
        let weight = slot.load.weight.saturating_sub(slot.missing);
        Load { can_take: slot.load.can_take && !out, weight, ..slot.load }
    }

    fn tell(&mut self, slot: usize) {
        let load = self.effective(&self.slots[slot]);
        if load != self.slots[slot].told {
            self.slots[slot].told = load;
            self.policy.update(slot, load);
        }
    }

    fn change(&mut self, slot: usize, change: impl FnOnce(&mut Slot)) {
        let changed = &mut self.slots[slot];
        self.marked -= usize::from(changed.is_marked());
        change(changed);
        self.marked += usize::from(changed.is_marked());
        self.tell(slot);
    }

    /// Takes back all slots that failures keep away.
    fn forgive(&mut self) {
        for slot in 0..self.slots.len() {
            self.change(slot, |slot| {
                slot.failures = 0;
                slot.missing = slot.missing.min(slot.load.weight.saturating_sub(1));
            });
        }
    }

    /// Gives every slot that took part in the pick one of its weight back. It is told before the
    /// next pick.
    fn recover(&mut self) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.missing > 0 && self.effective(slot).can_take {
                let slot = &mut self.slots[index];
                slot.missing -= 1;
                self.marked -= usize::from(!slot.is_marked());
                self.untold = true;
            }
        }
    }
}

impl<P: Policy> Policy for Failover<P> {
    fn update(&mut self, slot: usize, load: Load) {
        assert_slot(slot);
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, Slot::default());
        }
        self.slots[slot].load = load;
        let told = self.effective(&self.slots[slot]);
        self.slots[slot].told = told;
        self.policy.update(slot, told);
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        self.now = self.now.max(request.now);
        if self.marked == 0 && !self.untold {
            return self.policy.pick(request);
        }
        (0..self.slots.len()).for_each(|slot| self.tell(slot));
        self.untold = false;
        let slot = self.policy.pick(request).or_else(|| {
            self.forgive();
            self.policy.pick(request)
        })?;
        // Before the trial begins: the slot that has it took part, too.
        self.recover();
        if self.now.saturating_sub(self.slots[slot].checked_at) > self.timeout {
            let now = self.now;
            self.change(slot, |slot| slot.checked_at = now);
        }
        Some(slot)
    }

    fn name(&self) -> &'static str {
        self.policy.name()
    }

    fn report(&mut self, slot: usize, outcome: &Outcome) {
        self.now = self.now.max(outcome.now);
        self.policy.report(slot, outcome);
        if slot >= self.slots.len() || self.failures_max == 0 {
            return;
        }
        let (now, failures_max) = (self.now, self.failures_max);
        let reduces = self.recovering_slowly;
        self.change(slot, |slot| {
            if outcome.failed {
                slot.failures = slot.failures.saturating_add(outcome.connections);
                (slot.failed_at, slot.checked_at) = (now, now);
                if reduces {
                    let step =
                        (slot.load.weight / failures_max).saturating_mul(outcome.connections);
                    slot.missing = slot.missing.saturating_add(step).min(slot.load.weight);
                }
            } else if slot.failed_at < slot.checked_at {
                slot.failures = 0;
            }
        });
    }

    fn uses_connections(&self) -> bool {
        self.policy.uses_connections()
    }
}
