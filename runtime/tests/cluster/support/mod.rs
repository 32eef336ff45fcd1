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

use runtime::{Address, Dispatch};

pub(crate) use client::{Client, ask, try_ask};
pub(crate) use cluster::{Running, role};
pub(crate) use desk::{Desk, Phone};
pub(crate) use program::Program;
pub(crate) use puppet::{puppet_builder, puppets};

pub(crate) use crate::harness::tools::{DEADLINE, Directory, proc_field, wait_until};

/// Every way that connections get to workers.
pub(crate) const DISPATCHES: [Dispatch; 3] =
    [Dispatch::Handoff, Dispatch::Shared, Dispatch::Steered];

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
