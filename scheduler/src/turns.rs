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

/// A slot, and the time of its next turn above it: between equal times, the lower slot is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn(pub(crate) u64);

impl Turn {
    fn new(time: u64, slot: usize) -> Self {
        Self(time << SLOT_BITS | slot as u64)
    }

    const fn time(self) -> u64 {
        self.0 >> SLOT_BITS
    }

    pub(crate) const fn slot(self) -> usize {
        (self.0 & ((1 << SLOT_BITS) - 1)) as usize
    }
}

impl Turns {
    pub(crate) const fn new() -> Self {
        Self { clock: 0 }
    }

    /// The first turn of a slot that is new.
    pub(crate) fn first(&self, slot: usize, duration: u32) -> Turn {
        Turn::new(self.clock + u64::from(duration) / 2, slot)
    }

    /// The turn of a slot that was away.
    pub(crate) fn returned(&self, turn: Turn) -> Turn {
        Turn::new(turn.time().max(self.clock), turn.slot())
    }

    /// Takes the turn, and gives the slot its next one.
    pub(crate) fn take(&mut self, turn: Turn, duration: u32) -> Turn {
        self.clock = self.clock.max(turn.time());
        Turn::new(self.clock + u64::from(duration), turn.slot())
    }

    /// Whether time runs out, which is after four million turns at the earliest: then all turns are
    /// to be [set back](Self::set_back), and the clock with them.
    pub(crate) fn is_late(&self) -> bool {
        self.clock >= LATE
    }

    pub(crate) fn set_clock_back(&mut self) {
        self.clock -= LATE / 2;
    }

    pub(crate) fn set_back(turn: Turn) -> Turn {
        Turn::new(turn.time().saturating_sub(LATE / 2), turn.slot())
    }
}

/// How long a turn of a slot takes, of which the weight is not 0.
pub(crate) const fn duration(weight: u32) -> u32 {
    let duration = (1 << 28) / weight;
    if duration == 0 { 1 } else { duration }
}

/// As many as number the slots below `SLOTS_MAX`.
const SLOT_BITS: u32 = 12;

/// Times have 52 bits.
const LATE: u64 = 1 << 50;

const _: () = assert!(crate::SLOTS_MAX == 1 << SLOT_BITS);
