//! Runs programs of which each reads what the one before it writes, without a shell, and says how
//! each has ended.
//!
//! `cargo run -p runtime --example pipeline -- cat Cargo.toml '|' grep version '|' wc -l`
//!
//! The output of a child is a pipe; made the input of the next, it leads from one to the other, and
//! nothing passes through this process.

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use runtime::process::{Child, Command, SpawnError, Stdio};

const USAGE: &str = "usage: pipeline PROGRAM [ARGUMENT]... ['|' PROGRAM [ARGUMENT]...]...";

fn main() -> ExitCode {
    let args: Vec<_> = env::args_os().skip(1).collect();
    let stages: Vec<_> = args.split(|arg| arg == "|").collect();
    if stages.iter().any(|stage| stage.is_empty()) {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    match start(&stages) {
        Ok(children) => finish(&stages, children),
        Err(error) => {
            eprintln!("pipeline: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts them all. If one of them can't be started, those before it are killed, by being dropped.
fn start(stages: &[&[OsString]]) -> Result<Vec<Child>, SpawnError> {
    let mut children: Vec<Child> = Vec::new();
    for (number, stage) in stages.iter().enumerate() {
        let mut command = Command::new(&stage[0]);
        command.args(&stage[1..]).stderr(Stdio::inherit()).kill_on_drop(true);
        let before = children.last_mut().and_then(|child| child.stdout.take());
        command.stdin(before.map_or_else(Stdio::inherit, Stdio::from));
        if number + 1 == stages.len() {
            command.stdout(Stdio::inherit());
        }
        children.push(command.spawn()?);
        // Here the command is dropped, and with it our end of the pipe before: as long as we had
        // one, whoever writes there would not learn that nobody reads any more.
    }
    Ok(children)
}

/// Waits for them, in any order: nobody reads or writes but they. As with `pipefail`, each must
/// succeed.
fn finish(stages: &[&[OsString]], children: Vec<Child>) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for (stage, mut child) in stages.iter().zip(children) {
        let result = child.wait();
        if !matches!(result, Ok(exit) if exit.code() == Some(0)) {
            code = ExitCode::FAILURE;
        }
        match result {
            Ok(exit) => eprintln!("{}: {exit}", stage[0].display()),
            Err(error) => eprintln!("{}: {error}", stage[0].display()),
        }
    }
    code
}
