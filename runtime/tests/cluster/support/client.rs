//! Clients of the workers in role `serve` and its kin.
//!
//! Such a worker says its name as soon as it has taken a connection, waits for a line, answers it,
//! and closes. So a client knows by whom it was taken, and can keep that worker busy.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

use runtime::Address;
use socket2::{Domain, SockAddr, Socket, Type};

use super::DEADLINE;

/// What fits into a socket's address.
const PATH_BYTES_MAX: usize = 108;

pub(crate) struct Client(Socket);

impl Client {
    #[track_caller]
    pub(crate) fn connect(address: &Address) -> Client {
        Client::try_connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    pub(crate) fn try_connect(address: &Address) -> io::Result<Client> {
        // Kept open until it is connected: the way to a path that is too long leads through it.
        let mut directory = None;
        let (domain, address) = match address {
            Address::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
            Address::Unix(path) if path.as_os_str().len() < PATH_BYTES_MAX => {
                (Domain::UNIX, SockAddr::unix(path)?)
            }
            Address::Unix(path) => {
                let (parent, name) = (path.parent().expect("one"), path.file_name().expect("one"));
                let parent = directory.insert(File::open(parent)?);
                let place = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string());
                (Domain::UNIX, SockAddr::unix(place.join(name))?)
            }
            Address::Abstract(name) => (Domain::UNIX, SockAddr::unix(format!("\0{name}"))?),
            other => panic!("{other} takes no connections"),
        };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        if domain == Domain::UNIX {
            socket.connect(&address)?;
        } else {
            socket.connect_timeout(&address, DEADLINE)?;
        }
        Ok(Client(socket))
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.0.local_addr().expect("a socket").as_socket().expect("an IP address")
    }

    pub(crate) fn send(&mut self, text: &str) -> io::Result<()> {
        (&self.0).write_all(text.as_bytes())
    }

    /// The next line, without its end.
    pub(crate) fn try_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            match (&self.0).read(&mut byte)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ if byte == *b"\n" => return String::from_utf8(line).map_err(io::Error::other),
                _ => line.extend(byte),
            }
        }
    }

    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        self.try_line().unwrap_or_else(|error| panic!("read a line: {error}"))
    }

    /// Waits for the end of the connection, or an error.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        let mut rest = Vec::new();
        (&self.0).read_to_end(&mut rest)?;
        if rest.is_empty() { Ok(()) } else { Err(io::Error::other("more came than was expected")) }
    }

    /// Asks for an answer and gets it; the other half of being taken.
    pub(crate) fn try_finish(&mut self) -> io::Result<()> {
        self.send("\n")?;
        self.expect_done()
    }

    #[track_caller]
    pub(crate) fn finish(&mut self) {
        self.try_finish().unwrap_or_else(|error| panic!("an answer: {error}"));
    }

    /// Gets the answer that was asked for.
    pub(crate) fn expect_done(&mut self) -> io::Result<()> {
        match self.try_line()?.as_str() {
            "done" => self.end(),
            other => Err(io::Error::other(format!("answered {other:?}"))),
        }
    }
}

/// Connects, is served, and says by which worker.
#[track_caller]
pub(crate) fn ask(address: &Address) -> String {
    try_ask(address).unwrap_or_else(|error| panic!("ask {address}: {error}"))
}

pub(crate) fn try_ask(address: &Address) -> io::Result<String> {
    let mut client = Client::try_connect(address)?;
    client.send("\n")?;
    let name = client.try_line()?;
    client.expect_done()?;
    Ok(name)
}
