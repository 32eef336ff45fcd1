//! Copies from and to memory that other processes may access at the same time.
//!
//! Rust's own copies are of what nobody changes meanwhile, and its atomics are one access each,
//! which the compiler leaves as many as they are. The processor has an instruction for long copies,
//! into which the compiler does not look. It is as quick as `memcpy` at least, which atomics are
//! not by far when the memory is in another processor's cache: fewer of its lines are on their way
//! at once. So long copies are made by it where we know it, and others by atomics.
#![allow(unsafe_code)] // An instruction, and where it writes.

use std::sync::atomic::{AtomicU64, Ordering};

/// From so many words on a copy is long; before, the instruction takes longer to begin.
const LONG_WORDS: usize = 64;

/// Copies all words to `to`.
///
/// # Safety
///
/// There are as many chunks at `to` as there are words, which this call alone writes to.
#[inline]
pub(super) unsafe fn load(from: &[AtomicU64], to: *mut [u8; 8]) {
    if from.len() >= LONG_WORDS && HAS_LONG {
        // SAFETY: the words can be read, and as many chunks be written.
        return unsafe { copy_long(from.as_ptr().cast(), to.cast(), size_of_val(from)) };
    }
    for (index, word) in from.iter().enumerate() {
        // SAFETY: there is a chunk for each word.
        unsafe { to.add(index).write(word.load(Ordering::Relaxed).to_ne_bytes()) };
    }
}

/// Copies all chunks to as many words.
///
/// # Panics
///
/// When there are more chunks than words.
#[inline]
pub(super) fn store(from: &[[u8; 8]], to: &[AtomicU64]) {
    let to = &to[..from.len()];
    if from.len() >= LONG_WORDS && HAS_LONG {
        let start = to.as_ptr().cast_mut().cast();
        // SAFETY: the chunks can be read, and there are as many words, which can be written to
        // through a shared reference, because they are atomics.
        return unsafe { copy_long(from.as_ptr().cast(), start, size_of_val(from)) };
    }
    for (word, chunk) in to.iter().zip(from) {
        word.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
    }
}

/// Whether there is [`copy_long`].
const HAS_LONG: bool = cfg!(all(target_arch = "x86_64", not(miri)));

/// Copies bytes, as relaxed atomics would, each of them once.
///
/// # Safety
///
/// So many bytes can be read at `from`, and written at `to`, and do not overlap. Other processes,
/// and atomics in this one, may access them on either side at the same time; nobody else does.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
unsafe fn copy_long(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise is all that the instruction needs, with the direction flag
    // clear, as it is by convention. What it stores is seen before what is stored after it, and
    // what it loads is loaded after what was before it, as with all accesses of this processor.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") bytes => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
unsafe fn copy_long(_: *const u8, _: *mut u8, _: usize) {
    unreachable!("it is asked for where it is only")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_all_lengths_are_whole_and_touch_nothing_else() {
        for length in [0, 1, LONG_WORDS - 1, LONG_WORDS, LONG_WORDS + 1, 1000] {
            let memory: Vec<AtomicU64> = (0..length + 2).map(|_| AtomicU64::new(!0)).collect();
            let sent: Vec<[u8; 8]> = (0..length).map(|at| (at as u64).to_ne_bytes()).collect();
            store(&sent, &memory[1..=length]);
            let ends = [&memory[0], &memory[length + 1]].map(|word| word.load(Ordering::Relaxed));
            assert_eq!(ends, [!0; 2], "{length} words");

            let mut received = vec![[0xFF; 8]; length + 1];
            // SAFETY: there is one chunk more than words.
            unsafe { load(&memory[1..=length], received.as_mut_ptr()) };
            assert_eq!(received[..length], sent[..], "{length} words");
            assert_eq!(received[length], [0xFF; 8], "{length} words");
        }
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn more_than_there_is_room_for_is_not_stored() {
        store(&[[1; 8]; 100], &[const { AtomicU64::new(0) }; 99]);
    }
}
