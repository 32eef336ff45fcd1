//! What the harness does on Linux, by what `/proc` tells.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::{TEST, TEST_TIMEOUT};

/// How long what a test has ended may take to be gone.
const CLEAN_TIMEOUT: Duration = Duration::from_secs(5);

/// What processes leave behind becomes a child of this one, and is seen.
pub(super) fn adopt_orphans() {
    set_child_subreaper(true).expect("Linux 3.4");
}

/// Runs a test in a process of its own; the error is what it has printed.
pub(super) fn run_apart(name: &str) -> Result<(), String> {
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
pub(super) fn clear_children() -> Vec<String> {
    let children = children();
    let described = children.iter().map(|pid| describe(*pid)).collect();
    for pid in children {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        let _ = waitpid(Pid::from_raw(pid), None);
    }
    described
}

/// What a process has: descriptors, threads, children.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Census {
    descriptors: BTreeSet<String>,
    threads: Vec<String>,
    children: Vec<String>,
}

impl Census {
    pub(super) fn take() -> Census {
        let tasks = fs::read_dir("/proc/self/task").expect("/proc is mounted");
        let names = tasks.flatten().filter_map(|t| fs::read_to_string(t.path().join("comm")).ok());
        Census {
            descriptors: descriptors(),
            threads: names.collect(),
            children: children().into_iter().map(describe).collect(),
        }
    }

    #[track_caller]
    pub(super) fn assert_restored(&self) {
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
