//! What it costs to hand a connection over to a worker: `ours` beside the bare system calls, `raw`.
//!
//! A server is a master process and its workers, all of them this very program with other
//! arguments; the client is this process. README.md says what is measured, and how to read it.
#![forbid(unsafe_code)]

#[path = "handoff/client.rs"]
mod client;
#[path = "handoff/ours.rs"]
mod ours;
#[path = "handoff/processor.rs"]
mod processor;
#[path = "handoff/raw.rs"]
mod raw;
#[path = "handoff/report.rs"]
mod report;
#[path = "handoff/server.rs"]
mod server;

use std::env;
use std::error::Error;
use std::io;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};

use self::processor::Pinned;
use self::report::{Report, Sample};
use self::server::{Contender, Server, Task};

const WORKERS: [usize; 2] = [1, 4];

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
    let mut report = Report::default();
    for task in [Task::Stamp, Task::Close] {
        bench(&mut criterion, &mut report, task);
    }
    criterion.final_summary();
    print!("{report}");
    drop(pinned);
    Ok(())
}

fn bench(criterion: &mut Criterion, report: &mut Report, task: Task) {
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
                    report.add(task, workers, contender, own, beside);
                    own.total()
                });
            });
        }
    }
    group.finish();
}

fn sample(server: &Server, task: Task, connections: u64) -> io::Result<Sample> {
    let before = server.cpu_time()?;
    let wall_ns = match task {
        Task::Stamp => client::median_latency_ns(server.address(), connections)?,
        Task::Close => {
            client::open_and_wait_for_close(server.address(), connections)? / connections
        }
    };
    let cpu_ns = u64::try_from((server.cpu_time()? - before).as_nanos()).unwrap_or(u64::MAX);
    Ok(Sample { connections, wall_ns, cpu_ns: cpu_ns / connections })
}
