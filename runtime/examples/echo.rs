//! An event-driven worker on its own mio `Poll`: echoes what clients send, line by line or not.
//!
//! `cargo run --release -p runtime --example echo -- 127.0.0.1:7000 4`, then `nc 127.0.0.1 7000`.
//!
//! It is mio's own pattern for a TCP server; what clustering changes is where the listener comes
//! from, and that a second event source says when to stop.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};

use mio::{Events, Interest, Poll, Token};
use runtime::{Cluster, Connection, Worker};

const LISTENER: Token = Token(0);
const STOP: Token = Token(1);
const FIRST_CLIENT: usize = 2;

/// How much may wait for a client that does not read, before nothing more is read from it.
const PENDING_BYTES_MAX: usize = 64 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or("127.0.0.1:7000".to_owned());
    let workers = args.next().map_or(Ok(4), |text| text.parse())?;
    let cluster = Cluster::builder().workers(workers).on_event(|event| println!("{event}"));
    cluster.run(|worker| serve(worker, &address))?;
    Ok(())
}

fn serve(mut worker: Worker, address: &str) -> io::Result<()> {
    let mut listener = worker.listen(address)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    poll.registry().register(&mut worker, STOP, Interest::READABLE)?;
    let mut events = Events::with_capacity(256);
    let mut clients = HashMap::new();
    let mut tokens = (FIRST_CLIENT..).map(Token);
    while !(worker.is_stopping() && clients.is_empty()) {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            match event.token() {
                // Connections that wait when the worker is asked to stop are still ours to serve.
                LISTENER | STOP => loop {
                    let (mut connection, peer) = match listener.accept() {
                        Ok(accepted) => accepted,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    };
                    println!("worker {}: {peer} connected", worker.id());
                    let token = tokens.next().expect("tokens outlast any process");
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut connection, token, interest)?;
                    clients.insert(token, (connection, Vec::new()));
                },
                token => {
                    if let Some((connection, pending)) = clients.get_mut(&token)
                        && !echo(connection, pending)
                    {
                        clients.remove(&token);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Sends back what came, as far as the client takes it; says whether the connection goes on.
fn echo(connection: &mut Connection, pending: &mut Vec<u8>) -> bool {
    let mut ended = false;
    loop {
        match connection.write(pending) {
            Ok(length) => drop(pending.drain(..length)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return !ended,
            Err(_) => return false,
        }
        if ended && pending.is_empty() {
            return false;
        }
        let mut buffer = [0; 4096];
        while !ended && pending.len() < PENDING_BYTES_MAX {
            match connection.read(&mut buffer) {
                Ok(0) => ended = true,
                Ok(length) => pending.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        if pending.is_empty() && !ended {
            return true;
        }
    }
}
