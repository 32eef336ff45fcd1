//! The loads, and what is measured of a server under one.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use benches::load::{Options, Report, Target, run};

use crate::server::{Server, Task};
use crate::stamp;

/// What the client does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) name: &'static str,
    pub(crate) clients: u32,
    pub(crate) keep_alive: bool,
    /// How many requests a second; `None` for as many as it takes.
    pub(crate) rate: Option<u32>,
    /// What the workers do.
    pub(crate) task: Task,
}

const NEW: Load =
    Load { name: "new-1", clients: 1, keep_alive: false, rate: None, task: Task::Http };
const KEPT: Load = Load { name: "kept-1", keep_alive: true, ..NEW };

/// From `connect()` to the worker, by connections one after the other.
pub(crate) const CONNECT: Load = Load { name: "connect", task: Task::Stamp, ..NEW };

/// 500 connections a second.
pub(crate) const PACED: Load = Load { name: "paced", clients: 8, rate: Some(500), ..NEW };

/// A connection per request, flat out.
pub(crate) const NEW_64: Load = Load { name: "new-64", clients: 64, ..NEW };

pub(crate) const LOADS: [Load; 6] =
    [NEW, NEW_64, KEPT, Load { name: "kept-64", clients: 64, ..KEPT }, PACED, CONNECT];

/// What was measured of one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) requests: u64,
    /// From one request to the next, on average.
    pub(crate) wall_ns: u64,
    /// What a request cost the processes of the server, on average.
    pub(crate) cpu_ns: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
}

/// Sends so many requests.
pub(crate) fn sample(server: &Server, load: &Load, requests: u64) -> io::Result<Sample> {
    let before = server.cpu_time()?;
    let [wall_ns, p50_ns, p99_ns] = if load.task == Task::Stamp {
        connect_latencies(server.address(), requests)?
    } else {
        let report = run_load(server, load, requests)?;
        let [p50_ns, p99_ns] = [50, 99].map(|percent| ns(report.latency(percent)));
        [ns(report.elapsed()) / requests, p50_ns, p99_ns]
    };
    let cpu_ns = ns(server.cpu_time()? - before) / requests;
    Ok(Sample { requests, wall_ns, cpu_ns, p50_ns, p99_ns })
}

/// Sends so many requests, each of which has to be answered.
pub(crate) fn run_load(server: &Server, load: &Load, requests: u64) -> io::Result<Report> {
    let mut options = Options::new(Target::Tcp(server.address().to_string()));
    options.clients = u32::try_from(requests).unwrap_or(u32::MAX).min(load.clients);
    options.keep_alive = load.keep_alive;
    options.rate = load.rate;
    options.duration = None;
    options.requests = Some(requests);
    let report = run(&options, &AtomicBool::new(false))?;
    if report.is_all_ok() { Ok(report) } else { Err(io::Error::other(report.to_string())) }
}

/// The average time, the median, and what all but a hundredth are below.
fn connect_latencies(address: SocketAddr, connections: u64) -> io::Result<[u64; 3]> {
    let mut latencies_ns = stamp::latencies_ns(address, connections)?;
    latencies_ns.sort_unstable();
    let percentile =
        |percent: usize| latencies_ns[(latencies_ns.len() * percent).div_ceil(100) - 1];
    let sum: u64 = latencies_ns.iter().sum();
    Ok([sum / connections, percentile(50), percentile(99)])
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
