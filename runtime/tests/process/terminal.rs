//! Commands of a program that has a terminal, and of one that has none.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};

use nix::pty::openpty;
use nix::unistd::ttyname;
use runtime::process::{Command, Signal, exec_sync};

use crate::harness::tools::wait_until;
use crate::harness::{Outcome, roles, tests};
use crate::support::{bury_all, role};

tests! {
    in_the_foreground_a_command_stays_there,
    elsewhere_a_command_has_a_group_of_its_own,
}
roles! {
    runs_a_command,
}

/// Prints the group of processes of a shell's command.
const GROUP: &str = "cut -d ' ' -f 5 /proc/$$/stat; :";

/// Opens the terminal, which is its own then; prints the group of a command; runs another.
fn runs_a_command(args: &[String]) -> Outcome {
    let _terminal = File::open(&args[0])?;
    print!("{}", exec_sync(GROUP)?.stdout_str()?);
    exec_sync("sleep 1000; echo never")?;
    Ok(())
}

fn in_the_foreground_a_command_stays_there() {
    let pty = openpty(None, None).unwrap();
    let path = ttyname(&pty.slave).unwrap();
    let mut child = role("runs_a_command", &[path.to_str().unwrap()]).detached().spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut group = String::new();
    stdout.read_line(&mut group).unwrap();
    assert_eq!(group.trim().parse(), Ok(child.pid()));
    let children = |pid: u32| {
        let pids = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        pids.unwrap_or_default().split_whitespace().next().and_then(|pid| pid.parse().ok())
    };
    wait_until("the shell's command runs", || children(child.pid()).and_then(children).is_some());
    // Ctrl-C ends all three.
    let mut keyboard = File::from(pty.master);
    keyboard.write_all(b"\x03").unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::INT.number()));
    bury_all();
    assert_eq!(stdout.read(&mut [0]).unwrap(), 0);
}

fn elsewhere_a_command_has_a_group_of_its_own() {
    // This process is in a session that has a terminal at most in its foreground; this is not.
    let mut command = Command::shell(GROUP);
    let output = command.exec_sync().unwrap();
    assert_eq!(output.stdout_str().unwrap().trim().parse(), Ok(output.pid));
    // Unless it says which.
    let output = command.kill_whole_tree(false).exec_sync().unwrap();
    let own = nix::unistd::getpgrp().as_raw().cast_unsigned();
    assert_eq!(output.stdout_str().unwrap().trim().parse(), Ok(own));
}
