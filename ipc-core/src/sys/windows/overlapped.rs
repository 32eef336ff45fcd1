//! Reading and writing a pipe without waiting, or until a time has passed.
#![allow(unsafe_code)] // System calls.

use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr;
use std::time::Duration;

use windows_sys::Win32::Foundation::{
    ERROR_IO_INCOMPLETE, ERROR_IO_PENDING, ERROR_OPERATION_ABORTED, WAIT_OBJECT_0, WAIT_TIMEOUT,
};
use windows_sys::Win32::Storage::FileSystem::{ReadFile, WriteFile};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Pipes::ConnectNamedPipe;
use windows_sys::Win32::System::Threading::{CreateEventW, INFINITE, WaitForSingleObject};

/// One operation on a pipe, which the system may still be at.
///
/// Its memory is on the heap, and stays where it is until the system is done with it.
#[derive(Debug)]
pub struct Operation {
    event: OwnedHandle,
    state: Box<State>,
    is_pending: bool,
}

struct State {
    overlapped: OVERLAPPED,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.buffer.len())
    }
}

// SAFETY: the pointers in an OVERLAPPED are its event, which may be used from any thread, and
// nothing else.
unsafe impl Send for Operation {}

impl Operation {
    /// One that has not begun.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed; a manual-reset event without a name, not set.
        let event = unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) };
        if event.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: CreateEventW has just made it for us.
        let event = unsafe { OwnedHandle::from_raw_handle(event) };
        let state = Box::new(State { overlapped: OVERLAPPED::default(), buffer: Vec::new() });
        Ok(Self { event, state, is_pending: false })
    }

    /// Whether the system is at it.
    pub fn is_pending(&self) -> bool {
        self.is_pending
    }

    /// What is signalled when it is over.
    pub fn event(&self) -> BorrowedHandle<'_> {
        self.event.as_handle()
    }

    /// What was read or written; of use when nothing is pending.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        assert!(!self.is_pending, "the system is using it");
        &mut self.state.buffer
    }

    /// Begins to read at most so many bytes. The operation must be finished by
    /// [`finish`](Self::finish) or [`cancel`](Self::cancel).
    pub fn begin_read(&mut self, pipe: BorrowedHandle<'_>, bytes: usize) -> io::Result<()> {
        self.buffer().resize(bytes, 0);
        let length = u32::try_from(bytes).unwrap_or(u32::MAX);
        let overlapped = self.prepare();
        let buffer = self.state.buffer.as_mut_ptr();
        // SAFETY: `buffer` has room for `length` bytes; it and `overlapped` are on the heap, and
        // are neither moved nor freed before the operation is over: all ways out of this type go
        // through `finish`, `cancel` or `drop`, which wait for that.
        let result =
            unsafe { ReadFile(pipe.as_raw_handle(), buffer, length, ptr::null_mut(), overlapped) };
        self.begun(result)
    }

    /// Begins to write the bytes that are in the buffer, from a place on.
    pub fn begin_write(&mut self, pipe: BorrowedHandle<'_>, from: usize) -> io::Result<()> {
        let rest = &self.buffer()[from..];
        let (bytes, length) = (rest.as_ptr(), u32::try_from(rest.len()).unwrap_or(u32::MAX));
        let overlapped = self.prepare();
        // SAFETY: as in `begin_read`; the buffer is not changed before the operation is over.
        let result =
            unsafe { WriteFile(pipe.as_raw_handle(), bytes, length, ptr::null_mut(), overlapped) };
        self.begun(result)
    }

    /// Begins to wait for a client.
    pub fn begin_connect(&mut self, pipe: BorrowedHandle<'_>) -> io::Result<()> {
        let overlapped = self.prepare();
        // SAFETY: as in `begin_read`, without a buffer.
        let result = unsafe { ConnectNamedPipe(pipe.as_raw_handle(), overlapped) };
        self.begun(result)
    }

    /// What came of the operation, if it is over before the time has passed: how many bytes. The
    /// error `Interrupted` is one that was given up, and may be begun again.
    pub fn finish(
        &mut self,
        pipe: BorrowedHandle<'_>,
        timeout: Option<Duration>,
    ) -> io::Result<Option<usize>> {
        if !self.wait(timeout)? {
            return Ok(None);
        }
        self.result(pipe, false)
    }

    /// Waits until the operation is over, or the time has passed; whether it is over.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        // Rounded up, so that a caller whose time is not quite over does not spin.
        let millis = timeout.map_or(INFINITE, |timeout| {
            u32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(INFINITE - 1)
        });
        // SAFETY: the event is open; nothing else is passed.
        match unsafe { WaitForSingleObject(self.event.as_raw_handle(), millis) } {
            WAIT_OBJECT_0 => Ok(true),
            WAIT_TIMEOUT => Ok(false),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Ends the operation, and says what came of it nevertheless.
    pub fn cancel(&mut self, pipe: BorrowedHandle<'_>) -> usize {
        if !self.is_pending {
            return 0;
        }
        // SAFETY: the pipe is open, and `overlapped` is the one of an operation on it.
        unsafe { CancelIoEx(pipe.as_raw_handle(), &raw const self.state.overlapped) };
        self.result(pipe, true).ok().flatten().unwrap_or(0)
    }

    /// What came of the operation. The system is done with it afterwards, unless the answer is
    /// `None`, which it never is when it is waited for.
    fn result(&mut self, pipe: BorrowedHandle<'_>, wait: bool) -> io::Result<Option<usize>> {
        let mut bytes = 0;
        // SAFETY: `overlapped` is the one of an operation on this pipe, and `bytes` outlives the
        // call.
        let result = unsafe {
            GetOverlappedResult(
                pipe.as_raw_handle(),
                &raw const self.state.overlapped,
                &raw mut bytes,
                i32::from(wait),
            )
        };
        if result != 0 {
            self.is_pending = false;
            return Ok(Some(bytes as usize));
        }
        let error = io::Error::last_os_error();
        match os_code(&error) {
            ERROR_IO_INCOMPLETE => Ok(None),
            // Somebody has cancelled it; or the thread that has begun it has ended.
            ERROR_OPERATION_ABORTED => {
                self.is_pending = false;
                Err(io::ErrorKind::Interrupted.into())
            }
            _ => {
                self.is_pending = false;
                Err(error)
            }
        }
    }

    fn prepare(&mut self) -> *mut OVERLAPPED {
        assert!(!self.is_pending, "one operation at a time");
        self.state.overlapped =
            OVERLAPPED { hEvent: self.event.as_raw_handle(), ..OVERLAPPED::default() };
        &raw mut self.state.overlapped
    }

    /// Takes note of how the system has taken up an operation.
    fn begun(&mut self, result: i32) -> io::Result<()> {
        let error = io::Error::last_os_error();
        if result == 0 && os_code(&error) != ERROR_IO_PENDING {
            return Err(error);
        }
        self.is_pending = true;
        Ok(())
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if self.is_pending {
            // Its owner has forgotten to cancel it. The system still uses the memory.
            let unused = State { overlapped: OVERLAPPED::default(), buffer: Vec::new() };
            Box::leak(std::mem::replace(&mut self.state, Box::new(unused)));
        }
    }
}

/// The system's number of an error that it has reported.
pub(crate) fn os_code(error: &io::Error) -> u32 {
    error.raw_os_error().unwrap_or(0).cast_unsigned()
}
