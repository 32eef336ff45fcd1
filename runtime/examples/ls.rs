//! What `ls -lh` prints, line by line as it comes, and how many lines that are. On Windows it is
//! `dir`.
//!
//! `cargo run -p runtime --example ls -- [DIRECTORY]`

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::process::ExitCode;

use runtime::process::{Command, Stdio};

const USAGE: &str = "usage: ls [DIRECTORY]";

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    let directory = args.next().unwrap_or(".".into());
    if directory.as_encoded_bytes().starts_with(b"-") || args.next().is_some() {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    match list(&directory) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ls: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list(directory: &OsStr) -> Result<ExitCode, Box<dyn Error>> {
    let mut command = if env::consts::OS == "windows" {
        Command::shell("dir")
    } else {
        let mut ls = Command::new("ls");
        ls.arg("-lh");
        ls
    };
    // What it has to complain about goes to our standard error, and it asks for nothing.
    command.current_dir(directory).stdin(Stdio::null()).stderr(Stdio::inherit());
    // If we can't go on, nor shall it.
    let mut child = command.kill_on_drop(true).spawn()?;
    let stdout = child.stdout.take().ok_or("its output goes elsewhere")?;

    let mut screen = io::stdout().lock();
    let mut count = 0;
    // Names are not always UTF-8, so that lines are bytes.
    for line in BufReader::new(stdout).split(b'\n') {
        let mut line = line?;
        line.push(b'\n');
        match screen.write_all(&line) {
            // Whoever reads this has seen enough, as with `| head`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::SUCCESS);
            }
            result => result?,
        }
        count += 1;
    }
    let exit = child.wait()?;
    eprintln!("{count} lines; {command} {exit}");
    Ok(if exit.code() == Some(0) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
