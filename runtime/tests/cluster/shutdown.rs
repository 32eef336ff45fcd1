//! How clusters end: by a call, by a signal, and by being dropped.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use runtime::{Cluster, Event, Exit, KillReason, WorkerId};

use crate::harness::{ROLE, children, tests};
use crate::support::cluster::{abandoned, exit_of, told};
use crate::support::host::stubborn_builder;
use crate::support::{
    Client, Desk, Program, Running, ask, proc_field, puppet_builder, puppets, role, wait_until,
};

tests! {
    connections_in_flight_are_finished,
    connections_that_wait_are_served_those_in_the_backlog_too,
    after_the_end_nobody_listens,
    no_worker_can_listen_any_more,
    a_worker_that_works_on_gets_sigterm_after_the_drain_timeout,
    a_worker_that_ignores_sigterm_is_killed_after_the_kill_timeout,
    each_further_shutdown_goes_one_step_further,
    a_second_shutdown_does_not_wait_for_the_backlog,
    a_cluster_can_stop_before_its_workers_are_online,
    a_worker_that_dies_while_the_cluster_stops_is_not_replaced,
    a_stopped_worker_does_not_keep_the_cluster_from_stopping,
    a_listener_that_nobody_reads_does_not_delay_the_end,
    a_listener_whose_workers_have_no_weight_does_not_delay_the_end,
    a_listener_whose_only_worker_dies_meanwhile_does_not_delay_the_end,
    dropping_a_cluster_ends_it_quickly,
    sigterm_and_sigint_stop_a_program_well,
    f68_a_second_sigterm_terminates_and_a_third_kills,
    f68_another_signal_counts_as_a_further_one,
    signals_to_the_whole_terminal_reach_only_the_master,
    a_program_whose_workers_all_fail_says_so_and_fails,
    f60_signals_that_the_parent_has_blocked_are_heard,
    connections_that_nobody_could_serve_are_closed_and_counted,
    with_spawn_signals_are_the_hosts,
}

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(100);

fn terminated() -> Exit {
    Exit::Signal { signal: 15, core_dumped: false }
}

fn killed() -> Exit {
    Exit::Signal { signal: 9, core_dumped: false }
}

fn connections_in_flight_are_finished() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(2));
    let address = running.listening(2);
    let mut clients = [Client::connect(&address), Client::connect(&address)];
    clients.iter_mut().for_each(|client| drop(client.line()));
    running.cluster.shutdown();
    running.happens("it stops", |event| *event == Event::Stopping);
    clients.iter_mut().for_each(Client::finish);
    let (result, log) = running.end();
    result.unwrap();
    for slot in [0, 1] {
        assert_eq!(exit_of(&log, slot, 1), (Exit::Code(0), true));
    }
    assert_eq!(abandoned(&log), 0);
}

fn connections_that_wait_are_served_those_in_the_backlog_too() {
    let builder = role("serve", &["127.0.0.1:0"]).workers(1).mailbox_connections(8);
    let mut running = Running::start(builder);
    let address = running.listening(1);
    let mut first = Client::connect(&address);
    assert_eq!(first.line(), "0.1");
    let mut waiting: Vec<_> = (0..100).map(|_| Client::connect(&address)).collect();
    waiting.iter_mut().for_each(|client| client.send("\n").unwrap());
    running.cluster.shutdown();
    running.happens("it stops", |event| *event == Event::Stopping);
    first.finish();
    for client in &mut waiting {
        assert_eq!(client.line(), "0.1");
        client.expect_done().unwrap();
    }
    let (result, log) = running.end();
    result.unwrap();
    assert_eq!(exit_of(&log, 0, 1), (Exit::Code(0), true));
    assert_eq!(abandoned(&log), 0);
}

fn after_the_end_nobody_listens() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(2));
    let address = running.listening(2);
    ask(&address);
    let log = running.stop();
    assert_eq!(abandoned(&log), 0, "{}", told(&log));
    assert!(Client::try_connect(&address).is_err());
}

fn no_worker_can_listen_any_more() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 1);
    running.online(1);
    assert_eq!(desk.ask("0", "linger"), "lingering");
    running.cluster.shutdown();
    running.happens("it stops", |event| *event == Event::Stopping);
    assert_eq!(desk.hear(), "stopping");
    let refused = desk.ask("0", "listen 127.0.0.1:0");
    assert!(refused.starts_with("NotConnected: "), "{refused}");
    desk.tell("0", "exit");
    let (result, log) = running.end();
    result.unwrap();
    assert_eq!(exit_of(&log, 0, 1), (Exit::Code(0), true));
}

fn a_worker_that_works_on_gets_sigterm_after_the_drain_timeout() {
    let builder = role("serve", &["127.0.0.1:0"]).workers(1).drain_timeout(SHORT);
    let mut running = Running::start(builder.kill_timeout(LONG));
    let address = running.listening(1);
    let mut client = Client::connect(&address);
    client.line();
    let log = running.stop();
    assert_eq!(exit_of(&log, 0, 1), (terminated(), true));
    assert!(client.try_finish().is_err());
}

fn a_worker_that_ignores_sigterm_is_killed_after_the_kill_timeout() {
    let desk = Desk::new();
    let builder = stubborn_builder(&desk).drain_timeout(SHORT).kill_timeout(SHORT);
    let mut running = Running::start(builder);
    desk.ready(1);
    running.online(1);
    running.cluster.shutdown();
    assert_eq!(desk.hear(), "SIGTERM");
    let (result, log) = running.end();
    result.unwrap();
    let worker = WorkerId { slot: 0, generation: 1 };
    assert!(log.contains(&Event::Killed { worker, reason: KillReason::NotStopped }));
    assert_eq!(exit_of(&log, 0, 1), (killed(), true));
}

fn each_further_shutdown_goes_one_step_further() {
    let desk = Desk::new();
    let builder = stubborn_builder(&desk).drain_timeout(LONG).kill_timeout(LONG);
    let mut running = Running::start(builder);
    desk.ready(1);
    running.online(1);
    running.cluster.shutdown();
    running.happens("it stops", |event| *event == Event::Stopping);
    assert_eq!(desk.heard(), None);
    running.cluster.shutdown();
    assert_eq!(desk.hear(), "SIGTERM");
    running.cluster.shutdown();
    let (result, log) = running.end();
    result.unwrap();
    assert_eq!(exit_of(&log, 0, 1), (killed(), true));
}

fn a_second_shutdown_does_not_wait_for_the_backlog() {
    let builder = role("serve", &["127.0.0.1:0"]).workers(1).mailbox_connections(1);
    let mut running = Running::start(builder.drain_timeout(LONG).kill_timeout(LONG));
    let address = running.listening(1);
    // More than the mailbox holds; and the first keeps the worker.
    let mut clients: Vec<_> = (0..50).map(|_| Client::connect(&address)).collect();
    clients[0].line();
    running.cluster.shutdown();
    running.happens("it stops", |event| *event == Event::Stopping);
    let log = running.stop();
    assert_eq!(exit_of(&log, 0, 1), (terminated(), true));
    for client in &mut clients {
        let error = client.try_finish().expect_err("nobody serves it");
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "left waiting");
    }
}

fn a_cluster_can_stop_before_its_workers_are_online() {
    let builder = Cluster::builder().program("sleep").args(["1000"]).workers(3);
    let log = Running::start(builder.drain_timeout(LONG).kill_timeout(LONG)).stop();
    for slot in 0..3 {
        assert_eq!(exit_of(&log, slot, 1), (terminated(), true));
    }
    let log = Running::start(role("serve", &["127.0.0.1:0"]).workers(3)).stop();
    assert_eq!(log.iter().filter(|event| matches!(event, Event::Exited { .. })).count(), 3);
}

fn a_worker_that_dies_while_the_cluster_stops_is_not_replaced() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(2));
    let address = running.listening(2);
    let mut clients = [Client::connect(&address), Client::connect(&address)];
    clients.iter_mut().for_each(|client| drop(client.line()));
    running.cluster.shutdown();
    running.happens("it stops", |event| *event == Event::Stopping);
    running.signal(0, Signal::SIGKILL);
    running.exits(0, 1);
    clients[1].finish();
    let (result, log) = running.end();
    result.unwrap();
    let started = log.iter().filter(|event| matches!(event, Event::Spawned { .. })).count();
    assert_eq!(started, 2, "{}", told(&log));
}

fn a_stopped_worker_does_not_keep_the_cluster_from_stopping() {
    // Long enough for the other worker to end by itself on a busy machine.
    let drain_timeout = Duration::from_secs(2);
    let builder = role("serve", &["127.0.0.1:0"]).workers(2).drain_timeout(drain_timeout);
    let mut running = Running::start(builder.kill_timeout(SHORT));
    running.listening(2);
    running.signal(0, Signal::SIGSTOP);
    let log = running.stop();
    assert_eq!(exit_of(&log, 0, 1), (killed(), true));
    assert_eq!(exit_of(&log, 1, 1), (Exit::Code(0), true));
}

fn a_listener_that_nobody_reads_does_not_delay_the_end() {
    let desk = Desk::new();
    let builder = puppet_builder(&desk).workers(2).drain_timeout(LONG);
    let mut running = Running::start(builder);
    desk.ready(2);
    desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "[::1]:0");
    running.listening(2);
    assert_eq!(desk.ask("0", "close 0"), "closed");
    let log = running.stop();
    assert_eq!(exit_of(&log, 0, 1), (Exit::Code(0), true));
    assert_eq!(exit_of(&log, 1, 1), (Exit::Code(0), true));
}

fn a_listener_whose_workers_have_no_weight_does_not_delay_the_end() {
    let desk = Desk::new();
    let builder = puppet_builder(&desk).weights([0, 1]).drain_timeout(LONG);
    let mut running = Running::start(builder);
    desk.ready(2);
    desk.listen("0", 0, "127.0.0.1:0");
    running.listening(1);
    let log = running.stop();
    assert_eq!(exit_of(&log, 0, 1), (Exit::Code(0), true));
}

fn a_listener_whose_only_worker_dies_meanwhile_does_not_delay_the_end() {
    let desk = Desk::new();
    let builder = puppet_builder(&desk).workers(2).drain_timeout(LONG);
    let mut running = Running::start(builder.mailbox_connections(1));
    desk.ready(2);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "[::1]:0");
    running.listening(2);
    // More than its mailbox holds, so the master can't accept them all.
    let mut clients: Vec<_> = (0..50).map(|_| Client::connect(&address)).collect();
    running.cluster.shutdown();
    running.happens("it stops", |event| *event == Event::Stopping);
    running.signal(0, Signal::SIGKILL);
    let (result, log) = running.end();
    result.unwrap();
    assert_eq!(exit_of(&log, 1, 1), (Exit::Code(0), true));
    for client in &mut clients {
        let error = client.try_line().expect_err("nobody serves it");
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "left waiting");
    }
}

fn dropping_a_cluster_ends_it_quickly() {
    let builder = || role("serve", &["127.0.0.1:0"]).workers(2);
    drop(builder().spawn().unwrap());
    assert_eq!(children(), []);

    let mut running = Running::start(builder().drain_timeout(LONG).kill_timeout(LONG));
    let address = running.listening(2);
    let mut busy = Client::connect(&address);
    busy.line();
    drop(running);
    assert_eq!(children(), []);
    assert!(busy.try_finish().is_err());

    let desk = Desk::new();
    let mut running =
        Running::start(stubborn_builder(&desk).drain_timeout(LONG).kill_timeout(SHORT));
    desk.ready(1);
    running.online(1);
    drop(running);
    assert_eq!(children(), []);
    // What else it may have left, the harness looks for.
}

fn sigterm_and_sigint_stop_a_program_well() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut master = Program::role("master", &["2", "30000", "30000", "serve", "127.0.0.1:0"]);
        let address = master.listening(2);
        let mut client = Client::connect(&address);
        assert_eq!(client.line(), "0.1");
        master.signal(signal);
        master.line("stopping");
        client.finish();
        assert_eq!(master.wait().code(), Some(0));
        master.silence();
        for id in ["0.1", "1.1"] {
            let line = master.line(&format!("worker {id} exited with code 0"));
            assert!(line.ends_with("as asked"), "{line}");
        }
        master.line("the cluster has ended well");
    }
}

fn f68_a_second_sigterm_terminates_and_a_third_kills() {
    let desk = Desk::new();
    let hour = "3600000";
    let mut master = Program::role("master", &["1", hour, hour, "stubborn", &desk.number()]);
    desk.ready(1);
    master.line("worker 0.1 online");
    master.signal(Signal::SIGTERM);
    master.line("stopping");
    assert_eq!(desk.heard(), None);
    master.signal(Signal::SIGTERM);
    assert_eq!(desk.hear(), "SIGTERM");
    master.signal(Signal::SIGTERM);
    assert_eq!(master.wait().code(), Some(0));
    master.silence();
    master.line("worker 0.1 killed by signal 9");
}

fn f68_another_signal_counts_as_a_further_one() {
    let pairs = [(Signal::SIGTERM, Signal::SIGINT), (Signal::SIGINT, Signal::SIGTERM)];
    for (first, second) in pairs {
        let hour = "3600000";
        let mut master = Program::role("master", &["1", hour, hour, "serve", "127.0.0.1:0"]);
        let address = master.listening(1);
        let mut client = Client::connect(&address);
        client.line();
        master.signal(first);
        master.line("stopping");
        master.signal(second);
        assert_eq!(master.wait().code(), Some(0));
        master.silence();
        let line = master.line("worker 0.1 killed by signal 15");
        assert!(line.ends_with("as asked"), "{line}");
    }
}

fn signals_to_the_whole_terminal_reach_only_the_master() {
    let mut master = Program::role("master", &["1", "30000", "30000", "serve", "127.0.0.1:0"]);
    let address = master.listening(1);
    let mut client = Client::connect(&address);
    client.line();
    // What a terminal does at Ctrl-C: to everybody in the foreground group.
    killpg(Pid::from_raw(master.pid().cast_signed()), Signal::SIGINT).unwrap();
    master.line("stopping");
    client.finish();
    assert!(master.wait().success());
    master.silence();
    master.line("worker 0.1 exited with code 0");
}

fn a_program_whose_workers_all_fail_says_so_and_fails() {
    let mut master = Program::role("master", &["1", "1000", "1000", "serve", "nonsense"]);
    assert_eq!(master.wait().code(), Some(1));
    master.silence();
    master.line("slot 0 is given up");
    assert!(!master.seen.contains(&"the cluster has ended well".to_owned()));
}

fn f60_signals_that_the_parent_has_blocked_are_heard() {
    let mut command = Command::new("env");
    command.arg("--block-signal=TERM,INT").arg(std::env::current_exe().unwrap());
    command.args([ROLE, "master", "1", "1000", "1000", "serve", "127.0.0.1:0"]);
    let mut master = Program::start(command);
    master.listening(1);
    let worker = format!("{}/status", master.worker("0.1"));
    // While it starts a thread, the C library blocks all of them.
    wait_until("the worker blocks no signal", || {
        proc_field(&worker, "SigBlk").as_deref() == Some("0000000000000000")
    });
    master.signal(Signal::SIGTERM);
    assert!(master.wait().success());
    master.silence();
    let line = master.line("worker 0.1 exited with code 0");
    assert!(line.ends_with("as asked"), "{line}");
}

fn connections_that_nobody_could_serve_are_closed_and_counted() {
    let desk = Desk::new();
    let builder = puppet_builder(&desk).workers(2).drain_timeout(SHORT);
    let mut running = Running::start(builder.kill_timeout(SHORT));
    desk.ready(2);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "127.0.0.1:0");
    running.listening(2);
    let mut clients: Vec<_> = (0..6).map(|_| Client::connect(&address)).collect();
    for _ in 0..3 {
        desk.take("1", 0);
    }
    running.signal(0, Signal::SIGSTOP);
    running.cluster.shutdown();
    // Worker 1 has nothing to wait for and ends; what waits for worker 0 is nobody's then.
    let (result, log) = running.end();
    result.unwrap();
    assert_eq!(abandoned(&log), 3, "{}", told(&log));
    let mut unserved = 0;
    for client in &mut clients {
        match client.try_line() {
            Ok(name) => assert_eq!(name, "1.1"),
            Err(error) => {
                assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "left waiting");
                unserved += 1;
            }
        }
    }
    assert_eq!(unserved, 3);
}

fn with_spawn_signals_are_the_hosts() {
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    let blocked = proc_field("self/status", "SigCgt").unwrap();
    let caught = u64::from_str_radix(&blocked, 16).unwrap();
    let mask = |signal: Signal| 1_u64 << (signal as u32 - 1);
    assert_eq!(caught & (mask(Signal::SIGTERM) | mask(Signal::SIGINT)), 0, "{blocked}");
    running.stop();
}
