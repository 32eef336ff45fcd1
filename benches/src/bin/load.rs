//! `cargo run --release -p benches --bin load -- --help`
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use benches::load::{self, Command, Options, USAGE};

fn main() -> ExitCode {
    match Options::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help) => print(USAGE, ExitCode::SUCCESS),
        Ok(Command::Run(options)) => run(&options).unwrap_or_else(|e| refuse(&e.to_string())),
        Err(error) => refuse(&error.to_string()),
    }
}

fn run(options: &Options) -> io::Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    // The first Ctrl-C ends the run early and prints what was counted, the second one kills.
    let interrupt = signal_hook::consts::SIGINT;
    signal_hook::flag::register_conditional_default(interrupt, Arc::clone(&stop))?;
    signal_hook::flag::register(interrupt, Arc::clone(&stop))?;
    let report = load::run(options, &stop)?;
    let text = if options.json { report.to_json() } else { report.to_string() };
    Ok(print(&text, ExitCode::from(u8::from(!report.is_all_ok()))))
}

fn refuse(error: &str) -> ExitCode {
    eprintln!("load: {error}");
    ExitCode::from(2)
}

/// A closed standard output must not look like a finding about the server, nor like success.
fn print(text: &str, code: ExitCode) -> ExitCode {
    match writeln!(io::stdout(), "{}", text.trim_end()) {
        Ok(()) => code,
        Err(error) => refuse(&format!("standard output: {error}")),
    }
}
