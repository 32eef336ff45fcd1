//! What each side of a ring decides, on atomics alone.
//!
//! A side keeps its own cursor, and its last copy of the other's, to itself: the shared cursor is
//! only read when the copy does not suffice, and only believed when it has not gone backwards and
//! is at most a capacity ahead. The other side can write anything anywhere at any time; it can
//! thereby make this side fail, and see or send garbage, but not leave the words of the ring.
#![allow(unsafe_code)] // The capacity of a vector that is filled.

pub(super) mod layout;
#[cfg(all(test, loom))]
mod model;
mod primitive;
pub(super) mod wait;

use self::layout::{Slot, View, WORD_BYTES, WRAP, payload_bytes_max, record_bytes};
use self::primitive::{AtomicU32, Ordering};
use self::wait::{Wake, wake_after_publishing};
use super::Violation;

/// What a side waits for: the consumer for a record, the producer for room.
pub(crate) trait Attempt {
    /// Takes what is there.
    fn attempt(&mut self) -> Result<Option<Slot>, Violation>;

    /// Where this side says that it waits.
    fn wait_word(&self) -> &AtomicU32;
}

/// The producer's side.
#[derive(Debug)]
pub(crate) struct ProducerCore {
    tail: u64,
    /// The head when last looked at. Room is computed from it, so it may be too old, never too new.
    head: u64,
    violation: Option<Violation>,
}

/// The consumer's side.
#[derive(Debug)]
pub(crate) struct ConsumerCore {
    head: u64,
    /// The tail when last looked at.
    tail: u64,
    violation: Option<Violation>,
}

impl ProducerCore {
    /// Goes on where the cursors in the memory stand.
    pub(crate) fn attach(view: View<'_>) -> Result<Self, Violation> {
        let (head, tail) = cursors(view)?;
        Ok(Self { tail, head, violation: None })
    }

    /// Finds a place for a record; `None` while there is no room. The payload must not be longer
    /// than `payload_bytes_max`.
    #[inline]
    pub(crate) fn reserve(
        &mut self,
        view: View<'_>,
        payload_bytes: usize,
    ) -> Result<Option<Slot>, Violation> {
        debug_assert!(payload_bytes <= payload_bytes_max(view.words.len() * WORD_BYTES));
        let capacity = view.capacity();
        let needed = record_bytes(payload_bytes);
        let to_end = capacity - (self.tail & (capacity - 1));
        let skipped_bytes = if needed <= to_end { 0 } else { to_end };
        if capacity - self.tail.wrapping_sub(self.head) < needed + skipped_bytes {
            self.look_at_head(view)?;
            if capacity - self.tail.wrapping_sub(self.head) < needed + skipped_bytes {
                return Ok(None);
            }
        }
        let at = self.tail.wrapping_add(skipped_bytes);
        Ok(Some(Slot::new(view.index(at), payload_bytes, at)))
    }

    /// Gives a record to the consumer.
    #[inline]
    pub(crate) fn commit(&mut self, view: View<'_>, slot: &Slot) -> Wake {
        let index = view.index(self.tail);
        if slot.index() != index {
            view.words[index].store(WRAP, Ordering::Relaxed);
        }
        view.words[slot.index()].store(slot.payload_bytes() as u64, Ordering::Relaxed);
        self.tail = slot.after();
        // Release: who sees the new tail sees the record.
        view.control.tail.0.store(self.tail, Ordering::Release);
        wake_after_publishing(&view.control.consumer_wait.0)
    }

    #[cold]
    fn look_at_head(&mut self, view: View<'_>) -> Result<(), Violation> {
        if let Some(violation) = self.violation {
            return Err(violation);
        }
        // Acquire: what the consumer has read, it has read before we overwrite it.
        let head = view.control.head.0.load(Ordering::Acquire);
        let used = self.tail.wrapping_sub(head);
        if used > self.tail.wrapping_sub(self.head) || !head.is_multiple_of(WORD_BYTES as u64) {
            // From now on there is no room, so that every call comes here.
            self.head = self.tail.wrapping_sub(view.capacity());
            self.violation = Some(Violation::Head);
            return Err(Violation::Head);
        }
        self.head = head;
        Ok(())
    }
}

impl ConsumerCore {
    /// Goes on where the cursors in the memory stand.
    pub(crate) fn attach(view: View<'_>) -> Result<Self, Violation> {
        let (head, tail) = cursors(view)?;
        Ok(Self { head, tail, violation: None })
    }

    /// Finds the next record; `None` while there is none.
    #[inline]
    pub(crate) fn peek(&mut self, view: View<'_>) -> Result<Option<Slot>, Violation> {
        if self.tail == self.head {
            self.look_at_tail(view)?;
            if self.tail == self.head {
                return Ok(None);
            }
        }
        let mut at = self.head;
        let mut index = view.index(at);
        let mut length = view.words[index].load(Ordering::Relaxed);
        if length == WRAP {
            // At the front itself it would lead round the ring, which is more than can be there.
            let skipped_bytes = view.capacity() - (at & (view.capacity() - 1));
            if skipped_bytes >= self.tail.wrapping_sub(at) {
                return self.fail(Violation::Wrap);
            }
            at = at.wrapping_add(skipped_bytes);
            index = 0;
            length = view.words[0].load(Ordering::Relaxed);
        }
        let available = self.tail.wrapping_sub(at);
        let room = ((view.words.len() - index) * WORD_BYTES) as u64;
        let payload_bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if payload_bytes > payload_bytes_max(view.words.len() * WORD_BYTES)
            || record_bytes(payload_bytes) > available.min(room)
        {
            return self.fail(Violation::Length);
        }
        Ok(Some(Slot::new(index, payload_bytes, at)))
    }

    /// Gives a record's room back to the producer.
    #[inline]
    pub(crate) fn release(&mut self, view: View<'_>, slot: &Slot) -> Wake {
        self.head = slot.after();
        // Release: what was read of the record was read before the producer overwrites it.
        view.control.head.0.store(self.head, Ordering::Release);
        wake_after_publishing(&view.control.producer_wait.0)
    }

    #[inline]
    fn look_at_tail(&mut self, view: View<'_>) -> Result<(), Violation> {
        if let Some(violation) = self.violation {
            return Err(violation);
        }
        // Acquire: the records before the tail are there.
        let tail = view.control.tail.0.load(Ordering::Acquire);
        let available = tail.wrapping_sub(self.head);
        if available > view.capacity() || !tail.is_multiple_of(WORD_BYTES as u64) {
            return self.fail(Violation::Tail).map(|_| ());
        }
        self.tail = tail;
        Ok(())
    }

    /// From now on nothing is there, so that every call looks at the tail, and finds the violation.
    #[cold]
    fn fail(&mut self, violation: Violation) -> Result<Option<Slot>, Violation> {
        self.tail = self.head;
        self.violation = Some(violation);
        Err(violation)
    }
}

/// The producer waits for room.
#[derive(Debug)]
pub(crate) struct ForRoom<'a> {
    pub(crate) core: &'a mut ProducerCore,
    pub(crate) view: View<'a>,
    pub(crate) payload_bytes: usize,
}

/// The consumer waits for a record.
#[derive(Debug)]
pub(crate) struct ForRecord<'a> {
    pub(crate) core: &'a mut ConsumerCore,
    pub(crate) view: View<'a>,
}

impl Attempt for ForRoom<'_> {
    #[inline]
    fn attempt(&mut self) -> Result<Option<Slot>, Violation> {
        self.core.reserve(self.view, self.payload_bytes)
    }

    fn wait_word(&self) -> &AtomicU32 {
        &self.view.control.producer_wait.0
    }
}

impl Attempt for ForRecord<'_> {
    #[inline]
    fn attempt(&mut self) -> Result<Option<Slot>, Violation> {
        self.core.peek(self.view)
    }

    fn wait_word(&self) -> &AtomicU32 {
        &self.view.control.consumer_wait.0
    }
}

/// Copies a record's payload in. It has the slot's length.
#[inline]
pub(crate) fn write(view: View<'_>, slot: &Slot, payload: &[u8]) {
    let words = slot.words(view);
    let (chunks, rest) = payload.as_chunks::<WORD_BYTES>();
    primitive::store(chunks, words);
    if let (Some(word), false) = (words.last(), rest.is_empty()) {
        let mut last = [0; WORD_BYTES];
        last[..rest.len()].copy_from_slice(rest);
        word.store(u64::from_ne_bytes(last), Ordering::Relaxed);
    }
}

/// Copies a record's payload out, in the place of what `payload` has.
#[inline]
pub(crate) fn read(view: View<'_>, slot: &Slot, payload: &mut Vec<u8>) {
    payload.clear();
    payload.reserve(slot.payload_bytes().next_multiple_of(WORD_BYTES));
    let words = slot.words(view);
    let start = payload.as_mut_ptr().cast();
    // SAFETY: the vector is empty, and has room for as many chunks as there are words.
    unsafe { primitive::load(words, start) };
    // SAFETY: so many bytes were written, and the rest of the last word.
    unsafe { payload.set_len(slot.payload_bytes()) };
}

/// Both cursors, if they can be those of a ring.
fn cursors(view: View<'_>) -> Result<(u64, u64), Violation> {
    let head = view.control.head.0.load(Ordering::Acquire);
    let tail = view.control.tail.0.load(Ordering::Acquire);
    if !(head | tail).is_multiple_of(WORD_BYTES as u64) || tail.wrapping_sub(head) > view.capacity()
    {
        return Err(Violation::Tail);
    }
    Ok((head, tail))
}
