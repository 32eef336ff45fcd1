//! For tests: objects to pass, a look at another process, and tokens from nowhere.
//!
//! Not part of the crate's interface, and not for users.
#![allow(unsafe_code)] // System calls.

use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;
use std::time::Duration;

use windows_sys::Wdk::System::SystemInformation::NtQuerySystemInformation;
use windows_sys::Win32::Foundation::{
    HANDLE, INVALID_HANDLE_VALUE, STATUS_INFO_LENGTH_MISMATCH, WAIT_OBJECT_0,
};
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, FILE_MAP_WRITE, MapViewOfFile, PAGE_READWRITE, UnmapViewOfFile,
};
use windows_sys::Win32::System::Threading::{
    CreateEventW, GetProcessId, SetEvent, WaitForSingleObject,
};

use crate::{Handle, MemoryHandle};

/// An event that is not set.
///
/// # Errors
///
/// The system's.
pub fn new_event() -> io::Result<OwnedHandle> {
    // SAFETY: no attributes and no name.
    owned(unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) })
}

/// Sets an event.
///
/// # Errors
///
/// The system's.
pub fn set_event(event: impl AsHandle) -> io::Result<()> {
    // SAFETY: the handle is open.
    check(unsafe { SetEvent(event.as_handle().as_raw_handle()) })
}

/// Whether an event is set, or a process has ended, within the time.
#[must_use]
pub fn wait(object: impl AsHandle, timeout: Duration) -> bool {
    let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    // SAFETY: the handle is open.
    unsafe { WaitForSingleObject(object.as_handle().as_raw_handle(), millis) == WAIT_OBJECT_0 }
}

/// A section of one page of zeros.
///
/// # Errors
///
/// The system's.
pub fn new_section() -> io::Result<OwnedHandle> {
    let no_file = INVALID_HANDLE_VALUE;
    // SAFETY: no attributes and no name.
    owned(unsafe { CreateFileMappingW(no_file, ptr::null(), PAGE_READWRITE, 0, 4096, ptr::null()) })
}

/// Replaces the first byte of a section, and says what it was.
///
/// # Errors
///
/// The system's.
pub fn swap_byte(section: &MemoryHandle, byte: u8) -> io::Result<u8> {
    // SAFETY: the handle is open; the view is of one byte, which makes a page.
    let view =
        unsafe { MapViewOfFile(section.as_handle().as_raw_handle(), FILE_MAP_WRITE, 0, 0, 1) };
    if view.Value.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the view is open and writable, and is closed after its last use.
    unsafe {
        let old = view.Value.cast::<u8>().replace(byte);
        check(UnmapViewOfFile(view)).map(|()| old)
    }
}

/// The id of a process.
#[must_use]
pub fn process_id(process: impl AsHandle) -> u32 {
    // SAFETY: the handle is open.
    unsafe { GetProcessId(process.as_handle().as_raw_handle()) }
}

/// How many handles a process has open, counted in the list of all handles: Wine does not
/// implement `GetProcessHandleCount`.
///
/// # Errors
///
/// The system's.
pub fn handle_count(process: impl AsHandle) -> io::Result<usize> {
    // `SystemExtendedHandleInformation`: the length of the list, a reserved number, and the list
    // of `SYSTEM_HANDLE_TABLE_ENTRY_INFO_EX`. Of these the second word is the process.
    const EXTENDED_HANDLE_INFORMATION: i32 = 64;
    const ENTRY_WORDS: usize = 3 + 16 / size_of::<usize>();
    let id = process_id(process) as usize;
    let mut list = vec![0_usize; 0x1_0000];
    loop {
        let bytes = u32::try_from(size_of_val(list.as_slice())).unwrap_or(u32::MAX);
        let what = EXTENDED_HANDLE_INFORMATION;
        // SAFETY: the list has room for so many bytes.
        let status = unsafe {
            NtQuerySystemInformation(what, list.as_mut_ptr().cast(), bytes, ptr::null_mut())
        };
        match status {
            STATUS_INFO_LENGTH_MISMATCH => list.resize(2 * list.len(), 0),
            0.. => break,
            _ => return Err(io::Error::other(format!("no list of handles: {status:#x}"))),
        }
    }
    let entries = list[2..].chunks_exact(ENTRY_WORDS);
    Ok(entries.take(list[0]).filter(|entry| entry[1] == id).count())
}

/// A handle of any number, which may stand for something else in each process.
#[must_use]
pub fn pseudo_handle(number: i32) -> OwnedHandle {
    assert!(number < 0, "only negative ones are nobody's");
    // SAFETY: closing a pseudo-handle does nothing.
    unsafe { OwnedHandle::from_raw_handle(number as isize as HANDLE) }
}

/// Adopts what a test has pushed, or any other bytes that name no handle of somebody else's.
///
/// # Errors
///
/// Those of [`adopt`](crate::adopt).
pub fn adopt(token: &[u8]) -> io::Result<Handle> {
    // SAFETY: tests know which handles they have.
    unsafe { crate::adopt(token) }
}

fn owned(handle: HANDLE) -> io::Result<OwnedHandle> {
    if handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was made just now, and nobody else knows it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
