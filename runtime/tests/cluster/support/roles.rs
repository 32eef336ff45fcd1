//! Workers that many tests use.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime::{Connection, Worker};

use crate::harness::{Outcome, roles};

roles! {
    serve,
}

/// This process as a worker, which it must be.
pub(crate) fn worker() -> Result<Worker, runtime::Error> {
    Worker::from_env().map(|worker| worker.expect("a cluster has started this process"))
}

/// `serve ADDRESS...`: serves connections to all addresses, one at a time each.
fn serve(addresses: &[String]) -> Outcome {
    serve_as(&worker()?, addresses)
}

pub(crate) fn serve_as(worker: &Worker, addresses: &[String]) -> Outcome {
    let name = worker.id().to_string();
    thread::scope(|scope| {
        let mut serving = Vec::new();
        for address in addresses {
            let listener = worker.listen(address.as_str())?;
            let name = &name;
            serving.push(scope.spawn(move || -> io::Result<()> {
                for connection in listener.incoming() {
                    // That a client is gone is no reason to go, too.
                    let _ = answer(connection?, name);
                }
                Ok(())
            }));
        }
        for thread in serving {
            thread.join().expect("it does not panic")?;
        }
        Ok(())
    })
}

/// Says a name, waits for a line, answers it.
pub(crate) fn answer(mut connection: Connection, name: &str) -> io::Result<()> {
    connection.write_all(format!("{name}\n").as_bytes())?;
    read_line(&mut connection)?;
    connection.write_all(b"done\n")
}

/// Waits for the end of a line.
pub(crate) fn read_line(connection: &mut Connection) -> io::Result<()> {
    let mut byte = [0];
    while byte != *b"\n" {
        connection.read_exact(&mut byte)?;
    }
    Ok(())
}

/// Waits until the worker shall stop.
pub(crate) fn wait_for_stop(worker: &Worker) -> Outcome {
    let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
    while !worker.is_stopping() {
        match poll(&mut [readable(worker.as_fd())], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Does nothing ever after.
pub(crate) fn park_for_ever() -> ! {
    loop {
        thread::park();
    }
}
