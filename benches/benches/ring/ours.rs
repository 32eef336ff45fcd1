//! `ipc-core`, with a ring for each direction.

use std::sync::atomic::Ordering;

use ipc_core::Message;
use ipc_core::shm::ring::{self, Consumer, Producer};

use crate::contender::Result;
use crate::end::End;

/// The end of a pair of rings.
#[derive(Debug)]
pub(crate) struct Rings {
    producer: Producer,
    consumer: Consumer,
}

/// Messages that are copied in and out.
#[derive(Debug)]
pub(crate) struct Copying {
    rings: Rings,
    payload: Vec<u8>,
}

/// Messages that are left where they are: only their first byte is written and read.
#[derive(Debug)]
pub(crate) struct InPlace {
    rings: Rings,
    bytes: usize,
    counter: u8,
}

impl Rings {
    /// Makes them for messages of that length, of which at least so many may wait. Puts the other
    /// end into a message.
    pub(crate) fn new(bytes: usize, queued: usize, setup: &mut Message) -> Result<Rings> {
        let capacity_bytes = (queued * (bytes + 8)).next_power_of_two().max(4096);
        let (producer, to_peer) = ring::create(capacity_bytes)?;
        let (from_peer, consumer) = ring::create(capacity_bytes)?;
        for handle in from_peer.into_handles().into_iter().chain(to_peer.into_handles()) {
            setup.handles.push(handle);
        }
        Ok(Rings { producer, consumer })
    }

    /// Takes the other end out of the message.
    pub(crate) fn open(setup: &mut Message) -> Result<Rings> {
        let mut handles = (0..4).map_while(|at| setup.handles.take(at));
        Ok(Rings {
            producer: Producer::from_handles(handles.by_ref().take(2), CAPACITY_BYTES_MAX)?,
            consumer: Consumer::from_handles(handles, CAPACITY_BYTES_MAX)?,
        })
    }

    /// Looks so many times before it sleeps.
    pub(crate) fn with_spins_max(self, spins_max: u32) -> Rings {
        Rings {
            producer: self.producer.with_spins_max(spins_max),
            consumer: self.consumer.with_spins_max(spins_max),
        }
    }
}

impl Copying {
    pub(crate) fn new(rings: Rings, bytes: usize) -> Copying {
        Copying { rings, payload: vec![0; bytes] }
    }
}

impl End for Copying {
    fn send(&mut self) -> Result<()> {
        Ok(self.rings.producer.send_deadline(&self.payload, None)?)
    }

    fn receive(&mut self) -> Result<()> {
        Ok(self.rings.consumer.recv_deadline(&mut self.payload, None)?)
    }
}

impl InPlace {
    pub(crate) fn new(rings: Rings, bytes: usize) -> InPlace {
        InPlace { rings, bytes, counter: 0 }
    }
}

impl End for InPlace {
    fn send(&mut self) -> Result<()> {
        let grant = self.rings.producer.reserve_deadline(self.bytes, None)?;
        grant.bytes()[0].store(self.counter, Ordering::Relaxed);
        grant.commit();
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let record = self.rings.consumer.peek_deadline(None)?;
        self.counter = record.bytes()[0].load(Ordering::Relaxed).wrapping_add(1);
        record.release();
        Ok(())
    }
}

const CAPACITY_BYTES_MAX: usize = 1 << 30;
