//! `runtime`, as its users use it, with default settings.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use runtime::{Address, Cluster, Connection, Event, Listener, Worker};

use crate::http::{Clients, Service};
use crate::server::{Setup, Task};

const ADDRESS: &str = "127.0.0.1:0";

/// How long workers may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(10);

const LISTENER: Token = Token(0);
const STOP: Token = Token(1);
const FIRST_CLIENT: usize = 2;

/// Starts the workers, and waits until all listen.
pub(crate) fn start(setup: &Setup) -> Result<(Cluster, SocketAddr), Box<dyn Error>> {
    let workers = setup.weights.len();
    let asked = setup.contender.dispatch().ok_or("not one of ours")?;
    let mut builder = Cluster::builder().weights(setup.weights.clone()).dispatch(asked);
    if let Some(policy) = setup.policy {
        builder = builder.policy(policy);
    }
    if let Some(connections) = setup.mailbox_connections {
        builder = builder.mailbox_connections(connections);
    }
    let cluster = builder.args(setup.worker_args()).spawn()?;
    let mut listening = 0;
    loop {
        match cluster.events().recv_timeout(START_TIMEOUT)? {
            Event::Opened { dispatch, reason, .. } if dispatch != asked => {
                return Err(format!("{asked} is not possible: {reason:?}").into());
            }
            Event::Listening { address: Address::Tcp(address), .. } => {
                listening += 1;
                if listening == workers {
                    return Ok((cluster, address));
                }
            }
            Event::Exited { worker, exit, .. } => {
                return Err(format!("worker {worker} {exit}").into());
            }
            _ => {}
        }
    }
}

/// A worker.
pub(crate) fn work(task: Task) -> Result<(), Box<dyn Error>> {
    let mut worker = Worker::from_env()?.ok_or("not started by a master")?;
    let id = worker.id();
    let service = Service::new(task, id.slot, id.generation);
    let mut listener = worker.listen(ADDRESS)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    poll.registry().register(&mut worker, STOP, Interest::READABLE)?;
    let mut events = Events::with_capacity(64);
    let mut clients = Clients::new();
    while !worker.is_stopping() {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            match event.token() {
                LISTENER => accept_all(&listener, &poll, &service, &mut clients)?,
                STOP => {}
                Token(token) => clients.serve(token - FIRST_CLIENT, &service),
            }
        }
    }
    Ok(())
}

fn accept_all(
    listener: &Listener,
    poll: &Poll,
    service: &Service,
    clients: &mut Clients<Connection>,
) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((connection, _)) => {
                if let Some(client) = service.begin(connection) {
                    let (number, client) = clients.add(client);
                    let token = Token(FIRST_CLIENT + number);
                    poll.registry().register(&mut client.stream, token, Interest::READABLE)?;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
