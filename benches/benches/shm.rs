//! What shared memory costs to make, fill, read, and pass to another process: `ours` beside
//! ipc-channel, and beside files in memory without a mapping, `raw`.
//!
//! The process at the other end is this very program with other arguments. README.md says what is
//! measured, and how to read it.
#![forbid(unsafe_code)]

#[path = "shm/contender.rs"]
mod contender;
#[path = "shm/ipc_channel.rs"]
mod ipc_channel;
#[path = "shm/ours.rs"]
mod ours;
#[path = "support/peer.rs"]
mod peer;
#[path = "support/processor.rs"]
mod processor;
#[path = "shm/raw.rs"]
mod raw;
#[path = "support/report.rs"]
mod report;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};

use self::contender::{Act, Contender, Result, Subject};
use self::processor::Pinned;
use self::report::{Report, Times};

/// Lengths of the memory, in bytes.
const SIZES: [usize; 2] = [1024 * 1024, 64 * 1024 * 1024];

fn main() -> Result<()> {
    if contender::run_if_asked()? {
        return Ok(());
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args();
    let _pinned = Pinned::new()?;
    let mut report = Report::new("memory", "bytes", ["wall"], "raw");
    for subject in Subject::ALL {
        for bytes in SIZES {
            bench(&mut criterion, &mut report, subject, bytes)?;
        }
    }
    criterion.final_summary();
    print!("{report}");
    Ok(())
}

fn bench(
    criterion: &mut Criterion,
    report: &mut Report<1>,
    subject: Subject,
    bytes: usize,
) -> Result<()> {
    let mut group = criterion.benchmark_group(format!("shm/{}", subject.name()));
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Bytes(bytes as u64));
    let mut reference = None;
    for contender in Contender::ALL {
        if !contender.can(subject) {
            continue;
        }
        let mut act = None;
        let mut is_first = false;
        let mut is_warm = false;
        group.bench_function(BenchmarkId::new(contender.name(), bytes), |bencher| {
            // Here, by which what is filtered out is not started.
            let start = |contender: Contender| {
                move || contender.start(subject, bytes).expect("the system allows it")
            };
            let reference = reference.get_or_insert_with(start(Contender::Raw));
            let act = act.get_or_insert_with(start(contender));
            bencher.iter_custom(|times| {
                let sample = |act: &mut Act| sample(act, times).expect("it did before");
                // Both in one sample, since what else runs on a machine changes by the second; raw
                // beside another raw shows how much that leaves to chance.
                is_first = !is_first;
                let (own, raw) = if is_first {
                    (sample(act), sample(reference))
                } else {
                    let raw = sample(reference);
                    (sample(act), raw)
                };
                if is_warm {
                    let names = [subject.name(), &bytes.to_string(), contender.name()];
                    let [own_ns, raw_ns] = [own, raw].map(|time| ns(time) / number(times));
                    report.add(names, [Times { own_ns, raw_ns }]);
                }
                is_warm = true;
                own
            });
        });
    }
    group.finish();
    Ok(())
}

fn sample(act: &mut Act, times: u64) -> Result<Duration> {
    let start = Instant::now();
    for _ in 0..times {
        act()?;
    }
    Ok(start.elapsed())
}

#[allow(clippy::cast_precision_loss, reason = "hours in nanoseconds are exact")]
fn ns(time: Duration) -> f64 {
    time.as_nanos() as f64
}

#[allow(clippy::cast_precision_loss, reason = "no sample has so many")]
fn number(times: u64) -> f64 {
    times as f64
}
