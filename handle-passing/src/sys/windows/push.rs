//! Pushing handles into another process, and taking up there what was pushed.
#![allow(unsafe_code)] // System calls.

use std::io;
use std::os::windows::io::{
    AsHandle, AsRawHandle, AsRawSocket, FromRawHandle, FromRawSocket, OwnedHandle, OwnedSocket,
};
use std::process::Child;
use std::ptr;
use std::sync::{Arc, OnceLock};

use windows_sys::Win32::Foundation::{
    CompareObjectHandles, DUPLICATE_CLOSE_SOURCE, DUPLICATE_SAME_ACCESS, DuplicateHandle,
    GetHandleInformation, HANDLE, WAIT_OBJECT_0,
};
use windows_sys::Win32::Networking::WinSock::{
    FROM_PROTOCOL_INFO, INVALID_SOCKET, WSA_FLAG_NO_HANDLE_INHERIT, WSA_FLAG_OVERLAPPED, WSADATA,
    WSADuplicateSocketW, WSAPROTOCOL_INFOW, WSASocketW, WSAStartup,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessId, WaitForSingleObject};

use super::Raw;
use crate::Handle;
use crate::token::{DESCRIPTION_BYTES, Token, is_handle_number};

/// A process into which handles can be pushed: in most cases a child, whose parent alone holds its
/// process handle. The child needs no rights for it.
///
/// It works in this direction only. Who holds the process handle of another must never take a
/// handle's number from it, or duplicate one out of it: the number may be that of any handle, or
/// stand for something else altogether (CVE-2025-2783 was of this kind).
///
/// # Examples
///
/// ```no_run
/// use std::process::Command;
/// use handle_passing::{Handle, Target};
///
/// let child = Command::new("worker").spawn()?;
/// let target = Target::of_child(&child)?;
/// let file = Handle::from(std::fs::File::open("data")?);
/// let pushed = target.push(&file)?;
/// // The child learns by these bytes what it has been given, over a pipe, say.
/// let token: &[u8] = pushed.token();
/// // Once they are on their way:
/// pushed.delivered();
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Target {
    /// Never a mere process id, which may be another process's by now.
    process: Arc<OwnedHandle>,
}

impl Target {
    /// The process of a handle that has the right `PROCESS_DUP_HANDLE`, as the one has that
    /// `CreateProcess` gives.
    #[must_use]
    pub fn new(process: OwnedHandle) -> Self {
        Self { process: Arc::new(process) }
    }

    /// A child of this process.
    ///
    /// # Errors
    ///
    /// When its handle can't be duplicated.
    pub fn of_child(child: &Child) -> io::Result<Self> {
        child.as_handle().try_clone_to_owned().map(Self::new)
    }

    /// This process itself, for two ends in one.
    ///
    /// # Errors
    ///
    /// When its handle can't be duplicated.
    pub fn this_process() -> io::Result<Self> {
        let this = this_process();
        duplicate(this, this, this, DUPLICATE_SAME_ACCESS).map(|handle| {
            // SAFETY: it was made just now, in this process, and nobody else knows it.
            Self::new(unsafe { OwnedHandle::from_raw_handle(handle) })
        })
    }

    /// Opens a duplicate of a handle in the process. The own handle stays as it is.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` when the process has ended; `InvalidInput` for a pseudo-handle, such as that
    /// of the current process; otherwise the system's.
    pub fn push(&self, handle: &Handle) -> io::Result<Pushed> {
        if self.has_ended() {
            return Err(has_ended());
        }
        let kind = handle.kind();
        let pushed = match handle.raw() {
            Raw::Object(object) => self.push_object(object).map(|number| {
                (Token::Handle { kind, number }, Some((Arc::clone(&self.process), number)))
            }),
            Raw::Socket(socket) => self.push_socket(socket).map(|(description, number)| {
                let open = number.map(|number| (Arc::clone(&self.process), number));
                (Token::Socket { kind, description }, open)
            }),
        };
        match pushed {
            Ok((token, open)) => Ok(Pushed { token: token.encode(), open }),
            // The system itself says no more of that than that access is denied.
            Err(_) if self.has_ended() => Err(has_ended()),
            Err(error) => {
                let reason = format!("cannot push a handle into a process: {error}");
                Err(io::Error::new(error.kind(), reason))
            }
        }
    }

    fn push_object(&self, object: &OwnedHandle) -> io::Result<u32> {
        let raw = object.as_raw_handle();
        if (raw as isize) <= 0 {
            let reason =
                "it is a pseudo-handle, which means something else there: duplicate it first";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let there =
            duplicate(this_process(), raw, self.process.as_raw_handle(), DUPLICATE_SAME_ACCESS)?;
        let number = there as u64;
        match u32::try_from(number) {
            Ok(number) if is_handle_number(number.into()) => Ok(number),
            _ => Err(io::Error::other(format!("{number:#x} is no number of a handle"))),
        }
    }

    /// The description of a duplicate that the process is to open, and its number if it is open
    /// there already.
    fn push_socket(
        &self,
        socket: &OwnedSocket,
    ) -> io::Result<(Box<[u8; DESCRIPTION_BYTES]>, Option<u32>)> {
        let mut info = WSAPROTOCOL_INFOW::default();
        // SAFETY: process and socket are open, and `info` outlives the call. An id is not used for
        // another process as long as a handle to this one is open.
        let result = unsafe {
            let process = GetProcessId(self.process.as_raw_handle());
            WSADuplicateSocketW(number(socket), process, &raw mut info)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        const { assert!(size_of::<WSAPROTOCOL_INFOW>() == DESCRIPTION_BYTES) };
        let mut description = Box::new([0; DESCRIPTION_BYTES]);
        // SAFETY: both have DESCRIPTION_BYTES bytes, and the structure is plain data without
        // padding: integers of 4 bytes, one of 16 bytes, and text.
        unsafe {
            ptr::copy_nonoverlapping(
                (&raw const info).cast::<u8>(),
                description.as_mut_ptr(),
                DESCRIPTION_BYTES,
            );
        }
        // The duplicate is open there from now on. No call takes it back, and where its number
        // stands is not documented: Windows has it in the former field, Wine in the latter. A
        // wrong guess does no harm, because it is compared with the socket.
        let mut guesses = [info.dwProviderReserved, info.dwServiceFlags3].into_iter();
        Ok((description, guesses.find(|guess| self.has_open(*guess, socket))))
    }

    /// Whether a number is that of a duplicate of our socket in the process.
    fn has_open(&self, guess: u32, socket: &OwnedSocket) -> bool {
        if !is_handle_number(guess.into()) {
            return false;
        }
        let there = self.process.as_raw_handle();
        let guess = guess as usize as HANDLE;
        let Ok(copy) = duplicate(there, guess, this_process(), DUPLICATE_SAME_ACCESS) else {
            return false;
        };
        // SAFETY: it was made just now, in this process, and nobody else knows it. A handle of
        // any kind may be closed in this way.
        let copy = unsafe { OwnedHandle::from_raw_handle(copy) };
        // SAFETY: both are open.
        unsafe { CompareObjectHandles(copy.as_raw_handle(), number(socket) as HANDLE) != 0 }
    }

    fn has_ended(&self) -> bool {
        // SAFETY: the handle is open; nothing is waited for.
        unsafe { WaitForSingleObject(self.process.as_raw_handle(), 0) == WAIT_OBJECT_0 }
    }
}

fn has_ended() -> io::Error {
    let reason = "cannot push a handle into a process that has ended";
    io::Error::new(io::ErrorKind::BrokenPipe, reason)
}

/// A handle that is open in another process, which does not know of it yet.
///
/// Dropping it takes it back: the handle is closed there.
#[derive(Debug)]
#[must_use = "dropping it closes the handle in the other process"]
pub struct Pushed {
    token: Vec<u8>,
    open: Option<(Arc<OwnedHandle>, u32)>,
}

impl Pushed {
    /// The bytes by which the other process takes the handle up, see [`adopt`]. At most 630.
    #[must_use]
    pub fn token(&self) -> &[u8] {
        &self.token
    }

    /// The token has been delivered: from now on the handle is the other process's.
    pub fn delivered(mut self) {
        self.open = None;
    }
}

impl Drop for Pushed {
    fn drop(&mut self) {
        let Some((process, number)) = self.open.take() else { return };
        // Moved back into this process and closed here: without a target, Wine closes nothing.
        let options = DUPLICATE_SAME_ACCESS | DUPLICATE_CLOSE_SOURCE;
        let number = number as usize as HANDLE;
        if let Ok(handle) = duplicate(process.as_raw_handle(), number, this_process(), options) {
            // SAFETY: it was made just now, in this process, and nobody else knows it.
            drop(unsafe { OwnedHandle::from_raw_handle(handle) });
        }
    }
}

/// Takes up a handle that another process has pushed into this one. It is announced as what it
/// was there, and [`Handle::into_type`] checks that.
///
/// # Errors
///
/// When the bytes are no token, or there is no such handle.
///
/// # Safety
///
/// The token must have come from a process that has pushed the handle into this one and delivered
/// the token once: whoever can choose the bytes can choose the handle. That process has, by what it
/// needs to push, all rights over this one anyway. Never adopt from a process that you push to.
pub unsafe fn adopt(token: &[u8]) -> io::Result<Handle> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    match Token::decode(token).map_err(invalid)? {
        Token::Handle { kind, number } => {
            let raw = number as usize as HANDLE;
            let mut flags = 0;
            // SAFETY: any number will do, and `flags` outlives the call.
            if unsafe { GetHandleInformation(raw, &raw mut flags) } == 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: it is open, and the caller vouches for that it is ours.
            let handle = unsafe { OwnedHandle::from_raw_handle(raw) };
            Ok(Handle::from_raw(Raw::Object(handle), kind))
        }
        Token::Socket { kind, description } => {
            let socket = open_socket(&description)?;
            Ok(Handle::from_raw(Raw::Socket(socket), kind))
        }
    }
}

fn open_socket(description: &[u8; DESCRIPTION_BYTES]) -> io::Result<OwnedSocket> {
    start_sockets()?;
    // SAFETY: the structure is plain data, for which any bytes are valid, and both have
    // DESCRIPTION_BYTES bytes.
    let info: WSAPROTOCOL_INFOW = unsafe { ptr::read_unaligned(description.as_ptr().cast()) };
    let flags = WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT;
    // SAFETY: `info` outlives the call.
    let socket = unsafe {
        WSASocketW(
            FROM_PROTOCOL_INFO,
            FROM_PROTOCOL_INFO,
            FROM_PROTOCOL_INFO,
            &raw const info,
            0,
            flags,
        )
    };
    if socket == INVALID_SOCKET {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was made just now, and nobody else knows it.
    Ok(unsafe { OwnedSocket::from_raw_socket(socket as u64) })
}

/// A process that has not used a socket yet must say that it will.
fn start_sockets() -> io::Result<()> {
    static STARTED: OnceLock<i32> = OnceLock::new();
    let result = STARTED.get_or_init(|| {
        let mut data = WSADATA::default();
        // SAFETY: `data` outlives the call. Version 2.2, the only one since Windows 98.
        unsafe { WSAStartup(0x0202, &raw mut data) }
    });
    if *result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(*result)) }
}

/// Duplicates a handle of a process into a process.
///
/// With `DUPLICATE_CLOSE_SOURCE` the handle must be one that its process does not know of.
fn duplicate(from: HANDLE, handle: HANDLE, to: HANDLE, options: u32) -> io::Result<HANDLE> {
    let mut there = ptr::null_mut();
    // SAFETY: both processes are open, or the constant that stands for this one. Any handle will
    // do: one that is not open is an error. `there` outlives the call.
    let result = unsafe { DuplicateHandle(from, handle, to, &raw mut there, 0, 0, options) };
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(there) }
}

fn this_process() -> HANDLE {
    // SAFETY: it returns a constant.
    unsafe { GetCurrentProcess() }
}

fn number(socket: &OwnedSocket) -> usize {
    usize::try_from(socket.as_raw_socket()).expect("as wide as a pointer")
}
