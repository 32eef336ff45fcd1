//! The client's side of the throughput, the same for all.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

use rustix::net::connect;

use crate::stamp::{open, wait_for_close};

const THREADS: u64 = 2;

/// How many connections of one thread are open at most.
const WINDOW: usize = 16;

/// Opens connections as fast as it can, and says how long it took until the last was closed.
pub(crate) fn open_and_wait_for_close(address: SocketAddr, connections: u64) -> io::Result<u64> {
    let start = Instant::now();
    thread::scope(|scope| {
        let shares = (0..THREADS).map(|thread| (connections + thread) / THREADS);
        let threads: Vec<_> =
            shares.map(|share| scope.spawn(move || open_some(address, share))).collect();
        let joined = threads.into_iter().map(|thread| thread.join().expect("it does not panic"));
        joined.collect::<io::Result<()>>()
    })?;
    u64::try_from(start.elapsed().as_nanos()).map_err(io::Error::other)
}

fn open_some(address: SocketAddr, connections: u64) -> io::Result<()> {
    let mut streams = VecDeque::new();
    for _ in 0..connections {
        if streams.len() == WINDOW
            && let Some(stream) = streams.pop_front()
        {
            wait_for_close(stream)?;
        }
        let stream = open()?;
        connect(&stream, &address)?;
        streams.push_back(stream);
    }
    streams.into_iter().try_for_each(wait_for_close)
}
