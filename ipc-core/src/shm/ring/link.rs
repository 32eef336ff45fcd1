//! What both halves of a ring consist of: the memory, and the way to the other side's sleep.
#![allow(unsafe_code)] // Views of mapped memory.

use std::io;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{ptr, slice};

use handle_passing::Handle;
use mio::{Interest, Registry, Token, event};

use super::core::Attempt;
use super::core::layout::{
    CAPACITY_BYTES_MAX, CAPACITY_BYTES_MIN, CONTROL_BYTES, Control, MAGIC, Slot, View,
};
use super::core::wait::{ASLEEP, BELL, Wake, arm, disarm, wake_after_publishing};
use super::error::{AttachError, WaitError};
use crate::clock::time_left;
use crate::shm::SharedMemory;
use crate::sys::{self, Bell};

/// How long a side sleeps on its word, before it looks whether the other side is still there. After
/// that it waits for its bell, which also tells of the other side's end.
const NAP_MAX: Duration = Duration::from_millis(10);

/// After so many attempts in vain, and in a row, one looks whether the other side is still there.
const IDLES_PER_LOOK: u32 = 1024;

/// Which half it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    Producer,
    Consumer,
}

#[derive(Debug)]
pub(super) struct Link {
    memory: SharedMemory,
    capacity_bytes: usize,
    bell: Bell,
    role: Role,
    /// Whether an event loop waits for the bell.
    is_registered: bool,
    /// Attempts in vain since the last one that was not.
    pub(super) idles: u32,
}

impl Link {
    /// Makes a ring, and gives the producer's side of it and the consumer's.
    pub(super) fn pair(capacity_bytes: usize) -> io::Result<(Self, Self)> {
        if !is_capacity(capacity_bytes) {
            let reason = format!(
                "a ring's capacity is a power of two from {CAPACITY_BYTES_MIN} to \
                 {CAPACITY_BYTES_MAX} bytes, not {capacity_bytes}"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let memory = SharedMemory::create(CONTROL_BYTES + capacity_bytes)?;
        let other = memory.try_clone()?;
        let (bell, others_bell) = Bell::pair()?;
        let producer = Self::new(memory, capacity_bytes, bell, Role::Producer);
        let identity = &producer.view().control.identity.0;
        identity.magic.store(MAGIC, Ordering::Relaxed);
        identity.capacity_bytes.store(capacity_bytes as u64, Ordering::Relaxed);
        Ok((producer, Self::new(other, capacity_bytes, others_bell, Role::Consumer)))
    }

    pub(super) fn from_handles(
        handles: impl IntoIterator<Item = Handle>,
        capacity_bytes_max: usize,
        role: Role,
    ) -> Result<Self, AttachError> {
        let mut handles = handles.into_iter();
        let (Some(memory), Some(bell)) = (handles.next(), handles.next()) else {
            return Err(AttachError::NotARing);
        };
        let bytes_max = capacity_bytes_max.saturating_add(CONTROL_BYTES);
        let memory = SharedMemory::open(memory, bytes_max).map_err(AttachError::Memory)?;
        let capacity_bytes = memory.len().checked_sub(CONTROL_BYTES);
        let capacity_bytes =
            capacity_bytes.filter(|bytes| is_capacity(*bytes)).ok_or(AttachError::NotARing)?;
        let word = |offset| memory.atomic_u64(offset).map(|word| word.load(Ordering::Relaxed));
        if word(0) != Ok(MAGIC) || word(8) != Ok(capacity_bytes as u64) {
            return Err(AttachError::NotARing);
        }
        let bell = Bell::from_handle(bell).map_err(AttachError::Bell)?;
        Ok(Self::new(memory, capacity_bytes, bell, role))
    }

    fn new(memory: SharedMemory, capacity_bytes: usize, bell: Bell, role: Role) -> Self {
        Self { memory, capacity_bytes, bell, role, is_registered: false, idles: 0 }
    }

    /// The memory and the bell, without hanging up.
    pub(super) fn into_handles(self) -> [Handle; 2] {
        let link = ManuallyDrop::new(self);
        // SAFETY: `link` is not dropped, and after this not used, so that the fields that are read
        // have one owner. The others own nothing.
        let (memory, bell) =
            unsafe { (ptr::read(&raw const link.memory), ptr::read(&raw const link.bell)) };
        [memory.into(), bell.into_handle()]
    }

    #[inline]
    pub(super) fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    #[inline]
    pub(super) fn view(&self) -> View<'_> {
        let start = self.memory.as_ptr();
        // SAFETY: the memory is mapped for as long as `self.memory` lives, at a page's boundary,
        // for reading and writing, and `pair` and `from_handles` have seen to it that it has
        // `CONTROL_BYTES`, of which a `Control` takes a part, and `capacity_bytes` after them. It
        // can't shrink, because it is sealed. Atomics may have any bits, and may change.
        unsafe {
            let words = start.add(CONTROL_BYTES).cast::<AtomicU64>();
            View {
                control: &*start.cast::<Control>(),
                words: slice::from_raw_parts(words, self.capacity_bytes / size_of::<AtomicU64>()),
            }
        }
    }

    /// A record's payload, in the memory.
    #[inline]
    pub(super) fn payload(&self, slot: &Slot) -> &[AtomicU8] {
        let words = slot.words(self.view());
        // SAFETY: the words have at least as many bytes as the payload, and an atomic byte may
        // stand in the place of any other one. In this process the payload is this side's alone.
        unsafe { slice::from_raw_parts(words.as_ptr().cast::<AtomicU8>(), slot.payload_bytes()) }
    }

    /// Does what publishing has found to be due.
    #[inline]
    pub(super) fn wake(&self, word: &AtomicU32, wake: Wake) {
        if wake != Wake::Nothing {
            self.wake_now(word, wake);
        }
    }

    #[cold]
    fn wake_now(&self, word: &AtomicU32, wake: Wake) {
        match wake {
            Wake::Nothing => {}
            Wake::Futex => sys::futex::wake(word),
            Wake::Bell => self.bell.ring(),
        }
    }

    /// Takes what has rung the bell, and says whether the other side is gone.
    pub(super) fn silence(&self) -> io::Result<bool> {
        self.bell.silence()
    }

    /// What to answer after an attempt in vain. Has the bell rung if an event loop waits for it.
    #[cold]
    pub(super) fn idle<'a, A: Attempt>(
        &'a mut self,
        side: impl FnOnce(View<'a>) -> A,
    ) -> Result<Option<Slot>, WaitError> {
        self.idles = self.idles.wrapping_add(1);
        if !self.is_registered && !self.idles.is_multiple_of(IDLES_PER_LOOK) {
            return Ok(None);
        }
        let mut side = side(self.view());
        // In this order: a bell that rings after it was armed is left for the event loop.
        let is_gone = self.silence().map_err(WaitError::Io)?;
        if self.is_registered {
            arm(side.wait_word(), BELL);
        }
        match side.attempt()? {
            None if is_gone => Err(WaitError::Closed),
            None => Ok(None),
            slot => {
                disarm(side.wait_word());
                Ok(slot)
            }
        }
    }

    /// Sleeps until there is what this side waits for.
    #[cold]
    pub(super) fn wait(
        &self,
        deadline: Option<Instant>,
        mut side: impl Attempt,
    ) -> Result<Slot, WaitError> {
        let mut how = if sys::futex::IS_SHARED { ASLEEP } else { BELL };
        loop {
            arm(side.wait_word(), how);
            if let Some(slot) = side.attempt()? {
                disarm(side.wait_word());
                return Ok(slot);
            }
            let slept = match time_left(deadline) {
                Ok(left) => self.sleep(side.wait_word(), how, left),
                Err(_) => {
                    disarm(side.wait_word());
                    return Err(WaitError::TimedOut);
                }
            };
            disarm(side.wait_word());
            let was_woken = slept.map_err(WaitError::Io)?;
            if let Some(slot) = side.attempt()? {
                return Ok(slot);
            }
            if self.silence().map_err(WaitError::Io)? {
                return side.attempt()?.ok_or(WaitError::Closed);
            }
            if !was_woken {
                how = BELL;
            }
        }
    }

    fn sleep(&self, word: &AtomicU32, how: u32, left: Option<Duration>) -> io::Result<bool> {
        if how == ASLEEP {
            sys::futex::wait(word, how, left.map_or(NAP_MAX, |left| left.min(NAP_MAX)))
        } else {
            self.bell.wait(left).map(|()| false)
        }
    }
}

impl Drop for Link {
    /// Hangs up, and wakes the other side, so that it finds out.
    fn drop(&mut self) {
        self.bell.hang_up();
        let control = self.view().control;
        let word = match self.role {
            Role::Producer => &control.consumer_wait.0,
            Role::Consumer => &control.producer_wait.0,
        };
        self.wake(word, wake_after_publishing(word));
    }
}

/// In an event loop, a half is its bell.
impl event::Source for Link {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        self.bell.register(registry, token, interest)?;
        self.is_registered = true;
        Ok(())
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        self.bell.reregister(registry, token, interest)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.is_registered = false;
        self.bell.deregister(registry)
    }
}

fn is_capacity(bytes: usize) -> bool {
    (CAPACITY_BYTES_MIN..=CAPACITY_BYTES_MAX).contains(&bytes) && bytes.is_power_of_two()
}
