//! Where a cluster listens.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// An address to listen on: TCP (IPv4 or IPv6), or a Unix-domain socket's path.
///
/// As text, `127.0.0.1:8080`, `[::1]:8080` or `localhost:8080` (the first address that the name
/// has) is TCP; `unix:PATH`, or anything with a slash, is a path. Port 0 lets the system choose
/// one, the same for all workers.
///
/// ```
/// use runtime::Address;
///
/// let tcp: Address = "127.0.0.1:8080".parse()?;
/// let path: Address = "unix:/run/app.sock".parse()?;
/// assert_eq!(tcp.to_string(), "127.0.0.1:8080");
/// assert_eq!(path.to_string(), "unix:/run/app.sock");
/// # Ok::<(), runtime::ParseAddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A TCP address and port.
    Tcp(SocketAddr),
    /// The path of a Unix-domain stream socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address::Tcp(address)
    }
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let fail = |why: String| ParseAddressError { text: text.to_owned(), why };
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(fail("the path is empty".into()));
            }
            return Ok(Address::Unix(path.into()));
        }
        if text.contains('/') {
            return Ok(Address::Unix(text.into()));
        }
        let mut found = text.to_socket_addrs().map_err(|e| fail(e.to_string()))?;
        found.next().map(Address::Tcp).ok_or_else(|| fail("the name has no address".into()))
    }
}

impl TryFrom<&str> for Address {
    type Error = ParseAddressError;

    fn try_from(text: &str) -> Result<Self, ParseAddressError> {
        text.parse()
    }
}

/// A text that is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseAddressError {
    text: String,
    why: String,
}

impl fmt::Display for ParseAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no address to listen on ({})", self.text, self.why)?;
        f.write_str("; expected HOST:PORT, [IPV6]:PORT or unix:PATH")
    }
}

impl std::error::Error for ParseAddressError {}

impl From<std::convert::Infallible> for ParseAddressError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A TCP client.
    Tcp(SocketAddr),
    /// A process on this machine, over a Unix-domain socket.
    Unix,
}

impl Peer {
    /// A number that is the same for all connections of one client address, whatever its port.
    pub(crate) fn key(&self) -> u64 {
        // FNV-1a: tiny, and stable between runs and builds, which sticky policies need.
        let fnv = |bytes: &[u8]| {
            bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            })
        };
        match self {
            Peer::Tcp(SocketAddr::V4(address)) => fnv(&address.ip().octets()),
            Peer::Tcp(SocketAddr::V6(address)) => fnv(&address.ip().octets()),
            Peer::Unix => 0,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_addresses_and_back() {
        for text in ["127.0.0.1:0", "[::1]:80", "unix:/run/a.sock", "unix:relative"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("/run/x".parse::<Address>().unwrap().to_string(), "unix:/run/x");
    }

    #[test]
    fn bad_texts_name_themselves_and_the_remedy() {
        for text in ["", "8080", "127.0.0.1", "127.0.0.1:70000", "unix:"] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
            assert!(error.contains("HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn a_peers_key_ignores_the_port() {
        let key = |text: &str| Peer::Tcp(text.parse().unwrap()).key();
        assert_eq!(key("10.0.0.1:1"), key("10.0.0.1:2"));
        assert_ne!(key("10.0.0.1:1"), key("10.0.0.2:1"));
        assert_eq!(key("[::1]:1"), key("[::1]:2"));
    }
}
