//! Where a listener starts: what is there already, who else starts there, and what is left behind.
#![cfg(unix)]

mod util;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ipc_core::{Address, Channel, Listener};
use util::named::{Directory, NOBODY, in_process, leave_stale, place, refusal, say};
use util::{in_ms, soon, wait};

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
fn f84_of_threads_that_start_at_one_stale_file_one_wins() {
    for _ in 0..300 {
        let directory = Directory::new();
        leave_stale(&directory.socket());
        let start = Barrier::new(4);
        let results: Vec<_> = thread::scope(|scope| {
            let bind = || {
                start.wait();
                Listener::bind(&directory.address())
            };
            let starts: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
            starts.into_iter().map(|start| start.join().expect("no panic")).collect()
        });
        let winners = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(winners, 1);
        Channel::connect(&directory.address()).expect("the winner listens at the path");
    }
}

#[test]
fn f84_of_processes_that_start_at_one_stale_file_one_wins() {
    let directory = Directory::new();
    let mut starters = [(); 3].map(|()| in_process("role_rounds", &directory.0, None).0);
    let count =
        |prefix: &str| directory.files().iter().filter(|name| name.starts_with(prefix)).count();
    for round in 0..ROUNDS {
        let socket = directory.0.join(format!("{round}.sock"));
        leave_stale(&socket);
        fs::write(directory.0.join(format!("go-{round}")), "").expect("a file");
        until(|| count(&format!("{round}-")) == 3, "all three have tried");
        assert_eq!(count(&format!("{round}-won")), 1);
        Channel::connect(&Address::path(socket).expect("short")).expect("the winner listens");
    }
    fs::write(directory.0.join(format!("go-{ROUNDS}")), "").expect("a file");
    for starter in &mut starters {
        assert!(wait(starter).success());
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
fn f84_a_lock_that_was_left_behind_keeps_nobody_out() {
    let directory = Directory::new();
    leave_stale(&directory.socket());
    fs::write(directory.0.join(".a.sock.lock"), "").expect("a file");
    let _listener = Listener::bind(&directory.address()).expect("nobody holds the lock");
    assert_eq!(directory.files(), ["a.sock"]);
    // A live holder is waited for, and not for ever.
    let lock = fs::File::create(directory.0.join(".b.sock.lock")).expect("a file");
    let _lock =
        nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).expect("a free lock");
    let other = Address::path(directory.0.join("b.sock")).expect("short");
    assert_eq!(refusal(&other).kind(), ErrorKind::AddrInUse);
    fs::symlink_metadata(other.as_path().expect("a path")).expect_err("nothing was bound");
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
fn hostile_f84_another_user_cannot_hold_up_who_starts_or_stops() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let directory = Directory::new();
    directory.set_mode(0o755);
    let (mut child, said) = in_process("role_lock_directory", &directory.socket(), Some(NOBODY));
    assert_eq!(said, "ready");
    drop(Listener::bind(&directory.address()).expect("a free path"));
    assert_eq!(directory.files(), [""; 0], "the file is gone");
    child.kill().expect("our child");
    wait(&mut child);
    // In a directory that all may write to, he can take the lock's name, as he can the socket's.
    directory.set_mode(0o1777);
    let lock = directory.0.join(".a.sock.lock");
    fs::write(&lock, "").expect("a file");
    std::os::unix::fs::chown(&lock, Some(NOBODY), None).expect("root may");
    let error = refusal(&directory.address());
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.to_string().contains(".a.sock.lock"), "{error}");
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

/// How often those processes start.
const ROUNDS: u32 = 100;

/// Looks again and again, for what other processes do to files.
fn until(condition: impl Fn() -> bool, what: &str) {
    let deadline = soon().expect("there is one");
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        thread::yield_now();
    }
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
fn role_rounds() {
    let Some(directory) = place() else { return };
    let directory = directory.as_path().expect("a path");
    let mut listeners = Vec::new();
    say("ready");
    for round in 0..ROUNDS {
        until(|| directory.join(format!("go-{round}")).exists(), "it starts");
        let address = Address::path(directory.join(format!("{round}.sock"))).expect("short");
        let result = Listener::bind(&address);
        let outcome = if result.is_ok() { "won" } else { "lost" };
        listeners.extend(result);
        let name = format!("{round}-{outcome}-{}", std::process::id());
        fs::write(directory.join(name), "").expect("a file");
    }
    until(|| directory.join(format!("go-{ROUNDS}")).exists(), "all have been connected to");
}

#[test]
fn role_lock_directory() {
    let Some(address) = place() else { return };
    let parent = address.as_path().and_then(Path::parent).expect("a path");
    let directory = fs::File::open(parent).expect("everybody may");
    let _lock =
        nix::fcntl::Flock::lock(directory, nix::fcntl::FlockArg::LockExclusive).expect("free");
    say("ready");
    thread::park_timeout(std::time::Duration::from_secs(30));
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
