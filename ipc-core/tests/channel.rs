//! A channel over a real socket pair, both ends in this process.
#![cfg(unix)]

mod util;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::mpsc;
use std::thread;

use handle_passing::HandleKind;
use ipc_core::frame::{HEADER_BYTES, PACKET_BYTES_MAX};
use ipc_core::{
    Channel, Limits, Message, Receiver, RecvError, SendError, Sender, TakeHandleError,
    TryRecvError, TrySendError,
};
use mio::{Events, Interest, Poll, Token};
use util::{
    expect_closed, frame, handle, handles, in_ms, in_thread, in_time, inode, inodes, raw_peer,
    recv, soon,
};

/// More than a socket's buffer takes by default.
const MORE_THAN_A_SOCKET_TAKES: usize = 1024 * 1024;

#[test]
fn a_channel_and_its_halves_may_go_to_other_threads() {
    fn assert_send<T: Send>() {}
    assert_send::<Channel>();
    assert_send::<Sender>();
    assert_send::<Receiver>();
}

#[test]
fn messages_with_handles_arrive_whole_and_in_order_both_ways() {
    let (mut a, mut b) = Channel::pair().expect("a pair");
    for round in 0..100_u8 {
        let given: Vec<OwnedFd> = handles(usize::from(round % 5));
        let expected: Vec<u64> = given.iter().map(inode).collect();
        let payload = vec![round; usize::from(round) * 50];
        let message = Message { kind: round, payload: payload.clone(), handles: given.into() };
        a.try_send(message).expect("room");
        std::mem::swap(&mut a, &mut b);
        let message = recv(&mut a);
        assert_eq!((message.kind, &message.payload), (round, &payload));
        assert_eq!(inodes(&message), expected);
    }
}

#[test]
fn the_largest_message_arrives() {
    let (mut a, mut b) = Channel::pair().expect("a pair");
    let limits = Limits::default();
    let payload: Vec<u8> = (0..=u8::MAX).cycle().take(limits.payload_bytes_max).collect();
    let given = handles(limits.handles_per_message_max);
    let expected: Vec<u64> = given.iter().map(inode).collect();
    let message = Message { kind: 9, payload: payload.clone(), handles: given.into() };
    let sender = thread::spawn(move || a.send_deadline(message, soon()).expect("it is read"));
    let message = recv(&mut b);
    assert_eq!(inodes(&message), expected);
    assert!(message.payload == payload);
    sender.join().expect("no panic");
    expect_closed(&mut b);
}

#[test]
fn f36_a_message_cut_anywhere_arrives() {
    let bytes = [frame(1, 2, b"twelve bytes"), frame(2, 1, b"")].concat();
    let first = frame(1, 2, b"twelve bytes").len();
    for cut in 1..first {
        let (mut ours, theirs) = raw_peer();
        let given = handles(3);
        let send = |bytes: &[u8], handles: &[&OwnedFd]| {
            let handles: Vec<_> = handles.iter().map(|handle| handle.as_fd()).collect();
            handle_passing::send(&theirs, bytes, &handles).expect("room");
        };
        send(&bytes[..cut], &[&given[0], &given[1]]);
        assert!(matches!(ours.try_recv(), Err(TryRecvError::Empty)), "cut at {cut}");
        assert!(ours.is_mid_message());
        send(&bytes[cut..first], &[]);
        send(&bytes[first..], &[&given[2]]);
        let message = recv(&mut ours);
        assert_eq!(message.payload, b"twelve bytes");
        assert_eq!(inodes(&message), [inode(&given[0]), inode(&given[1])]);
        assert_eq!(inodes(&recv(&mut ours)), [inode(&given[2])]);
        assert!(matches!(ours.try_recv(), Err(TryRecvError::Empty)));
        assert!(!ours.is_mid_message());
    }
}

#[test]
fn queued_messages_leave_with_a_flush() {
    let (mut ours, mut theirs) = raw_peer();
    for kind in 0..100 {
        ours.queue(Message::new(kind, [kind; 64])).expect("room");
    }
    theirs.set_nonblocking(true).expect("a socket");
    let mut bytes = vec![0; 100_000];
    assert!(theirs.read(&mut bytes).is_err(), "queueing alone sends nothing");
    assert!(ours.flush().expect("open"));
    let expected: Vec<u8> = (0..100).flat_map(|kind| frame(kind, 0, &[kind; 64])).collect();
    assert_eq!(theirs.read(&mut bytes).expect("open"), expected.len());
    assert_eq!(bytes[..expected.len()], expected);
}

#[test]
fn k9_a_full_channel_gives_the_message_back_with_its_handles() {
    let (a, mut b) = Channel::pair().expect("a pair");
    let mut a = a.with_limits(Limits { queued_messages_max: 10, ..Limits::default() });
    let mut sent = VecDeque::new();
    let refused = loop {
        let message = Message::new(1, vec![0; 10_000]).with_handle(handle());
        let expected = inode(&message.handles.get(0).expect("a handle"));
        match a.try_send(message) {
            Ok(()) => sent.push_back(expected),
            Err(TrySendError::Full(message)) => {
                assert_eq!(inodes(&message), [expected]);
                break message;
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert!(a.has_unsent());
    sent.push_back(inode(&refused.handles.get(0).expect("a handle")));
    let mut refused = Some(refused);
    while let Some(expected) = sent.pop_front() {
        assert_eq!(inodes(&recv(&mut b)), [expected], "in order, none lost, none twice");
        refused = refused.take().and_then(|message| match a.try_send(message) {
            Ok(()) => None,
            Err(TrySendError::Full(message)) => Some(message),
            Err(error) => panic!("{error}"),
        });
        a.flush().expect("open");
    }
    assert!(refused.is_none() && !a.has_unsent());
    assert!(matches!(b.try_recv(), Err(TryRecvError::Empty)));
}

#[test]
fn what_is_over_the_limits_is_refused_and_comes_back() {
    let (a, _b) = Channel::pair().expect("a pair");
    let mut a = a.with_limits(Limits {
        payload_bytes_max: 10,
        handles_per_message_max: 1,
        ..Limits::default()
    });
    for message in
        [Message::new(1, [0; 11]), Message::new(1, []).with_handle(handle()).with_handle(handle())]
    {
        let (bytes, handles) = (message.payload.len(), message.handles.len());
        match a.try_send(message) {
            Err(TrySendError::TooLarge(message)) => {
                assert_eq!((message.payload.len(), message.handles.len()), (bytes, handles));
                match a.send_deadline(message, soon()) {
                    Err(SendError::TooLarge(message)) => assert_eq!(message.payload.len(), bytes),
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{other:?}"),
        }
    }
    a.try_send(Message::new(1, [0; 10]).with_handle(handle())).expect("within the limits");
}

#[test]
fn a_receive_deadline_passes_and_a_later_call_goes_on() {
    let (mut ours, mut theirs) = raw_peer();
    let bytes = frame(5, 0, b"late");
    theirs.write_all(&bytes[..bytes.len() - 1]).expect("room");
    assert!(matches!(ours.recv_deadline(in_ms(10)), Err(RecvError::TimedOut)));
    assert!(ours.is_mid_message());
    theirs.write_all(&bytes[bytes.len() - 1..]).expect("room");
    assert_eq!(recv(&mut ours).payload, b"late");
}

#[test]
fn f37_a_receive_deadline_is_not_extended_by_bytes_that_trickle_in() {
    let (ours, mut theirs) = raw_peer();
    let mut ours = ours.with_limits(Limits { payload_bytes_max: 1 << 30, ..Limits::default() });
    thread::scope(|scope| {
        scope.spawn(move || {
            theirs.write_all(&[1, 0, 0, 0, 0, 0, 0, 0x40]).expect("room");
            while theirs.write_all(&[0]).is_ok() {}
        });
        assert!(matches!(ours.recv_deadline(in_ms(50)), Err(RecvError::TimedOut)));
        assert!(ours.is_mid_message());
        ours.shutdown().expect("a socket");
    });

    // Nor do bytes that are there already, if they take several reads.
    let (mut a, mut b) = Channel::pair().expect("a pair");
    a.try_send(Message::new(1, vec![0; 100_000])).expect("room");
    assert!(!a.has_unsent());
    assert!(matches!(b.recv_deadline(in_ms(0)), Err(RecvError::TimedOut)));
    assert_eq!(recv(&mut b).payload.len(), 100_000);
}

#[test]
fn a_past_deadline_still_gives_what_is_there() {
    let (mut a, mut b) = Channel::pair().expect("a pair");
    a.try_send(Message::new(3, [])).expect("room");
    assert_eq!(b.recv_deadline(in_ms(0)).expect("it is there").kind, 3);
    assert!(matches!(b.recv_deadline(in_ms(0)), Err(RecvError::TimedOut)));
}

#[test]
fn a_send_deadline_gives_the_message_back_until_its_first_byte_went() {
    let (mut a, mut b) = Channel::pair().expect("a pair");
    let large = Message::new(1, vec![7; MORE_THAN_A_SOCKET_TAKES]).with_handle(handle());
    let first = inode(&large.handles.get(0).expect("a handle"));
    match a.send_deadline(large, in_ms(10)) {
        Err(SendError::TimedOut(None)) => assert!(a.has_unsent(), "the rest is queued"),
        other => panic!("{other:?}"),
    }
    let small = Message::new(2, []).with_handle(handle());
    let second = inode(&small.handles.get(0).expect("a handle"));
    let small = match a.send_deadline(small, in_ms(10)) {
        Err(SendError::TimedOut(Some(small))) => small,
        other => panic!("{other:?}"),
    };
    let reader = thread::spawn(move || [recv(&mut b), recv(&mut b)]);
    a.send_deadline(small, soon()).expect("it is read now");
    let [large, small] = reader.join().expect("no panic");
    assert_eq!((large.payload.len(), inodes(&large)), (MORE_THAN_A_SOCKET_TAKES, vec![first]));
    assert_eq!((small.kind, inodes(&small)), (2, vec![second]));
}

#[test]
fn f14_a_peer_that_is_gone_costs_no_message() {
    let (mut a, b) = Channel::pair().expect("a pair");
    drop(b);
    let message = Message::new(1, "cargo").with_handle(handle());
    let expected = inode(&message.handles.get(0).expect("a handle"));
    let message = match a.try_send(message) {
        Err(TrySendError::Closed(message)) => message,
        other => panic!("{other:?}"),
    };
    match a.send_deadline(message, soon()) {
        Err(SendError::Closed(Some(message))) => assert_eq!(inodes(&message), [expected]),
        other => panic!("{other:?}"),
    }
    expect_closed(&mut a);
}

#[test]
fn k10_what_was_sent_before_the_end_is_received() {
    let (mut a, mut b) = Channel::pair().expect("a pair");
    let mut expected = Vec::new();
    for kind in 0..20 {
        let message = Message::new(kind, [kind; 100]).with_handle(handle());
        expected.push(inode(&message.handles.get(0).expect("a handle")));
        a.try_send(message).expect("room");
    }
    // Something unread, so that closing resets the connection.
    b.try_send(Message::new(0, "unread")).expect("room");
    drop(a);
    for expected in expected {
        assert_eq!(inodes(&recv(&mut b)), [expected]);
    }
    expect_closed(&mut b);
    expect_closed(&mut b);
    assert!(!b.is_mid_message());
}

#[test]
fn a_peer_that_goes_in_the_middle_of_a_message_is_told_from_one_that_ends() {
    let (mut ours, mut theirs) = raw_peer();
    theirs.write_all(&frame(1, 0, b"never finished")[..12]).expect("room");
    drop(theirs);
    expect_closed(&mut ours);
    assert!(ours.is_mid_message());
}

#[test]
fn two_sides_that_wait_for_each_others_long_message_get_it() {
    let (a, b) = Channel::pair().expect("a pair");
    let side = |mut channel: Channel| {
        in_thread(move || {
            channel.try_send(Message::new(1, vec![1; MORE_THAN_A_SOCKET_TAKES])).expect("room");
            channel.try_send(Message::new(2, [])).expect("room");
            assert!(channel.has_unsent());
            assert_eq!(recv(&mut channel).payload.len(), MORE_THAN_A_SOCKET_TAKES);
            assert_eq!(recv(&mut channel).kind, 2);
            channel.flush_deadline(soon()).expect("it is read");
        })
    };
    let sides = [side(a), side(b)];
    sides.iter().for_each(in_time);
}

#[test]
fn f12_what_has_not_gone_comes_back_with_its_handles_and_in_order() {
    let (mut a, mut b) = Channel::pair().expect("a pair");
    a.try_send(Message::new(1, vec![1; MORE_THAN_A_SOCKET_TAKES])).expect("room");
    let given = handles(3);
    let expected: Vec<u64> = given.iter().map(inode).collect();
    for (kind, handle) in (2..).zip(given) {
        a.try_send(Message::new(kind, "later").with_handle(handle)).expect("room");
    }
    let unsent = a.into_unsent();
    let kinds: Vec<u8> = unsent.iter().map(|message| message.kind).collect();
    assert_eq!(kinds, [2, 3, 4], "a part of the first has gone");
    assert_eq!(unsent.iter().flat_map(inodes).collect::<Vec<_>>(), expected);
    assert!(unsent.iter().all(|message| message.payload == b"later"));
    expect_closed(&mut b);
}

#[test]
fn the_halves_work_from_two_threads() {
    let (ours, theirs) = Channel::pair().expect("a pair");
    let (mut sender, mut receiver) = ours.into_split();
    let (mut their_sender, mut their_receiver) = theirs.into_split();
    let echo = thread::spawn(move || {
        while let Ok(message) = their_receiver.recv_deadline(soon()) {
            their_sender.send_deadline(message, soon()).expect("it is read");
        }
    });
    let writer = thread::spawn(move || {
        for kind in 0..=u8::MAX {
            let message = Message::new(kind, vec![kind; 5000]).with_handle(handle());
            sender.send_deadline(message, soon()).expect("it is read");
        }
        sender
    });
    for kind in 0..=u8::MAX {
        let message = receiver.recv_deadline(soon()).expect("it is echoed");
        assert_eq!((message.kind, message.handles.len()), (kind, 1));
    }
    drop((writer.join().expect("no panic"), receiver));
    echo.join().expect("both halves are gone, so the channel is closed");
}

#[test]
fn shutdown_ends_a_call_that_blocks_in_another_thread() {
    for deadline in [soon(), None] {
        let (ours, mut theirs) = Channel::pair().expect("a pair");
        let (sender, mut receiver) = ours.into_split();
        let (about_to_block, blocks) = mpsc::channel();
        let received = in_thread(move || {
            receiver.recv_deadline(soon()).expect("a first message");
            about_to_block.send(()).expect("the test waits");
            receiver.recv_deadline(deadline)
        });
        theirs.try_send(Message::new(1, [])).expect("room");
        blocks.recv().expect("the reader is alive");
        sender.shutdown().expect("a socket");
        assert!(matches!(in_time(&received), Err(RecvError::Closed)));
        expect_closed(&mut theirs);

        let (ours, _theirs) = Channel::pair().expect("a pair");
        let (mut sender, receiver) = ours.into_split();
        let large = Message::new(1, vec![0; MORE_THAN_A_SOCKET_TAKES]);
        assert!(matches!(sender.send_deadline(large, in_ms(1)), Err(SendError::TimedOut(None))));
        let sent = in_thread(move || sender.send_deadline(Message::new(2, []), deadline));
        receiver.shutdown().expect("a socket");
        assert!(matches!(in_time(&sent), Err(SendError::Closed(Some(_)))));
        receiver.shutdown().expect("once more is no error");
    }
}

#[test]
fn calls_without_a_deadline_wait_whatever_mode_the_descriptor_is_in() {
    for is_nonblocking in [true, false] {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(is_nonblocking).expect("a socket");
        theirs.set_nonblocking(is_nonblocking).expect("a socket");
        let mut ours = Channel::from_fd(ours.into()).expect("a channel");
        let (mut sender, mut receiver) =
            Channel::from_fd(theirs.into()).expect("a channel").into_split();
        let payload = vec![7; MORE_THAN_A_SOCKET_TAKES];
        let echo = in_thread(move || {
            let message = receiver.recv_deadline(None).expect("open");
            sender.send_deadline(message, None).expect("open");
            sender.flush_deadline(None)
        });
        let received = in_thread(move || {
            ours.send_deadline(Message::new(1, payload), None).expect("open");
            ours.recv_deadline(None)
        });
        let message = in_time(&received).expect("open");
        assert_eq!((message.kind, message.payload.len()), (1, MORE_THAN_A_SOCKET_TAKES));
        in_time(&echo).expect("nothing is left");
    }
}

#[test]
fn long_messages_among_short_ones_arrive_over_all_sockets() {
    let tcp = || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let ours = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (theirs, _) = listener.accept().expect("connected");
        [ours, theirs].map(|end| Channel::from_fd(end.into()).expect("a channel"))
    };
    let pairs: [(_, [Channel; 2]); 3] = [
        (200_000, Channel::pair().expect("a pair").into()),
        (PACKET_BYTES_MAX - HEADER_BYTES, Channel::packet_pair().expect("a pair").into()),
        (200_000, tcp()),
    ];
    for (longest, [mut ours, mut theirs]) in pairs {
        let lengths = [longest, longest, longest - 1, 3, 30_000, longest, 0, 60_000, 60_000, 9];
        let lengths: Vec<usize> = lengths.into_iter().cycle().take(50).collect();
        let sent = lengths.clone();
        let done = in_thread(move || {
            for (kind, length) in (0..).zip(sent) {
                let message = Message::new(kind, vec![kind; length]);
                match kind % 3 {
                    0 => ours.send_deadline(message, soon()).expect("the peer reads"),
                    _ => ours.queue(message).expect("within the limits"),
                }
            }
            ours.flush_deadline(soon())
        });
        for (kind, length) in (0..).zip(lengths) {
            let message = recv(&mut theirs);
            assert_eq!((message.kind, message.payload.len()), (kind, length));
            assert!(message.payload.iter().all(|byte| *byte == kind));
            assert_eq!(message.payload.capacity(), length, "nothing is held beyond its need");
        }
        in_time(&done).expect("all went");
        assert!(matches!(theirs.try_recv(), Err(TryRecvError::Closed)));
    }
}

#[test]
fn f39_under_an_edge_triggered_poll_nothing_is_left_behind() {
    const MESSAGES: u32 = 3000;
    let (mut a, mut b) = Channel::pair().expect("a pair");
    let mut poll = Poll::new().expect("an epoll");
    let interests = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut a, Token(0), interests).expect("a fresh descriptor");
    poll.registry().register(&mut b, Token(1), interests).expect("a fresh descriptor");
    let mut events = Events::with_capacity(8);
    let (mut next_sent, mut next_received) = (0, 0);
    let mut refused = None;
    while next_received < MESSAGES {
        poll.poll(&mut events, Some(std::time::Duration::from_secs(30))).expect("an epoll");
        assert!(!events.is_empty(), "stalled at {next_received} of {next_sent}");
        for event in &events {
            if event.token() == Token(0) && event.is_writable() {
                a.flush().expect("open");
                while next_sent < MESSAGES {
                    let message = refused.take().unwrap_or_else(|| {
                        let message = Message::new(0, next_sent.to_le_bytes());
                        if next_sent % 7 == 0 { message.with_handle(handle()) } else { message }
                    });
                    match a.try_send(message) {
                        Ok(()) => next_sent += 1,
                        Err(error) => {
                            refused = Some(error.into_message());
                            break;
                        }
                    }
                }
            }
            while event.token() == Token(1) {
                let message = match b.try_recv() {
                    Ok(message) => message,
                    Err(TryRecvError::Empty) => break,
                    Err(error) => panic!("{error}"),
                };
                assert_eq!(message.payload, u32::to_le_bytes(next_received));
                assert_eq!(message.handles.len(), usize::from(next_received % 7 == 0));
                next_received += 1;
            }
        }
    }
    poll.registry().reregister(&mut a, Token(2), Interest::READABLE).expect("registered");
    poll.registry().deregister(&mut a).expect("registered");
    assert!(poll.registry().deregister(&mut a).is_err());
}

#[test]
fn a_descriptor_that_is_no_connected_socket_is_refused_by_name() {
    let refusal = |fd: OwnedFd| Channel::from_fd(fd).expect_err("not a channel").to_string();
    let path = std::env::temp_dir().join(format!("ipc-core-{}.sock", std::process::id()));
    let unix_listener = UnixListener::bind(&path).expect("a free path");
    std::fs::remove_file(&path).expect("just created");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    for (fd, what) in [
        (File::open("/dev/null").expect("it exists").into(), "no socket"),
        (UnixDatagram::pair().expect("a pair").0.into(), "type Datagram"),
        (udp.into(), "family Inet and type Datagram"),
        (listener.into(), "not connected"),
        (unix_listener.into(), "not connected"),
    ] {
        let refusal = refusal(fd);
        assert!(refusal.contains(what), "{refusal}");
    }
}

#[test]
fn a_descriptor_makes_a_channel_again_even_if_the_peer_is_gone() {
    let (a, mut b) = Channel::pair().expect("a pair");
    let mut a = Channel::from_fd(a.into_fd()).expect("a channel");
    a.try_send(Message::new(8, "last words")).expect("room");
    drop(a);
    assert_eq!(recv(&mut b).kind, 8);
    let mut b = Channel::from_fd(b.into_fd()).expect("a channel, closed by the peer");
    expect_closed(&mut b);
}

#[test]
fn f22_a_descriptor_in_blocking_mode_does_not_make_calls_block() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    ours.set_nonblocking(false).expect("a socket");
    let mut ours = Channel::from_fd(ours.into()).expect("a channel");
    assert!(matches!(ours.try_recv(), Err(TryRecvError::Empty)));
    ours.try_send(Message::new(1, vec![0; MORE_THAN_A_SOCKET_TAKES])).expect("queued");
    assert!(!ours.flush().expect("open"));
    drop(theirs);
}

#[test]
fn a_tcp_connection_is_a_channel_without_handles() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let client = TcpStream::connect(address).expect("a connection");
    let mut ours = Channel::from_fd(client.into()).expect("a stream socket");
    let mut theirs = Channel::from_fd(listener.accept().expect("one").0.into()).expect("a stream");
    ours.send_deadline(Message::new(5, "over TCP"), soon()).expect("room");
    assert_eq!(recv(&mut theirs).payload, b"over TCP");
    let message = || Message::new(6, "").with_handle(handle());
    for refused in [ours.try_send(message()), ours.queue(message())] {
        let Err(TrySendError::Io { error, message }) = refused else { panic!("{refused:?}") };
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
        assert_eq!(message.handles.len(), 1, "it comes back");
    }
    theirs.send_deadline(Message::new(7, "and back"), soon()).expect("room");
    assert_eq!(recv(&mut ours).kind, 7);
}

#[test]
fn kinds_travel_with_messages_that_wait_too() {
    for pair in [Channel::pair(), Channel::packet_pair()] {
        let (mut ours, mut theirs) = pair.expect("a socket pair");
        for length in [1, 20_000] {
            let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
            let (reader, _writer) = std::io::pipe().expect("a pipe");
            let message = Message::new(1, vec![0; length]).with_handle(udp).with_handle(reader);
            ours.queue(message).expect("room");
        }
        assert!(ours.flush().expect("open"));
        for length in [1, 20_000] {
            let message = recv(&mut theirs);
            assert_eq!(message.payload.len(), length);
            let kinds: Vec<_> = message.handles.iter().map(|handle| handle.kind()).collect();
            assert_eq!(kinds, [HandleKind::UdpSocket, HandleKind::Pipe]);
        }
    }
}

#[test]
fn handles_are_taken_by_place_and_type_and_a_refused_one_stays() {
    let (mut ours, mut theirs) = Channel::pair().expect("a socket pair");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    let sent = Message::new(1, "two").with_handle(listener).with_handle(reader);
    ours.try_send(sent).expect("room");
    let mut message = recv(&mut theirs);
    let kinds: Vec<_> = message.handles.iter().map(|handle| handle.kind()).collect();
    assert_eq!(kinds, [HandleKind::TcpListener, HandleKind::Pipe], "the kinds have travelled");
    let error = message.take_handle::<TcpListener>(1).expect_err("a pipe");
    assert_eq!(error.to_string(), "handle 1 is a pipe where a TCP listener was expected");
    message.take_handle::<std::io::PipeReader>(1).expect("it has stayed");
    message.take_handle::<TcpListener>(0).expect("at its place");
    for index in 0..3 {
        let error = message.take_handle::<std::fs::File>(index).expect_err("none is left");
        assert!(matches!(error, TakeHandleError::Missing { places: 2, .. }), "{error}");
    }
}
