//! A listening socket of the master's.

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

use mio::{Interest, Registry, Token};
use socket2::SockRef;

use crate::address::Address;
use crate::bound::Bound;
use crate::listen::ListenOptions;
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
    socket: Bound,
    /// Whether nobody but our workers has it.
    is_ours: bool,
    reserve: Option<File>,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Listener {
    /// Listens on `address`; says the real one.
    pub(super) fn open(
        address: &Address,
        options: &ListenOptions,
        backlog: u32,
    ) -> io::Result<(Listener, Address)> {
        let asked = address;
        let (socket, address) = match asked {
            Address::Inherited(inherited) => super::inherited::open(inherited)?,
            _ => Bound::open(asked, options, backlog)?,
        };
        let is_ours = !matches!(asked, Address::Inherited(_));
        Ok((Listener { socket, is_ours, reserve: Some(open_reserve()?) }, address))
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
            let error = match self.socket.accept() {
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
        let shed = self.socket.accept();
        let outcome = match shed {
            Ok(_) => Accept::Shed,
            Err(error) if accept_failure(&error) == AcceptFailure::Empty => Accept::Empty,
            Err(_) => Accept::Exhausted(cause),
        };
        self.reserve = open_reserve().ok();
        outcome
    }

    /// Whether it is for datagrams, of which nothing is accepted.
    pub(super) fn is_udp(&self) -> bool {
        matches!(self.socket, Bound::Udp(_))
    }

    /// Refuses clients from now on, though workers may still have the socket.
    pub(super) fn shut_down(&self) {
        if !self.is_ours {
            return;
        }
        let socket = SockRef::from(self);
        if let Err(error) = socket.shutdown(Shutdown::Both) {
            tracing::debug!(%error, "a listener can't be shut down");
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.source().register(registry, token, Interest::READABLE)
    }

    pub(super) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket.source().deregister(registry)
    }
}

fn open_reserve() -> io::Result<File> {
    File::open("/dev/null")
}
