//! A peer that speaks the protocol itself, and not as it should: whatever it does, this side gets
//! an error, keeps nothing, and goes on.
#![cfg(unix)]

mod util;

use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use handle_passing::{Handle, HandleError, HandleKind, MemoryHandle};
use ipc_core::frame::PACKET_BYTES_MAX;
use ipc_core::shm::{MemoryError, ReadOnlyMemory, SharedMemory};
use ipc_core::{
    Channel, Limits, Message, ProtocolError, RecvError, SendError, TakeHandleError, TryRecvError,
    TrySendError,
};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use util::{expect_closed, frame, handle, handles, in_ms, raw_packet_peer, raw_peer, recv, soon};

fn send(peer: &UnixStream, bytes: &[u8], handles: &[OwnedFd]) {
    let handles: Vec<_> = handles.iter().map(AsFd::as_fd).collect();
    assert_eq!(handle_passing::send(peer, bytes, &handles).expect("room"), bytes.len());
}

/// A peer of a stream, and one of packets.
fn both_peers() -> [(Channel, UnixStream); 2] {
    [raw_peer(), raw_packet_peer()]
}

fn connection_that_lingers() -> OwnedFd {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let socket = OwnedFd::from(TcpStream::connect(address).expect("it listens"));
    let an_hour = libc::linger { l_onoff: 1, l_linger: 3600 };
    setsockopt(&socket, sockopt::Linger, &an_hour).expect("a socket");
    socket
}

/// Receives until the peer's offence is noticed; says how many messages came before it.
#[track_caller]
fn offence(channel: &mut Channel) -> (usize, ProtocolError) {
    for messages in 0.. {
        match channel.recv_deadline(soon()) {
            Ok(_) => {}
            Err(RecvError::Protocol(error)) => {
                let again = channel.try_recv();
                assert!(
                    matches!(again, Err(TryRecvError::Protocol(again)) if again == error),
                    "a channel stays failed"
                );
                return (messages, error);
            }
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("the range has no end")
}

#[test]
fn hostile_garbage_bytes() {
    for (mut ours, theirs) in both_peers() {
        send(&theirs, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &[]);
        assert_eq!(offence(&mut ours), (0, ProtocolError::Version { found: b'G' }));
    }
}

#[test]
fn hostile_f40_another_version() {
    for (mut ours, theirs) in both_peers() {
        send(&theirs, &frame(1, 0, b"good"), &[]);
        let mut bytes = frame(1, 0, b"from the future");
        bytes[0] = 2;
        send(&theirs, &bytes, &[]);
        assert_eq!(offence(&mut ours), (1, ProtocolError::Version { found: 2 }));
    }
}

#[test]
fn hostile_f34_lengths_over_the_limit() {
    let max = Limits::default().payload_bytes_max;
    let one_more = u32::try_from(max + 1).expect("it fits");
    for announced in [one_more, u32::MAX] {
        for (mut ours, theirs) in both_peers() {
            let length = announced.to_le_bytes();
            send(&theirs, &[[1, 0, 0, 0], length].concat(), &[]);
            let error = ProtocolError::PayloadTooLarge { bytes: announced, max };
            assert_eq!(offence(&mut ours), (0, error), "noticed without waiting for the payload");
        }
    }
}

#[test]
fn hostile_f34_lengths_of_eight_bytes() {
    // With a peer that takes lengths to be of 64 bits, a total of 2^46 bytes ended the process.
    let length = (1_u64 << 46).to_le_bytes();
    for (mut ours, theirs) in both_peers() {
        send(&theirs, &length, &[handle()]);
        assert_eq!(offence(&mut ours), (0, ProtocolError::Version { found: 0 }));
    }
    let bytes = [&[1, 7, 0, 0], length.as_slice(), &[0; 20]].concat();
    for (mut ours, theirs) in both_peers() {
        send(&theirs, &bytes, &[]);
        assert_eq!(offence(&mut ours), (1, ProtocolError::Version { found: 0 }));
    }
}

#[test]
fn hostile_a_total_beyond_what_comes() {
    for (claimed, total) in [0, 1]
        .into_iter()
        .flat_map(|claimed| [11, 16_000, 17_000, 1_000_000].map(|total| (claimed, total)))
    {
        let mut bytes = frame(1, claimed, b"ten bytes");
        bytes[4..8].copy_from_slice(&u32::to_le_bytes(total));
        for (index, (mut ours, theirs)) in both_peers().into_iter().enumerate() {
            send(&theirs, &bytes, &handles(claimed.into()));
            // Only a long message may come in several packets.
            if index == 1 && total < 16_384 {
                assert_eq!(offence(&mut ours), (0, ProtocolError::CutFrame));
                continue;
            }
            // It waited for the rest for ever, whatever the deadline was.
            for _ in 0..2 {
                let result = ours.recv_deadline(in_ms(10));
                assert!(matches!(result, Err(RecvError::TimedOut)), "{total}: {result:?}");
            }
            assert!(ours.is_mid_message());
            drop(theirs);
            expect_closed(&mut ours);
        }
    }
}

#[test]
fn hostile_f37_a_fragment_that_stalls_anywhere() {
    let bytes = frame(1, 1, &[5; 20_000]);
    for sent in [1, 7, 8, 9, 5_000, 20_008] {
        let (mut ours, theirs) = raw_peer();
        send(&theirs, &bytes[..sent], &[handle()]);
        let result = ours.recv_deadline(in_ms(10));
        assert!(matches!(result, Err(RecvError::TimedOut)), "{sent}: {result:?}");
        // Nothing is lost by that: the call after it goes on.
        send(&theirs, &bytes[sent..], &[]);
        let message = recv(&mut ours);
        assert_eq!((message.payload.len(), message.handles.len()), (20_000, 1));
    }
}

#[test]
fn hostile_f33_packets_that_are_empty_or_too_long() {
    let [_, (mut ours, theirs)] = both_peers();
    handle_passing::fuzzing::send_raw(&theirs, b"", &[&[handle().as_fd()]], false).expect("room");
    assert_eq!(offence(&mut ours), (0, ProtocolError::CutFrame));
    let [_, (mut ours, theirs)] = both_peers();
    send(&theirs, &frame(1, 1, &[0; PACKET_BYTES_MAX]), &[handle()]);
    assert_eq!(offence(&mut ours), (0, ProtocolError::PacketTooLarge));
}

#[test]
fn hostile_f23_a_connection_that_lingers_is_closed_at_once() {
    let attacks: [(u8, usize); 3] = [(0, 1), (2, 1), (1, 1)];
    for (claimed, given) in attacks {
        for (mut ours, theirs) in both_peers() {
            let socket = connection_that_lingers();
            let given: Vec<_> =
                (0..given).map(|_| socket.try_clone().expect("a duplicate")).collect();
            send(&theirs, &frame(1, claimed, b"x"), &given);
            // Received and never taken, or never delivered.
            while ours.recv_deadline(in_ms(10)).is_ok() {}
            let linger = getsockopt(&socket, sockopt::Linger).expect("a socket");
            assert_eq!(linger.l_onoff, 0, "{claimed} claimed: closing it would wait");
        }
    }
}

#[test]
fn hostile_what_is_sent_as_memory_and_is_none() {
    let file = OwnedFd::from(std::fs::File::open("/proc/self/exe").expect("this binary"));
    let unsealed = memfd_create("unsealed", MFdFlags::MFD_ALLOW_SEALING).expect("memory");
    let half_sealed = unsealed.try_clone().expect("a duplicate");
    for (memory, seals) in [
        (file, SealFlag::empty()),
        (unsealed, SealFlag::empty()),
        (half_sealed, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL),
    ] {
        if !seals.is_empty() {
            fcntl(&memory, FcntlArg::F_ADD_SEALS(seals)).expect("it has no seals yet");
        }
        for (mut ours, theirs) in both_peers() {
            let mut bytes = frame(1, 1, b"memory for you");
            *bytes.last_mut().expect("the kind") = HandleKind::Memory.code();
            send(&theirs, &bytes, &[memory.try_clone().expect("a duplicate")]);
            let mut message = recv(&mut ours);
            let error = SharedMemory::open(message.handles.take(0).expect("it came"), 1 << 30);
            assert!(error.is_err(), "{error:?}");
            send(&theirs, &bytes, &[memory.try_clone().expect("a duplicate")]);
            let error = recv(&mut ours).take_handle::<MemoryHandle>(0).expect_err("a lie");
            let TakeHandleError::Wrong(HandleError::WrongKind { expected, found, .. }) = error
            else {
                panic!("{error}");
            };
            assert_eq!((expected, found), (HandleKind::Memory, HandleKind::File));
        }
    }
}

#[test]
fn hostile_memory_that_may_only_be_read_is_not_taken_for_more() {
    let memory = SharedMemory::create(4096).expect("memory");
    let handle = memory.try_clone_handle().expect("a duplicate");
    let path = format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd());
    let reader = std::fs::File::open(path).expect("sealed memory, read-only");
    let handle = Handle::from(reader).announced(HandleKind::Memory);
    let refused = SharedMemory::open(handle.try_clone().expect("a duplicate"), 4096);
    assert!(matches!(refused, Err(MemoryError::ReadOnly)), "{refused:?}");
    ReadOnlyMemory::open(handle, 4096).expect("enough for reading");
}

#[test]
fn hostile_f23_a_connection_sent_as_memory_does_not_linger() {
    let socket = connection_that_lingers();
    let handle = Handle::received(socket.try_clone().expect("a duplicate"));
    let refused = SharedMemory::open(handle.announced(HandleKind::Memory), 4096);
    assert!(matches!(refused, Err(MemoryError::NotMemory)), "{refused:?}");
    assert_eq!(getsockopt(&socket, sockopt::Linger).expect("a socket").l_onoff, 0);
}

#[test]
fn hostile_70_channels_in_one_message() {
    for (mut ours, theirs) in both_peers() {
        let (sent, kept): (Vec<_>, Vec<_>) = (0..70)
            .map(|_| Channel::pair().expect("a socket pair"))
            .map(|(sent, kept)| (Handle::from(sent.into_fd()), kept))
            .unzip();
        let mut theirs = Channel::from_fd(theirs.into()).expect("a channel");
        let message = Message { kind: 1, payload: vec![], handles: sent.into() };
        theirs.try_send(message).expect("room");
        let mut message = recv(&mut ours);
        // Half of them are taken, and work; the others are closed with the message.
        for (place, mut other) in kept.into_iter().enumerate() {
            if place % 2 == 0 {
                let fd = message.take_handle::<OwnedFd>(place).expect("it came");
                let mut channel = Channel::from_fd(fd).expect("a channel");
                channel.try_send(Message::new(1, [7; 9])).expect("room");
                assert_eq!(recv(&mut other).payload, [7; 9]);
            } else {
                drop(message.handles.take(place));
                expect_closed(&mut other);
            }
        }
        assert!(message.handles.is_empty());
    }
}

#[test]
fn hostile_an_attack_on_one_channel_is_none_on_another() {
    let (mut here, mut there) = Channel::pair().expect("a socket pair");
    let flood = frame(1, 0, &[0; 60_000]);
    let attacks: [(&[u8], usize); 6] = [
        (b"garbage", 0),
        (&[1, 0, 0, 0, 0, 0, 8, 0], 0),
        (&[1, 0, 253], 253),
        (&frame(1, 0, b"x"), 253),
        (&frame(1, 9, b"x"), 1),
        (&flood, 0),
    ];
    let mut attacked = Vec::new();
    for (round, (bytes, count)) in (0_u8..).zip(attacks) {
        for (mut ours, theirs) in both_peers() {
            send(&theirs, bytes, &handles(count));
            let message = Message::new(round, [round; 500]).with_handle(handle());
            here.try_send(message).expect("room");
            while ours.try_recv().is_ok() {}
            let message = recv(&mut there);
            assert_eq!((message.kind, message.payload), (round, vec![round; 500]));
            assert_eq!(message.handles.len(), 1);
            attacked.push((ours, theirs));
        }
    }
    assert!(matches!(there.try_recv(), Err(TryRecvError::Empty)));
}

#[test]
fn hostile_f27_f28_unsolicited_descriptors() {
    for count in [1, 50, 253] {
        for (mut ours, theirs) in both_peers() {
            send(&theirs, &frame(1, 0, b"a gift"), &handles(count));
            let error = ProtocolError::HandlesUnclaimed { received: count, claimed: 0 };
            assert_eq!(offence(&mut ours), (1, error));
        }
    }
}

#[test]
fn hostile_f27_descriptors_in_the_middle_of_a_payload() {
    let (mut ours, theirs) = raw_peer();
    let bytes = frame(1, 1, b"payload");
    send(&theirs, &bytes[..10], &[handle()]);
    send(&theirs, &bytes[10..12], &[handle()]);
    assert_eq!(
        offence(&mut ours),
        (0, ProtocolError::HandlesUnclaimed { received: 2, claimed: 1 })
    );
}

#[test]
fn hostile_f28_descriptors_with_every_byte_of_a_header() {
    let (mut ours, theirs) = raw_peer();
    let full = handles(253);
    for byte in &frame(1, 253, b"")[..2] {
        send(&theirs, &[*byte], &full);
    }
    let error = ProtocolError::HandlesUnclaimed { received: 506, claimed: 253 };
    assert_eq!(offence(&mut ours), (0, error));
}

#[test]
fn hostile_f26_claimed_descriptors_that_do_not_come() {
    for (mut ours, theirs) in both_peers() {
        send(&theirs, &frame(1, 2, b"first"), &handles(2));
        send(&theirs, &frame(2, 3, b"second"), &handles(2));
        let error = ProtocolError::HandlesMissing { claimed: 3, received: 2 };
        assert_eq!(offence(&mut ours), (1, error));
    }
}

#[test]
fn hostile_more_descriptors_than_this_side_allows() {
    for (ours, theirs) in both_peers() {
        let mut ours = ours.with_limits(Limits { handles_per_message_max: 1, ..Limits::default() });
        send(&theirs, &frame(1, 1, b""), &handles(1));
        send(&theirs, &frame(2, 2, b""), &handles(2));
        assert_eq!(offence(&mut ours), (1, ProtocolError::TooManyHandles { handles: 2, max: 1 }));
    }
}

#[test]
fn hostile_f41_a_flood_waits_in_the_peer() {
    let (mut ours, mut theirs) = raw_peer();
    theirs.set_nonblocking(true).expect("a socket");
    let flood = frame(1, 0, &[0; 1000]).repeat(64);
    let fill = |theirs: &mut UnixStream| {
        let mut bytes = 0;
        loop {
            match theirs.write(&flood[bytes % 1008..]) {
                Ok(written) => bytes += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return bytes,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let in_the_socket = fill(&mut theirs);
    recv(&mut ours);
    // One read has made room; more is not read as long as messages of it are left.
    let in_one_read = fill(&mut theirs);
    assert!(0 < in_one_read && in_one_read <= in_the_socket);
    for _ in 1..in_one_read.min(64 * 1024) / 1008 {
        recv(&mut ours);
    }
    assert_eq!(fill(&mut theirs), 0, "nothing was read in between");
}

#[test]
fn hostile_a_peer_that_never_reads_costs_what_the_limits_say() {
    let (ours, _theirs) = raw_peer();
    let limits = Limits { queued_bytes_max: 100_000, ..Limits::default() };
    let mut ours = ours.with_limits(limits);
    let mut taken = 0;
    let refused = loop {
        match ours.try_send(Message::new(1, [0; 1000])) {
            Ok(()) => taken += 1008,
            Err(TrySendError::Full(message)) => break message,
            Err(error) => panic!("{error}"),
        }
        assert!(taken < 10_000_000, "it must be full some time");
    };
    assert!(matches!(ours.send_deadline(refused, in_ms(10)), Err(SendError::TimedOut(Some(_)))));
}

#[test]
fn hostile_f37_a_peer_that_never_finishes_a_message_blocks_nobody() {
    let (mut ours, mut theirs) = raw_peer();
    for byte in &frame(1, 0, b"so slow")[..14] {
        theirs.write_all(&[*byte]).expect("room");
        assert!(matches!(ours.try_recv(), Err(TryRecvError::Empty)));
        assert!(ours.is_mid_message());
    }
    drop(theirs);
    expect_closed(&mut ours);
}

#[test]
fn hostile_a_channel_that_failed_can_still_send() {
    // Which lets the other side be told why.
    let (mut ours, theirs) = raw_peer();
    send(&theirs, &[0; 8], &[]);
    offence(&mut ours);
    ours.try_send(Message::new(1, "protocol error")).expect("room");
    let mut theirs = Channel::from_fd(theirs.into()).expect("a channel");
    assert_eq!(recv(&mut theirs).payload, b"protocol error");
}

#[test]
fn hostile_peer_that_closes_while_both_sides_send() {
    for _ in 0..200 {
        let (mut ours, theirs) = raw_peer();
        let closer = thread::spawn(move || {
            let _ = handle_passing::send(&theirs, &frame(1, 1, b"x"), &[handle().as_fd()]);
            drop(theirs);
        });
        loop {
            match ours.try_send(Message::new(1, [1; 100]).with_handle(handle())) {
                Ok(()) => {}
                Err(TrySendError::Closed(message)) => {
                    assert_eq!(message.handles.len(), 1);
                    break;
                }
                Err(TrySendError::Full(_)) => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        closer.join().expect("no panic");
        assert_eq!(recv(&mut ours).handles.len(), 1);
        expect_closed(&mut ours);
    }
}

#[test]
fn hostile_f31_a_handle_that_is_not_what_it_was_announced_as() {
    let (mut ours, theirs) = raw_peer();
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    let mut bytes = frame(1, 1, b"a connection for you");
    *bytes.last_mut().expect("the kind") = HandleKind::TcpStream.code();
    send(&theirs, &bytes, &[reader.into()]);
    let mut message = recv(&mut ours);
    let error = message.take_handle::<std::net::TcpStream>(0).expect_err("a lie");
    let TakeHandleError::Wrong(HandleError::WrongKind { expected, found, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!((expected, found), (HandleKind::TcpStream, HandleKind::Pipe));
}

#[test]
fn hostile_a_kind_that_there_is_not() {
    let (mut ours, theirs) = raw_peer();
    let mut bytes = frame(1, 2, b"x");
    *bytes.last_mut().expect("the kind") = 99;
    send(&theirs, &bytes, &handles(2));
    assert_eq!(offence(&mut ours), (0, ProtocolError::UnknownKind { found: 99 }));
    let (mut ours, theirs) = raw_peer();
    send(&theirs, &[1, 0, 2, 0, 1, 0, 0, 0, 0], &handles(2));
    assert_eq!(offence(&mut ours), (0, ProtocolError::KindsMissing { handles: 2 }));
}

#[test]
fn hostile_packets_that_end_in_the_middle_of_a_short_frame() {
    let whole = frame(1, 0, b"one");
    let part = &frame(1, 0, &[7; 16_000])[..10];
    for bytes in [part, &[1], &[0; 300]] {
        let (mut ours, theirs) = raw_packet_peer();
        let expected = if bytes[0] == 0 {
            ProtocolError::Version { found: 0 }
        } else {
            ProtocolError::CutFrame
        };
        send(&theirs, &[whole.as_slice(), bytes].concat(), &[]);
        assert_eq!(offence(&mut ours), (1, expected), "{} bytes", bytes.len());
    }
}

#[test]
fn hostile_packets_longer_than_there_is_room_for() {
    let long = frame(1, 0, &[7; 300_000]);
    for first in [PACKET_BYTES_MAX + 1, PACKET_BYTES_MAX, 30_000] {
        let (mut ours, theirs) = raw_packet_peer();
        send(&theirs, &long[..first], &[]);
        if first <= PACKET_BYTES_MAX {
            assert!(matches!(ours.try_recv(), Err(TryRecvError::Empty)), "the rest is due");
            send(&theirs, &long[first..first + PACKET_BYTES_MAX + 1], &[]);
        }
        assert_eq!(offence(&mut ours), (0, ProtocolError::PacketTooLarge), "{first} bytes first");
    }
}
