//! Streams between this process and a child: named pipes, whose names nobody knows.
//!
//! Our end can be used with a poll, which the pipes that the system calls anonymous can't. The
//! child's is a plain handle, as programs expect it. Nobody else can be at either end: the name is
//! random, there is one instance of it, and we have connected to that before anybody is told.
#![allow(unsafe_code)] // System calls.

use std::fs::OpenOptions;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::windows::io::{AsHandle, OwnedHandle};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use handle_passing::Handle;
use ipc_core::overlapped::{Bell, Operation, Watch};
use mio::event::Source;
use mio::{Interest, Registry, Token};
use windows_sys::Win32::Foundation::{
    ERROR_BROKEN_PIPE, ERROR_NO_DATA, ERROR_PIPE_NOT_CONNECTED, GENERIC_READ, GENERIC_WRITE,
};
use windows_sys::Win32::Storage::FileSystem::{
    CreateFileW, FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, FILE_READ_ATTRIBUTES,
    FILE_WRITE_ATTRIBUTES, OPEN_EXISTING, PIPE_ACCESS_DUPLEX, SECURITY_IDENTIFICATION,
    SECURITY_SQOS_PRESENT,
};
use windows_sys::Win32::System::Pipes::{
    CreateNamedPipeW, PIPE_READMODE_BYTE, PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE, PIPE_WAIT,
};

use super::owned;

/// How much the system holds of what was written and not read, in each direction; and how much is
/// handed to it at once, so that who writes more than is read has to wait.
const PIPE_BYTES: u32 = 64 * 1024;

/// Our end of a stream. It blocks until told otherwise.
///
/// What is being read or written is known here at once, and not only when a poll has heard of it,
/// as mio's pipes would have it: so all that a child has written can be read when it has ended.
#[derive(Debug)]
pub(crate) struct Pipe {
    // Before the pipe, since what goes on ends by them.
    reader: Mutex<Half>,
    writer: Mutex<Half>,
    bell: Arc<Bell>,
    pipe: OwnedHandle,
    is_nonblocking: AtomicBool,
}

/// One direction.
#[derive(Debug, Default)]
struct Half {
    /// As long as somebody who has registered the pipe waits for the operation. Before that, which
    /// must be closed later.
    watch: Option<Watch>,
    /// Made when it is needed.
    operation: Option<Operation>,
    /// How much of what was read was taken, or of what is to be written has gone.
    at: usize,
}

/// What a child can do with its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
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
    let (pipe, theirs) = named_pair(access)?;
    let ours = Pipe {
        reader: Mutex::default(),
        writer: Mutex::default(),
        bell: Arc::default(),
        pipe,
        is_nonblocking: AtomicBool::new(false),
    };
    Ok((ours, theirs.into()))
}

/// Our end, of which operations can overlap, and the other.
fn named_pair(access: Access) -> io::Result<(OwnedHandle, OwnedHandle)> {
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

impl Pipe {
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

    /// How long a call may take.
    fn patience(&self) -> Option<Duration> {
        self.is_nonblocking.load(Ordering::Relaxed).then_some(Duration::ZERO)
    }

    /// Says that it would block, and has the poll know when it would not.
    fn would_block(&self, Half { watch, operation, .. }: &mut Half) -> io::Error {
        let event = operation.as_ref().map(Operation::event);
        match event.map_or(Ok(()), |event| self.bell.watch(watch, event)) {
            Ok(()) => io::ErrorKind::WouldBlock.into(),
            Err(error) => error,
        }
    }

    /// Sends what was taken to be sent and has not gone; whether all has.
    fn drive(&self, half: &mut Half, patience: Option<Duration>) -> io::Result<bool> {
        let Some(operation) = &mut half.operation else { return Ok(true) };
        while operation.is_pending() {
            match operation.finish(self.pipe.as_handle(), patience) {
                Ok(None) => return Ok(false),
                Ok(Some(count)) => half.at += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            half.watch = None;
            if half.at < operation.buffer().len() {
                operation.begin_write(self.pipe.as_handle(), half.at)?;
            }
        }
        Ok(true)
    }
}

impl Half {
    fn operation(&mut self) -> io::Result<&mut Operation> {
        if self.operation.is_none() {
            self.operation = Some(Operation::new()?);
        }
        Ok(self.operation.as_mut().expect("it was just made"))
    }
}

impl Read for &Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut reader = lock(&self.reader);
        let pipe = self.pipe.as_handle();
        loop {
            let at = reader.at;
            let operation = reader.operation()?;
            if !operation.is_pending() {
                let rest = operation.buffer().get(at..).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                if count > 0 || buffer.is_empty() {
                    buffer[..count].copy_from_slice(&rest[..count]);
                    reader.at += count;
                    return Ok(count);
                }
                match operation.begin_read(pipe, PIPE_BYTES as usize) {
                    Err(error) => return at_end(operation, error),
                    Ok(()) => reader.at = 0,
                }
            }
            let operation = reader.operation()?;
            match operation.finish(pipe, self.patience()) {
                Ok(None) => return Err(self.would_block(&mut reader)),
                Ok(Some(count)) => operation.buffer().truncate(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    operation.buffer().clear();
                }
                Err(error) => return at_end(operation, error),
            }
            reader.watch = None;
        }
    }
}

/// The child has closed its end, if it is that.
fn at_end(operation: &mut Operation, error: io::Error) -> io::Result<usize> {
    operation.buffer().clear();
    match error.raw_os_error().map(i32::cast_unsigned) {
        Some(ERROR_BROKEN_PIPE | ERROR_PIPE_NOT_CONNECTED) => Ok(0),
        _ => Err(error),
    }
}

impl Write for &Pipe {
    /// What has not gone when this returns goes later, without a copy of it being kept.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(PIPE_BYTES as usize)];
        let mut writer = lock(&self.writer);
        if !self.drive(&mut writer, self.patience()).map_err(broken)? {
            return Err(self.would_block(&mut writer));
        }
        writer.at = 0;
        let operation = writer.operation()?;
        operation.buffer().clear();
        operation.buffer().extend_from_slice(bytes);
        operation.begin_write(self.pipe.as_handle(), 0).map_err(broken)?;
        self.drive(&mut writer, self.patience()).map_err(broken)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whatever the system calls it that nobody reads.
fn broken(error: io::Error) -> io::Error {
    match error.raw_os_error().map(i32::cast_unsigned) {
        Some(ERROR_NO_DATA | ERROR_PIPE_NOT_CONNECTED) => io::ErrorKind::BrokenPipe.into(),
        _ => error,
    }
}

/// To be registered is an event, which finds out what there is.
impl Source for Pipe {
    fn register(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        self.bell.register(registry, token)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        self.bell.reregister(registry, token)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        lock(&self.reader).watch = None;
        lock(&self.writer).watch = None;
        self.bell.deregister(registry)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(operation) = &mut lock(&self.reader).operation {
            operation.cancel(self.pipe.as_handle());
        }
        let writer = std::mem::take(&mut *lock(&self.writer));
        if writer.operation.as_ref().is_some_and(Operation::is_pending) {
            self.linger(writer);
        }
    }
}

impl Pipe {
    /// What was taken to be written goes, for as long as somebody could read it.
    fn linger(&mut self, mut writer: Half) {
        writer.watch = None;
        if self.drive(&mut writer, Some(Duration::ZERO)).unwrap_or(true) {
            return;
        }
        let Ok(pipe) = self.pipe.try_clone() else { return };
        let rest = Pipe {
            reader: Mutex::default(),
            writer: Mutex::default(),
            bell: Arc::default(),
            pipe,
            is_nonblocking: AtomicBool::new(false),
        };
        // Without a thread for it, it ends here: the operation keeps its memory.
        let _ = std::thread::Builder::new().name("write to a child".into()).spawn(move || {
            let _ = rest.drive(&mut writer, None);
        });
    }
}

impl From<Pipe> for Handle {
    /// What was read of it already is gone.
    fn from(pipe: Pipe) -> Handle {
        // The pipe itself sees to what is still to be written.
        pipe.pipe.try_clone().expect("a duplicate").into()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
