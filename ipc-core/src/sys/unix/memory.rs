//! Memory in a memfd, and sleeping on a word of it.
#![allow(unsafe_code)] // Mapping, and futex calls.

use std::io;
use std::os::fd::OwnedFd;

use handle_passing::{Handle, HandleKind};
use memmap2::{MmapMut, MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::ftruncate;

use super::Access;
use crate::shm::MemoryError;

#[derive(Debug)]
pub(crate) struct Mapping {
    map: MmapRaw,
    fd: OwnedFd,
    access: Access,
}

impl Mapping {
    pub(crate) fn create(bytes: usize, is_for_readers: bool) -> io::Result<Self> {
        let fd = memfd(bytes)?;
        let mapping = Self::new(fd, bytes, Access::Write)?;
        if is_for_readers {
            seal(&mapping.fd, SealFlag::F_SEAL_FUTURE_WRITE)?;
        }
        seal(&mapping.fd, sealed())?;
        Ok(mapping)
    }

    pub(crate) fn create_frozen(bytes: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<Self> {
        let fd = memfd(bytes)?;
        // SAFETY: nobody else has this descriptor yet, so nobody else changes the memory.
        let mut map = unsafe { MmapMut::map_mut(&fd) }?;
        fill(&mut map);
        drop(map); // No memory is sealed against writing while it is mapped for it.
        seal(&fd, sealed() | SealFlag::F_SEAL_WRITE)?;
        Self::new(fd, bytes, Access::Frozen)
    }

    pub(crate) fn open(
        handle: Handle,
        bytes_max: usize,
        access: Access,
    ) -> Result<Self, MemoryError> {
        let fd = sealed_memory(handle, access)?;
        // From here on the size is what it is.
        let status = fstat(&fd).map_err(io::Error::from)?;
        let size = u64::try_from(status.st_size).unwrap_or(0);
        let bytes = usize::try_from(size).ok().filter(|bytes| (1..=bytes_max).contains(bytes));
        let bytes = bytes.ok_or(MemoryError::Size { bytes: size, bytes_max })?;
        // The system would look at each of its pages, in vain where its maker has allocated it.
        let allocated = u64::try_from(status.st_blocks).unwrap_or(0).saturating_mul(512);
        if access == Access::Write && allocated < size {
            allocate(&fd, bytes).map_err(|error| match error {
                Errno::EBADF | Errno::EPERM => MemoryError::ReadOnly,
                error => MemoryError::Io(error.into()),
            })?;
        }
        let mode = fcntl(&fd, FcntlArg::F_GETFL).map_err(io::Error::from)?;
        if OFlag::from_bits_retain(mode) & OFlag::O_ACCMODE == OFlag::O_WRONLY {
            return Err(MemoryError::NotMemory);
        }
        Self::new(fd, bytes, access).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied if access == Access::Write => MemoryError::ReadOnly,
            _ => MemoryError::Io(error),
        })
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Self::new(self.fd.try_clone()?, self.len(), self.access)
    }

    pub(crate) fn into_handle(self) -> Handle {
        Handle::from(self.fd).announced(HandleKind::Memory)
    }

    pub(crate) fn try_clone_handle(&self) -> io::Result<Handle> {
        Ok(Handle::from(self.fd.try_clone()?).announced(HandleKind::Memory))
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    fn new(fd: OwnedFd, bytes: usize, access: Access) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.len(bytes);
        let map = match access {
            Access::Write => options.map_raw(&fd),
            Access::Read | Access::Frozen => options.map_raw_read_only(&fd),
        }?;
        Ok(Self { map, fd, access })
    }
}

/// The descriptor, if what it refers to can't change its size, nor be written if it is frozen.
fn sealed_memory(handle: Handle, access: Access) -> Result<OwnedFd, MemoryError> {
    if !matches!(handle.kind(), HandleKind::Any | HandleKind::Memory) {
        return Err(MemoryError::NotMemory);
    }
    // It stays a handle until it is known to be memory: a peer may have sent anything.
    // Seals hold for huge pages too, but of those none may be left when we touch the memory.
    let seals = fcntl(&handle, FcntlArg::F_GET_SEALS).map_err(|_| MemoryError::NotMemory)?;
    if fstatfs(&handle).map_err(io::Error::from)?.filesystem_type() != TMPFS_MAGIC {
        return Err(MemoryError::NotMemory);
    }
    let frozen = if access == Access::Frozen { SealFlag::F_SEAL_WRITE } else { SealFlag::empty() };
    if !SealFlag::from_bits_retain(seals).contains(sealed() | frozen) {
        return Err(MemoryError::NotSealed);
    }
    Ok(handle.into())
}

fn memfd(bytes: usize) -> io::Result<OwnedFd> {
    if bytes == 0 {
        let reason = "shared memory has at least one byte";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Nobody is to execute it; before Linux 6.3 one can't say so.
    let fd = match memfd_create(c"ipc-core", flags | MFdFlags::from_bits_retain(MFD_NOEXEC_SEAL)) {
        Err(Errno::EINVAL) => memfd_create(c"ipc-core", flags),
        fd => fd,
    }?;
    ftruncate(&fd, offset(bytes)?)?;
    // Memory that there is not is an error here, and not a SIGBUS at its first use.
    allocate(&fd, bytes)?;
    Ok(fd)
}

fn allocate(fd: &OwnedFd, bytes: usize) -> Result<(), Errno> {
    let length = offset(bytes).map_err(|_| Errno::EFBIG)?;
    loop {
        match fallocate(fd, FallocateFlags::empty(), 0, length) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

fn offset(bytes: usize) -> io::Result<i64> {
    i64::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

fn seal(fd: &OwnedFd, seals: SealFlag) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

/// What all memory is sealed against: another size, and other seals.
fn sealed() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

const MFD_NOEXEC_SEAL: u32 = 8;

/// Sleeping on a word that other processes have mapped too.
pub(crate) mod futex {
    use std::io;
    use std::ptr;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use nix::errno::Errno;
    use nix::libc;

    pub(crate) const IS_SHARED: bool = true;

    pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) -> io::Result<bool> {
        let time = libc::timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: the kernel reads the word, which is aligned and outlives the call, and the time.
        let result = unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT,
                expected,
                &raw const time,
            )
        };
        if result == 0 {
            return Ok(true);
        }
        match Errno::last() {
            // The word has changed: it was about to be woken.
            Errno::EAGAIN | Errno::EINTR => Ok(true),
            Errno::ETIMEDOUT => Ok(false),
            error => Err(error.into()),
        }
    }

    pub(crate) fn wake(word: &AtomicU32) {
        // SAFETY: the word's address only tells whom to wake; nothing is read or written.
        unsafe {
            libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1, ptr::null::<u8>());
        }
    }
}
