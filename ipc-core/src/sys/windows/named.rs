//! Pipes with names: listening, connecting, and who the peer is.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::windows::io::{AsHandle, OwnedHandle};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use handle_passing::{Handle, HandleKind};
use mio::event::Source;
use mio::windows::NamedPipe;
use mio::{Interest, Registry, Token};
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_NO_DATA, ERROR_NOT_ENOUGH_MEMORY, ERROR_PIPE_BUSY,
    ERROR_PIPE_CONNECTED, ERROR_TOO_MANY_OPEN_FILES,
};

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
}

#[derive(Debug)]
struct State {
    /// `None` if the next one could not be made; it is tried again.
    instance: Option<Instance>,
    /// The poll that new instances belong to.
    poll: Option<(Registry, Token, Interest)>,
}

/// An instance that waits for a client, or has one.
#[derive(Debug)]
enum Instance {
    Own { pipe: OwnedHandle, operation: Operation, is_connected: bool },
    Mio(NamedPipe),
}

impl Listening {
    pub(crate) fn bind(name: &Name, _options: &ListenerOptions) -> io::Result<Self> {
        let name = pipe_name(name)?;
        let pipe = security::create(&name, true, INSTANCES_MAX).map_err(in_use)?;
        let state = State { instance: Some(Instance::own(pipe)?), poll: None };
        Ok(Self { name, state: Mutex::new(state) })
    }

    pub(crate) fn accept(&self) -> Result<Accepted, AcceptError> {
        let mut state = self.state();
        loop {
            if state.instance.is_none() {
                let next = self.next(state.poll.as_ref()).map_err(exhausted)?;
                state.instance = Some(next);
            }
            let Some(instance) = &mut state.instance else { continue };
            match instance.has_client() {
                Ok(false) => return Ok(Accepted::Nobody),
                Ok(true) => {
                    let socket =
                        state.instance.take().expect("it has a client").into_socket(&state.poll);
                    // Whoever comes next shall find an instance at once; if there is none, the
                    // next call says why.
                    state.instance = self.next(state.poll.as_ref()).ok();
                    let socket = socket.map_err(AcceptError::Io)?;
                    let peer = peer_identity(&socket).map_err(AcceptError::Io)?;
                    return Ok(Accepted::Peer(socket, peer));
                }
                // The client has come and gone.
                Err(error) if os_code(&error) == ERROR_NO_DATA => state.instance = None,
                Err(error) => return Err(AcceptError::Io(error)),
            }
        }
    }

    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        match &self.state().instance {
            Some(Instance::Own { is_connected: true, .. }) | None => Ok(()),
            Some(Instance::Own { operation, .. }) => operation.wait(timeout).map(drop),
            Some(Instance::Mio(_)) => {
                let reason = "a listener that is registered with a poll can't block on Windows: \
                              use try_accept";
                Err(io::Error::new(io::ErrorKind::Unsupported, reason))
            }
        }
    }

    fn next(&self, poll: Option<&(Registry, Token, Interest)>) -> io::Result<Instance> {
        let instance = Instance::own(security::create(&self.name, false, INSTANCES_MAX)?)?;
        match poll {
            Some((registry, token, on)) => instance.into_mio(registry, *token, *on),
            None => Ok(instance),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Instance {
    fn own(pipe: OwnedHandle) -> io::Result<Self> {
        let mut operation = Operation::new()?;
        let is_connected = match operation.begin_connect(pipe.as_handle()) {
            Err(error) if os_code(&error) == ERROR_PIPE_CONNECTED => true,
            begun => begun.map(|()| false)?,
        };
        Ok(Self::Own { pipe, operation, is_connected })
    }

    fn has_client(&mut self) -> io::Result<bool> {
        match self {
            Self::Own { is_connected: true, .. } => Ok(true),
            Self::Own { pipe, operation, is_connected } => {
                let connected = operation.finish(pipe.as_handle(), Some(Duration::ZERO))?;
                *is_connected = connected.is_some();
                Ok(*is_connected)
            }
            Self::Mio(pipe) => match pipe.connect() {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    fn into_socket(mut self, poll: &Option<(Registry, Token, Interest)>) -> io::Result<Socket> {
        match &mut self {
            Self::Own { .. } => {}
            Self::Mio(pipe) => {
                if let Some((registry, ..)) = poll {
                    pipe.deregister(registry)?;
                }
            }
        }
        match self.take() {
            Taken::Own(pipe) => Socket::new(pipe, Side::Server, None, false),
            Taken::Mio(pipe) => Socket::of_mio(pipe, Side::Server, None, false),
        }
    }

    fn into_mio(self, registry: &Registry, token: Token, on: Interest) -> io::Result<Self> {
        let mut pipe = match self.take() {
            Taken::Own(pipe) => security::into_mio(pipe),
            Taken::Mio(pipe) => pipe,
        };
        pipe.register(registry, token, on)?;
        match pipe.connect() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(Self::Mio(pipe)),
        }
    }

    fn take(self) -> Taken {
        match self {
            Self::Own { pipe, mut operation, .. } => {
                operation.cancel(pipe.as_handle());
                Taken::Own(pipe)
            }
            Self::Mio(pipe) => Taken::Mio(pipe),
        }
    }
}

enum Taken {
    Own(OwnedHandle),
    Mio(NamedPipe),
}

impl Drop for Listening {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(state.instance.take().map(Instance::take));
    }
}

impl Source for Listening {
    fn register(&mut self, registry: &Registry, token: Token, on: Interest) -> io::Result<()> {
        let mut state = self.state();
        state.poll = Some((registry.try_clone()?, token, on));
        if let Some(instance) = state.instance.take() {
            state.instance = Some(instance.into_mio(registry, token, on)?);
        }
        Ok(())
    }

    fn reregister(&mut self, registry: &Registry, token: Token, on: Interest) -> io::Result<()> {
        let mut state = self.state();
        state.poll = Some((registry.try_clone()?, token, on));
        match &mut state.instance {
            Some(Instance::Mio(pipe)) => pipe.reregister(registry, token, on),
            Some(Instance::Own { .. }) => Err(io::ErrorKind::NotFound.into()),
            None => Ok(()),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match &mut self.state().instance {
            Some(Instance::Mio(pipe)) => pipe.deregister(registry),
            Some(Instance::Own { .. }) => Err(io::ErrorKind::NotFound.into()),
            None => Ok(()),
        }
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
    match Instance::own(server)? {
        Instance::Own { pipe, .. } => Ok((pipe, client)),
        Instance::Mio(_) => unreachable!("it is our own"),
    }
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
