//! Who may come near a pipe, and what else of pipes needs the system's raw calls.
#![allow(unsafe_code)] // System calls.

use std::io;
use std::os::windows::io::{
    AsRawHandle, BorrowedHandle, FromRawHandle, IntoRawHandle, OwnedHandle, RawHandle,
};
use std::ptr;

use mio::windows::NamedPipe;
use windows_sys::Win32::Foundation::{
    GENERIC_READ, GENERIC_WRITE, INVALID_HANDLE_VALUE, LocalFree,
};
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::SECURITY_ATTRIBUTES;
use windows_sys::Win32::Storage::FileSystem::{
    CreateFileW, FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, OPEN_EXISTING,
    PIPE_ACCESS_DUPLEX, SECURITY_IDENTIFICATION, SECURITY_SQOS_PRESENT,
};
use windows_sys::Win32::System::IO::CancelIoEx;
use windows_sys::Win32::System::Pipes::{
    CreateNamedPipeW, GetNamedPipeClientProcessId, GetNamedPipeServerProcessId, PIPE_READMODE_BYTE,
    PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE, PIPE_WAIT,
};
use windows_sys::Win32::System::Threading::{
    OpenProcess, PROCESS_DUP_HANDLE, PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE,
};
use windows_sys::core::PCWSTR;

use super::owner::User;

/// A pipe of this user, to which only he and the system have access: by default everybody may
/// read. The owner is named, because it would be the administrators' group in an elevated process.
fn private() -> io::Result<String> {
    let user = User::current()?.to_text()?;
    Ok(format!("O:{user}D:P(A;;GA;;;{user})(A;;GA;;;SY)"))
}

/// How much the system holds of what was written and not read, in each direction.
const PIPE_BYTES: u32 = 256 * 1024;

/// Makes an instance of a pipe. The first one must be the first: somebody else's pipe of that
/// name is an error. Of the others there may be any number, up to 255.
pub(super) fn create(name: &str, is_first: bool, instances_max: u32) -> io::Result<OwnedHandle> {
    create_with(name, is_first, instances_max, &private()?)
}

pub(super) fn create_with(
    name: &str,
    is_first: bool,
    instances_max: u32,
    descriptor: &str,
) -> io::Result<OwnedHandle> {
    let descriptor = Descriptor::new(descriptor)?;
    let attributes = SECURITY_ATTRIBUTES {
        nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).expect("a few bytes"),
        lpSecurityDescriptor: descriptor.0,
        bInheritHandle: 0,
    };
    let first = if is_first { FILE_FLAG_FIRST_PIPE_INSTANCE } else { 0 };
    let name = wide(name);
    // SAFETY: `name` ends with a NUL; it, `attributes` and the descriptor outlive the call.
    let pipe = unsafe {
        CreateNamedPipeW(
            name.as_ptr(),
            PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | first,
            PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS,
            instances_max,
            PIPE_BYTES,
            PIPE_BYTES,
            0,
            &raw const attributes,
        )
    };
    owned(pipe)
}

/// Connects to a pipe. The server learns who we are, and can't act in our name.
pub(super) fn open(name: &str) -> io::Result<OwnedHandle> {
    let name = wide(name);
    // SAFETY: `name` ends with a NUL, and outlives the call.
    let pipe = unsafe {
        CreateFileW(
            name.as_ptr(),
            GENERIC_READ | GENERIC_WRITE,
            0,
            ptr::null(),
            OPEN_EXISTING,
            FILE_FLAG_OVERLAPPED | SECURITY_SQOS_PRESENT | SECURITY_IDENTIFICATION,
            ptr::null_mut(),
        )
    };
    owned(pipe)
}

/// Which side of a pipe a handle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Server,
    Client,
}

/// The process at the other end.
pub(super) fn peer_process_id(pipe: BorrowedHandle<'_>, we_are: Side) -> io::Result<u32> {
    let mut process = 0;
    let pipe = pipe.as_raw_handle();
    // SAFETY: the pipe is open, and `process` outlives the call.
    let result = unsafe {
        match we_are {
            Side::Server => GetNamedPipeClientProcessId(pipe, &raw mut process),
            Side::Client => GetNamedPipeServerProcessId(pipe, &raw mut process),
        }
    };
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(process) }
}

/// Opens a process: to wait for it, to ask who it is, and to push handles into it.
pub(super) fn open_process(process: u32) -> io::Result<OwnedHandle> {
    let rights = PROCESS_DUP_HANDLE | PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE;
    // SAFETY: no pointer is passed.
    let handle = unsafe { OpenProcess(rights, 0, process) };
    if handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: OpenProcess has just opened it for us.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// Ends all operations on a pipe.
pub(super) fn cancel_all(pipe: BorrowedHandle<'_>) {
    // SAFETY: the pipe is open; without a pointer all its operations are meant.
    unsafe { CancelIoEx(pipe.as_raw_handle(), ptr::null()) };
}

/// The same pipe as mio has it.
pub(super) fn into_mio(pipe: OwnedHandle) -> NamedPipe {
    // SAFETY: it is an open pipe, made for overlapped operations, and nobody else's.
    unsafe { NamedPipe::from_raw_handle(pipe.into_raw_handle()) }
}

/// Closes a handle.
///
/// # Safety
///
/// It must be open, and nobody else's.
pub(super) unsafe fn close(handle: RawHandle) {
    // SAFETY: the caller vouches for it.
    drop(unsafe { OwnedHandle::from_raw_handle(handle) });
}

/// A security descriptor in the system's own memory.
struct Descriptor(*mut std::ffi::c_void);

impl Descriptor {
    fn new(text: &str) -> io::Result<Self> {
        let text = wide(text);
        let mut descriptor = ptr::null_mut();
        // SAFETY: `text` ends with a NUL; it and `descriptor` outlive the call.
        let result = unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                PCWSTR::from(text.as_ptr()),
                SDDL_REVISION_1,
                &raw mut descriptor,
                ptr::null_mut(),
            )
        };
        if result == 0 { Err(io::Error::last_os_error()) } else { Ok(Self(descriptor)) }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the system has allocated it for us, and says that it is freed like this.
        unsafe { LocalFree(self.0) };
    }
}

fn owned(pipe: *mut std::ffi::c_void) -> io::Result<OwnedHandle> {
    if pipe == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system has just opened it for us.
    Ok(unsafe { OwnedHandle::from_raw_handle(pipe) })
}

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}
