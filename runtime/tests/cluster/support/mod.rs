//! What the tests share.

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod desk;
pub(crate) mod host;
pub(crate) mod messenger;
pub(crate) mod program;
pub(crate) mod puppet;
pub(crate) mod raw;
pub(crate) mod roles;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use runtime::{Address, Dispatch};

pub(crate) use client::{Client, ask, try_ask};
pub(crate) use cluster::{Running, role};
pub(crate) use desk::{Desk, Phone};
pub(crate) use program::Program;
pub(crate) use puppet::{puppet_builder, puppets};

/// After which a wait fails; only a test that fails gets to see it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Every way that connections get to workers.
pub(crate) const DISPATCHES: [Dispatch; 3] =
    [Dispatch::Handoff, Dispatch::Shared, Dispatch::Steered];

/// Waits for what can only be looked for.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut has_happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !has_happened() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// What a line of `/proc/PID/FILE` says behind `key`.
pub(crate) fn proc_field(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc").join(path)).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim_start_matches(':').trim().to_owned())
}

/// Whether a process is stopped; under a tracer the letter is a small one.
pub(crate) fn is_stopped(pid: u32) -> bool {
    proc_field(&format!("{pid}/status"), "State").is_some_and(|state| state.starts_with(['T', 't']))
}

/// How long the threads of a process have had a processor, in milliseconds.
pub(crate) fn busy_ms(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let times_ns = tasks.map(|task| {
        let times = fs::read_to_string(task.path().join("schedstat")).unwrap();
        times.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    times_ns.sum::<u64>() / 1_000_000
}

/// How many connections wait to be accepted.
pub(crate) fn backlog(address: &Address) -> usize {
    let Address::Tcp(SocketAddr::V4(address)) = address else { panic!("{address} is not IPv4") };
    let local = format!(":{:04X}", address.port());
    // Those that listen come first. To read on, through all that waits for its end after much load,
    // would take seconds.
    let table = BufReader::new(fs::File::open("/proc/net/tcp").unwrap());
    let queues = table.lines().map_while(Result::ok).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let listens = fields[1].ends_with(&local) && fields[3] == "0A";
        // In this state the receive queue is the backlog.
        listens.then(|| fields[4].to_owned())
    });
    let queues = queues.expect("it listens");
    let (_, backlog) = queues.split_once(':').expect("two queues");
    usize::from_str_radix(backlog, 16).unwrap()
}

/// Waits until a master of one thread has put all connections that have come into mailboxes.
#[track_caller]
pub(crate) fn wait_until_in_mailboxes(address: &Address, master: u32) {
    // That is when it sleeps and its listener has nothing left. In between it has one in its hands.
    let status = format!("{master}/status");
    let sleeps = || proc_field(&status, "State").is_some_and(|state| state.starts_with('S'));
    wait_until("they are in the mailboxes", || backlog(address) == 0 && sleeps());
}

/// How often each worker was asked, in `connections` connections one after the other.
#[track_caller]
pub(crate) fn shares(running: &mut Running, workers: usize, connections: usize) -> Vec<usize> {
    let address = running.listening(workers);
    let mut shares = vec![0; workers];
    for _ in 0..connections {
        // Who is busy is passed over where the kernel gives turns.
        wait_until("all workers wait", || running.is_idle());
        let name = ask(&address);
        let (slot, _) = name.split_once('.').expect("a worker's id");
        shares[slot.parse::<usize>().expect("a slot")] += 1;
    }
    shares
}

/// A directory of the test's own, removed on drop.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Directory {
        let mut number = 0;
        loop {
            let name = format!("cluster-test-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match fs::create_dir(&path) {
                Ok(()) => return Directory(path),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
