//! A client of workers that say when they took its connection.
//!
//! The worker always closes first; the client then resets what is left of the connection. So
//! nothing stays behind in TIME_WAIT, on either side, and no run slows down the next.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustix::time::{ClockId, clock_gettime};

/// How long a connection may take, before the benchmark fails.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The times from just before the call of `connect` until a worker had the connection in hand, of
/// connections one after the other.
pub(crate) fn latencies_ns(address: SocketAddr, connections: u64) -> io::Result<Vec<u64>> {
    let latency_ns = |_| {
        let stream = open()?;
        let start_ns = now_ns();
        connect(&stream, &address)?;
        let mut taken_ns = [0; 8];
        (&stream).read_exact(&mut taken_ns)?;
        wait_for_close(stream)?;
        Ok(u64::from_ne_bytes(taken_ns) - start_ns)
    };
    (0..connections).map(latency_ns).collect()
}

/// The worker's side, to be called at once when a connection was taken.
pub(crate) fn send(connection: impl AsFd) -> io::Result<()> {
    let taken_ns = now_ns();
    rustix::io::write(connection, &taken_ns.to_ne_bytes())?;
    Ok(())
}

pub(crate) fn open() -> io::Result<TcpStream> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_linger(&socket, Some(Duration::ZERO))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

pub(crate) fn wait_for_close(mut stream: TcpStream) -> io::Result<()> {
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::other("the worker sent too much")),
    }
}

/// The monotonic clock, which is one for all processes.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).expect("the clock began at 0")
}
