//! Everything at once, and anything at any moment.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::{Address, Event, RestartPolicy};

use crate::harness::tests;
use crate::support::cluster::{abandoned, told};
use crate::support::{Client, Directory, Running, role, try_ask};

tests! {
    workers_can_be_killed_at_any_moment_of_their_start,
    f68_a_cluster_can_be_stopped_at_any_moment_of_its_start,
    a_cluster_that_stops_under_load_finishes_what_it_has_taken,
    kills_stops_and_load_lose_only_what_killed_workers_had_taken,
}

fn without_end() -> RestartPolicy {
    RestartPolicy {
        delay_min: Duration::from_millis(2),
        delay_max: Duration::from_millis(10),
        failures_max: 0,
        start_failures_max: 0,
        ..RestartPolicy::default()
    }
}

fn workers_can_be_killed_at_any_moment_of_their_start() {
    let builder = role("serve", &["127.0.0.1:0"]).workers(1).restart(without_end());
    let mut running = Running::start(builder);
    for generation in 1..60 {
        let pid = running.until("a worker is started", |log| {
            log.iter().find_map(|event| match event {
                Event::Spawned { worker, pid } if worker.generation == generation => Some(*pid),
                _ => None,
            })
        });
        running.passes(Duration::from_micros(100) * generation);
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
        running.exits(0, generation);
    }
    running.listens(0, 60);
    let address = running.listening(1);
    assert_eq!(try_ask(&address).unwrap(), "0.60");
    running.stop();
}

fn f68_a_cluster_can_be_stopped_at_any_moment_of_its_start() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let addresses = ["127.0.0.1:0".to_owned(), Address::Unix(path.clone()).to_string()];
    for moment in 0..40 {
        let args: Vec<_> = addresses.iter().map(String::as_str).collect();
        let mut running = Running::start(role("serve", &args).workers(2));
        running.passes(Duration::from_micros(250) * moment);
        let log = running.stop();
        assert_eq!(abandoned(&log), 0, "{}", told(&log));
        assert!(!path.exists());
    }
}

fn a_cluster_that_stops_under_load_finishes_what_it_has_taken() {
    for round in 0..5 {
        let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(3));
        let address = running.listening(3);
        let log = thread::scope(|scope| {
            // Until nobody listens any more. Who was told a name was taken, and is served.
            let client = || {
                let mut served = 0;
                while let Ok(mut client) = Client::try_connect(&address) {
                    match client.try_line() {
                        Ok(_) => client.finish(),
                        Err(error) => {
                            assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "left waiting");
                            break;
                        }
                    }
                    served += 1;
                }
                served
            };
            let clients: Vec<_> = (0..6).map(|_| scope.spawn(client)).collect();
            running.passes(Duration::from_millis(20 + 5 * round));
            let log = running.stop();
            let served: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
            assert!(served > 0);
            log
        });
        assert_eq!(abandoned(&log), 0, "{}", told(&log));
        let clean = "exited with code 0";
        let ends: Vec<_> = log.iter().filter(|e| matches!(e, Event::Exited { .. })).collect();
        assert!(ends.iter().all(|event| event.to_string().contains(clean)), "{}", told(&log));
    }
}

fn kills_stops_and_load_lose_only_what_killed_workers_had_taken() {
    const WORKERS: usize = 4;
    let builder = role("serve", &["127.0.0.1:0"]).workers(WORKERS).restart(without_end());
    let mut running = Running::start(builder.stall_timeout(Duration::from_millis(60)));
    let address = running.listening(WORKERS);
    let enough = AtomicBool::new(false);
    let client = || {
        let (mut served, mut failures) = (0, Vec::new());
        while !enough.load(Ordering::Relaxed) {
            match try_ask(&address) {
                Ok(_) => served += 1,
                Err(error) => failures.push(error),
            }
        }
        (served, failures)
    };
    let (mut served, mut failures, mut kills) = (0, Vec::new(), 0);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(client)).collect();
        let mut random: u32 = 2026;
        for _ in 0..150 {
            running.passes(Duration::from_millis(15));
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let workers = running.cluster.workers();
            let Some(worker) = workers.get((random >> 16) as usize % WORKERS) else { continue };
            let signal = match random >> 29 {
                0 | 1 => Signal::SIGKILL,
                2..=4 => Signal::SIGSTOP,
                _ => Signal::SIGCONT,
            };
            kills += usize::from(signal == Signal::SIGKILL);
            // It may have ended by now, and nobody minds.
            let _ = kill(Pid::from_raw(worker.pid.cast_signed()), signal);
        }
        enough.store(true, Ordering::Relaxed);
        // Whoever is stopped goes on.
        while clients.iter().any(|client| !client.is_finished()) {
            for worker in running.cluster.workers() {
                let _ = kill(Pid::from_raw(worker.pid.cast_signed()), Signal::SIGCONT);
            }
            running.passes(Duration::from_millis(5));
        }
        for client in clients {
            let (ok, mut bad) = client.join().unwrap();
            served += ok;
            failures.append(&mut bad);
        }
    });
    let hung = failures.iter().any(|error| error.kind() == io::ErrorKind::WouldBlock);
    assert!(!hung, "a client has waited to its deadline: {failures:?}");
    assert!(failures.len() <= kills, "{} failures of {kills} kills: {failures:?}", failures.len());
    assert!(served > kills && kills > 10, "{served} served, {kills} kills");
    running.stop();
}
