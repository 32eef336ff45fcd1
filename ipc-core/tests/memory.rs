//! Memory stays flat under a peer that sends garbage. Alone in this test binary, because it
//! measures the process.
#![cfg(unix)]

mod util;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;

use ipc_core::{Channel, Inbox, Limits, TryRecvError};
use util::{frame, raw_packet_peer, raw_peer};

const GROWTH_BYTES_MAX: usize = 8 * 1024 * 1024;

#[test]
fn hostile_f34_a_million_garbage_frames_leave_memory_flat() {
    let before = resident_bytes();
    a_million_frames_on_one_channel(raw_peer(), 100);
    a_million_frames_on_one_channel(raw_packet_peer(), 1);
    garbage_packets();
    a_million_bad_headers();
    channels_that_are_left_in_a_long_message();
    let after = resident_bytes();
    assert!(after < before + GROWTH_BYTES_MAX, "{before} bytes before, {after} after");
}

/// Well formed, so that none of them ends the channel, and about nothing.
fn a_million_frames_on_one_channel(peers: (Channel, UnixStream), frames_per_write: usize) {
    const FRAMES: usize = 1_000_000;
    let (mut ours, mut theirs) = peers;
    let frames: Vec<_> = (0..100_u8).map(|n| frame(n, 0, &vec![n; n.into()])).collect();
    let writes: Vec<_> = frames.chunks(frames_per_write).map(<[_]>::concat).collect();
    let writer = thread::spawn(move || {
        for write in writes.iter().cycle().take(FRAMES / frames_per_write) {
            theirs.write_all(write).expect("it is read");
        }
    });
    let mut received = 0;
    while ours.recv_deadline(util::soon()).is_ok() {
        received += 1;
    }
    assert_eq!(received, FRAMES);
    writer.join().expect("no panic");
}

fn a_million_bad_headers() {
    let mut seed = 1_u64;
    for _ in 0..1_000_000 {
        // A linear congruential generator with Knuth's constants.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut inbox: Inbox<u32> = Inbox::new(Limits::default());
        let mut garbage = seed.to_le_bytes();
        garbage[0] |= 2; // never the right version
        inbox.spare()[..8].copy_from_slice(&garbage);
        inbox.received(8, [1, 2, 3]);
        assert!(inbox.next_message().is_err());
        assert_eq!(inbox.allocated_bytes(), 0);
    }
}

/// Each ends its channel.
fn garbage_packets() {
    for n in 0..10_000_usize {
        let (mut ours, mut theirs) = raw_packet_peer();
        theirs.write_all(&vec![1; 1 + n % 60_000]).expect("room");
        let error = ours.try_recv();
        assert!(matches!(error, Err(TryRecvError::Protocol(_))), "{error:?}");
    }
}

/// Each announces 1 MiB, and sends a byte of it.
fn channels_that_are_left_in_a_long_message() {
    let channels: Vec<_> = (0..20)
        .map(|_| {
            let (mut ours, mut theirs) = raw_peer();
            theirs.write_all(&[1, 0, 0, 0, 0, 0, 0x10, 0, 42]).expect("room");
            assert!(ours.try_recv().is_err());
            assert!(ours.is_mid_message());
            (ours, theirs)
        })
        .collect();
    assert!(channels.iter().all(|(ours, _)| !ours.has_unsent()));
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it is there");
    let kib = line.split_whitespace().nth(1).expect("a number follows");
    kib.parse::<usize>().expect("a number") * 1024
}
