//! Workers that live and take nothing, and masters that are suspended.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use runtime::{Event, WorkerId};

use crate::harness::tests;
use crate::support::{Client, Desk, Running, ask, is_stopped, puppet_builder, role, wait_until};

tests! {
    f20_a_stopped_worker_holds_nobody_up_whom_it_had_not_taken,
    f47_a_busy_worker_holds_nobody_up_whom_it_had_not_taken,
    all_stalled_workers_go_on_where_they_were,
    a_worker_that_takes_slowly_is_not_stalled,
    a_listener_that_nobody_serves_stalls_by_itself,
}

const SOON: Duration = Duration::from_millis(400);

fn f20_a_stopped_worker_holds_nobody_up_whom_it_had_not_taken() {
    let builder = role("serve", &["127.0.0.1:0"]).workers(4).stall_timeout(SOON);
    let mut running = Running::start(builder);
    let address = running.listening(4);
    let mut taken: Vec<_> = (0..4).map(|_| Client::connect(&address)).collect();
    let names: Vec<_> = taken.iter_mut().map(Client::line).collect();
    let mut hostage = taken.remove(names.iter().position(|name| name == "1.1").unwrap());
    running.signal(1, Signal::SIGSTOP);
    wait_until("it is stopped", || is_stopped(running.pid(1)));
    taken.iter_mut().for_each(Client::finish);

    let names: Vec<String> = thread::scope(|scope| {
        let asking = || (0..5).map(|_| ask(&address)).collect::<Vec<_>>();
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(asking)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(names.len(), 40);
    assert!(!names.contains(&"1.1".to_owned()), "{names:?}");
    let id = WorkerId { slot: 1, generation: 1 };
    running.happens(
        "it is stalled",
        |event| matches!(event, Event::Stalled { worker, .. } if *worker == id),
    );
    running.happens("its connections are taken back", |event| {
        matches!(event, Event::TakenBack { slot: 1, .. })
    });

    running.signal(1, Signal::SIGCONT);
    hostage.finish();
    running.happens(
        "it takes again",
        |event| matches!(event, Event::Resumed { worker, .. } if *worker == id),
    );
    let mut names: Vec<_> = (0..4).map(|_| ask(&address)).collect();
    names.sort();
    assert_eq!(names, ["0.1", "1.1", "2.1", "3.1"], "it has its share again");
    running.stop();
}

fn f47_a_busy_worker_holds_nobody_up_whom_it_had_not_taken() {
    let builder = role("serve", &["127.0.0.1:0"]).workers(2).stall_timeout(SOON);
    let mut running = Running::start(builder);
    let address = running.listening(2);
    let mut keeping_it_busy = Client::connect(&address);
    assert_eq!(keeping_it_busy.line(), "0.1");
    for _ in 0..20 {
        assert_eq!(ask(&address), "1.1");
    }
    keeping_it_busy.finish();
    running.happens("it takes again", |event| {
        matches!(event, Event::Resumed { worker: WorkerId { slot: 0, .. }, .. })
    });
    let mut names = [ask(&address), ask(&address)];
    names.sort();
    assert_eq!(names, ["0.1", "1.1"]);
    running.stop();
}

fn all_stalled_workers_go_on_where_they_were() {
    let builder = role("serve", &["127.0.0.1:0"]).workers(2).stall_timeout(SOON);
    let mut running = Running::start(builder);
    let address = running.listening(2);
    for slot in [0, 1] {
        running.signal(slot, Signal::SIGSTOP);
        wait_until("it is stopped", || is_stopped(running.pid(slot)));
    }
    // More than fit the mailboxes of both.
    let mut clients: Vec<_> = (0..60).map(|_| Client::connect(&address)).collect();
    clients.iter_mut().for_each(|client| client.send("\n").unwrap());
    running.until("both are stalled", |log| {
        let stalled = log.iter().filter(|event| matches!(event, Event::Stalled { .. }));
        (stalled.count() == 2).then_some(())
    });
    for slot in [0, 1] {
        running.signal(slot, Signal::SIGCONT);
    }
    for client in &mut clients {
        client.line();
        client.expect_done().unwrap();
    }
    running.stop();
}

fn a_worker_that_takes_slowly_is_not_stalled() {
    let desk = Desk::new();
    let mut running = Running::start(puppet_builder(&desk).workers(1).stall_timeout(SOON));
    desk.ready(1);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    let mut clients: Vec<_> = (0..10).map(|_| Client::connect(&address)).collect();
    for client in &mut clients {
        desk.take("0", 0);
        client.line();
        // Twice between two checks, of which three in a row without progress make a stall.
        running.passes(SOON / 8);
    }
    let stalls = running.log.iter().filter(|event| matches!(event, Event::Stalled { .. }));
    assert_eq!(stalls.count(), 0, "{}", running.told());
    running.stop();
}

fn a_listener_that_nobody_serves_stalls_by_itself() {
    let desk = Desk::new();
    let mut running = Running::start(puppet_builder(&desk).workers(1).stall_timeout(SOON));
    desk.ready(1);
    let idle = desk.listen("0", 0, "127.0.0.1:0");
    let busy = desk.listen("0", 1, "127.0.0.1:0");
    assert_eq!(desk.ask("0", "serve 1"), "serving");
    let mut waiting = Client::connect(&idle);
    waiting.send("\n").unwrap();
    let stalled = running.happens("one is stalled", |event| matches!(event, Event::Stalled { .. }));
    assert!(matches!(stalled, Event::Stalled { address, .. } if address == idle));
    assert_eq!([ask(&busy), ask(&busy)], ["0.1", "0.1"]);
    assert_eq!(desk.ask("0", "serve 0"), "serving");
    assert_eq!(waiting.line(), "0.1");
    waiting.expect_done().unwrap();
    running.stop();
}
