//! A channel's end on its way into a child process: an inherited handle.
//!
//! std hands one handle to one child and to no other that is started at the same time: the standard
//! input. So a child of std's finds nothing else there. Who starts processes in a way of their own
//! can do the same with any handle, which keeps its value in the child. The end has no name that
//! others could take.
#![allow(unsafe_code)] // The process's standard input, and its environment.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, IntoRawHandle, OwnedHandle};
use std::process::{Child, Command, Stdio};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use handle_passing::Target;
use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::System::Console::{STD_INPUT_HANDLE, SetStdHandle};

use super::named;
use super::pipe::Socket;
use super::security::{self, Side};
use crate::{Channel, Prepared};

/// The ends that this process has taken: none is given out twice.
static TAKEN: Mutex<BTreeSet<Marker>> = Mutex::new(BTreeSet::new());

/// What the environment says of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Marker {
    /// The process that serves the pipe.
    parent: u32,
    /// The handle; `None` is the standard input.
    handle: Option<usize>,
}

/// The server's end of a pipe, which can't carry handles before the child's process is known.
pub(crate) type PreparedEnd = OwnedHandle;

pub(crate) fn prepare(name: &str, number: u32) -> io::Result<Prepared> {
    let (ours, theirs) = named::unnamed_pair()?;
    let handle = (number != 0).then(|| theirs.as_raw_handle().addr());
    let variables = Marker { parent: std::process::id(), handle }.variables(name);
    Ok(Prepared { theirs: theirs.into(), variables, ours: crate::PreparedEnd(ours) })
}

impl crate::PreparedEnd {
    /// The channel to this process, which was started with the other end.
    ///
    /// # Errors
    ///
    /// What the system reports, such as that the handle is not a process's.
    pub fn into_channel(self, child: BorrowedHandle<'_>) -> io::Result<Channel> {
        connect(self.0, child).map(Channel::new)
    }
}

pub(crate) fn spawn(name: &str, command: &mut Command) -> io::Result<(Socket, Child)> {
    let (ours, theirs) = named::unnamed_pair()?;
    let [parent, handle] = variables(name);
    command.env(&parent, std::process::id().to_string()).env_remove(&handle).stdin(theirs);
    let child = command.spawn();
    // The command would keep the child's end.
    command.env_remove(&parent).stdin(Stdio::null());
    let mut child = child?;
    match connect(ours, child.as_handle()) {
        Ok(socket) => Ok((socket, child)),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

/// By its handle, which we have had since before it ran, and never by its number (F102).
fn connect(ours: OwnedHandle, child: BorrowedHandle<'_>) -> io::Result<Socket> {
    let target = Target::new(child.try_clone_to_owned()?);
    Socket::new(ours, Side::Server, Some(target), false)
}

pub(crate) fn spawn_on_stdin(name: &str, command: &mut Command) -> io::Result<(Socket, Child)> {
    spawn(name, command)
}

pub(crate) fn take(name: &str, beside: &[&str]) -> io::Result<Option<Socket>> {
    let names = variables(name);
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let values = names.each_ref().map(std::env::var_os);
    for name in names.iter().map(String::as_str).chain(beside.iter().copied()) {
        remove_variable(name);
    }
    let Some(marker) = Marker::parse(values).map_err(|()| nonsense(&names))? else {
        return Ok(None);
    };
    if taken.contains(&marker) {
        return Ok(None);
    }
    let Some(found) = marker.find() else { return Err(stale(&names, marker)) };
    let end = found.try_clone_to_owned()?;
    let old = found.as_raw_handle();
    let socket = Socket::new(end, Side::Client, None, true)?;
    taken.insert(marker);
    if marker.handle.is_none() {
        // What this process starts would inherit the end; its input is empty from now on.
        let nothing = File::open("NUL")?.into_raw_handle();
        // SAFETY: the handle is open, and the process's standard input owns it from now on.
        unsafe { SetStdHandle(STD_INPUT_HANDLE, nothing) };
    }
    // SAFETY: it is open, and the end that the parent has made for this process alone, which is
    // taken once: nobody else in this process has it, the standard input no longer.
    unsafe { security::close(old) };
    Ok(Some(socket))
}

pub(crate) fn is_pending(name: &str) -> bool {
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    match Marker::parse(variables(name).map(std::env::var_os)) {
        Ok(Some(marker)) => !taken.contains(&marker) && marker.find().is_some(),
        Ok(None) | Err(()) => false,
    }
}

impl Marker {
    fn variables(self, name: &str) -> Vec<(String, String)> {
        let [parent, handle] = variables(name);
        let handle = self.handle.map(|value| (handle, value.to_string()));
        [(parent, self.parent.to_string())].into_iter().chain(handle).collect()
    }

    /// `None` when there is nothing, an error when there is nonsense.
    fn parse([parent, handle]: [Option<OsString>; 2]) -> Result<Option<Self>, ()> {
        let Some(parent) = parent else { return if handle.is_none() { Ok(None) } else { Err(()) } };
        let parent = parent.to_str().and_then(|parent| parent.parse().ok()).ok_or(())?;
        let number = |text: OsString| text.to_str()?.parse().ok();
        let handle = handle.map(|handle| number(handle).ok_or(())).transpose()?;
        Ok(Some(Self { parent, handle }))
    }

    /// The handle, if it is the client's end of a pipe that the parent serves.
    fn find(self) -> Option<BorrowedHandle<'static>> {
        let handle = match self.handle {
            Some(value) => ptr::with_exposed_provenance_mut(value),
            None => io::stdin().as_raw_handle(),
        };
        if handle.is_null() || handle == INVALID_HANDLE_VALUE {
            return None;
        }
        // SAFETY: of what is not open, calls say so; should another thread close it meanwhile, they
        // fail, or find another pipe.
        let handle = unsafe { BorrowedHandle::borrow_raw(handle) };
        let server = security::peer_process_id(handle, Side::Client);
        server.is_ok_and(|server| server == self.parent).then_some(handle)
    }
}

fn variables(name: &str) -> [String; 2] {
    [format!("{name}_PARENT"), format!("{name}_HANDLE")]
}

fn nonsense([parent, handle]: &[String; 2]) -> io::Error {
    let text = format!("{parent} or {handle} is set, but not by a parent process; unset both");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn stale([parent, handle]: &[String; 2], marker: Marker) -> io::Error {
    let (variable, named) = match marker.handle {
        Some(value) => (handle, format!("handle {value}")),
        None => (parent, "the standard input".into()),
    };
    let text = format!(
        "{variable} is set, but {named} is not the channel that a parent has passed; it was meant \
         for another process, which did not unset it"
    );
    io::Error::new(io::ErrorKind::NotFound, text)
}

fn remove_variable(name: &str) {
    // SAFETY: on Windows the environment has a lock of its own.
    #[allow(clippy::disallowed_methods, reason = "it was meant for this process alone")]
    unsafe {
        std::env::remove_var(name);
    }
}
