//! For fuzz targets: both sides of a ring on plain memory, step by step, and a peer that scribbles.
//!
//! Not part of the crate's interface, and not for users.

use std::sync::atomic::{AtomicU64, Ordering};

use super::core::layout::{Control, Slot, View, payload_bytes_max};
use super::core::wait::{arm, disarm};
use super::core::{ConsumerCore, ProducerCore, read, write};
use super::{AttachError, Violation};

/// A ring without shared memory, whose sides keep the slot that they are in the middle of.
#[derive(Debug)]
pub struct Bare {
    control: Control,
    words: Vec<AtomicU64>,
    producer: ProducerCore,
    consumer: ConsumerCore,
    granted: Option<Slot>,
    peeked: Option<Slot>,
}

/// What a peer can write to.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// The producer's cursor.
    Tail,
    /// The consumer's cursor.
    Head,
    /// How the consumer waits.
    ConsumerWait,
    /// How the producer waits.
    ProducerWait,
    /// Any word of the records.
    Word(usize),
}

impl Bare {
    /// A ring of so many words, a power of two.
    ///
    /// # Panics
    ///
    /// When it is not.
    #[must_use]
    pub fn new(words: usize) -> Self {
        assert!(words.is_power_of_two() && words > 1);
        let words: Vec<_> = (0..words).map(|_| AtomicU64::new(0)).collect();
        let control = Control::default();
        let view = View { control: &control, words: &words };
        let (producer, consumer) = (ProducerCore::attach(view), ConsumerCore::attach(view));
        let (producer, consumer) = (producer.expect("zeros"), consumer.expect("zeros"));
        Self { control, words, producer, consumer, granted: None, peeked: None }
    }

    /// Both sides start again where the memory says that they stand.
    ///
    /// # Errors
    ///
    /// When that can't be.
    pub fn attach(&mut self) -> Result<(), AttachError> {
        let view = View { control: &self.control, words: &self.words };
        self.producer = ProducerCore::attach(view).map_err(AttachError::Violation)?;
        self.consumer = ConsumerCore::attach(view).map_err(AttachError::Violation)?;
        (self.granted, self.peeked) = (None, None);
        Ok(())
    }

    /// The length of the largest record.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        payload_bytes_max(self.words.len() * 8)
    }

    /// Reserves a record, and says whether there was room.
    ///
    /// # Errors
    ///
    /// When the peer broke the ring.
    pub fn reserve(&mut self, payload_bytes: usize) -> Result<bool, Violation> {
        let view = View { control: &self.control, words: &self.words };
        self.granted = None;
        self.granted = self.producer.reserve(view, payload_bytes)?;
        Ok(self.granted.is_some())
    }

    /// Writes the record that was reserved, if one was, and says how much of the payload it had
    /// room for.
    pub fn commit(&mut self, payload: &[u8]) -> Option<usize> {
        let view = View { control: &self.control, words: &self.words };
        let mut slot = self.granted.take()?;
        slot.truncate(payload.len());
        write(view, &slot, &payload[..slot.payload_bytes()]);
        self.producer.commit(view, &slot);
        Some(slot.payload_bytes())
    }

    /// Looks for the next record, and says whether there is one.
    ///
    /// # Errors
    ///
    /// When the peer broke the ring.
    pub fn peek(&mut self) -> Result<bool, Violation> {
        let view = View { control: &self.control, words: &self.words };
        self.peeked = None;
        self.peeked = self.consumer.peek(view)?;
        Ok(self.peeked.is_some())
    }

    /// Receives the record that was looked at, if one was.
    pub fn release(&mut self) -> Option<Vec<u8>> {
        let view = View { control: &self.control, words: &self.words };
        let slot = self.peeked.take()?;
        let mut payload = Vec::new();
        read(view, &slot, &mut payload);
        self.consumer.release(view, &slot);
        Some(payload)
    }

    /// The consumer says that it waits, looks, and says that it does not.
    ///
    /// # Errors
    ///
    /// When the peer broke the ring.
    pub fn nap(&mut self, how: u32) -> Result<bool, Violation> {
        arm(&self.control.consumer_wait.0, how);
        let found = self.peek();
        disarm(&self.control.consumer_wait.0);
        found
    }

    /// What a place holds.
    #[must_use]
    pub fn look(&self, place: Place) -> u64 {
        match place {
            Place::Tail => self.control.tail.0.load(Ordering::Relaxed),
            Place::Head => self.control.head.0.load(Ordering::Relaxed),
            Place::ConsumerWait => self.control.consumer_wait.0.load(Ordering::Relaxed).into(),
            Place::ProducerWait => self.control.producer_wait.0.load(Ordering::Relaxed).into(),
            Place::Word(index) => {
                self.words[index & (self.words.len() - 1)].load(Ordering::Relaxed)
            }
        }
    }

    /// What a peer does.
    #[allow(clippy::cast_possible_truncation, reason = "a peer writes anything")]
    pub fn scribble(&self, place: Place, value: u64) {
        match place {
            Place::Tail => self.control.tail.0.store(value, Ordering::Relaxed),
            Place::Head => self.control.head.0.store(value, Ordering::Relaxed),
            Place::ConsumerWait => {
                self.control.consumer_wait.0.store(value as u32, Ordering::Relaxed);
            }
            Place::ProducerWait => {
                self.control.producer_wait.0.store(value as u32, Ordering::Relaxed);
            }
            Place::Word(index) => {
                self.words[index & (self.words.len() - 1)].store(value, Ordering::Relaxed);
            }
        }
    }
}
