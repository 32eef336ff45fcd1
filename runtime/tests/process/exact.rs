//! What a child has: descriptors, signals, environment; nothing that it was not given.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use nix::sys::resource::{Resource as SystemResource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal as SystemSignal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup, getpgrp, getsid, pipe};
use runtime::Exit;
use runtime::process::{Command, Resource, Stdio};

use crate::harness::tools::{DEADLINE, Directory, wait_until};
use crate::harness::{Outcome, roles, tests};
use crate::support::role;

tests! {
    f58_a_child_has_the_descriptors_that_it_was_given_and_no_other,
    f58_a_child_with_a_channel_has_that_too_and_no_end_of_ours,
    f58_descriptors_may_be_anything_and_in_any_order,
    f59_no_descriptor_slips_in_while_threads_open_and_start,
    f60_signals_are_as_in_a_new_process,
    f60_a_signal_right_after_the_start_is_heard,
    f60_children_that_end_interrupt_no_call_of_other_threads,
    f61_environment_is_exact,
    f61_directory_group_session_and_limits_are_as_they_were_or_as_they_were_asked,
    f61_a_directory_that_was_removed_is_no_obstacle,
}
roles! {
    descriptors,
    deaf,
}

/// Writes what it has under which number.
fn descriptors(_args: &[String]) -> Outcome {
    for descriptor in crate::harness::descriptors() {
        println!("{descriptor}");
    }
    Ok(())
}

/// What a child has written to its standard output, to the end.
#[track_caller]
fn output(command: &mut Command) -> String {
    let mut child = command.spawn().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
    text
}

/// The descriptors of a child, by number, without what tells pipes and sockets of one kind apart.
fn table(command: &mut Command) -> BTreeMap<u32, String> {
    let text = output(command);
    let lines = text.lines().map(|line| line.split_once(' ').unwrap());
    let kind = |target: &str| target.split_once(":[").map_or(target, |(kind, _)| kind).to_owned();
    lines.map(|(number, target)| (number.parse().unwrap(), kind(target))).collect()
}

/// Descriptors that children of std inherit.
fn inheritable() -> Vec<OwnedFd> {
    let (reader, writer) = pipe().unwrap();
    let (a, b) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty()).unwrap();
    let file = dup(File::open("/etc/passwd").unwrap().as_fd()).unwrap();
    let directory = dup(File::open("/").unwrap().as_fd()).unwrap();
    let open = vec![reader, writer, a, b, file, directory];
    for fd in &open {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
        assert_eq!(flags & libc::O_CLOEXEC, 0, "it would not be inherited anyway");
    }
    open
}

fn expected(entries: &[(u32, &str)]) -> BTreeMap<u32, String> {
    entries.iter().map(|(number, kind)| (*number, (*kind).to_owned())).collect()
}

fn f58_a_child_has_the_descriptors_that_it_was_given_and_no_other() {
    let _open = inheritable();
    let standard = [(0, "pipe"), (1, "pipe"), (2, "pipe")];
    assert_eq!(table(&mut role("descriptors", &[])), expected(&standard));
    let mut command = role("descriptors", &[]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    assert_eq!(table(&mut command), expected(&[(0, "/dev/null"), (1, "pipe"), (2, "/dev/null")]));
    command.stdin(File::open("/etc/passwd").unwrap()).stderr(Stdio::inherit_from(0));
    assert_eq!(table(&mut command), expected(&[(0, "/etc/passwd"), (1, "pipe"), (2, "/dev/null")]));
    let mut command = role("descriptors", &[]);
    command.descriptor(3, Stdio::input()).descriptor(9, Stdio::output());
    command.descriptor(200, Stdio::duplex()).descriptor(5, Stdio::null());
    let further = [(3, "pipe"), (5, "/dev/null"), (9, "pipe"), (200, "socket")];
    assert_eq!(table(&mut command), expected(&[&standard[..], &further].concat()));
    // Once more: the command keeps what it was given.
    assert_eq!(table(&mut command), expected(&[&standard[..], &further].concat()));
}

fn f58_a_child_with_a_channel_has_that_too_and_no_end_of_ours() {
    let _open = inheritable();
    let mut others: Vec<_> =
        (0..3).map(|_| role("fork_echo", &[]).stdin(Stdio::null()).fork().unwrap()).collect();
    let mut command = role("descriptors", &[]);
    command.stdin(Stdio::null()).stdout(Stdio::pipe()).stderr(Stdio::null());
    let mut child = command.fork().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
    let lines = text.lines().map(|line| line.split([':', ' ']).take(2).collect::<Vec<_>>());
    let wanted = [["0", "/dev/null"], ["1", "pipe"], ["2", "/dev/null"], ["3", "socket"]];
    assert_eq!(lines.collect::<Vec<_>>(), wanted);
    for other in &mut others {
        other.disconnect().unwrap();
        assert_eq!(other.wait().unwrap(), Exit::Code(0));
    }
}

fn f58_descriptors_may_be_anything_and_in_any_order() {
    let directory = Directory::new();
    let named = |name: String| {
        let path = directory.join(name);
        (File::create(&path).unwrap(), path.to_str().unwrap().to_owned())
    };
    // What we have under 3, 4, … goes to those numbers of the child in another order.
    let files: Vec<_> = (0..12).map(|number| named(format!("file-{number}"))).collect();
    let firsts: BTreeSet<_> = files.iter().map(|(file, _)| file.as_raw_fd()).collect();
    let mut numbers: Vec<u32> = firsts.iter().map(|fd| u32::try_from(*fd).unwrap()).collect();
    for turn in 0..files.len() {
        numbers.rotate_left(1);
        if turn % 2 == 0 {
            numbers.reverse();
        }
        let mut command = role("descriptors", &[]);
        let mut wanted = expected(&[(0, "pipe"), (1, "pipe"), (2, "pipe")]);
        for ((file, path), number) in files.iter().zip(&numbers) {
            command.descriptor(*number, file.try_clone().unwrap());
            wanted.insert(*number, path.clone());
        }
        assert_eq!(table(&mut command), wanted);
    }
}

fn f59_no_descriptor_slips_in_while_threads_open_and_start() {
    let spawns = std::env::var("PROCESS_SPAWNS").ok().and_then(|text| text.parse().ok());
    let spawns: u32 = spawns.unwrap_or(600);
    let (left, is_over) = (AtomicU32::new(spawns), AtomicBool::new(false));
    let standard = expected(&[(0, "/dev/null"), (1, "pipe"), (2, "/dev/null"), (7, "pipe")]);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Acquire) {
                    drop(inheritable());
                }
            });
        }
        let start = || {
            let next = |left: u32| left.checked_sub(1);
            while left.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).is_ok() {
                let mut command = role("descriptors", &[]);
                command.stdin(Stdio::null()).stderr(Stdio::null());
                command.descriptor(7, Stdio::output());
                assert_eq!(table(&mut command), standard);
            }
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        is_over.store(true, Ordering::Release);
        results.into_iter().for_each(|result| result.unwrap());
    });
}

/// What `/proc/PID/status` says of the signals of a child, which does not change them itself.
fn signals(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| line.split_once(":\t"));
    let sets = lines.filter(|(key, _)| ["SigBlk", "SigIgn", "SigCgt"].contains(key));
    sets.map(|(key, set)| (key.to_owned(), u64::from_str_radix(set, 16).unwrap())).collect()
}

fn f60_signals_are_as_in_a_new_process() {
    let all = ["SigBlk", "SigCgt", "SigIgn"];
    let ours = || signals(&fs::read_to_string("/proc/thread-self/status").unwrap());
    SigSet::all().thread_block().unwrap();
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [libc::SIGTERM, libc::SIGUSR1, libc::SIGCHLD, libc::SIGRTMIN() + 3] {
        signal_hook::flag::register(signal, Arc::clone(&flag)).unwrap();
    }
    for key in all {
        assert_ne!(ours()[key], 0, "{key}: nothing that could be inherited");
    }
    let pipe = 1 << (libc::SIGPIPE - 1);
    assert_eq!(ours()["SigIgn"] & pipe, pipe);
    let before = ours();
    let theirs = signals(&output(Command::new("cat").arg("/proc/self/status")));
    assert_eq!(theirs, all.map(|key| (key.to_owned(), 0)).into());
    // A start changes nothing for the thread that starts.
    assert_eq!(ours(), before);
}

fn f60_children_that_end_interrupt_no_call_of_other_threads() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    // The system begins a call that has a timeout anew for nobody, whatever has interrupted it.
    ours.set_read_timeout(Some(DEADLINE)).unwrap();
    let reader = thread::spawn(move || (&ours).read(&mut [0]));
    let mut command = Command::new("true");
    // Those of one round end while others are started.
    for _ in 0..20 {
        let mut children: Vec<_> = (0..20).map(|_| command.spawn().unwrap()).collect();
        children.iter_mut().for_each(|child| assert_eq!(child.wait().unwrap(), Exit::Code(0)));
    }
    let written = theirs.write_all(b"x");
    assert_eq!(reader.join().unwrap().unwrap(), 1);
    written.unwrap();
}

/// Ends by a signal that it does nothing about.
fn deaf(_args: &[String]) -> Outcome {
    wait_until("it is terminated", || false);
    Ok(())
}

fn f60_a_signal_right_after_the_start_is_heard() {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [libc::SIGTERM, libc::SIGUSR1] {
        signal_hook::flag::register(signal, Arc::clone(&flag)).unwrap();
    }
    SigSet::from_iter([SystemSignal::SIGTERM, SystemSignal::SIGUSR1]).thread_block().unwrap();
    for number in [libc::SIGTERM, libc::SIGUSR1].repeat(50) {
        let mut child = role("deaf", &[]).spawn().unwrap();
        let signal = runtime::process::Signal::from_number(number).unwrap();
        assert!(child.kill(signal).unwrap());
        assert_eq!(child.wait().unwrap(), Exit::Signal { signal: number, core_dumped: false });
    }
    assert!(!flag.load(Ordering::Acquire), "our own handler has run in a child");
}

fn f61_environment_is_exact() {
    let environment = |command: &mut Command| -> BTreeSet<String> {
        let text = output(command.arg("/proc/self/environ"));
        text.split_terminator('\0').map(str::to_owned).collect()
    };
    let ours: BTreeSet<String> = std::env::vars_os()
        .map(|(key, value)| format!("{}={}", key.display(), value.display()))
        .collect();
    assert_eq!(environment(&mut Command::new("cat")), ours);
    let mut command = Command::new("cat");
    command.env("A", "1").env("EMPTY", "").env_remove("PATH").env("A", "two words");
    let mut wanted = ours.clone();
    wanted.retain(|variable| !variable.starts_with("PATH="));
    wanted.extend(["A=two words".into(), "EMPTY=".into()]);
    assert_eq!(environment(&mut command), wanted);
    let mut command = Command::new("cat");
    command.env("B", "2").env_clear().env("C", "3");
    assert_eq!(environment(&mut command), ["C=3".to_owned()].into());
    assert_eq!(environment(Command::new("/bin/cat").env_clear()), BTreeSet::new());
}

/// Process group and session, and the limits, of what writes them about itself.
fn numbers(command: &mut Command) -> (u32, i32, i32) {
    let text = output(command.arg("/proc/self/stat"));
    let fields: Vec<&str> = text.split_whitespace().collect();
    (fields[0].parse().unwrap(), fields[4].parse().unwrap(), fields[5].parse().unwrap())
}

fn f61_directory_group_session_and_limits_are_as_they_were_or_as_they_were_asked() {
    let (group, session) = (getpgrp().as_raw(), getsid(None).unwrap().as_raw());
    let (_, theirs, their_session) = numbers(&mut Command::new("cat"));
    assert_eq!((theirs, their_session), (group, session));
    let (pid, theirs, their_session) = numbers(Command::new("cat").process_group(0));
    assert_eq!((theirs, their_session), (pid.cast_signed(), session));
    let (pid, theirs, their_session) = numbers(Command::new("cat").detached());
    assert_eq!((theirs, their_session), (pid.cast_signed(), pid.cast_signed()));

    let ours = std::env::current_dir().unwrap();
    let directory = |command: &mut Command| output(command.arg("/proc/self/cwd")).trim().to_owned();
    assert_eq!(directory(&mut Command::new("readlink")), ours.to_str().unwrap());
    assert_eq!(directory(Command::new("readlink").current_dir("/usr/bin")), "/usr/bin");
    assert_eq!(std::env::current_dir().unwrap(), ours);

    umask(Mode::from_bits_truncate(0o027));
    let text = output(Command::new("cat").arg("/proc/self/status"));
    assert!(text.contains("Umask:\t0027\n"), "{text}");

    let limits = || fs::read_to_string("/proc/self/limits").unwrap();
    let (_, hard) = getrlimit(SystemResource::RLIMIT_NOFILE).unwrap();
    setrlimit(SystemResource::RLIMIT_NOFILE, 321, hard).unwrap();
    let before = limits();
    let text = output(Command::new("cat").arg("/proc/self/limits"));
    assert_eq!(text, before);
    let mut command = Command::new("cat");
    command.arg("/proc/self/limits").rlimit(Resource::OpenFiles, 100, 200);
    command.rlimit(Resource::CoreFile, 0, Resource::UNLIMITED);
    let line = |text: &str, key: &str| -> Vec<String> {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_whitespace().take(2).map(str::to_owned).collect()
    };
    let text = output(&mut command);
    assert_eq!(line(&text, "Max open files"), ["100", "200"]);
    assert_eq!(line(&text, "Max core file size"), ["0", "unlimited"]);
    assert_eq!(limits(), before);
}

fn f61_a_directory_that_was_removed_is_no_obstacle() {
    let directory = Directory::new();
    std::env::set_current_dir(directory.join("")).unwrap();
    drop(directory);
    assert_eq!(output(Command::new("echo").arg("here")), "here\n");
    let text = output(Command::new("readlink").arg("/proc/self/cwd"));
    assert!(text.ends_with(" (deleted)\n"), "{text}");
    assert_eq!(output(Command::new("pwd").current_dir("/")), "/\n");
}
