//! Sockets that share an address, for [`Steering`](super::Steering).
//!
//! The kernel lets any program of the same user join the sockets of an address, and each would then
//! get some of the connections of the other. So the first socket claims the address for itself
//! alone, and fails when anybody has it; the others join it.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// Listens at an address that nobody else has; with port 0, at a port of the kernel's choice.
///
/// # Errors
///
/// `AddrInUse` also when those who have it would share it.
pub(crate) fn claim_tcp(
    address: SocketAddr,
    backlog: i32,
    only_v6: Option<bool>,
) -> io::Result<TcpListener> {
    let socket = new(address, Type::STREAM, only_v6)?;
    // Else connections of before that are not quite over would count as somebody.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // Once the port is ours. The group comes about with the backlog.
    socket.set_reuse_port(true)?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Listens at the address that a socket of [`claim_tcp`] has: the one that it says, if the port was
/// left to the kernel.
pub(crate) fn join_tcp(
    address: SocketAddr,
    backlog: i32,
    only_v6: Option<bool>,
) -> io::Result<TcpListener> {
    let socket = new(address, Type::STREAM, only_v6)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Binds to an address that nobody else has; with port 0, to a port of the kernel's choice.
///
/// # Errors
///
/// `AddrInUse` also when those who have it would share it. Who binds to it at the very same moment
/// is not seen.
pub(crate) fn claim_udp(address: SocketAddr, only_v6: Option<bool>) -> io::Result<UdpSocket> {
    // Here the group comes about when it is bound, so whether it is free is seen by another socket.
    let alone = new(address, Type::DGRAM, only_v6)?;
    alone.bind(&address.into())?;
    let address = alone.local_addr()?.as_socket().unwrap_or(address);
    drop(alone);
    join_udp(address, only_v6)
}

/// Binds to the address that a socket of [`claim_udp`] has.
pub(crate) fn join_udp(address: SocketAddr, only_v6: Option<bool>) -> io::Result<UdpSocket> {
    let socket = new(address, Type::DGRAM, only_v6)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A socket in non-blocking mode.
fn new(address: SocketAddr, kind: Type, only_v6: Option<bool>) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if let (true, Some(only_v6)) = (address.is_ipv6(), only_v6) {
        socket.set_only_v6(only_v6)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind::AddrInUse;
    use std::net::TcpStream;

    const LOCAL: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

    #[test]
    fn an_address_is_claimed_once_and_joined_by_ours() {
        for local in LOCAL {
            let first = claim_tcp(local.parse().unwrap(), 16, Some(true)).unwrap();
            let address = first.local_addr().unwrap();
            assert_ne!(address.port(), 0);
            let second = join_tcp(address, 16, Some(true)).unwrap();
            assert_eq!(claim_tcp(address, 16, Some(true)).unwrap_err().kind(), AddrInUse);
            drop((first, second));
            claim_tcp(address, 16, Some(true)).unwrap();
        }
        for local in LOCAL {
            let first = claim_udp(local.parse().unwrap(), Some(true)).unwrap();
            let address = first.local_addr().unwrap();
            assert_ne!(address.port(), 0);
            let second = join_udp(address, Some(true)).unwrap();
            assert_eq!(claim_udp(address, Some(true)).unwrap_err().kind(), AddrInUse);
            drop((first, second));
            claim_udp(address, Some(true)).unwrap();
        }
    }

    #[test]
    fn an_address_of_others_is_not_joined() {
        let theirs = TcpListener::bind(LOCAL[0]).unwrap();
        let address = theirs.local_addr().unwrap();
        assert_eq!(claim_tcp(address, 16, None).unwrap_err().kind(), AddrInUse);
        assert_eq!(join_tcp(address, 16, None).unwrap_err().kind(), AddrInUse);
        let theirs = UdpSocket::bind(LOCAL[0]).unwrap();
        let address = theirs.local_addr().unwrap();
        assert_eq!(claim_udp(address, None).unwrap_err().kind(), AddrInUse);
        assert_eq!(join_udp(address, None).unwrap_err().kind(), AddrInUse);
    }

    #[test]
    fn connections_that_are_almost_over_claim_nothing() {
        let first = claim_tcp(LOCAL[0].parse().unwrap(), 16, None).unwrap();
        let address = first.local_addr().unwrap();
        first.set_nonblocking(false).unwrap();
        let client = TcpStream::connect(address).unwrap();
        // The side that closes first keeps the address for a while.
        drop(first.accept().unwrap());
        drop((first, client));
        claim_tcp(address, 16, None).unwrap();
    }

    #[test]
    fn both_families_on_one_port_are_two_sockets_only_if_asked_for() {
        let v6 = claim_tcp("[::]:0".parse().unwrap(), 16, Some(true)).unwrap();
        let port = v6.local_addr().unwrap().port();
        let v4 = claim_tcp(SocketAddr::from(([0, 0, 0, 0], port)), 16, None);
        // Another program may have the port of that family by chance.
        assert!(v4.is_ok() || v4.unwrap_err().kind() == AddrInUse);
        let dual = claim_tcp("[::]:0".parse().unwrap(), 16, Some(false)).unwrap();
        let port = dual.local_addr().unwrap().port();
        let v4 = claim_tcp(SocketAddr::from(([0, 0, 0, 0], port)), 16, None);
        assert_eq!(v4.unwrap_err().kind(), AddrInUse);
    }
}
