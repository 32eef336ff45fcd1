//! Channels by name: who may listen, who may connect, and what becomes of the file.
#![cfg(unix)]

mod util;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use ipc_core::{AcceptError, Address, Channel, Listener, Message, PeerPolicy};
use mio::{Events, Interest, Poll, Token};
use util::{descriptor_count, expect_closed, in_ms, recv, role_command, soon, this_binary, wait};

const NOBODY: u32 = 65534;

/// A directory of one test, which only this user can change.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ipc-core-listener-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("our own");
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("a.sock")
    }

    fn address(&self) -> Address {
        Address::path(self.socket()).expect("short enough")
    }

    fn files(&self) -> Vec<String> {
        let files = fs::read_dir(&self.0).expect("it exists");
        files.map(|file| file.expect("a file").file_name().into_string().expect("text")).collect()
    }

    fn set_mode(&self, mode: u32) {
        fs::set_permissions(&self.0, fs::Permissions::from_mode(mode)).expect("our own");
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a process that was killed leaves behind.
fn leave_stale(path: &Path) {
    drop(UnixListener::bind(path).expect("a free path"));
    assert!(path.exists());
}

fn refusal(address: &Address) -> std::io::Error {
    Listener::bind(address).expect_err("it must not listen there")
}

fn abstract_address(what: &str) -> Address {
    Address::abstract_name(format!("ipc-core-test-{what}-{}", std::process::id())).expect("short")
}

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
fn f84_a_stale_file_is_replaced_and_a_live_one_is_not() {
    let directory = Directory::new();
    leave_stale(&directory.socket());
    let mut listener = Listener::bind(&directory.address()).expect("it is stale");
    let error = refusal(&directory.address());
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let who = format!("process {} of user", std::process::id());
    assert!(error.to_string().contains(&who), "{error}");
    let _client = Channel::connect(&directory.address()).expect("it still listens");
    // The probe of the second is there too; it has hung up.
    let accepted = (0..2).filter(|_| listener.accept_deadline(soon()).is_ok()).count();
    assert_eq!(accepted, 2);
}

#[test]
fn f84_a_full_listener_is_a_live_one() {
    let directory = Directory::new();
    let _listener = Listener::options().backlog(1).bind(&directory.address()).expect("a free path");
    let mut clients = Vec::new();
    let error = loop {
        match Channel::connect(&directory.address()) {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    assert_eq!(refusal(&directory.address()).kind(), ErrorKind::AddrInUse);
    let error = Channel::connect_deadline(&directory.address(), in_ms(20)).expect_err("full");
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "it comes back in time: {error}");
}

#[test]
fn f84_of_two_that_start_at_one_stale_file_one_wins() {
    for _ in 0..30 {
        let directory = Directory::new();
        leave_stale(&directory.socket());
        let results: Vec<_> = thread::scope(|scope| {
            let starts: Vec<_> =
                (0..4).map(|_| scope.spawn(|| Listener::bind(&directory.address()))).collect();
            starts.into_iter().map(|start| start.join().expect("no panic")).collect()
        });
        let winners = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(winners, 1);
        Channel::connect(&directory.address()).expect("the winner listens at the path");
    }
}

#[test]
fn f84_a_listener_that_was_killed_is_replaced() {
    let directory = Directory::new();
    let (mut child, _) = in_process("role_listen", &directory.socket(), None);
    let _client = Channel::connect(&directory.address()).expect("it listens");
    child.kill().expect("our child");
    wait(&mut child);
    assert!(directory.socket().exists());
    assert_eq!(
        Channel::connect(&directory.address()).expect_err("nobody listens").kind(),
        ErrorKind::ConnectionRefused
    );
    Listener::bind(&directory.address()).expect("it is stale");
}

#[test]
fn f85_what_is_no_socket_is_left_alone() {
    let directory = Directory::new();
    fs::write(directory.0.join("precious"), "data").expect("a file");
    symlink("precious", directory.socket()).expect("a link");
    assert_eq!(refusal(&directory.address()).kind(), ErrorKind::AddrInUse);
    fs::remove_file(directory.socket()).expect("the link");
    fs::write(directory.socket(), "data").expect("a file");
    assert_eq!(refusal(&directory.address()).kind(), ErrorKind::AddrInUse);
    assert_eq!(fs::read(directory.0.join("precious")).expect("it is there"), b"data");
    assert_eq!(fs::read(directory.socket()).expect("it is there"), b"data");
}

#[test]
fn f85_a_directory_that_others_can_change_is_refused_by_name() {
    let directory = Directory::new();
    for (mode, is_refused) in [(0o777, true), (0o770, true), (0o1777, false), (0o755, false)] {
        directory.set_mode(mode);
        match Listener::bind(&directory.address()) {
            Ok(_) => assert!(!is_refused, "{mode:o}"),
            Err(error) => {
                assert!(is_refused, "{mode:o}: {error}");
                assert_eq!(error.kind(), ErrorKind::PermissionDenied);
                let path = directory.0.display().to_string();
                assert!(error.to_string().contains(&path), "{error}");
            }
        }
    }
    directory.set_mode(0o777);
    Listener::options().any_directory(true).bind(&directory.address()).expect("it is allowed");
}

#[test]
fn hostile_f85_somebody_who_exchanges_the_directory_makes_us_harm_nobody() {
    let outer = Directory::new();
    let (ours, victims, way) = (outer.0.join("ours"), outer.0.join("victims"), outer.0.join("way"));
    for path in [&ours, &victims] {
        fs::create_dir(path).expect("a directory");
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("our own");
    }
    leave_stale(&ours.join("a.sock"));
    fs::write(victims.join("a.sock"), "precious").expect("a file");
    symlink(&ours, &way).expect("a link");
    let address = Address::path(way.join("a.sock")).expect("short");
    let is_over = AtomicBool::new(false);
    let mut won = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            let next = outer.0.join("next");
            while !is_over.load(Ordering::Relaxed) {
                for target in [&victims, &ours] {
                    symlink(target, &next).expect("a link");
                    fs::rename(&next, &way).expect("a link");
                }
            }
        });
        for _ in 0..500 {
            won += usize::from(Listener::bind(&address).is_ok());
            let victim = fs::symlink_metadata(victims.join("a.sock")).expect("it is there");
            assert!(victim.is_file(), "the victim's file is left alone");
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read(victims.join("a.sock")).expect("it is there"), b"precious");
    println!("{won} of 500 found the right directory");
}

#[test]
fn f86_k18_the_file_has_its_mode_before_anybody_can_see_it() {
    let directory = Directory::new();
    let (mut child, output) = in_process("role_without_umask", &directory.socket(), None);
    let mut seen = 0;
    while child.try_wait().expect("our child").is_none() {
        let Ok(file) = fs::symlink_metadata(directory.socket()) else { continue };
        assert!(file.file_type().is_socket());
        assert_eq!(file.mode() & 0o777, 0o600);
        seen += 1;
    }
    assert!(wait(&mut child).success(), "{output}");
    assert!(seen > 0, "the file was seen");
}

#[test]
fn the_mode_is_the_one_that_was_asked_for_whatever_the_umask() {
    let directory = Directory::new();
    for mode in [0o666, 0o600, 0o660] {
        let _listener = Listener::options().mode(mode).bind(&directory.address()).expect("free");
        let file = fs::symlink_metadata(directory.socket()).expect("it is there");
        assert_eq!(file.mode() & 0o777, mode);
    }
}

#[test]
fn f72_a_file_that_is_not_ours_any_more_is_not_removed() {
    let directory = Directory::new();
    let first = Listener::bind(&directory.address()).expect("a free path");
    fs::remove_file(directory.socket()).expect("it is there");
    let _second = Listener::bind(&directory.address()).expect("the path is free again");
    drop(first);
    Channel::connect(&directory.address()).expect("the second one's file is there");
}

#[test]
fn a_long_path_is_no_obstacle_and_a_long_name_is_refused() {
    let directory = Directory::new();
    let deep = directory.0.join("d".repeat(200));
    fs::create_dir(&deep).expect("a directory");
    let address = Address::path(deep.join("a.sock")).expect("only the name counts");
    let _listener = Listener::bind(&address).expect("a free path");
    Channel::connect(&address).expect("it listens");
    let error = Address::path(deep.join("n".repeat(108))).expect_err("too long");
    assert!(error.to_string().contains("108 bytes"), "{error}");
    let longest = Address::path(deep.join("n".repeat(82))).expect("fits");
    let _listener = Listener::bind(&longest).expect("it fits with any descriptor's number");
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
fn hostile_f84_a_socket_that_another_user_has_left_is_not_removed() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can give a file away");
        return;
    }
    let directory = Directory::new();
    leave_stale(&directory.socket());
    std::os::unix::fs::chown(directory.socket(), Some(NOBODY), None).expect("root may");
    let error = refusal(&directory.address());
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains("user 65534 has left"), "{error}");
}

#[test]
fn f01_without_descriptors_a_client_keeps_waiting() {
    let directory = Directory::new();
    let (mut child, said) = in_process("role_few_descriptors", &directory.socket(), None);
    assert!(wait(&mut child).success(), "{said}");
}

const PLACE: &str = "IPC_CORE_TEST_PLACE";

/// Runs a role of this binary in a process of its own, as another user if wanted, and waits until
/// it has said that it is ready, or something else.
fn in_process(role: &str, place: &Path, user: Option<u32>) -> (std::process::Child, String) {
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let mut command: Command = role_command(this_binary(), role);
    command.env(PLACE, place).stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let child = command.spawn().expect("a process");
    drop(command);
    ours.set_read_timeout(Some(std::time::Duration::from_secs(30))).expect("a socket");
    let mut said = vec![0; 4096];
    let length = ours.read(&mut said).expect("it says something");
    (child, String::from_utf8_lossy(&said[..length]).into_owned())
}

/// Where a role shall be active; `None` when the test runs like any other.
fn place() -> Option<Address> {
    let place = std::env::var(PLACE).ok()?;
    Some(place.parse().expect("an address"))
}

fn say(what: &str) {
    use std::os::fd::AsFd;
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().expect("a duplicate");
    UnixStream::from(stdin).write_all(what.as_bytes()).expect("somebody listens");
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

#[test]
fn role_connect() {
    let Some(address) = place() else { return };
    match Channel::connect(&address) {
        Ok(_) => say("connected"),
        Err(error) => say(&format!("{:?}: {error}", error.kind())),
    }
}

#[test]
fn role_without_umask() {
    let Some(address) = place() else { return };
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    say("ready");
    for _ in 0..3000 {
        drop(Listener::bind(&address).expect("a free path"));
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
    drop(hoard);
    let (mut server, _) = listener.accept_deadline(soon()).expect("the client has waited");
    drop(client);
    expect_closed(&mut server);
    say("ready");
}
