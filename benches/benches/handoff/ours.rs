//! `runtime`, as its users use it, with default settings.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use runtime::{Address, Cluster, Event, Worker};

use crate::server::Task;

const ADDRESS: &str = "127.0.0.1:0";

/// How long workers may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts workers with these arguments, and waits until all listen.
pub(crate) fn start(
    workers: usize,
    args: [&str; 3],
) -> Result<(Cluster, SocketAddr), Box<dyn Error>> {
    let cluster = Cluster::builder().workers(workers).args(args).spawn()?;
    let mut listening = 0;
    loop {
        match cluster.events().recv_timeout(START_TIMEOUT)? {
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

/// A worker that waits with mio.
pub(crate) fn work(task: Task) -> Result<(), Box<dyn Error>> {
    let mut worker = Worker::from_env()?.ok_or("not started by a master")?;
    let mut listener = worker.listen(ADDRESS)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, Token(0), Interest::READABLE)?;
    poll.registry().register(&mut worker, Token(1), Interest::READABLE)?;
    let mut events = Events::with_capacity(16);
    while !worker.is_stopping() {
        poll.poll(&mut events, None)?;
        loop {
            match listener.accept() {
                Ok((connection, _)) => task.perform(connection)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// A worker that waits for nothing but connections.
pub(crate) fn work_blocking(task: Task) -> Result<(), Box<dyn Error>> {
    let worker = Worker::from_env()?.ok_or("not started by a master")?;
    for connection in worker.listen(ADDRESS)?.incoming() {
        task.perform(connection?)?;
    }
    io::Result::Ok(())?;
    Ok(())
}
