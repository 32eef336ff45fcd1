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

use std::error::Error;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod system;
#[cfg(windows)]
#[path = "windows.rs"]
mod system;

use self::system::Census;
#[cfg(target_os = "linux")]
pub(crate) use self::system::{children, descriptors};

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
    system::adopt_orphans();
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
    system::adopt_orphans();
    let started = Instant::now();
    let queue = Mutex::new(chosen.iter());
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                loop {
                    let Some(test) = queue.lock().expect("no panics").next() else { return };
                    let started = Instant::now();
                    let result = system::run_apart(test.name());
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
    let debris = system::clear_children();
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
