//! How a side that waits is woken, and not forgotten.
//!
//! Each side has a word in the memory, in which it says how it waits: not at all, asleep on the
//! word itself (a futex), or until its bell is rung. Who publishes a cursor looks at the other
//! side's word, and wakes if it says so.
//!
//! Nobody sleeps through a publication, because both sides write before they read:
//!
//! ```text
//! waiting side                         publishing side
//! 1. word = how                        1. cursor = new
//! 2. fence(SeqCst)                     2. fence(SeqCst)
//! 3. look at the cursor                3. look at the word
//! ```
//!
//! The fences have an order. If the waiting side's is first, then the publishing side finds the
//! word, and wakes; if it is second, then the waiting side finds the new cursor, and does not
//! sleep. The word is taken back to [`AWAKE`] before the wake-up: a futex call that comes after
//! that does not sleep, because the word is not what it expects, and further publications make no
//! system call.
//!
//! A peer that writes the word itself can cause wake-ups for nothing, or none: that is why every
//! wait has an end, and each wake-up is only a reason to look again.

use super::primitive::{AtomicU32, Ordering, fence};

/// The side does not wait.
pub(crate) const AWAKE: u32 = 0;
/// The side sleeps on the word.
pub(crate) const ASLEEP: u32 = 1;
/// The side wants its bell to be rung.
pub(crate) const BELL: u32 = 2;

/// What to do for the other side after publishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Nothing: it does not wait.
    Nothing,
    /// Wake it from the sleep on its word.
    Futex,
    /// Ring its bell.
    Bell,
}

/// Says that this side is about to wait. Look once more after this, and only then wait.
pub(crate) fn arm(word: &AtomicU32, how: u32) {
    word.store(how, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// Says that this side does not wait any more.
pub(crate) fn disarm(word: &AtomicU32) {
    word.store(AWAKE, Ordering::Relaxed);
}

/// To be called after a cursor was stored.
#[inline]
pub(crate) fn wake_after_publishing(word: &AtomicU32) -> Wake {
    fence(Ordering::SeqCst);
    if word.load(Ordering::Relaxed) == AWAKE { Wake::Nothing } else { take_wake(word) }
}

#[cold]
fn take_wake(word: &AtomicU32) -> Wake {
    match word.swap(AWAKE, Ordering::Relaxed) {
        ASLEEP => Wake::Futex,
        BELL => Wake::Bell,
        _ => Wake::Nothing, // Taken back meanwhile, or scribbled.
    }
}
