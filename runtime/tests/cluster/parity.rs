//! What Node's own tests of its cluster module check of workers' lives and ends, and what they
//! don't; `PARITY.md` says which rows. Tests that are about more than that are elsewhere.

use std::collections::BTreeSet;
use std::io::{self, BufRead};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::wait::{WaitStatus, wait, waitpid};
use nix::unistd::Pid;
use runtime::{Address, Event, Exit, RestartPolicy, WorkerId};

use crate::harness::{Outcome, descriptors, roles, tests};
use crate::support::cluster::{exit_of, told};
use crate::support::roles::worker;
use crate::support::{
    Client, DISPATCHES, Desk, Program, Running, ask, puppet_builder, role, try_ask,
};

tests! {
    a_shutdown_ends_all_workers_of_several_listeners_once,
    a_worker_that_was_let_go_outlives_its_master_and_others_end_with_it,
    no_worker_outlives_a_master_that_ends_by_mistake,
    workers_that_are_disconnected_while_one_of_them_arrives_leave_nothing,
    workers_that_are_disconnected_from_both_sides_at_once_end_well,
    a_worker_that_exits_right_after_it_has_disconnected_was_asked_to,
    workers_are_restarted_under_load_without_a_failed_request,
    killed_workers_lose_only_what_they_had_taken,
}

roles! {
    disconnect_itself,
    puppeteer,
}

const HOUR: Duration = Duration::from_secs(3600);

fn id(slot: usize, generation: u32) -> WorkerId {
    WorkerId { slot, generation }
}

/// PARITY row 1.
fn a_shutdown_ends_all_workers_of_several_listeners_once() {
    const WORKERS: usize = 3;
    for dispatch in DISPATCHES {
        let builder = role("serve", &["127.0.0.1:0", "127.0.0.1:0"]).dispatch(dispatch);
        let mut running = Running::start(builder.workers(WORKERS));
        let addresses = running.until("all listen twice", |log| {
            let listening = log.iter().filter_map(|event| match event {
                Event::Listening { address, .. } => Some(address.clone()),
                _ => None,
            });
            let addresses: Vec<_> = listening.collect();
            (addresses.len() == 2 * WORKERS).then_some(addresses)
        });
        let addresses = BTreeSet::from_iter(addresses);
        assert_eq!(addresses.len(), 2, "they share both: {addresses:?}");
        for address in &addresses {
            (0..2 * WORKERS).for_each(|_| drop(ask(address)));
        }
        let log = running.stop();
        for slot in 0..WORKERS {
            assert_eq!(exit_of(&log, slot, 1), (Exit::Code(0), true), "{dispatch}");
        }
        let stopped = log.iter().filter(|event| matches!(event, Event::Stopped { .. }));
        assert_eq!(stopped.count(), 1, "{dispatch}: {}", told(&log));
    }
}

/// `puppeteer DESK`: hosts a cluster of two puppets, who may take their time, and prints its
/// events. It ends as the first line of its input says: by `exit`, `panic` or `abort`.
#[allow(clippy::disallowed_methods, reason = "that is its purpose")]
fn puppeteer(args: &[String]) -> Outcome {
    let builder = role("puppet", &[&args[0]]).workers(2).drain_timeout(HOUR);
    let _cluster = builder.on_event(|event| println!("{event}")).spawn()?;
    let how = io::stdin().lock().lines().next().expect("an order")?;
    match how.as_str() {
        "exit" => std::process::exit(3),
        "panic" => panic!("as asked"),
        "abort" => {
            setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
            std::process::abort()
        }
        other => Err(format!("no such end: {other}").into()),
    }
}

/// Starts a master of puppets; says their pids.
fn start_puppeteer(desk: &Desk) -> (Program, [Pid; 2]) {
    let mut master = Program::role("puppeteer", &[&desk.number()]);
    desk.ready(2);
    let pids = ["0.1", "1.1"].map(|worker| Pid::from_raw(master.worker(worker).cast_signed()));
    (master, pids)
}

/// PARITY row 6.
fn a_worker_that_was_let_go_outlives_its_master_and_others_end_with_it() {
    let desk = Desk::new();
    let (mut master, [free, bound]) = start_puppeteer(&desk);
    assert_eq!(desk.ask("0", "linger"), "lingering");
    assert_eq!(desk.ask("0", "disconnect"), "disconnected");
    assert_eq!(desk.hear(), "stopping");
    master.tell("exit");
    assert_eq!(master.wait().code(), Some(3));
    // Not asked by anybody, it has noticed.
    assert_eq!(waitpid(bound, None), Ok(WaitStatus::Exited(bound, 0)));
    assert_eq!(desk.ask("0", "run echo here"), "here");
    desk.tell("0", "exit");
    assert_eq!(waitpid(free, None), Ok(WaitStatus::Exited(free, 0)));
    master.silence();
}

/// PARITY row 7; `orphans` has the tests with SIGKILL.
fn no_worker_outlives_a_master_that_ends_by_mistake() {
    for (how, code) in [("exit", Some(3)), ("panic", Some(101)), ("abort", None)] {
        let desk = Desk::new();
        let (mut master, pids) = start_puppeteer(&desk);
        master.tell(how);
        assert_eq!(master.wait().code(), code, "{how}");
        // Some were collected by their master, the others are this process's children now.
        while wait() != Err(Errno::ECHILD) {}
        for pid in pids {
            assert!(!Path::new("/proc").join(pid.to_string()).exists(), "{how}: {pid}");
        }
        master.silence();
    }
}

/// PARITY row 11.
fn workers_that_are_disconnected_while_one_of_them_arrives_leave_nothing() {
    for dispatch in DISPATCHES {
        let desk = Desk::new();
        let before = descriptors();
        let mut running = Running::start(puppet_builder(&desk).dispatch(dispatch).workers(2));
        desk.ready(2);
        let address = desk.listen("0", 0, "127.0.0.1:0");
        let mut clients = vec![Client::connect(&address)];
        desk.tell("1", &format!("listen {address}"));
        clients.extend((0..4).map(|_| Client::connect(&address)));
        assert_eq!(desk.hear(), format!("0 {address}"));
        for slot in [0, 1] {
            running.cluster.disconnect(id(slot, 1), None);
        }
        for slot in [0, 1] {
            running.exits(slot, 1);
        }
        assert_eq!(running.cluster.workers(), []);
        let log = running.stop();
        for slot in [0, 1] {
            assert_eq!(exit_of(&log, slot, 1), (Exit::Code(0), true), "{dispatch}");
        }
        for client in &mut clients {
            let error = client.try_line().expect_err("nobody has taken it");
            assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "{dispatch}: left waiting");
        }
        drop(clients);
        assert_eq!(descriptors(), before, "{dispatch}");
    }
}

/// PARITY row 12.
fn workers_that_are_disconnected_from_both_sides_at_once_end_well() {
    const WORKERS: usize = 4;
    const ROUNDS: u32 = 10;
    for dispatch in DISPATCHES {
        let builder = role("disconnect_itself", &["127.0.0.1:0"]).dispatch(dispatch);
        let mut running = Running::start(builder.workers(WORKERS));
        for generation in 1..=ROUNDS {
            for slot in 0..WORKERS {
                running.listens(slot, generation);
                // A call that comes before, while or after it goes, as it happens.
                running.cluster.disconnect(id(slot, generation), None);
            }
            if generation == ROUNDS {
                running.cluster.shutdown();
                break;
            }
            for slot in 0..WORKERS {
                running.exits(slot, generation);
                running.cluster.start(slot);
            }
        }
        let (result, log) = running.end();
        result.unwrap();
        for (slot, generation) in (0..WORKERS).flat_map(|s| (1..=ROUNDS).map(move |g| (s, g))) {
            let exit = exit_of(&log, slot, generation);
            assert_eq!(exit, (Exit::Code(0), true), "{dispatch}: {slot}.{generation}");
        }
    }
}

/// `disconnect_itself ADDRESS`: listens, leaves the cluster, and ends at once.
fn disconnect_itself(args: &[String]) -> Outcome {
    let worker = worker()?;
    let _listener = worker.listen(args[0].as_str())?;
    Ok(worker.disconnect()?)
}

/// PARITY row 13: its call returns only when the master knows.
fn a_worker_that_exits_right_after_it_has_disconnected_was_asked_to() {
    const ROUNDS: u32 = 30;
    let builder = role("disconnect_itself", &["127.0.0.1:0"]).workers(1);
    let mut running = Running::start(builder);
    for generation in 1..=ROUNDS {
        running.exits(0, generation);
        running.cluster.start(0);
    }
    running.exits(0, ROUNDS + 1);
    let log = running.stop();
    for generation in 1..=ROUNDS + 1 {
        assert_eq!(exit_of(&log, 0, generation), (Exit::Code(0), true), "0.{generation}");
    }
    let again = log.iter().find(|event| matches!(event, Event::Restarting { .. }));
    assert_eq!(again, None, "it is not replaced");
}

/// What clients saw who asked, one question after the other, for as long as something was done.
struct Load {
    served: usize,
    failures: Vec<io::Error>,
}

/// Asks, with some clients at once, while `work` is done.
fn under_load(address: &Address, work: impl FnOnce()) -> Load {
    let (enough, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failures = thread::scope(|scope| {
        let client = || {
            let mut failures = Vec::new();
            while !enough.load(Ordering::Relaxed) {
                match try_ask(address) {
                    Ok(_) => drop(served.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => failures.push(error),
                }
            }
            failures
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        work();
        enough.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    Load { served: served.into_inner(), failures }
}

/// PARITY 5, extra: no request fails while every worker is replaced.
fn workers_are_restarted_under_load_without_a_failed_request() {
    const WORKERS: usize = 3;
    let loops = ["serve", "serve_in_event_loop"];
    for (dispatch, workers) in DISPATCHES.iter().flat_map(|d| loops.map(|w| (*d, w))) {
        let builder = role(workers, &["127.0.0.1:0"]).dispatch(dispatch).workers(WORKERS);
        let mut running = Running::start(builder.drain_timeout(HOUR));
        let address = running.listening(WORKERS);
        let load = under_load(&address, || {
            for (generation, slot) in (1..=3).flat_map(|g| (0..WORKERS).map(move |s| (g, s))) {
                running.cluster.restart(id(slot, generation), None);
                running.listens(slot, generation + 1);
            }
        });
        assert!(load.failures.is_empty(), "{dispatch} {workers}: {:?}", load.failures);
        assert!(load.served > 0, "{dispatch} {workers}: there was load");
        let log = running.stop();
        let badly = |event: &&Event| matches!(event, Event::Exited { asked: false, .. });
        assert_eq!(log.iter().find(badly), None, "{dispatch} {workers}");
    }
}

/// PARITY 5, extra: what a killed worker had not taken is served by others.
fn killed_workers_lose_only_what_they_had_taken() {
    const WORKERS: usize = 3;
    const KILLS: usize = 20;
    let restart = RestartPolicy {
        delay_min: Duration::from_millis(5),
        delay_max: Duration::from_millis(20),
        ..RestartPolicy::default()
    };
    for dispatch in DISPATCHES {
        let builder = role("serve", &["127.0.0.1:0"]).dispatch(dispatch).workers(WORKERS);
        let mut running = Running::start(builder.restart(restart));
        let address = running.listening(WORKERS);
        let load = under_load(&address, || {
            for number in 0..KILLS {
                running.passes(Duration::from_millis(20));
                running.kill_some(number * 7 + number * number);
            }
        });
        // Each had one at most.
        let failures = &load.failures;
        assert!(failures.len() <= KILLS, "{dispatch}: {} {failures:?}", failures.len());
        let hung = failures.iter().find(|error| error.kind() == io::ErrorKind::WouldBlock);
        assert!(hung.is_none(), "{dispatch}: a client has waited to its deadline");
        assert!(load.served > KILLS, "{dispatch}: only {} were served", load.served);
        running.listening(WORKERS);
        running.stop();
    }
}
