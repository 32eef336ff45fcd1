//! Workers that forge messages: they lose themselves, and nobody else loses anything.

use std::io;
use std::os::fd::RawFd;
use std::thread;
use std::time::Duration;

use runtime::post::{
    Amount, Envelope, Failure, Lane, MESSAGE_FROM_WORKER, NOTICE_FROM_WORKER, Notice, Peer, Terms,
    WINDOW_MESSAGES, What,
};
use runtime::{Builder, Event, Exit, KillReason, RestartPolicy, WorkerId};

use crate::harness::{Outcome, descriptors, roles, tests};
use crate::support::cluster::exit_of;
use crate::support::desk::Phone;
use crate::support::messenger::{ask, messenger_as};
use crate::support::raw::{RawChannel, frame};
use crate::support::roles::park_for_ever;
use crate::support::{Desk, Running, proc_field, wait_until};

tests! {
    f41_forged_messages_kill_their_sender_and_touch_no_other,
    f41_a_flood_of_messages_is_cut_off_at_the_window,
    forged_replies_answer_nobody,
    f28_handles_of_forged_messages_are_closed,
}

roles! {
    forge,
}

const FORGER: WorkerId = WorkerId { slot: 0, generation: 1 };

/// Slot 0 forges, in its first generation; everybody else is a messenger.
fn forged(desk: &Desk, how: &str) -> Running {
    let builder: Builder = crate::support::role("forge", &[how, &desk.number()]).workers(2);
    let once = RestartPolicy { delay_min: Duration::from_millis(5), ..RestartPolicy::default() };
    Running::start(builder.restart(once))
}

/// `forge HOW DESK`.
fn forge(args: &[String]) -> Outcome {
    let id: WorkerId = std::env::var("CLUSTER_WORKER_ID")?.parse()?;
    if id != FORGER {
        return messenger_as(&args[1..]);
    }
    let channel = RawChannel::inherited();
    channel.online()?;
    Phone::new(&args[1], "0")?.hear()?;
    let amount = Amount { messages: 1, bytes: 0, handles: 0 };
    let note = |peer| message(What::Note, peer, b"forged");
    let other = Peer::Worker(WorkerId { slot: 1, generation: 1 });
    match args[0].as_str() {
        "no envelope" => channel.provoke(&frame(MESSAGE_FROM_WORKER, 0, b"short"))?,
        "too long" => {
            channel.provoke(&message(What::Note, Peer::Master, &vec![0; (1 << 20) + 1]))?;
        }
        "a master's notice" => {
            let failed = Notice::Failed { request: 0, failure: Failure::Gone };
            channel.provoke(&notice(failed))?;
            let credit = [Amount::default(); 2];
            channel.provoke(&notice(Notice::Open { terms: Terms::default(), credit }))?;
        }
        "credit" => {
            channel.provoke(&notice(Notice::Credit { lane: Lane::Messages, amount }))?;
        }
        "one request twice" => {
            for _ in 0..2 {
                channel.provoke(&message(What::Request(1), other, b"hold"))?;
            }
        }
        // One more than the window has.
        "overdraw" => send_many(&channel, 1 + WINDOW_MESSAGES, &note(Peer::Master))?,
        // The other's window, and its own.
        "overdraw another's" => send_many(&channel, 1 + 2 * WINDOW_MESSAGES, &note(other))?,
        "overdraw everybody's" => {
            send_many(&channel, 1 + 2 * WINDOW_MESSAGES, &note(Peer::Others))?;
        }
        "flood" => while channel.send(&note(Peer::Master).repeat(1000)).is_ok() {},
        "flood replies" => {
            let reply = message(What::Reply(0), other, b"forged");
            while channel.send(&reply.repeat(1000)).is_ok() {}
        }
        "replies" => {
            for request in 0..WINDOW_MESSAGES / 2 {
                channel.provoke(&message(What::Reply(request), other, b"forged"))?;
                channel.provoke(&message(What::Reply(request), Peer::Master, b"forged"))?;
            }
        }
        "five handles" => with_handles(&channel, &[0; 5], MESSAGE_FROM_WORKER, Peer::Master)?,
        "a handle to all" => with_handles(&channel, &[0], MESSAGE_FROM_WORKER, Peer::Others)?,
        "a notice with a handle" => {
            with_handles(&channel, &[0], NOTICE_FROM_WORKER, Peer::Master)?;
        }
        other => return Err(format!("no forgery is called {other:?}").into()),
    }
    park_for_ever()
}

fn message(what: What, peer: Peer, bytes: &[u8]) -> Vec<u8> {
    let mut payload = bytes.to_vec();
    Envelope { what, peer }.append(&mut payload);
    frame(MESSAGE_FROM_WORKER, 0, &payload)
}

fn notice(notice: Notice) -> Vec<u8> {
    frame(NOTICE_FROM_WORKER, 0, &notice.encode())
}

fn send_many(channel: &RawChannel, count: u32, message: &[u8]) -> io::Result<()> {
    (0..count).try_for_each(|_| channel.provoke(message))
}

fn with_handles(channel: &RawChannel, handles: &[RawFd], kind: u8, peer: Peer) -> io::Result<()> {
    let payload = match kind {
        MESSAGE_FROM_WORKER => {
            let mut payload = Vec::new();
            Envelope { what: What::Note, peer }.append(&mut payload);
            payload
        }
        _ => Notice::Cancel { request: 1 }.encode(),
    };
    let count = u8::try_from(handles.len()).expect("few");
    channel.send_with(&frame(kind, count, &payload), handles)
}

/// Has it forge, while the other takes no messages; it is killed for that, and its successor and
/// the other are well.
#[track_caller]
fn assert_killed(desk: &Desk, mut running: Running, how: &str) {
    begin(desk, &mut running);
    let killed = Event::Killed { worker: FORGER, reason: KillReason::Protocol };
    running.happens(how, |event| *event == killed);
    running.online(3);
    desk.tell("1", "go on");
    for slot in 0..2 {
        assert_eq!(ask(&running, slot, "echo well"), "well", "{how}");
    }
    let log = running.stop();
    let killed = Exit::Signal { signal: 9, core_dumped: false };
    assert_eq!(exit_of(&log, 0, 1), (killed, false), "{how}");
}

#[track_caller]
fn begin(desk: &Desk, running: &mut Running) {
    running.online(2);
    running.cluster.send(1, "hush").expect("it is there");
    assert_eq!(desk.hear(), "hushed");
    // It has a name when it is online, or soon after.
    wait_until("it begins", || desk.try_tell("0", "go"));
}

fn f41_forged_messages_kill_their_sender_and_touch_no_other() {
    let ways =
        ["no envelope", "too long", "a master's notice", "credit", "one request twice", "overdraw"];
    for how in ways {
        let desk = Desk::new();
        assert_killed(&desk, forged(&desk, how), how);
    }
}

fn f41_a_flood_of_messages_is_cut_off_at_the_window() {
    for how in ["overdraw another's", "overdraw everybody's", "flood replies"] {
        let desk = Desk::new();
        let before = memory_kib();
        let running = forged(&desk, how);
        let messages = running.cluster.messages();
        // Taken all the while, so that the other worker can report what comes to it.
        let count = thread::scope(|scope| {
            let counting = scope.spawn(|| messages.iter().count());
            assert_killed(&desk, running, how);
            counting.join().expect("no panic")
        });
        // What had its credit came, and no more.
        assert!(count <= 2 * WINDOW_MESSAGES as usize, "{how}: {count}");
        let more = memory_kib().saturating_sub(before);
        assert!(more < 16 << 10, "{how}: the peak of memory rose by {more} KiB");
    }
}

fn memory_kib() -> u64 {
    let peak = proc_field("self/status", "VmHWM").unwrap();
    peak.trim_end_matches(" kB").parse().unwrap()
}

fn forged_replies_answer_nobody() {
    let desk = Desk::new();
    let mut running = forged(&desk, "replies");
    begin(&desk, &mut running);
    desk.tell("1", "go on");
    for _ in 0..100 {
        assert_eq!(ask(&running, 1, "echo real"), "real");
    }
    assert!(running.cluster.messages().try_recv().is_err());
    running.signal(0, nix::sys::signal::Signal::SIGKILL);
    running.online(3);
    running.stop();
}

fn f28_handles_of_forged_messages_are_closed() {
    // What is sent is the worker's standard input.
    let nulls = || descriptors().into_iter().filter(|text| text.ends_with(" /dev/null")).count();
    for how in ["five handles", "a handle to all", "a notice with a handle"] {
        let desk = Desk::new();
        let before = nulls();
        let mut running = forged(&desk, how);
        begin(&desk, &mut running);
        let killed = Event::Killed { worker: FORGER, reason: KillReason::Protocol };
        running.happens(how, |event| *event == killed);
        running.online(3);
        assert_eq!(nulls(), before, "{how}");
        running.stop();
    }
}
