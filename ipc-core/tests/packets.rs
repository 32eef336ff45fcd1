//! Channels over sockets that keep packets apart.
#![cfg(unix)]

mod util;

use std::os::fd::AsFd;

use ipc_core::frame::{HEADER_BYTES, PACKET_BYTES_MAX};
use ipc_core::{Channel, Message, TryRecvError, TrySendError};
use nix::sys::socket::{setsockopt, sockopt};
use util::{expect_closed, handle, in_thread, in_time, recv, soon};

#[test]
fn packets_stay_apart_and_may_be_taken_by_several_readers() {
    let (mut ours, theirs) = Channel::packet_pair().expect("a socket pair");
    let other = theirs.as_fd().try_clone_to_owned().expect("a duplicate");
    let mut readers = [theirs, Channel::from_fd(other).expect("a seqpacket socket")];
    for kind in 0..6_u8 {
        ours.queue(Message::new(kind, vec![kind; 100]).with_handle(handle())).expect("room");
    }
    assert!(ours.flush().expect("a peer"));
    for kind in 0..6_u8 {
        let message = recv(&mut readers[usize::from(kind) % 2]);
        assert_eq!((message.kind, message.payload), (kind, vec![kind; 100]));
        assert_eq!(message.handles.len(), 1);
    }
    drop(ours);
    expect_closed(&mut readers[0]);
}

#[test]
fn packets_carry_many_short_messages_or_a_part_of_a_long_one() {
    let (mut ours, mut theirs) = Channel::packet_pair().expect("a socket pair");
    for _ in 0..2 {
        for kind in 0..100 {
            ours.queue(Message::new(kind, vec![kind; 10])).expect("room");
        }
        assert!(ours.flush().expect("a peer"));
    }
    let mut packet = vec![0; PACKET_BYTES_MAX];
    let bytes = handle_passing::recv(&theirs, &mut packet, &mut Vec::new()).expect("a packet");
    assert_eq!(bytes, 100 * (HEADER_BYTES + 10), "they went together");
    for kind in 0..100 {
        let message = recv(&mut theirs);
        assert_eq!((message.kind, message.payload), (kind, vec![kind; 10]));
    }
    let longest = PACKET_BYTES_MAX - HEADER_BYTES;
    for length in [longest, longest + 1, 2 * longest, 1024 * 1024] {
        let done = in_thread(move || {
            let message = Message::new(1, vec![7; length]).with_handle(handle());
            ours.send_deadline(message, soon()).map(|()| ours)
        });
        let message = recv(&mut theirs);
        assert!(message.payload == vec![7; length] && message.handles.len() == 1, "{length}");
        ours = in_time(&done).expect("all went");
    }
    ours.try_send(Message::new(2, vec![7; 1024 * 1024])).expect("what does not go is queued");
    assert!(ours.has_unsent() && !theirs.is_mid_message());
    while !ours.flush().expect("a peer") {
        assert!(matches!(theirs.try_recv(), Err(TryRecvError::Empty)));
    }
    assert_eq!(recv(&mut theirs).payload.len(), 1024 * 1024);
}

#[test]
fn a_short_message_that_a_socket_has_no_room_for_is_refused_and_not_cut() {
    let (ours, mut theirs) = Channel::packet_pair().expect("a socket pair");
    let ours = ours.into_fd();
    setsockopt(&ours, sockopt::SndBuf, &0).expect("the least that there is");
    let mut ours = Channel::from_fd(ours).expect("a seqpacket socket");
    for length in [8_000, 16_000] {
        match ours.try_send(Message::new(1, vec![0; length])) {
            Err(TrySendError::Io { error, .. }) => {
                assert_eq!(error.raw_os_error(), Some(nix::libc::EMSGSIZE), "{length}: {error}");
            }
            other => panic!("{other:?}"),
        }
    }
    ours.try_send(Message::new(2, [0; 100])).expect("room");
    assert_eq!(recv(&mut theirs).kind, 2);
}
