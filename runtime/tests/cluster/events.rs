//! What a cluster tells of itself, and what it leaves alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use runtime::{Address, Dispatch, Event, Peek, PeekOptions, WorkerId, WorkerState};

use crate::harness::{Outcome, children, roles, tests};
use crate::support::cluster::told;
use crate::support::roles::{serve_as, worker};
use crate::support::{Client, Directory, Running, ask, proc_field, role, try_ask, wait_until};

tests! {
    a_workers_life_is_told_in_order_and_once,
    workers_are_listed_with_their_processes,
    a_slow_reader_is_told_how_many_events_it_has_lost,
    events_that_were_lost_until_the_end_are_told_of,
    the_hook_hears_what_the_channel_carries,
    a_hook_or_policy_that_panics_leaves_no_process,
    the_events_end_with_the_cluster,
    two_clusters_live_side_by_side,
    by_default_there_is_a_worker_for_each_processor,
    settings_out_of_range_are_refused,
    timeouts_may_be_endless,
    a_cluster_at_rest_sleeps,
}

roles! {
    fail_to_listen,
}

fn a_workers_life_is_told_in_order_and_once() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0", "127.0.0.1:0"]).workers(3));
    running.until("all listen twice", |log| {
        let listening = log.iter().filter(|event| matches!(event, Event::Listening { .. }));
        (listening.count() == 6).then_some(())
    });
    let log = running.stop();
    // Its `end` asserts the order of what is there; here is what must be there.
    for slot in 0..3 {
        let told = log.iter().filter_map(|event| match event {
            Event::Spawned { worker, .. } if worker.slot == slot => Some("spawned"),
            Event::Online { worker } if worker.slot == slot => Some("online"),
            Event::Listening { worker, .. } if worker.slot == slot => Some("listening"),
            Event::Disconnected { worker } if worker.slot == slot => Some("disconnected"),
            Event::Exited { worker, .. } if worker.slot == slot => Some("exited"),
            _ => None,
        });
        let whole_life = ["spawned", "online", "listening", "listening", "disconnected", "exited"];
        assert_eq!(told.collect::<Vec<_>>(), whole_life);
    }
    let ends = log.iter().filter(|event| matches!(event, Event::Stopping | Event::Stopped { .. }));
    assert_eq!(ends.count(), 2);
    assert!(matches!(log.last(), Some(Event::Stopped { .. })), "{}", told(&log));
}

fn workers_are_listed_with_their_processes() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(3));
    running.listening(3);
    running.signal(1, Signal::SIGKILL);
    running.listens(1, 2);
    let pids: BTreeMap<_, _> = running
        .log
        .iter()
        .filter_map(|event| match event {
            Event::Spawned { worker, pid } => Some((*worker, *pid)),
            _ => None,
        })
        .collect();
    let workers = running.cluster.workers();
    let expected = [(0, 1), (1, 2), (2, 1)].map(|(slot, generation)| WorkerId { slot, generation });
    assert_eq!(workers.iter().map(|worker| worker.id).collect::<Vec<_>>(), expected);
    for worker in workers {
        assert_eq!(pids[&worker.id], worker.pid);
        assert_eq!((worker.state, worker.is_connected), (WorkerState::Listening, true));
        assert_eq!(running.cluster.worker(worker.id), Some(worker));
        assert!(children().contains(&worker.pid.cast_signed()));
    }
    running.stop();
}

fn a_slow_reader_is_told_how_many_events_it_has_lost() {
    const FAILURES: usize = 5000;
    let directory = Directory::new();
    let address = Address::Unix(directory.join("socket"));
    let args = [&FAILURES.to_string(), &address.to_string()];
    let running = Running::start(role("fail_to_listen", &args.map(String::as_str)).workers(1));
    // Nobody reads events, and the workers go on all the same.
    wait_until("it listens at last", || try_ask(&address).is_ok_and(|name| name == "0.1"));
    let mut events: Vec<_> = running.cluster.events().try_iter().collect();
    let missing = FAILURES + 4 - events.len();
    assert!(missing > 0, "spawned, online, the failures, opened and listening are too many");
    running.cluster.shutdown();
    events.extend(running.cluster.events().iter());
    let lost = events.iter().position(|event| matches!(event, Event::Lost { .. }));
    let lost = lost.expect("it is told");
    assert_eq!(events[lost], Event::Lost { events: missing as u64 });
    assert_eq!(events[lost + 1], Event::Stopping);
    assert_eq!(events.len(), FAILURES + 4 - missing + 5, "Lost, Stopping, its end, Stopped");
    running.cluster.wait().unwrap();
}

fn events_that_were_lost_until_the_end_are_told_of() {
    let directory = Directory::new();
    let address = Address::Unix(directory.join("socket"));
    let running =
        Running::start(role("fail_to_listen", &["5000", &address.to_string()]).workers(1));
    wait_until("it listens at last", || directory.join("socket").exists());
    running.cluster.shutdown();
    wait_until("it is gone", || running.cluster.workers().is_empty());
    let events: Vec<_> = running.cluster.events().iter().collect();
    assert!(matches!(events.last(), Some(Event::Lost { .. })), "{:?}", events.last());
    running.cluster.wait().unwrap();
}

/// `fail_to_listen TIMES ADDRESS`: fails so often, and then serves.
fn fail_to_listen(args: &[String]) -> Outcome {
    let worker = worker()?;
    for _ in 0..args[0].parse()? {
        // An address of nobody's.
        if worker.listen("192.0.2.1:80").is_ok() {
            return Err("that address should not be ours".into());
        }
    }
    serve_as(&worker, &args[1..])
}

fn the_hook_hears_what_the_channel_carries() {
    let heard = Arc::new(AtomicUsize::new(0));
    let hook = Arc::clone(&heard);
    let builder = role("serve", &["127.0.0.1:0"]).workers(2);
    let mut running = Running::start(builder.on_event(move |_| {
        hook.fetch_add(1, Ordering::Relaxed);
    }));
    running.listening(2);
    let log = running.stop();
    assert_eq!(heard.load(Ordering::Relaxed), log.len());
}

fn a_hook_or_policy_that_panics_leaves_no_process() {
    let builder = || role("serve", &["127.0.0.1:0"]).workers(2);
    let hook = |event: &Event| assert!(!matches!(event, Event::Listening { .. }), "as planned");
    let policy = || -> Box<dyn scheduler::Policy> { panic!("as planned") };
    for builder in [builder().on_event(hook), builder().custom_policy(policy)] {
        let cluster = builder.spawn().unwrap();
        let wait = std::panic::AssertUnwindSafe(|| cluster.wait());
        let panic = std::panic::catch_unwind(wait).expect_err("it passes the panic on");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"as planned"));
        assert_eq!(children(), []);
    }
}

fn the_events_end_with_the_cluster() {
    let cluster = role("serve", &["127.0.0.1:0"]).workers(1).spawn().unwrap();
    let events = cluster.events().clone();
    cluster.shutdown();
    cluster.wait().unwrap();
    // What was not read yet is still there, and then it ends.
    let log: Vec<_> = events.iter().collect();
    assert!(matches!(log.last(), Some(Event::Stopped { .. })), "{}", told(&log));
}

fn two_clusters_live_side_by_side() {
    let start = || Running::start(role("serve", &["127.0.0.1:0"]).workers(2));
    let (mut first, mut second) = (start(), start());
    let addresses = [first.listening(2), second.listening(2)];
    assert_ne!(addresses[0], addresses[1]);
    for address in &addresses {
        assert_eq!([ask(address), ask(address)], ["0.1", "1.1"]);
    }
    first.stop();
    assert_eq!([ask(&addresses[1]), ask(&addresses[1])], ["0.1", "1.1"]);
    second.signal(0, Signal::SIGKILL);
    second.listens(0, 2);
    second.stop();
}

fn by_default_there_is_a_worker_for_each_processor() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]));
    let processors = std::thread::available_parallelism().unwrap().get();
    running.listening(processors);
    assert_eq!(running.cluster.workers().len(), processors);
    running.stop();
}

fn settings_out_of_range_are_refused() {
    let builder = || role("serve", &["127.0.0.1:0"]);
    let cases = [
        (builder().workers(0), "0 workers"),
        (builder().workers(1025), "1025 workers"),
        (builder().weights([0, 0]), "weight"),
        (builder().weights([1, 2]).workers(3), "2 weights for 3 workers"),
        (builder().mailbox_connections(0), "mailbox_connections is 0; it may be 1 to 128"),
        (builder().peek(PeekOptions::cookie("a").bytes_max(0)), "bytes_max is 0; it may be 1 to"),
        (builder().message_handles_max(17), "message_handles_max is 17; at most 16"),
        (builder().mailbox_connections(129), "mailbox_connections is 129"),
    ];
    for (builder, text) in cases {
        let error = builder.spawn().expect_err(text).to_string();
        assert!(error.contains(text), "{error}");
    }
    assert_eq!(children(), []);
}

fn timeouts_may_be_endless() {
    let builder = role("serve", &["127.0.0.1:0"])
        .workers(2)
        .dispatch(Dispatch::Handoff)
        .peek(PeekOptions::new(|_| Peek::Nothing).timeout(Duration::MAX))
        .start_timeout(Duration::MAX)
        .drain_timeout(Duration::MAX)
        .kill_timeout(Duration::MAX)
        .stall_timeout(Duration::MAX);
    let mut running = Running::start(builder);
    let address = running.listening(2);
    let silent = Client::connect(&address);
    // When this one is served, the silent one, that came before it, is waited for.
    ask(&address);
    drop(silent);
    ask(&address);
    running.stop();
}

fn a_cluster_at_rest_sleeps() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(2));
    let address = running.listening(2);
    for _ in 0..10 {
        ask(&address);
    }
    let waked = || {
        let own = std::process::id();
        let pids = running.cluster.workers().into_iter().map(|worker| worker.pid).chain([own]);
        let tasks = pids.flat_map(|pid| {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
            tasks.map(move |task| format!("{pid}/task/{}/status", task.file_name().display()))
        });
        let threads = tasks.filter(|path| {
            // Not the thread that looks.
            proc_field(path, "Pid") != Some(own.to_string())
        });
        let switches = threads.map(|path| {
            let switches = proc_field(&path, "voluntary_ctxt_switches").unwrap();
            (path, switches.parse::<u64>().unwrap())
        });
        switches.collect::<BTreeMap<_, _>>()
    };
    // After some last checks nothing is left to be looked at.
    let mut windows = (0..20).map(|_| {
        let before = waked();
        let event = running.cluster.events().recv_timeout(Duration::from_millis(400));
        assert!(event.is_err(), "{event:?}");
        (before, waked())
    });
    let (before, after) = windows.find(|(before, after)| before == after).expect("they sleep");
    assert!(before.len() >= 5, "the master, and two threads in each worker: {after:?}");
    drop(windows);
    running.stop();
}
