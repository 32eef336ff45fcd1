//! What it costs to hand a connection over to a worker: `ours` beside the bare system calls, `raw`.
//!
//! A server is a master process and its workers, all of them this very program with other
//! arguments; the client is this process. README.md says what is measured, and how to read it.
#![forbid(unsafe_code)]

#[path = "handoff/client.rs"]
mod client;
#[path = "support/handover.rs"]
mod handover;
#[path = "handoff/ours.rs"]
mod ours;
#[path = "support/processor.rs"]
mod processor;
#[path = "handoff/raw.rs"]
mod raw;
#[path = "support/report.rs"]
mod report;
#[path = "handoff/server.rs"]
mod server;
#[path = "support/stamp.rs"]
mod stamp;

use std::env;
use std::error::Error;
use std::io;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};

use self::processor::Pinned;
use self::report::{Report, Times};
use self::server::{Contender, Server, Task};

const WORKERS: [usize; 2] = [1, 4];

/// Samples of fewer connections are for warming up, or only show that it works.
const CONNECTIONS_MIN: u64 = 50;

/// If set, processes run wherever the scheduler puts them, and not on one processor.
const UNPINNED: &str = "HANDOFF_UNPINNED";

fn main() -> Result<(), Box<dyn Error>> {
    if server::run_if_asked()? {
        return Ok(());
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    let pinned = env::var_os(UNPINNED).is_none().then(Pinned::new).transpose()?;
    let mut report = Report::new("connection", "workers", ["wall", "CPU"], "raw");
    for task in [Task::Stamp, Task::Close] {
        bench(&mut criterion, &mut report, task);
    }
    criterion.final_summary();
    print!("{report}");
    drop(pinned);
    Ok(())
}

fn bench(criterion: &mut Criterion, report: &mut Report<2>, task: Task) {
    let mut group = criterion.benchmark_group(format!("handoff/{}", task.subject()));
    group.sampling_mode(SamplingMode::Flat);
    if task == Task::Close {
        group.throughput(Throughput::Elements(1));
    }
    for workers in WORKERS {
        // Servers start in the closures, by which those that are filtered out never do; and only
        // once, although criterion calls a closure for every sample. Idle ones disturb nobody.
        let start = |contender| move || Server::start(contender, workers, task).expect("it starts");
        let mut reference = None;
        for contender in [Contender::Raw, Contender::Ours, Contender::OursBlocking] {
            let mut server = None;
            let mut is_first = false;
            group.bench_function(BenchmarkId::new(contender.name(), workers), |bencher| {
                let reference = &*reference.get_or_insert_with(start(Contender::Raw));
                let server = &*server.get_or_insert_with(start(contender));
                bencher.iter_custom(|connections| {
                    let sample = |server| {
                        sample(server, task, connections).expect("every connection is handed over")
                    };
                    // Both in one sample, since what else runs on a machine changes by the second;
                    // raw beside another raw shows how much that leaves to chance.
                    is_first = !is_first;
                    let (own, beside) = if is_first {
                        (sample(server), sample(reference))
                    } else {
                        let beside = sample(reference);
                        (sample(server), beside)
                    };
                    if connections >= CONNECTIONS_MIN {
                        let names = [task.subject(), &workers.to_string(), contender.name()];
                        report.add(names, own.beside(beside));
                    }
                    own.total()
                });
            });
        }
    }
    group.finish();
}

/// What one contender did in one sample.
#[derive(Clone, Copy, Debug)]
struct Sample {
    connections: u64,
    /// The time of a connection: the median for [`Task::Stamp`], the average for [`Task::Close`].
    wall_ns: u64,
    /// What a connection cost the processes of the server, on average.
    cpu_ns: u64,
}

impl Sample {
    /// What it comes to for all connections, as criterion wants to know it.
    fn total(self) -> Duration {
        Duration::from_nanos(self.wall_ns * self.connections)
    }

    fn beside(self, raw: Sample) -> [Times; 2] {
        let times = |own, raw| Times { own_ns: ns(own), raw_ns: ns(raw) };
        [times(self.wall_ns, raw.wall_ns), times(self.cpu_ns, raw.cpu_ns)]
    }
}

fn sample(server: &Server, task: Task, connections: u64) -> io::Result<Sample> {
    let before = server.cpu_time()?;
    let wall_ns = match task {
        Task::Stamp => {
            let mut latencies_ns = stamp::latencies_ns(server.address(), connections)?;
            let middle = latencies_ns.len() / 2;
            *latencies_ns.select_nth_unstable(middle).1
        }
        Task::Close => {
            client::open_and_wait_for_close(server.address(), connections)? / connections
        }
    };
    let cpu_ns = u64::try_from((server.cpu_time()? - before).as_nanos()).unwrap_or(u64::MAX);
    Ok(Sample { connections, wall_ns, cpu_ns: cpu_ns / connections })
}

#[allow(clippy::cast_precision_loss, reason = "hours in nanoseconds are exact")]
fn ns(nanoseconds: u64) -> f64 {
    nanoseconds as f64
}
