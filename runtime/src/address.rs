//! Where a cluster listens.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path of a Unix-domain socket, in bytes: the system's limit for paths. The last part
/// may be shorter still, which is checked where it is bound.
const PATH_BYTES_MAX: usize = 4096;

/// The longest name without a file, in bytes: what the system's addresses have room for.
const ABSTRACT_BYTES_MAX: usize = 107;

/// The longest name that systemd gives a descriptor, in bytes.
const SYSTEMD_BYTES_MAX: usize = 255;

/// An address to listen on.
///
/// As text:
///
/// | text | what it is |
/// |---|---|
/// | `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080` | TCP; the first address of a name |
/// | `tcp:HOST:PORT` | the same |
/// | `udp:HOST:PORT` | UDP, for [`Worker::bind`](crate::Worker::bind) |
/// | `unix:PATH`, or anything else with a slash | a Unix-domain socket with a file |
/// | `unix:@NAME` | a Unix-domain socket without a file; a file's path would be `unix:./@NAME` |
/// | `fd:NUMBER` | an inherited descriptor |
/// | `systemd:NAME`, `systemd:NAME:INDEX` | an inherited descriptor, see [`Inherited`] |
///
/// Port 0 lets the system choose one, the same for all workers.
///
/// ```
/// use runtime::Address;
///
/// let tcp: Address = "127.0.0.1:8080".parse()?;
/// let path: Address = "unix:/run/app.sock".parse()?;
/// assert_eq!(tcp.to_string(), "127.0.0.1:8080");
/// assert_eq!(path.to_string(), "unix:/run/app.sock");
/// assert_eq!("udp:[::1]:53".parse(), Ok(Address::Udp("[::1]:53".parse()?)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A TCP address and port.
    Tcp(SocketAddr),
    /// The path of a Unix-domain stream socket. A worker resolves a relative one from where it is.
    Unix(PathBuf),
    /// The name of a Unix-domain stream socket that has no file: anybody on this machine (in this
    /// network namespace) may connect to it, or take the name first.
    Abstract(String),
    /// A UDP address and port.
    Udp(SocketAddr),
    /// A socket that this cluster's master was started with.
    Inherited(Inherited),
}

/// A socket that this cluster's master was started with: one that listens, on TCP or a Unix-domain
/// address, or one of UDP.
///
/// It becomes non-blocking, for everybody who has it, and stays open in the master's process when
/// the cluster has ended; its backlog, or its buffer, then waits for the next one. Once a worker
/// listens, [`local_address`](crate::Listener::local_address) and events tell its real address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Inherited {
    /// The number of its descriptor in the master. One that the master's program has opened itself
    /// is refused, by its being close-on-exec.
    Number(u32),
    /// The name that systemd gave it (`FileDescriptorName=`, by default the socket unit's name),
    /// as in `LISTEN_FDNAMES`.
    Systemd {
        /// The name.
        name: String,
        /// Which one of those with that name, from 0: a unit with several addresses gives all of
        /// them its name, in order.
        index: u16,
    },
}

impl Address {
    /// What is wrong with it, so that nobody can listen there.
    pub(crate) fn check(&self) -> Option<&'static str> {
        match self {
            Address::Unix(path) => match path.as_os_str().as_encoded_bytes() {
                [] => Some("the path is empty"),
                bytes if bytes.contains(&0) => Some("the path has a NUL byte"),
                bytes if bytes.len() > PATH_BYTES_MAX => Some("the path is longer than 4096 bytes"),
                _ => None,
            },
            Address::Abstract(name) => {
                let fits = (1..=ABSTRACT_BYTES_MAX).contains(&name.len()) && !name.contains('\0');
                (!fits).then_some("such a name has 1 to 107 bytes, none of them NUL")
            }
            Address::Inherited(Inherited::Systemd { name, .. }) => {
                let is_sound =
                    name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b':');
                let fits = (1..=SYSTEMD_BYTES_MAX).contains(&name.len()) && is_sound;
                (!fits).then_some("such a name has 1 to 255 ASCII characters, none of them a colon")
            }
            Address::Tcp(_) | Address::Udp(_) | Address::Inherited(Inherited::Number(_)) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Udp(address) => write!(f, "udp:{address}"),
            // Not to be taken for a name.
            Address::Unix(path) if path.as_os_str().as_encoded_bytes().starts_with(b"@") => {
                write!(f, "unix:./{}", path.display())
            }
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Abstract(name) => write!(f, "unix:@{name}"),
            Address::Inherited(inherited) => inherited.fmt(f),
        }
    }
}

impl fmt::Display for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Inherited::Number(number) => write!(f, "fd:{number}"),
            Inherited::Systemd { name, index: 0 } => write!(f, "systemd:{name}"),
            Inherited::Systemd { name, index } => write!(f, "systemd:{name}:{index}"),
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
        let parsed = match text.split_once(':') {
            Some(("unix", name)) if name.starts_with('@') => {
                Ok(Address::Abstract(name[1..].into()))
            }
            Some(("unix", path)) => Ok(Address::Unix(path.into())),
            Some(("fd", number)) => parse_number(number),
            Some(("systemd", name)) => parse_systemd(name),
            Some(("udp", address)) => resolve(address).map(Address::Udp),
            Some(("tcp", address)) => resolve(address).map(Address::Tcp),
            _ if text.contains('/') => Ok(Address::Unix(text.into())),
            _ => resolve(text).map(Address::Tcp),
        };
        parsed
            .and_then(|address| address.check().map_or(Ok(address), |why| Err(why.into())))
            .map_err(|why| ParseAddressError { text: text.to_owned(), why })
    }
}

fn resolve(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|error| error.to_string())?;
    found.next().ok_or_else(|| "the name has no address".into())
}

fn parse_number(text: &str) -> Result<Address, String> {
    let number = text.parse().map_err(|_| "a descriptor is a number")?;
    Ok(Address::Inherited(Inherited::Number(number)))
}

fn parse_systemd(text: &str) -> Result<Address, String> {
    let (name, index) = match text.split_once(':') {
        Some((name, index)) => (name, index.parse().map_err(|_| "the index is a number, from 0")?),
        None => (text, 0),
    };
    Ok(Address::Inherited(Inherited::Systemd { name: name.into(), index }))
}

impl From<Inherited> for Address {
    fn from(inherited: Inherited) -> Self {
        Address::Inherited(inherited)
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
        f.write_str(
            "; expected [tcp:]HOST:PORT, udp:HOST:PORT, unix:PATH, fd:NUMBER or systemd:NAME",
        )
    }
}

impl std::error::Error for ParseAddressError {}

impl From<std::convert::Infallible> for ParseAddressError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// A number that stands for these bytes: FNV-1a, tiny, and stable between runs and builds, which
/// policies that keep clients with workers need.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
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
    use proptest::prelude::*;
    use proptest::sample;

    use super::*;

    #[test]
    fn texts_become_addresses_and_back() {
        let texts = [
            "127.0.0.1:0",
            "[::1]:80",
            "unix:/run/a.sock",
            "unix:relative",
            "unix:./@file",
            "unix:@name",
            "udp:127.0.0.1:53",
            "udp:[::1]:0",
            "fd:3",
            "systemd:app.socket",
            "systemd:app.socket:2",
        ];
        for text in texts {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for (text, same) in [
            ("/run/x", "unix:/run/x"),
            ("tcp:127.0.0.1:80", "127.0.0.1:80"),
            ("systemd:app:0", "systemd:app"),
            ("fd:003", "fd:3"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), same);
        }
        assert_eq!(Address::Unix("@file".into()).to_string(), "unix:./@file");
    }

    proptest! {
        #[test]
        fn every_address_reads_back_what_it_shows(address in address()) {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        /// Of kinds for which no name is looked up.
        #[test]
        fn every_text_is_an_address_or_an_error(
            kind in sample::select(vec!["unix:", "fd:", "systemd:", "/"]), rest: String,
        ) {
            if let Ok(address) = format!("{kind}{rest}").parse::<Address>() {
                prop_assert_eq!(address.check(), None);
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }

    fn address() -> impl Strategy<Value = Address> {
        let systemd = |(name, index)| Address::Inherited(Inherited::Systemd { name, index });
        prop_oneof![
            any::<(std::net::IpAddr, u16)>().prop_map(|pair| Address::Tcp(pair.into())),
            any::<(std::net::IpAddr, u16)>().prop_map(|pair| Address::Udp(pair.into())),
            "[a-z][a-z@/.:]{0,99}".prop_map(|path| Address::Unix(path.into())),
            "[a-zü@/:]{1,50}".prop_map(Address::Abstract),
            any::<u32>().prop_map(|number| Address::Inherited(Inherited::Number(number))),
            ("[ -9;-~]{1,255}", any::<u16>()).prop_map(systemd),
        ]
    }

    #[test]
    fn what_nobody_can_listen_on_is_known_before() {
        let long = "x".repeat(5000);
        let systemd = |name: &str| Inherited::Systemd { name: name.into(), index: 0 }.into();
        let bad = [
            Address::Unix("a\0b".into()),
            Address::Unix(long.clone().into()),
            Address::Abstract("a\0b".into()),
            Address::Abstract("x".repeat(108)),
            systemd("a:b"),
            systemd("ä"),
            systemd(&long),
        ];
        for address in bad {
            assert!(address.check().is_some(), "{address}");
        }
    }

    #[test]
    fn bad_texts_name_themselves_and_the_remedy() {
        for text in [
            "",
            "8080",
            "127.0.0.1",
            "127.0.0.1:70000",
            "unix:",
            "unix:@",
            "udp:127.0.0.1",
            "udp:/run/x",
            "fd:",
            "fd:-1",
            "fd:4294967296",
            "systemd:",
            "systemd:a:b",
            "systemd:a:70000",
        ] {
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
