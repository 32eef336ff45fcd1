//! The number of slots, changed while the cluster runs.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use runtime::{Dispatch, Event, Exit, WorkerInfo, WorkerState};

use crate::harness::{descriptors, tests};
use crate::support::cluster::{abandoned, exit_of, told};
use crate::support::{Client, Desk, Running, ask, puppets, role, try_ask, wait_until};

tests! {
    workers_are_added_and_taken_away,
    what_waits_for_a_slot_that_goes_is_given_to_others_at_once,
    a_slot_that_is_wanted_again_gets_its_worker_when_the_old_one_is_gone,
    a_worker_that_does_not_finish_is_terminated,
    numbers_out_of_range_are_refused,
    steps_under_load_lose_nothing_and_leave_nothing,
    steps_under_load_lose_nothing_when_shared,
    steps_under_load_lose_nothing_when_steered,
}

fn workers_are_added_and_taken_away() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(1));
    let address = running.listening(1);
    running.cluster.scale(3).unwrap();
    running.happens("it is scaled", |event| *event == Event::Scaled { from: 1, to: 3 });
    running.listening(3);
    let mut served = [ask(&address), ask(&address), ask(&address)];
    served.sort();
    assert_eq!(served, ["0.1", "1.1", "2.1"]);
    running.cluster.scale(1).unwrap();
    running.exits(1, 1);
    running.exits(2, 1);
    assert_eq!([ask(&address), ask(&address)], ["0.1", "0.1"]);
    running.cluster.scale(2).unwrap();
    running.listens(1, 2);
    let log = running.stop();
    assert_eq!(exit_of(&log, 1, 1), (Exit::Code(0), true));
    assert_eq!(exit_of(&log, 2, 1), (Exit::Code(0), true));
    let again = |event: &&Event| matches!(event, Event::Restarting { .. });
    assert_eq!(log.iter().filter(again).count(), 0, "{}", told(&log));
}

fn what_waits_for_a_slot_that_goes_is_given_to_others_at_once() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 2);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    assert_eq!(desk.listen("1", 0, "127.0.0.1:0"), address);
    assert_eq!(desk.ask("1", "linger"), "lingering");
    let mut clients: Vec<_> = (0..6).map(|_| Client::connect(&address)).collect();
    // The last of them but one is worker 0's third.
    (0..3).for_each(|_| drop(desk.take("0", 0)));
    running.cluster.scale(1).unwrap();
    assert_eq!(desk.hear(), "stopping");
    // The other still lives, and holds nothing back.
    (0..3).for_each(|_| drop(desk.take("0", 0)));
    clients.iter_mut().for_each(|client| {
        assert_eq!(client.line(), "0.1");
        client.send("\n").unwrap();
    });
    assert_eq!(desk.ask("0", "finish"), "finished");
    clients.iter_mut().for_each(|client| client.expect_done().unwrap());
    assert!(desk.ask("1", "take 0").starts_with("WouldBlock"));
    desk.tell("1", "exit");
    running.exits(1, 1);
    running.stop();
}

fn a_slot_that_is_wanted_again_gets_its_worker_when_the_old_one_is_gone() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(2));
    let address = running.listening(2);
    let mut clients = [Client::connect(&address), Client::connect(&address)];
    let served = clients.each_mut().map(Client::line);
    running.cluster.scale(1).unwrap();
    running.cluster.scale(2).unwrap();
    running.happens("it is scaled back", |event| *event == Event::Scaled { from: 1, to: 2 });
    let last = served.iter().position(|name| name == "1.1").unwrap();
    clients[last].finish();
    running.listens(1, 2);
    clients[1 - last].finish();
    let log = running.stop();
    assert_eq!(exit_of(&log, 1, 1), (Exit::Code(0), true));
}

fn a_worker_that_does_not_finish_is_terminated() {
    let builder = role("serve", &["127.0.0.1:0"]).workers(2);
    let mut running = Running::start(builder.drain_timeout(Duration::from_millis(100)));
    let address = running.listening(2);
    let mut clients = [Client::connect(&address), Client::connect(&address)];
    clients.iter_mut().for_each(|client| drop(client.line()));
    running.cluster.scale(1).unwrap();
    running.exits(1, 1);
    let finished = clients.iter_mut().filter_map(|client| client.try_finish().ok()).count();
    assert_eq!(finished, 1, "the other worker's");
    let log = running.stop();
    let terminated = Exit::Signal { signal: 15, core_dumped: false };
    assert_eq!(exit_of(&log, 1, 1), (terminated, true));
}

fn numbers_out_of_range_are_refused() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(1));
    running.listening(1);
    for workers in [0, 1025] {
        let error = running.cluster.scale(workers).unwrap_err().to_string();
        assert!(error.contains(&format!("{workers} workers; there may be 1 to 1024")), "{error}");
    }
    running.cluster.start(7);
    assert_eq!(running.cluster.workers().len(), 1);
    running.stop();
}

fn steps_under_load_lose_nothing_and_leave_nothing() {
    step_under_load(Dispatch::Handoff);
}

fn steps_under_load_lose_nothing_when_shared() {
    step_under_load(Dispatch::Shared);
}

fn steps_under_load_lose_nothing_when_steered() {
    step_under_load(Dispatch::Steered);
}

/// `SCALE_STEPS=1000` makes more of them.
fn step_under_load(dispatch: Dispatch) {
    let steps: usize = std::env::var("SCALE_STEPS").map_or(60, |text| text.parse().unwrap());
    let builder = role("serve", &["127.0.0.1:0"]).workers(8).dispatch(dispatch);
    let mut running = Running::start(builder.drain_timeout(Duration::from_secs(60)));
    let address = running.listening(8);
    scale_and_settle(&mut running, 1);
    // The sockets of slots that are gone stay a moment longer when they are steered.
    running.passes(Duration::from_millis(100));
    let before = descriptors().len();
    let (enough, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failures = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut failures = Vec::new();
                    while !enough.load(Ordering::Relaxed) {
                        match try_ask(&address) {
                            Ok(_) => drop(served.fetch_add(1, Ordering::Relaxed)),
                            Err(error) => failures.push(error),
                        }
                    }
                    failures
                })
            })
            .collect();
        for step in 0..steps {
            let workers = [8, 1, 2, 7, 3, 5, 4, 6, 8, 4, 1][step % 11];
            // Most steps find the cluster at rest, some find it in the middle of the last.
            if step % 4 == 3 {
                running.cluster.scale(workers).unwrap();
            } else {
                scale_and_settle(&mut running, workers);
            }
        }
        scale_and_settle(&mut running, 1);
        enough.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(failures.is_empty(), "{} failures: {failures:?}", failures.len());
    assert!(served.into_inner() > steps, "there was load");
    wait_until("there are no more descriptors than before", || descriptors().len() <= before);
    let log = running.stop();
    assert_eq!(abandoned(&log), 0);
    // Not all of them well: some are asked to stop before they can listen.
    let unasked = |event: &Event| matches!(event, Event::Exited { asked: false, .. });
    assert!(!log.iter().any(unasked), "nobody has crashed:\n{}", told(&log));
}

/// Scales, and waits until so many workers listen, and no others are left.
#[track_caller]
fn scale_and_settle(running: &mut Running, workers: usize) {
    running.cluster.scale(workers).unwrap();
    wait_until("all that shall listen do, and no others are there", || {
        running.passes(Duration::ZERO);
        let infos = running.cluster.workers();
        let listens = |info: &WorkerInfo| info.state == WorkerState::Listening;
        infos.len() == workers && infos.iter().all(listens)
    });
}
