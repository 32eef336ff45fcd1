//! The handles that a child inherits, and nothing else.
#![allow(unsafe_code)] // System calls.

use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::Foundation::{
    DUPLICATE_SAME_ACCESS, DuplicateHandle, HANDLE, HANDLE_FLAG_INHERIT, SetHandleInformation,
};
use windows_sys::Win32::Storage::FileSystem::{FILE_TYPE_CHAR, FILE_TYPE_PIPE, GetFileType};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use super::{check, owned};
use crate::process::Step;
use crate::process::launch::{ChildEnd, Launch};

/// What C runtimes have room for.
const DESCRIPTORS_MAX: u32 = 2048;

/// What a C runtime calls something open, a pipe, a device.
const FOPEN: u8 = 0x01;
const FPIPE: u8 = 0x08;
const FDEV: u8 = 0x40;

/// The handles of a child, which can be inherited for as long as this lives.
///
/// A process that is started at the same time by another part of this program inherits them too,
/// unless it is told otherwise, as ours are: so this is made just before a process is, and dropped
/// just after. What is given to the child alone keeps its value, which the child may be told.
pub(super) struct ChildHandles<'a> {
    /// By number.
    table: Vec<Option<HANDLE>>,
    given: Vec<BorrowedHandle<'a>>,
    /// Of what this process has itself.
    _duplicates: Vec<OwnedHandle>,
}

impl<'a> ChildHandles<'a> {
    pub(super) fn new(launch: &'a Launch) -> Result<ChildHandles<'a>, (Step, io::Error)> {
        let mut handles =
            ChildHandles { table: Vec::new(), given: Vec::new(), _duplicates: Vec::new() };
        for (number, end) in &launch.descriptors {
            let handle = handles.add(*number, end);
            let handle = handle.map_err(|error| (Step::Descriptor(*number), error))?;
            handles.table.resize(*number as usize, None);
            handles.table.push(handle);
        }
        Ok(handles)
    }

    fn add(&mut self, number: u32, end: &'a ChildEnd) -> io::Result<Option<HANDLE>> {
        if number >= DESCRIPTORS_MAX {
            let text = format!("the highest number is {} on Windows", DESCRIPTORS_MAX - 1);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        match end {
            ChildEnd::Given(handle) => {
                let handle = handle.as_object().ok_or_else(is_socket)?;
                set_inheritable(handle, true)?;
                self.given.push(handle);
                Ok(Some(handle.as_raw_handle()))
            }
            ChildEnd::Inherited(source) => {
                let Some(duplicate) = duplicate_standard(*source)? else { return Ok(None) };
                let handle = duplicate.as_raw_handle();
                self._duplicates.push(duplicate);
                Ok(Some(handle))
            }
        }
    }

    /// What stands under a number, if anything does.
    pub(super) fn get(&self, number: usize) -> HANDLE {
        self.table.get(number).copied().flatten().unwrap_or(ptr::null_mut())
    }

    /// All of them, each once.
    pub(super) fn list(&self) -> Vec<HANDLE> {
        self.table.iter().copied().flatten().collect()
    }

    /// The table as C runtimes hand it down: a count, what each is, and the handles. Empty if the
    /// three that every program knows are all.
    pub(super) fn for_c_runtime(&self) -> Vec<u8> {
        if self.table.len() <= 3 {
            return Vec::new();
        }
        let count = i32::try_from(self.table.len()).expect("at most DESCRIPTORS_MAX");
        let mut block = count.to_ne_bytes().to_vec();
        block.extend(self.table.iter().map(|handle| handle.map_or(0, flags)));
        for handle in &self.table {
            let value = handle.map_or(usize::MAX, |handle| handle.addr());
            block.extend_from_slice(&value.to_ne_bytes());
        }
        block
    }
}

impl Drop for ChildHandles<'_> {
    fn drop(&mut self) {
        for handle in &self.given {
            // It is closed by its owner soon, too.
            let _ = set_inheritable(*handle, false);
        }
    }
}

fn is_socket() -> io::Error {
    let text = "a child can't be started with a socket on Windows: send it over the channel of a \
                fork, or pass what is read from it on through a pipe";
    io::Error::new(io::ErrorKind::Unsupported, text)
}

fn set_inheritable(handle: BorrowedHandle<'_>, is_inheritable: bool) -> io::Result<()> {
    let flags = if is_inheritable { HANDLE_FLAG_INHERIT } else { 0 };
    // SAFETY: the handle is open.
    check(unsafe { SetHandleInformation(handle.as_raw_handle(), HANDLE_FLAG_INHERIT, flags) })
}

/// One of this process's standard handles, to be inherited; a program without console may have
/// none.
fn duplicate_standard(number: u32) -> io::Result<Option<OwnedHandle>> {
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    let handle = match number {
        0 => input.as_handle(),
        1 => output.as_handle(),
        2 => error.as_handle(),
        _ => {
            let text = "on Windows only the numbers 0, 1 and 2 can be inherited: give a handle";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    };
    if handle.as_raw_handle().is_null() {
        return Ok(None);
    }
    let mut duplicate: HANDLE = ptr::null_mut();
    // SAFETY: the process is a constant that stands for this one; `duplicate` outlives the call.
    check(unsafe {
        let this = GetCurrentProcess();
        let handle = handle.as_raw_handle();
        DuplicateHandle(this, handle, this, &raw mut duplicate, 0, 1, DUPLICATE_SAME_ACCESS)
    })?;
    owned(duplicate).map(Some)
}

fn flags(handle: HANDLE) -> u8 {
    // SAFETY: the handle is open.
    match unsafe { GetFileType(handle) } {
        FILE_TYPE_PIPE => FOPEN | FPIPE,
        FILE_TYPE_CHAR => FOPEN | FDEV,
        _ => FOPEN,
    }
}
