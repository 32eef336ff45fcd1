//! What it costs to start a process and wait for its end, from a small parent and a large one,
//! without options and with many: `ours` beside the bare system calls, `raw`, beside std, and
//! beside fork and exec. README.md says what is measured, and how to read it.
#![forbid(unsafe_code)]

#[path = "support/report.rs"]
mod report;
#[path = "spawn/tiny.rs"]
mod tiny;

use std::error::Error;
use std::ffi::CString;
use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use benches::sys::{FIRST, Program, Stack, Steps};
use criterion::{BenchmarkId, Criterion, SamplingMode};
use nix::unistd::{getgid, getuid};
use runtime::process::{Command, Resource, Stdio};

use self::report::{Report, Times};
use self::tiny::Tiny;

/// What a large parent has touched beside.
const LARGE_BYTES: usize = 1 << 30;

/// … where it is only to be shown that it works.
const TEST_BYTES: usize = 1 << 24;

/// Soft and hard.
const OPEN_FILES: (u64, u64) = (512, 1024);
const CORE_BYTES: (u64, u64) = (0, 0);

/// A way to start the program and wait for its end.
type Start = Box<dyn FnMut() -> io::Result<()>>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let is_test = std::env::args().any(|arg| arg == "--test");
    let tiny = Tiny::new()?;
    let mut report = Report::new("start", "parent", ["wall"], "raw");
    bench(&mut criterion, &mut report, "small", tiny.path())?;
    let large = vec![1_u8; if is_test { TEST_BYTES } else { LARGE_BYTES }];
    bench(&mut criterion, &mut report, "1 GiB", tiny.path())?;
    black_box(large);
    criterion.final_summary();
    if !is_test {
        print!("{report}");
    }
    Ok(())
}

fn bench(
    criterion: &mut Criterion,
    report: &mut Report<1>,
    parent: &str,
    program: &Path,
) -> io::Result<()> {
    for (subject, has_options) in [("plain", false), ("options", true)] {
        let mut group = criterion.benchmark_group(format!("spawn/{subject}"));
        group.sampling_mode(SamplingMode::Flat);
        let mut reference = raw(program, has_options)?;
        for (contender, mut start) in [
            ("raw", raw(program, has_options)?),
            ("ours", ours(program, has_options)?),
            ("std", std(program, has_options)?),
            ("fork-exec", fork_exec(program, has_options)?),
        ] {
            group.bench_function(BenchmarkId::new(contender, parent), |bencher| {
                bencher.iter_custom(|starts| {
                    // In turn, since what else runs on a machine changes by the second; raw beside
                    // another raw shows how much that leaves to chance.
                    let times = (0..starts).map(|_| (time(&mut start), time(&mut reference)));
                    let (own, beside): (Vec<_>, Vec<_>) = times.unzip();
                    let (own, beside) = (median(own), median(beside));
                    let times = Times {
                        own_ns: own.as_secs_f64() * 1e9,
                        raw_ns: beside.as_secs_f64() * 1e9,
                    };
                    report.add([subject, parent, contender], [times]);
                    own.saturating_mul(u32::try_from(starts).unwrap_or(u32::MAX))
                });
            });
        }
        group.finish();
    }
    Ok(())
}

fn time(start: &mut Start) -> Duration {
    let begin = Instant::now();
    start().expect("it starts and ends well");
    begin.elapsed()
}

/// What is in the middle: the scheduler's whims are not what is measured.
fn median(mut times: Vec<Duration>) -> Duration {
    let middle = times.len() / 2;
    *times.select_nth_unstable(middle).1
}

fn ours(program: &Path, has_options: bool) -> io::Result<Start> {
    let mut command = Command::new(program);
    command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    if has_options {
        let (uid, gid) = own_ids();
        command.descriptor(FIRST, null()?).descriptor(FIRST + 1, null()?);
        command.process_group(0).uid(uid).gid(gid).current_dir("/");
        command.rlimit(Resource::OpenFiles, OPEN_FILES.0, OPEN_FILES.1);
        command.rlimit(Resource::CoreFile, CORE_BYTES.0, CORE_BYTES.1);
    }
    Ok(Box::new(move || match command.spawn()?.wait()?.code() {
        Some(0) => Ok(()),
        code => Err(io::Error::other(format!("exit code {code:?}"))),
    }))
}

fn by_hand(program: &Path, has_options: bool) -> io::Result<Program> {
    let steps = || {
        Ok::<_, io::Error>(Steps {
            descriptors: vec![null()?.into(), null()?.into()],
            limits: [(libc::RLIMIT_NOFILE, OPEN_FILES), (libc::RLIMIT_CORE, CORE_BYTES)]
                .map(|(resource, (soft, hard))| (resource.cast_signed(), soft, hard))
                .into(),
            uid_and_gid: own_ids(),
            directory: c"/".into(),
        })
    };
    let file = CString::new(program.as_os_str().as_bytes())?;
    Ok(Program { file, steps: has_options.then(steps).transpose()? })
}

fn raw(program: &Path, has_options: bool) -> io::Result<Start> {
    let program = by_hand(program, has_options)?;
    let mut stack: Box<Stack> = Box::new([0; size_of::<Stack>() / size_of::<u128>()]);
    Ok(Box::new(move || program.vfork_and_wait(&mut stack)))
}

fn fork_exec(program: &Path, has_options: bool) -> io::Result<Start> {
    let program = by_hand(program, has_options)?;
    Ok(Box::new(move || program.fork_and_wait()))
}

fn std(program: &Path, has_options: bool) -> io::Result<Start> {
    let mut command = std::process::Command::new(program);
    if let Some(steps) = by_hand(program, has_options)?.steps {
        // For good: std's hooks want it so.
        Box::leak(Box::new(steps)).prepare(&mut command);
    }
    Ok(Box::new(move || match command.status()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(status.to_string())),
    }))
}

fn own_ids() -> (u32, u32) {
    (getuid().as_raw(), getgid().as_raw())
}

fn null() -> io::Result<File> {
    File::open("/dev/null")
}
