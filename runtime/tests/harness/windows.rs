//! What the harness does on Windows: each test has a job, which tells what is left over.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use runtime::process::{Command, Signal, Stdio};

use super::{TEST, TEST_TIMEOUT};

/// There is no such thing.
pub(super) fn adopt_orphans() {}

/// Runs a test in a process of its own; the error is what it has printed.
pub(super) fn run_apart(name: &str) -> Result<(), String> {
    let output = Output::new(name).map_err(|error| error.to_string())?;
    let outcome = run(name, &output).map_err(|error| error.to_string())?;
    match outcome {
        None => Ok(()),
        Some(verdict) => {
            let text = fs::read(&output.0).map_err(|error| error.to_string())?;
            Err(format!("{verdict}\n{}", String::from_utf8_lossy(&text)))
        }
    }
}

/// What was wrong, if anything was.
fn run(name: &str, output: &Output) -> io::Result<Option<String>> {
    let file = File::options().append(true).open(&output.0)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args([TEST, name]).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    command.stdout(file.try_clone()?).stderr(file);
    let mut test = command.spawn()?;
    let exit = test.wait_deadline(Instant::now().checked_add(TEST_TIMEOUT))?;
    let left = test.kill_tree(Signal::KILL)?;
    Ok(match exit {
        None => Some(format!("killed after {} s", TEST_TIMEOUT.as_secs())),
        Some(exit) if exit.code() != Some(0) => Some(exit.to_string()),
        Some(_) if left > 0 => Some(format!("{left} processes were left over")),
        Some(_) => None,
    })
}

/// A file, and no pipe: what a test leaves behind can't keep us from reading to the end.
struct Output(PathBuf);

impl Output {
    fn new(name: &str) -> io::Result<Output> {
        let name = format!("runtime-{}-{}.txt", std::process::id(), name.replace(':', "-"));
        let path = std::env::temp_dir().join(name);
        File::create(&path)?;
        Ok(Output(path))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The jobs of the tests have ended all of them.
pub(super) fn clear_children() -> Vec<String> {
    Vec::new()
}

/// A process can't be looked over here as on Linux; what it has open, tests count themselves.
pub(super) struct Census;

impl Census {
    pub(super) fn take() -> Census {
        Census
    }

    pub(super) fn assert_restored(&self) {}
}
