//! No descriptor is left over, whatever happened. Alone in this test binary, because it counts the
//! descriptors of the process.
#![cfg(unix)]

mod util;

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use ipc_core::shm::SharedMemory;
use ipc_core::shm::ring::{self, Consumer, Producer};
use ipc_core::{Bootstrap, Channel, ChannelSet, Limits, Message, TrySendError};
use util::{
    descriptor_count, expect_closed, frame, handle, handles, raw_packet_peer, raw_peer, recv, soon,
    wait,
};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn descriptors_before_equal_descriptors_after() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let scenarios: [(&str, fn()); 13] = [
        ("received and dropped", received_and_dropped),
        ("sent, and never received", sent_and_never_received),
        ("queued, and never sent", queued_and_never_sent),
        ("refused", refused),
        ("f26: claimed, and not there", || hostile(3, 2)),
        ("f27: there, and not claimed", || hostile(0, 253)),
        ("f26: claimed, and not there, in a packet", || hostile_packet(3, 2)),
        ("f27: there, and not claimed, in a packet", || hostile_packet(0, 253)),
        ("read, and not claimed by a whole message", in_an_incomplete_message),
        ("k10: waiting in a channel that is closed", left_in_a_closed_channel),
        ("in a set, and taken out of it", in_a_set),
        ("rings, of which some came as handles", rings),
        ("k23: given to children, ten in a round", given_to_children),
    ];
    for (name, scenario) in scenarios {
        let before = descriptor_count();
        for _ in 0..20 {
            scenario();
        }
        assert_eq!(descriptor_count(), before, "{name}");
    }
}

fn received_and_dropped() {
    let (mut a, mut b) = Channel::pair().expect("a pair");
    for count in [0, 1, 7] {
        a.try_send(Message { kind: 0, payload: vec![1; 9], handles: handles(count).into() })
            .expect("room");
        assert_eq!(recv(&mut b).handles.len(), count);
    }
}

fn sent_and_never_received() {
    let (mut a, _b) = Channel::pair().expect("a pair");
    a.try_send(Message { kind: 0, payload: vec![], handles: handles(9).into() }).expect("room");
    assert!(!a.has_unsent());
}

fn queued_and_never_sent() {
    let (mut a, _b) = Channel::pair().expect("a pair");
    for _ in 0..30 {
        a.queue(Message::new(0, []).with_handle(handle())).expect("room");
    }
    assert!(a.has_unsent());
}

fn refused() {
    let (a, b) = Channel::pair().expect("a pair");
    let mut a = a.with_limits(Limits { handles_per_message_max: 2, ..Limits::default() });
    let message = Message { kind: 0, payload: vec![], handles: handles(3).into() };
    assert!(matches!(a.try_send(message), Err(TrySendError::TooLarge(_))));
    drop(b);
    let message = Message::new(0, []).with_handle(handle());
    assert!(matches!(a.try_send(message), Err(TrySendError::Closed(_))));
}

#[test]
fn hostile_f95_k15_a_channel_sent_over_itself_is_collected() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = descriptor_count();
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    for round in 0..1000 {
        let pair = if round % 2 == 0 { Channel::pair() } else { Channel::packet_pair() };
        let (mut a, mut b) = pair.expect("a pair");
        let [to_a, to_b] = [&a, &b].map(|end| end.as_fd().try_clone_to_owned().expect("one"));
        let probe = writer.try_clone().expect("a duplicate");
        // Each end waits in its own queue, beside something that tells whether it is still there.
        a.try_send(Message::new(1, []).with_handle(to_b).with_handle(probe)).expect("room");
        b.try_send(Message::new(1, []).with_handle(to_a)).expect("room");
    }
    drop(writer);
    assert_eq!(descriptor_count(), before + 1, "only the pipe is left");
    // The kernel looks for cycles when a Unix socket is closed.
    let deadline = soon().expect("there is one");
    let mut poll = mio::Poll::new().expect("an epoll");
    let fd = std::os::fd::AsRawFd::as_raw_fd(&reader);
    let mut events = mio::Events::with_capacity(1);
    poll.registry()
        .register(&mut mio::unix::SourceFd(&fd), mio::Token(0), mio::Interest::READABLE)
        .expect("a fresh descriptor");
    while events.is_empty() {
        assert!(std::time::Instant::now() < deadline, "cycles are left over");
        drop(handle());
        poll.poll(&mut events, Some(std::time::Duration::from_millis(1))).expect("an epoll");
    }
    assert_eq!(reader.read(&mut [0]).expect("a pipe"), 0, "nobody holds the other end");
    drop((poll, reader));
    assert_eq!(descriptor_count(), before);
}

fn hostile(claimed: u8, given: usize) {
    offend(raw_peer(), claimed, given);
}

fn hostile_packet(claimed: u8, given: usize) {
    offend(raw_packet_peer(), claimed, given);
}

fn offend((mut ours, theirs): (Channel, UnixStream), claimed: u8, given: usize) {
    let given = handles(given);
    let given: Vec<_> = given.iter().map(AsFd::as_fd).collect();
    handle_passing::send(&theirs, &frame(1, claimed, b""), &given).expect("room");
    while ours.try_recv().is_ok() {}
    // The channel is still there: it is the failure that closed them.
    let failed = descriptor_count();
    drop((ours, theirs));
    assert_eq!(descriptor_count(), failed - 2);
}

fn in_an_incomplete_message() {
    let (mut ours, theirs) = raw_peer();
    let given = handle();
    handle_passing::send(&theirs, &frame(1, 1, b"xy")[..9], &[given.as_fd()]).expect("room");
    assert!(ours.try_recv().is_err());
    assert!(ours.is_mid_message());
}

fn left_in_a_closed_channel() {
    let (mut a, mut b) = Channel::pair().expect("a pair");
    for _ in 0..5 {
        a.try_send(Message::new(0, []).with_handle(handle())).expect("room");
    }
    drop(a);
    recv(&mut b);
}

fn in_a_set() {
    let mut set = ChannelSet::new().expect("a poll");
    let _waker = set.waker().expect("room");
    let (ours, mut theirs) = Channel::pair().expect("a pair");
    let id = set.insert(ours).expect("room");
    theirs.try_send(Message::new(0, []).with_handle(handle())).expect("room");
    assert!(set.wait(soon()).expect("a poll").is_some());
    let taken = set.remove(id).expect("it was in");
    let _again = set.insert(taken).expect("room");
}

fn rings() {
    let (producer, consumer) = ring::create(4096).expect("memory");
    let producer = Producer::from_handles(producer.into_handles(), 4096).expect("a ring");
    assert!(Consumer::from_handles(consumer.into_handles(), 100).is_err(), "more than allowed");
    drop(producer.into_handles());
    let (memory, peer) = (SharedMemory::create(9).expect("memory"), handle());
    assert!(Consumer::from_handles([memory.into(), peer.into()], 4096).is_err(), "no ring");
}

fn given_to_children() {
    let mut commands: Vec<_> =
        (0..10).map(|n| Command::new(if n < 2 { "/nonexistent" } else { "true" })).collect();
    let ways = [Bootstrap::new(), Bootstrap::new().on_stdin()];
    for (command, way) in commands.iter_mut().zip(ways.iter().cycle()) {
        match way.spawn(command) {
            Ok((mut channel, mut child)) => {
                expect_closed(&mut channel);
                assert!(wait(&mut child).success());
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
        }
    }
    // The commands are still there, and hold nothing.
    let before = descriptor_count();
    drop(commands);
    assert_eq!(descriptor_count(), before);
}
