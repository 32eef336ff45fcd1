//! What a cluster costs: `runtime`'s ways to bring connections to workers, each beside the bare
//! system calls that do the same, under the same HTTP load.
//!
//! A server is a master process and its workers, all of them this very program with other
//! arguments; the client is this process. README.md says what is measured, and how to read it.
#![forbid(unsafe_code)]

#[path = "support/handover.rs"]
mod handover;
#[path = "cluster/http.rs"]
mod http;
#[path = "cluster/load.rs"]
mod load;
#[path = "cluster/ours.rs"]
mod ours;
#[path = "support/processor.rs"]
mod processor;
#[path = "cluster/raw.rs"]
mod raw;
#[path = "support/report.rs"]
mod report;
#[path = "cluster/server.rs"]
mod server;
#[path = "support/stamp.rs"]
mod stamp;
#[path = "cluster/tables.rs"]
mod tables;

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};

use self::load::{CONNECT, LOADS, Load, PACED, Sample, sample};
use self::processor::Pinned;
use self::report::{Report, Times};
use self::server::{Contender, Server, Setup, Task};

const WORKERS: [usize; 3] = [1, 2, 4];

/// Samples of fewer requests are for warming up, or only show that it works.
const REQUESTS_MIN: u64 = 20;

/// If set, all processes run on one processor, and not wherever the scheduler puts them.
const PINNED: &str = "CLUSTER_PINNED";

/// A contender's server, or that of raw which it is measured beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Own,
    Beside,
}

/// All servers of the run. They start when they are needed, and only once; idle ones disturb
/// nobody.
#[derive(Debug, Default)]
struct Servers(BTreeMap<(Role, Contender, usize, Task), Server>);

impl Servers {
    fn start(&mut self, role: Role, contender: Contender, workers: usize, task: Task) {
        self.0.entry((role, contender, workers, task)).or_insert_with(|| {
            Server::start(&Setup::new(contender, workers, task)).expect("it starts")
        });
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    if server::run_if_asked()? {
        return Ok(());
    }
    let pinned = env::var_os(PINNED).map(|_| Pinned::new()).transpose()?;
    if !tables::print_if_asked()? {
        measure();
    }
    drop(pinned);
    Ok(())
}

fn measure() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let mut costs = Report::new("request", "workers", ["wall", "CPU"], "raw");
    let mut latencies = Report::new("request", "workers", ["p50", "p99"], "raw");
    let mut servers = Servers::default();
    let contenders = Contender::available();
    for load in LOADS {
        bench(&mut criterion, &contenders, &mut servers, &load, |names, own, raw| {
            costs.add(names, [times(own.wall_ns, raw.wall_ns), times(own.cpu_ns, raw.cpu_ns)]);
            latencies.add(names, [times(own.p50_ns, raw.p50_ns), times(own.p99_ns, raw.p99_ns)]);
        });
    }
    criterion.final_summary();
    print!("{costs}{latencies}");
}

fn bench(
    criterion: &mut Criterion,
    contenders: &[Contender],
    servers: &mut Servers,
    load: &Load,
    mut add: impl FnMut([&str; 3], Sample, Sample),
) {
    let mut group = criterion.benchmark_group(format!("cluster/{}", load.name));
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(1));
    let is_special = [CONNECT.name, PACED.name].contains(&load.name);
    if is_special {
        group.measurement_time(Duration::from_secs(4));
    }
    for workers in WORKERS {
        if is_special && workers < 4 {
            continue;
        }
        for &contender in contenders {
            let mut is_first = false;
            group.bench_function(BenchmarkId::new(contender.name(), workers), |bencher| {
                servers.start(Role::Own, contender, workers, load.task);
                servers.start(Role::Beside, contender.raw(), workers, load.task);
                let own = &servers.0[&(Role::Own, contender, workers, load.task)];
                let beside = &servers.0[&(Role::Beside, contender.raw(), workers, load.task)];
                bencher.iter_custom(|requests| {
                    let sample =
                        |server| sample(server, load, requests).expect("every request is answered");
                    // Both in one sample, since what else runs on a machine changes by the second;
                    // raw beside another raw shows how much that leaves to chance.
                    is_first = !is_first;
                    let (own, raw) = if is_first {
                        (sample(own), sample(beside))
                    } else {
                        let raw = sample(beside);
                        (sample(own), raw)
                    };
                    if requests >= REQUESTS_MIN {
                        add([load.name, &workers.to_string(), contender.name()], own, raw);
                    }
                    Duration::from_nanos(own.wall_ns * own.requests)
                });
            });
        }
    }
    group.finish();
}

#[allow(clippy::cast_precision_loss, reason = "hours in nanoseconds are exact")]
fn times(own_ns: u64, raw_ns: u64) -> Times {
    Times { own_ns: own_ns as f64, raw_ns: raw_ns as f64 }
}
