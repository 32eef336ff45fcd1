//! An HTTP load client that counts what became of each request, and which worker answered it.
//!
//! It is closed-loop: each client is a thread that sends its next request when the last one was
//! answered or failed, and not before it is due, if there is a rate. Nothing is retried, so what a
//! reload or a crash loses shows up as a failure.
//!
//! By default each request takes a new connection and asks the server to close it. The client then
//! waits for the server to close first, and resets what is left: no `TIME_WAIT` state stays behind
//! on either side, no run slows down the next, and the client does not run out of local ports at
//! tens of thousands of connections per second.
//!
//! Latency is the time from before `connect` (with a kept connection: before the send) until the
//! answer is complete, of requests that were answered with a 2xx status.

mod answer;
mod args;
mod client;
mod histogram;
mod report;
mod target;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub use args::{CLIENTS_MAX, Command, Options, RATE_MAX, TIMEOUT_MS_MAX, USAGE, UsageError};
pub use report::{Kind, Phase, Report, Worker};
pub use target::Target;

use client::{Client, Plan};
use report::Tally;

/// Runs the clients until the time or the number of requests is reached, or `stop` is set, and all
/// requests under way have ended.
///
/// # Errors
///
/// When the host's name has no address, or a thread can't be started.
pub fn run(options: &Options, stop: &AtomicBool) -> io::Result<Report> {
    let address = options.target.resolve()?;
    let start = Instant::now();
    let plan = Plan {
        address: &address,
        request: options.request(),
        keep_alive: options.keep_alive,
        timeout: options.timeout,
        start,
        interval: options.rate.map(|rate| Duration::from_secs(1) / rate),
        end: options.duration.map(|duration| start + duration),
        requests: options.requests.unwrap_or(u64::MAX),
        begun: AtomicU64::new(0),
        stop,
    };
    let tally = thread::scope(|scope| {
        let mut clients = Vec::new();
        for _ in 0..options.clients {
            let client = thread::Builder::new().name("client".into()).stack_size(STACK_BYTES);
            match client.spawn_scoped(scope, || Client::new(&plan).run()) {
                Ok(client) => clients.push(client),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    let context = format!("client thread {} of {}", clients.len(), options.clients);
                    return Err(io::Error::new(error.kind(), format!("{context}: {error}")));
                }
            }
        }
        let mut tally = Tally::default();
        for client in clients {
            tally.merge(client.join().expect("clients do not panic"));
        }
        Ok(tally)
    })?;
    Ok(Report::new(options, start.elapsed(), tally))
}

/// A client keeps its buffer and its tally on the heap.
const STACK_BYTES: usize = 128 * 1024;
