//! What the machine knows of a slot's mailbox, which is a queue in the kernel.

use super::Time;
use crate::event::WorkerId;

/// What a slot's workers have counted of one listener's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// How many they took; wraps.
    pub taken: u32,
    /// How many are open.
    pub open: u32,
    /// How many have ended; wraps.
    pub closed: u32,
    /// How long those were open, together, in microseconds; wraps.
    pub lifetime_us: u64,
}

/// A slot's mailbox.
#[derive(Debug)]
pub(super) struct Mailbox {
    /// The generation that reads it.
    pub(super) reader: Option<WorkerId>,
    pub(super) weight: u32,
    /// At most this many messages wait in it.
    pub(super) waiting: u32,
    pub(super) full: bool,
    pub(super) stalled: bool,
    pub(super) probe: Probe,
    /// The next check, while something waits and somebody should read it.
    pub(super) check_at: Option<Time>,
    pub(super) strikes: u8,
    /// Whether the next count only tells where we are: neither progress nor a strike.
    pub(super) recount: bool,
    /// How many connections were taken back so far, while that goes on.
    pub(super) taking_back: Option<u32>,
    /// What its workers had counted at the last look, and how many connections they have open.
    pub(super) counters: Counters,
    pub(super) open: u32,
    /// Whether what waits was counted since then.
    pub(super) was_counted: bool,
    /// From when on what may wait at the slot's own socket is to be moved, if there is anybody to
    /// move it to.
    pub(super) move_at: Option<Time>,
}

/// A message without a connection, put into the mailbox of a stalled worker to see when it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    None,
    OnItsWay,
    Waiting,
}

impl Mailbox {
    pub(super) fn new(weight: u32) -> Mailbox {
        Mailbox {
            reader: None,
            weight,
            waiting: 0,
            full: false,
            stalled: false,
            probe: Probe::None,
            check_at: None,
            strikes: 0,
            recount: false,
            taking_back: None,
            counters: Counters::default(),
            open: 0,
            was_counted: false,
            move_at: None,
        }
    }

    pub(super) fn can_take(&self) -> bool {
        self.reader.is_some()
            && self.weight > 0
            && !self.full
            && !self.stalled
            && self.taking_back.is_none()
    }

    pub(super) fn clear_stall(&mut self) {
        self.stalled = false;
        self.probe = Probe::None;
        self.strikes = 0;
    }

    /// Whether what waits here waits for nobody.
    pub(super) fn is_forsaken(&self) -> bool {
        let probes = u32::from(self.probe == Probe::Waiting);
        self.waiting > probes && (self.reader.is_none() || self.stalled)
    }
}
