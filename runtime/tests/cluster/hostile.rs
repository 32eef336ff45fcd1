//! Workers that break the rules: they lose themselves, and nobody else loses anything.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use nix::sys::signal::Signal;
use runtime::machine::FromWorker;
use runtime::{Address, Builder, Event, Exit, KillReason, ListenOptions, RestartPolicy, WorkerId};

use crate::harness::{Outcome, descriptors, roles, tests};
use crate::support::cluster::{exit_of, told};
use crate::support::raw::{RawChannel, frame, message};
use crate::support::roles::{park_for_ever, serve_as, worker};
use crate::support::{Client, Desk, Running, ask, proc_field, puppet_builder, puppets, role};

tests! {
    breaches_of_the_protocol_kill_the_worker_and_touch_no_other,
    f28_f95_descriptors_that_a_worker_sends_are_closed,
    f34_a_length_that_is_only_announced_costs_no_memory,
    f41_a_worker_that_floods_its_channel_holds_no_other_up,
    f41_a_worker_that_asks_and_does_not_listen_is_killed,
    f37_half_a_message_holds_nobody_up,
    f19_listeners_of_others_cannot_be_closed,
    listeners_are_limited_and_those_that_exist_go_on,
    a_broken_mailbox_is_replaced_with_what_waits_in_it,
    a_broken_mailbox_of_the_only_worker_is_replaced,
    f49_a_worker_that_closes_its_channel_and_runs_on_is_killed,
}

roles! {
    attack,
}

/// Slot 0 attacks, in its first generation; everybody else serves.
fn attacked(how: &str) -> Builder {
    let once = RestartPolicy { delay_min: Duration::from_millis(5), ..RestartPolicy::default() };
    role("attack", &[how, "127.0.0.1:0"]).workers(2).restart(once)
}

/// `attack HOW ADDRESS`.
fn attack(args: &[String]) -> Outcome {
    let id: WorkerId = std::env::var("CLUSTER_WORKER_ID")?.parse()?;
    if (id.slot, id.generation) != (0, 1) {
        return serve_as(&worker()?, &args[1..]);
    }
    let channel = RawChannel::inherited();
    if !args[0].starts_with("early") {
        channel.online()?;
    }
    let listen = |request| FromWorker::Listen {
        request,
        index: 0,
        options: ListenOptions::new(),
        // An address of nobody's, which can't be listened on.
        address: Address::Tcp(([192, 0, 2, 1], 80).into()),
    };
    match args[0].as_str() {
        "early garbage" | "garbage" => channel.provoke(&[0xa5; 4096])?,
        "early listen" => channel.provoke(&message(&listen(1)))?,
        "version" => channel.provoke(&message(&FromWorker::Online { version: 99 }))?,
        "another kind" => channel.provoke(&frame(77, 0, b""))?,
        "the masters words" => channel.provoke(&frame(4, 0, &[1]))?,
        "too short" => channel.provoke(&frame(130, 0, &[1, 2, 3]))?,
        "something left over" => channel.provoke(&frame(131, 0, &[0; 5]))?,
        "too long" => channel.provoke(&frame(130, 0, &vec![b'/'; 1 << 20]))?,
        "announced" => channel.provoke(&[1, 130, 0, 0, 0xff, 0xff, 0xff, 0xff])?,
        "a descriptor" => send_descriptors(&channel, 1, 1)?,
        "a descriptor unannounced" => send_descriptors(&channel, 1, 0)?,
        "50 descriptors" => send_descriptors(&channel, 50, 50)?,
        "50 descriptors unannounced" => send_descriptors(&channel, 50, 0)?,
        "half" => channel.provoke(&message(&listen(1))[..12])?,
        "flood" => flood(&channel, &FromWorker::Online { version: 1 }),
        "unheard" => flood(&channel, &listen(1)),
        "close others" => (0..10_u32)
            .chain([u32::MAX])
            .try_for_each(|listener| channel.provoke(&message(&FromWorker::Close { listener })))?,
        other => return Err(format!("no attack is called {other:?}").into()),
    }
    park_for_ever()
}

fn send_descriptors(channel: &RawChannel, count: usize, announced: u8) -> io::Result<()> {
    let (kind, payload) = FromWorker::Close { listener: 9 }.encode();
    let descriptors: Vec<RawFd> = vec![0; count];
    channel.send_with(&frame(kind, announced, &payload), &descriptors)
}

/// Sends for as long as somebody takes it, faster than anybody can read.
fn flood(channel: &RawChannel, next: &FromWorker) {
    let batch = message(next).repeat(1000);
    while channel.send(&batch).is_ok() {}
}

const ATTACKER: WorkerId = WorkerId { slot: 0, generation: 1 };

fn is_killed(event: &Event, reason: KillReason) -> bool {
    *event == Event::Killed { worker: ATTACKER, reason }
}

fn breaches_of_the_protocol_kill_the_worker_and_touch_no_other() {
    let breaches = [
        "early garbage",
        "early listen",
        "garbage",
        "version",
        "another kind",
        "the masters words",
        "too short",
        "something left over",
        "too long",
    ];
    for breach in breaches {
        let mut running = Running::start(attacked(breach));
        running.happens(breach, |event| is_killed(event, KillReason::Protocol));
        // Its successor behaves.
        running.listens(0, 2);
        let address = running.listening(2);
        let mut names = [ask(&address), ask(&address)];
        names.sort();
        assert_eq!(names, ["0.2", "1.1"], "{breach}");
        let log = running.stop();
        let killed = Exit::Signal { signal: 9, core_dumped: false };
        assert_eq!(exit_of(&log, 0, 1), (killed, false), "{breach}");
    }
}

fn f28_f95_descriptors_that_a_worker_sends_are_closed() {
    let ways = [
        "a descriptor",
        "a descriptor unannounced",
        "50 descriptors",
        "50 descriptors unannounced",
    ];
    // What is sent is the worker's standard input.
    let nulls = || descriptors().into_iter().filter(|text| text.ends_with(" /dev/null")).count();
    for way in ways {
        let before = nulls();
        let mut running = Running::start(attacked(way));
        running.happens(way, |event| is_killed(event, KillReason::Protocol));
        running.listens(0, 2);
        running.listening(2);
        assert_eq!(nulls() - before, 1, "{way}: only the listener's reserve: {:?}", descriptors());
        running.stop();
    }
}

fn f34_a_length_that_is_only_announced_costs_no_memory() {
    let before = memory_kib();
    let mut running = Running::start(attacked("announced"));
    running.happens("it is killed", |event| is_killed(event, KillReason::Protocol));
    let more = memory_kib().saturating_sub(before);
    assert!(more < 64 << 10, "the peak of memory rose by {more} KiB");
    running.stop();
}

fn memory_kib() -> u64 {
    let peak = proc_field("self/status", "VmHWM").unwrap();
    peak.trim_end_matches(" kB").parse().unwrap()
}

fn f41_a_worker_that_floods_its_channel_holds_no_other_up() {
    let mut running = Running::start(attacked("flood"));
    let address = running.listening(1);
    for _ in 0..50 {
        assert_eq!(ask(&address), "1.1");
    }
    running.signal(0, Signal::SIGKILL);
    running.listens(0, 2);
    let log = running.stop();
    let online = |event: &&Event| **event == Event::Online { worker: ATTACKER };
    assert_eq!(log.iter().filter(online).count(), 1, "f45: to be online twice means nothing");
}

fn f41_a_worker_that_asks_and_does_not_listen_is_killed() {
    let mut running = Running::start(attacked("unheard"));
    let address = running.listening(1);
    assert_eq!(ask(&address), "1.1");
    running.happens("it is killed", |event| is_killed(event, KillReason::Protocol));
    running.listens(0, 2);
    running.stop();
}

fn f37_half_a_message_holds_nobody_up() {
    let mut running = Running::start(attacked("half"));
    let address = running.listening(1);
    assert_eq!([ask(&address), ask(&address)], ["1.1", "1.1"]);
    running.signal(0, Signal::SIGKILL);
    running.listens(0, 2);
    running.stop();
}

fn f19_listeners_of_others_cannot_be_closed() {
    let mut running = Running::start(attacked("close others"));
    let address = running.listening(1);
    assert_eq!([ask(&address), ask(&address)], ["1.1", "1.1"]);
    running.signal(0, Signal::SIGKILL);
    running.listens(0, 2);
    let log = running.stop();
    assert!(!log.iter().any(|event| matches!(event, Event::Killed { .. })), "{}", told(&log));
}

fn listeners_are_limited_and_those_that_exist_go_on() {
    let desk = Desk::new();
    let running = puppets(&desk, 2);
    let first = desk.listen("0", 0, "127.0.0.1:0");
    for number in 1..64 {
        desk.listen("0", number, "127.0.0.1:0");
    }
    let refused = desk.ask("0", "listen 127.0.0.1:0");
    assert!(refused.contains("127.0.0.1:0") && refused.contains(": "), "{refused}");
    assert!(!refused.starts_with("64 "), "{refused}");
    // Another worker can still join.
    assert_eq!(desk.listen("1", 0, "127.0.0.1:0"), first);
    assert_eq!(desk.ask("1", "serve 0"), "serving");
    assert_eq!(desk.ask("0", "close 0"), "closed");
    assert_eq!(ask(&first), "1.1");
    running.stop();
}

fn a_broken_mailbox_is_replaced_with_what_waits_in_it() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 2);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "127.0.0.1:0");
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(&address)).collect();
    for _ in 0..2 {
        desk.take("1", 0);
    }
    // Two are in its mailbox; the next finds that it is broken.
    assert_eq!(desk.ask("0", "break 0"), "broken");
    clients.extend((0..2).map(|_| Client::connect(&address)));
    running.happens("it is killed", |event| is_killed(event, KillReason::Protocol));
    desk.ready(1);
    for _ in 0..4 {
        desk.take("1", 0);
    }
    for client in &mut clients {
        assert_eq!(client.line(), "1.1");
    }
    // The slot is as good as ever.
    assert_eq!(desk.listen("0", 0, "127.0.0.1:0"), address);
    assert_eq!(desk.ask("0", "serve 0"), "serving");
    assert_eq!(desk.ask("1", "close 0"), "closed");
    assert_eq!(ask(&address), "0.2");
    running.stop();
}

fn a_broken_mailbox_of_the_only_worker_is_replaced() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 1);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    let mut clients = vec![Client::connect(&address), Client::connect(&address)];
    desk.take("0", 0);
    assert_eq!(desk.ask("0", "break 0"), "broken");
    clients.push(Client::connect(&address));
    running.happens("it is killed", |event| is_killed(event, KillReason::Protocol));
    desk.ready(1);
    assert_eq!(desk.listen("0", 0, "127.0.0.1:0"), address);
    assert_eq!(desk.ask("0", "serve 0"), "serving");
    assert_eq!(clients[0].line(), "0.1");
    for client in &mut clients[1..] {
        assert_eq!(client.line(), "0.2");
        client.finish();
    }
    running.stop();
}

fn f49_a_worker_that_closes_its_channel_and_runs_on_is_killed() {
    let desk = Desk::new();
    let builder = puppet_builder(&desk).workers(2).kill_timeout(Duration::from_millis(200));
    let mut running = Running::start(builder.stall_timeout(Duration::from_millis(200)));
    desk.ready(2);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "127.0.0.1:0");
    assert_eq!(desk.ask("1", "serve 0"), "serving");
    assert_eq!(desk.ask("0", "leave"), "left");
    for _ in 0..4 {
        assert_eq!(ask(&address), "1.1");
    }
    running.happens("it is killed", |event| is_killed(event, KillReason::ChannelClosed));
    desk.ready(1);
    let log = running.stop();
    let killed = Exit::Signal { signal: 9, core_dumped: false };
    assert_eq!(exit_of(&log, 0, 1), (killed, false));
}
