//! Runs the tests, each in a process of its own, a few at a time.
//!
//! A process that runs one test can be looked over afterwards as a whole: no descriptor, thread or
//! child may be left. It can also be what the usual harness can't: single-threaded at its start,
//! out of descriptors, without privileges, killed. The programs that tests start, workers and other
//! children, are this binary too, in a [`Role`].
//!
//! `cargo test -p runtime --test cluster -- [--test-threads N] [--exact] [FILTER...]`

#[allow(dead_code, reason = "each binary uses what it needs")]
pub(crate) mod tools;

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// A test: it fails by a panic.
pub(crate) struct Test {
    pub(crate) path: &'static str,
    pub(crate) run: fn(),
}

impl Test {
    /// Its path in this crate.
    fn name(&self) -> &'static str {
        self.path.split_once("::").map_or(self.path, |(_, rest)| rest)
    }
}

/// A program that a test starts; its arguments are those after the role's name.
pub(crate) struct Role {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&[String]) -> Outcome,
}

/// An error ends a role with exit code 1.
pub(crate) type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Declares `TESTS`, the tests of a module.
macro_rules! tests {
    ($($test:ident,)*) => {
        pub(crate) const TESTS: &[crate::harness::Test] = &[$(crate::harness::Test {
            path: concat!(module_path!(), "::", stringify!($test)),
            run: $test,
        }),*];
    };
}
pub(crate) use tests;

/// Declares `ROLES`, the roles of a module.
macro_rules! roles {
    ($($role:ident,)*) => {
        pub(crate) const ROLES: &[crate::harness::Role] =
            &[$(crate::harness::Role { name: stringify!($role), run: $role }),*];
    };
}
pub(crate) use roles;

/// The argument in front of a role's name.
pub(crate) const ROLE: &str = "--role";

/// The argument in front of the name of the one test that this process shall run.
const TEST: &str = "--run";

/// After which a test fails. Its own waits have shorter deadlines, and say what they waited for.
const TEST_TIMEOUT: Duration = Duration::from_secs(90);

/// How long what a test has ended may take to be gone.
const CLEAN_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn main(tests: &[&[Test]], roles: &[&[Role]]) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [ROLE, name, ..] => play(roles.iter().copied().flatten(), name, &args[2..]),
        [TEST, name] => run_here(tests.iter().copied().flatten(), name),
        _ => run_all(tests.iter().copied().flatten(), &args),
    }
}

fn play<'a>(mut roles: impl Iterator<Item = &'a Role>, name: &str, args: &[String]) -> ExitCode {
    let Some(role) = roles.find(|role| role.name == name) else {
        eprintln!("no role is called {name}");
        return ExitCode::FAILURE;
    };
    match (role.run)(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}, pid {}: {error}", std::process::id());
            ExitCode::FAILURE
        }
    }
}

fn run_here<'a>(mut tests: impl Iterator<Item = &'a Test>, name: &str) -> ExitCode {
    let test = tests.find(|test| test.name() == name).expect("the name of a test");
    // What the test's processes leave behind becomes a child of this one, and is seen.
    set_child_subreaper(true).expect("Linux 3.4");
    let before = Census::take();
    (test.run)();
    before.assert_restored();
    ExitCode::SUCCESS
}

fn run_all<'a>(tests: impl Iterator<Item = &'a Test>, args: &[String]) -> ExitCode {
    let options = Options::parse(args);
    let chosen: Vec<&Test> = tests.filter(|test| options.chooses(test.name())).collect();
    if options.list {
        chosen.iter().for_each(|test| println!("{}: test", test.name()));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    set_child_subreaper(true).expect("Linux 3.4");
    let started = Instant::now();
    let queue = Mutex::new(chosen.iter());
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                loop {
                    let Some(test) = queue.lock().expect("no panics").next() else { return };
                    let started = Instant::now();
                    let result = run_apart(test.name());
                    let verdict = if result.is_ok() { "ok" } else { "FAILED" };
                    let seconds = started.elapsed().as_secs_f64();
                    println!("test {} ... {verdict} ({seconds:.2} s)", test.name());
                    if let Err(output) = result {
                        failures.lock().expect("no panics").push((test.name(), output));
                    }
                }
            });
        }
    });
    let debris = clear_children();
    let failures = failures.into_inner().expect("no panics");
    for (name, output) in &failures {
        println!("\n---- {name} ----\n{output}");
    }
    if failures.is_empty() && !debris.is_empty() {
        println!("\nprocesses were left over: {debris:#?}");
    }
    let failed = !failures.is_empty() || !debris.is_empty();
    let (passed, verdict) = (chosen.len() - failures.len(), if failed { "FAILED" } else { "ok" });
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; {seconds:.2} s",
        failures.len()
    );
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs a test in a process of its own; the error is what it has printed.
fn run_apart(name: &str) -> Result<(), String> {
    let io = |error: io::Error| error.to_string();
    // A file, and no pipe: what a test leaves behind can't keep us from reading to the end.
    let output = memfd_create("output", MFdFlags::MFD_CLOEXEC).map_err(|e| e.to_string())?;
    let mut output = File::from(output);
    let mut child = Command::new("/proc/self/exe")
        .args([TEST, name])
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(io)?)
        .stderr(output.try_clone().map_err(io)?)
        .process_group(0)
        .spawn()
        .map_err(io)?;
    let group = Pid::from_raw(child.id().cast_signed());
    let (sender, ended) = crossbeam_channel::bounded::<io::Result<ExitStatus>>(1);
    thread::spawn(move || sender.send(child.wait()));
    let mut verdict = String::new();
    let status = ended.recv_timeout(TEST_TIMEOUT).or_else(|_| {
        verdict = format!("killed after {} s\n", TEST_TIMEOUT.as_secs());
        let _ = killpg(group, Signal::SIGKILL);
        ended.recv()
    });
    let status = status.map_err(|error| error.to_string())?.map_err(io)?;
    if status.success() {
        return Ok(());
    }
    output.rewind().and_then(|()| output.read_to_string(&mut verdict)).map_err(io)?;
    if let Some(signal) = status.signal() {
        verdict.push_str(&format!("killed by signal {signal}\n"));
    }
    Err(verdict)
}

/// Kills and collects what tests have left behind; says what it was.
fn clear_children() -> Vec<String> {
    let children = children();
    let described = children.iter().map(|pid| describe(*pid)).collect();
    for pid in children {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        let _ = waitpid(Pid::from_raw(pid), None);
    }
    described
}

/// What cargo's and libtest's users write behind `--`. What we don't know is ignored.
#[derive(Default)]
struct Options {
    list: bool,
    exact: bool,
    ignored_only: bool,
    threads: usize,
    filters: Vec<String>,
    skip: Vec<String>,
}

impl Options {
    fn parse(args: &[String]) -> Options {
        // Most tests wait most of the time.
        let threads = thread::available_parallelism().map_or(2, |n| n.get() + 1);
        let mut options = Options { threads, ..Options::default() };
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            match arg {
                "--list" => options.list = true,
                "--exact" => options.exact = true,
                "--ignored" => options.ignored_only = true,
                "--skip" => options.skip.extend(args.next().map(str::to_owned)),
                "--format" | "--color" | "-Z" => drop(args.next()),
                "--test-threads" => {
                    let number = args.next().and_then(|text| text.parse().ok());
                    options.threads = number.filter(|n| *n > 0).unwrap_or(threads);
                }
                _ if arg.starts_with('-') => {}
                filter => options.filters.push(filter.to_owned()),
            }
        }
        options
    }

    fn chooses(&self, name: &str) -> bool {
        let fits =
            |filter: &String| if self.exact { name == filter } else { name.contains(filter) };
        let chosen = self.filters.is_empty() || self.filters.iter().any(fits);
        chosen && !self.skip.iter().any(fits) && !self.ignored_only
    }
}

/// What a process has: descriptors, threads, children.
#[derive(Debug, PartialEq, Eq)]
struct Census {
    descriptors: BTreeSet<String>,
    threads: Vec<String>,
    children: Vec<String>,
}

impl Census {
    fn take() -> Census {
        let tasks = fs::read_dir("/proc/self/task").expect("/proc is mounted");
        let names = tasks.flatten().filter_map(|t| fs::read_to_string(t.path().join("comm")).ok());
        Census {
            descriptors: descriptors(),
            threads: names.collect(),
            children: children().into_iter().map(describe).collect(),
        }
    }

    #[track_caller]
    fn assert_restored(&self) {
        let deadline = Instant::now() + CLEAN_TIMEOUT;
        // A thread that was joined may still be seen for a moment.
        while Census::take() != *self && Instant::now() < deadline {
            thread::park_timeout(Duration::from_millis(2));
        }
        assert_eq!(
            Census::take(),
            *self,
            "the test left something behind (left), it found (right)"
        );
    }
}

/// The descriptors of this process: number and target.
pub(crate) fn descriptors() -> BTreeSet<String> {
    let own = format!("/proc/{}/fd", std::process::id());
    let entries = fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    let named = entries.flatten().filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?.display().to_string();
        // Reading the directory takes a descriptor, too.
        (target != own).then(|| format!("{} {target}", entry.file_name().display()))
    });
    named.collect()
}

/// The children of this process, the dead that nobody collected included.
pub(crate) fn children() -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc is mounted");
    let mut pids = Vec::new();
    for task in tasks.flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        pids.extend(text.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    pids
}

fn describe(pid: i32) -> String {
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or("gone");
    format!("{pid} {state} {}", command.replace('\0', " "))
}
