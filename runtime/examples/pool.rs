//! A pool of workers that are a function of this very program, each in a process of its own. They
//! are sent jobs, and with each job the connection to answer on. When a worker dies, another does
//! its job, and another process takes its place.
//!
//! `cargo run -p runtime --example pool` has clients of its own, kills a worker in the middle, and
//! ends. `cargo run -p runtime --example pool -- 127.0.0.1:8080` goes on until Ctrl-C; ask it by
//! `echo 1000000 | nc 127.0.0.1 8080`.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use mio::{Events, Interest, Poll, Token};
use runtime::Message;
use runtime::process::{self, Child, Event, Function, Parent, Signal};

const COUNT_PRIMES: Function = Function::new("count-primes", count_primes);

const WORKERS: usize = 3;
const CLIENTS: usize = 24;

/// After so many answers to its own clients, the pool kills one of its workers.
const KILL_AFTER: usize = 8;

/// Workers have the tokens below, clients those above.
const LISTENER: Token = Token(WORKERS);

/// The longest question, in bytes.
const QUESTION_BYTES_MAX: usize = 64;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    process::run_functions(&[COUNT_PRIMES]);
    if let Some(address) = std::env::args().nth(1) {
        return Pool::start(TcpListener::bind(address)?)?.run(None);
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let clients: Vec<_> = (1..=CLIENTS).map(|n| thread::spawn(move || ask(address, n))).collect();
    Pool::start(listener)?.run(Some(CLIENTS))?;
    clients.into_iter().try_for_each(|client| client.join().expect("no client panics"))
}

/// A client.
fn ask(address: SocketAddr, number: usize) -> Result<()> {
    let mut connection = TcpStream::connect(address)?;
    writeln!(connection, "{}", number * 2_000)?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    print!("client {number}: {answer}");
    if answer.is_empty() { Err(format!("client {number} got no answer").into()) } else { Ok(()) }
}

/// A worker. It ends when the pool disconnects it, or is gone.
fn count_primes(mut parent: Parent, _args: Vec<OsString>) -> Result<u8> {
    while let Ok(mut job) = parent.recv() {
        let mut connection = job.take_handle::<TcpStream>(0)?;
        let answer = match String::from_utf8_lossy(&job.bytes).trim().parse() {
            Ok(number) => format!("{} primes below {number}", primes_below(number)),
            Err(error) => format!("not a number: {error}"),
        };
        // The pool doesn't block, which is a matter of the socket; and that the client may be gone
        // is no reason to be gone, too.
        connection.set_nonblocking(false)?;
        let _ = writeln!(connection, "{answer}, says process {}", std::process::id());
        parent.send("done")?;
    }
    Ok(0)
}

fn primes_below(number: u32) -> usize {
    let is_prime = |n: &u32| (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    (2..number).filter(is_prime).count()
}

/// A client that has not asked yet.
struct Client {
    source: mio::net::TcpStream,
    job: Job,
}

/// Kept until it is done, so that another can do it.
struct Job {
    question: Vec<u8>,
    connection: TcpStream,
}

struct Worker {
    child: Child,
    job: Option<Job>,
}

struct Pool {
    poll: Poll,
    listener: TcpListener,
    workers: Vec<Worker>,
    clients: HashMap<Token, Client>,
    /// For whoever has nothing to do.
    jobs: VecDeque<Job>,
    tokens: std::ops::RangeFrom<usize>,
    answers: usize,
}

impl Pool {
    fn start(listener: TcpListener) -> Result<Pool> {
        let poll = Poll::new()?;
        listener.set_nonblocking(true)?;
        println!("{WORKERS} workers count primes at {}", listener.local_addr()?);
        let workers: Result<_> = (0..WORKERS).map(|index| worker(&poll, index)).collect();
        Ok(Pool {
            poll,
            listener,
            workers: workers?,
            clients: HashMap::new(),
            jobs: VecDeque::new(),
            tokens: WORKERS + 1..,
            answers: 0,
        })
    }

    /// Goes on until there were so many answers.
    fn run(mut self, answers_max: Option<usize>) -> Result<()> {
        let mut source = mio::net::TcpListener::from_std(self.listener.try_clone()?);
        self.poll.registry().register(&mut source, LISTENER, Interest::READABLE)?;
        let mut events = Events::with_capacity(64);
        let mut is_one_to_kill = answers_max.is_some();
        while answers_max.is_none_or(|max| self.answers < max) {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => result?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(index) if index < WORKERS => self.hear(index)?,
                    token => self.read(token),
                }
            }
            self.give_jobs()?;
            if is_one_to_kill && self.answers >= KILL_AFTER {
                is_one_to_kill = !self.kill_a_busy_one()?;
            }
        }
        self.end()
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let connection = match self.listener.accept() {
                Ok((connection, _)) => connection,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            connection.set_nonblocking(true)?;
            let mut source = mio::net::TcpStream::from_std(connection.try_clone()?);
            let token = Token(self.tokens.next().expect("tokens outlast any process"));
            self.poll.registry().register(&mut source, token, Interest::READABLE)?;
            let job = Job { question: Vec::new(), connection };
            self.clients.insert(token, Client { source, job });
        }
    }

    /// Reads what a client asks; its line is a job.
    fn read(&mut self, token: Token) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        let mut room = [0; QUESTION_BYTES_MAX];
        let is_open = loop {
            match client.source.read(&mut room) {
                Ok(0) => break false,
                Ok(count) => client.job.question.extend(&room[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break error.kind() == ErrorKind::WouldBlock,
            }
            if client.job.question.len() >= QUESTION_BYTES_MAX {
                break false;
            }
        };
        let is_asked = client.job.question.contains(&b'\n');
        if (is_asked || !is_open)
            && let Some(mut client) = self.clients.remove(&token)
        {
            // A connection that others have, too, is not forgotten by being closed.
            let _ = self.poll.registry().deregister(&mut client.source);
            self.jobs.extend(is_asked.then_some(client.job));
        }
    }

    /// Gives waiting jobs to workers without.
    fn give_jobs(&mut self) -> Result<()> {
        let idle = self.workers.iter_mut().filter(|worker| worker.job.is_none());
        for worker in idle.filter(|worker| worker.child.is_connected()) {
            let Some(job) = self.jobs.pop_front() else { return Ok(()) };
            // A duplicate goes, and ours stays until the job is done.
            let connection = job.connection.try_clone()?;
            // If the worker is gone, its end is told, and then the job is given to another.
            let _ = worker.child.send(Message::new(job.question.clone()).with_handle(connection));
            worker.job = Some(job);
        }
        Ok(())
    }

    fn hear(&mut self, index: usize) -> Result<()> {
        while let Some(event) = self.workers[index].child.next_event()? {
            let worker = &mut self.workers[index];
            match event {
                Event::Message(_) => {
                    worker.job = None;
                    self.answers += 1;
                }
                Event::Exited(exit) => {
                    println!("worker {index}, process {}, {exit}: again", worker.child.pid());
                    self.poll.registry().deregister(&mut worker.child)?;
                    // Its client has waited longest. If it had answered already, and not told, its
                    // client gets two answers: where that matters, jobs have to be numbered.
                    if let Some(job) = worker.job.take() {
                        self.jobs.push_front(job);
                    }
                    *worker = self::worker(&self.poll, index)?;
                }
                event => drop(event),
            }
        }
        Ok(())
    }

    /// To see that nobody goes without an answer. Whether there was one to kill.
    fn kill_a_busy_one(&self) -> Result<bool> {
        match self.workers.iter().find(|worker| worker.job.is_some()) {
            Some(worker) => {
                println!("process {} is killed in the middle of a job", worker.child.pid());
                Ok(worker.child.kill(Signal::KILL)?)
            }
            None => Ok(false),
        }
    }

    fn end(mut self) -> Result<()> {
        for worker in &mut self.workers {
            worker.child.disconnect()?;
        }
        for mut worker in self.workers {
            let exit = worker.child.wait()?;
            println!("process {} {exit}", worker.child.pid());
        }
        Ok(())
    }
}

/// Starts a worker.
fn worker(poll: &Poll, index: usize) -> Result<Worker> {
    let mut child = COUNT_PRIMES.command().fork()?;
    poll.registry().register(&mut child, Token(index), Interest::READABLE)?;
    Ok(Worker { child, job: None })
}
