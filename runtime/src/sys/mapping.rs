//! Memory that others have mapped too, and write at any time.
#![allow(unsafe_code)] // mapping, and views of what is mapped

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};

/// A mapping of memory that can't shrink: of a sealed memfd, or of a BPF map.
///
/// All access is by atomics, since others write the same words meanwhile. They may write anything,
/// so whatever is read is to be taken as any value at all.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only unmapped by `drop`.
unsafe impl Send for Mapping {}
// SAFETY: all that `&Mapping` gives are references to atomics, which any thread may use.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `bytes` of it, for reading and writing.
    ///
    /// Refused are files whose size may change (or that are shorter), since an access beyond their
    /// end would be fatal.
    pub(crate) fn new(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<Mapping> {
        assert_fixed_size(fd, bytes)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { address, bytes })
    }

    /// The word at this offset in bytes, a multiple of four.
    ///
    /// # Panics
    ///
    /// When it is none, or does not lie in the mapping.
    pub(crate) fn u32_at(&self, offset: usize) -> &AtomicU32 {
        self.assert_within(offset, size_of::<AtomicU32>());
        // SAFETY: in bounds and aligned, as asserted (the mapping begins with a page), and mapped
        // for as long as `self` lives. Nobody accesses it otherwise than as an atomic: this process
        // by this function only, the others have the same code, or are the kernel.
        unsafe { AtomicU32::from_ptr(self.address.as_ptr().add(offset).cast()) }
    }

    /// The word at this offset in bytes, a multiple of eight.
    ///
    /// # Panics
    ///
    /// When it is none, or does not lie in the mapping.
    pub(crate) fn u64_at(&self, offset: usize) -> &AtomicU64 {
        self.assert_within(offset, size_of::<AtomicU64>());
        // SAFETY: as in `u32_at`.
        unsafe { AtomicU64::from_ptr(self.address.as_ptr().add(offset).cast()) }
    }

    fn assert_within(&self, offset: usize, size: usize) {
        let is_within = self.bytes.checked_sub(size).is_some_and(|last| offset <= last);
        assert!(is_within && offset.is_multiple_of(size), "{offset} in {} bytes", self.bytes);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `address` and `bytes` are of a mapping that we made, and no reference into it
        // outlives `self`.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.bytes) };
    }
}

fn assert_fixed_size(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let refused = |text: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    let status = fstat(fd.as_fd())?;
    match fcntl(fd, FcntlArg::F_GET_SEALS) {
        Ok(seals) if !SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_SHRINK) => {
            refused("the memory is not sealed against shrinking")
        }
        Ok(_) if u64::try_from(status.st_size).is_ok_and(|size| size >= bytes as u64) => Ok(()),
        Ok(_) => refused("the memory is too short"),
        // What is no file has no type, and no size that could change: a map that is shorter is
        // refused when it is mapped.
        Err(Errno::EINVAL) if status.st_mode & SFlag::S_IFMT.bits() == 0 => Ok(()),
        Err(Errno::EINVAL) => refused("this is no memory of fixed size"),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::Ordering::Relaxed;

    use ipc_core::shm::SharedMemory;
    use nix::sys::memfd::{MFdFlags, memfd_create};

    #[test]
    fn words_lie_within_the_mapping() {
        let memory = OwnedFd::from(SharedMemory::create(16).unwrap().try_clone_handle().unwrap());
        let mapping = Mapping::new(memory.as_fd(), 16).unwrap();
        mapping.u32_at(12).store(7, Relaxed);
        assert_eq!(mapping.u64_at(8).load(Relaxed).to_ne_bytes()[4..], 7u32.to_ne_bytes());
        for offset in [1, 2, 14, 16, 4096, usize::MAX - 3] {
            catch_unwind(AssertUnwindSafe(|| mapping.u32_at(offset))).unwrap_err();
        }
        for offset in [4, 12, 16, usize::MAX - 7] {
            catch_unwind(AssertUnwindSafe(|| mapping.u64_at(offset))).unwrap_err();
        }
    }

    #[test]
    fn memory_that_may_shrink_or_is_too_short_is_refused() {
        let sealed = OwnedFd::from(SharedMemory::create(64).unwrap().try_clone_handle().unwrap());
        Mapping::new(sealed.as_fd(), 64).unwrap();
        Mapping::new(sealed.as_fd(), 65).unwrap_err();
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let open = File::from(memfd_create(c"test", flags).unwrap());
        open.set_len(4096).unwrap();
        Mapping::new(open.as_fd(), 64).unwrap_err();
        let (pipe, _) = io::pipe().unwrap();
        Mapping::new(pipe.as_fd(), 64).unwrap_err();
        Mapping::new(File::open("/proc/self/exe").unwrap().as_fd(), 64).unwrap_err();
        Mapping::new(File::open("/dev/zero").unwrap().as_fd(), 64).unwrap_err();
    }
}
