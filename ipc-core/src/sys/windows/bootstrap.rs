//! A channel's end on its way into a child process: its standard input.
//!
//! That is the only handle that std hands to one child and to no other that is started at the same
//! time. So the child finds nothing else there, and its end has no name that others could take.
#![allow(unsafe_code)] // The process's standard input, and its environment.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, IntoRawHandle, OwnedHandle};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use handle_passing::Target;
use windows_sys::Win32::System::Console::{STD_INPUT_HANDLE, SetStdHandle};

use super::named;
use super::pipe::Socket;
use super::security::{self, Side};
use crate::{Channel, Prepared};

/// Whether this process has taken its end.
static IS_TAKEN: Mutex<bool> = Mutex::new(false);

/// The server's end of a pipe, which can't carry handles before the child's process is known.
pub(crate) type PreparedEnd = OwnedHandle;

pub(crate) fn prepare(name: &str, number: u32) -> io::Result<Prepared> {
    if number != 0 {
        let text = format!("a channel can be a child's descriptor 0 only here, and not {number}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let (ours, theirs) = named::unnamed_pair()?;
    let variables = vec![(variable(name), std::process::id().to_string())];
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
    let variable = variable(name);
    command.env(&variable, std::process::id().to_string()).stdin(theirs);
    let child = command.spawn();
    // The command would keep the child's end.
    command.env_remove(&variable).stdin(Stdio::null());
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
    let variable = variable(name);
    let mut is_taken = IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let value = std::env::var_os(&variable);
    for name in beside.iter().copied().chain([variable.as_str()]) {
        remove_variable(name);
    }
    let Some(value) = value.filter(|_| !*is_taken) else { return Ok(None) };
    let Some(parent) = parse(&value) else {
        let text = format!("{variable} is set, but not by a parent process; unset it");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    };
    if !is_from(parent) {
        let text = format!(
            "{variable} is set, but the standard input is not the channel that a parent has \
             passed; it was meant for another process, which did not unset it"
        );
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    let end = io::stdin().as_handle().try_clone_to_owned()?;
    let socket = Socket::new(end, Side::Client, None, true)?;
    *is_taken = true;
    // What this process starts would inherit the end; its input is empty from now on.
    let nothing = File::open("NUL")?.into_raw_handle();
    let old = io::stdin().as_raw_handle();
    // SAFETY: both are open; the process's standard input owns the one that it is given, for good.
    unsafe {
        SetStdHandle(STD_INPUT_HANDLE, nothing);
        security::close(old);
    }
    Ok(Some(socket))
}

pub(crate) fn is_pending(name: &str) -> bool {
    let is_taken = IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let parent = std::env::var_os(variable(name)).and_then(|value| parse(&value));
    !*is_taken && parent.is_some_and(is_from)
}

/// Whether the standard input is the client's end of a pipe that this process serves.
fn is_from(parent: u32) -> bool {
    let server = security::peer_process_id(io::stdin().as_handle(), Side::Client);
    server.is_ok_and(|server| server == parent)
}

fn parse(value: &OsStr) -> Option<u32> {
    value.to_str()?.parse().ok()
}

fn variable(name: &str) -> String {
    format!("{name}_PARENT")
}

fn remove_variable(name: &str) {
    // SAFETY: on Windows the environment has a lock of its own.
    #[allow(clippy::disallowed_methods, reason = "it was meant for this process alone")]
    unsafe {
        std::env::remove_var(name);
    }
}
