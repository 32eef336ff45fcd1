//! A channel's end on its way into a child process: an inherited descriptor.
#![allow(unsafe_code)] // descriptors by their numbers, and calls between fork and exec

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use handle_passing::Handle;
use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::Socket;
use crate::sys::os;
use crate::{Channel, Prepared};

/// The markers whose descriptors this process has taken: none is given out twice.
static TAKEN: Mutex<BTreeSet<Marker>> = Mutex::new(BTreeSet::new());

/// No descriptor.
const NONE: RawFd = -1;

/// What the environment says of a descriptor: its number, and the inode of what is open there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Marker {
    number: RawFd,
    inode: u64,
}

/// A channel's end in the parent does not depend on the child.
pub(crate) type PreparedEnd = Socket;

pub(crate) fn prepare(name: &str, number: u32) -> io::Result<Prepared> {
    let number = RawFd::try_from(number).map_err(|_| {
        let text = format!("no descriptor can have the number {number}: give a smaller one");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    let (ours, theirs) = Socket::pair()?;
    let theirs = theirs.into_fd();
    let variables = Marker::of(&theirs, number)?.variables(name).into();
    let theirs = Handle::from(UnixStream::from(theirs));
    Ok(Prepared { theirs, variables, ours: crate::PreparedEnd(ours) })
}

impl crate::PreparedEnd {
    /// The channel, once the child has started.
    #[must_use]
    pub fn into_channel(self) -> Channel {
        Channel::new(self.0)
    }
}

pub(crate) fn spawn(name: &str, command: &mut Command) -> io::Result<(Socket, Child)> {
    let (ours, theirs) = Socket::pair()?;
    // Close-on-exec at all times, so that what other threads start meanwhile does not get it.
    let mut theirs = theirs.into_fd();
    if theirs.as_raw_fd() <= libc::STDERR_FILENO {
        // The child's own standard streams will come there. A duplicate lies above them.
        theirs = theirs.try_clone()?;
    }
    let marker = Marker::of(&theirs, theirs.as_raw_fd())?;
    // The command keeps its hooks for good; this one does nothing in later processes.
    let number = Arc::new(AtomicI32::new(marker.number));
    let hook = {
        let number = Arc::clone(&number);
        move || match number.load(Ordering::Relaxed) {
            NONE => Ok(()),
            number => inherit_only(number),
        }
    };
    // SAFETY: between fork and exec, the hook loads an atomic and makes two system calls; it
    // allocates nothing and takes no lock.
    unsafe { command.pre_exec(hook) };
    let child = spawn_marked(name, command, marker);
    number.store(NONE, Ordering::Relaxed);
    drop(theirs);
    Ok((ours, child?))
}

pub(crate) fn spawn_on_stdin(name: &str, command: &mut Command) -> io::Result<(Socket, Child)> {
    let (ours, theirs) = Socket::pair()?;
    let theirs = theirs.into_fd();
    let marker = Marker::of(&theirs, libc::STDIN_FILENO)?;
    command.stdin(theirs);
    let child = spawn_marked(name, command, marker);
    // It would keep the child's end.
    command.stdin(Stdio::null());
    Ok((ours, child?))
}

pub(crate) fn take(name: &str, beside: &[&str]) -> io::Result<Option<Socket>> {
    let names = variables(name);
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let values = names.each_ref().map(std::env::var_os);
    os::remove_variables(names.iter().map(String::as_str).chain(beside.iter().copied()));
    let Some(marker) = Marker::parse(values).map_err(|()| nonsense(&names))? else {
        return Ok(None);
    };
    if taken.contains(&marker) {
        return Ok(None);
    }
    let Some(borrowed) = marker.find() else { return Err(stale(&names[0], marker)) };
    let socket = Socket::from_fd(borrowed.try_clone_to_owned()?)?;
    taken.insert(marker);
    if marker.number == libc::STDIN_FILENO {
        // What this process starts would inherit it, and what it opens next would be its input.
        nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    } else {
        // SAFETY: this is the socket that the parent has made for this process alone: the inode
        // says so, it was inherited and not opened here, and the set above sees to it that it is
        // taken once. So nobody else in this process owns it.
        drop(unsafe { OwnedFd::from_raw_fd(marker.number) });
    }
    Ok(Some(socket))
}

pub(crate) fn is_pending(name: &str) -> bool {
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    match Marker::parse(variables(name).map(std::env::var_os)) {
        Ok(Some(marker)) => !taken.contains(&marker) && marker.find().is_some(),
        Ok(None) | Err(()) => false,
    }
}

/// Starts a process whose environment holds the marker, and no later one's of this command.
fn spawn_marked(name: &str, command: &mut Command, marker: Marker) -> io::Result<Child> {
    command.envs(marker.variables(name));
    let child = command.spawn();
    let [number, inode] = variables(name);
    command.env_remove(number).env_remove(inode);
    child
}

impl Marker {
    /// For this descriptor, which the child will have under that number.
    fn of(fd: &OwnedFd, number: RawFd) -> io::Result<Self> {
        Ok(Self { number, inode: fstat(fd)?.st_ino })
    }

    fn variables(self, name: &str) -> [(String, String); 2] {
        let [number, inode] = variables(name);
        [(number, self.number.to_string()), (inode, self.inode.to_string())]
    }

    /// `None` when there is nothing, an error when there is nonsense.
    fn parse(values: [Option<OsString>; 2]) -> Result<Option<Self>, ()> {
        let [number, inode] = match values {
            [None, None] => return Ok(None),
            [number, inode] => [number.ok_or(())?, inode.ok_or(())?],
        };
        let number = number.to_str().and_then(|number| number.parse().ok()).ok_or(())?;
        let inode = inode.to_str().and_then(|inode| inode.parse().ok()).ok_or(())?;
        Ok(Some(Self { number, inode }))
    }

    /// The descriptor, if it is still the one that was inherited.
    fn find(self) -> Option<BorrowedFd<'static>> {
        // SAFETY: fcntl on any number is safe; it fails with EBADF where nothing is open.
        let flags = Errno::result(unsafe { libc::fcntl(self.number, libc::F_GETFD) }).ok()?;
        if flags & libc::FD_CLOEXEC != 0 {
            return None; // nothing that a process has inherited is
        }
        // SAFETY: it is open, as fcntl has just shown. Should another thread close it meanwhile,
        // the calls on it fail, or find another inode.
        let borrowed = unsafe { BorrowedFd::borrow_raw(self.number) };
        fstat(borrowed.as_fd()).is_ok_and(|found| found.st_ino == self.inode).then_some(borrowed)
    }
}

/// In the child: lets the program that is about to be executed have this descriptor, and none but
/// it above standard error, as far as the system can do that.
fn inherit_only(number: RawFd) -> io::Result<()> {
    os::close_on_exec_from(libc::STDERR_FILENO + 1);
    // SAFETY: fcntl with F_SETFD takes no pointer; the number is open, because the parent holds
    // the descriptor until the child has executed its program.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, 0) })?;
    Ok(())
}

fn variables(name: &str) -> [String; 2] {
    [format!("{name}_FD"), format!("{name}_INODE")]
}

fn nonsense([number, inode]: &[String; 2]) -> io::Error {
    let text = format!("{number} and {inode} are set, but not by a parent process; unset them");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn stale(variable: &str, marker: Marker) -> io::Error {
    let text = format!(
        "{variable} names descriptor {}, which is not the channel that a parent has passed; it \
         was meant for another process, which did not unset it",
        marker.number
    );
    io::Error::new(io::ErrorKind::NotFound, text)
}
