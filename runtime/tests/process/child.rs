//! One child: its events, streams, timeouts, end.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::kill;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use runtime::Exit;
use runtime::process::{CancelToken, Command, KillReason, Signal, Stdio, Stream, spawn};

use crate::harness::tools::{DEADLINE, wait_until};
use crate::harness::{Outcome, children, descriptors, roles, tests};
use crate::support::{Attended, events, role};

tests! {
    events_come_once_and_in_order,
    it_is_closed_when_the_streams_that_are_used_have_ended,
    a_stream_that_ends_in_another_thread_is_noticed,
    a_stream_that_ends_meanwhile_does_not_undo_the_timeout,
    the_exit_does_not_wait_for_a_grandchild_that_holds_stdout,
    what_nobody_has_read_can_be_read_after_the_exit,
    a_timeout_ends_a_child_that_somebody_attends_to,
    a_child_that_ignores_the_signal_is_killed,
    who_exits_in_time_is_sent_nothing,
    a_token_ends_all_children_that_have_it,
    a_token_that_is_cancelled_ends_a_child_at_once,
    f53_nobody_is_signalled_after_the_end,
    waiting_closes_stdin_and_ends_at_the_deadline,
    a_child_is_waited_for_by_another_thread,
    dropped_children_are_collected_or_killed_first,
    without_descriptors_dropped_children_are_collected_too,
    a_duplex_goes_both_ways,
    streams_lead_from_child_to_child,
    f51_hundreds_that_die_at_once_are_each_told_once,
    f52_whose_status_somebody_else_collected_has_ended,
    f52_ignored_sigchld_is_no_obstacle,
    without_descriptors_it_can_not_be_registered_but_waited_for,
}
roles! {
    with_grandchild,
    exit_after_input,
    ignores_sigchld,
}

fn killed_by(signal: i32) -> Exit {
    Exit::Signal { signal, core_dumped: false }
}

fn events_come_once_and_in_order() {
    let mut attended = Attended::new(role("exit", &["7"]).spawn().unwrap());
    attended.until("Closed(Code(7))");
    assert_eq!(attended.seen, ["Spawned", "Exited(Code(7))", "Closed(Code(7))"]);
    assert_eq!(events(&mut attended.child), [""; 0]);
    assert_eq!(attended.child.wait().unwrap(), Exit::Code(7));
    assert_eq!(attended.child.try_wait().unwrap(), Some(Exit::Code(7)));
    assert_eq!(children(), []);
}

fn it_is_closed_when_the_streams_that_are_used_have_ended() {
    for is_read in [true, false] {
        let mut attended = Attended::new(role("exit", &["7"]).spawn().unwrap());
        let stdout = attended.child.stdout.take();
        let mut stderr = attended.child.stderr.take().unwrap();
        attended.until("Exited(Code(7))");
        assert_eq!(stderr.read(&mut [0]).unwrap(), 0);
        assert!(!attended.tells("Closed(Code(7))"));
        if is_read {
            assert_eq!(stdout.unwrap().read(&mut [0]).unwrap(), 0);
        } else {
            drop(stdout);
        }
        attended.until("Closed(Code(7))");
    }
}

fn a_stream_that_ends_in_another_thread_is_noticed() {
    let mut attended = Attended::new(role("exit", &["7"]).spawn().unwrap());
    let stdout = attended.child.stdout.take();
    attended.until("Exited(Code(7))");
    let thread = std::thread::spawn(move || drop(stdout));
    attended.until("Closed(Code(7))");
    thread.join().unwrap();
}

fn a_stream_that_ends_meanwhile_does_not_undo_the_timeout() {
    let mut command = role("cat", &[]);
    // So long that it is still to come when the streams end.
    command.timeout(Duration::from_millis(500)).stderr(Stdio::null());
    let children: Vec<_> = (0..20).map(|_| command.spawn().unwrap()).collect();
    let mut attended: Vec<_> = children.into_iter().map(Attended::new).collect();
    let stdouts: Vec<_> = attended.iter_mut().map(|a| a.child.stdout.take()).collect();
    let thread = std::thread::spawn(move || drop(stdouts));
    // Both come to each child at about the same time.
    attended.iter_mut().for_each(|attended| attended.until("Spawned"));
    thread.join().unwrap();
    attended.iter_mut().for_each(|attended| attended.until("Killed(Timeout)"));
}

/// Starts a process that holds our output until our input ends, says which, and exits.
fn with_grandchild(_args: &[String]) -> Outcome {
    let mut command = role("cat", &[]);
    let command = command.stdin(Stdio::inherit()).stdout(Stdio::inherit());
    let grandchild = command.stderr(Stdio::inherit()).spawn()?;
    println!("{}", grandchild.pid());
    Ok(())
}

fn the_exit_does_not_wait_for_a_grandchild_that_holds_stdout() {
    let mut attended = Attended::new(role("with_grandchild", &[]).spawn().unwrap());
    let stdin = attended.child.stdin.take();
    let mut stdout = attended.child.stdout.take().unwrap();
    attended.until("Exited(Code(0))");
    let mut pid = Vec::new();
    while pid.last() != Some(&b'\n') {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        pid.push(byte[0]);
    }
    let pid: i32 = String::from_utf8(pid).unwrap().trim().parse().unwrap();
    assert_eq!(children(), [pid], "it is ours now, and alive");
    assert!(!attended.tells("Closed(Code(0))"));
    drop(stdin);
    assert_eq!(stdout.read(&mut [0]).unwrap(), 0);
    attended.until("Closed(Code(0))");
    waitpid(Pid::from_raw(pid), None).unwrap();
}

fn what_nobody_has_read_can_be_read_after_the_exit() {
    let mut child = Command::new("printf").arg("hello").spawn().unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
    assert_eq!(events(&mut child), ["Spawned", "Exited(Code(0))", "Closed(Code(0))"]);
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
}

fn a_timeout_ends_a_child_that_somebody_attends_to() {
    let mut command = role("cat", &[]);
    command.timeout(Duration::from_millis(20));
    let mut waited = command.spawn().unwrap();
    let _stdin = waited.stdin.take();
    assert_eq!(waited.wait().unwrap(), killed_by(15));
    assert_eq!(waited.kill_reason(), Some(KillReason::Timeout));
    let mut attended = Attended::new(command.spawn().unwrap());
    let killed = format!("Exited({:?})", killed_by(15));
    attended.until(&killed);
    assert_eq!(attended.seen[..3], ["Spawned", "Killed(Timeout)", &killed]);
    // Who attends to nothing else: by looking.
    let mut looked_at = command.spawn().unwrap();
    wait_until("it has ended", || looked_at.try_wait().unwrap().is_some());
    assert_eq!(looked_at.kill_reason(), Some(KillReason::Timeout));
    // Not at all.
    drop(command.spawn().unwrap());
    wait_until("it has ended", || children().is_empty());
}

/// The signal is one that nobody minds who does not ask for it.
fn a_child_that_ignores_the_signal_is_killed() {
    let mut command = role("cat", &[]);
    command.timeout(Duration::ZERO).kill_after(Duration::from_millis(20));
    command.kill_signal(Signal::from_number(nix::libc::SIGWINCH).unwrap());
    let killed = format!("Exited({:?})", killed_by(9));
    let mut attended = Attended::new(command.spawn().unwrap());
    attended.until(&killed);
    assert_eq!(attended.seen[..3], ["Spawned", "Killed(Timeout)", &killed]);
    let mut waited = command.spawn().unwrap();
    let _stdin = waited.stdin.take();
    assert_eq!(waited.wait().unwrap(), killed_by(9));
    let dropped = command.spawn().unwrap();
    let stdin = { dropped }.stdin.take();
    wait_until("it has ended", || children().is_empty());
    drop(stdin);
}

fn who_exits_in_time_is_sent_nothing() {
    let mut command = role("exit", &["7"]);
    command.timeout(Duration::from_secs(3600)).cancel_with(&CancelToken::new());
    let mut attended = Attended::new(command.spawn().unwrap());
    attended.until("Closed(Code(7))");
    assert_eq!(attended.seen, ["Spawned", "Exited(Code(7))", "Closed(Code(7))"]);
    assert_eq!(attended.child.kill_reason(), None);
}

fn a_token_ends_all_children_that_have_it() {
    let token = CancelToken::new();
    let mut command = role("cat", &[]);
    command.cancel_with(&token);
    let mut attended = Attended::new(command.spawn().unwrap());
    let mut waited = command.spawn().unwrap();
    let stdin = waited.stdin.take();
    let mut dropped: Vec<_> = (0..10).map(|_| command.spawn().unwrap()).collect();
    let stdins: Vec<_> = dropped.iter_mut().map(|child| child.stdin.take()).collect();
    drop(dropped);
    let waiter = std::thread::spawn(move || (waited.wait().unwrap(), waited.kill_reason()));
    attended.until("Spawned");
    assert_eq!(children().len(), 12);
    token.cancel();
    let killed = format!("Exited({:?})", killed_by(15));
    attended.until(&killed);
    assert_eq!(attended.seen[..3], ["Spawned", "Killed(Cancelled)", &killed]);
    assert_eq!(waiter.join().unwrap(), (killed_by(15), Some(KillReason::Cancelled)));
    wait_until("all have ended", || children().is_empty());
    drop((stdin, stdins));
}

fn a_token_that_is_cancelled_ends_a_child_at_once() {
    let token = CancelToken::new();
    token.cancel();
    let mut command = role("cat", &[]);
    let mut child = command.cancel_with(&token).spawn().unwrap();
    // Nobody has attended to it yet.
    wait_until("it has ended", || !child.is_alive());
    assert_eq!(child.wait().unwrap(), killed_by(15));
    assert_eq!(child.kill_reason(), Some(KillReason::Cancelled));
}

fn f53_nobody_is_signalled_after_the_end() {
    let mut child = role("cat", &[]).spawn().unwrap();
    assert!(child.is_alive());
    assert!(child.kill(Signal::TERM).unwrap());
    wait_until("it has ended", || !child.is_alive());
    assert_eq!(children(), [child.pid().cast_signed()], "nobody has collected it");
    assert!(!child.kill(Signal::KILL).unwrap());
    assert_eq!(child.wait().unwrap(), killed_by(15));
    assert!(!child.is_alive());
    assert!(!child.kill(Signal::KILL).unwrap());
    assert_eq!(child.kill_reason(), None);
}

fn waiting_closes_stdin_and_ends_at_the_deadline() {
    let mut child = role("cat", &[]).spawn().unwrap();
    let stdin = child.stdin.take();
    assert_eq!(child.wait_deadline(Some(Instant::now())).unwrap(), None);
    let soon = Instant::now() + Duration::from_millis(20);
    assert_eq!(child.wait_deadline(Some(soon)).unwrap(), None);
    assert!(Instant::now() >= soon);
    child.stdin = stdin;
    let exit = child.wait_deadline(Some(Instant::now() + DEADLINE)).unwrap();
    assert_eq!(exit, Some(Exit::Code(0)));
}

fn a_child_is_waited_for_by_another_thread() {
    let spawner = std::thread::spawn(|| spawn("/proc/self/exe", ["--role", "exit", "7"]).unwrap());
    let mut child = spawner.join().unwrap();
    let waiter = std::thread::spawn(move || child.wait().unwrap());
    assert_eq!(waiter.join().unwrap(), Exit::Code(7));
}

fn dropped_children_are_collected_or_killed_first() {
    let mut command = role("cat", &[]);
    let mut left: Vec<_> = (0..5).map(|_| command.spawn().unwrap()).collect();
    let killed = command.kill_on_drop(true).spawn().unwrap();
    let pids: Vec<_> = left.iter().map(|child| child.pid().cast_signed()).collect();
    let stdins: Vec<_> = left.iter_mut().map(|child| child.stdin.take()).collect();
    drop(killed);
    drop(left);
    assert_eq!(children().into_iter().collect::<BTreeSet<_>>(), pids.into_iter().collect());
    drop(stdins);
    wait_until("all are collected", || children().is_empty());
    // The thread was there for them only; now another comes.
    wait_until("it has ended", || fs::read_dir("/proc/self/task").unwrap().count() == 1);
    drop(command.kill_on_drop(false).spawn().unwrap());
    wait_until("it is collected too", || children().is_empty());
}

fn without_descriptors_dropped_children_are_collected_too() {
    let token = CancelToken::new();
    let mut command = role("cat", &[]);
    command.cancel_with(&token);
    let mut dropped: Vec<_> = (0..2).map(|_| command.spawn().unwrap()).collect();
    let pids: Vec<_> = dropped.iter().map(|child| child.pid()).collect();
    let stdins: Vec<_> = dropped.iter_mut().map(|child| child.stdin.take()).collect();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
    drop(dropped);
    token.cancel();
    // What was collected is no process any more.
    let is_there = |pid: &u32| kill(Pid::from_raw(pid.cast_signed()), None).is_ok();
    wait_until("they are collected", || !pids.iter().any(is_there));
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    drop(stdins);
}

fn a_duplex_goes_both_ways() {
    let mut command = Command::new("sh");
    command.args(["-c", "cat <&5 >&5"]).descriptor(5, Stdio::duplex());
    let mut child = command.spawn().unwrap();
    let Some(Stream::Duplex(mut duplex)) = child.take_stream(5) else { panic!("no duplex") };
    assert!(child.take_stream(5).is_none());
    assert!(matches!(child.take_stream(1), Some(Stream::Reader(_))));
    assert!(child.stdout.is_none());
    duplex.write_all(b"there").unwrap();
    let mut text = [0; 5];
    duplex.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"there");
    assert_eq!(child.try_wait().unwrap(), None);
    duplex.close_write().unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
    assert_eq!(events(&mut child).last().unwrap(), "Exited(Code(0))");
    assert_eq!(duplex.read(&mut text).unwrap(), 0);
    assert_eq!(events(&mut child), ["Closed(Code(0))"]);
}

fn streams_lead_from_child_to_child() {
    let mut last = role("cat", &[]).spawn().unwrap();
    let stdin = last.stdin.take().unwrap();
    let mut first = role("cat", &[]).stdout(stdin).spawn().unwrap();
    let mut stdin = first.stdin.take().unwrap();
    // Having been in a poll does no harm.
    let poll = Poll::new().unwrap();
    poll.registry().register(&mut stdin, Token(0), Interest::WRITABLE).unwrap();
    poll.registry().deregister(&mut stdin).unwrap();
    let echo = Command::new("printf").arg("hello").stdout(stdin).spawn().unwrap();
    let mut text = String::new();
    last.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    for mut child in [echo, first, last] {
        assert_eq!(child.wait().unwrap(), Exit::Code(0));
    }
}

/// Exits when its input ends.
fn exit_after_input(args: &[String]) -> Outcome {
    io::copy(&mut io::stdin(), &mut io::sink())?;
    crate::support::exit(args)
}

fn f51_hundreds_that_die_at_once_are_each_told_once() {
    const CHILDREN: usize = 300;
    let limit = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit).unwrap();
    let (reader, writer) = io::pipe().unwrap();
    let mut poll = Poll::new().unwrap();
    let mut children = Vec::new();
    for number in 0..CHILDREN {
        let code = (number % 200).to_string();
        let mut command = role("exit_after_input", &[&code]);
        command.stdin(Stdio::given(std::os::fd::OwnedFd::from(reader.try_clone().unwrap())));
        command.stdout(Stdio::null()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        poll.registry().register(&mut child, Token(number), Interest::READABLE).unwrap();
        children.push(child);
    }
    drop((reader, writer));
    let mut told = vec![Vec::new(); CHILDREN];
    let mut ready = Events::with_capacity(64);
    while told.iter().any(|events| events.len() < 3) {
        poll.poll(&mut ready, Some(DEADLINE)).unwrap();
        assert!(!ready.is_empty(), "waited in vain: {told:?}");
        for event in &ready {
            let number = event.token().0;
            told[number].extend(events(&mut children[number]));
        }
    }
    for (number, told) in told.iter().enumerate() {
        let code = number % 200;
        assert_eq!(told[1..], [format!("Exited(Code({code}))"), format!("Closed(Code({code}))")]);
    }
}

fn f52_whose_status_somebody_else_collected_has_ended() {
    let child = role("exit", &["7"]).spawn().unwrap();
    waitpid(Pid::from_raw(child.pid().cast_signed()), None).unwrap();
    assert!(!child.kill(Signal::TERM).unwrap());
    let mut attended = Attended::new(child);
    attended.until("Closed(Unknown)");
    assert_eq!(attended.seen, ["Spawned", "Exited(Unknown)", "Closed(Unknown)"]);
}

/// Was started with SIGCHLD ignored, so that its children are collected by the kernel.
fn ignores_sigchld(_args: &[String]) -> Outcome {
    let mut waited = role("exit", &["7"]).spawn()?;
    assert_eq!(waited.wait()?, Exit::Unknown);
    let mut attended = Attended::new(role("exit", &["7"]).spawn()?);
    attended.until("Closed(Unknown)");
    let mut killed = role("cat", &[]).kill_on_drop(true).spawn()?;
    assert_eq!(killed.try_wait()?, None);
    drop(killed);
    drop(role("exit", &["7"]).spawn()?);
    wait_until("all have ended", || children().is_empty());
    Ok(())
}

fn f52_ignored_sigchld_is_no_obstacle() {
    let exe = std::env::current_exe().unwrap();
    let mut host = std::process::Command::new("env");
    host.arg("--ignore-signal=CHLD").arg(exe).args(["--role", "ignores_sigchld"]);
    assert!(host.status().unwrap().success());
}

fn without_descriptors_it_can_not_be_registered_but_waited_for() {
    let mut child = role("cat", &[]).spawn().unwrap();
    let poll = Poll::new().unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let open = descriptors();
    // No more than the standard ones, which are open.
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
    let error = poll.registry().register(&mut child, Token(0), Interest::READABLE).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EMFILE), "{error}");
    assert_eq!(events(&mut child), ["Spawned"]);
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    // But for standard input, which waiting has closed.
    assert_eq!(descriptors().len(), open.len() - 1);
}
