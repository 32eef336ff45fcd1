use std::cmp::Ordering;

use crate::heap::{Heap, Key};
use crate::tiers::{Tier, Tiers};
use crate::turns::{Turn, Turns};
use crate::{Load, Policy, Request};

/// Picks the slot with the fewest connections for its weight.
///
/// `connections / weight` is compared, exactly. Slots between which it does not decide (all of
/// them, while nothing is open) have turns by weight: while only ties are picked from, each gets
/// exactly its share per cycle, spread over it. A slot that was picked more often because it was
/// less busy neither gains nor loses by it at the next tie.
///
/// A pick counts as one more connection of its slot until the slot's next update.
///
/// # Implementation notes
///
/// The slots are in a heap with an index, so that a pick and an update cost as many steps as the
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
    heap: Heap<Busy>,
    turns: Turns,
    /// The turns of slots that are known and not eligible.
    away: Vec<Option<Turn>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Busy {
    connections: u32,
    weight: u32,
    turn: Turn,
}

impl Key for Busy {
    fn compare(&self, other: &Self) -> Ordering {
        // Both sides of `own / own_weight < others / others_weight`, times both weights.
        let own = u64::from(self.connections) * u64::from(other.weight);
        let others = u64::from(other.connections) * u64::from(self.weight);
        own.cmp(&others).then(self.turn.cmp(&other.turn))
    }
}

impl Queue {
    const NEW: Self = Self { heap: Heap::new(), turns: Turns::new(), away: Vec::new() };

    fn set_turns_back(&mut self) {
        self.turns.set_clock_back();
        self.heap.change(|_, busy| Busy { turn: Turns::set_back(busy.turn), ..busy });
        self.away.iter_mut().flatten().for_each(|turn| *turn = Turns::set_back(*turn));
    }
}

impl Tier for Queue {
    fn update(&mut self, slot: usize, load: Load) {
        let Load { connections, weight, .. } = load;
        let present = self.heap.key(slot);
        if !load.is_eligible() {
            if let Some(busy) = present {
                self.heap.remove(slot);
                self.away[slot] = Some(busy.turn);
            }
            return;
        }
        let turn = match present {
            Some(busy) if busy.connections == connections && busy.weight == weight => return,
            Some(busy) => busy.turn,
            None => {
                if slot >= self.away.len() {
                    self.away.resize(slot + 1, None);
                }
                let away = self.away[slot].map(|turn| self.turns.returned(turn));
                away.unwrap_or_else(|| self.turns.first(weight))
            }
        };
        self.heap.set(slot, Busy { connections, weight, turn });
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        let (slot, Busy { connections, weight, turn }) = self.heap.first()?;
        let turn = self.turns.take(turn, weight);
        self.heap.set_first(Busy { connections: connections.saturating_add(1), weight, turn });
        if self.turns.is_late() {
            self.set_turns_back();
        }
        Some(slot)
    }
}
