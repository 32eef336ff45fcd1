use crate::tiers::{Tier, Tiers};
use crate::turns::{Turn, Turns, duration};
use crate::winners::{Key, Winners};
use crate::{Load, Policy, Request};

/// Picks the slot with the fewest connections for its weight.
///
/// `connections / weight` is compared: exactly, unless a slot has more than a million connections.
/// Slots between which it does not decide (all of
/// them, while nothing is open) have turns by weight: while only ties are picked from, each gets
/// exactly its share per cycle, spread over it. A slot that was picked more often because it was
/// less busy neither gains nor loses by it at the next tie.
///
/// A pick counts as one more connection of its slot until the slot's next update.
///
/// # Implementation notes
///
/// A tree finds the least busy slot, so that a pick and an update cost half as many steps as the
/// number of slots has binary digits. nginx scans all slots, twice when some are tied, and settles
/// ties by smooth weighted round-robin among the tied ones; here it is fair queueing (the next turn
/// of each slot is part of its key), which gives the same shares and needs no scan.
///
/// # Examples
///
/// ```
/// use scheduler::{LeastConnections, Load, Policy, Request};
///
/// let mut policy = LeastConnections::new();
/// for (slot, connections) in [4, 1, 2].into_iter().enumerate() {
///     policy.update(slot, Load { can_take: true, connections, ..Load::default() });
/// }
/// let picked = [(); 6].map(|()| policy.pick(&Request::default()).unwrap());
/// assert_eq!(picked, [1, 2, 1, 2, 1, 0]);
/// ```
#[derive(Clone, Debug)]
pub struct LeastConnections {
    tiers: Tiers<Queue>,
}

impl LeastConnections {
    /// A policy that knows no slot yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { tiers: Tiers::new(Queue::NEW, Queue::NEW) }
    }
}

impl Default for LeastConnections {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for LeastConnections {
    fn update(&mut self, slot: usize, load: Load) {
        self.tiers.update(slot, load);
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        self.tiers.pick(request)
    }

    fn name(&self) -> &'static str {
        "least-connections"
    }

    fn uses_connections(&self) -> bool {
        true
    }
}

#[derive(Clone, Debug)]
struct Queue {
    /// The eligible slots.
    winners: Winners,
    turns: Turns,
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    eligible: bool,
    connections: u32,
    weight: u32,
    /// How long its turns take.
    duration: u32,
    /// Where it is up to date: while the slot is known and not eligible.
    turn: Option<Turn>,
}

impl Slot {
    const NEW: Self = Self { eligible: false, connections: 0, weight: 0, duration: 0, turn: None };

    fn key(&self, turn: Turn) -> Key {
        Key::new(f64::from(self.connections) / f64::from(self.weight), turn)
    }

    /// Whether there is nothing new about it.
    fn is_as(&self, load: Load) -> bool {
        let same = (self.connections, self.weight) == (load.connections, load.weight);
        self.eligible == load.is_eligible() && (same || !self.eligible)
    }
}

impl Queue {
    const NEW: Self = Self { winners: Winners::new(), turns: Turns::new(), slots: Vec::new() };

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
        let away = known.turn.map(|turn| self.turns.returned(turn));
        let new = || self.turns.first(slot, known.duration);
        let turn = if known.eligible { present } else { away }.unwrap_or_else(new);
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

impl Tier for Queue {
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
        let picked = &mut self.slots[turn.slot()];
        picked.connections = picked.connections.saturating_add(1);
        self.winners.set(picked.key(self.turns.take(turn, picked.duration)));
        if self.turns.is_late() {
            self.set_turns_back();
        }
        Some(turn.slot())
    }
}
