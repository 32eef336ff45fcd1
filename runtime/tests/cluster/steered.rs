//! A listening socket for each slot, among which the kernel chooses as it was told.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Uid, geteuid, setuid};
use runtime::{Address, Builder, Cluster, Dispatch, Event, PolicyKind, RestartPolicy};
use scheduler::RoundRobin;

use crate::harness::{Outcome, ROLE, descriptors, roles, tests};
use crate::support::cluster::abandoned;
use crate::support::roles::serve_as;
use crate::support::{
    Client, Desk, Directory, Program, Running, ask, puppet_builder, role, shares, try_ask,
};

tests! {
    turns_are_exact_also_under_load,
    weights_are_kept_exactly,
    the_fewest_connections_get_the_next,
    a_client_stays_with_its_worker,
    what_waits_for_a_killed_worker_goes_to_others,
    what_waits_for_a_worker_that_leaves_goes_to_others,
    connections_wait_while_no_worker_is_there,
    the_queues_are_served_before_the_end_and_then_nobody_listens,
    slots_come_and_go_under_load,
    what_the_kernel_cannot_do_is_done_otherwise_and_said,
    without_privilege_it_falls_back_and_says_why,
    an_address_in_use_is_an_error,
    nothing_is_left_over,
}

roles! {
    steered_master,
}

/// Says so and gives `false` where the kernel does not let us load programs.
fn can_steer(running: &mut Running) -> bool {
    let (dispatch, _, reason) = opened(running);
    if dispatch != Dispatch::Steered || reason.is_some() {
        println!("skipped: {}", reason.unwrap_or_default());
        return false;
    }
    true
}

fn opened(running: &mut Running) -> (Dispatch, &'static str, Option<String>) {
    running.until("a listener is open", |log| {
        log.iter().find_map(|event| match event {
            Event::Opened { dispatch, policy, reason, .. } => {
                Some((*dispatch, *policy, reason.clone()))
            }
            _ => None,
        })
    })
}

fn steered(workers: &str) -> Builder {
    role(workers, &["127.0.0.1:0"]).dispatch(Dispatch::Steered)
}

fn puppets(desk: &Desk, workers: usize, policy: PolicyKind) -> Running {
    // A successor would speak up when nobody asks.
    let never = Duration::from_secs(3600);
    let restart = RestartPolicy { delay_min: never, delay_max: never, ..RestartPolicy::default() };
    let builder = puppet_builder(desk).restart(restart).dispatch(Dispatch::Steered).policy(policy);
    let running = Running::start(builder.workers(workers));
    desk.ready(workers);
    running
}

fn turns_are_exact_also_under_load() {
    for workers in ["serve", "serve_in_event_loop"] {
        let mut running = Running::start(steered(workers).workers(4));
        let address = running.listening(4);
        if !can_steer(&mut running) {
            return;
        }
        let ask_some = || (0..100).map(|_| ask(&address)).collect::<Vec<_>>();
        let names: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(ask_some)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let mut counts = BTreeMap::new();
        names.into_iter().for_each(|name| *counts.entry(name).or_insert(0) += 1);
        let expected = ["0.1", "1.1", "2.1", "3.1"].map(|name| (name.to_owned(), 400));
        assert_eq!(counts, BTreeMap::from(expected), "{workers}");
        running.stop();
    }
}

fn weights_are_kept_exactly() {
    let mut running = Running::start(steered("serve").weights([5, 3, 0, 1, 1]));
    if can_steer(&mut running) {
        assert_eq!(shares(&mut running, 5, 200), [100, 60, 0, 20, 20]);
    }
    running.stop();
    let builder = steered("serve").weights([5, 1]).policy(PolicyKind::RoundRobin);
    let mut running = Running::start(builder);
    if can_steer(&mut running) {
        assert_eq!(shares(&mut running, 2, 20), [10, 10], "it knows no weights");
    }
    running.stop();
}

fn the_fewest_connections_get_the_next() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 3, PolicyKind::LeastConnections);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "127.0.0.1:0");
    desk.listen("2", 0, "127.0.0.1:0");
    if can_steer(&mut running) {
        let mut clients: Vec<_> = (0..6).map(|_| Client::connect(&address)).collect();
        for slot in ["0", "1", "2", "0", "1", "2"] {
            desk.take(slot, 0);
        }
        // Worker 1 serves its two; so the next two are its own.
        let mut is_done = 0;
        for client in &mut clients {
            if client.line() == "1.1" {
                client.send("\n").unwrap();
                is_done += 1;
            }
        }
        assert_eq!(is_done, 2);
        assert_eq!(desk.ask("1", "finish"), "finished");
        let mut more: Vec<_> = (0..2).map(|_| Client::connect(&address)).collect();
        for client in &mut more {
            desk.take("1", 0);
            assert_eq!(client.line(), "1.1");
        }
    }
    running.stop();
}

fn a_client_stays_with_its_worker() {
    let builder = steered("serve").workers(4).policy(PolicyKind::SourceHash);
    let mut running = Running::start(builder);
    let address = running.listening(4);
    let (dispatch, ..) = opened(&mut running);
    assert_eq!(dispatch, Dispatch::Steered, "it takes no privilege");
    let first = ask(&address);
    assert!((0..20).all(|_| ask(&address) == first));
    running.stop();
}

/// Connects four clients to two workers, and has nobody take them yet.
fn four_wait(desk: &Desk, running: &mut Running) -> (Address, Vec<Client>) {
    let address = desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "127.0.0.1:0");
    running.listening(2);
    let clients = (0..4).map(|_| Client::connect(&address)).collect();
    (address, clients)
}

fn what_waits_for_a_killed_worker_goes_to_others() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 2, PolicyKind::RoundRobin);
    let (_, mut clients) = four_wait(&desk, &mut running);
    if can_steer(&mut running) {
        running.signal(0, Signal::SIGKILL);
        running.exits(0, 1);
        (0..4).for_each(|_| drop(desk.take("1", 0)));
        assert!(clients.iter_mut().all(|client| client.line() == "1.1"));
    }
    running.stop();
}

fn what_waits_for_a_worker_that_leaves_goes_to_others() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 2, PolicyKind::RoundRobin);
    let (address, mut clients) = four_wait(&desk, &mut running);
    if can_steer(&mut running) {
        assert_eq!(desk.ask("0", "close 0"), "closed");
        clients.extend((0..4).map(|_| Client::connect(&address)));
        (0..8).for_each(|_| drop(desk.take("1", 0)));
        assert!(clients.iter_mut().all(|client| client.line() == "1.1"));
        // And back again.
        assert_eq!(desk.listen("0", 1, &address.to_string()), address);
        let mut more: Vec<_> = (0..2).map(|_| Client::connect(&address)).collect();
        desk.take("0", 1);
        desk.take("1", 0);
        let mut names: Vec<_> = more.iter_mut().map(Client::line).collect();
        names.sort();
        assert_eq!(names, ["0.1", "1.1"]);
    }
    running.stop();
}

fn connections_wait_while_no_worker_is_there() {
    let mut running = Running::start(steered("serve").workers(1));
    let address = running.listening(1);
    running.signal(0, Signal::SIGKILL);
    running.exits(0, 1);
    let mut clients: Vec<_> = (0..10).map(|_| Client::connect(&address)).collect();
    for client in &mut clients {
        assert_eq!(client.line(), "0.2");
        client.finish();
    }
    assert_eq!(abandoned(&running.stop()), 0);
}

fn the_queues_are_served_before_the_end_and_then_nobody_listens() {
    let mut running = Running::start(steered("serve").workers(2));
    let address = running.listening(2);
    let mut busy: Vec<_> = (0..2).map(|_| Client::connect(&address)).collect();
    let mut names: Vec<_> = busy.iter_mut().map(Client::line).collect();
    names.sort();
    let mut clients: Vec<_> = (0..10).map(|_| Client::connect(&address)).collect();
    running.cluster.shutdown();
    running.happens("it stops", |event| *event == Event::Stopping);
    busy.iter_mut().for_each(Client::finish);
    thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| {
                client.line();
                client.finish();
            });
        }
    });
    assert_eq!(abandoned(&running.stop()), 0);
    assert!(Client::try_connect(&address).is_err(), "nobody listens any more");
}

fn slots_come_and_go_under_load() {
    let mut running = Running::start(steered("serve").workers(2));
    let address = running.listening(2);
    if !can_steer(&mut running) {
        return;
    }
    let failed = thread::scope(|scope| {
        let asking: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..500).filter(|_| try_ask(&address).is_err()).count()))
            .collect();
        for workers in [4, 1, 3, 2, 5, 1, 2] {
            running.cluster.scale(workers).unwrap();
            running.listening_now(workers);
        }
        asking.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert_eq!(failed, 0);
    running.stop();
}

fn what_the_kernel_cannot_do_is_done_otherwise_and_said() {
    let directory = Directory::new();
    let path = format!("unix:{}", directory.join("socket").display());
    let unix = || role("serve", &[&path]).dispatch(Dispatch::Steered).workers(1);
    for (builder, dispatch, word) in [
        (steered("serve").policy(PolicyKind::Sticky), Dispatch::Handoff, "by sticky"),
        (
            steered("serve").custom_policy(|| Box::new(RoundRobin::new())),
            Dispatch::Handoff,
            "your own policy",
        ),
        (unix(), Dispatch::Shared, "only TCP and UDP"),
        (unix().policy(PolicyKind::Random), Dispatch::Handoff, "only TCP and UDP"),
    ] {
        let mut running = Running::start(builder.workers(1));
        let address = running.listening(1);
        let (opened, _, reason) = opened(&mut running);
        assert_eq!(opened, dispatch);
        assert!(reason.as_ref().is_some_and(|reason| reason.contains(word)), "{reason:?}");
        assert_eq!(ask(&address), "0.1");
        running.stop();
    }
}

/// `steered_master USER POLICY`: a master that gives up its privileges first.
fn steered_master(args: &[String]) -> Outcome {
    if std::env::var_os("CLUSTER_WORKER_ID").is_none() {
        setuid(Uid::from_raw(args[0].parse()?))?;
    }
    Cluster::builder()
        .workers(2)
        .dispatch(Dispatch::Steered)
        .policy(args[1].parse()?)
        .on_event(|event| println!("{event}"))
        .run(|worker| serve_as(&worker, &["127.0.0.1:0".to_owned()]))?;
    Ok(())
}

fn without_privilege_it_falls_back_and_says_why() {
    if !geteuid().is_root() {
        println!("skipped: only root can become somebody else");
        return;
    }
    for (policy, told) in [
        ("round-robin", "open: shared, rotation (bpf(2): Operation not permitted"),
        ("least-connections", "open: handoff, "),
        ("random", "(by a classic program: "),
        ("source-hash", "(by a classic program: "),
    ] {
        let mut command = std::process::Command::new("/proc/self/exe");
        command.args([ROLE, "steered_master", "65534", policy]);
        let mut master = Program::start(command);
        let address = master.listening(2);
        master.line(told);
        assert!((0..10).all(|_| try_ask(&address).is_ok()));
        master.signal(Signal::SIGTERM);
        assert!(master.wait().success());
        master.silence();
    }
}

fn an_address_in_use_is_an_error() {
    let mut first = Running::start(steered("serve").workers(1));
    let address = first.listening(1);
    let builder = role("serve", &[&address.to_string()]).dispatch(Dispatch::Steered).workers(1);
    let mut second = Running::start(builder);
    let event = second.happens("it can't listen", |e| matches!(e, Event::ListenFailed { .. }));
    assert!(event.to_string().contains("ddress already in use"), "{event}");
    drop(second);
    assert_eq!(ask(&address), "0.1");
    first.stop();
}

fn nothing_is_left_over() {
    let before = descriptors();
    let mut running = Running::start(steered("serve").workers(2));
    let address = running.listening(2);
    for round in 1..4 {
        assert!((0..10).all(|_| try_ask(&address).is_ok()));
        for slot in 0..2 {
            running.signal(slot, Signal::SIGKILL);
            running.exits(slot, round);
        }
        (0..2).for_each(|slot| running.listens(slot, round + 1));
    }
    running.stop();
    assert_eq!(descriptors(), before);
}
