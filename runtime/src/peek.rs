//! What keeps a client with its worker, found in the first bytes that it sends.
//!
//! Nothing here takes bytes out of a connection: the worker reads them as if nobody had looked.

use std::fmt;
use std::time::Duration;

use crate::address::fnv;
use crate::error::Error;

/// The most bytes that may be looked at.
const BYTES_MAX: usize = 64 << 10;

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    /// Connections with this key go to the same worker, if the policy is one that goes by keys.
    Key(u64),
    /// That can't be told yet: look again when more has come.
    More,
    /// They say nothing: the client's address is its key.
    Nothing,
}

impl Peek {
    /// The key that stands for these bytes: a session's name, say.
    #[must_use]
    pub fn key_of(bytes: &[u8]) -> Peek {
        Peek::Key(fnv(bytes))
    }
}

type Finder = Box<dyn FnMut(&[u8]) -> Peek + Send>;

/// How to find a connection's key in its first bytes, before a worker is picked.
///
/// The master looks, without taking anything out, when something has come; it goes on accepting
/// meanwhile. A client that says nothing in time is known by its address, and so are those beyond
/// the 4096 that may wait at a time.
///
/// ```
/// use std::time::Duration;
/// use runtime::{Cluster, PeekOptions, PolicyKind};
///
/// let builder = Cluster::builder()
///     .policy(PolicyKind::ConsistentHash)
///     .peek(PeekOptions::cookie("session").timeout(Duration::from_millis(500)));
/// ```
pub struct PeekOptions {
    pub(crate) find: Finder,
    pub(crate) timeout: Duration,
    pub(crate) bytes_max: usize,
}

impl PeekOptions {
    /// By a function of yours, which gets all bytes that have come so far. It runs on the master's
    /// thread, so it must not block.
    pub fn new(find: impl FnMut(&[u8]) -> Peek + Send + 'static) -> PeekOptions {
        let timeout = Duration::from_secs(1);
        PeekOptions { find: Box::new(find), timeout, bytes_max: 4096 }
    }

    /// By a cookie of an HTTP/1 request, whose name is matched exactly.
    pub fn cookie(name: impl Into<String>) -> PeekOptions {
        let name = name.into();
        PeekOptions::new(move |bytes| http_cookie(bytes, &name))
    }

    /// By the name of the server that a TLS client asks for: clients of one name share a worker.
    pub fn server_name() -> PeekOptions {
        PeekOptions::new(tls_server_name)
    }

    /// How long a client may take to send enough. Default 1 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> PeekOptions {
        self.timeout = timeout;
        self
    }

    /// How many bytes are looked at, 1 to 65536; when so many say nothing, the client's address is
    /// the key. Default 4096.
    #[must_use]
    pub fn bytes_max(mut self, bytes: usize) -> PeekOptions {
        self.bytes_max = bytes;
        self
    }

    /// Finds a setting that is out of its range.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if !(1..=BYTES_MAX).contains(&self.bytes_max) {
            let text =
                format!("PeekOptions::bytes_max is {}; it may be 1 to {BYTES_MAX}", self.bytes_max);
            return Err(Error::invalid(text));
        }
        Ok(())
    }
}

impl fmt::Debug for PeekOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeekOptions")
            .field("timeout", &self.timeout)
            .field("bytes_max", &self.bytes_max)
            .finish_non_exhaustive()
    }
}

/// The cookie of this name in the head of an HTTP/1 request.
fn http_cookie(bytes: &[u8], name: &str) -> Peek {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let head = &bytes[..end.unwrap_or(bytes.len())];
    // The last line may not be whole yet.
    let mut lines: Vec<&[u8]> = head.split(|byte| *byte == b'\n').skip(1).collect();
    if end.is_none() {
        lines.pop();
    }
    let found = lines.into_iter().filter_map(cookie_header).find_map(|cookies| {
        cookies.split(|byte| *byte == b';').find_map(|cookie| {
            let value = cookie.trim_ascii().strip_prefix(name.as_bytes())?;
            value.strip_prefix(b"=")
        })
    });
    match found {
        Some(value) => Peek::key_of(value),
        None if end.is_some() => Peek::Nothing,
        None => Peek::More,
    }
}

/// The value of the header if it is `Cookie`.
fn cookie_header(line: &[u8]) -> Option<&[u8]> {
    let (name, value) = line.split_at_checked(7)?;
    name.eq_ignore_ascii_case(b"cookie:").then(|| value.trim_ascii())
}

/// The server name of a TLS ClientHello (RFC 8446, section 4.1.2; RFC 6066, section 3), if it is in
/// one record, as it is but for hand-made ones.
fn tls_server_name(bytes: &[u8]) -> Peek {
    const HANDSHAKE: u8 = 22;
    const CLIENT_HELLO: u8 = 1;
    if bytes.first().is_some_and(|kind| *kind != HANDSHAKE) {
        return Peek::Nothing;
    }
    let Some(length) = bytes.get(3..5) else { return Peek::More };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    let Some(record) = bytes.get(5..5 + length) else { return Peek::More };
    if record.first() != Some(&CLIENT_HELLO) {
        return Peek::Nothing;
    }
    server_name(record).map_or(Peek::Nothing, Peek::key_of)
}

fn server_name(hello: &[u8]) -> Option<&[u8]> {
    const SERVER_NAME: u16 = 0;
    const HOST_NAME: u8 = 0;
    // The message's head, the version, and the random.
    let mut rest = hello.get(4 + 2 + 32..)?;
    for length_bytes in [1, 2, 1] {
        take(&mut rest, length_bytes)?; // the session, the cipher suites, the compressions
    }
    let mut extensions = take(&mut rest, 2)?;
    while !extensions.is_empty() {
        let kind = u16::from_be_bytes(*extensions.first_chunk()?);
        extensions = &extensions[2..];
        let mut extension = take(&mut extensions, 2)?;
        if kind == SERVER_NAME {
            let mut names = take(&mut extension, 2)?;
            let (kind, name) = names.split_first()?;
            names = name;
            return if *kind == HOST_NAME { take(&mut names, 2) } else { None };
        }
    }
    None
}

/// Takes what has its length, of so many bytes, before it.
fn take<'a>(from: &mut &'a [u8], length_bytes: usize) -> Option<&'a [u8]> {
    let (length, rest) = from.split_at_checked(length_bytes)?;
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (taken, rest) = rest.split_at_checked(length)?;
    *from = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello(name: &[u8]) -> Vec<u8> {
        let with_length = |length_bytes: usize, bytes: &[u8]| {
            let length = bytes.len().to_be_bytes();
            [&length[length.len() - length_bytes..], bytes].concat()
        };
        let names = with_length(2, &[&[0][..], &with_length(2, name)].concat());
        let extensions = [&[0, 23, 0, 0, 0, 0][..], &with_length(2, &names)].concat();
        let body = [
            &[3, 3][..],
            &[7; 32],
            &with_length(1, b"session"),
            &with_length(2, &[0x13, 1]),
            &with_length(1, &[0]),
            &with_length(2, &extensions),
        ];
        let message = [&[1][..], &with_length(3, &body.concat())].concat();
        [&[22, 3, 1][..], &with_length(2, &message)].concat()
    }

    #[test]
    fn a_cookie_is_found_as_soon_as_its_line_is_whole() {
        let request = b"GET / HTTP/1.1\r\nHost: a\r\ncOOkie: a=1; id=42;b=2\r\nX: y\r\n\r\nbody";
        let line_end = request.windows(3).position(|three| three == b"b=2").unwrap() + 5;
        for length in 0..=request.len() {
            let expected = if length < line_end { Peek::More } else { Peek::key_of(b"42") };
            assert_eq!(http_cookie(&request[..length], "id"), expected, "{length}");
        }
        assert_eq!(http_cookie(request, "i"), Peek::Nothing);
        assert_eq!(
            http_cookie(b"GET /?cookie: HTTP/1.1\r\n\r\nCookie: id=1\r\n", "id"),
            Peek::Nothing
        );
    }

    #[test]
    fn a_server_name_is_found_in_a_whole_hello() {
        let bytes = hello(b"example.org");
        for length in 0..bytes.len() {
            assert_eq!(tls_server_name(&bytes[..length]), Peek::More, "{length}");
        }
        assert_eq!(tls_server_name(&bytes), Peek::key_of(b"example.org"));
        assert_eq!(tls_server_name(b"GET / HTTP/1.1\r\n"), Peek::Nothing);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_looked_at(
            bytes: Vec<u8>,
            at in 0..100_usize,
            byte: u8,
            tail in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            http_cookie(&bytes, "id");
            tls_server_name(&bytes);
            let mut bytes = hello(b"example.org");
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.extend(tail);
            tls_server_name(&bytes);
        }
    }
}
