//! Many channels in one set, over real sockets.
#![cfg(unix)]

mod util;

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use ipc_core::{
    Channel, ChannelId, ChannelSet, Limits, Message, ProtocolError, RecvError, SetEvent,
    TryRecvError, TrySendError,
};
use util::{
    descriptor_count, frame, handle, in_ms, limited, raw_peer, recv, role_channel, soon, spawn,
    this_binary, wait,
};

const BUDGET: usize = 16;

/// A set of channels, and their other ends.
fn set_of(count: usize) -> (ChannelSet, Vec<ChannelId>, Vec<Channel>) {
    let mut set = ChannelSet::new().expect("a poll");
    let (ids, peers) = (0..count).map(|_| insert(&mut set)).unzip();
    (set, ids, peers)
}

fn insert(set: &mut ChannelSet) -> (ChannelId, Channel) {
    let (ours, theirs) = Channel::pair().expect("a pair");
    (set.insert(ours).expect("room"), theirs)
}

#[track_caller]
fn next(set: &mut ChannelSet) -> (ChannelId, SetEvent) {
    set.wait(soon()).expect("a poll").expect("an event before the deadline")
}

#[track_caller]
fn next_message(set: &mut ChannelSet) -> (ChannelId, Message) {
    match next(set) {
        (id, SetEvent::Message(message)) => (id, message),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn expect_nothing(set: &mut ChannelSet) {
    let event = set.wait(in_ms(0)).expect("a poll");
    assert!(event.is_none(), "{event:?}");
}

fn send(peer: &mut Channel, kinds: std::ops::Range<u8>) {
    for kind in kinds {
        peer.queue(Message::new(kind, [])).expect("room");
    }
    assert!(peer.flush().expect("open"));
}

#[test]
fn messages_of_many_channels_come_with_their_ids_and_in_order() {
    let (mut set, ids, mut peers) = set_of(50);
    for round in 0..5 {
        for (index, peer) in peers.iter_mut().enumerate() {
            let index = u8::try_from(index).expect("few");
            peer.try_send(Message::new(round, [index]).with_handle(handle())).expect("room");
        }
    }
    let mut rounds = vec![0; ids.len()];
    for _ in 0..5 * ids.len() {
        let (id, message) = next_message(&mut set);
        let index = usize::from(message.payload[0]);
        assert_eq!((id, message.kind), (ids[index], rounds[index]));
        assert_eq!(message.handles.len(), 1);
        rounds[index] += 1;
    }
    expect_nothing(&mut set);
}

#[test]
fn f41_channels_take_turns_of_a_budget_in_the_order_of_becoming_ready() {
    let (mut set, ids, mut peers) = set_of(3);
    send(&mut peers[0], 0..40);
    send(&mut peers[1], 0..1);
    send(&mut peers[2], 0..20);
    let mut turns: Vec<(ChannelId, usize)> = Vec::new();
    for _ in 0..61 {
        let (id, _message) = next_message(&mut set);
        match turns.last_mut() {
            Some((last, count)) if *last == id => *count += 1,
            _ => turns.push((id, 1)),
        }
    }
    let [a, b, c] = ids[..] else { unreachable!() };
    assert_eq!(turns, [(a, BUDGET), (b, 1), (c, BUDGET), (a, BUDGET), (c, 4), (a, 8)]);
    expect_nothing(&mut set);
}

#[test]
fn f41_a_peer_that_floods_delays_the_others_by_a_bounded_number_of_messages() {
    let (mut set, ids, mut peers) = set_of(2);
    let mut quiet = peers.pop().expect("two");
    let mut flood = peers.pop().expect("two");
    let flooder =
        std::thread::spawn(
            move || {
                while flood.send_deadline(Message::new(1, [0; 100]), soon()).is_ok() {}
            },
        );
    for _ in 0..100 {
        let (id, _message) = next_message(&mut set);
        assert_eq!(id, ids[0]);
        quiet.try_send(Message::new(2, [])).expect("room");
        let mut before = 0;
        while next_message(&mut set).0 == ids[0] {
            before += 1;
            assert!(before <= 2 * BUDGET, "the other one is starved");
        }
    }
    drop(set);
    flooder.join().expect("no panic");
}

#[test]
fn f39_what_came_with_one_event_is_given_out_whatever_the_budget() {
    let mut set = ChannelSet::new().expect("a poll").with_budget(0);
    let (id, mut peer) = insert(&mut set);
    expect_nothing(&mut set);
    send(&mut peer, 0..100);
    for kind in 0..100 {
        let (from, message) = next_message(&mut set);
        assert_eq!((from, message.kind), (id, kind));
    }
    expect_nothing(&mut set);
}

#[test]
fn f39_what_a_channel_held_already_is_given_out() {
    let (mut ours, mut theirs) = Channel::pair().expect("a pair");
    send(&mut theirs, 0..3);
    assert_eq!(recv(&mut ours).kind, 0);
    let mut set = ChannelSet::new().expect("a poll");
    let id = set.insert(ours).expect("room");
    assert_eq!(next_message(&mut set).1.kind, 1);
    assert_eq!(next_message(&mut set).1.kind, 2);
    expect_nothing(&mut set);

    send(&mut theirs, 3..6);
    assert_eq!(recv(set.get_mut(id).expect("it is in the set")).kind, 3);
    assert_eq!(next_message(&mut set).1.kind, 4);
    assert_eq!(next_message(&mut set).1.kind, 5);
    expect_nothing(&mut set);
}

#[test]
fn k13_f105_a_channel_that_was_taken_out_gives_no_event_and_is_usable() {
    let (mut set, ids, mut peers) = set_of(3);
    peers.iter_mut().for_each(|peer| send(peer, 0..4));
    // One that is in the middle of its turn, and one whose event has not been looked at.
    assert_eq!(next_message(&mut set).0, ids[0]);
    let mut taken = [set.remove(ids[0]), set.remove(ids[1])].map(|c| c.expect("it was in"));
    assert!(set.remove(ids[0]).is_none() && set.get(ids[0]).is_none());
    for _ in 0..4 {
        assert_eq!(next_message(&mut set).0, ids[2]);
    }
    peers[..2].iter_mut().for_each(|peer| send(peer, 4..5));
    expect_nothing(&mut set);
    for kind in 1..5 {
        assert_eq!(recv(&mut taken[0]).kind, kind);
    }
    for kind in 0..5 {
        assert_eq!(recv(&mut taken[1]).kind, kind);
    }
    // The descriptor lives on in a duplicate; the poll has forgotten it all the same.
    let [first, _second] = taken;
    let _duplicate = first.into_fd();
    drop(peers);
    assert!(matches!(next(&mut set), (id, SetEvent::Closed(_)) if id == ids[2]));
    expect_nothing(&mut set);
}

#[test]
fn ids_are_not_used_twice() {
    let (mut set, ids, _peers) = set_of(2);
    let taken = set.remove(ids[1]).expect("it was in");
    let again = set.insert(taken).expect("room");
    assert!(!ids.contains(&again));
    assert_eq!(set.ids().collect::<Vec<_>>(), [ids[0], again]);
    assert_eq!(set.len(), 2);
}

#[test]
fn a_channel_that_was_closed_is_given_out_after_its_messages() {
    let (mut set, ids, _peers) = set_of(1);
    let (ours, mut theirs) = raw_peer();
    let id = set.insert(ours).expect("room");
    theirs.write_all(&frame(1, 0, b"whole")).expect("room");
    theirs.write_all(&frame(2, 0, b"cut")[..9]).expect("room");
    drop(theirs);
    assert_eq!(next_message(&mut set).1.payload, b"whole");
    let channel = match next(&mut set) {
        (from, SetEvent::Closed(channel)) if from == id => channel,
        other => panic!("{other:?}"),
    };
    assert!(channel.is_mid_message());
    assert_eq!(set.ids().collect::<Vec<_>>(), ids);
    let message = Message::new(1, "too late").with_handle(handle());
    for refused in [set.try_send(id, message), set.queue(id, Message::new(1, []))] {
        assert!(matches!(refused, Err(TrySendError::Closed(_))), "{refused:?}");
    }
    expect_nothing(&mut set);
}

#[test]
fn hostile_bytes_fail_their_channel_and_no_other() {
    let (mut set, ids, mut peers) = set_of(2);
    let (ours, mut hostile) = raw_peer();
    let id = set.insert(ours).expect("room");
    hostile.write_all(&[frame(7, 0, b"good"), vec![0xff; 100]].concat()).expect("room");
    peers.iter_mut().for_each(|peer| send(peer, 0..1));
    let mut order = Vec::new();
    while set.len() > 2 {
        match next(&mut set) {
            (from, SetEvent::Message(message)) => order.push((from, message.kind)),
            (from, SetEvent::Failed(channel, RecvError::Protocol(error))) => {
                assert_eq!(from, id);
                assert!(matches!(error, ProtocolError::Version { .. }), "{error:?}");
                let failed = Channel::into_fd(*channel);
                assert!(Channel::from_fd(failed).is_ok(), "the descriptor itself is well");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(order, [(ids[0], 0), (ids[1], 0), (id, 7)]);
    peers.iter_mut().for_each(|peer| send(peer, 1..2));
    assert_eq!([next_message(&mut set).0, next_message(&mut set).0], ids[..]);
}

#[test]
fn what_the_socket_does_not_take_is_sent_while_waiting() {
    let (mut set, ids, mut peers) = set_of(1);
    let mut peer = peers.pop().expect("one");
    let limits = Limits { queued_messages_max: 1000, ..Limits::default() };
    let channel = set.remove(ids[0]).expect("it was in").with_limits(limits);
    let id = set.insert(channel).expect("room");
    let count = 100;
    for kind in 0..count {
        let message = Message::new(kind, vec![kind; 10_000]).with_handle(handle());
        if kind % 2 == 0 {
            set.try_send(id, message).expect("room");
        } else {
            set.queue(id, message).expect("room");
        }
    }
    assert!(set.get(id).is_some_and(Channel::has_unsent), "more than the socket takes");
    let reader = std::thread::spawn(move || {
        for kind in 0..count {
            let message = recv(&mut peer);
            assert_eq!((message.kind, message.payload.len()), (kind, 10_000));
            assert_eq!(message.handles.len(), 1);
        }
        peer.try_send(Message::new(0, "all of them")).expect("room");
        peer
    });
    assert_eq!(next_message(&mut set).1.payload, b"all of them");
    assert!(!set.get(id).is_some_and(Channel::has_unsent));
    reader.join().expect("no panic");
}

#[test]
fn what_was_queued_leaves_when_a_turn_is_over() {
    let (mut set, ids, mut peers) = set_of(2);
    send(&mut peers[0], 0..3);
    send(&mut peers[1], 0..1);
    for _ in 0..3 {
        assert_eq!(next_message(&mut set).0, ids[0]);
        set.queue(ids[0], Message::new(9, [])).expect("room");
    }
    assert!(matches!(peers[0].try_recv(), Err(TryRecvError::Empty)), "not one by one");
    assert_eq!(next_message(&mut set).0, ids[1]);
    for _ in 0..3 {
        assert_eq!(peers[0].try_recv().expect("it was sent").kind, 9);
    }
}

#[test]
fn a_full_queue_gives_the_message_back() {
    let (mut set, ids, _peers) = set_of(1);
    let limits = Limits { queued_messages_max: 2, ..Limits::default() };
    let channel = set.remove(ids[0]).expect("it was in").with_limits(limits);
    let id = set.insert(channel).expect("room");
    for _ in 0..100 {
        // Far below what the socket takes: a full queue is flushed before anything is refused.
        set.queue(id, Message::new(1, [])).expect("room");
    }
    let refused = loop {
        match set.queue(id, Message::new(1, vec![0; 50_000]).with_handle(handle())) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, TrySendError::Full(_)), "{refused:?}");
    assert_eq!(refused.into_message().handles.len(), 1);
}

#[test]
fn a_peer_that_reads_no_more_fails_the_channel_after_its_messages() {
    let mut set = ChannelSet::new().expect("a poll");
    let (ours, mut theirs) = raw_peer();
    let id = set.insert(ours).expect("room");
    expect_nothing(&mut set);
    theirs.write_all(&frame(3, 0, b"the last")).expect("room");
    theirs.shutdown(Shutdown::Read).expect("a socket");
    set.queue(id, Message::new(1, "unwanted")).expect("room");
    assert_eq!(next_message(&mut set).1.payload, b"the last");
    match next(&mut set) {
        (from, SetEvent::Failed(channel, RecvError::Io(error))) if from == id => {
            assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
            assert!(channel.has_unsent());
        }
        other => panic!("{other:?}"),
    }
    expect_nothing(&mut set);
}

#[test]
fn f37_a_message_that_is_never_finished_fails_its_channel() {
    let timeout = Duration::from_millis(20);
    let mut set = ChannelSet::new().expect("a poll").with_partial_message_timeout(timeout);
    let (_quiet, _peer) = insert(&mut set);
    let (ours, mut theirs) = raw_peer();
    let limits = Limits { payload_bytes_max: 1 << 30, ..Limits::default() };
    let id = set.insert(ours.with_limits(limits)).expect("room");
    // In time, and another one begun.
    theirs.write_all(&frame(1, 0, b"whole")).expect("room");
    theirs.write_all(&[1, 0, 0, 0, 0, 0, 0, 0x40]).expect("room");
    assert_eq!(next_message(&mut set).1.payload, b"whole");
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || while theirs.write_all(&[0]).is_ok() {});
        match next(&mut set) {
            (from, SetEvent::Failed(channel, RecvError::TimedOut)) if from == id => {
                assert!(channel.is_mid_message());
                channel.shutdown().expect("a socket");
            }
            other => panic!("{other:?}"),
        }
    });
    assert!(started.elapsed() >= timeout);
    expect_nothing(&mut set);
    assert_eq!(set.len(), 1, "who has sent nothing is not late");
}

#[test]
fn f37_each_message_has_its_own_time() {
    let timeout = Duration::from_millis(40);
    let mut set = ChannelSet::new().expect("a poll").with_partial_message_timeout(timeout);
    let (ours, mut theirs) = raw_peer();
    set.insert(ours).expect("room");
    let bytes = frame(1, 0, b"late, but in time");
    theirs.write_all(&bytes[..9]).expect("room");
    assert!(set.wait(in_ms(20)).expect("a poll").is_none());
    theirs.write_all(&[&bytes[9..], &bytes[..9]].concat()).expect("room");
    let started = Instant::now();
    assert_eq!(next_message(&mut set).1.payload, b"late, but in time");
    assert!(matches!(next(&mut set).1, SetEvent::Failed(_, RecvError::TimedOut)));
    assert!(started.elapsed() >= timeout);
}

#[test]
fn a_wait_ends_with_its_deadline_or_a_waker() {
    let (mut set, ids, mut peers) = set_of(1);
    expect_nothing(&mut set);
    assert!(set.wait(in_ms(10)).expect("a poll").is_none());
    let waker = set.waker().expect("room");
    waker.wake().expect("a poll");
    assert!(set.wait(None).expect("a poll").is_none(), "used before the wait");
    let thread = std::thread::spawn(move || waker.wake());
    assert!(set.wait(None).expect("a poll").is_none());
    thread.join().expect("no panic").expect("a poll");
    send(&mut peers[0], 0..1);
    let past = set.wait(in_ms(0)).expect("a poll");
    assert!(matches!(past, Some((id, SetEvent::Message(_))) if id == ids[0]));
}

#[test]
fn a_waker_ends_a_wait_although_messages_come_without_end() {
    let (mut set, _ids, mut peers) = set_of(1);
    let waker = set.waker().expect("room");
    send(&mut peers[0], 0..255);
    let mut messages = 0;
    while let Some(_event) = set.wait(None).expect("a poll") {
        messages += 1;
        waker.wake().expect("a poll");
    }
    assert!(messages <= BUDGET, "one round");
    assert!(set.wait(None).expect("a poll").is_some(), "the others have stayed");
}

#[test]
fn f13_k14_a_channel_that_is_throttled_is_sent_from_a_timer() {
    let mut command = limited(this_binary(), 64);
    // The limit does not hold for root.
    if std::fs::metadata("/proc/self").expect("/proc is mounted").uid() == 0 {
        command.uid(65534).gid(65534);
    }
    let (mut channel, mut child) = spawn(command, "role_throttled_set");
    let status = wait(&mut child);
    if status.code().is_some_and(|code| code == 126 || code == 127) {
        eprintln!("skipped: an ordinary user cannot execute this test binary");
        return;
    }
    assert!(status.success());
    assert_eq!(recv(&mut channel).payload, b"as expected");
}

#[test]
fn role_throttled_set() {
    let Some(mut channel) = role_channel() else { return };
    // The first channel's messages are what throttles the second, whose socket is empty: no event
    // will tell that it may send.
    let (mut set, ids, mut peers) = set_of(2);
    let before = descriptor_count();
    while !set.get(ids[0]).is_some_and(Channel::is_throttled) {
        set.try_send(ids[0], Message::new(1, []).with_handle(handle())).expect("room");
        assert!(descriptor_count() < before + 60, "the limit is 64");
    }
    set.queue(ids[1], Message::new(2, []).with_handle(handle())).expect("room");
    expect_nothing(&mut set);
    assert!(set.get(ids[1]).is_some_and(Channel::is_throttled));
    let mut second = peers.pop().expect("two");
    let mut first = peers.pop().expect("two");
    let waker = set.waker().expect("room");
    let reader = std::thread::spawn(move || {
        assert_eq!(recv(&mut first).kind, 1);
        while first.try_recv().is_ok() {}
        assert_eq!(recv(&mut second).handles.len(), 1);
        waker.wake().expect("a poll");
        (first, second)
    });
    assert!(set.wait(soon()).expect("a poll").is_none(), "woken");
    reader.join().expect("no panic");
    channel.try_send(Message::new(0, "as expected")).expect("room");
}
