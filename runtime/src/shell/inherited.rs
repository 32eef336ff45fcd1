//! Sockets that this process was started with.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use handle_passing::HandleKind;
use mio::net::{TcpListener, UdpSocket, UnixListener};
use socket2::{SockAddr, Socket};

use crate::address::{Address, Inherited};
use crate::bound::Bound;
use crate::sys;

/// The number of the first descriptor that systemd passes on.
const FIRST: u32 = 3;

/// The variables by which systemd says what it passes on, and to whom.
pub(super) const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// A duplicate of an inherited socket, and its real address.
pub(super) fn open(inherited: &Inherited) -> io::Result<(Bound, Address)> {
    let number = match inherited {
        Inherited::Number(number) => *number,
        Inherited::Systemd { name, index } => {
            let variables = VARIABLES.map(|name| std::env::var(name).ok());
            find(name, *index, std::process::id(), variables)
                .map_err(|reason| io::Error::new(io::ErrorKind::NotFound, reason))?
        }
    };
    bound(sys::inherited_descriptor(number)?, number)
}

fn bound(socket: OwnedFd, number: u32) -> io::Result<(Bound, Address)> {
    let kind = handle_passing::kind(&socket)?;
    let socket = Socket::from(socket);
    let address = socket.local_addr();
    let bound = match kind {
        HandleKind::TcpListener => {
            let address = Address::Tcp(ip(address?)?);
            (Bound::Tcp(TcpListener::from_std(nonblocking(socket)?.into())), address)
        }
        HandleKind::UdpSocket => {
            let address = Address::Udp(ip(address?)?);
            (Bound::Udp(UdpSocket::from_std(nonblocking(socket)?.into())), address)
        }
        HandleKind::UnixListener => {
            let address = unix(&address?)?;
            (Bound::InheritedUnix(UnixListener::from_std(nonblocking(socket)?.into())), address)
        }
        other => {
            let reason = format!(
                "descriptor {number} is {other}; what can be listened on is a TCP or Unix stream \
                 socket that listens, or a UDP socket"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
    };
    Ok(bound)
}

fn nonblocking(socket: Socket) -> io::Result<Socket> {
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn ip(address: SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::other("its address is none of IP"))
}

fn unix(address: &SockAddr) -> io::Result<Address> {
    if let Some(path) = address.as_pathname() {
        return Ok(Address::Unix(path.to_owned()));
    }
    let name = address.as_abstract_namespace().unwrap_or_default();
    Ok(Address::Abstract(String::from_utf8_lossy(name).into_owned()))
}

/// The number of the descriptor with a name, as sd_listen_fds_with_names(3) finds it; the error
/// says what there is instead.
fn find(
    name: &str,
    index: u16,
    process: u32,
    [pid, count, names]: [Option<String>; 3],
) -> Result<u32, String> {
    let (Some(pid), Some(count)) = (pid, count) else {
        return Err("systemd has passed on no sockets (LISTEN_PID and LISTEN_FDS are not set): \
                    start the service by its socket unit"
            .into());
    };
    if pid.parse() != Ok(process) {
        return Err(format!(
            "systemd has passed on its sockets to process {pid} (LISTEN_PID), and this is \
             {process}: start it without another process in between"
        ));
    }
    let count: u32 = count.parse().map_err(|_| format!("LISTEN_FDS is no number: {count:?}"))?;
    let numbers = FIRST..FIRST.saturating_add(count);
    let found = match &names {
        Some(names) => numbers
            .zip(names.split(':'))
            .filter(|(_, other)| *other == name)
            .map(|(number, _)| number)
            .nth(index.into()),
        // Then all are called so.
        None => numbers.filter(|_| name == "unknown").nth(index.into()),
    };
    let names = names.as_deref().unwrap_or("unknown");
    found.ok_or_else(|| format!("of {count} inherited sockets, called {names:?}, none is that one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(name: &str, index: u16, variables: [Option<&str>; 3]) -> Result<u32, String> {
        find(name, index, 42, variables.map(|text| text.map(str::to_owned)))
    }

    #[test]
    fn a_name_is_found_at_its_place() {
        let variables = [Some("42"), Some("4"), Some("web:admin:web:")];
        assert_eq!(look("web", 0, variables), Ok(3));
        assert_eq!(look("admin", 0, variables), Ok(4));
        assert_eq!(look("web", 1, variables), Ok(5));
        let unnamed = [Some("42"), Some("2"), None];
        assert_eq!(look("unknown", 1, unnamed), Ok(4));
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        let cases = [
            ("web", 0, [None, Some("1"), Some("web")], "LISTEN_PID"),
            ("web", 0, [Some("42"), None, Some("web")], "LISTEN_FDS"),
            ("web", 0, [Some("41"), Some("1"), Some("web")], "to process 41"),
            ("web", 0, [Some("42"), Some("x"), Some("web")], "\"x\""),
            ("web", 0, [Some("42"), Some("1"), Some("admin")], "\"admin\""),
            ("web", 1, [Some("42"), Some("1"), Some("web")], "\"web\""),
            ("web", 0, [Some("42"), Some("0"), Some("web")], "of 0"),
            // Names beyond the sockets name nothing.
            ("web", 0, [Some("42"), Some("1"), Some("admin:web")], "admin"),
        ];
        for (name, index, variables, told) in cases {
            let error = look(name, index, variables).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
