//! Memory in a section that the paging file backs.
#![allow(unsafe_code)] // Mapping.

use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use handle_passing::{Handle, HandleKind};
use windows_sys::Win32::Foundation::{DuplicateHandle, ERROR_ACCESS_DENIED, INVALID_HANDLE_VALUE};
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, FILE_MAP_READ, FILE_MAP_WRITE, MEM_COMMIT, MEMORY_BASIC_INFORMATION,
    MEMORY_MAPPED_VIEW_ADDRESS, MapViewOfFile, PAGE_READWRITE, UnmapViewOfFile, VirtualQuery,
};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use super::overlapped::os_code;
use crate::shm::MemoryError;
use crate::sys::Access;

/// A mapped section. Its length is a whole number of pages, whatever was asked for.
#[derive(Debug)]
pub(crate) struct Mapping {
    view: View,
    section: OwnedHandle,
    access: Access,
    /// What others get can't be mapped for writing.
    is_for_readers: bool,
}

#[derive(Debug)]
struct View {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: the view belongs to the process and not to a thread, and what is done with it goes
// through raw pointers, whose users answer for it.
unsafe impl Send for View {}
// SAFETY: as above; a shared view only tells where it is.
unsafe impl Sync for View {}

impl Mapping {
    pub(crate) fn create(bytes: usize, is_for_readers: bool) -> io::Result<Self> {
        let section = create_section(bytes)?;
        let view = View::new(section.as_handle(), Access::Write)?;
        Ok(Self { view, section, access: Access::Write, is_for_readers })
    }

    pub(crate) fn create_frozen(bytes: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<Self> {
        let section = create_section(bytes)?;
        let view = View::new(section.as_handle(), Access::Write)?;
        // SAFETY: nobody else has this section, so nobody else changes the memory.
        fill(unsafe { std::slice::from_raw_parts_mut(view.start, bytes) });
        drop(view);
        // The only handle that could be mapped for writing goes.
        let section = for_readers(section.as_handle())?;
        let view = View::new(section.as_handle(), Access::Frozen)?;
        Ok(Self { view, section, access: Access::Frozen, is_for_readers: true })
    }

    pub(crate) fn open(
        handle: Handle,
        bytes_max: usize,
        access: Access,
    ) -> Result<Self, MemoryError> {
        if access == Access::Frozen {
            // A section has no seals: nothing shows that its creator can't write any more.
            return Err(MemoryError::NotSealed);
        }
        let handle =
            handle.expect_kind(&[HandleKind::Memory]).map_err(|_| MemoryError::NotMemory)?;
        let section: OwnedHandle = handle.into_type().map_err(io::Error::from)?;
        let view =
            View::new(section.as_handle(), access).map_err(|error| match os_code(&error) {
                ERROR_ACCESS_DENIED if access == Access::Write => MemoryError::ReadOnly,
                _ => MemoryError::Io(error),
            })?;
        if view.bytes > bytes_max.next_multiple_of(PAGE_BYTES) {
            return Err(MemoryError::Size { bytes: view.bytes as u64, bytes_max });
        }
        Ok(Self { view, section, access, is_for_readers: false })
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        let section = self.section.try_clone()?;
        let view = View::new(section.as_handle(), self.access)?;
        Ok(Self { view, section, access: self.access, is_for_readers: self.is_for_readers })
    }

    pub(crate) fn into_handle(self) -> Handle {
        let reduced =
            if self.is_for_readers { for_readers(self.section.as_handle()).ok() } else { None };
        Handle::from(reduced.unwrap_or(self.section)).announced(HandleKind::Memory)
    }

    pub(crate) fn try_clone_handle(&self) -> io::Result<Handle> {
        let section = if self.is_for_readers {
            for_readers(self.section.as_handle())?
        } else {
            self.section.try_clone()?
        };
        Ok(Handle::from(section).announced(HandleKind::Memory))
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.view.start
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.view.bytes
    }
}

/// The size of a page, on all processors that Windows runs on.
const PAGE_BYTES: usize = 4096;

fn create_section(bytes: usize) -> io::Result<OwnedHandle> {
    if bytes == 0 {
        let reason = "shared memory has at least one byte";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let bytes = bytes as u64;
    let (high, low) = ((bytes >> 32) as u32, (bytes & 0xffff_ffff) as u32);
    // SAFETY: no pointer is passed. The memory is committed at once (the default), so that
    // touching it can't fail later for want of it.
    let section = unsafe {
        CreateFileMappingW(
            INVALID_HANDLE_VALUE,
            ptr::null(),
            PAGE_READWRITE,
            high,
            low,
            ptr::null(),
        )
    };
    if section.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was made just now, and nobody else knows it.
    Ok(unsafe { OwnedHandle::from_raw_handle(section) })
}

/// A handle to the same section that can be mapped for reading only.
fn for_readers(section: BorrowedHandle<'_>) -> io::Result<OwnedHandle> {
    let mut reduced = ptr::null_mut();
    // SAFETY: the section is open, the process is a constant that stands for this one, and
    // `reduced` outlives the call.
    let result = unsafe {
        let this = GetCurrentProcess();
        DuplicateHandle(this, section.as_raw_handle(), this, &raw mut reduced, FILE_MAP_READ, 0, 0)
    };
    if result == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was made just now, and nobody else knows it.
    Ok(unsafe { OwnedHandle::from_raw_handle(reduced) })
}

impl View {
    /// Maps all of a section, which must be committed.
    fn new(section: BorrowedHandle<'_>, access: Access) -> io::Result<Self> {
        let access = match access {
            Access::Write => FILE_MAP_READ | FILE_MAP_WRITE,
            Access::Read | Access::Frozen => FILE_MAP_READ,
        };
        // SAFETY: the section is open; the system chooses the place.
        let view = unsafe { MapViewOfFile(section.as_raw_handle(), access, 0, 0, 0) };
        if view.Value.is_null() {
            return Err(io::Error::last_os_error());
        }
        let mut view = Self { start: view.Value.cast(), bytes: 0 };
        let mut facts = MEMORY_BASIC_INFORMATION::default();
        // SAFETY: `facts` has room for the answer, and outlives the call.
        let result =
            unsafe { VirtualQuery(view.start.cast(), &raw mut facts, size_of_val(&facts)) };
        if result == 0 {
            return Err(io::Error::last_os_error());
        }
        if facts.State != MEM_COMMIT {
            let reason = "the section's memory is only reserved";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        view.bytes = facts.RegionSize;
        Ok(view)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: this is where the view was mapped, and nobody uses it any more: who has a pointer
        // into it has borrowed the mapping.
        unsafe { UnmapViewOfFile(MEMORY_MAPPED_VIEW_ADDRESS { Value: self.start.cast() }) };
    }
}

/// No word wakes another process here: bells do.
pub(crate) mod futex {
    use std::io;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    pub(crate) const IS_SHARED: bool = false;

    pub(crate) fn wait(_: &AtomicU32, _: u32, _: Duration) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn wake(_: &AtomicU32) {}
}
