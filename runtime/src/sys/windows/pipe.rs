//! Streams between this process and a child: named pipes, whose names nobody knows.
//!
//! Our end can be used with a poll, which the pipes that the system calls anonymous can't. The
//! child's is a plain handle, as programs expect it. Nobody else can be at either end: the name is
//! random, there is one instance of it, and we have connected to that before anybody is told.
#![allow(unsafe_code)] // System calls.

use std::fs::OpenOptions;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::windows::io::{
    AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, IntoRawHandle, OwnedHandle,
};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use handle_passing::Handle;
use mio::event::Source;
use mio::windows::NamedPipe;
use mio::{Interest, Registry, Token};
use windows_sys::Win32::Foundation::{
    ERROR_BROKEN_PIPE, ERROR_IO_PENDING, ERROR_NO_DATA, GENERIC_READ, GENERIC_WRITE,
};
use windows_sys::Win32::Storage::FileSystem::{
    CreateFileW, FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, FILE_READ_ATTRIBUTES,
    FILE_WRITE_ATTRIBUTES, OPEN_EXISTING, PIPE_ACCESS_DUPLEX, ReadFile, SECURITY_IDENTIFICATION,
    SECURITY_SQOS_PRESENT, WriteFile,
};
use windows_sys::Win32::System::IO::{GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Pipes::{
    CreateNamedPipeW, PIPE_READMODE_BYTE, PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE, PIPE_WAIT,
    PeekNamedPipe,
};
use windows_sys::Win32::System::Threading::CreateEventW;

use super::{check, owned};

/// How much the system holds of what was written and not read, in each direction; and how much is
/// handed to it at once, so that who writes more than is read has to wait.
const PIPE_BYTES: u32 = 64 * 1024;

/// Our end of a stream. It blocks until it is registered with a poll, and stays with that one: from
/// then on it can only be used as long as it is registered there.
#[derive(Debug)]
pub(crate) struct Pipe {
    io: Io,
    is_nonblocking: AtomicBool,
}

#[derive(Debug)]
enum Io {
    Own(OwnedHandle),
    Mio(NamedPipe),
    /// In between, and never seen from outside.
    Moving,
}

/// What a child can do with its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    Both,
}

/// A pipe that the child reads: our end, and the child's.
pub(crate) fn pipe_to_child() -> io::Result<(Pipe, Handle)> {
    pair(Access::Read)
}

/// A pipe that the child writes: our end, and the child's.
pub(crate) fn pipe_from_child() -> io::Result<(Pipe, Handle)> {
    pair(Access::Write)
}

/// A stream in both directions: our end, and the child's.
pub(crate) fn duplex() -> io::Result<(Pipe, Handle)> {
    pair(Access::Both)
}

/// What is always at its end, and takes everything.
pub(crate) fn null() -> io::Result<Handle> {
    Ok(OpenOptions::new().read(true).write(true).open("NUL")?.into())
}

fn pair(access: Access) -> io::Result<(Pipe, Handle)> {
    let (ours, theirs) = named_pair(access)?;
    Ok((Pipe { io: Io::Own(ours), is_nonblocking: AtomicBool::new(false) }, theirs.into()))
}

/// Our end, of which operations can overlap, and the other.
pub(super) fn named_pair(access: Access) -> io::Result<(OwnedHandle, OwnedHandle)> {
    let part = || RandomState::new().hash_one(0_u8);
    let name = format!(r"\\.\pipe\runtime-{:016x}{:016x}", part(), part());
    let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
    // SAFETY: `name` ends with a NUL, and outlives the call.
    let ours = owned(unsafe {
        CreateNamedPipeW(
            name.as_ptr(),
            // Both, so that we also learn that a child has closed what it reads.
            PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | FILE_FLAG_FIRST_PIPE_INSTANCE,
            PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS,
            1,
            PIPE_BYTES,
            PIPE_BYTES,
            0,
            ptr::null(),
        )
    })?;
    // The C runtime asks about its end, and sets it up.
    let access = match access {
        Access::Read => GENERIC_READ | FILE_WRITE_ATTRIBUTES,
        Access::Write => GENERIC_WRITE | FILE_READ_ATTRIBUTES,
        Access::Both => GENERIC_READ | GENERIC_WRITE,
    };
    // SAFETY: `name` ends with a NUL, and outlives the call.
    let theirs = owned(unsafe {
        CreateFileW(
            name.as_ptr(),
            access,
            0,
            ptr::null(),
            OPEN_EXISTING,
            SECURITY_SQOS_PRESENT | SECURITY_IDENTIFICATION,
            ptr::null_mut(),
        )
    })?;
    Ok((ours, theirs))
}

/// Our end as mio has it.
pub(super) fn into_mio(pipe: OwnedHandle) -> NamedPipe {
    // SAFETY: it is an open pipe, made for overlapped operations, and nobody else's.
    unsafe { NamedPipe::from_raw_handle(pipe.into_raw_handle()) }
}

fn borrow(pipe: &NamedPipe) -> BorrowedHandle<'_> {
    // SAFETY: mio keeps it open for as long as the NamedPipe lives, which is borrowed here.
    unsafe { BorrowedHandle::borrow_raw(pipe.as_raw_handle()) }
}

impl Pipe {
    /// With a poll it never blocks. Before that, only reading can do without.
    pub(crate) fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        self.is_nonblocking.store(is_nonblocking, Ordering::Relaxed);
        Ok(())
    }

    /// Not possible here: a pipe is closed as a whole.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        let text = "on Windows a stream in both directions can't be closed in one of them: drop \
                    it, or use Stdio::input and Stdio::output under two numbers";
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }

    fn is_nonblocking(&self) -> bool {
        self.is_nonblocking.load(Ordering::Relaxed)
    }
}

impl From<Pipe> for Handle {
    fn from(pipe: Pipe) -> Handle {
        match pipe.io {
            Io::Own(pipe) => pipe.into(),
            // mio does not give it back; it can't do without it either, so that one is open.
            Io::Mio(pipe) => borrow(&pipe).try_clone_to_owned().expect("a duplicate").into(),
            Io::Moving => unreachable!("only while it is registered, which nobody sees"),
        }
    }
}

impl Read for &Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = match &self.io {
            Io::Mio(pipe) => { pipe }.read(buffer),
            Io::Own(pipe) if self.is_nonblocking() && !has_something(pipe.as_handle())? => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Io::Own(pipe) => read(pipe.as_handle(), buffer),
            Io::Moving => unreachable!("only while it is registered, which nobody sees"),
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(not_registered()),
            // The child has closed its end.
            Err(error) if error.raw_os_error() == Some(ERROR_BROKEN_PIPE.cast_signed()) => Ok(0),
            result => result,
        }
    }
}

impl Write for &Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(PIPE_BYTES as usize)];
        let result = match &self.io {
            Io::Mio(pipe) => { pipe }.write(bytes),
            Io::Own(_) if self.is_nonblocking() => {
                let text = "on Windows a pipe must be registered with a poll to be written to \
                            without blocking";
                Err(io::Error::new(io::ErrorKind::Unsupported, text))
            }
            Io::Own(pipe) => write(pipe.as_handle(), bytes),
            Io::Moving => unreachable!("only while it is registered, which nobody sees"),
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(not_registered()),
            Err(error) if error.raw_os_error() == Some(ERROR_NO_DATA.cast_signed()) => {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for Pipe {
    fn register(&mut self, registry: &Registry, token: Token, on: Interest) -> io::Result<()> {
        self.io = match std::mem::replace(&mut self.io, Io::Moving) {
            Io::Own(pipe) => Io::Mio(into_mio(pipe)),
            other => other,
        };
        self.mio()?.register(registry, token, on)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, on: Interest) -> io::Result<()> {
        self.mio()?.reregister(registry, token, on)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.mio()?.deregister(registry)
    }
}

impl Pipe {
    fn mio(&mut self) -> io::Result<&mut NamedPipe> {
        match &mut self.io {
            Io::Mio(pipe) => Ok(pipe),
            Io::Own(_) | Io::Moving => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn not_registered() -> io::Error {
    let text = "on Windows a stream that was registered with a poll can be used only as long as it \
                is: register it with that poll again";
    io::Error::new(io::ErrorKind::Unsupported, text)
}

/// Whether there is something to read, if only the end.
pub(super) fn has_something(pipe: BorrowedHandle<'_>) -> io::Result<bool> {
    let mut bytes = 0;
    let (pipe, none) = (pipe.as_raw_handle(), ptr::null_mut());
    // SAFETY: the pipe is open, `bytes` outlives the call, and nothing else is asked for.
    let result =
        unsafe { PeekNamedPipe(pipe, ptr::null_mut(), 0, ptr::null_mut(), &raw mut bytes, none) };
    Ok(result == 0 || bytes > 0)
}

fn read(pipe: BorrowedHandle<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
    // SAFETY: the buffer has so much room, and is not used otherwise before the operation is over.
    complete(pipe, |pipe, overlapped| unsafe {
        ReadFile(pipe, buffer.as_mut_ptr(), length, ptr::null_mut(), overlapped)
    })
}

fn write(pipe: BorrowedHandle<'_>, bytes: &[u8]) -> io::Result<usize> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    // SAFETY: there are so many bytes, which do not change before the operation is over.
    complete(pipe, |pipe, overlapped| unsafe {
        WriteFile(pipe, bytes.as_ptr(), length, ptr::null_mut(), overlapped)
    })
}

/// Begins an operation and waits until it is over.
fn complete(
    pipe: BorrowedHandle<'_>,
    begin: impl FnOnce(*mut std::ffi::c_void, *mut OVERLAPPED) -> i32,
) -> io::Result<usize> {
    // SAFETY: no pointer is passed; a manual-reset event without a name, not set.
    let event = owned(unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) })?;
    let mut overlapped = OVERLAPPED { hEvent: event.as_raw_handle(), ..OVERLAPPED::default() };
    let (pipe, overlapped, mut bytes) = (pipe.as_raw_handle(), &raw mut overlapped, 0);
    if let Err(error) = check(begin(pipe, overlapped))
        && error.raw_os_error() != Some(ERROR_IO_PENDING.cast_signed())
    {
        return Err(error);
    }
    // SAFETY: the operation of `overlapped` is one on this pipe; the call returns when it is over,
    // so that neither it nor its event is used any longer. `bytes` outlives the call.
    check(unsafe { GetOverlappedResult(pipe, overlapped, &raw mut bytes, 1) })?;
    Ok(bytes as usize)
}
