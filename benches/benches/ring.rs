//! What a message through shared memory costs: `ours` beside iceoryx2, and beside what one would
//! write by hand, `raw`.
//!
//! The process at the other end is this very program with other arguments; it sends back what the
//! bench asks for. README.md says what is measured, and how to read it.
#![forbid(unsafe_code)]

#[path = "ring/contender.rs"]
mod contender;
#[path = "ring/end.rs"]
mod end;
#[path = "ring/iceoryx2.rs"]
mod iceoryx2;
#[path = "ring/ours.rs"]
mod ours;
#[path = "support/peer.rs"]
mod peer;
#[path = "support/processor.rs"]
mod processor;
#[path = "ring/raw.rs"]
mod raw;
#[path = "support/report.rs"]
mod report;

use std::env;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};

use self::contender::{Contender, Link, Result};
use self::processor::Pinned;
use self::report::{Report, Times};

/// Samples of fewer messages are for warming up, or only show that it works.
const MESSAGES_MIN: u64 = 5;

/// How many messages may wait, when as many are sent as it takes.
const QUEUED: usize = 128;

/// If set, those who sleep have a processor each, too.
const APART: &str = "RING_APART";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// A message goes there and comes back, and then the next does; each process looks for it on a
    /// processor of its own.
    Spinning,
    /// Likewise, but who waits sleeps, and both are on one processor.
    Sleeping,
    /// Messages go there, and an answer comes back after the last.
    Throughput,
}

impl Subject {
    const ALL: [Subject; 3] = [Subject::Spinning, Subject::Sleeping, Subject::Throughput];

    fn name(self) -> &'static str {
        match self {
            Subject::Spinning => "spinning",
            Subject::Sleeping => "sleeping",
            Subject::Throughput => "throughput",
        }
    }

    /// Lengths of the messages, in bytes.
    fn sizes(self) -> &'static [usize] {
        match self {
            Subject::Spinning => &[64, 1024, 64 * 1024, 1024 * 1024],
            Subject::Sleeping | Subject::Throughput => &[64, 1024],
        }
    }

    /// Who is measured, and beside whom.
    fn pairs(self) -> &'static [(Contender, Contender)] {
        use Contender::{
            Iceoryx2, Iceoryx2Event, Iceoryx2Loan, Ours, OursAdaptive, OursInPlace, OursSleeping,
            Raw, RawFutex,
        };
        match self {
            Subject::Spinning => &[
                (Raw, Raw),
                (Ours, Raw),
                (Ours, Iceoryx2),
                (OursInPlace, Iceoryx2Loan),
                (OursAdaptive, Ours),
            ],
            Subject::Sleeping => &[
                (RawFutex, RawFutex),
                (OursSleeping, RawFutex),
                (OursAdaptive, RawFutex),
                (Iceoryx2Event, RawFutex),
            ],
            Subject::Throughput => {
                &[(Raw, Raw), (Ours, Raw), (Ours, Iceoryx2), (OursInPlace, Iceoryx2Loan)]
            }
        }
    }
}

fn main() -> Result<()> {
    if contender::run_if_asked()? {
        return Ok(());
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args();
    let pinned = Pinned::new()?;
    let mut report = Report::new("message", "bytes", ["wall"], "the other");
    for subject in Subject::ALL {
        for &bytes in subject.sizes() {
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
    let mut group = criterion.benchmark_group(format!("ring/{}", subject.name()));
    group.sampling_mode(SamplingMode::Flat);
    if subject == Subject::Throughput {
        group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: bytes as u64 });
    }
    let queued = if subject == Subject::Throughput { QUEUED } else { 2 };
    // Peers start in the closures, by which those that are filtered out never do; and only once,
    // although criterion calls a closure for every sample. Idle ones sleep.
    let start = |contender: Contender| {
        move || {
            let start = || contender.start(bytes, queued);
            let is_apart = subject != Subject::Sleeping || env::var_os(APART).is_some();
            let link = if is_apart { pinned.elsewhere(start).expect("as before") } else { start() };
            link.expect("the peer starts")
        }
    };
    for &(contender, other) in subject.pairs() {
        let name = format!("{} / {}", contender.name(), other.name());
        let mut links = None;
        let mut is_first = false;
        group.bench_function(BenchmarkId::new(&name, bytes), |bencher| {
            let [link, reference] =
                links.get_or_insert_with(|| [contender, other].map(|each| start(each)()));
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
                    let names = [subject.name(), &bytes.to_string(), &name];
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
    match subject {
        Subject::Spinning | Subject::Sleeping => link.round_trips(messages),
        Subject::Throughput => link.one_way(messages),
    }
}

#[allow(clippy::cast_precision_loss, reason = "hours in nanoseconds are exact")]
fn ns(time: Duration) -> f64 {
    time.as_nanos() as f64
}

#[allow(clippy::cast_precision_loss, reason = "no sample has so many")]
fn number(messages: u64) -> f64 {
    messages as f64
}
