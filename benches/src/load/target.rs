//! Where the requests go.

use std::fmt;
use std::io;
use std::net::ToSocketAddrs;
use std::path::PathBuf;

use socket2::SockAddr;

/// The server's address, from `http://HOST[:PORT]` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A host's name or address, with the port; an IPv6 address in brackets.
    Tcp(String),
    /// The path of a socket.
    Unix(PathBuf),
}

impl Target {
    /// Parses a URL into the target and the path to request of it.
    ///
    /// # Errors
    ///
    /// When the URL has another scheme, no host, or a port that is not a number; the text says so.
    pub(super) fn parse(url: &str) -> Result<(Self, String), String> {
        if let Some(path) = url.strip_prefix("unix:") {
            let named = !path.is_empty();
            return named
                .then(|| (Self::Unix(path.into()), "/".into()))
                .ok_or_else(|| "no path after unix:".into());
        }
        let Some(rest) = url.strip_prefix("http://") else {
            return Err("not http://HOST[:PORT][/PATH] or unix:PATH".into());
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        // In an IPv6 address, the last colon is only a port's when it comes after the bracket.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (authority, "80"),
        };
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%[]".contains(&byte);
        if host.is_empty() || !host.bytes().all(known) {
            return Err(format!("no host in {authority:?}"));
        }
        let port: u16 = port.parse().map_err(|_| format!("port {port:?} is not 1 to 65535"))?;
        let path = if path.is_empty() { "/" } else { path };
        Ok((Self::Tcp(format!("{host}:{port}")), path.to_owned()))
    }

    /// The value of the `host` header.
    pub(super) fn host(&self) -> &str {
        match self {
            Self::Tcp(authority) => authority,
            Self::Unix(_) => "localhost",
        }
    }

    /// The address to connect to. Of several, the first IPv4 one: servers that listen on one
    /// family only mostly listen on that.
    ///
    /// # Errors
    ///
    /// When the name has no address, or a socket's path is too long; the error names it.
    pub(super) fn resolve(&self) -> io::Result<SockAddr> {
        let address = match self {
            Self::Unix(path) => SockAddr::unix(path),
            Self::Tcp(authority) => authority.to_socket_addrs().and_then(|addresses| {
                let mut addresses: Vec<_> = addresses.collect();
                addresses.sort_by_key(|address| !address.is_ipv4());
                let first = addresses.first().ok_or(io::ErrorKind::NotFound)?;
                Ok(SockAddr::from(*first))
            }),
        };
        address.map_err(|error| io::Error::new(error.kind(), format!("{self}: {error}")))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_target_and_a_path() {
        let cases = [
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080", "/"),
            ("http://localhost", "http://localhost:80", "/"),
            ("http://[::1]/a?b=c:d", "http://[::1]:80", "/a?b=c:d"),
            ("http://[::1]:81/x", "http://[::1]:81", "/x"),
            ("unix:/run/app.sock", "unix:/run/app.sock", "/"),
        ];
        for (url, target, path) in cases {
            let (parsed, parsed_path) = Target::parse(url).unwrap();
            assert_eq!((parsed.to_string().as_str(), parsed_path.as_str()), (target, path));
        }
    }

    #[test]
    fn a_bad_url_is_refused_with_its_reason() {
        let cases = [
            ("https://h/", "not http://HOST[:PORT][/PATH] or unix:PATH"),
            ("127.0.0.1:80", "not http://HOST[:PORT][/PATH] or unix:PATH"),
            ("http:///x", "no host in \"\""),
            ("http://:80/", "no host in \":80\""),
            ("http://me@h/", "no host in \"me@h\""),
            ("http://h\r\nx:y/", "no host in \"h\\r\\nx:y\""),
            ("http://h:99999/", "port \"99999\" is not 1 to 65535"),
            ("http://h:/", "port \"\" is not 1 to 65535"),
            ("unix:", "no path after unix:"),
        ];
        for (url, reason) in cases {
            assert_eq!(Target::parse(url).unwrap_err(), reason, "{url}");
        }
    }

    #[test]
    fn an_ipv4_address_is_preferred_and_an_ipv6_one_taken() {
        let resolve = |url| Target::parse(url).unwrap().0.resolve().unwrap().as_socket().unwrap();
        assert_eq!(resolve("http://127.0.0.1:1").to_string(), "127.0.0.1:1");
        assert_eq!(resolve("http://[::1]:2").to_string(), "[::1]:2");
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_an_error_that_names_it() {
        let path = "x".repeat(200);
        let error = Target::Unix(PathBuf::from(&path)).resolve().unwrap_err();
        assert!(error.to_string().contains(&path), "{error}");
    }
}
