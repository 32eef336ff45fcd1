//! A channel between two processes: the other one is this test binary again, in a role.
#![cfg(unix)]

mod util;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::time::Duration;

use ipc_core::{Channel, Message, ProtocolError, RecvError, SendError, TrySendError};
use util::{
    descriptor_count, expect_closed, handle, handles, in_ms, inode, inodes, limited, recv,
    role_channel, soon, spawn, this_binary, wait,
};

const SIGKILL: i32 = 9;

#[test]
fn messages_with_handles_go_to_another_process_and_back() {
    let (mut channel, mut child) = spawn(this_binary(), "role_echo");
    for round in 0..50_u8 {
        let given = handles(usize::from(round % 4));
        let mut expected: Vec<u64> = given.iter().map(inode).collect();
        let payload = vec![round; usize::from(round) * 3000];
        let message = Message { kind: round, payload: payload.clone(), handles: given.into() };
        channel.send_deadline(message, soon()).expect("it is read");
        let message = recv(&mut channel);
        assert_eq!(message.kind, round + 1);
        assert!(message.payload == payload);
        expected.reverse();
        assert_eq!(inodes(&message), expected, "the same sockets");
    }
    drop(channel);
    assert!(wait(&mut child).success());
}

#[test]
fn role_echo() {
    let Some(mut channel) = role_channel() else { return };
    loop {
        let mut message = match channel.recv_deadline(soon()) {
            Ok(message) => message,
            Err(RecvError::Closed) => return,
            Err(error) => panic!("{error}"),
        };
        message.kind += 1;
        let mut handles: Vec<handle_passing::Handle> = message.handles.into_iter().collect();
        handles.reverse();
        message.handles = handles.into();
        channel.send_deadline(message, soon()).expect("it is read");
    }
}

#[test]
fn k10_what_a_peer_had_sent_before_it_was_killed_is_received() {
    let (mut channel, mut child) = spawn(this_binary(), "role_killed_in_the_middle");
    let (mut done, theirs) = UnixStream::pair().expect("a pair");
    channel.try_send(Message::new(0, []).with_handle(theirs)).expect("room");
    done.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
    done.read_exact(&mut [0]).expect("the child has sent everything");
    child.kill().expect("our child");
    assert_eq!(wait(&mut child).signal(), Some(SIGKILL));
    for kind in 0..10 {
        let message = recv(&mut channel);
        assert_eq!((message.kind, message.handles.len()), (kind, 1));
    }
    expect_closed(&mut channel);
    assert!(channel.is_mid_message(), "it was killed in the middle of the eleventh");
    match channel.try_send(Message::new(1, "too late").with_handle(handle())) {
        Err(TrySendError::Closed(message)) => assert_eq!(message.handles.len(), 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn role_killed_in_the_middle() {
    let Some(mut channel) = role_channel() else { return };
    let mut done = recv(&mut channel).take_handle::<UnixStream>(0).expect("a socket");
    for kind in 0..10 {
        channel.try_send(Message::new(kind, []).with_handle(handle())).expect("room");
    }
    let raw = channel.as_fd().try_clone_to_owned().expect("a duplicate");
    UnixStream::from(raw).write_all(&[1, 10]).expect("room");
    done.write_all(&[0]).expect("room");
    assert!(channel.recv_deadline(soon()).is_err(), "the parent kills instead");
}

#[test]
fn f29_k3_handles_that_find_no_free_descriptor_fail_the_channel_and_leak_nothing() {
    let command = limited(this_binary(), 40);
    let (mut channel, mut child) = spawn(command, "role_few_descriptors");
    let message =
        Message { kind: 1, payload: b"too many for you".into(), handles: handles(60).into() };
    channel.send_deadline(message, soon()).expect("it is read");
    assert_eq!(recv(&mut channel).payload, b"as expected");
    assert!(wait(&mut child).success());
}

#[test]
fn role_few_descriptors() {
    let Some(mut channel) = role_channel() else { return };
    let before = descriptor_count();
    for _ in 0..2 {
        match channel.recv_deadline(soon()) {
            Err(RecvError::Protocol(ProtocolError::HandlesTruncated)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(descriptor_count(), before);
    channel.try_send(Message::new(0, "as expected")).expect("room");
}

#[test]
fn f13_k14_descriptors_in_flight_at_their_limit_are_back_pressure() {
    let mut command = limited(this_binary(), 64);
    // The limit does not hold for root.
    if std::fs::metadata("/proc/self").expect("/proc is mounted").uid() == 0 {
        command.uid(65534).gid(65534);
    }
    let (mut channel, mut child) = spawn(command, "role_few_in_flight");
    let status = wait(&mut child);
    if status.code().is_some_and(|code| code == 126 || code == 127) {
        eprintln!("skipped: an ordinary user cannot execute this test binary");
        return;
    }
    assert!(status.success());
    assert_eq!(recv(&mut channel).payload, b"as expected");
}

#[test]
fn role_few_in_flight() {
    let Some(mut channel) = role_channel() else { return };
    let (mut a, mut b) = Channel::pair().expect("a pair");
    let mut sent = 0;
    while !a.is_throttled() {
        assert!(sent < 200, "the limit is 64");
        a.try_send(Message::new(sent, []).with_handle(handle())).expect("taken, sent or queued");
        sent += 1;
    }
    assert!(a.has_unsent());
    assert!(!a.flush().expect("open"), "nothing has changed");
    let another = Message::new(sent, []).with_handle(handle());
    let another = match a.send_deadline(another, in_ms(20)) {
        Err(SendError::TimedOut(Some(another))) => another,
        other => panic!("{other:?}"),
    };
    let reader = std::thread::spawn(move || {
        for kind in 0..=sent {
            let message = recv(&mut b);
            assert_eq!((message.kind, message.handles.len()), (kind, 1));
        }
    });
    a.send_deadline(another, soon()).expect("it is read now");
    assert!(!a.is_throttled() && !a.has_unsent());
    reader.join().expect("no panic");
    channel.try_send(Message::new(0, "as expected")).expect("room");
}
