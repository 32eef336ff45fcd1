#![allow(unsafe_code)] // Views of mapped memory.

use std::io;
use std::slice;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use handle_passing::{FromHandle, FromHandleError, Handle, HandleError, HandleKind};

use super::copy;
use super::{MemoryError, OutOfBounds};
use crate::sys::{Access, Mapping};

/// Memory that several processes have mapped, and any of them can write.
///
/// Its size is fixed, and all of it is there: neither a peer that has a handle to it nor a system
/// that runs out of memory can make an access fail. What it holds may change at any time, so there
/// is no `&[u8]` of it: bytes are copied, or accessed as atomics.
///
/// Atomics of different sizes that overlap should not be used at the same time: what is read then
/// is a mixture that no order of the writes explains.
///
/// # Examples
///
/// ```
/// use std::sync::atomic::Ordering;
/// use ipc_core::shm::SharedMemory;
///
/// let ours = SharedMemory::create(4096)?;
/// let theirs = SharedMemory::open(ours.try_clone_handle()?, 1 << 20)?; // In another process.
///
/// ours.write_at(100, b"hello")?;
/// ours.atomic_u32(0)?.store(5, Ordering::Release);
///
/// let mut bytes = vec![0; theirs.atomic_u32(0)?.load(Ordering::Acquire) as usize];
/// theirs.read_at(100, &mut bytes)?;
/// assert_eq!(bytes, b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SharedMemory(Mapping);

impl SharedMemory {
    /// What [`FromHandle`] takes at most; [`open`](Self::open) takes a limit of yours.
    pub const BYTES_MAX_DEFAULT: usize = 256 << 20;

    /// Makes memory of so many zeros, which others can map for writing.
    ///
    /// # Errors
    ///
    /// When there is not so much memory, or none is asked for.
    pub fn create(bytes: usize) -> io::Result<Self> {
        Mapping::create(bytes, false).map(Self)
    }

    /// Makes memory of so many zeros, which others can map for reading only, as [`ReadOnlyMemory`].
    ///
    /// # Errors
    ///
    /// When there is not so much memory, or none is asked for.
    pub fn create_for_readers(bytes: usize) -> io::Result<Self> {
        Mapping::create(bytes, true).map(Self)
    }

    /// Maps memory that a peer has sent, which may be anything.
    ///
    /// # Errors
    ///
    /// When it is no sealed memory, can't be written to, or is larger than `bytes_max`.
    pub fn open(handle: Handle, bytes_max: usize) -> Result<Self, MemoryError> {
        Mapping::open(handle, bytes_max, Access::Write).map(Self)
    }

    /// Maps the memory once more.
    ///
    /// # Errors
    ///
    /// The system's. Memory for readers can't be.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// A handle to the memory, to be sent to another process.
    ///
    /// # Errors
    ///
    /// When this process has too many open.
    pub fn try_clone_handle(&self) -> io::Result<Handle> {
        self.0.try_clone_handle()
    }

    /// The bytes, of which there is at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is no empty one")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Copies bytes out of the memory.
    ///
    /// # Errors
    ///
    /// When they are not all in the memory.
    pub fn read_at(&self, offset: usize, bytes: &mut [u8]) -> Result<(), OutOfBounds> {
        read_at(&self.0, offset, bytes)
    }

    /// Copies bytes into the memory.
    ///
    /// # Errors
    ///
    /// When there is no place for them all: then none was copied.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let (start, words, end) = parts(&self.0, offset, bytes.len())?;
        let (first, rest) = bytes.split_at(start.len());
        let (middle, last) = rest.as_chunks::<8>();
        for (atomic, byte) in start.iter().zip(first).chain(end.iter().zip(last)) {
            atomic.store(*byte, Ordering::Relaxed);
        }
        copy::store(middle, words);
        Ok(())
    }

    /// All bytes.
    #[must_use]
    pub fn atomic_bytes(&self) -> &[AtomicU8] {
        // SAFETY: so many bytes are mapped, for writing, while the mapping is borrowed.
        unsafe { slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len()) }
    }

    /// Four bytes as one number.
    ///
    /// # Errors
    ///
    /// When they are not all in the memory, or the offset is not a multiple of 4.
    pub fn atomic_u32(&self, offset: usize) -> Result<&AtomicU32, OutOfBounds> {
        let at = aligned::<AtomicU32>(&self.0, offset)?;
        // SAFETY: `at` is aligned, and mapped, for writing, while the mapping is borrowed.
        Ok(unsafe { &*at })
    }

    /// Eight bytes as one number.
    ///
    /// # Errors
    ///
    /// When they are not all in the memory, or the offset is not a multiple of 8.
    pub fn atomic_u64(&self, offset: usize) -> Result<&AtomicU64, OutOfBounds> {
        let at = aligned::<AtomicU64>(&self.0, offset)?;
        // SAFETY: `at` is aligned, and mapped, for writing, while the mapping is borrowed.
        Ok(unsafe { &*at })
    }

    #[inline]
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }
}

/// Memory that others write, and this process only reads.
///
/// # Examples
///
/// ```
/// use ipc_core::shm::{ReadOnlyMemory, SharedMemory};
///
/// let board = SharedMemory::create_for_readers(64)?;
/// let reader = ReadOnlyMemory::open(board.try_clone_handle()?, 4096)?; // In another process.
/// assert!(SharedMemory::open(board.try_clone_handle()?, 4096).is_err());
///
/// board.write_at(3, b"news")?;
/// let mut bytes = [0; 4];
/// reader.read_at(3, &mut bytes)?;
/// assert_eq!(&bytes, b"news");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ReadOnlyMemory(Mapping);

impl ReadOnlyMemory {
    /// Maps memory that a peer has sent, which may be anything.
    ///
    /// # Errors
    ///
    /// When it is no sealed memory, or is larger than `bytes_max`.
    pub fn open(handle: Handle, bytes_max: usize) -> Result<Self, MemoryError> {
        Mapping::open(handle, bytes_max, Access::Read).map(Self)
    }

    /// A handle to the memory, to be sent to another process.
    ///
    /// # Errors
    ///
    /// When this process has too many open.
    pub fn try_clone_handle(&self) -> io::Result<Handle> {
        self.0.try_clone_handle()
    }

    /// The bytes, of which there is at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is no empty one")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Copies bytes out of the memory.
    ///
    /// # Errors
    ///
    /// When they are not all in the memory.
    pub fn read_at(&self, offset: usize, bytes: &mut [u8]) -> Result<(), OutOfBounds> {
        read_at(&self.0, offset, bytes)
    }

    /// Reads four bytes as one number, and sees what was written before it by a `Release`.
    ///
    /// # Errors
    ///
    /// When they are not all in the memory, or the offset is not a multiple of 4.
    pub fn load_u32(&self, offset: usize) -> Result<u32, OutOfBounds> {
        let at = aligned::<AtomicU32>(&self.0, offset)?;
        // SAFETY: `at` is aligned, and mapped while the mapping is borrowed; it is only read.
        Ok(unsafe { &*at }.load(Ordering::Acquire))
    }

    /// Reads eight bytes as one number, and sees what was written before it by a `Release`.
    ///
    /// # Errors
    ///
    /// When they are not all in the memory, or the offset is not a multiple of 8.
    pub fn load_u64(&self, offset: usize) -> Result<u64, OutOfBounds> {
        let at = aligned::<AtomicU64>(&self.0, offset)?;
        // SAFETY: `at` is aligned, and mapped while the mapping is borrowed; it is only read.
        Ok(unsafe { &*at }.load(Ordering::Acquire))
    }
}

/// Memory that nobody can write any more, and that is therefore plain bytes.
///
/// # Examples
///
/// ```
/// use ipc_core::shm::FrozenMemory;
///
/// let ours = FrozenMemory::create(5, |bytes| bytes.copy_from_slice(b"hello"))?;
/// let theirs = FrozenMemory::open(ours.try_clone_handle()?, 4096)?; // In another process.
/// assert_eq!(&theirs[..], b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FrozenMemory(Mapping);

impl FrozenMemory {
    /// Makes memory, has it filled, and freezes it.
    ///
    /// # Errors
    ///
    /// When there is not so much memory, or none is asked for.
    pub fn create(bytes: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<Self> {
        Mapping::create_frozen(bytes, fill).map(Self)
    }

    /// Maps memory that a peer has sent, which may be anything.
    ///
    /// # Errors
    ///
    /// When it is not frozen memory, or is larger than `bytes_max`.
    pub fn open(handle: Handle, bytes_max: usize) -> Result<Self, MemoryError> {
        Mapping::open(handle, bytes_max, Access::Frozen).map(Self)
    }

    /// A handle to the memory, to be sent to another process.
    ///
    /// # Errors
    ///
    /// When this process has too many open.
    pub fn try_clone_handle(&self) -> io::Result<Handle> {
        self.0.try_clone_handle()
    }
}

impl std::ops::Deref for FrozenMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: so many bytes are mapped while the mapping is borrowed, and nobody changes them:
        // `Access::Frozen` was granted because the memory is sealed against writing, and against
        // another size, and the system seals nothing that is still mapped for writing.
        unsafe { slice::from_raw_parts(self.0.as_ptr(), self.0.len()) }
    }
}

macro_rules! handles {
    ($($name:ident, $access:expr;)*) => {$(
        impl From<$name> for Handle {
            fn from(memory: $name) -> Self {
                memory.0.into_handle()
            }
        }

        /// Of at most [`SharedMemory::BYTES_MAX_DEFAULT`].
        impl FromHandle for $name {
            fn from_handle(handle: Handle) -> Result<Self, FromHandleError> {
                let handle = handle.expect_kind(&[HandleKind::Memory])?;
                let copy = handle.try_clone();
                let opened = copy.map_err(MemoryError::Io).and_then(|copy| {
                    Mapping::open(copy, SharedMemory::BYTES_MAX_DEFAULT, $access)
                });
                opened.map(Self).map_err(|error| {
                    FromHandleError::new(handle, HandleError::Io(io::Error::other(error)))
                })
            }
        }
    )*};
}

handles! {
    SharedMemory, Access::Write;
    ReadOnlyMemory, Access::Read;
    FrozenMemory, Access::Frozen;
}

fn read_at(mapping: &Mapping, offset: usize, bytes: &mut [u8]) -> Result<(), OutOfBounds> {
    let (start, words, end) = parts(mapping, offset, bytes.len())?;
    let (first, rest) = bytes.split_at_mut(start.len());
    let (middle, last) = rest.as_chunks_mut::<8>();
    for (atomic, byte) in start.iter().zip(first).chain(end.iter().zip(last)) {
        *byte = atomic.load(Ordering::Relaxed);
    }
    // SAFETY: there are as many chunks as words, since what is before and after them was taken off.
    unsafe { copy::load(words, middle.as_mut_ptr()) };
    Ok(())
}

type Parts<'a> = (&'a [AtomicU8], &'a [AtomicU64], &'a [AtomicU8]);

/// A range, as words and what is left at its ends. To be written only where the mapping can be.
fn parts(mapping: &Mapping, offset: usize, length: usize) -> Result<Parts<'_>, OutOfBounds> {
    let end = offset.checked_add(length).filter(|end| *end <= mapping.len()).ok_or(OutOfBounds)?;
    let aligned = offset.next_multiple_of(8).min(end);
    let words = (end - aligned) / 8;
    let rest = aligned + words * 8;
    let start = mapping.as_ptr();
    // SAFETY: the ranges follow each other from `offset` to `end`, which are in the mapping, and
    // are mapped while it is borrowed. If there are words, they begin at a multiple of 8 bytes from
    // the mapping's start, which is a page's, as a pointer to none does too.
    Ok(unsafe {
        (
            slice::from_raw_parts(start.add(offset).cast(), aligned - offset),
            slice::from_raw_parts(if words > 0 { start.add(aligned) } else { start }.cast(), words),
            slice::from_raw_parts(start.add(rest).cast(), end - rest),
        )
    })
}

/// Where a value stands that is aligned, and all in the memory.
fn aligned<T>(mapping: &Mapping, offset: usize) -> Result<*const T, OutOfBounds> {
    let end = offset.checked_add(size_of::<T>()).ok_or(OutOfBounds)?;
    if end > mapping.len() || !offset.is_multiple_of(align_of::<T>()) {
        return Err(OutOfBounds);
    }
    Ok(mapping.as_ptr().wrapping_add(offset).cast_const().cast())
}
