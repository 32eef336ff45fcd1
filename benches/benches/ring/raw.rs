//! Two rings as somebody would write them by hand for this very purpose, one for each direction:
//! slots of one length, two cursors, and a copy of the other side's. Nothing is checked, and nobody
//! notices that the other is gone. The memory is `ipc-core`'s, and copied to and from by it, since
//! only `unsafe` code can map some.

use std::sync::atomic::Ordering;

use ipc_core::shm::SharedMemory;
use rustix::io::Errno;
use rustix::thread::futex;

use crate::contender::Result;
use crate::end::{End, spin};

/// How an end waits for what is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    Spinning,
    /// On a futex, for messages; never for room.
    Sleeping,
}

/// The end of a pair of rings.
#[derive(Debug)]
pub(crate) struct Rings {
    sending: Ring,
    receiving: Ring,
    waiting: Waiting,
    payload: Vec<u8>,
}

/// A ring, from one of its sides.
#[derive(Debug)]
struct Ring {
    memory: SharedMemory,
    /// How many messages have been sent, and received; one of the two is the other side's, as when
    /// last looked at.
    tail: u64,
    head: u64,
    /// A power of two.
    slots: u64,
    bytes: usize,
}

impl Rings {
    /// What a pair of rings takes, for messages of that length, of which so many may wait.
    pub(crate) fn memory(bytes: usize, slots: usize) -> Result<[SharedMemory; 2]> {
        let create = || SharedMemory::create(SLOTS + slots * bytes);
        Ok([create()?, create()?])
    }

    /// Makes an end, from the memory to send with, and the memory to receive with.
    pub(crate) fn new(memory: [SharedMemory; 2], waiting: Waiting, bytes: usize) -> Rings {
        let [sending, receiving] = memory.map(|memory| {
            let slots = (memory.len() - SLOTS) / bytes;
            Ring { memory, tail: 0, head: 0, slots: slots as u64, bytes }
        });
        Rings { sending, receiving, waiting, payload: vec![0; bytes] }
    }
}

impl End for Rings {
    fn send(&mut self) -> Result<()> {
        let ring = &mut self.sending;
        if ring.tail - ring.head == ring.slots {
            ring.head = spin(|| ring.advanced(HEAD, ring.head))?;
        }
        ring.memory.write_at(ring.slot(ring.tail), &self.payload)?;
        ring.tail += 1;
        ring.memory.atomic_u64(TAIL)?.store(ring.tail, Ordering::Release);
        if self.waiting == Waiting::Sleeping {
            let bell = ring.memory.atomic_u32(BELL)?;
            bell.fetch_add(1, Ordering::Release);
            futex::wake(bell, futex::Flags::empty(), 1)?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let ring = &mut self.receiving;
        if ring.head == ring.tail {
            ring.tail = match self.waiting {
                Waiting::Spinning => spin(|| ring.advanced(TAIL, ring.tail))?,
                Waiting::Sleeping => ring.sleep()?,
            }
        }
        ring.memory.read_at(ring.slot(ring.head), &mut self.payload)?;
        ring.head += 1;
        ring.memory.atomic_u64(HEAD)?.store(ring.head, Ordering::Release);
        Ok(())
    }
}

impl Ring {
    /// Looks at a cursor of the other side.
    fn advanced(&self, cursor: usize, before: u64) -> Result<Option<u64>> {
        let now = self.memory.atomic_u64(cursor)?.load(Ordering::Acquire);
        Ok((now != before).then_some(now))
    }

    fn sleep(&self) -> Result<u64> {
        let bell = self.memory.atomic_u32(BELL)?;
        loop {
            let rung = bell.load(Ordering::Acquire);
            if let Some(tail) = self.advanced(TAIL, self.tail)? {
                return Ok(tail);
            }
            match futex::wait(bell, futex::Flags::empty(), rung, None) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Where a message is, in the memory.
    fn slot(&self, cursor: u64) -> usize {
        let slot = usize::try_from(cursor & (self.slots - 1)).expect("few slots");
        SLOTS + slot * self.bytes
    }
}

/// Where the cursors are in the memory, in bytes, far enough from each other for what processors
/// fetch at once; and where the slots begin.
const TAIL: usize = 0;
const HEAD: usize = 128;
const BELL: usize = 256;
const SLOTS: usize = 384;
