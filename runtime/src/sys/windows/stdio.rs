//! The handles that a child inherits, and nothing else.
#![allow(unsafe_code)] // System calls.

use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, OwnedHandle};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use handle_passing::Handle;
use windows_sys::Win32::Foundation::{
    DUPLICATE_SAME_ACCESS, DuplicateHandle, GetHandleInformation, HANDLE, HANDLE_FLAG_INHERIT,
    SetHandleInformation,
};
use windows_sys::Win32::Storage::FileSystem::{FILE_TYPE_CHAR, FILE_TYPE_PIPE, GetFileType};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use super::launch::Failure;
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
/// just after. What is given keeps its value, which the child may be told.
pub(super) struct ChildHandles<'a> {
    /// By number.
    table: Vec<Option<HANDLE>>,
    /// Those that could not be inherited before.
    changed: Vec<BorrowedHandle<'a>>,
    /// Of what this process has itself.
    duplicates: Vec<OwnedHandle>,
    /// A handle that is lent to several starts can be inherited as long as each of them needs it.
    _one_at_a_time: MutexGuard<'static, ()>,
}

static LAUNCH: Mutex<()> = Mutex::new(());

impl<'a> ChildHandles<'a> {
    pub(super) fn new(launch: &'a Launch<'a>) -> Result<ChildHandles<'a>, Failure> {
        let mut handles = ChildHandles {
            table: Vec::new(),
            changed: Vec::new(),
            duplicates: Vec::new(),
            _one_at_a_time: LAUNCH.lock().unwrap_or_else(PoisonError::into_inner),
        };
        for (number, end) in &launch.descriptors {
            if *number >= DESCRIPTORS_MAX {
                let text = format!("the highest number is {} on Windows", DESCRIPTORS_MAX - 1);
                return Err(invalid(*number, &text));
            }
            let handle = handles.add(*number, end)?;
            handles.table.resize(*number as usize, None);
            handles.table.push(Some(handle));
        }
        Ok(handles)
    }

    fn add(&mut self, number: u32, end: &'a ChildEnd<'a>) -> Result<HANDLE, Failure> {
        let failure = |error| (Step::Descriptor(number), error);
        let given = match end {
            ChildEnd::Given(handle) => handle,
            ChildEnd::Lent(handle) => *handle,
            ChildEnd::Inherited(source) => {
                let none = || invalid(number, &format!("there is no {source} to inherit"));
                let standard = standard(*source).ok_or_else(none)?;
                // Two numbers may have the same one, which can't be listed twice.
                let duplicate = duplicate(standard).map_err(failure)?;
                let handle = duplicate.as_raw_handle();
                self.duplicates.push(duplicate);
                return Ok(handle);
            }
        };
        let handle = object(number, given)?;
        if !is_inheritable(handle).map_err(failure)? {
            set_inheritable(handle, true).map_err(failure)?;
            self.changed.push(handle);
        }
        Ok(handle.as_raw_handle())
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
        for handle in &self.changed {
            // It does no harm if it fails; and why should it?
            let _ = set_inheritable(*handle, false);
        }
    }
}

fn invalid(number: u32, text: &str) -> Failure {
    let text = format!("descriptor {number}: {text}");
    (Step::Check, io::Error::new(io::ErrorKind::InvalidInput, text))
}

fn object(number: u32, handle: &Handle) -> Result<BorrowedHandle<'_>, Failure> {
    let text = "a child can't be started with a socket on Windows; send it over the channel of a \
                fork, or pass on what is read from it through a pipe";
    handle.as_object().ok_or_else(|| invalid(number, text))
}

fn is_inheritable(handle: BorrowedHandle<'_>) -> io::Result<bool> {
    let mut flags = 0;
    // SAFETY: the handle is open, and `flags` outlives the call.
    check(unsafe { GetHandleInformation(handle.as_raw_handle(), &raw mut flags) })?;
    Ok(flags & HANDLE_FLAG_INHERIT != 0)
}

fn set_inheritable(handle: BorrowedHandle<'_>, is_inheritable: bool) -> io::Result<()> {
    let flags = if is_inheritable { HANDLE_FLAG_INHERIT } else { 0 };
    // SAFETY: the handle is open.
    check(unsafe { SetHandleInformation(handle.as_raw_handle(), HANDLE_FLAG_INHERIT, flags) })
}

/// Whether this process has something that a child can inherit as this number.
pub(crate) fn is_open(number: u32) -> bool {
    standard(number).is_some()
}

/// One of this process's standard handles, of which a program without console may have none.
fn standard(number: u32) -> Option<HANDLE> {
    let handle = match number {
        0 => io::stdin().as_raw_handle(),
        1 => io::stdout().as_raw_handle(),
        2 => io::stderr().as_raw_handle(),
        _ => return None,
    };
    (!handle.is_null()).then_some(handle)
}

/// A duplicate that can be inherited.
fn duplicate(handle: HANDLE) -> io::Result<OwnedHandle> {
    let mut duplicate: HANDLE = ptr::null_mut();
    // SAFETY: the process is a constant that stands for this one; `duplicate` outlives the call. Of
    // a handle that is not open the call is an error.
    check(unsafe {
        let this = GetCurrentProcess();
        DuplicateHandle(this, handle, this, &raw mut duplicate, 0, 1, DUPLICATE_SAME_ACCESS)
    })?;
    owned(duplicate)
}

fn flags(handle: HANDLE) -> u8 {
    // SAFETY: the handle is open.
    match unsafe { GetFileType(handle) } {
        FILE_TYPE_PIPE => FOPEN | FPIPE,
        FILE_TYPE_CHAR => FOPEN | FDEV,
        _ => FOPEN,
    }
}
