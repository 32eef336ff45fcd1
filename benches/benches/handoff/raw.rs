//! The bare system calls.

use std::env;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::io::{Errno, read, write};
use rustix::net::listen;

use crate::handover::{hand_over, pair, take, wait, watch};
use crate::server::Task;

/// As `runtime` has it by default.
const BACKLOG: i32 = 4096;

/// A master thread and its workers' processes.
#[derive(Debug)]
pub(crate) struct Cluster {
    address: SocketAddr,
    workers: Vec<Child>,
}

impl Cluster {
    /// Starts workers with these arguments, and waits until all are ready.
    pub(crate) fn start(workers: usize, args: [&str; 3]) -> io::Result<Cluster> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        let mut cluster = Cluster { address: listener.local_addr()?, workers: Vec::new() };
        let mut sockets = Vec::new();
        for _ in 0..workers {
            let (ours, theirs) = pair()?;
            let mut command = Command::new(env::current_exe()?);
            cluster.workers.push(command.args(args).stdin(Stdio::from(theirs)).spawn()?);
            sockets.push(ours);
        }
        for socket in &sockets {
            if read(socket, &mut [0])? == 0 {
                return Err(io::Error::other("a worker ended at once"));
            }
        }
        thread::spawn(move || {
            if let Err(error) = hand_over(&listener, &sockets) {
                eprintln!("raw: {error}");
            }
        });
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

/// A worker, whose standard input is where connections come from.
pub(crate) fn work(task: Task) -> io::Result<()> {
    let socket = io::stdin();
    write(&socket, &[0])?;
    let epoll = watch(&socket)?;
    loop {
        wait(&epoll)?;
        loop {
            match take(&socket) {
                Ok(Some(connection)) => task.perform(connection)?,
                Ok(None) => return Ok(()),
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
}
