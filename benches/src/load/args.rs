//! The command line.

use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::target::Target;

/// What to send, to whom, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// The server.
    pub target: Target,
    /// The path that is requested, with its query.
    pub path: String,
    /// How many clients there are: each a thread with one request under way. 1 to [`CLIENTS_MAX`].
    pub clients: u32,
    /// When to begin no more requests; `None` for no end.
    pub duration: Option<Duration>,
    /// How many requests all clients make together; `None` for no end.
    pub requests: Option<u64>,
    /// How many requests a second all clients begin together; `None` for as many as they can. A
    /// client whose last request is not answered yet begins late, and then catches up.
    pub rate: Option<u32>,
    /// Whether a client uses its connection again, or takes a new one for each request.
    pub keep_alive: bool,
    /// How long a request may take, the connecting included. Up to [`TIMEOUT_MS_MAX`].
    pub timeout: Duration,
    /// Whether the report is printed as JSON.
    pub json: bool,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// To print [`USAGE`].
    Help,
    /// To run.
    Run(Options),
}

/// Why a command line makes no sense: names the flag, and what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError(String);

/// The text of `--help`.
pub const USAGE: &str = "\
Sends HTTP requests, and counts what became of them and which worker answered.

Usage: load --url URL [flags]

  --url URL          http://HOST[:PORT][/PATH], or unix:PATH for a socket in the file system
  --path PATH        what to request; overrides the path of the URL (default /)
  --clients N        parallel clients, 1 to 1024 (default 32)
  --seconds S        how long (default 10, or no end when --requests is given)
  --requests N       how many requests in all
  --rate N           how many to begin a second, all clients together (default: no limit)
  --keep-alive       use connections again; the default is a new connection for each request
  --timeout-ms N     for one request, connecting included; 1 to 600000 (default 5000)
  --json             one JSON object instead of a table
  --help             this text

The server may name the worker that answers in a header: `x-worker: SLOT.GENERATION`.
Ctrl-C ends the run early. Exit status: 0 when all requests were answered with 2xx, 1 when one was
not or none was made, 2 when the command line is wrong or the run could not start.
";

/// The most clients: each costs a thread and a descriptor.
pub const CLIENTS_MAX: u32 = 1024;

/// The longest timeout of a request, in milliseconds: ten minutes.
pub const TIMEOUT_MS_MAX: u32 = 600_000;

/// The highest rate, in requests a second.
pub const RATE_MAX: u32 = 1_000_000;

impl Options {
    /// The defaults, for a target.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            path: "/".into(),
            clients: 32,
            duration: Some(Duration::from_secs(10)),
            requests: None,
            rate: None,
            keep_alive: false,
            timeout: Duration::from_secs(5),
            json: false,
        }
    }

    /// Parses the arguments that follow the program's name.
    ///
    /// # Errors
    ///
    /// When a flag is unknown, lacks its value, has one out of range, or `--url` is missing.
    pub fn parse<A: Into<OsString>>(
        args: impl IntoIterator<Item = A>,
    ) -> Result<Command, UsageError> {
        let mut flags = Flags { args: args.into_iter().map(Into::into), inline: None };
        let (mut url, mut path, mut seconds) = (None, None, None);
        let mut options = Self::new(Target::Unix("".into()));
        while let Some(flag) = flags.next_flag()? {
            match flag.as_str() {
                "--url" => url = Some(flags.value(&flag)?),
                "--path" => path = Some(flags.value(&flag)?),
                "--clients" => options.clients = flags.number(&flag, 1..=CLIENTS_MAX)?,
                "--seconds" => seconds = Some(flags.seconds(&flag)?),
                "--requests" => options.requests = Some(flags.number(&flag, 1..=u64::MAX)?),
                "--rate" => options.rate = Some(flags.number(&flag, 1..=RATE_MAX)?),
                "--keep-alive" => options.keep_alive = flags.switch(&flag)?,
                "--timeout-ms" => {
                    let timeout_ms = flags.number(&flag, 1..=TIMEOUT_MS_MAX)?;
                    options.timeout = Duration::from_millis(timeout_ms.into());
                }
                "--json" => options.json = flags.switch(&flag)?,
                "--help" | "-h" => return Ok(Command::Help),
                _ => return Err(UsageError(format!("{flag}: no such flag; --help lists them"))),
            }
        }
        let url = url.ok_or_else(|| UsageError("--url is missing; --help tells more".into()))?;
        let (target, url_path) =
            Target::parse(&url).map_err(|reason| UsageError(format!("--url {url}: {reason}")))?;
        options.target = target;
        options.path = path.unwrap_or(url_path);
        if !options.path.starts_with('/') || options.path.contains(|c: char| !c.is_ascii_graphic())
        {
            return Err(UsageError(format!(
                "--path {}: must begin with / and be printable ASCII; encode the rest as %XX",
                options.path.escape_debug()
            )));
        }
        if seconds.is_some() || options.requests.is_some() {
            options.duration = seconds;
        }
        Ok(Command::Run(options))
    }

    /// The bytes of a request.
    pub(super) fn request(&self) -> Vec<u8> {
        let Self { path, target, .. } = self;
        let close = if self.keep_alive { "" } else { "connection: close\r\n" };
        format!("GET {path} HTTP/1.1\r\nhost: {}\r\nuser-agent: load\r\n{close}\r\n", target.host())
            .into_bytes()
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// The arguments, with `--flag=value` taken apart.
struct Flags<I> {
    args: I,
    inline: Option<String>,
}

impl<I: Iterator<Item = OsString>> Flags<I> {
    fn next_flag(&mut self) -> Result<Option<String>, UsageError> {
        let Some(arg) = self.next_text()? else { return Ok(None) };
        let Some((flag, value)) = arg.split_once('=') else { return Ok(Some(arg)) };
        self.inline = Some(value.to_owned());
        Ok(Some(flag.to_owned()))
    }

    fn next_text(&mut self) -> Result<Option<String>, UsageError> {
        let not_text = |arg: OsString| UsageError(format!("{}: not UTF-8", arg.display()));
        self.args.next().map(OsString::into_string).transpose().map_err(not_text)
    }

    fn value(&mut self, flag: &str) -> Result<String, UsageError> {
        let value = self.inline.take().map_or_else(|| self.next_text(), |value| Ok(Some(value)))?;
        value.ok_or_else(|| UsageError(format!("{flag} needs a value; --help tells which")))
    }

    fn number<N>(&mut self, flag: &str, range: RangeInclusive<N>) -> Result<N, UsageError>
    where
        N: std::str::FromStr + PartialOrd + fmt::Display,
    {
        let value = self.value(flag)?;
        value.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
            UsageError(format!("{flag} {value}: must be {} to {}", range.start(), range.end()))
        })
    }

    fn seconds(&mut self, flag: &str) -> Result<Duration, UsageError> {
        let value = self.value(flag)?;
        let seconds =
            value.parse().ok().filter(|seconds| (SECONDS_MIN..=SECONDS_MAX).contains(seconds));
        seconds.map(Duration::from_secs_f64).ok_or_else(|| {
            UsageError(format!("{flag} {value}: must be {SECONDS_MIN} to {SECONDS_MAX}"))
        })
    }

    fn switch(&mut self, flag: &str) -> Result<bool, UsageError> {
        match self.inline.take() {
            None => Ok(true),
            Some(value) => Err(UsageError(format!("{flag}={value}: takes no value"))),
        }
    }
}

const SECONDS_MIN: f64 = 0.001;
const SECONDS_MAX: f64 = 1e6;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, UsageError> {
        Options::parse(line.split_whitespace())
    }

    fn options(line: &str) -> Options {
        match parse(line).unwrap() {
            Command::Run(options) => options,
            Command::Help => panic!("{line} asks for help"),
        }
    }

    #[test]
    fn only_the_url_is_needed() {
        let expected = Options::new(Target::Tcp("127.0.0.1:8080".into()));
        assert_eq!(options("--url http://127.0.0.1:8080/"), expected);
    }

    #[test]
    fn every_flag_is_understood_with_its_value_inline_or_after() {
        let expected = Options {
            target: Target::Unix("/s".into()),
            path: "/a?b=c".into(),
            clients: 1024,
            duration: Some(Duration::from_millis(1500)),
            requests: Some(7),
            rate: Some(500),
            keep_alive: true,
            timeout: Duration::from_millis(250),
            json: true,
        };
        let line = "--url=unix:/s --path=/a?b=c --clients 1024 --seconds 1.5 --requests=7 \
                    --rate 500 --keep-alive --timeout-ms 250 --json";
        assert_eq!(options(line), expected);
    }

    #[test]
    fn a_number_of_requests_alone_has_no_end_in_time() {
        assert_eq!(options("--url unix:/s --requests 7").duration, None);
        assert_eq!(options("--url http://h/x --seconds 2").duration, Some(Duration::from_secs(2)));
    }

    #[test]
    fn help_wins_over_what_is_missing() {
        assert_eq!(parse("--help"), Ok(Command::Help));
        assert_eq!(parse("--clients 3 -h"), Ok(Command::Help));
    }

    #[test]
    fn errors_name_the_flag_and_the_remedy() {
        let cases = [
            ("", "--url is missing; --help tells more"),
            ("--frobnicate", "--frobnicate: no such flag; --help lists them"),
            ("http://h/", "http://h/: no such flag; --help lists them"),
            ("--url", "--url needs a value; --help tells which"),
            ("--url ftp://h", "--url ftp://h: not http://HOST[:PORT][/PATH] or unix:PATH"),
            ("--clients 0", "--clients 0: must be 1 to 1024"),
            ("--clients=1025", "--clients 1025: must be 1 to 1024"),
            ("--requests -1", "--requests -1: must be 1 to 18446744073709551615"),
            ("--rate 0", "--rate 0: must be 1 to 1000000"),
            ("--seconds nan", "--seconds nan: must be 0.001 to 1000000"),
            ("--timeout-ms 1e3", "--timeout-ms 1e3: must be 1 to 600000"),
            ("--json=yes", "--json=yes: takes no value"),
            (
                "--url http://h/ --path x",
                "--path x: must begin with / and be printable ASCII; encode the rest as %XX",
            ),
        ];
        for (line, error) in cases {
            assert_eq!(parse(line).unwrap_err().to_string(), error, "{line}");
        }
    }

    #[test]
    fn a_header_cannot_be_smuggled_in_through_the_path() {
        assert!(Options::parse(["--url", "http://h/ HTTP/1.1\r\nx: y"]).is_err());
    }

    #[test]
    fn the_request_asks_to_close_unless_connections_are_kept() {
        let request = |line| String::from_utf8(options(line).request()).unwrap();
        assert_eq!(
            request("--url http://h:81/x"),
            "GET /x HTTP/1.1\r\nhost: h:81\r\nuser-agent: load\r\nconnection: close\r\n\r\n"
        );
        assert_eq!(
            request("--url unix:/s --keep-alive"),
            "GET / HTTP/1.1\r\nhost: localhost\r\nuser-agent: load\r\n\r\n"
        );
    }
}
