/// Whose turn it is among slots between which nothing else decides: fair by weight.
///
/// A turn takes the longer the less a slot weighs. Every slot has the time of its next turn, in the
/// middle of it, and the earliest is next; with the weights 5, 1 and 1 that is `aaabcaa` in every
/// cycle. The clock shows the time of the latest turn that was taken. Who could have had turns
/// before, and had none because something else decided, does not make up for them: the next turn
/// after a missed one is counted from the clock. (This is start-time fair queueing, by Goyal, Vin
/// and Cheng 1996.)
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    clock: u64,
}

/// The time of a slot's next turn.
pub(crate) type Turn = u64;

impl Turns {
    pub(crate) const fn new() -> Self {
        Self { clock: 0 }
    }

    /// The first turn of a slot that is new.
    pub(crate) fn first(&self, weight: u32) -> Turn {
        self.clock + duration(weight) / 2
    }

    /// The turn of a slot that was away.
    pub(crate) fn returned(&self, turn: Turn) -> Turn {
        turn.max(self.clock)
    }

    /// Takes the turn, and gives the next one.
    pub(crate) fn take(&mut self, turn: Turn, weight: u32) -> Turn {
        self.clock = self.clock.max(turn);
        self.clock + duration(weight)
    }

    /// Whether time runs out, after some 2^30 turns: then all turns are to be
    /// [set back](Self::set_back), and the clock with them.
    pub(crate) fn is_late(&self) -> bool {
        self.clock >= LATE
    }

    pub(crate) fn set_clock_back(&mut self) {
        self.clock = Self::set_back(self.clock);
    }

    pub(crate) fn set_back(turn: Turn) -> Turn {
        turn.saturating_sub(LATE / 2)
    }
}

/// How long a turn takes.
fn duration(weight: u32) -> u64 {
    (1 << 32) / u64::from(weight.max(1))
}

const LATE: u64 = 1 << 62;
