//! Channels by name: who connects, who is let in, and whom the other side finds.
#![cfg(unix)]

mod util;

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use ipc_core::{AcceptError, Channel, Listener, Message, PeerPolicy};
use mio::{Events, Interest, Poll, Token};
use util::named::{Directory, NOBODY, abstract_address, in_process, place, refusal, say};
use util::{descriptor_count, expect_closed, in_ms, recv, soon, wait};

#[test]
fn many_clients_get_a_channel_each() {
    let directory = Directory::new();
    let before = descriptor_count();
    {
        let mut listener = Listener::bind(&directory.address()).expect("a free path");
        let address = directory.address();
        thread::scope(|scope| {
            for client in 0..20 {
                let address = &address;
                scope.spawn(move || {
                    let mut channel =
                        Channel::connect_deadline(address, soon()).expect("it listens");
                    channel.try_send(Message::new(client, "ping")).expect("room");
                    assert_eq!(recv(&mut channel).kind, client);
                });
            }
            for _ in 0..20 {
                let (mut channel, peer) = listener.accept_deadline(soon()).expect("a client");
                assert_eq!(peer.process_id(), Some(std::process::id()));
                assert_eq!(peer.user_id(), Some(nix::unistd::geteuid().as_raw()));
                let message = recv(&mut channel);
                channel.try_send(message).expect("room");
            }
        });
        assert!(matches!(listener.try_accept(), Err(AcceptError::Empty)));
        assert!(matches!(listener.accept_deadline(in_ms(5)), Err(AcceptError::TimedOut)));
    }
    assert_eq!(directory.files(), [""; 0], "the file is gone");
    // Other tests of this process come and go; none has this many descriptors.
    assert!(descriptor_count() < before + 20);
}

#[test]
fn f39_with_mio_a_client_is_an_event() {
    let directory = Directory::new();
    let mut listener = Listener::bind(&directory.address()).expect("a free path");
    let mut poll = Poll::new().expect("a poll");
    poll.registry().register(&mut listener, Token(3), Interest::READABLE).expect("a source");
    let _clients = [(); 3].map(|()| Channel::connect(&directory.address()).expect("it listens"));
    let mut events = Events::with_capacity(8);
    let mut accepted = 0;
    while accepted < 3 {
        poll.poll(&mut events, Some(std::time::Duration::from_secs(30))).expect("a poll");
        assert!(events.iter().all(|event| event.token() == Token(3)));
        assert!(!events.is_empty(), "an event before the deadline");
        while listener.try_accept().is_ok() {
            accepted += 1;
        }
    }
}

#[test]
fn f37_a_client_that_says_nothing_stops_nobody() {
    let directory = Directory::new();
    let mut listener = Listener::bind(&directory.address()).expect("a free path");
    let _silent = Channel::connect(&directory.address()).expect("it listens");
    let mut other = Channel::connect(&directory.address()).expect("it listens");
    other.try_send(Message::new(1, "hello")).expect("room");
    let (mut first, _) = listener.accept_deadline(soon()).expect("the silent one");
    let (mut second, _) = listener.accept_deadline(soon()).expect("the other one");
    assert!(first.try_recv().is_err());
    assert_eq!(recv(&mut second).kind, 1);
}

#[test]
fn connecting_waits_for_a_listener_that_starts_later() {
    let directory = Directory::new();
    let address = directory.address();
    let error = Channel::connect(&address).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("a.sock"), "{error}");
    let error = Channel::connect_deadline(&address, in_ms(20)).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    thread::scope(|scope| {
        let client = scope.spawn(|| Channel::connect_deadline(&address, soon()));
        let mut listener = Listener::bind(&address).expect("a free path");
        listener.accept_deadline(soon()).expect("the client");
        client.join().expect("no panic").expect("it was there in time");
    });
}

#[test]
fn packets_are_kept_apart_by_name_too() {
    let directory = Directory::new();
    let mut listener =
        Listener::options().packets(true).bind(&directory.address()).expect("a free path");
    let mut client = Channel::connect(&directory.address()).expect("it finds out the type");
    client.try_send(Message::new(4, "a packet")).expect("room");
    let (mut server, _) = listener.accept_deadline(soon()).expect("the client");
    assert_eq!(recv(&mut server).kind, 4);
    assert_eq!(refusal(&directory.address()).kind(), ErrorKind::AddrInUse, "it is a live one");
}

#[test]
fn a_policy_turns_peers_away_on_both_ends() {
    let directory = Directory::new();
    let nobody = PeerPolicy::check(|_| false);
    let mut listener =
        Listener::options().policy(nobody.clone()).bind(&directory.address()).expect("a free path");
    let mut refused = Channel::connect(&directory.address()).expect("it listens");
    assert!(matches!(listener.try_accept(), Err(AcceptError::Empty)));
    assert_eq!(listener.refused(), 1);
    expect_closed(&mut refused);
    let error = Channel::connect_with(&directory.address(), &nobody, soon()).expect_err("nobody");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("listens there"), "{error}");
}

#[test]
fn k17_the_ends_of_a_pair_name_who_made_it_and_a_pidfd_names_the_process() {
    let (channel, _other) = Channel::pair().expect("a pair");
    let peer = channel.peer_identity().expect("a Unix socket");
    assert_eq!(peer.process_id(), Some(std::process::id()));
    if let Some(process) = peer.process() {
        assert_eq!(process.actual_kind().expect("open"), handle_passing::HandleKind::Process);
    } else {
        println!("skipped: this kernel has no SO_PEERPIDFD");
    }
}

#[test]
fn abstract_names_have_one_owner() {
    let address = abstract_address("one");
    let mut listener = Listener::bind(&address).expect("a free name");
    assert_eq!(refusal(&address).kind(), ErrorKind::AddrInUse);
    let _client = Channel::connect(&address).expect("it listens");
    listener.accept_deadline(soon()).expect("the client");
    drop(listener);
    let error = Channel::connect(&address).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn hostile_f88_another_user_is_turned_away_where_the_mode_lets_him_in() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let directory = Directory::new();
    directory.set_mode(0o755);
    for mode in [0o600, 0o666] {
        let mut listener =
            Listener::options().mode(mode).bind(&directory.address()).expect("a free path");
        let (mut child, said) = in_process("role_connect", &directory.socket(), Some(NOBODY));
        assert!(wait(&mut child).success());
        if mode == 0o600 {
            assert!(said.contains("PermissionDenied"), "{said}");
            assert!(matches!(listener.try_accept(), Err(AcceptError::Empty)));
            assert_eq!(listener.refused(), 0);
        } else {
            // The child lets root be its server; the server does not let the child in.
            assert!(said.contains("connected"), "{said}");
            assert!(matches!(listener.try_accept(), Err(AcceptError::Empty)));
            assert_eq!(listener.refused(), 1);
        }
    }
}

#[test]
fn hostile_f107_k19_an_abstract_name_that_another_user_has_taken() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let address = abstract_address("squatted");
    let (mut child, _) = in_process("role_listen", Path::new(&address.to_string()), Some(NOBODY));
    assert_eq!(refusal(&address).kind(), ErrorKind::AddrInUse);
    let error = Channel::connect(&address).expect_err("it is somebody else's");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("user 65534"), "{error}");
    child.kill().expect("our child");
    wait(&mut child);
}

#[test]
fn hostile_f06_a_flood_of_refused_peers_ends_a_call() {
    let directory = Directory::new();
    let nobody = PeerPolicy::check(|_| false);
    let mut listener =
        Listener::options().policy(nobody).bind(&directory.address()).expect("a free path");
    let clients = [(); 100].map(|()| Channel::connect(&directory.address()).expect("room"));
    assert!(matches!(listener.try_accept(), Err(AcceptError::Refusing)));
    assert_eq!(listener.refused(), 64);
    assert!(matches!(listener.try_accept(), Err(AcceptError::Empty)));
    assert_eq!(listener.refused(), 100);
    drop(clients);
    let clients = [(); 100].map(|()| Channel::connect(&directory.address()).expect("room"));
    assert!(matches!(listener.accept_deadline(in_ms(20)), Err(AcceptError::TimedOut)));
    assert_eq!(listener.refused(), 200);
    drop(clients);
}

#[test]
fn an_inherited_listener_is_used_as_it_is() {
    let directory = Directory::new();
    for packets in [false, true] {
        let made =
            Listener::options().packets(packets).bind(&directory.address()).expect("a free path");
        let fd = made.as_fd().try_clone_to_owned().expect("a duplicate");
        let mut inherited = Listener::from_fd(fd).expect("it listens");
        let mut client = Channel::connect(&directory.address()).expect("it listens");
        client.try_send(Message::new(7, "hello")).expect("room");
        let (mut channel, _) = inherited.accept_deadline(soon()).expect("the client");
        assert_eq!(recv(&mut channel).kind, 7);
        drop(inherited);
        assert!(directory.socket().exists(), "its file is not removed");
    }
    let abstract_name = abstract_address("inherited");
    let made = Listener::bind(&abstract_name).expect("a free name");
    let fd = made.as_fd().try_clone_to_owned().expect("a duplicate");
    assert_eq!(Listener::from_fd(fd).expect("it listens").address(), &abstract_name);
    let (stream, _other) = UnixStream::pair().expect("a pair");
    let error = Listener::from_fd(stream.into()).expect_err("it does not listen");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("not a Unix stream"), "{error}");
}

#[test]
fn f05_a_listener_that_was_shut_down_says_so() {
    let directory = Directory::new();
    let mut listener = Listener::bind(&directory.address()).expect("a free path");
    let shared = UnixStream::from(listener.as_fd().try_clone_to_owned().expect("a duplicate"));
    shared.shutdown(std::net::Shutdown::Both).expect("a socket");
    for _ in 0..2 {
        let error = listener.accept_deadline(soon()).expect_err("it is shut down");
        assert!(matches!(error, AcceptError::Io(_)), "{error}");
    }
}

#[test]
fn f01_without_descriptors_a_client_keeps_waiting() {
    let directory = Directory::new();
    let (mut child, said) = in_process("role_few_descriptors", &directory.socket(), None);
    assert!(wait(&mut child).success(), "{said}");
}

#[test]
fn role_connect() {
    let Some(address) = place() else { return };
    match Channel::connect(&address) {
        Ok(_) => say("connected"),
        Err(error) => say(&format!("{:?}: {error}", error.kind())),
    }
}

#[test]
fn role_few_descriptors() {
    let Some(address) = place() else { return };
    let mut listener = Listener::bind(&address).expect("a free path");
    let client = Channel::connect(&address).expect("it listens");
    let mut hoard = Vec::new();
    let error = loop {
        match fs::File::open("/dev/null") {
            Ok(file) => hoard.push(file),
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(nix::libc::EMFILE));
    let exhausted = listener.try_accept();
    assert!(matches!(exhausted, Err(AcceptError::Exhausted(_))), "{exhausted:?}");
    let deadline = in_ms(100);
    let mut calls = 0;
    while deadline.is_some_and(|deadline| std::time::Instant::now() < deadline) {
        let exhausted = listener.accept_deadline(soon());
        assert!(matches!(exhausted, Err(AcceptError::Exhausted(_))), "{exhausted:?}");
        calls += 1;
    }
    assert!(calls < 10, "a loop of {calls} calls in 100 ms is a busy one");
    drop(hoard);
    let (mut server, _) = listener.accept_deadline(soon()).expect("the client has waited");
    drop(client);
    expect_closed(&mut server);
    say("ready");
}

#[test]
fn role_listen() {
    let Some(address) = place() else { return };
    let mut listener = Listener::bind(&address).expect("a free path");
    say("ready");
    loop {
        let _ = listener.accept_deadline(soon());
    }
}
