//! The atomics that the ring's core is written on, and copies of many: those of std and of ours, or
//! for its model loom's.

#[cfg(not(loom))]
pub(super) use crate::shm::copy::{load, store};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
#[allow(unsafe_code)] // As the one that it stands for.
pub(super) unsafe fn load(from: &[AtomicU64], to: *mut [u8; 8]) {
    for (index, word) in from.iter().enumerate() {
        // SAFETY: the caller has a chunk for each word.
        unsafe { to.add(index).write(word.load(Ordering::Relaxed).to_ne_bytes()) };
    }
}

#[cfg(loom)]
pub(super) fn store(from: &[[u8; 8]], to: &[AtomicU64]) {
    for (word, chunk) in to.iter().zip(from) {
        word.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
    }
}
