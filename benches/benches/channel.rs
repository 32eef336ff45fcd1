//! What a message between two processes costs: `ours` beside the peers, and beside the bare system
//! calls, `raw`.
//!
//! The process at the other end is this very program with other arguments; it sends back whatever
//! message asks for it. README.md says what is measured, and how to read it.
#![forbid(unsafe_code)]

#[path = "channel/buffered.rs"]
mod buffered;
#[path = "channel/contender.rs"]
mod contender;
#[path = "channel/ipc_channel.rs"]
mod ipc_channel;
#[path = "channel/ours.rs"]
mod ours;
#[path = "support/peer.rs"]
mod peer;
#[path = "support/processor.rs"]
mod processor;
#[path = "channel/raw.rs"]
mod raw;
#[path = "support/report.rs"]
mod report;

use std::env;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};

use self::contender::{Contender, Link, Result};
use self::processor::Pinned;
use self::report::{Report, Times};

/// Lengths of the payloads, in bytes.
const SIZES: [usize; 4] = [64, 1024, 64 * 1024, 1024 * 1024];

/// Samples of fewer messages are for warming up, or only show that it works.
const MESSAGES_MIN: u64 = 5;

/// If set, each of the two processes has a processor of its own.
const APART: &str = "CHANNEL_APART";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// A message goes there and comes back, and then the next does.
    RoundTrip,
    /// Messages go there, and the last comes back.
    Throughput,
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Subject::RoundTrip => "round-trip",
            Subject::Throughput => "throughput",
        }
    }
}

fn main() -> Result<()> {
    if contender::run_if_asked()? {
        return Ok(());
    }
    let mut criterion = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let pinned = Pinned::new()?;
    let mut report = Report::new("message", "bytes", ["wall"], "raw");
    for subject in [Subject::RoundTrip, Subject::Throughput] {
        for bytes in SIZES {
            bench(&mut criterion, &mut report, &pinned, subject, bytes);
        }
    }
    criterion.final_summary();
    print!("{report}");
    Ok(())
}

fn bench(
    criterion: &mut Criterion,
    report: &mut Report<1>,
    pinned: &Pinned,
    subject: Subject,
    bytes: usize,
) {
    let mut group = criterion.benchmark_group(format!("channel/{}", subject.name()));
    group.sampling_mode(SamplingMode::Flat);
    if subject == Subject::Throughput {
        group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: bytes as u64 });
    }
    // Peers start in the closures, by which those that are filtered out never do; and only once,
    // although criterion calls a closure for every sample. Idle ones disturb nobody.
    let start = |contender: Contender| {
        move || {
            let start = || contender.start(bytes);
            let is_apart = env::var_os(APART).is_some();
            let link = if is_apart { pinned.elsewhere(start).expect("as before") } else { start() };
            link.expect("the peer starts")
        }
    };
    let mut reference = None;
    for contender in Contender::ALL {
        let mut link = None;
        let mut is_first = false;
        group.bench_function(BenchmarkId::new(contender.name(), bytes), |bencher| {
            let reference = reference.get_or_insert_with(start(Contender::Raw));
            let link = link.get_or_insert_with(start(contender));
            bencher.iter_custom(|messages| {
                let sample = |link: &mut _| sample(link, subject, messages).expect("it arrives");
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
                    let names = [subject.name(), &bytes.to_string(), contender.name()];
                    let [own_ns, raw_ns] = [own, raw].map(|time| ns(time) / number(messages));
                    report.add(names, [Times { own_ns, raw_ns }]);
                }
                own
            });
        });
    }
    group.finish();
}

fn sample(link: &mut Link, subject: Subject, messages: u64) -> Result<Duration> {
    let start = Instant::now();
    match subject {
        Subject::RoundTrip => link.connection.round_trips(messages)?,
        Subject::Throughput => link.connection.one_way(messages)?,
    }
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
