use crate::tiers::{Tier, Tiers};
use crate::{Load, Policy, Request};

/// Picks the slot that has been idle for longest: what Node's `cluster` calls round-robin.
///
/// A slot is idle while it has no connections. Idle slots stand in line, in the order in which they
/// became idle, and the first of them is picked. It then counts as busy, until an update says that
/// it has no connections. While none is idle, the one is picked that has not been picked (or was
/// not eligible, or was idle) for longest. Weights don't matter, except that 0 takes a slot out.
///
/// A slot that becomes eligible stands last in its line. An update that changes neither whether it
/// is eligible nor whether it is idle leaves it in its place.
///
/// In Node, connections wait in the master while no worker is idle. Here a policy must pick; to
/// have them wait instead, give slots a [limit](Load::connections_max) of one connection.
///
/// # Examples
///
/// ```
/// use scheduler::{FirstIdle, Load, Policy, Request};
///
/// let mut policy = FirstIdle::new();
/// let idle = Load { can_take: true, ..Load::default() };
/// for slot in 0..3 {
///     policy.update(slot, idle);
/// }
/// let request = Request::default();
/// assert_eq!([(); 2].map(|()| policy.pick(&request)), [Some(0), Some(1)]);
/// policy.update(1, idle); // its connection has ended
/// assert_eq!([(); 3].map(|()| policy.pick(&request)), [Some(2), Some(1), Some(0)]);
/// ```
#[derive(Clone, Debug)]
pub struct FirstIdle {
    tiers: Tiers<Lines>,
}

impl FirstIdle {
    /// A policy that knows no slot yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { tiers: Tiers::new(Lines::NEW, Lines::NEW) }
    }
}

impl Default for FirstIdle {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for FirstIdle {
    fn update(&mut self, slot: usize, load: Load) {
        self.tiers.update(slot, load);
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        self.tiers.pick(request)
    }

    fn name(&self) -> &'static str {
        "first-idle"
    }

    fn uses_connections(&self) -> bool {
        true
    }
}

/// Two lines, as rings of places: places 0 and 1 are the heads of the idle and the busy line, a
/// slot's place is its number + 2. A place that is in neither is a ring of its own.
#[derive(Clone, Debug)]
struct Lines {
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    previous: u16,
    next: u16,
    line: Line,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Idle,
    Busy,
    Out,
}

impl Lines {
    const NEW: Self = Self { places: Vec::new() };

    fn place(&mut self, slot: usize) -> u16 {
        while self.places.len() < slot + 1 + HEADS {
            let own = u16::try_from(self.places.len()).expect("slots are below SLOTS_MAX");
            self.places.push(Place { previous: own, next: own, line: Line::Out });
        }
        u16::try_from(slot + HEADS).expect("slots are below SLOTS_MAX")
    }

    /// Moves the place to the end of the line, even if it is in it.
    fn line_up(&mut self, place: u16, line: Line) {
        let Place { previous, next, .. } = self.places[usize::from(place)];
        self.places[usize::from(previous)].next = next;
        self.places[usize::from(next)].previous = previous;
        let (previous, next) = match line {
            Line::Idle => (self.places[usize::from(IDLE)].previous, IDLE),
            Line::Busy => (self.places[usize::from(BUSY)].previous, BUSY),
            Line::Out => (place, place),
        };
        self.places[usize::from(place)] = Place { previous, next, line };
        self.places[usize::from(previous)].next = place;
        self.places[usize::from(next)].previous = place;
    }
}

impl Tier for Lines {
    fn update(&mut self, slot: usize, load: Load) {
        let place = self.place(slot);
        let line = match load.is_eligible() {
            false => Line::Out,
            true if load.connections == 0 => Line::Idle,
            true => Line::Busy,
        };
        if self.places[usize::from(place)].line != line {
            self.line_up(place, line);
        }
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        let first = |head: u16| {
            let next = self.places.get(usize::from(head))?.next;
            (next != head).then_some(next)
        };
        let place = first(IDLE).or_else(|| first(BUSY))?;
        self.line_up(place, Line::Busy);
        Some(usize::from(place) - HEADS)
    }
}

const IDLE: u16 = 0;
const BUSY: u16 = 1;
const HEADS: usize = 2;
