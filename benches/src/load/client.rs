//! One client: a request at a time over blocking sockets.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::answer::{Answer, AnswerError, Buffer, End};
use super::report::{Kind, Phase, Tally};

/// What all clients share.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) address: &'a SockAddr,
    pub(super) request: Vec<u8>,
    pub(super) keep_alive: bool,
    pub(super) timeout: Duration,
    pub(super) start: Instant,
    /// Between the beginnings of two requests, at least.
    pub(super) interval: Option<Duration>,
    /// When to begin no more requests.
    pub(super) end: Option<Instant>,
    pub(super) requests: u64,
    /// How many requests were begun.
    pub(super) begun: AtomicU64,
    pub(super) stop: &'a AtomicBool,
}

#[derive(Debug)]
pub(super) struct Client<'a> {
    plan: &'a Plan<'a>,
    tally: Tally,
    buffer: Buffer,
    /// The kept connection.
    connection: Option<Socket>,
    /// Whether to wait for the server to close: not any more once it didn't.
    lingers: bool,
}

/// Why a request failed.
struct Failure {
    phase: Phase,
    kind: Kind,
    detail: String,
}

impl<'a> Client<'a> {
    pub(super) fn new(plan: &'a Plan<'a>) -> Self {
        let (tally, buffer) = (Tally::default(), Buffer::new());
        Self { plan, tally, buffer, connection: None, lingers: true }
    }

    /// Sends requests until the plan's end.
    pub(super) fn run(mut self) -> Tally {
        while let Some(start) = self.next_start() {
            if let Err(Failure { phase, kind, detail }) = self.exchange(start) {
                self.tally.fail(phase, kind, || detail);
                if phase == Phase::Connect {
                    pause(PAUSE_AFTER_CONNECT_FAILURE);
                }
            }
        }
        self.tally
    }

    fn next_start(&self) -> Option<Instant> {
        let Plan { stop, start, interval, end, begun, requests, .. } = self.plan;
        let is_over = |now| stop.load(Ordering::Relaxed) || end.is_some_and(|end| now >= end);
        let now = Instant::now();
        if is_over(now) {
            return None;
        }
        let number = begun.fetch_add(1, Ordering::Relaxed);
        if number >= *requests {
            return None;
        }
        let Some(interval) = interval else { return Some(now) };
        let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        let due = *start + Duration::from_nanos(interval_ns.saturating_mul(number));
        loop {
            let now = Instant::now();
            if is_over(now.max(due)) {
                return None;
            }
            if now >= due {
                return Some(now);
            }
            pause((due - now).min(PAUSE_MAX));
        }
    }

    /// One request, from connecting to the last byte of the answer.
    fn exchange(&mut self, start: Instant) -> Result<(), Failure> {
        let deadline = start + self.plan.timeout;
        let socket = match self.connection.take() {
            Some(socket) => socket,
            None => self.connect()?,
        };
        let mut connection = Timed { socket: &socket, deadline };
        let answer = connection
            .write_all(&self.plan.request)
            .map_err(AnswerError::Io)
            .and_then(|()| self.buffer.read_answer(&mut connection))
            .map_err(Failure::while_requesting)?;
        let latency = start.elapsed();
        self.tally.answered_by(answer.worker);
        self.finish(socket, &answer);
        if !(200..300).contains(&answer.status) {
            let detail = format!("status {}", answer.status);
            return Err(Failure { phase: Phase::Request, kind: Kind::Status, detail });
        }
        self.tally.ok += 1;
        self.tally.latency.record(latency);
        Ok(())
    }

    fn connect(&mut self) -> Result<Socket, Failure> {
        self.buffer.clear();
        let socket =
            connect(self.plan.address, self.plan.timeout).map_err(Failure::while_connecting)?;
        self.tally.connections += 1;
        Ok(socket)
    }

    /// Keeps the connection, or resets it after the server has closed it: who closes first has to
    /// keep the port out of use for a minute, and this side has only so many of them.
    fn finish(&mut self, socket: Socket, answer: &Answer) {
        match answer.end {
            End::Open if self.plan.keep_alive => self.connection = Some(socket),
            End::Closed => {}
            End::Open | End::Closing if self.lingers => {
                let deadline = Instant::now() + LINGER.min(self.plan.timeout);
                let result = Timed { socket: &socket, deadline }.read(&mut [0]);
                match result {
                    // If it can't be set, then a state stays behind, and that is all.
                    Ok(0) => drop(socket.set_linger(Some(Duration::ZERO))),
                    Err(error) if is_timeout(&error) => {
                        self.tally.unclosed += 1;
                        self.lingers = false;
                    }
                    _ => {}
                }
            }
            End::Open | End::Closing => self.tally.unclosed += 1,
        }
    }
}

impl Failure {
    fn while_connecting(error: io::Error) -> Self {
        let kind = match error.kind() {
            // There is no socket at the path, or nobody who accepts on it.
            io::ErrorKind::NotFound => Kind::Refused,
            _ => kind_of(&error),
        };
        Self { phase: Phase::Connect, kind, detail: format!("connect: {error}") }
    }

    fn while_requesting(error: AnswerError) -> Self {
        let (kind, detail) = match error {
            AnswerError::Eof => (Kind::Eof, "the server closed before a whole answer".into()),
            AnswerError::Malformed(what) => (Kind::Malformed, format!("malformed answer: {what}")),
            AnswerError::Io(error) => (kind_of(&error), format!("request: {error}")),
        };
        Self { phase: Phase::Request, kind, detail }
    }
}

/// A socket whose calls end at a deadline.
struct Timed<'a> {
    socket: &'a Socket,
    deadline: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // No less than a microsecond: to the system, no time at all means no limit.
        self.socket.set_read_timeout(Some(left.max(Duration::from_micros(1))))?;
        let mut socket = self.socket;
        socket.read(buffer)
    }
}

impl Write for Timed<'_> {
    /// A request is small, so it does not wait; if it did, `connect` has set a timeout for it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut socket = self.socket;
        socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn connect(address: &SockAddr, timeout: Duration) -> io::Result<Socket> {
    let socket = Socket::new(address.domain(), Type::STREAM, None)?;
    socket.set_write_timeout(Some(timeout))?;
    if address.domain() == Domain::UNIX {
        // Without blocking, a full backlog would be an error at once; the timeout for writing
        // bounds the wait for room in it.
        socket.connect(address)?;
    } else {
        socket.connect_timeout(address, timeout)?;
    }
    Ok(socket)
}

fn kind_of(error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Kind::Refused,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => Kind::Reset,
        io::ErrorKind::AddrNotAvailable => Kind::NoPort,
        _ if is_timeout(error) => Kind::Timeout,
        _ => Kind::Other,
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

fn pause(time: Duration) {
    #[allow(clippy::disallowed_methods, reason = "sets a rate, waits for nothing")]
    std::thread::sleep(time);
}

/// How long a pause may keep a client from noticing that it shall stop.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// While nobody listens, a client would otherwise count tens of thousands of failures a second.
const PAUSE_AFTER_CONNECT_FAILURE: Duration = Duration::from_millis(10);

/// How long to wait for the server to close.
const LINGER: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_are_sorted_by_what_they_mean() {
        let cases = [
            (io::ErrorKind::ConnectionRefused, Kind::Refused),
            (io::ErrorKind::ConnectionReset, Kind::Reset),
            (io::ErrorKind::BrokenPipe, Kind::Reset),
            (io::ErrorKind::AddrNotAvailable, Kind::NoPort),
            (io::ErrorKind::TimedOut, Kind::Timeout),
            (io::ErrorKind::WouldBlock, Kind::Timeout),
            (io::ErrorKind::PermissionDenied, Kind::Other),
        ];
        for (error, kind) in cases {
            assert_eq!(kind_of(&error.into()), kind, "{error}");
        }
    }

    #[test]
    fn a_missing_socket_is_a_refusal_only_while_connecting() {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(Failure::while_connecting(missing()).kind, Kind::Refused);
        assert_eq!(Failure::while_requesting(AnswerError::Io(missing())).kind, Kind::Other);
    }
}
