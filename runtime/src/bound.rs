//! Sockets with an address: those that the master opens for all workers, and those that a worker
//! opens for itself.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use mio::event::Source;
use mio::net::{TcpListener, UdpSocket, UnixListener};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::address::{Address, Peer};
use crate::listen::ListenOptions;
use crate::mailbox::Accepted;

/// A socket that listens, or one of UDP.
#[derive(Debug)]
pub(crate) enum Bound {
    Tcp(TcpListener),
    /// It knows how to get at the path and how to leave it; what we do without is its channels.
    Unix(ipc_core::Listener),
    /// One whose file is not ours.
    InheritedUnix(UnixListener),
    Udp(UdpSocket),
}

impl Bound {
    /// Binds a socket, and listens with it; says the real address.
    pub(crate) fn open(
        address: &Address,
        options: &ListenOptions,
        backlog: u32,
    ) -> io::Result<(Bound, Address)> {
        let backlog = options.backlog.unwrap_or(backlog);
        match address {
            Address::Tcp(address) => {
                let socket = new_socket(*address, Type::STREAM, options)?;
                // A restarted service must not wait for its old connections' TIME_WAIT.
                socket.set_reuse_address(true)?;
                socket.bind(&SockAddr::from(*address)).map_err(with_remedy)?;
                socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX)).map_err(with_remedy)?;
                let socket = TcpListener::from_std(socket.into());
                let address = Address::Tcp(socket.local_addr()?);
                Ok((Bound::Tcp(socket), address))
            }
            Address::Udp(address) => {
                let socket = new_socket(*address, Type::DGRAM, options)?;
                socket.bind(&SockAddr::from(*address)).map_err(with_remedy)?;
                let socket = UdpSocket::from_std(socket.into());
                let address = Address::Udp(socket.local_addr()?);
                Ok((Bound::Udp(socket), address))
            }
            Address::Unix(path) => {
                Bound::open_unix(&ipc_core::Address::path(path)?, backlog, address)
            }
            Address::Abstract(name) => {
                let name = ipc_core::Address::abstract_name(name.as_str())?;
                Bound::open_unix(&name, backlog, address).map_err(with_remedy)
            }
            Address::Inherited(_) => {
                let reason = "an inherited socket is the master's: it can't be exclusive";
                Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
            }
        }
    }

    fn open_unix(
        name: &ipc_core::Address,
        backlog: u32,
        address: &Address,
    ) -> io::Result<(Bound, Address)> {
        let socket = ipc_core::Listener::options()
            .backlog(backlog)
            // Anybody may connect, as over TCP, if the umask and the directory let him.
            .mode(0o777)
            .respects_umask(true)
            .any_directory(true)
            .bind(name)
            .map_err(|error| {
                // Whom this is told knows the address.
                let text = error.to_string();
                let known = format!("cannot listen at {name}: ");
                io::Error::new(error.kind(), text.strip_prefix(&known).unwrap_or(&text))
            })?;
        Ok((Bound::Unix(socket), address.clone()))
    }

    /// Accepts a connection; of a UDP socket there is none.
    pub(crate) fn accept(&self) -> io::Result<Accepted> {
        match self {
            Bound::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                Ok(Accepted::new(stream.into(), Peer::Tcp(peer)))
            }
            Bound::Unix(listener) => {
                let (stream, _) = SockRef::from(listener).accept()?;
                stream.set_nonblocking(true)?;
                Ok(Accepted::new(stream.into(), Peer::Unix))
            }
            Bound::InheritedUnix(listener) => {
                let (stream, _) = listener.accept()?;
                Ok(Accepted::new(stream.into(), Peer::Unix))
            }
            Bound::Udp(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    pub(crate) fn source(&mut self) -> &mut dyn Source {
        match self {
            Bound::Tcp(socket) => socket,
            Bound::Unix(listener) => listener,
            Bound::InheritedUnix(listener) => listener,
            Bound::Udp(socket) => socket,
        }
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Bound::Tcp(socket) => socket.as_fd(),
            Bound::Unix(listener) => listener.as_fd(),
            Bound::InheritedUnix(listener) => listener.as_fd(),
            Bound::Udp(socket) => socket.as_fd(),
        }
    }
}

fn new_socket(address: SocketAddr, kind: Type, options: &ListenOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if let (SocketAddr::V6(_), Some(only)) = (address, options.only_v6) {
        socket.set_only_v6(only)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// What to do about an error, where we know.
pub(crate) fn with_remedy(error: io::Error) -> io::Error {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another socket has this address: stop its program, or choose another address"
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has this address: give it to one, or listen on 0.0.0.0 \
             or [::]"
        }
        io::ErrorKind::PermissionDenied => {
            "a low port takes root or CAP_NET_BIND_SERVICE: choose one from 1024 on (or lower the \
             system's net.ipv4.ip_unprivileged_port_start)"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}: {remedy}"))
}
