//! Messages that nobody takes: their senders hear it, and nothing grows, blocks or is left.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;
use nix::sys::signal::Signal;
use runtime::{Event, Message, RequestError, SendError, WorkerId};

use crate::harness::{descriptors, tests};
use crate::support::cluster::exit_of;
use crate::support::messenger::{ask, id, messenger_builder, messengers, next, next_text, send};
use crate::support::{DEADLINE, Desk, Running, is_stopped, proc_field, wait_until};

tests! {
    a_worker_that_does_not_read_makes_senders_hear_it_until_it_reads,
    a_worker_that_does_not_read_grows_nobody_and_still_hears_that_it_shall_stop,
    a_worker_that_is_stopped_holds_up_no_shutdown,
    a_program_that_does_not_read_makes_its_workers_hear_it,
    row25_what_waits_for_a_worker_that_is_killed_comes_back_or_is_closed,
}

fn a_worker_that_does_not_read_makes_senders_hear_it_until_it_reads() {
    let desk = Desk::new();
    let running = messengers(&desk, 1);
    let messages = running.cluster.messages();
    send(&running, 0, "hush");
    assert_eq!(desk.hear(), "hushed");
    let mut sent = 0;
    let refused = loop {
        match running.cluster.send(0, format!("echo {sent}")) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_is_full(refused, &format!("echo {sent}"));
    // All of the window, but for what it has taken.
    assert_eq!(sent, 255);
    let soon = Instant::now() + Duration::from_millis(20);
    let refused = running.cluster.send_deadline(0, "echo no", soon).expect_err("it is full");
    assert_is_full(refused, "echo no");
    let broadcast = running.cluster.broadcast("echo no").expect("short");
    assert_eq!((broadcast.reached, broadcast.full), (0, vec![id(0)]));
    thread::scope(|scope| {
        // Who waits is served when it reads again.
        let waiting = scope.spawn(|| send(&running, 0, format!("echo {sent}")));
        desk.tell("0", "go on");
        waiting.join().expect("there is room");
    });
    for number in 0..=sent {
        assert_eq!(next_text(&messages), (id(0), number.to_string()));
    }
    running.stop();
}

#[track_caller]
fn assert_is_full(error: SendError, text: &str) {
    assert!(matches!(&error, SendError::Full(it) if it.bytes == text.as_bytes()), "{error:?}");
}

fn a_worker_that_does_not_read_grows_nobody_and_still_hears_that_it_shall_stop() {
    const BYTES: usize = 64 << 10;
    let desk = Desk::new();
    let running = messengers(&desk, 2);
    send(&running, 0, "hush");
    assert_eq!(desk.hear(), "hushed");
    let before = memory_kib();
    let mut sent = 0;
    while running.cluster.send(0, vec![b'x'; BYTES]).is_ok() {
        sent += 1;
    }
    // As many bytes as two of the longest messages have; less by those that it has taken.
    assert_eq!(sent, (2 << 20) / BYTES - 1);
    for _ in 0..1000 {
        running.cluster.send(0, vec![b'x'; BYTES]).expect_err("it is full");
    }
    // The other's messages to it wait in the master, as many as its own window has.
    assert_eq!(ask(&running, 1, &format!("fill 0 {BYTES}")), ((2 << 20) / BYTES).to_string());
    assert_eq!(ask(&running, 1, &format!("fill 0 {BYTES}")), "0");
    let more = memory_kib().saturating_sub(before);
    assert!(more < 24 << 10, "the peak of memory rose by {more} KiB");
    // It hears that it shall stop, though it has taken none of all this.
    let log = running.stop();
    for slot in 0..2 {
        assert_eq!(exit_of(&log, slot, 1), (runtime::Exit::Code(0), true));
    }
}

fn a_worker_that_is_stopped_holds_up_no_shutdown() {
    let desk = Desk::new();
    let builder = messenger_builder(&desk).workers(2).drain_timeout(Duration::from_millis(100));
    let mut running = Running::start(builder.kill_timeout(Duration::from_millis(100)));
    running.online(2);
    let pid = running.pid(0);
    running.signal(0, Signal::SIGSTOP);
    wait_until("it is stopped", || is_stopped(pid));
    while running.cluster.send(0, vec![b'x'; 100_000]).is_ok() {}
    ask(&running, 1, "fill 0 100000");
    let killed = runtime::Exit::Signal { signal: 9, core_dumped: false };
    let log = running.stop();
    assert_eq!(exit_of(&log, 0, 1), (killed, true));
    assert_eq!(exit_of(&log, 1, 1), (runtime::Exit::Code(0), true));
}

fn a_program_that_does_not_read_makes_its_workers_hear_it() {
    let desk = Desk::new();
    let mut running = messengers(&desk, 2);
    let messages = running.cluster.messages();
    assert_eq!(ask(&running, 0, "fill 10"), "256");
    assert_eq!(ask(&running, 0, "fill 10"), "0");
    // It is that worker's window; another has its own.
    assert_eq!(ask(&running, 1, "fill 10"), "256");
    // What a dead worker has sent counts against its successor.
    running.signal(0, Signal::SIGKILL);
    running.exits(0, 1);
    running.happens("its successor is online", |event| {
        *event == Event::Online { worker: WorkerId { slot: 0, generation: 2 } }
    });
    assert_eq!(ask(&running, 0, "fill 10"), "0");
    for _ in 0..512 {
        assert_eq!(next(&messages).message.bytes.len(), 10);
    }
    assert!(matches!(messages.try_recv(), Err(TryRecvError::Empty)));
    assert_ne!(ask(&running, 0, "fill 10"), "0");
    running.stop();
}

fn row25_what_waits_for_a_worker_that_is_killed_comes_back_or_is_closed() {
    let desk = Desk::new();
    let mut running = messengers(&desk, 2);
    let pid = running.pid(0);
    running.signal(0, Signal::SIGSTOP);
    wait_until("it is stopped", || is_stopped(pid));
    let before = descriptors().len();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let message = || {
        (0..4).fold(Message::new("drop"), |message, _| {
            message.with_handle(theirs.try_clone().expect("a descriptor"))
        })
    };
    while running.cluster.send(0, message()).is_ok() {}
    // One of the other worker's is behind them, and one of ours waits, too.
    send(&running, 1, Message { bytes: b"to 0 behind".to_vec(), ..message() });
    assert_eq!(ask(&running, 1, "echo done"), "done");
    thread::scope(|scope| {
        let waits = Message { bytes: b"waits".to_vec(), ..message() };
        let waiting =
            scope.spawn(|| running.cluster.send_deadline(0, waits, Instant::now() + DEADLINE));
        let request = Message { bytes: b"asks".to_vec(), ..message() };
        let asking = scope.spawn(|| running.cluster.request(0, request, DEADLINE));
        running.signal(0, Signal::SIGKILL);
        match waiting.join().expect("no panic") {
            Err(SendError::Gone(message)) => assert_eq!(message.handles.len(), 4),
            other => panic!("{other:?}"),
        }
        match asking.join().expect("no panic") {
            Err(RequestError::NotSent(SendError::Gone(it))) => assert_eq!(it.handles.len(), 4),
            other => panic!("{other:?}"),
        }
    });
    running.exits(0, 1);
    drop(theirs);
    let mut heard = String::new();
    ours.read_to_string(&mut heard).expect("the end: no handle of it is left");
    drop(ours);
    running.happens("its successor is online", |event| {
        *event == Event::Online { worker: WorkerId { slot: 0, generation: 2 } }
    });
    wait_until("no descriptor is left", || descriptors().len() == before);
    assert_eq!(ask(&running, 0, "echo and its successor reads"), "and its successor reads");
    running.stop();
}

/// What this process has used at most, in KiB.
fn memory_kib() -> u64 {
    let peak = proc_field("self/status", "VmHWM").unwrap();
    peak.trim_end_matches(" kB").parse().unwrap()
}
