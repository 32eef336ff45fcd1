//! Pipes with names: listening, connecting, and who the peer is.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::windows::io::{AsHandle, OwnedHandle};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use handle_passing::{Handle, HandleKind};
use mio::event::Source;
use mio::{Interest, Registry, Token};
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_NO_DATA, ERROR_NOT_ENOUGH_MEMORY, ERROR_PIPE_BUSY,
    ERROR_PIPE_CONNECTED, ERROR_TOO_MANY_OPEN_FILES,
};

use super::alarm::{Bell, Watch, lock};
use super::overlapped::{Operation, os_code};
use super::owner::User;
use super::pipe::Socket;
use super::security::{self, Side};
use crate::PeerIdentity;
use crate::address::Name;
use crate::listener::{AcceptError, ListenerOptions};
use crate::sys::Accepted;

/// The system's limit on a pipe's instances.
const INSTANCES_MAX: u32 = 255;

/// A pipe that waits for clients: one instance at a time, which becomes the connection.
#[derive(Debug)]
pub(crate) struct Listening {
    name: String,
    state: Mutex<State>,
    bell: Arc<Bell>,
}

#[derive(Debug)]
struct State {
    /// As long as a poll waits for the instance, which must be closed later.
    watch: Option<Watch>,
    /// `None` if the next one could not be made; it is tried again.
    instance: Option<Instance>,
}

/// An instance that waits for a client, or has one.
#[derive(Debug)]
struct Instance {
    pipe: OwnedHandle,
    operation: Operation,
    is_connected: bool,
}

impl Listening {
    pub(crate) fn bind(name: &Name, _options: &ListenerOptions) -> io::Result<Self> {
        let name = pipe_name(name)?;
        let pipe = security::create(&name, true, INSTANCES_MAX).map_err(in_use)?;
        let state = State { watch: None, instance: Some(Instance::new(pipe)?) };
        Ok(Self { name, state: Mutex::new(state), bell: Arc::default() })
    }

    pub(crate) fn accept(&self) -> Result<Accepted, AcceptError> {
        let mut state = lock(&self.state);
        let State { watch, instance } = &mut *state;
        loop {
            if instance.is_none() {
                *instance = Some(self.next().map_err(exhausted)?);
            }
            let Some(waiting) = instance else { continue };
            match waiting.has_client() {
                Ok(false) => {
                    let watched = self.bell.watch(watch, waiting.operation.event());
                    return watched.map(|()| Accepted::Nobody).map_err(AcceptError::Io);
                }
                Ok(true) => {
                    *watch = None;
                    let connected = instance.take().expect("it has a client");
                    // Whoever comes next shall find an instance at once; if there is none, the
                    // next call says why.
                    *instance = self.next().ok();
                    let socket = connected.into_socket().map_err(AcceptError::Io)?;
                    let peer = peer_identity(&socket).map_err(AcceptError::Io)?;
                    return Ok(Accepted::Peer(socket, peer));
                }
                // The client has come and gone.
                Err(error) if os_code(&error) == ERROR_NO_DATA => {
                    *watch = None;
                    *instance = None;
                }
                Err(error) => return Err(AcceptError::Io(error)),
            }
        }
    }

    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        match &lock(&self.state).instance {
            Some(Instance { is_connected: false, operation, .. }) => {
                operation.wait(timeout).map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn next(&self) -> io::Result<Instance> {
        Instance::new(security::create(&self.name, false, INSTANCES_MAX)?)
    }
}

impl Instance {
    fn new(pipe: OwnedHandle) -> io::Result<Self> {
        let mut instance = Self { pipe, operation: Operation::new()?, is_connected: false };
        instance.begin()?;
        Ok(instance)
    }

    fn begin(&mut self) -> io::Result<()> {
        match self.operation.begin_connect(self.pipe.as_handle()) {
            Err(error) if os_code(&error) == ERROR_PIPE_CONNECTED => self.is_connected = true,
            begun => begun?,
        }
        Ok(())
    }

    fn has_client(&mut self) -> io::Result<bool> {
        while !self.is_connected {
            match self.operation.finish(self.pipe.as_handle(), Some(Duration::ZERO)) {
                Ok(None) => return Ok(false),
                Ok(Some(_)) => self.is_connected = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => self.begin()?,
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// When it has a client.
    fn into_socket(self) -> io::Result<Socket> {
        Socket::new(self.pipe.try_clone()?, Side::Server, None, false)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.operation.cancel(self.pipe.as_handle());
    }
}

impl Source for Listening {
    fn register(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        self.bell.register(registry, token)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        self.bell.reregister(registry, token)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        lock(&self.state).watch = None;
        self.bell.deregister(registry)
    }
}

/// Connects. A server whose instances are all taken answers `WouldBlock`.
pub(crate) fn connect(name: &Name) -> io::Result<Socket> {
    let pipe = security::open(&pipe_name(name)?).map_err(|error| match os_code(&error) {
        ERROR_PIPE_BUSY => io::Error::new(io::ErrorKind::WouldBlock, "the listener is busy"),
        _ => error,
    })?;
    Socket::new(pipe, Side::Client, None, false)
}

/// Who is at the other end.
pub(crate) fn peer_identity(socket: &Socket) -> io::Result<PeerIdentity> {
    let process = socket.with_handle(|pipe| security::peer_process_id(pipe, socket.side()))?;
    let handle = security::open_process(process).ok();
    let is_same_user = match socket.side() {
        // Nobody else's process can have opened our pipe.
        Side::Server => true,
        // Somebody else may have made a pipe of the name before its rightful owner (F99).
        Side::Client => socket.with_handle(|pipe| User::current()?.owns(pipe))?,
    };
    Ok(PeerIdentity {
        process_id: Some(process),
        user_id: None,
        group_id: None,
        is_same_user,
        process: handle.map(|handle| Handle::from(handle).announced(HandleKind::Process)),
    })
}

/// Both ends of a pipe whose name nobody knows.
pub(super) fn unnamed_pair() -> io::Result<(OwnedHandle, OwnedHandle)> {
    let name = random_name();
    let server = security::create(&name, true, 1)?;
    let client = security::open(&name)?;
    Ok((server, client))
}

/// A name that nobody can guess: 128 bits of the system's randomness.
pub(super) fn random_name() -> String {
    let part = || RandomState::new().hash_one(0_u8);
    full_name(&format!("ipc-core-{:016x}{:016x}", part(), part()))
}

/// Waits for a while.
pub(crate) fn pause(time: Duration) -> io::Result<()> {
    Operation::new()?.wait(Some(time)).map(drop)
}

fn full_name(name: &str) -> String {
    format!(r"\\.\pipe\{name}")
}

fn pipe_name(name: &Name) -> io::Result<String> {
    match name {
        Name::Pipe(name) => Ok(full_name(name)),
        Name::Path(_) | Name::Abstract(_) => {
            let reason = "on Windows channels have names of pipes: use Address::pipe";
            Err(io::Error::new(io::ErrorKind::Unsupported, reason))
        }
    }
}

/// That somebody has a pipe of this name shows in one of two ways, by how he has made it.
fn in_use(error: io::Error) -> io::Error {
    match os_code(&error) {
        ERROR_ACCESS_DENIED | ERROR_PIPE_BUSY => {
            let reason = "a process listens there";
            io::Error::new(io::ErrorKind::AddrInUse, reason)
        }
        _ => error,
    }
}

fn exhausted(error: io::Error) -> AcceptError {
    match os_code(&error) {
        ERROR_PIPE_BUSY | ERROR_NOT_ENOUGH_MEMORY | ERROR_TOO_MANY_OPEN_FILES => {
            AcceptError::Exhausted(error)
        }
        _ => AcceptError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use windows_sys::Win32::Foundation::ERROR_INVALID_OWNER;

    use super::*;
    use crate::PeerPolicy;

    /// Whether a client that connects to a pipe takes it for its own user's.
    fn is_admitted(pipe: &OwnedHandle, name: &str) -> bool {
        let name = Name::Pipe(name.strip_prefix(r"\\.\pipe\").expect("a full name").into());
        let client = connect(&name).expect("an instance waits");
        assert!(Operation::new().and_then(|mut o| o.begin_connect(pipe.as_handle())).is_err());
        let peer = peer_identity(&client).expect("connected");
        assert_eq!(peer.process_id(), Some(std::process::id()));
        PeerPolicy::same_user().admits(&peer)
    }

    #[test]
    fn f99_a_pipe_that_somebody_else_has_made_first_is_not_our_users() {
        let name = random_name();
        let pipe = security::create(&name, true, 1).expect("a new name");
        assert!(is_admitted(&pipe, &name));
        let name = random_name();
        let everybodys = "O:WDD:P(A;;GA;;;WD)";
        match security::create_with(&name, true, 1, everybodys) {
            Ok(pipe) => assert!(!is_admitted(&pipe, &name)),
            // Windows lets hardly anybody make things in the name of others.
            Err(error) => assert_eq!(os_code(&error), ERROR_INVALID_OWNER),
        }
    }
}
