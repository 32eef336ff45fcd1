//! What a handle costs on its way to another process: `ours` beside the peers, and beside the bare
//! system calls, `raw`.
//!
//! The process at the other end is this very program with other arguments; it closes what it gets.
//! README.md says what is measured, and how to read it.
#![forbid(unsafe_code)]

#[path = "handles/contender.rs"]
mod contender;
#[path = "support/peer.rs"]
mod peer;
#[path = "support/processor.rs"]
mod processor;
#[path = "handles/raw.rs"]
mod raw;
#[path = "support/report.rs"]
mod report;

use std::env;
use std::error::Error;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};

use self::contender::{Contender, Link};
use self::processor::Pinned;
use self::report::{Report, Times};

/// How many handles there are in each message.
const COUNTS: [usize; 2] = [1, 16];

/// Samples of fewer messages are for warming up, or only show that it works.
const MESSAGES_MIN: u64 = 50;

/// If set, each of the two processes has a processor of its own.
const APART: &str = "HANDLES_APART";

fn main() -> Result<(), Box<dyn Error>> {
    if contender::run_if_asked()? {
        return Ok(());
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let pinned = Pinned::new()?;
    let mut report = Report::new("message", "handles", ["wall"], "raw");
    for count in COUNTS {
        bench(&mut criterion, &mut report, &pinned, count);
    }
    criterion.final_summary();
    print!("{report}");
    Ok(())
}

fn bench(criterion: &mut Criterion, report: &mut Report<1>, pinned: &Pinned, count: usize) {
    let mut group = criterion.benchmark_group("handles/one-way");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(count as u64));
    // Peers start in the closures, by which those that are filtered out never do; and only once,
    // although criterion calls a closure for every sample. Idle ones disturb nobody.
    let start = |contender| {
        move || {
            let start = || Link::start(contender, count);
            let is_apart = env::var_os(APART).is_some();
            let link = if is_apart { pinned.elsewhere(start).expect("as before") } else { start() };
            link.expect("the peer starts")
        }
    };
    let mut reference = None;
    for contender in Contender::ALL {
        let mut link = None;
        let mut is_first = false;
        group.bench_function(BenchmarkId::new(contender.name(), count), |bencher| {
            let reference = &*reference.get_or_insert_with(start(Contender::Raw));
            let link = &*link.get_or_insert_with(start(contender));
            bencher.iter_custom(|messages| {
                let sample = |link| sample(link, messages).expect("it arrives");
                // Both in one sample, since what else runs on a machine changes by the second; raw
                // beside another raw shows how much that leaves to chance.
                is_first = !is_first;
                let (own, raw) = if is_first {
                    (sample(link), sample(reference))
                } else {
                    let raw = sample(reference);
                    (sample(link), raw)
                };
                if messages >= MESSAGES_MIN {
                    let [own_ns, raw_ns] = [own, raw].map(|time| ns(time) / number(messages));
                    let names = ["one-way", &count.to_string(), contender.name()];
                    report.add(names, [Times { own_ns, raw_ns }]);
                }
                own
            });
        });
    }
    group.finish();
}

fn sample(link: &Link, messages: u64) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    link.one_way(messages)?;
    Ok(start.elapsed())
}

#[allow(clippy::cast_precision_loss, reason = "hours in nanoseconds are exact")]
fn ns(time: Duration) -> f64 {
    time.as_nanos() as f64
}

#[allow(clippy::cast_precision_loss, reason = "no sample has so many")]
fn number(messages: u64) -> f64 {
    messages as f64
}
