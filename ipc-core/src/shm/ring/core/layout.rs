//! What a ring's memory holds: a control block, and the words in which records lie.
//!
//! ```text
//! byte 0     128    256    384                 512                4096          4096 + capacity
//! │ identity │ tail │ head │ consumer's wait   │ producer's wait  │ … │ records                │
//! ```
//!
//! `tail` counts the bytes that the producer has committed, `head` those that the consumer has
//! released; both only grow, and are indices after masking. A record is a word with its length, and
//! then its bytes, padded to a word. It never wraps: where one does not fit before the end, the
//! word [`WRAP`] stands, and it begins at the front.
//!
//! Everything here may change under our hands: the peer has it mapped too. It is read by atomic
//! loads only, once each, into a copy that is validated and then used.

use std::num::NonZeroU32;

use super::primitive::{AtomicU32, AtomicU64};

/// Bytes of the memory before the records: a page, so that records begin on one of their own.
pub(crate) const CONTROL_BYTES: usize = 4096;
/// Smallest capacity.
pub(crate) const CAPACITY_BYTES_MIN: usize = 4096;
/// Largest capacity: lengths of records are a `u32`.
pub(crate) const CAPACITY_BYTES_MAX: usize = 1 << 31;

/// "IPC ring", and the version of this layout.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"IPCring\x01");

/// Stands where a record would begin, when it begins at the front instead.
pub(super) const WRAP: u64 = u64::MAX;
pub(super) const WORD_BYTES: usize = 8;

/// Two cache lines, because processors fetch lines in pairs: what one side writes often does not
/// share them with what the other side writes.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct Line<T>(pub(crate) T);

/// The beginning of a ring's memory.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// Written once, by who creates the ring.
    pub(crate) identity: Line<Identity>,
    /// Written by the producer only.
    pub(crate) tail: Line<AtomicU64>,
    /// Written by the consumer only.
    pub(crate) head: Line<AtomicU64>,
    /// Says how the consumer waits for a record; see [`wait`](super::wait).
    pub(crate) consumer_wait: Line<AtomicU32>,
    /// Says how the producer waits for room.
    pub(crate) producer_wait: Line<AtomicU32>,
}

/// Tells a ring's memory from others.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Identity {
    pub(crate) magic: AtomicU64,
    pub(crate) capacity_bytes: AtomicU64,
}

/// A ring's memory, as the core sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) control: &'a Control,
    /// A power of two of them.
    pub(crate) words: &'a [AtomicU64],
}

impl View<'_> {
    #[inline]
    pub(super) fn capacity(self) -> u64 {
        (self.words.len() * WORD_BYTES) as u64
    }

    /// The word at which a cursor points.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "what is cut off would be masked")]
    pub(super) fn index(self, cursor: u64) -> usize {
        (cursor as usize / WORD_BYTES) & (self.words.len() - 1)
    }
}

/// A record's place in the words. It is small, because every message makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The first word of the payload, before which there is that of its length.
    start: NonZeroU32,
    payload_bytes: u32,
    /// The cursor after the record.
    after: u64,
}

impl Slot {
    /// The record whose length stands at `index`, which the cursor `at` points to.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "a ring has less than 2^32 bytes")]
    pub(crate) fn new(index: usize, payload_bytes: usize, at: u64) -> Self {
        Self {
            start: NonZeroU32::MIN.saturating_add(index as u32),
            payload_bytes: payload_bytes as u32,
            after: at.wrapping_add(record_bytes(payload_bytes)),
        }
    }

    #[inline]
    pub(crate) fn payload_bytes(&self) -> usize {
        self.payload_bytes as usize
    }

    /// Where the length stands.
    #[inline]
    pub(super) fn index(&self) -> usize {
        self.start.get() as usize - 1
    }

    /// The cursor after the record.
    #[inline]
    pub(super) fn after(&self) -> u64 {
        self.after
    }

    /// The words of the payload, the last of which may be used in part.
    #[inline]
    pub(crate) fn words<'a>(&self, view: View<'a>) -> &'a [AtomicU64] {
        let start = self.start.get() as usize;
        &view.words[start..start + self.payload_bytes().div_ceil(WORD_BYTES)]
    }

    pub(crate) fn truncate(&mut self, payload_bytes: usize) {
        let before = self.after.wrapping_sub(record_bytes(self.payload_bytes()));
        *self = Self::new(self.index(), payload_bytes.min(self.payload_bytes()), before);
    }
}

/// Bytes that a record takes in the ring.
#[inline]
pub(super) fn record_bytes(payload_bytes: usize) -> u64 {
    (WORD_BYTES + payload_bytes.next_multiple_of(WORD_BYTES)) as u64
}

/// Largest payload for a capacity: half of it, less the length. Such a record finds its place in an
/// empty ring wherever the last one ended.
#[inline]
pub(crate) fn payload_bytes_max(capacity_bytes: usize) -> usize {
    capacity_bytes / 2 - WORD_BYTES
}
