use crate::{Load, Outcome, Request, assert_slot};

/// A policy's way with slots that are all alike: it knows nothing of backups.
pub(crate) trait Tier {
    /// See [`Policy::update`](crate::Policy::update); the index is in range.
    fn update(&mut self, slot: usize, load: Load);

    /// See [`Policy::pick`](crate::Policy::pick). `None` is quick: while a backup stands in, every
    /// pick asks the primaries first.
    fn pick(&mut self, request: &Request) -> Option<usize>;

    /// See [`Policy::report`](crate::Policy::report). The slot may belong to the other tier.
    fn report(&mut self, slot: usize, outcome: &Outcome) {
        let _ = (slot, outcome);
    }
}

/// The primaries, and the backups that stand in while none of them is eligible: each with a state
/// of its own, as in nginx, so that it costs nothing to change over and back.
#[derive(Clone, Debug)]
pub(crate) struct Tiers<T> {
    primaries: T,
    backups: T,
    /// Whether there ever was a backup.
    has_backups: bool,
}

impl<T: Tier> Tiers<T> {
    pub(crate) const fn new(primaries: T, backups: T) -> Self {
        Self { primaries, backups, has_backups: false }
    }

    #[track_caller]
    pub(crate) fn update(&mut self, slot: usize, load: Load) {
        assert_slot(slot);
        self.has_backups |= load.backup;
        let (tier, other) = match load.backup {
            false => (&mut self.primaries, &mut self.backups),
            true => (&mut self.backups, &mut self.primaries),
        };
        tier.update(slot, load);
        if self.has_backups {
            remove(other, slot);
        }
    }

    pub(crate) fn pick(&mut self, request: &Request) -> Option<usize> {
        match self.primaries.pick(request) {
            Some(slot) => Some(slot),
            None => self.pick_backup(request),
        }
    }

    /// Apart, so that a pick of a primary has no more to do than it needs.
    #[cold]
    #[inline(never)]
    fn pick_backup(&mut self, request: &Request) -> Option<usize> {
        if self.has_backups { self.backups.pick(request) } else { None }
    }

    /// For a pick that needs to know nothing else.
    pub(crate) const fn primaries_mut(&mut self) -> &mut T {
        &mut self.primaries
    }

    pub(crate) fn report(&mut self, slot: usize, outcome: &Outcome) {
        self.primaries.report(slot, outcome);
        if self.has_backups {
            self.backups.report(slot, outcome);
        }
    }
}

#[cold]
fn remove(tier: &mut impl Tier, slot: usize) {
    tier.update(slot, Load { weight: 0, ..Load::default() });
}
