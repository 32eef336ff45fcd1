#![allow(unsafe_code)] // A slice of a record in mapped memory, at the caller's risk.

use std::io;
use std::slice;
use std::sync::atomic::AtomicU8;
use std::time::Instant;

use handle_passing::Handle;
use mio::{Interest, Registry, Token, event};

use super::core::layout::{Slot, payload_bytes_max};
use super::core::{self, ForRoom, ProducerCore};
use super::error::{AttachError, SendError, TrySendError, WaitError};
use super::link::{Link, Role};
use super::spins::{SPINS_MAX, Spins};

/// The side of a ring that sends.
///
/// When it is dropped, the consumer gets what was committed, and then finds the ring closed.
///
/// In an event loop it is a [`mio::event::Source`], whose events tell that there may be room, or
/// that the consumer is gone. See [the guide](crate::shm::ring#in-an-event-loop).
#[derive(Debug)]
pub struct Producer {
    core: ProducerCore,
    link: Link,
    spins: Spins,
}

impl Producer {
    pub(super) fn new(link: Link) -> Result<Self, AttachError> {
        let core = ProducerCore::attach(link.view()).map_err(AttachError::Violation)?;
        Ok(Self { core, link, spins: Spins::new(SPINS_MAX) })
    }

    /// Makes a producer of what [`into_handles`](Self::into_handles) gave, here or elsewhere.
    ///
    /// The memory may be from a stranger: it is checked, and of at most the given capacity. That
    /// there is only one producer is up to the peers; if there are two, the consumer gets garbage,
    /// or finds a [`Violation`](super::Violation).
    ///
    /// # Errors
    ///
    /// When the handles are not those of a ring.
    pub fn from_handles(
        handles: impl IntoIterator<Item = Handle>,
        capacity_bytes_max: usize,
    ) -> Result<Self, AttachError> {
        Self::new(Link::from_handles(handles, capacity_bytes_max, Role::Producer)?)
    }

    /// Looks for room so many times before it sleeps. When that has not paid lately, it sleeps at
    /// once, and looks again every now and then. With 0 it always sleeps at once.
    #[must_use]
    pub fn with_spins_max(mut self, spins_max: u32) -> Self {
        self.spins = Spins::new(spins_max);
        self
    }

    /// Sends a record, if there is room.
    ///
    /// # Errors
    ///
    /// See [`TrySendError`]. That the consumer is gone is found out when the ring is full.
    #[inline]
    pub fn try_send(&mut self, payload: &[u8]) -> Result<(), TrySendError> {
        let slot = self.try_slot(payload.len())?;
        self.send_in(&slot, payload);
        Ok(())
    }

    /// Sends a record, and waits for room until the deadline; `None` is for ever.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    #[inline]
    pub fn send_deadline(
        &mut self,
        payload: &[u8],
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        let slot = self.slot_deadline(payload.len(), deadline)?;
        self.send_in(&slot, payload);
        Ok(())
    }

    /// Reserves a record, if there is room, to be written in the ring itself.
    ///
    /// # Errors
    ///
    /// See [`TrySendError`].
    #[inline]
    pub fn try_reserve(&mut self, payload_bytes: usize) -> Result<Grant<'_>, TrySendError> {
        let slot = self.try_slot(payload_bytes)?;
        Ok(Grant { producer: self, slot })
    }

    /// Reserves a record, and waits for room until the deadline; `None` is for ever.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    #[inline]
    pub fn reserve_deadline(
        &mut self,
        payload_bytes: usize,
        deadline: Option<Instant>,
    ) -> Result<Grant<'_>, SendError> {
        let slot = self.slot_deadline(payload_bytes, deadline)?;
        Ok(Grant { producer: self, slot })
    }

    /// Gives up this half, to be sent to another process: the memory, and a socket that rings.
    ///
    /// What was committed stays in the ring.
    #[must_use]
    pub fn into_handles(self) -> [Handle; 2] {
        self.link.into_handles()
    }

    /// Whether the consumer is gone. Makes a system call.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn is_closed(&mut self) -> io::Result<bool> {
        self.link.silence()
    }

    /// Bytes for records and their lengths.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.link.capacity_bytes()
    }

    /// The length of the largest record: half of the capacity, less 8.
    #[inline]
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        payload_bytes_max(self.link.capacity_bytes())
    }

    #[inline]
    fn try_slot(&mut self, payload_bytes: usize) -> Result<Slot, TrySendError> {
        let bytes_max = self.payload_bytes_max();
        if payload_bytes > bytes_max {
            return Err(TrySendError::TooLarge { bytes_max });
        }
        match self.core.reserve(self.link.view(), payload_bytes)? {
            Some(slot) => {
                self.link.idles = 0;
                Ok(slot)
            }
            None => self.full(payload_bytes),
        }
    }

    #[cold]
    fn full(&mut self, payload_bytes: usize) -> Result<Slot, TrySendError> {
        let Self { core, link, .. } = self;
        match link.idle(|view| ForRoom { core, view, payload_bytes }) {
            Ok(slot) => slot.ok_or(TrySendError::Full),
            Err(WaitError::Closed) => Err(TrySendError::Closed),
            Err(WaitError::Violation(violation)) => Err(violation.into()),
            // It could not be found out now, and will be next time.
            Err(WaitError::TimedOut | WaitError::Io(_)) => Err(TrySendError::Full),
        }
    }

    #[inline]
    fn slot_deadline(
        &mut self,
        payload_bytes: usize,
        deadline: Option<Instant>,
    ) -> Result<Slot, SendError> {
        let bytes_max = self.payload_bytes_max();
        if payload_bytes > bytes_max {
            return Err(SendError::TooLarge { bytes_max });
        }
        let Self { core, link, spins } = self;
        let mut side = ForRoom { core, view: link.view(), payload_bytes };
        match spins.spin(&mut side)? {
            Some(slot) => Ok(slot),
            None => Ok(link.wait(deadline, side)?),
        }
    }

    #[inline]
    fn send_in(&mut self, slot: &Slot, payload: &[u8]) {
        core::write(self.link.view(), slot, payload);
        self.commit(slot);
    }

    #[inline]
    fn commit(&mut self, slot: &Slot) {
        let view = self.link.view();
        let wake = self.core.commit(view, slot);
        self.link.wake(&view.control.consumer_wait.0, wake);
    }
}

/// The bell, whose events are always readable ones, whatever the interest.
impl event::Source for Producer {
    fn register(&mut self, registry: &Registry, token: Token, it: Interest) -> io::Result<()> {
        self.link.register(registry, token, it)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, it: Interest) -> io::Result<()> {
        self.link.reregister(registry, token, it)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.link.deregister(registry)
    }
}

/// A record that is being written in the ring. Without [`commit`](Self::commit) it is not sent.
#[derive(Debug)]
#[must_use = "a record that is not committed is not sent"]
pub struct Grant<'a> {
    producer: &'a mut Producer,
    slot: Slot,
}

impl Grant<'_> {
    /// Sends the record.
    #[inline]
    pub fn commit(self) {
        self.producer.commit(&self.slot);
    }

    /// Shortens the record; longer than it is it does not become.
    pub fn truncate(&mut self, payload_bytes: usize) {
        self.slot.truncate(payload_bytes);
    }

    /// The record, to be written byte by byte. It has the bytes of earlier records.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[AtomicU8] {
        self.producer.link.payload(&self.slot)
    }

    /// The record as a slice.
    ///
    /// # Safety
    ///
    /// While the slice is there, the consumer's process must not access this part of the memory. A
    /// consumer that uses this crate does not; one that is not trusted may.
    #[inline]
    pub unsafe fn as_mut_slice(&mut self) -> &mut [u8] {
        let bytes = self.bytes();
        // SAFETY: the bytes are atomics, which may be written through a shared reference, and in
        // this process belong to this grant, which is borrowed exclusively. The caller answers for
        // the other process.
        unsafe { slice::from_raw_parts_mut(bytes.as_ptr().cast_mut().cast::<u8>(), bytes.len()) }
    }
}
