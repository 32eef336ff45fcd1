//! What all systems have in common: channels in one process, with a child, and by name; handles,
//! memory and rings that go to another process. The other test binaries are Unix's own.

mod util;

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use ipc_core::shm::{ReadOnlyMemory, SharedMemory, ring};
use ipc_core::{
    AcceptError, Address, Bootstrap, Channel, ChannelSet, Limits, Listener, Message, ProtocolError,
    RecvError, SetEvent, TryRecvError, TrySendError,
};
use mio::{Events, Interest, Poll, Token};
use util::{in_ms, soon};

fn recv(channel: &mut Channel) -> Message {
    channel.recv_deadline(soon()).expect("a message")
}

fn expect_closed(channel: &mut Channel) {
    let end = channel.recv_deadline(soon());
    assert!(matches!(end, Err(RecvError::Closed)), "{end:?}");
}

/// A name that no other test has.
fn address() -> Address {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("ipc-core-portable-{}-{number}", std::process::id());
    if cfg!(windows) {
        Address::pipe(name).expect("short")
    } else {
        Address::path(std::env::temp_dir().join(name)).expect("short")
    }
}

/// A file with this content, without a name where the system allows that.
fn file(content: &str) -> File {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("ipc-core-portable-file-{}-{number}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let options = File::options().read(true).write(true).create_new(true).open(&path);
    let mut file = options.expect("a new file");
    file.write_all(content.as_bytes()).expect("room");
    file.rewind().expect("a file");
    let _ = std::fs::remove_file(path);
    file
}

#[test]
fn messages_go_both_ways_whole_and_in_order() {
    let (mut a, mut b) = Channel::pair().expect("a pair");
    for length in [0, 1, 100, 65_000, 66_000, 1024 * 1024] {
        let payload: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).expect("small")).collect();
        thread::scope(|scope| {
            let expected = payload.clone();
            let sent = scope.spawn(|| a.send_deadline(Message::new(7, payload), soon()));
            let message = recv(&mut b);
            assert!(message.kind == 7 && message.payload == expected, "{length} bytes");
            sent.join().expect("no panic").expect("the peer reads");
        });
        b.send_deadline(Message::new(8, "got it"), soon()).expect("room");
        assert_eq!(recv(&mut a).payload, b"got it");
    }
    drop(a);
    expect_closed(&mut b);
    assert!(b.send_deadline(Message::new(1, ""), soon()).is_err());
}

#[test]
fn many_messages_leave_together() {
    let (mut a, mut b) = Channel::pair().expect("a pair");
    for kind in 0..200 {
        a.queue(Message::new(kind, vec![kind; 50])).expect("room");
    }
    a.flush_deadline(soon()).expect("the pipe takes it");
    for kind in 0..200 {
        let message = recv(&mut b);
        assert_eq!((message.kind, message.payload), (kind, vec![kind; 50]));
    }
    assert!(matches!(b.try_recv(), Err(TryRecvError::Empty)));
}

#[test]
fn a_full_channel_gives_the_message_back() {
    let (mut a, mut b) = Channel::pair().expect("a pair");
    let mut sent = 0_u32;
    let refused = loop {
        match a.try_send(Message::new(1, vec![9; 60_000])) {
            Ok(()) => sent += 1,
            Err(TrySendError::Full(message)) => break message,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(refused.payload.len(), 60_000);
    thread::scope(|scope| {
        scope.spawn(|| (0..sent).for_each(|_| assert_eq!(recv(&mut b).payload.len(), 60_000)));
        a.flush_deadline(soon()).expect("the peer reads");
    });
    assert!(!a.has_unsent());
}

#[test]
fn deadlines_pass_and_nothing_is_lost_by_that() {
    let (mut a, mut b) = Channel::pair().expect("a pair");
    assert!(matches!(b.recv_deadline(in_ms(10)), Err(RecvError::TimedOut)));
    a.send_deadline(Message::new(1, "late"), soon()).expect("room");
    assert_eq!(recv(&mut b).payload, b"late");
}

#[test]
fn shutdown_ends_a_call_that_blocks_in_another_thread_and_the_peer_learns() {
    let (a, mut b) = Channel::pair().expect("a pair");
    let (sender, mut receiver) = a.into_split();
    thread::scope(|scope| {
        let blocked = scope.spawn(move || receiver.recv_deadline(soon()));
        sender.shutdown().expect("our own");
        let end = blocked.join().expect("no panic");
        assert!(matches!(end, Err(RecvError::Closed)), "{end:?}");
    });
    expect_closed(&mut b);
}

#[test]
fn with_mio_messages_are_events() {
    let (mut a, mut b) = Channel::pair().expect("a pair");
    a.send_deadline(Message::new(0, "before"), soon()).expect("room");
    let mut poll = Poll::new().expect("a poll");
    let both = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut b, Token(1), both).expect("a source");
    let mut events = Events::with_capacity(8);
    let mut received = Vec::new();
    while received.len() < 5 {
        poll.poll(&mut events, Some(Duration::from_secs(30))).expect("a poll");
        assert!(!events.is_empty(), "an event before the deadline");
        b.flush().expect("a peer");
        loop {
            match b.try_recv() {
                Ok(message) => {
                    received.push(message.kind);
                    b.try_send(Message::new(message.kind, vec![1; 30_000])).expect("room");
                    if received.len() < 5 {
                        let next = Message::new(message.kind + 1, "next");
                        a.send_deadline(next, soon()).expect("room");
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert_eq!(received, [0, 1, 2, 3, 4]);
    thread::scope(|scope| {
        let answers =
            scope.spawn(|| (0..5).map(|_| recv(&mut a).payload.len()).collect::<Vec<_>>());
        while b.has_unsent() {
            poll.poll(&mut events, Some(Duration::from_secs(30))).expect("a poll");
            b.flush().expect("a peer");
        }
        // What is with the system may still need the poll to get on.
        while !answers.is_finished() {
            poll.poll(&mut events, Some(Duration::from_millis(10))).expect("a poll");
        }
        assert_eq!(answers.join().expect("no panic"), [30_000; 5]);
    });
    poll.registry().deregister(&mut b).expect("it is registered");
}

#[test]
fn with_mio_it_still_blocks_and_another_poll_will_do() {
    let (mut a, mut b) = Channel::pair().expect("a pair");
    for _ in 0..2 {
        let mut poll = Poll::new().expect("a poll");
        let mut events = Events::with_capacity(4);
        poll.registry().register(&mut b, Token(3), Interest::READABLE).expect("registered");
        assert!(matches!(b.try_recv(), Err(TryRecvError::Empty)));
        a.send_deadline(Message::new(1, "seen"), soon()).expect("room");
        let message = loop {
            poll.poll(&mut events, Some(Duration::from_secs(20))).expect("a poll");
            assert!(!events.is_empty(), "no event for 20 s");
            match b.try_recv() {
                Err(TryRecvError::Empty) => {}
                result => break result.expect("a message"),
            }
        };
        assert_eq!(message.payload, b"seen");
        a.send_deadline(Message::new(1, "waited for"), soon()).expect("room");
        assert_eq!(recv(&mut b).payload, b"waited for");
        poll.registry().deregister(&mut b).expect("deregistered");
    }
}

/// The poll does not run in between.
#[test]
fn with_mio_all_that_has_come_is_received() {
    let (mut a, mut b) = Channel::pair().expect("a pair");
    let poll = Poll::new().expect("a poll");
    poll.registry().register(&mut b, Token(3), Interest::READABLE).expect("registered");
    assert!(matches!(b.try_recv(), Err(TryRecvError::Empty)));
    for number in 0..10 {
        a.send_deadline(Message::new(number, vec![number; 9_000]), soon()).expect("room");
    }
    drop(a);
    for number in 0..10 {
        assert_eq!(b.try_recv().expect("it has come").kind, number);
    }
    assert!(matches!(b.try_recv(), Err(TryRecvError::Closed)));
}

#[test]
fn a_set_waits_for_several_channels() {
    let mut set = ChannelSet::new().expect("a poll");
    let mut others = Vec::new();
    for kind in 0..5_u8 {
        let (ours, mut theirs) = Channel::pair().expect("a pair");
        set.insert(ours).expect("a source");
        theirs.send_deadline(Message::new(kind, "hello"), soon()).expect("room");
        others.push(theirs);
    }
    let mut kinds = Vec::new();
    while kinds.len() < 5 {
        match set.wait(soon()).expect("a poll") {
            Some((_, SetEvent::Message(message))) => kinds.push(message.kind),
            other => panic!("{other:?}"),
        }
    }
    kinds.sort_unstable();
    assert_eq!(kinds, [0, 1, 2, 3, 4]);
    drop(others);
    for _ in 0..5 {
        let event = set.wait(soon()).expect("a poll");
        assert!(matches!(event, Some((_, SetEvent::Closed(_)))), "{event:?}");
    }
}

#[test]
fn f99_by_name_many_clients_and_one_listener() {
    let address = address();
    let mut listener = Listener::bind(&address).expect("a free name");
    // Wine 8 does not know FILE_FLAG_FIRST_PIPE_INSTANCE; ci/windows.sh says so.
    if std::env::var_os("UNDER_WINE").is_none() {
        let taken = Listener::bind(&address).expect_err("it is taken");
        assert_eq!(taken.kind(), ErrorKind::AddrInUse, "{taken}");
    }
    thread::scope(|scope| {
        for client in 0..6 {
            let address = &address;
            scope.spawn(move || {
                let mut channel = Channel::connect_deadline(address, soon()).expect("it listens");
                channel.send_deadline(Message::new(client, "ping"), soon()).expect("room");
                assert_eq!(recv(&mut channel).kind, client);
            });
        }
        let mut answered = 0;
        while answered < 6 {
            let (mut channel, peer) = listener.accept_deadline(soon()).expect("a client");
            assert_eq!(peer.process_id(), Some(std::process::id()));
            // On Unix, the second listener has knocked to find out that this one is alive.
            let Ok(message) = channel.recv_deadline(soon()) else { continue };
            channel.send_deadline(message, soon()).expect("room");
            answered += 1;
        }
    });
    assert!(matches!(listener.accept_deadline(in_ms(10)), Err(AcceptError::TimedOut)));
    drop(listener);
    let error = Channel::connect(&address).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    Listener::bind(&address).expect("the name is free again");
}

#[test]
fn by_name_with_mio() {
    let address = address();
    let mut listener = Listener::bind(&address).expect("a free name");
    let mut poll = Poll::new().expect("a poll");
    poll.registry().register(&mut listener, Token(0), Interest::READABLE).expect("a source");
    thread::scope(|scope| {
        for client in 0..3 {
            let address = &address;
            scope.spawn(move || {
                let mut channel = Channel::connect_deadline(address, soon()).expect("it listens");
                channel.send_deadline(Message::new(client, "ping"), soon()).expect("room");
                assert_eq!(recv(&mut channel).payload, b"pong");
            });
        }
        let mut events = Events::with_capacity(8);
        let mut channels: Vec<Channel> = Vec::new();
        let mut answered = 0;
        while answered < 3 || channels.iter().any(Channel::has_unsent) {
            poll.poll(&mut events, Some(Duration::from_secs(30))).expect("a poll");
            assert!(!events.is_empty(), "an event before the deadline");
            while let Ok((mut channel, _)) = listener.try_accept() {
                let both = Interest::READABLE | Interest::WRITABLE;
                let token = Token(1 + channels.len());
                poll.registry().register(&mut channel, token, both).expect("a source");
                channels.push(channel);
            }
            for channel in &mut channels {
                channel.flush().expect("a peer");
                while channel.try_recv().is_ok() {
                    channel.try_send(Message::new(0, "pong")).expect("room");
                    answered += 1;
                }
            }
        }
    });
}

const ROLE: &str = "IPC_CORE_TEST_ROLE";

/// Starts a role of this binary, with a channel to it.
fn spawn(role: &str) -> (Channel, Child) {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args([role, "--exact", "--nocapture"]).env(ROLE, role).stdout(Stdio::null());
    Bootstrap::new().spawn(&mut command).expect("a process")
}

/// In a role, its channel; `None` when the test runs like any other.
fn role() -> Option<Channel> {
    std::env::var_os(ROLE)?;
    Some(Bootstrap::new().take().expect("a parent").expect("an end"))
}

#[test]
fn handles_go_to_a_child_and_are_what_they_were() {
    let (mut channel, mut child) = spawn("role_with_handles");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let mut client = TcpStream::connect(address).expect("it listens");
    let (stream, _) = listener.accept().expect("the client");
    let memory = SharedMemory::create(4096).expect("memory");
    memory.write_at(100, b"in memory").expect("within");
    let message = Message::new(1, address.to_string())
        .with_handle(file("in a file"))
        .with_handle(stream)
        .with_handle(listener)
        .with_handle(memory.try_clone_handle().expect("a duplicate"));
    channel.send_deadline(message, soon()).expect("the child reads");
    let answer = recv(&mut channel);
    assert_eq!(String::from_utf8_lossy(&answer.payload), "in a file, in memory");
    let mut text = [0; 5];
    client.read_exact(&mut text).expect("the child writes");
    assert_eq!(&text, b"hello");
    let mut word = [0; 4];
    memory.read_at(200, &mut word).expect("within");
    assert_eq!(&word, b"back", "the child writes to the same memory");
    assert!(child.wait().expect("our child").success());
    expect_closed(&mut channel);
}

#[test]
fn role_with_handles() {
    let Some(mut channel) = role() else { return };
    let mut message = recv(&mut channel);
    let mut text = String::new();
    let mut file = message.take_handle::<File>(0).expect("a file");
    file.read_to_string(&mut text).expect("it has text");
    let wrong = message.take_handle::<TcpListener>(1).expect_err("a stream");
    assert!(wrong.to_string().contains("a TCP stream"), "{wrong}");
    let mut stream = message.take_handle::<TcpStream>(1).expect("a stream");
    let listener = message.take_handle::<TcpListener>(2).expect("a listener");
    let address = listener.local_addr().expect("it is bound").to_string();
    assert_eq!(address.as_bytes(), message.payload);
    let handle = message.handles.take(3).expect("memory");
    let memory = SharedMemory::open(handle, 4096).expect("memory");
    let mut read = [0; 9];
    memory.read_at(100, &mut read).expect("within");
    memory.write_at(200, b"back").expect("within");
    stream.write_all(b"hello").expect("a client");
    let answer = format!("{text}, {}", String::from_utf8_lossy(&read));
    channel.send_deadline(Message::new(2, answer), soon()).expect("the parent reads");
}

#[test]
fn memory_for_readers_can_not_be_written() {
    let memory = SharedMemory::create_for_readers(4096).expect("memory");
    memory.write_at(0, b"words").expect("within");
    let handle = memory.try_clone_handle().expect("a duplicate");
    assert!(SharedMemory::open(handle, 4096).is_err());
    let handle = memory.try_clone_handle().expect("a duplicate");
    let readable = ReadOnlyMemory::open(handle, 4096).expect("it may be read");
    let mut words = [0; 5];
    readable.read_at(0, &mut words).expect("within");
    assert_eq!(&words, b"words");
    assert!(
        ReadOnlyMemory::open(memory.try_clone_handle().expect("a duplicate"), 10).is_err()
            || cfg!(windows)
    );
    let file = file("no memory");
    assert!(SharedMemory::open(file.into(), 4096).is_err());
}

#[test]
fn a_ring_goes_to_a_child_which_dies() {
    let (producer, mut consumer) = ring::create(64 * 1024).expect("a ring");
    let (mut channel, mut child) = spawn("role_producer");
    let [memory, bell] = producer.into_handles();
    let message = Message::new(1, "a ring").with_handle(memory).with_handle(bell);
    channel.send_deadline(message, soon()).expect("the child reads");
    let mut record = Vec::new();
    for number in 0..2000_u32 {
        consumer.recv_deadline(&mut record, soon()).expect("a record");
        assert_eq!(record, number.to_le_bytes());
    }
    child.kill().expect("our child");
    let _ = child.wait();
    let end = consumer.recv_deadline(&mut record, soon());
    assert!(matches!(end, Err(ring::RecvError::Closed)), "{end:?}");
}

#[test]
fn role_producer() {
    let Some(mut channel) = role() else { return };
    let message = recv(&mut channel);
    let mut producer = ring::Producer::from_handles(message.handles, 64 * 1024).expect("a ring");
    for number in 0..2000_u32 {
        producer.send_deadline(&number.to_le_bytes(), soon()).expect("the parent reads");
    }
    let _ = channel.recv_deadline(None); // until it is killed
}

#[test]
fn a_child_that_is_killed_ends_the_channel() {
    let (mut channel, mut child) = spawn("role_talkative");
    for kind in 0..5 {
        assert_eq!(recv(&mut channel).kind, kind);
    }
    child.kill().expect("our child");
    let _ = child.wait();
    expect_closed(&mut channel);
}

#[test]
fn role_talkative() {
    let Some(mut channel) = role() else { return };
    for kind in 0..5 {
        channel.send_deadline(Message::new(kind, "words"), soon()).expect("the parent reads");
    }
    let _ = channel.recv_deadline(None); // until it is killed
}

#[test]
fn hostile_what_is_over_the_limits_fails_the_channel() {
    let (a, mut b) = Channel::pair().expect("a pair");
    let mut a = a.with_limits(Limits { payload_bytes_max: 10, ..Limits::default() });
    b.send_deadline(Message::new(1, "a short one"), soon()).expect("room");
    let error = a.recv_deadline(soon());
    let expected = ProtocolError::PayloadTooLarge { bytes: 11, max: 10 };
    assert!(matches!(error, Err(RecvError::Protocol(found)) if found == expected), "{error:?}");
}

#[test]
fn a_process_that_nobody_has_started_like_that_has_no_channel() {
    if std::env::var_os(ROLE).is_none() {
        assert!(Bootstrap::new().take().expect("no nonsense").is_none());
    }
}
