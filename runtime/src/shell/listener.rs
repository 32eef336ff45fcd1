//! A listening socket of the master's.

use std::fs::File;
use std::io;

use mio::event::Source;
use mio::net::TcpListener;
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::address::{Address, Peer};
use crate::mailbox::Accepted;
use crate::sys::{AcceptFailure, accept_failure};

/// What came of accepting.
#[derive(Debug)]
pub(super) enum Accept {
    Connection(Accepted),
    /// The backlog is empty.
    Empty,
    /// A client was accepted and closed, for lack of descriptors.
    Shed,
    /// Nothing can be accepted for a while.
    Exhausted(io::Error),
}

/// A listening socket, and a descriptor kept in reserve for when there are no others.
///
/// Without the reserve a process that is out of descriptors can't even refuse: the client stays in
/// the backlog, the socket stays readable, and the loop spins (libev's `ev(3)`, "The special
/// problem of accept()ing when you can't", describes the remedy).
#[derive(Debug)]
pub(super) struct Listener {
    socket: ListenerSocket,
    reserve: Option<File>,
}

#[derive(Debug)]
enum ListenerSocket {
    Tcp(TcpListener),
    /// It knows how to get at the path and how to leave it; what we do without is its channels.
    Unix(ipc_core::Listener),
}

impl Listener {
    /// Listens on `address`; says the real one.
    pub(super) fn open(address: &Address, backlog: u32) -> io::Result<(Listener, Address)> {
        let reserve = Some(open_reserve()?);
        match address {
            Address::Tcp(address) => {
                let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
                // A restarted service must not wait for its old connections' TIME_WAIT.
                socket.set_reuse_address(true)?;
                socket.bind(&SockAddr::from(*address))?;
                socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
                socket.set_nonblocking(true)?;
                let socket = TcpListener::from_std(socket.into());
                let address = socket.local_addr()?.into();
                Ok((Listener { socket: ListenerSocket::Tcp(socket), reserve }, address))
            }
            Address::Unix(path) => {
                let socket = ipc_core::Listener::options()
                    .backlog(backlog)
                    // Anybody may connect, as over TCP, if the umask and the directory let him.
                    .mode(0o777)
                    .respects_umask(true)
                    .any_directory(true)
                    .bind(&ipc_core::Address::path(path)?)?;
                Ok((Listener { socket: ListenerSocket::Unix(socket), reserve }, address.clone()))
            }
        }
    }

    /// Accepts a connection.
    pub(super) fn accept(&mut self) -> Accept {
        if self.reserve.is_none() {
            match open_reserve() {
                Ok(reserve) => self.reserve = Some(reserve),
                Err(error) => return Accept::Exhausted(error),
            }
        }
        loop {
            let error = match self.accept_once() {
                Ok(connection) => return Accept::Connection(connection),
                Err(error) => error,
            };
            match accept_failure(&error) {
                AcceptFailure::Empty => return Accept::Empty,
                AcceptFailure::Retry => tracing::debug!(%error, "accept: connection lost"),
                AcceptFailure::Pause => return Accept::Exhausted(error),
                AcceptFailure::NoDescriptor => return self.shed(error),
            }
        }
    }

    /// Closes one client with the help of the reserve.
    fn shed(&mut self, cause: io::Error) -> Accept {
        drop(self.reserve.take());
        let shed = self.accept_once();
        let outcome = match shed {
            Ok(_) => Accept::Shed,
            Err(error) if accept_failure(&error) == AcceptFailure::Empty => Accept::Empty,
            Err(_) => Accept::Exhausted(cause),
        };
        self.reserve = open_reserve().ok();
        outcome
    }

    fn accept_once(&self) -> io::Result<Accepted> {
        match &self.socket {
            ListenerSocket::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                Ok(Accepted { socket: stream.into(), peer: Peer::Tcp(peer) })
            }
            ListenerSocket::Unix(listener) => {
                let (stream, _) = SockRef::from(listener).accept()?;
                stream.set_nonblocking(true)?;
                Ok(Accepted { socket: stream.into(), peer: Peer::Unix })
            }
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match &mut self.socket {
            ListenerSocket::Tcp(socket) => socket,
            ListenerSocket::Unix(listener) => listener,
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.source().register(registry, token, Interest::READABLE)
    }

    pub(super) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.source().deregister(registry)
    }
}

fn open_reserve() -> io::Result<File> {
    File::open("/dev/null")
}
