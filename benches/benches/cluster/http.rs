//! What workers do with their connections: the same code for all contenders.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::server::Task;
use crate::stamp;

/// A request's head that is longer ends its connection.
const HEAD_BYTES_MAX: usize = 4096;
const HEADERS_MAX: usize = 16;

/// How long an answer of the tasks `even` and `skewed` keeps the worker busy.
const WORK: Duration = Duration::from_micros(50);

/// How many times longer it takes in the slow worker.
const SLOWNESS: u32 = 10;

/// The slot of the slow worker.
const SLOW_SLOT: usize = 0;

/// What one worker does with its connections.
#[derive(Debug)]
pub(crate) struct Service {
    task: Task,
    /// Before each answer.
    work: Duration,
    /// The whole answer on a connection that is kept, and on one that is closed.
    kept: Vec<u8>,
    last: Vec<u8>,
}

/// A connection, and what is there of its next request.
#[derive(Debug)]
pub(crate) struct Client<S> {
    pub(crate) stream: S,
    input: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It waits for the client.
    Pending,
    /// The connection is over.
    Done,
}

impl Service {
    pub(crate) fn new(task: Task, slot: usize, generation: u32) -> Service {
        let work = match task {
            Task::Skewed if slot == SLOW_SLOT => WORK * SLOWNESS,
            Task::Even | Task::Skewed => WORK,
            Task::Http | Task::Stamp => Duration::ZERO,
        };
        let answer = |connection| {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 6";
            let worker = format!("x-worker: {slot}.{generation}");
            format!("{head}\r\nconnection: {connection}\r\n{worker}\r\n\r\nhello\n").into_bytes()
        };
        Service { task, work, kept: answer("keep-alive"), last: answer("close") }
    }

    /// To be called at once when a connection was taken. Returns it if more is to come.
    pub(crate) fn begin<S: AsFd + Read + Write>(&self, stream: S) -> Option<Client<S>> {
        let mut client = Client { stream, input: Vec::new() };
        if self.task == Task::Stamp {
            // Who is gone does not wait for it.
            let _ = stamp::send(&client.stream);
            return None;
        }
        (self.advance(&mut client) == Progress::Pending).then_some(client)
    }

    /// Reads and answers until the client has to act.
    fn advance<S: Read + Write>(&self, client: &mut Client<S>) -> Progress {
        let mut buffer = [0; HEAD_BYTES_MAX];
        loop {
            let length = match client.stream.read(&mut buffer) {
                Ok(0) => return Progress::Done,
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Pending,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Progress::Done,
            };
            // Mostly a whole head, and nothing else, comes at once.
            let is_closing = if client.input.is_empty() {
                parse(&buffer[..length])
            } else {
                client.input.extend_from_slice(&buffer[..length]);
                parse(&client.input)
            };
            match is_closing {
                Ok(Some(is_closing)) => {
                    client.input.clear();
                    self.spend_time();
                    let answer = if is_closing { &self.last } else { &self.kept };
                    // An answer fits into the socket's buffer, since one follows one request.
                    let is_written = client.stream.write(answer).is_ok_and(|n| n == answer.len());
                    if is_closing || !is_written {
                        return Progress::Done;
                    }
                }
                Ok(None) if client.input.len() > HEAD_BYTES_MAX => return Progress::Done,
                Ok(None) if client.input.is_empty() => {
                    client.input.extend_from_slice(&buffer[..length]);
                }
                Ok(None) => {}
                Err(_) => return Progress::Done,
            }
            // Then no more is there; what comes later is another event.
            if length < buffer.len() {
                return Progress::Pending;
            }
        }
    }

    fn spend_time(&self) {
        if !self.work.is_zero() {
            let start = Instant::now();
            while start.elapsed() < self.work {
                std::hint::spin_loop();
            }
        }
    }
}

/// Whether the connection is to be closed after the answer; `None` if the head is not complete.
fn parse(input: &[u8]) -> Result<Option<bool>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    if request.parse(input)?.is_partial() {
        return Ok(None);
    }
    let connection =
        request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("connection"));
    Ok(Some(connection.is_some_and(|header| header.value.eq_ignore_ascii_case(b"close"))))
}

/// The connections of a worker, by number.
#[derive(Debug)]
pub(crate) struct Clients<S> {
    places: Vec<Option<Client<S>>>,
    free: Vec<usize>,
}

impl<S: Read + Write> Clients<S> {
    pub(crate) fn new() -> Clients<S> {
        Clients { places: Vec::new(), free: Vec::new() }
    }

    /// Keeps a connection, and gives it a number.
    pub(crate) fn add(&mut self, client: Client<S>) -> (usize, &mut Client<S>) {
        let number = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        (number, self.places[number].insert(client))
    }

    /// Serves one that can be read from again, and closes it when it is over.
    pub(crate) fn serve(&mut self, number: usize, service: &Service) {
        let place = &mut self.places[number];
        if place.as_mut().is_some_and(|client| service.advance(client) == Progress::Done) {
            *place = None;
            self.free.push(number);
        }
    }
}
