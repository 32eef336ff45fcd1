//! The bare system calls, as somebody would write them by hand for this very purpose.

use std::env;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::{Errno, read, retry_on_intr, write};
use rustix::net::sockopt::set_socket_reuseport;
use rustix::net::{AddressFamily, SocketFlags, SocketType, accept_with, bind, listen, socket_with};

use crate::handover::{hand_over, pair, take};
use crate::http::{Clients, Service};
use crate::server::{Contender, Setup};

/// As `runtime` has it by default.
const BACKLOG: i32 = 4096;

const SOURCE: u64 = 0;
const MASTER: u64 = 1;
const FIRST_CLIENT: u64 = 2;

/// A master and its workers' processes.
#[derive(Debug)]
pub(crate) struct Cluster {
    address: SocketAddr,
    workers: Vec<Child>,
}

impl Cluster {
    /// Starts the workers, and waits until all are ready.
    pub(crate) fn start(setup: &Setup) -> io::Result<Cluster> {
        let listener = new_listener(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let mut cluster = Cluster { address: listener.local_addr()?, workers: Vec::new() };
        let mut first = Some(listener.try_clone()?);
        let mut sockets = Vec::new();
        for slot in 0..setup.weights.len() {
            let source = match setup.contender {
                Contender::RawShared => listener.try_clone()?.into(),
                // Connections go to every socket that listens, also to one whom nobody waits for.
                Contender::RawReuseport => match first.take() {
                    Some(first) => first.into(),
                    None => new_listener(cluster.address)?.into(),
                },
                _ => {
                    let (ours, theirs) = pair()?;
                    sockets.push(ours);
                    theirs
                }
            };
            let mut command = Command::new(env::current_exe()?);
            command.args(setup.worker_args()).arg(slot.to_string());
            command.stdin(Stdio::from(source)).stdout(Stdio::piped());
            cluster.workers.push(command.spawn()?);
        }
        for worker in &cluster.workers {
            let stdout = worker.stdout.as_ref();
            if stdout.map_or(Ok(0), |stdout| read(stdout, &mut [0]))? == 0 {
                return Err(io::Error::other("a worker ended at once"));
            }
        }
        if setup.contender == Contender::RawHandoff {
            thread::spawn(move || {
                if let Err(error) = hand_over(&listener, &sockets) {
                    eprintln!("raw-handoff: {error}");
                }
            });
        }
        Ok(cluster)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.workers.iter().map(Child::id).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

/// A socket beside which others may listen at the same address.
fn new_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    set_socket_reuseport(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// A worker: connections come from its standard input, and its standard output, on which it says
/// that it is ready, breaks when the master is gone.
pub(crate) fn work(contender: Contender, service: &Service) -> io::Result<()> {
    let (source, master) = (io::stdin(), io::stdout());
    let flags = match contender {
        Contender::RawShared => EventFlags::IN | EventFlags::EXCLUSIVE,
        _ => EventFlags::IN | EventFlags::ET,
    };
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &source, EventData::new_u64(SOURCE), flags)?;
    epoll::add(&epoll, &master, EventData::new_u64(MASTER), EventFlags::empty())?;
    write(&master, &[0])?;
    let mut clients = Clients::new();
    let mut events: Vec<Event> = Vec::with_capacity(64);
    loop {
        events.clear();
        retry_on_intr(|| epoll::wait(&epoll, spare_capacity(&mut events), None))?;
        for event in &events {
            match event.data.u64() {
                // One for each time that it is woken, and then it is the others' turn: who waits
                // longest is woken first.
                SOURCE if contender == Contender::RawShared => {
                    if let Some(connection) = next(accept(&source))? {
                        begin(connection, &epoll, service, &mut clients)?;
                    }
                    epoll::delete(&epoll, &source)?;
                    epoll::add(&epoll, &source, EventData::new_u64(SOURCE), flags)?;
                }
                SOURCE if contender == Contender::RawReuseport => {
                    while let Some(connection) = next(accept(&source))? {
                        begin(connection, &epoll, service, &mut clients)?;
                    }
                }
                SOURCE => {
                    while let Some(received) = next(take(&source))? {
                        let Some(connection) = received else { return Ok(()) };
                        begin(connection, &epoll, service, &mut clients)?;
                    }
                }
                MASTER => return Ok(()),
                client => {
                    let number =
                        usize::try_from(client - FIRST_CLIENT).map_err(io::Error::other)?;
                    clients.serve(number, service);
                }
            }
        }
    }
}

fn accept(listener: impl AsFd) -> rustix::io::Result<OwnedFd> {
    accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

/// `None` when there is none.
fn next<T>(result: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(connection) => Ok(Some(connection)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn begin(
    connection: OwnedFd,
    epoll: &OwnedFd,
    service: &Service,
    clients: &mut Clients<TcpStream>,
) -> io::Result<()> {
    if let Some(client) = service.begin(TcpStream::from(connection)) {
        let (number, client) = clients.add(client);
        let data = EventData::new_u64(FIRST_CLIENT + number as u64);
        epoll::add(epoll, &client.stream, data, EventFlags::IN | EventFlags::ET)?;
    }
    Ok(())
}
