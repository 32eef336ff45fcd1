//! The client's side, the same for all.
//!
//! The worker always closes first; the client then resets what is left of the connection. So
//! nothing stays behind in TIME_WAIT, on either side, and no run slows down the next.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustix::time::{ClockId, clock_gettime};

/// How long a connection may take, before the benchmark fails.
const TIMEOUT: Duration = Duration::from_secs(10);

const THREADS: u64 = 2;

/// How many connections of one thread are open at most.
const WINDOW: usize = 16;

/// The median of the times from just before the call of `connect` until a worker had the connection
/// in hand, of connections one after the other.
pub(crate) fn median_latency_ns(address: SocketAddr, connections: u64) -> io::Result<u64> {
    let mut latencies = Vec::new();
    for _ in 0..connections {
        let stream = open()?;
        let start_ns = now_ns();
        connect(&stream, &address)?;
        let mut taken_ns = [0; 8];
        (&stream).read_exact(&mut taken_ns)?;
        wait_for_close(stream)?;
        latencies.push(u64::from_ne_bytes(taken_ns) - start_ns);
    }
    let middle = latencies.len() / 2;
    Ok(*latencies.select_nth_unstable(middle).1)
}

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

fn open() -> io::Result<TcpStream> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_linger(&socket, Some(Duration::ZERO))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

fn wait_for_close(mut stream: TcpStream) -> io::Result<()> {
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::other("the worker sent too much")),
    }
}

/// The monotonic clock, which is one for all processes.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).expect("the clock began at 0")
}
