//! Clusters without descriptors, processes, or room for descriptors in flight.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::harness::tests;
use crate::support::{
    Client, Desk, Program, Running, ask, backlog, busy_ms, is_stopped, puppet_builder, puppets,
    wait_until,
};

tests! {
    f01_a_master_without_descriptors_closes_clients_and_does_not_spin,
    f07_a_master_without_descriptors_replaces_its_workers_later,
    f07_a_master_that_may_not_fork_replaces_its_workers_later,
    f13_too_many_descriptors_in_flight_hold_connections_up_and_lose_none,
    f01_connections_for_a_worker_without_descriptors_go_to_others,
    f01_a_worker_without_descriptors_loses_nothing_and_comes_back_by_itself,
}

/// Closed, or reset, without a word.
#[track_caller]
fn assert_closed(client: &mut Client) {
    let error = client.try_line().expect_err("nobody serves it");
    assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it is left waiting");
}

fn host(workers: usize, descriptors: usize, uid: u32) -> Program {
    let [workers, descriptors, uid] =
        [workers.to_string(), descriptors.to_string(), uid.to_string()];
    Program::role("host", &[&workers, &descriptors, &uid, "serve", "127.0.0.1:0"])
}

fn f01_a_master_without_descriptors_closes_clients_and_does_not_spin() {
    const CLIENTS: usize = 200;
    let mut host = host(2, 100, 0);
    let address = host.listening(2);
    ask(&address);
    host.tell("hoard 0");
    host.line("hoarded");
    let before = busy_ms(host.pid());
    assert_closed(&mut Client::connect(&address));
    host.line(" 1 clients closed");
    let mut clients: Vec<_> = (1..CLIENTS).map(|_| Client::connect(&address)).collect();
    clients.iter_mut().for_each(assert_closed);
    // It reports once a second, so this is how long it had time to spin.
    let shed = host.until("all are reported", |seen| {
        let counts = seen.iter().filter_map(|line| line.split_once(" clients closed"));
        let count = |text: &str| text.rsplit(' ').next().unwrap().parse::<usize>().unwrap();
        let shed: usize = counts.map(|(text, _)| count(text)).sum();
        (shed >= CLIENTS).then_some(shed)
    });
    assert_eq!(shed, CLIENTS);
    let used = busy_ms(host.pid()) - before;
    assert!(used < 100, "it was busy for {used} ms of about a second");
    host.tell("release");
    host.line("released");
    assert_eq!(ask(&address).len(), 3);
    assert!(host.wait().success());
    host.silence();
}

fn f07_a_master_without_descriptors_replaces_its_workers_later() {
    let mut host = host(1, 100, 0);
    let address = host.listening(1);
    let mut failed = false;
    // Too few for each of the steps to a new worker, one after the other.
    for left in 0..8 {
        host.tell(&format!("hoard {left}"));
        host.lines(left + 1, "hoarded");
        let pid = host.last("started, pid ").rsplit(' ').next().unwrap().parse().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        host.lines(left + 1, "killed by signal 9");
        // More failures than a program is given.
        failed |= host.until("it starts, or fails often", |seen| {
            let since = since_the_last(seen, "killed by signal 9");
            let failures = since.iter().filter(|line| line.contains("could not be started"));
            let failed = failures.count() >= 5;
            (failed || since.iter().any(|line| line.contains(" online"))).then_some(failed)
        });
        host.tell("release");
        host.lines(left + 1, "released");
        host.until("a worker listens", |seen| {
            let since = since_the_last(seen, "killed by signal 9");
            since.iter().any(|line| line.contains(" listening on ")).then_some(())
        });
        ask(&address);
    }
    assert!(failed, "it was never out of descriptors");
    assert!(host.wait().success());
    host.silence();
}

fn since_the_last<'a>(seen: &'a [String], text: &str) -> &'a [String] {
    &seen[seen.iter().rposition(|line| line.contains(text)).unwrap_or(0)..]
}

fn f07_a_master_that_may_not_fork_replaces_its_workers_later() {
    if !Uid::effective().is_root() {
        println!("skipped: needs root, to become a user with few processes");
        return;
    }
    // A user who is nobody else, or others' processes would count.
    let mut host = host(1, 0, 61_234);
    let address = host.listening(1);
    host.tell("starve");
    host.line("starve");
    kill(Pid::from_raw(host.worker("0.1").cast_signed()), Signal::SIGKILL).unwrap();
    // More often than a program may fail.
    host.lines(5, "could not be started");
    host.tell("feed");
    host.line("feed");
    ask(&address);
    assert!(!host.seen.iter().any(|line| line.contains("given up")));
    assert!(host.wait().success());
    host.silence();
}

fn f13_too_many_descriptors_in_flight_hold_connections_up_and_lose_none() {
    if !Uid::effective().is_root() {
        println!("skipped: needs root, to become a user with few descriptors");
        return;
    }
    const WORKERS: usize = 5;
    // What is in flight counts for all processes of a user together, against the limit of one.
    let mut host = host(WORKERS, 48, 61_235);
    let address = host.listening(WORKERS);
    let pids: Vec<_> = (0..WORKERS).map(|slot| host.worker(&format!("{slot}.1"))).collect();
    let signal = |signal| {
        for pid in &pids {
            kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
        }
    };
    signal(Signal::SIGSTOP);
    wait_until("they are stopped", || pids.iter().all(|pid| is_stopped(*pid)));
    let mut clients: Vec<_> = (0..100).map(|_| Client::connect(&address)).collect();
    clients.iter_mut().for_each(|client| client.send("\n").unwrap());
    // Once it has taken what it can, it only tries again, now and then.
    host.passes(Duration::from_millis(200));
    let before = busy_ms(host.pid());
    host.passes(Duration::from_millis(500));
    let used = busy_ms(host.pid()) - before;
    assert!(used < 50, "it was busy for {used} ms of 500");
    // The mailboxes have room for about 80.
    assert!(backlog(&address) >= 40, "the limit was not met: only {} wait", backlog(&address));
    signal(Signal::SIGCONT);
    for client in &mut clients {
        client.line();
        client.expect_done().unwrap();
    }
    assert!(host.wait().success());
    host.silence();
}

fn f01_connections_for_a_worker_without_descriptors_go_to_others() {
    let desk = Desk::new();
    let builder = puppet_builder(&desk).workers(2).stall_timeout(Duration::from_millis(400));
    let mut running = Running::start(builder);
    desk.ready(2);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "127.0.0.1:0");
    running.listening(2);
    assert_eq!(desk.ask("0", "limit"), "limited");
    for name in ["0", "1"] {
        assert_eq!(desk.ask(name, "serve 0"), "serving");
    }
    for _ in 0..10 {
        assert_eq!(ask(&address), "1.1");
    }
    assert_eq!(desk.ask("0", "unlimit"), "unlimited");
    running.happens("it takes again", |event| matches!(event, runtime::Event::Resumed { .. }));
    let mut names = [ask(&address), ask(&address)];
    names.sort();
    assert_eq!(names, ["0.1", "1.1"]);
    running.stop();
}

fn f01_a_worker_without_descriptors_loses_nothing_and_comes_back_by_itself() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 1);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    assert_eq!(desk.ask("0", "limit"), "limited");
    let mut first = Client::connect(&address);
    let refused = loop {
        let said = desk.ask("0", "take 0");
        if !said.starts_with("WouldBlock") {
            break said;
        }
    };
    assert!(refused.contains("Too many open files"), "{refused}");
    assert_eq!(desk.ask("0", "unlimit"), "unlimited");
    desk.take("0", 0);
    assert_eq!(first.line(), "0.1");
    // Again, now that it has taken one; and by iteration, which waits by itself.
    assert_eq!(desk.ask("0", "limit"), "limited");
    let mut clients: Vec<_> = (0..5).map(|_| Client::connect(&address)).collect();
    clients.iter_mut().for_each(|client| client.send("\n").unwrap());
    assert_eq!(desk.ask("0", "serve 0"), "serving");
    let before = busy_ms(running.pid(0));
    running.passes(Duration::from_millis(300));
    let used = busy_ms(running.pid(0)) - before;
    assert!(used < 30, "it was busy for {used} ms of 300");
    assert_eq!(desk.ask("0", "unlimit"), "unlimited");
    for client in &mut clients {
        assert_eq!(client.line(), "0.1");
        client.expect_done().unwrap();
    }
    running.stop();
}
