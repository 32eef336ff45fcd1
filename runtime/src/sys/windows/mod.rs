//! Windows: child processes, by their handles.
#![allow(unsafe_code)] // Handles that the system has just made.

mod launch;
mod pipe;
mod process;
mod program;
mod stdio;
pub(crate) mod text;
mod timer;
mod user;

pub(crate) use self::launch::launch;
pub(crate) use self::pipe::{Pipe, duplex, null, pipe_from_child, pipe_to_child};
pub(crate) use self::process::{Process, kill_tree};
pub(crate) use self::program::{DEFAULT_PATH, NOT_EXECUTABLE, is_path};
pub(crate) use self::stdio::is_open;
pub(crate) use self::timer::Timer;
pub(crate) use self::user::user;

use std::ffi::OsStr;
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::io::{FromRawHandle, OwnedHandle};

use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE};

/// A process gets the Ctrl-C of its console, unless it begins a group.
pub(crate) fn is_in_foreground() -> bool {
    true
}

/// The largest number of a signal, for the sake of names: three of them mean something.
pub(crate) const SIGNAL_MAX: i32 = 31;

/// How many processors a set of them can hold.
pub(crate) const CPUS_MAX: usize = usize::BITS as usize;

/// What a call has just made for us.
fn owned(handle: HANDLE) -> io::Result<OwnedHandle> {
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is the answer of a call that makes a handle, to nobody but this one.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn wide(text: &OsStr) -> Vec<u16> {
    text.encode_wide().collect()
}

#[cfg(test)]
mod tests;
