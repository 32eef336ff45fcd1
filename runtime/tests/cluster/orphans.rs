//! Workers whose master is killed.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use runtime::Address;

use crate::harness::tests;
use crate::support::{Client, Directory, Program, ask, wait_until_in_mailboxes};

tests! {
    f75_a_request_in_progress_is_finished_without_the_master,
    f75_connections_that_wait_are_served_without_the_master,
    f75_a_worker_that_does_not_end_is_ended_after_the_drain_timeout,
    f75_idle_workers_end_with_the_master,
    f75_a_new_master_listens_where_a_killed_one_did,
    f75_a_master_killed_under_load_leaves_nobody_behind,
}

/// Starts a master, and says the pids of its workers.
fn master(workers: usize, drain_ms: &str) -> (Program, Vec<Pid>) {
    let args = [&workers.to_string(), drain_ms, "1000", "serve", "127.0.0.1:0"];
    let mut master = Program::role("master", &args);
    master.listening(workers);
    let pid = |slot| Pid::from_raw(master.worker(&format!("{slot}.1")).cast_signed());
    let pids = (0..workers).map(pid).collect();
    (master, pids)
}

/// Waits for the end of an orphan, which is a child of this process's now.
#[track_caller]
fn collect(pid: Pid, code: i32) {
    assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, code)));
}

fn f75_a_request_in_progress_is_finished_without_the_master() {
    let (mut master, pids) = master(1, "30000");
    let mut client = Client::connect(&master.listening(1));
    client.line();
    master.signal(Signal::SIGKILL);
    master.wait();
    client.finish();
    master.silence();
    collect(pids[0], 0);
}

fn f75_connections_that_wait_are_served_without_the_master() {
    let (mut master, pids) = master(2, "30000");
    let address = master.listening(2);
    let mut taken = [Client::connect(&address), Client::connect(&address)];
    taken.iter_mut().for_each(|client| drop(client.line()));
    let mut waiting: Vec<_> = (0..6).map(|_| Client::connect(&address)).collect();
    wait_until_in_mailboxes(&address, master.pid());
    master.signal(Signal::SIGKILL);
    master.wait();
    taken.iter_mut().for_each(Client::finish);
    for client in &mut waiting {
        client.line();
        client.finish();
    }
    master.silence();
    pids.into_iter().for_each(|pid| collect(pid, 0));
}

fn f75_a_worker_that_does_not_end_is_ended_after_the_drain_timeout() {
    let (mut master, pids) = master(1, "200");
    let mut client = Client::connect(&master.listening(1));
    client.line();
    master.signal(Signal::SIGKILL);
    master.wait();
    // The client says nothing, and its worker waits for it.
    client.end().expect("the worker ends");
    master.silence();
    collect(pids[0], 1);
}

fn f75_idle_workers_end_with_the_master() {
    let (mut master, pids) = master(4, "3600000");
    master.signal(Signal::SIGKILL);
    master.wait();
    master.silence();
    pids.into_iter().for_each(|pid| collect(pid, 0));
}

fn f75_a_new_master_listens_where_a_killed_one_did() {
    let directory = Directory::new();
    let path = Address::Unix(directory.join("socket")).to_string();
    for address in ["127.0.0.1:0", &path] {
        let mut old = Program::role("master", &["1", "30000", "1000", "serve", address]);
        let real = old.listening(1);
        let mut client = Client::connect(&real);
        client.line();
        old.signal(Signal::SIGKILL);
        old.wait();
        // While the old worker still serves.
        let args = ["1", "30000", "1000", "serve", &real.to_string()];
        let mut new = Program::role("master", &args);
        assert_eq!(new.listening(1), real);
        assert_eq!(ask(&real), "0.1");
        client.finish();
        old.silence();
        collect(Pid::from_raw(old.worker("0.1").cast_signed()), 0);
        new.signal(Signal::SIGTERM);
        assert!(new.wait().success());
        new.silence();
    }
    assert!(!directory.join("socket").exists());
}

fn f75_a_master_killed_under_load_leaves_nobody_behind() {
    for round in 0..10 {
        let (mut master, pids) = master(2, "5000");
        let address = master.listening(2);
        thread::scope(|scope| {
            let client = || {
                // Until the master is gone, and with it the listener.
                while let Ok(mut client) = Client::try_connect(&address) {
                    let _ = client.try_line().and_then(|_| client.try_finish());
                }
            };
            (0..3).for_each(|_| drop(scope.spawn(client)));
            master.passes(Duration::from_millis(5 * round));
            master.signal(Signal::SIGKILL);
        });
        master.wait();
        master.silence();
        pids.into_iter().for_each(|pid| collect(pid, 0));
    }
}
