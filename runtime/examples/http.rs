//! An HTTP/1.1 server of several processes on one port.
//!
//! `cargo run --release -p runtime --example http -- --listen 127.0.0.1:8080 --workers 4`
//!
//! Every worker is an event loop of its own, as it might have been before it was clustered: mio, a
//! listener, keep-alive connections. Answers say by `x-worker` who gave them.

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use runtime::{Address, Cluster, Connection, Event, Worker};

const USAGE: &str = "usage: http [--listen ADDRESS] [--workers N] [--dispatch WAY] [--policy NAME]
  --listen ADDRESS         HOST:PORT, [IPV6]:PORT or unix:PATH; port 0 chooses one (127.0.0.1:8080)
  --workers N              how many processes serve (one per processor)
  --dispatch WAY           how connections get to them: auto, handoff, shared or steered (auto)
  --policy NAME[:WEIGHTS]  what picks one: round-robin, least-connections, random, ...; WEIGHTS are
                           each worker's share, such as 5,3,1,1 (round-robin)";

/// A request's head that is longer is refused.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;

/// How long to wait for descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

const LISTENER: Token = Token(0);
const STOP: Token = Token(1);
const FIRST_CLIENT: usize = 2;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("http: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut address: Address = "127.0.0.1:8080".parse()?;
    let mut workers = std::thread::available_parallelism()?.get();
    let mut builder = Cluster::builder();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value\n{USAGE}"));
        match arg.as_str() {
            "--listen" => address = value()?.parse()?,
            "--workers" => {
                let text = value()?;
                workers = text.parse().map_err(|_| format!("--workers {text:?} is no number"))?;
            }
            "--dispatch" => builder = builder.dispatch(value()?.parse()?),
            "--policy" => {
                let text = value()?;
                let (name, weights) = text.split_once(':').unwrap_or((&text, ""));
                builder = builder.policy(name.parse()?);
                if !weights.is_empty() {
                    let weights: Result<Vec<u32>, _> = weights.split(',').map(str::parse).collect();
                    let weights = weights.map_err(|_| format!("--policy {text}: bad weights"))?;
                    workers = weights.len();
                    builder = builder.weights(weights);
                }
            }
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            _ => return Err(format!("{arg:?} is no option\n{USAGE}").into()),
        }
    }
    let mut ready = BTreeSet::new();
    builder
        .workers(workers)
        .on_event(move |event| report(event, workers, &mut ready))
        .run(|worker| serve(worker, address))?;
    Ok(())
}

/// Prints what happens, and the address once all workers listen.
fn report(event: &Event, workers: usize, ready: &mut BTreeSet<usize>) {
    // Nobody may read it any more: that ends no server.
    let mut out = io::stdout();
    let _ = writeln!(out, "{event}");
    if let Event::Listening { worker, address } = event
        && ready.len() < workers
        && ready.insert(worker.slot)
        && ready.len() == workers
    {
        let _ = match address {
            Address::Tcp(address) => writeln!(out, "listening on http://{address}"),
            _ => writeln!(out, "listening on {address}"),
        };
    }
    let _ = out.flush();
}

/// A worker's whole life.
fn serve(mut worker: Worker, address: Address) -> io::Result<()> {
    let name = worker.id().to_string();
    let mut listener = worker.listen(address)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    poll.registry().register(&mut worker, STOP, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut clients: HashMap<Token, Client> = HashMap::new();
    let mut next_token = FIRST_CLIENT;
    let mut pause = None;
    loop {
        if let Err(error) = poll.poll(&mut events, pause)
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error);
        }
        for event in &events {
            if let Some(client) = clients.get_mut(&event.token())
                && client.advance(&name, worker.is_stopping()) == Progress::Done
            {
                clients.remove(&event.token());
            }
        }
        // Before the look: what came before the request to stop is taken.
        let stopping = worker.is_stopping();
        // One at a time, each served as far as it goes: what is not taken, nobody can lose.
        let rested = pause.take().is_some();
        loop {
            let connection = match listener.accept() {
                Ok((connection, _)) => connection,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    // Out of descriptors: what waits is for others, or for us in a while.
                    if !rested {
                        eprintln!("worker {name}: {error}");
                    }
                    pause = Some(ACCEPT_PAUSE);
                    break;
                }
            };
            let mut client = Client::new(connection);
            if client.advance(&name, stopping) == Progress::Pending {
                let token = Token(next_token);
                next_token += 1;
                let interest = Interest::READABLE | Interest::WRITABLE;
                poll.registry().register(&mut client.connection, token, interest)?;
                clients.insert(token, client);
            }
        }
        if stopping {
            clients.retain(|_, client| !client.is_idle());
            if clients.is_empty() {
                return Ok(());
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It waits for the client.
    Pending,
    /// The connection is over.
    Done,
}

/// A client's connection.
struct Client {
    connection: Connection,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of the current request's body that are still to come.
    body_left: u64,
    close: bool,
}

impl Client {
    fn new(connection: Connection) -> Client {
        Client { connection, input: Vec::new(), output: Vec::new(), body_left: 0, close: false }
    }

    /// Whether it is between two requests.
    fn is_idle(&self) -> bool {
        self.input.is_empty() && self.output.is_empty() && self.body_left == 0
    }

    /// Reads, answers and writes until the client has to act.
    fn advance(&mut self, name: &str, stopping: bool) -> Progress {
        loop {
            self.answer_all(name, stopping);
            match self.write() {
                Ok(()) if self.close => return Progress::Done,
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Pending,
                Err(_) => return Progress::Done,
            }
            let mut buffer = [0; 4096];
            match self.connection.read(&mut buffer) {
                Ok(0) => return Progress::Done,
                Ok(length) => self.input.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Pending,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Progress::Done,
            }
        }
    }

    /// Answers the complete requests in the input.
    fn answer_all(&mut self, name: &str, stopping: bool) {
        while !self.close {
            let body = usize::try_from(self.body_left).unwrap_or(usize::MAX).min(self.input.len());
            self.input.drain(..body);
            self.body_left -= body as u64;
            if self.body_left > 0 || self.input.is_empty() {
                return;
            }
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut request = httparse::Request::new(&mut headers);
            match request.parse(&self.input) {
                Ok(httparse::Status::Complete(length)) => {
                    let head = Head::read(&request);
                    self.input.drain(..length);
                    self.body_left = head.body_bytes;
                    self.close = head.close || stopping;
                    let body = format!("hello from worker {name}\n");
                    self.respond(head.status, &body, name, head.without_body);
                }
                Ok(httparse::Status::Partial) if self.input.len() <= HEAD_BYTES_MAX => return,
                Ok(httparse::Status::Partial) => {
                    self.refuse("431 Request Header Fields Too Large", name)
                }
                Err(_) => self.refuse("400 Bad Request", name),
            }
        }
    }

    fn refuse(&mut self, status: &str, name: &str) {
        self.close = true;
        self.respond(status, &format!("{status}\n"), name, false);
    }

    fn respond(&mut self, status: &str, body: &str, name: &str, without_body: bool) {
        let connection = if self.close { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\
             connection: {connection}\r\nx-worker: {name}\r\n\r\n",
            body.len()
        );
        self.output.extend_from_slice(head.as_bytes());
        if !without_body {
            self.output.extend_from_slice(body.as_bytes());
        }
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.connection.write(&self.output) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => drop(self.output.drain(..length)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What matters of a request's head.
struct Head {
    status: &'static str,
    body_bytes: u64,
    close: bool,
    without_body: bool,
}

impl Head {
    fn read(request: &httparse::Request<'_, '_>) -> Head {
        let mut head = Head {
            status: "200 OK",
            body_bytes: 0,
            close: request.version == Some(0),
            without_body: request.method == Some("HEAD"),
        };
        for header in &*request.headers {
            let value = String::from_utf8_lossy(header.value).trim().to_ascii_lowercase();
            match header.name.to_ascii_lowercase().as_str() {
                "connection" if value.contains("close") => head.close = true,
                "connection" if value.contains("keep-alive") => head.close = false,
                "content-length" => match value.parse() {
                    Ok(length) => head.body_bytes = length,
                    Err(_) => (head.status, head.close) = ("400 Bad Request", true),
                },
                "transfer-encoding" => {
                    (head.status, head.close) = ("501 Not Implemented", true);
                }
                _ => {}
            }
        }
        head
    }
}
