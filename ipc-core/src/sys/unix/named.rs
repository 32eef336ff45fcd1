//! Sockets with names: listening, connecting, and who the peer is.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use handle_passing::HandleKind;
use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::poll::{PollFd, PollFlags};
use socket2::{Domain, SockAddr, Type};

use super::directory::{Directory, FileId};
use super::{Socket, poll_for};
use crate::address::Name;
use crate::listener::{AcceptError, ListenerOptions};
use crate::sys::{Accepted, os};
use crate::{Address, PeerIdentity};

/// How long a starting listener waits for others that start at the same path.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A socket that listens, and the file that it is known by.
#[derive(Debug)]
pub(crate) struct Listening {
    /// Goes before the socket: as long as that listens, nobody takes the file for a stale one, so
    /// that no successor's file is at its place between a look and the removal.
    _file: Option<SocketFile>,
    socket: socket2::Socket,
    is_of_packets: bool,
}

/// The file of a socket; removed on drop if it is still the one that was made.
#[derive(Debug)]
struct SocketFile {
    directory: Directory,
    name: PathBuf,
    id: FileId,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.directory.file(&self.name).is_ok_and(|file| file.id == self.id) {
            let _ = self.directory.remove(&self.name);
        }
    }
}

impl Listening {
    pub(crate) fn bind(name: &Name, options: &ListenerOptions) -> io::Result<Self> {
        let kind = if options.packets { Type::SEQPACKET } else { Type::STREAM };
        let socket = socket2::Socket::new(Domain::UNIX, kind, None)?;
        let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
        let file = match name {
            Name::Path(path) => Some(bind_path(&socket, path, backlog, options)?),
            Name::Abstract(_) => {
                socket.bind(&address(name)?)?;
                socket.listen(backlog)?;
                None
            }
            Name::Pipe(_) => return Err(no_pipes()),
        };
        socket.set_nonblocking(true)?;
        Ok(Self { socket, is_of_packets: options.packets, _file: file })
    }

    pub(crate) fn accept(&self) -> Result<Accepted, AcceptError> {
        loop {
            let error = match self.socket.accept() {
                Ok((socket, _)) => return self.accepted(socket).map_err(AcceptError::Io),
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(Accepted::Nobody),
                // Of this one only: he has gone, a signal came, or a security module refused him.
                Some(libc::EINTR | libc::ECONNABORTED | libc::EPROTO | libc::EPERM) => {}
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    return Err(AcceptError::Exhausted(error));
                }
                _ => return Err(AcceptError::Io(error)),
            }
        }
    }

    /// A socket that somebody else made listen, and where.
    pub(crate) fn from_fd(fd: OwnedFd) -> io::Result<(Self, Address)> {
        let is_of_packets = match handle_passing::kind(&fd)? {
            HandleKind::UnixListener => false,
            HandleKind::UnixSeqpacketListener => true,
            other => {
                let reason = format!("a listener needs a Unix socket that listens, not {other}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
            }
        };
        let socket = socket2::Socket::from(fd);
        socket.set_nonblocking(true)?;
        let name = socket.local_addr()?;
        let address = match name.as_abstract_namespace() {
            Some(name) => Address::abstract_name(String::from_utf8_lossy(name))?,
            None => Address::path(name.as_pathname().unwrap_or(Path::new("")))?,
        };
        Ok((Self { socket, is_of_packets, _file: None }, address))
    }

    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll_for(&mut fds, timeout)?;
        // Always ready from then on, but to accept says that nobody waits: without a look at the
        // reason, the caller would never sleep again.
        let ended = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        if fds[0].revents().is_some_and(|events| events.intersects(ended)) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "it was shut down"));
        }
        Ok(())
    }

    fn accepted(&self, socket: socket2::Socket) -> io::Result<Accepted> {
        // BSD's sockets inherit it, Linux's don't.
        socket.set_nonblocking(false)?;
        let socket = Socket::connected(socket.into(), self.is_of_packets);
        let peer = peer_identity(&socket)?;
        Ok(Accepted::Peer(socket, peer))
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Source for Listening {
    fn register(&mut self, registry: &Registry, token: Token, on: Interest) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).register(registry, token, on)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, on: Interest) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).reregister(registry, token, on)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).deregister(registry)
    }
}

/// Listens at a path, in the place of a file that nobody listens at any more.
///
/// All of it under a lock: between its bind and its listen a socket looks stale,
/// and two that find the same stale file would remove each other's new one.
fn bind_path(
    socket: &socket2::Socket,
    path: &Path,
    backlog: i32,
    options: &ListenerOptions,
) -> io::Result<SocketFile> {
    let (directory, name) = Directory::of(path)?;
    if !options.any_directory {
        directory.check()?;
    }
    let lock = directory.lock(&name, crate::clock::now() + LOCK_PATIENCE)?;
    // Before the file exists, so that it never has another mode (where the system takes it up).
    os::set_mode_before_bind(socket.as_fd(), options.mode)?;
    let place = SockAddr::unix(directory.place(&name))?;
    if let Err(error) = socket.bind(&place) {
        if error.kind() != io::ErrorKind::AddrInUse {
            return Err(error);
        }
        remove_stale(&directory, &name)?;
        socket.bind(&place)?;
    }
    let file = directory.file(&name)?;
    if file.mode != options.mode && !options.respects_umask {
        // The umask has taken bits away; or the system has ignored what was set before.
        directory.set_mode(&name, options.mode)?;
    }
    socket.listen(backlog)?;
    drop(lock);
    Ok(SocketFile { directory, name, id: file.id })
}

/// Removes a socket that nobody listens on.
fn remove_stale(directory: &Directory, name: &Path) -> io::Result<()> {
    let in_use = |reason: String| Err(io::Error::new(io::ErrorKind::AddrInUse, reason));
    let file = directory.file(name)?;
    if !file.is_socket {
        return in_use(
            "a file that is no socket is there: remove it, or choose another path".into(),
        );
    }
    let probe = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(directory.place(name))?) {
        Ok(()) => match peer_identity(&Socket::connected(probe.into(), false)) {
            Ok(peer) => in_use(format!("{peer} listens there: end it, or choose another path")),
            Err(_) => in_use("a process listens there: end it, or choose another path".into()),
        },
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            if file.user_id != effective_user() {
                return in_use(format!("user {} has left a socket there: remove it", file.user_id));
            }
            // Who does not know our lock may have replaced it meanwhile.
            if directory.file(name)?.id != file.id {
                return in_use("a process has just begun to listen there".into());
            }
            directory.remove(name)
        }
        // Busy, of another type, or not for this user: somebody listens.
        Err(_) => in_use("a process listens there: end it, or choose another path".into()),
    }
}

/// Connects; never waits.
pub(crate) fn connect(name: &Name) -> io::Result<Socket> {
    let attempt = |kind| {
        let socket = socket2::Socket::new(Domain::UNIX, kind, None)?;
        // A connect that may block would wait for room in the backlog for ever.
        socket.set_nonblocking(true)?;
        match name {
            Name::Path(path) => {
                let (directory, name) = Directory::of(path)?;
                socket.connect(&SockAddr::unix(directory.place(&name))?)?;
            }
            Name::Abstract(_) => socket.connect(&address(name)?)?,
            Name::Pipe(_) => return Err(no_pipes()),
        }
        socket.set_nonblocking(false)?;
        io::Result::Ok(socket)
    };
    match attempt(Type::STREAM) {
        Ok(socket) => Ok(Socket::connected(socket.into(), false)),
        Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => {
            Ok(Socket::connected(attempt(Type::SEQPACKET)?.into(), true))
        }
        Err(error) => Err(error),
    }
}

/// Who is at the other end.
pub(crate) fn peer_identity(socket: &Socket) -> io::Result<PeerIdentity> {
    os::peer_identity(socket.as_fd())
}

/// Whether that is this process's user, or root.
pub(crate) fn is_same_user(user_id: Option<u32>) -> bool {
    user_id.is_some_and(|user| user == 0 || user == effective_user())
}

pub(super) fn effective_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Waits for a while.
pub(crate) fn pause(time: Duration) -> io::Result<()> {
    let until = crate::clock::now() + time;
    while crate::clock::time_left(Some(until)).is_ok() {
        let left = until.saturating_duration_since(crate::clock::now());
        poll_for(&mut [], Some(left))?;
    }
    Ok(())
}

fn address(name: &Name) -> io::Result<SockAddr> {
    let Name::Abstract(name) = name else { return Err(no_pipes()) };
    if !os::HAS_ABSTRACT_NAMES {
        let reason = "only Linux has abstract names: use a path";
        return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
    }
    SockAddr::unix(format!("\0{name}"))
}

fn no_pipes() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "only Windows has named pipes of this kind: use a path",
    )
}
