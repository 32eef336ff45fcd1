//! No descriptor is left over, whatever happened. Alone in this test binary, because it counts the
//! descriptors of the process.

mod util;

use std::os::fd::AsFd;

use ipc_core::{Channel, Limits, Message, TrySendError};
use util::{descriptor_count, frame, handle, handles, raw_peer, recv};

#[test]
fn descriptors_before_equal_descriptors_after() {
    let scenarios: [(&str, fn()); 8] = [
        ("received and dropped", received_and_dropped),
        ("sent, and never received", sent_and_never_received),
        ("queued, and never sent", queued_and_never_sent),
        ("refused", refused),
        ("f26: claimed, and not there", || hostile(3, 2)),
        ("f27: there, and not claimed", || hostile(0, 253)),
        ("read, and not claimed by a whole message", in_an_incomplete_message),
        ("k10: waiting in a channel that is closed", left_in_a_closed_channel),
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

fn hostile(claimed: u8, given: usize) {
    let (mut ours, theirs) = raw_peer();
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
