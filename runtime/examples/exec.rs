//! Has a shell carry out a line, and shows what became of it: output, code or signal, a timeout,
//! too much output. With `--input`, the line's standard input is what this has as its own.
//!
//! `cargo run -p runtime --example exec -- [--timeout SECONDS] [--max BYTES] [--input] 'ls | wc'`
//!
//! Try
//!
//! * `exec 'ls *.toml; echo oops >&2; exit 3'`
//! * `exec --timeout 0.5 'echo begun; sleep 100 & sleep 100'`
//! * `exec --max 20 'yes'`
//! * `seq 100000 | exec --input 'sort -rn | head -3'`

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use runtime::process::{Command, ExecError, Failure, Output};

const USAGE: &str = "usage: exec [--timeout SECONDS] [--max BYTES] [--input] LINE [ARGUMENT...]
The line's $1, $2 ... are the arguments.";

fn main() -> ExitCode {
    let mut command = match parse(env::args_os().skip(1)) {
        Ok(command) => command,
        Err(reason) => {
            eprintln!("exec: {reason}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match command.exec_sync() {
        Ok(output) => {
            show(&output);
            note(&format!("pid {} {}", output.pid, output.status));
            ExitCode::SUCCESS
        }
        Err(error) => {
            error.output().inspect(|output| show(output));
            note(&what_happened(&error));
            // As a shell does.
            let code = error.code().or(error.signal().map(|signal| 128 + signal));
            ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
        }
    }
}

fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Command, String> {
    let (mut timeout, mut max, mut input) = (None, None, None);
    let line = loop {
        let arg = args.next().ok_or("no line")?;
        match arg.to_str() {
            Some("--timeout") => {
                let seconds = number(args.next())?;
                timeout = Some(Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())?);
            }
            Some("--max") => max = Some(number(args.next())?),
            Some("--input") => {
                let bytes = input.insert(Vec::new());
                let read = io::stdin().read_to_end(bytes);
                read.map_err(|error| format!("can't read standard input: {error}"))?;
            }
            Some(option) if option.starts_with("--") => {
                return Err(format!("there is no option {option}"));
            }
            _ => break arg,
        }
    };
    let mut command = Command::shell(line);
    command.args(args);
    timeout.map(|timeout| command.timeout(timeout));
    max.map(|bytes| command.max_buffer(bytes));
    input.map(|bytes| command.input(bytes));
    Ok(command)
}

fn number<N: std::str::FromStr>(text: Option<OsString>) -> Result<N, String> {
    let text = text.unwrap_or_default();
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.ok_or(format!("{text:?} is no number for this option"))
}

/// What it has written, each where it belongs.
fn show(output: &Output) {
    // Who does not want to see it need not.
    let _ = io::stdout().write_all(&output.stdout);
    let _ = io::stderr().write_all(&output.stderr);
}

fn what_happened(error: &ExecError) -> String {
    let end = error.output().map(|output| output.status.to_string()).unwrap_or_default();
    match error.failure() {
        Failure::Status => end,
        Failure::TimedOut => format!("its time was over: {end}"),
        Failure::MaxBuffer(stream) => format!("{stream} is cut off here: {end}"),
        // The program itself is missing, or the system has failed.
        _ => error.to_string(),
    }
}

fn note(text: &str) {
    if io::stderr().is_terminal() {
        eprintln!("\x1b[2m[{text}]\x1b[0m");
    } else {
        eprintln!("[{text}]");
    }
}
