//! Channels into child processes: this test binary again, in a role.
#![cfg(unix)]

mod util;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};

use ipc_core::{Bootstrap, Channel, Message, Prepared};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use util::{expect_closed, inode, recv, role_command, soon, this_binary, wait};

const ADOPTED: &str = "IPC_TEST_STDIN_IS_ADOPTED";

fn command(role: &str) -> Command {
    let mut command = role_command(this_binary(), role);
    command.stdin(Stdio::null());
    command
}

fn spawn(role: &str) -> (Channel, Child) {
    Bootstrap::new().spawn(&mut command(role)).expect("a process")
}

/// In a role, its channel; `None` when the test runs like any other.
fn role() -> Option<Channel> {
    util::is_role().then(|| Bootstrap::new().take().expect("markers").expect("a channel"))
}

/// What is open in this process: its number, and what it is.
fn table() -> BTreeMap<u32, String> {
    let directory = std::fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    let entries = directory.map(|entry| entry.expect("a descriptor").path());
    let table = entries.filter_map(|path| {
        let number = path.file_name()?.to_str()?.parse().ok()?;
        Some((number, std::fs::read_link(&path).ok()?.to_str()?.to_owned()))
    });
    // The directory itself is open meanwhile.
    table.filter(|(_number, target)| !target.starts_with("/proc/")).collect()
}

fn make_inheritable(fd: impl AsFd) {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).expect("a descriptor");
}

#[test]
fn a_child_gets_one_end_and_the_parent_the_other() {
    for bootstrap in [Bootstrap::new(), Bootstrap::new().on_stdin()] {
        let mut command = command("role_echo");
        let (mut channel, mut child) = bootstrap.spawn(&mut command).expect("a process");
        channel.send_deadline(Message::new(1, "hello"), soon()).expect("it is read");
        let message = recv(&mut channel);
        assert_eq!((message.kind, message.payload.as_slice()), (2, b"hello".as_slice()));
        assert!(wait(&mut child).success());
        expect_closed(&mut channel);
        drop(command);
    }
}

#[test]
fn role_echo() {
    let Some(mut channel) = role() else { return };
    let message = recv(&mut channel);
    channel.send_deadline(Message::new(2, message.payload), soon()).expect("it is read");
    assert!(Bootstrap::new().take().expect("no error").is_none(), "a second time");
}

#[test]
fn a_prepared_end_is_a_channel_under_the_number_that_was_said() {
    let Prepared { theirs, variables, ours } = Bootstrap::new().prepare(7).expect("a pair");
    // A shell can put a descriptor anywhere.
    let role = command("role_echo");
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", r#"exec "$0" "$@" 7<&0 </dev/null"#]);
    shell.arg(role.get_program()).args(role.get_args());
    shell.envs(role.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.envs(variables).stdin(OwnedFd::from(theirs));
    let mut child = shell.spawn().expect("a shell");
    drop(shell);
    let mut channel = ours.into_channel();
    channel.send_deadline(Message::new(1, "hello"), soon()).expect("it is read");
    assert_eq!(recv(&mut channel).payload, b"hello");
    assert!(wait(&mut child).success());
    expect_closed(&mut channel);
}

#[test]
fn a_prepared_end_that_no_process_got_is_closed() {
    let Prepared { theirs, ours, .. } = Bootstrap::new().prepare(3).expect("a pair");
    drop(theirs);
    expect_closed(&mut ours.into_channel());
    let error = Bootstrap::new().prepare(1 << 31).expect_err("no descriptor's number");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn f58_a_child_has_its_standard_streams_and_the_channel_and_nothing_else() {
    let (left_open, _theirs) = UnixStream::pair().expect("a pair");
    make_inheritable(&left_open);
    let pipe = std::io::pipe().expect("a pipe");
    make_inheritable(&pipe.0);
    let (mut channel, mut child) = spawn("role_table");
    let table = String::from_utf8(recv(&mut channel).payload).expect("text");
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[0].starts_with("0 ") && lines[1].starts_with("1 "), "{table}");
    assert!(lines[2].starts_with("2 ") && lines[3].contains(" socket:["), "{table}");
    assert!(wait(&mut child).success());
}

#[test]
fn role_table() {
    if !util::is_role() {
        return;
    }
    let lines = table().into_iter().map(|(number, target)| format!("{number} {target}\n"));
    let table: String = lines.collect();
    let mut channel = role().expect("a role");
    channel.send_deadline(Message::new(0, table), soon()).expect("it is read");
}

#[test]
fn f59_threads_that_start_children_at_once_give_each_its_own_channel_and_no_other() {
    const THREADS: usize = 6;
    const ROUNDS: usize = 8;
    // What a child of ours has, and what one has that was started in the ordinary way. Other tests
    // here leave sockets inheritable, so it is not nothing.
    let sockets = |table: &str| {
        let words = table.split_whitespace().filter(|word| word.starts_with("socket:"));
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let start = || {
        let (mut channel, mut child) = spawn("role_table");
        let table = String::from_utf8(recv(&mut channel).payload).expect("text");
        let own = sockets(&table);
        assert_eq!(own.len(), 1, "{table}");
        let mut bystander = Command::new("ls");
        bystander.args(["-l", "/proc/self/fd"]).stdin(Stdio::null());
        let output = bystander.output().expect("a process").stdout;
        assert!(wait(&mut child).success());
        (own[0].clone(), sockets(&String::from_utf8(output).expect("text")))
    };
    let started: Vec<_> = std::thread::scope(|scope| {
        let rounds = || (0..ROUNDS).map(|_| start()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(rounds)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let channels: BTreeSet<_> = started.iter().map(|(own, _bystander)| own).collect();
    assert_eq!(channels.len(), THREADS * ROUNDS, "each has one of its own");
    for (_own, bystander) in &started {
        assert!(bystander.iter().all(|socket| !channels.contains(socket)), "{bystander:?}");
    }
}

#[test]
fn k23_a_childs_death_closes_the_channel_and_so_does_the_parents() {
    let mut command = command("role_wait");
    let bootstrap = Bootstrap::new();
    // The command outlives the processes: nothing of their ends may stay in it.
    let (mut first, mut killed) = bootstrap.spawn(&mut command).expect("a process");
    let (mut second, mut left) = bootstrap.spawn(&mut command).expect("a process");
    assert_eq!((recv(&mut first).kind, recv(&mut second).kind), (1, 1));
    killed.kill().expect("our child");
    assert!(!wait(&mut killed).success());
    expect_closed(&mut first);
    drop(second);
    assert!(wait(&mut left).success(), "it has noticed");
    drop(command);
}

#[test]
fn role_wait() {
    let Some(mut channel) = role() else { return };
    channel.send_deadline(Message::new(1, []), soon()).expect("it is read");
    expect_closed(&mut channel);
}

#[test]
fn a_command_that_was_used_is_as_it_was() {
    let bootstrap = Bootstrap::new();
    let mut failing = Command::new("/nonexistent/program");
    let error = bootstrap.spawn(&mut failing).expect_err("there is none");
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(failing.get_envs().filter(|(_name, value)| value.is_some()).count(), 0);

    let mut command = command("role_say_take");
    command.args(["--nocapture"]).stdout(Stdio::piped());
    let (mut channel, child) = bootstrap.spawn(&mut command).expect("a process");
    assert_eq!(said(child), "Ok(Some)");
    expect_closed(&mut channel);
    assert_eq!(said(command.spawn().expect("a process")), "Ok(None)");
}

/// What the role `role_say_take` says.
#[track_caller]
fn said(mut child: Child) -> String {
    let mut output = String::new();
    let mut stdout = child.stdout.take().expect("it is piped");
    stdout.read_to_string(&mut output).expect("text");
    let status: ExitStatus = wait(&mut child);
    assert!(status.success(), "{status}: {output}");
    let line = output.lines().find_map(|line| line.split_once("take: ")).expect("an answer");
    line.1.to_owned()
}

/// Says what comes of taking; before, somebody else may have made the standard input theirs.
#[test]
fn role_say_take() {
    if !util::is_role() {
        return;
    }
    if std::env::var_os(ADOPTED).is_some() {
        fcntl(std::io::stdin(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("it is open");
    }
    let before = table();
    let pending = Bootstrap::new().is_pending();
    let taken = Bootstrap::new().take();
    assert!(pending || !matches!(taken, Ok(Some(_))));
    let text = match &taken {
        Ok(Some(_)) => "Ok(Some)".to_owned(),
        Ok(None) => "Ok(None)".to_owned(),
        Err(error) => format!("{:?} {error}", error.kind()),
    };
    println!("take: {text}");
    if taken.is_err() {
        assert_eq!(table(), before, "what is not ours is left alone");
    }
}

/// What comes of taking with such an environment.
#[track_caller]
fn take_with(number: Option<&str>, inode: Option<&str>) -> String {
    let mut command = command("role_say_take");
    command.arg("--nocapture").stdout(Stdio::piped());
    command.envs(number.map(|number| ("IPC_CHANNEL_FD", number)));
    command.envs(inode.map(|inode| ("IPC_CHANNEL_INODE", inode)));
    said(command.spawn().expect("a process"))
}

#[test]
fn f96_an_environment_of_nonsense_is_an_error_and_none_is_no_channel() {
    assert_eq!(take_with(None, None), "Ok(None)");
    let huge = "9".repeat(40);
    for number in ["garbage", "", "3.5", " 3", "99999999999", huge.as_str()] {
        let said = take_with(Some(number), Some("1"));
        assert!(said.starts_with("InvalidInput IPC_CHANNEL_FD"), "{number}: {said}");
    }
    for inode in ["garbage", "", "-1", huge.as_str()] {
        let said = take_with(Some("3"), Some(inode));
        assert!(said.starts_with("InvalidInput IPC_CHANNEL_FD"), "{inode}: {said}");
    }
    for (number, inode) in [(Some("3"), None), (None, Some("1"))] {
        let said = take_with(number, inode);
        assert!(said.starts_with("InvalidInput"), "{number:?}, {inode:?}: {said}");
    }
}

#[test]
fn f96_a_descriptor_that_is_not_the_channel_is_left_alone() {
    for number in ["-1", "-2147483648", "2147483647", "1000000", "0", "1", "2", "77"] {
        let said = take_with(Some(number), Some("1"));
        assert!(said.starts_with("NotFound IPC_CHANNEL_FD names descriptor"), "{number}: {said}");
    }
    // A socket that somebody else has passed.
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    make_inheritable(&theirs);
    let number = theirs.as_raw_fd().to_string();
    let answer = take_with(Some(&number), Some("1"));
    assert!(answer.starts_with("NotFound"), "{answer}");
    drop(ours);
    // The right one, which somebody in the child has made their own already.
    for (is_adopted, expected) in [(false, "Ok(Some)"), (true, "NotFound")] {
        let (_ours, theirs) = UnixStream::pair().expect("a pair");
        let inode = inode(&theirs).to_string();
        let mut command = command("role_say_take");
        command.arg("--nocapture").stdin(OwnedFd::from(theirs)).stdout(Stdio::piped());
        command.envs(is_adopted.then_some((ADOPTED, "")));
        command.env("IPC_CHANNEL_FD", "0").env("IPC_CHANNEL_INODE", inode);
        let answer = said(command.spawn().expect("a process"));
        assert!(answer.starts_with(expected), "{answer}");
    }
    // The right inode, and no socket.
    let pipe: OwnedFd = std::io::pipe().expect("a pipe").0.into();
    make_inheritable(&pipe);
    let number = pipe.as_raw_fd().to_string();
    let answer = take_with(Some(&number), Some(&inode(&pipe).to_string()));
    assert!(answer.starts_with("InvalidInput") && answer.contains("no socket"), "{answer}");
}
