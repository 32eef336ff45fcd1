#![allow(unsafe_code)] // A slice of a record in mapped memory, at the caller's risk.

use std::io;
use std::slice;
use std::sync::atomic::AtomicU8;
use std::time::Instant;

use handle_passing::Handle;
use mio::{Interest, Registry, Token, event};

use super::core::layout::Slot;
use super::core::{self, ConsumerCore, ForRecord};
use super::error::{AttachError, RecvError, TryRecvError, WaitError};
use super::link::{Link, Role};
use super::spins::{SPINS_MAX, Spins};

/// The side of a ring that receives.
///
/// When it is dropped, the producer finds the ring closed, and what was not received is lost.
///
/// In an event loop it is a [`mio::event::Source`], whose events tell that there may be records, or
/// that the producer is gone. See [the guide](crate::shm::ring#in-an-event-loop).
#[derive(Debug)]
pub struct Consumer {
    core: ConsumerCore,
    link: Link,
    spins: Spins,
}

impl Consumer {
    pub(super) fn new(link: Link) -> Result<Self, AttachError> {
        let core = ConsumerCore::attach(link.view()).map_err(AttachError::Violation)?;
        Ok(Self { core, link, spins: Spins::new(SPINS_MAX) })
    }

    /// Makes a consumer of what [`into_handles`](Self::into_handles) gave, here or elsewhere.
    ///
    /// The memory may be from a stranger: it is checked, and of at most the given capacity.
    ///
    /// # Errors
    ///
    /// When the handles are not those of a ring.
    pub fn from_handles(
        handles: impl IntoIterator<Item = Handle>,
        capacity_bytes_max: usize,
    ) -> Result<Self, AttachError> {
        Self::new(Link::from_handles(handles, capacity_bytes_max, Role::Consumer)?)
    }

    /// Looks for a record so many times before it sleeps. When that has not paid lately, it sleeps
    /// at once, and looks again every now and then. With 0 it always sleeps at once.
    #[must_use]
    pub fn with_spins_max(mut self, spins_max: u32) -> Self {
        self.spins = Spins::new(spins_max);
        self
    }

    /// Receives a record, if there is one, in the place of what `payload` has.
    ///
    /// # Errors
    ///
    /// See [`TryRecvError`]. That the producer is gone is found out after at most 1024 calls in
    /// a row that found nothing, and by one that follows an event.
    #[inline]
    pub fn try_recv(&mut self, payload: &mut Vec<u8>) -> Result<(), TryRecvError> {
        let slot = self.try_slot()?;
        self.recv_from(&slot, payload);
        Ok(())
    }

    /// Receives a record, in the place of what `payload` has, and waits for it until the deadline;
    /// `None` is for ever.
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    #[inline]
    pub fn recv_deadline(
        &mut self,
        payload: &mut Vec<u8>,
        deadline: Option<Instant>,
    ) -> Result<(), RecvError> {
        let slot = self.slot_deadline(deadline)?;
        self.recv_from(&slot, payload);
        Ok(())
    }

    /// The next record, if there is one, to be read in the ring itself.
    ///
    /// # Errors
    ///
    /// See [`TryRecvError`].
    #[inline]
    pub fn try_peek(&mut self) -> Result<Record<'_>, TryRecvError> {
        let slot = self.try_slot()?;
        Ok(Record { consumer: self, slot })
    }

    /// The next record; waits for it until the deadline, `None` is for ever.
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    #[inline]
    pub fn peek_deadline(&mut self, deadline: Option<Instant>) -> Result<Record<'_>, RecvError> {
        let slot = self.slot_deadline(deadline)?;
        Ok(Record { consumer: self, slot })
    }

    /// Gives up this half, to be sent to another process: the memory, and a socket that rings.
    ///
    /// What was not received stays in the ring.
    #[must_use]
    pub fn into_handles(self) -> [Handle; 2] {
        self.link.into_handles()
    }

    /// Whether the producer is gone; records may be left. Makes a system call.
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

    #[inline]
    fn try_slot(&mut self) -> Result<Slot, TryRecvError> {
        match self.core.peek(self.link.view())? {
            Some(slot) => {
                self.link.idles = 0;
                Ok(slot)
            }
            None => self.empty(),
        }
    }

    #[cold]
    fn empty(&mut self) -> Result<Slot, TryRecvError> {
        let Self { core, link, .. } = self;
        match link.idle(|view| ForRecord { core, view }) {
            Ok(slot) => slot.ok_or(TryRecvError::Empty),
            Err(WaitError::Closed) => Err(TryRecvError::Closed),
            Err(WaitError::Violation(violation)) => Err(violation.into()),
            // It could not be found out now, and will be next time.
            Err(WaitError::TimedOut | WaitError::Io(_)) => Err(TryRecvError::Empty),
        }
    }

    #[inline]
    fn slot_deadline(&mut self, deadline: Option<Instant>) -> Result<Slot, RecvError> {
        let Self { core, link, spins } = self;
        let mut side = ForRecord { core, view: link.view() };
        match spins.spin(&mut side)? {
            Some(slot) => Ok(slot),
            None => Ok(link.wait(deadline, side)?),
        }
    }

    #[inline]
    fn recv_from(&mut self, slot: &Slot, payload: &mut Vec<u8>) {
        core::read(self.link.view(), slot, payload);
        self.release(slot);
    }

    #[inline]
    fn release(&mut self, slot: &Slot) {
        let view = self.link.view();
        let wake = self.core.release(view, slot);
        self.link.wake(&view.control.producer_wait.0, wake);
    }
}

/// The bell, whose events are always readable ones, whatever the interest.
impl event::Source for Consumer {
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

/// A record in the ring. Without [`release`](Self::release) it stays the next one.
#[derive(Debug)]
pub struct Record<'a> {
    consumer: &'a mut Consumer,
    slot: Slot,
}

impl Record<'_> {
    /// Has received the record: the producer gets its room back.
    #[inline]
    pub fn release(self) {
        self.consumer.release(&self.slot);
    }

    /// The record, to be read byte by byte. A producer that is not trusted may change it meanwhile.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[AtomicU8] {
        self.consumer.link.payload(&self.slot)
    }

    /// A copy of the record, which nobody changes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        core::read(self.consumer.link.view(), &self.slot, &mut payload);
        payload
    }

    /// The record as a slice.
    ///
    /// # Safety
    ///
    /// While the slice is there, the producer's process must not write to this part of the memory.
    /// A producer that uses this crate does not; one that is not trusted may.
    #[inline]
    #[must_use]
    pub unsafe fn as_slice(&self) -> &[u8] {
        let bytes = self.bytes();
        // SAFETY: the bytes are mapped while the consumer is borrowed. Nobody writes to them in
        // this process, where the producer's own half leaves a record alone until its release; the
        // caller answers for the other process.
        unsafe { slice::from_raw_parts(bytes.as_ptr().cast::<u8>(), bytes.len()) }
    }
}
