//! Runs the simulator on many seeds, on all cores: `cargo run --release -p runtime --features sim
//! --example sim -- --seeds 100000 --first 0`. Prints the first seed that fails, with its trace.
//!
//! A failing seed fails again: `-- --seeds 1 --first SEED`.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use runtime::sim::{self, Source, Violation};

/// What the runs came to, together.
#[derive(Default)]
struct Totals {
    next: AtomicU64,
    runs: AtomicU64,
    steps: AtomicU64,
    served: AtomicU64,
    lost: AtomicU64,
    failure: Mutex<Option<(u64, Violation)>>,
}

fn main() -> ExitCode {
    let (mut seeds, mut first) = (10_000, 0);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().and_then(|value| value.parse().ok());
        match (arg.as_str(), value) {
            ("--seeds", Some(value)) => seeds = value,
            ("--first", Some(value)) => first = value,
            _ => {
                eprintln!("usage: sim [--seeds COUNT] [--first SEED]");
                return ExitCode::FAILURE;
            }
        }
    }
    let totals = Totals { next: AtomicU64::new(first), ..Totals::default() };
    let start = Instant::now();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| work(&totals, first.saturating_add(seeds)));
        }
    });
    report(totals, start.elapsed().as_secs_f64(), cores)
}

fn work(totals: &Totals, end: u64) {
    loop {
        let seed = totals.next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        match sim::run(Source::Seed(seed)) {
            Ok(summary) => {
                totals.runs.fetch_add(1, Ordering::Relaxed);
                totals.steps.fetch_add(summary.steps as u64, Ordering::Relaxed);
                totals.served.fetch_add(summary.served as u64, Ordering::Relaxed);
                totals.lost.fetch_add(summary.lost as u64, Ordering::Relaxed);
            }
            Err(violation) => {
                let mut failure = totals.failure.lock().expect("no thread panics with it");
                if failure.as_ref().is_none_or(|(other, _)| seed < *other) {
                    *failure = Some((seed, violation));
                }
                totals.next.store(end, Ordering::Relaxed);
                return;
            }
        }
    }
}

fn report(totals: Totals, seconds: f64, cores: usize) -> ExitCode {
    let (runs, steps) = (totals.runs.into_inner(), totals.steps.into_inner());
    let rate = runs as f64 / seconds;
    println!("{runs} runs in {seconds:.1} s: {rate:.0}/s on {cores} cores");
    println!(
        "{} steps each, {} clients served, {} lost with workers",
        steps / runs.max(1),
        totals.served.into_inner(),
        totals.lost.into_inner()
    );
    match totals.failure.into_inner().expect("no thread panics with it") {
        None => ExitCode::SUCCESS,
        Some((seed, violation)) => {
            println!("{violation}\nseed {seed}");
            ExitCode::FAILURE
        }
    }
}
