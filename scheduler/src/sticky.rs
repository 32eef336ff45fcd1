use std::time::Duration;

use crate::bits::Bits;
use crate::hash::{mix, scale};
use crate::{Load, Outcome, Policy, Request, assert_slot};

/// Remembers where a key went, and picks that slot for it again; another policy picks for keys that
/// are new.
///
/// Unlike the hash policies it moves no key when slots come, and the other policy is free to pick
/// the least busy slot for a newcomer. But it has to remember: how many keys, and for how long
/// after their last connection, is limited. A key is picked for anew when it was forgotten, and
/// when its slot can't take; then it stays with the new slot.
///
/// nginx calls it `sticky learn`.
///
/// # Implementation notes
///
/// Keys are in a table of sets of eight, each in the set that its hash says. A new key takes the
/// place of that one in its set that has been without a connection for longest; a full table thus
/// forgets about the oldest keys, and an attacker who sends many keys makes it forget the others.
/// The table is allocated at once, 24 bytes a key.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use scheduler::{Load, Policy, Request, RoundRobin, Sticky};
///
/// let minute = Duration::from_secs(60);
/// let mut policy = Sticky::new(RoundRobin::new(), minute, 10_000);
/// for slot in 0..3 {
///     policy.update(slot, Load { can_take: true, ..Load::default() });
/// }
/// let [anna, otto] = [1, 2].map(Request::new);
/// assert_eq!(policy.pick(&anna), Some(0));
/// assert_eq!(policy.pick(&otto), Some(1));
/// assert_eq!(policy.pick(&anna.at(minute)), Some(0));
/// assert_eq!(policy.pick(&otto.at(2 * minute)), Some(2)); // forgotten
/// ```
#[derive(Clone, Debug)]
pub struct Sticky<P> {
    policy: P,
    time_ns: u64,
    sets: Vec<[Entry; WAYS]>,
    /// The eligible slots that are no backups, and those that are.
    primaries: Bits,
    backups: Bits,
}

/// A key that was seen.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: u64,
    seen_ns: u64,
    /// `NONE` if there is no key.
    slot: u16,
}

impl<P: Policy> Sticky<P> {
    /// Remembers about `keys` keys (a power of two, and eight at least) for `time` after their last
    /// connection, and lets `policy` pick for others.
    #[must_use]
    pub fn new(policy: P, time: Duration, keys: usize) -> Self {
        let sets = keys.div_ceil(WAYS).max(1).next_power_of_two();
        let none = Entry { key: 0, seen_ns: 0, slot: NONE };
        Self {
            policy,
            time_ns: nanoseconds(time),
            sets: vec![[none; WAYS]; sets],
            primaries: Bits::new(),
            backups: Bits::new(),
        }
    }

    fn may_pick(&self, slot: usize) -> bool {
        self.primaries.contains(slot) || self.primaries.is_empty() && self.backups.contains(slot)
    }
}

impl<P: Policy> Policy for Sticky<P> {
    fn update(&mut self, slot: usize, load: Load) {
        assert_slot(slot);
        self.primaries.set(slot, load.is_eligible() && !load.backup);
        self.backups.set(slot, load.is_eligible() && load.backup);
        self.policy.update(slot, load);
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        let now_ns = nanoseconds(request.now);
        let index = scale(mix(request.key), self.sets.len() as u64);
        let index = usize::try_from(index).expect("less than the number of sets");
        let set = &self.sets[index];
        let is_known = |entry: &Entry| {
            let age_ns = now_ns.saturating_sub(entry.seen_ns);
            entry.key == request.key && entry.slot != NONE && age_ns <= self.time_ns
        };
        let known = set.iter().position(is_known);
        let (way, slot) = match known {
            Some(way) if self.may_pick(set[way].slot.into()) => (way, set[way].slot.into()),
            _ => {
                // Of a key that is known or expired, the entry is used again; an empty one is as
                // old as can be.
                let own = set.iter().position(|entry| entry.key == request.key);
                let age = |way: &usize| (set[*way].slot != NONE, set[*way].seen_ns);
                let way = own.or_else(|| (0..WAYS).min_by_key(age)).unwrap_or(0);
                (way, self.policy.pick(request)?)
            }
        };
        if let Ok(slot) = u16::try_from(slot) {
            self.sets[index][way] = Entry { key: request.key, seen_ns: now_ns, slot };
        }
        Some(slot)
    }

    fn name(&self) -> &'static str {
        "sticky"
    }

    fn report(&mut self, slot: usize, outcome: &Outcome) {
        self.policy.report(slot, outcome);
    }

    fn uses_connections(&self) -> bool {
        self.policy.uses_connections()
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

const WAYS: usize = 8;

const NONE: u16 = u16::MAX;
