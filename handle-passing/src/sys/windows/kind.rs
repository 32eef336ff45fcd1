//! What a handle is.
#![allow(unsafe_code)] // System calls.

use std::io;
use std::os::windows::io::{AsRawHandle, AsRawSocket, BorrowedHandle, OwnedSocket};

use windows_sys::Wdk::Foundation::{NtQueryObject, ObjectBasicInformation, ObjectTypeInformation};
use windows_sys::Win32::Foundation::{RtlNtStatusToDosError, UNICODE_STRING};
use windows_sys::Win32::Networking::WinSock::{
    AF_INET, AF_INET6, SO_ACCEPTCONN, SO_PROTOCOL_INFOW, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET,
    WSAPROTOCOL_INFOW, getsockopt,
};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_ATTRIBUTE_DIRECTORY, FILE_READ_DATA, FILE_TYPE_CHAR,
    FILE_TYPE_DISK, FILE_TYPE_PIPE, FILE_WRITE_DATA, GetFileInformationByHandle, GetFileType,
};

use super::Raw;
use crate::HandleKind;

pub(crate) fn actual_kind(raw: &Raw) -> io::Result<HandleKind> {
    match raw {
        Raw::Socket(socket) => socket_kind(socket),
        Raw::Object(handle) => object_kind(std::os::windows::io::AsHandle::as_handle(handle)),
    }
}

/// What a handle must be open for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Access {
    Read,
    Write,
}

/// Whether a file or pipe is open for that.
pub(super) fn allows(handle: BorrowedHandle<'_>, access: Access) -> io::Result<bool> {
    /// `PUBLIC_OBJECT_BASIC_INFORMATION`.
    #[derive(Default)]
    #[repr(C)]
    struct Basic {
        attributes: u32,
        granted_access: u32,
        counts: [u32; 2],
        reserved: [u32; 10],
    }
    let mut basic = Basic::default();
    query(handle, ObjectBasicInformation, &mut basic)?;
    let bit = match access {
        Access::Read => FILE_READ_DATA,
        Access::Write => FILE_WRITE_DATA,
    };
    Ok(basic.granted_access & bit != 0)
}

fn object_kind(handle: BorrowedHandle<'_>) -> io::Result<HandleKind> {
    Ok(match type_name(handle)?.as_str() {
        "File" => file_kind(handle),
        "Section" => HandleKind::Memory,
        "Process" => HandleKind::Process,
        "Event" => HandleKind::Event,
        _ => HandleKind::Other,
    })
}

fn file_kind(handle: BorrowedHandle<'_>) -> HandleKind {
    // SAFETY: the handle is open.
    match unsafe { GetFileType(handle.as_raw_handle()) } {
        FILE_TYPE_DISK if is_directory(handle) => HandleKind::Directory,
        FILE_TYPE_DISK => HandleKind::File,
        FILE_TYPE_CHAR => HandleKind::CharDevice,
        FILE_TYPE_PIPE => HandleKind::Pipe,
        _ => HandleKind::Other,
    }
}

fn is_directory(handle: BorrowedHandle<'_>) -> bool {
    let mut facts = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: the handle is open, and `facts` outlives the call.
    let result = unsafe { GetFileInformationByHandle(handle.as_raw_handle(), &raw mut facts) };
    result != 0 && facts.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY != 0
}

/// What the system calls the type of an object.
fn type_name(handle: BorrowedHandle<'_>) -> io::Result<String> {
    /// `PUBLIC_OBJECT_TYPE_INFORMATION`, and room for the name, which the system puts behind it.
    #[repr(C)]
    struct Type {
        name: UNICODE_STRING,
        rest: [u64; 64],
    }
    let mut kind = Type { name: UNICODE_STRING::default(), rest: [0; 64] };
    query(handle, ObjectTypeInformation, &mut kind)?;
    if kind.name.Buffer.is_null() {
        return Ok(String::new());
    }
    // SAFETY: the system has filled the structure: the name points to `Length` bytes within it.
    let name =
        unsafe { std::slice::from_raw_parts(kind.name.Buffer, usize::from(kind.name.Length) / 2) };
    Ok(String::from_utf16_lossy(name))
}

fn query<T>(handle: BorrowedHandle<'_>, what: i32, answer: &mut T) -> io::Result<()> {
    let bytes = u32::try_from(size_of::<T>()).expect("a small structure");
    // SAFETY: the handle is open, and `answer` has room for so many bytes.
    let status = unsafe {
        NtQueryObject(
            handle.as_raw_handle(),
            what,
            (&raw mut *answer).cast(),
            bytes,
            std::ptr::null_mut(),
        )
    };
    if status >= 0 {
        return Ok(());
    }
    // SAFETY: any status will do.
    let code = unsafe { RtlNtStatusToDosError(status) };
    Err(io::Error::from_raw_os_error(code.cast_signed()))
}

fn socket_kind(socket: &OwnedSocket) -> io::Result<HandleKind> {
    let mut protocol = WSAPROTOCOL_INFOW::default();
    option(socket, SO_PROTOCOL_INFOW, &mut protocol)?;
    let family = u16::try_from(protocol.iAddressFamily).unwrap_or(u16::MAX);
    if family != AF_INET && family != AF_INET6 {
        return Ok(HandleKind::Other);
    }
    let mut is_listening = 0_u32;
    Ok(match protocol.iSocketType {
        SOCK_STREAM => {
            option(socket, SO_ACCEPTCONN, &mut is_listening)?;
            if is_listening == 0 { HandleKind::TcpStream } else { HandleKind::TcpListener }
        }
        SOCK_DGRAM => HandleKind::UdpSocket,
        _ => HandleKind::Other,
    })
}

fn option<T>(socket: &OwnedSocket, option: i32, value: &mut T) -> io::Result<()> {
    let mut length = i32::try_from(size_of::<T>()).expect("a small structure");
    // SAFETY: `value` has room for `length` bytes; both outlive the call.
    let result = unsafe {
        getsockopt(
            usize::try_from(socket.as_raw_socket()).expect("as wide as a pointer"),
            SOL_SOCKET,
            option,
            (&raw mut *value).cast(),
            &raw mut length,
        )
    };
    // WinSock's errors are the thread's last error too.
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
