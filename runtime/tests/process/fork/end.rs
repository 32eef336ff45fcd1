//! The end of a channel, and of the processes at its ends.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use runtime::Message;
use runtime::process::{
    CancelToken, Child, Command, Event, KillReason, RecvError, SendError, Signal, Stdio,
};

use super::functions::DOUBLE;
use super::{Ear, command, hear_all, names, parent, soon, std_role, wait_for_go};
use crate::harness::tools::{Directory, wait_until};
use crate::harness::{Outcome, descriptors, roles, tests};
use crate::support::{bury_all, role};

tests! {
    a_child_that_waits_for_messages_ends_when_its_parent_disconnects,
    a_child_that_waits_for_messages_ends_when_it_is_dropped,
    a_child_that_waits_for_messages_ends_when_its_parent_is_killed,
    an_idle_child_ends_by_itself,
    a_child_may_disconnect_and_go_on,
    a_timeout_and_a_token_end_a_child_whose_messages_are_waited_for,
    a_timeout_ends_a_child_that_takes_no_message,
    who_waits_for_messages_does_not_wait_for_a_grandchild_that_has_the_channel,
    row25_a_child_that_dies_gives_back_what_it_has_not_got,
    k10_what_a_child_sends_last_arrives_before_its_end,
    f59_children_that_are_forked_at_once_hold_only_their_own_channels,
    what_is_no_message_ends_the_channel_alone,
    a_function_runs_although_the_programs_file_is_gone,
    f58_a_child_has_its_streams_and_the_channel_and_passes_on_neither,
}
roles! {
    fork_wait_for_the_end,
    fork_middle,
    fork_idle,
    fork_disconnect,
    fork_last_words,
    fork_tell_descriptors,
    fork_print_descriptors,
    fork_without_a_file,
}

/// Says that it is there, and goes on until its messages end.
fn fork_wait_for_the_end(_args: &[String]) -> Outcome {
    let mut parent = parent()?;
    parent.send("here")?;
    let count = parent.messages().count();
    println!("{count} messages");
    Ok(())
}

fn waiting(stdout: Stdio) -> Child {
    let mut child = command("fork_wait_for_the_end", &[]).stdout(stdout).fork().unwrap();
    assert_eq!(child.recv_deadline(soon()).unwrap().bytes, b"here");
    child
}

fn a_child_that_waits_for_messages_ends_when_its_parent_disconnects() {
    let mut child = waiting(Stdio::pipe());
    child.send("one").unwrap();
    child.disconnect().unwrap();
    assert_eq!(io::read_to_string(child.stdout.take().unwrap()).unwrap(), "1 messages\n");
    let expected = ["spawned", "disconnected", "exited 0", "closed 0"];
    assert_eq!(names(&hear_all(&mut child)), expected);
}

fn a_child_that_waits_for_messages_ends_when_it_is_dropped() {
    let mut child = waiting(Stdio::pipe());
    let stdout = child.stdout.take().unwrap();
    drop(child);
    assert_eq!(io::read_to_string(stdout).unwrap(), "0 messages\n");
}

/// Forks a child itself, and waits to be killed.
fn fork_middle(_args: &[String]) -> Outcome {
    let mut parent = parent()?;
    let child = waiting(Stdio::inherit());
    parent.send(child.pid().to_string())?;
    parent.recv()?;
    Ok(())
}

fn a_child_that_waits_for_messages_ends_when_its_parent_is_killed() {
    let mut middle = command("fork_middle", &[]).fork().unwrap();
    let pid = middle.recv_deadline(soon()).unwrap().bytes;
    let pid = Pid::from_raw(String::from_utf8(pid).unwrap().parse().unwrap());
    assert!(middle.kill(Signal::KILL).unwrap());
    assert_eq!(middle.wait().unwrap().signal(), Some(9));
    // It has come to this process, the nearest subreaper.
    let end = || waitpid(pid, Some(WaitPidFlag::WNOHANG));
    wait_until("the child of the dead ends", || end() == Ok(WaitStatus::Exited(pid, 0)));
}

/// Has nothing to do.
fn fork_idle(args: &[String]) -> Outcome {
    if args[0] == "with its channel" {
        Box::leak(Box::new(parent()?));
    }
    Ok(())
}

fn an_idle_child_ends_by_itself() {
    for how in ["with its channel", "without it"] {
        let mut child = command("fork_idle", &[how]).fork().unwrap();
        let expected = ["spawned", "disconnected", "exited 0", "closed 0"];
        assert_eq!(names(&hear_all(&mut child)), expected, "{how}");
    }
}

fn fork_disconnect(_args: &[String]) -> Outcome {
    let mut parent = parent()?;
    parent.send("last")?;
    parent.disconnect()?;
    assert!(matches!(parent.send("later"), Err(SendError::Disconnected(_))));
    wait_for_go()?;
    Ok(())
}

fn a_child_may_disconnect_and_go_on() {
    let mut child = command("fork_disconnect", &[]).stdin(Stdio::pipe()).fork().unwrap();
    let mut ear = Ear::new(&mut child);
    let heard = ear.hear_until(&mut child, |event| matches!(event, Event::Disconnected));
    assert_eq!(names(&heard), ["spawned", "last", "disconnected"]);
    assert!(child.is_alive() && !child.is_connected());
    match child.send(Message::new("late")) {
        Err(SendError::Disconnected(message)) => assert_eq!(message.bytes, b"late"),
        other => panic!("{other:?}"),
    }
    drop(child.stdin.take());
    assert_eq!(names(&ear.hear_all(&mut child)), ["exited 0", "closed 0"]);
}

fn a_timeout_and_a_token_end_a_child_whose_messages_are_waited_for() {
    let timeout = Duration::from_millis(100);
    let mut child = command("fork_wait_for_the_end", &[]).timeout(timeout).fork().unwrap();
    while child.recv_deadline(None).is_ok() {}
    assert_eq!(child.kill_reason(), Some(KillReason::Timeout));
    assert_eq!(child.wait().unwrap().signal(), Some(15));

    let token = CancelToken::new();
    let mut child = command("fork_wait_for_the_end", &[]).cancel_with(&token).fork().unwrap();
    assert_eq!(child.recv_deadline(None).unwrap().bytes, b"here");
    thread::scope(|scope| {
        scope.spawn(|| token.cancel());
        assert!(matches!(child.recv_deadline(None), Err(RecvError::Disconnected)));
    });
    assert_eq!(child.kill_reason(), Some(KillReason::Cancelled));
    assert_eq!(child.wait().unwrap().signal(), Some(15));
}

fn a_timeout_ends_a_child_that_takes_no_message() {
    let mut command = command("fork_wait_for_the_end", &[]);
    command.timeout(Duration::from_millis(100)).kill_signal(Signal::KILL);
    let mut child = command.fork().unwrap();
    child.kill(Signal::from_number(nix::libc::SIGSTOP).unwrap()).unwrap();
    let error = loop {
        if let Err(error) = child.send_deadline(vec![b'x'; 100_000], None) {
            break error;
        }
    };
    assert!(matches!(error, SendError::Disconnected(_)), "{error}");
    assert_eq!(child.kill_reason(), Some(KillReason::Timeout));

    let mut child = command.fork().unwrap();
    child.kill(Signal::from_number(nix::libc::SIGSTOP).unwrap()).unwrap();
    child.send(vec![b'x'; 1 << 20]).unwrap();
    assert_eq!(child.flush_deadline(None).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

fn who_waits_for_messages_does_not_wait_for_a_grandchild_that_has_the_channel() {
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 1000 <&- >&- & exit 0"]).process_group(0);
    let mut child = command.stdout(Stdio::null()).fork().unwrap();
    assert!(matches!(child.recv_deadline(soon()), Err(RecvError::Disconnected)));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(child.kill_tree(Signal::KILL).unwrap(), 1, "the grandchild is there");
    bury_all();
}

fn row25_a_child_that_dies_gives_back_what_it_has_not_got() {
    let mut child = command("fork_wait_for_the_end", &[]).fork().unwrap();
    let mut ear = Ear::new(&mut child);
    ear.hear_until(&mut child, |event| matches!(event, Event::Message(_)));
    // It takes no more messages from now on.
    let stop = Signal::from_number(nix::libc::SIGSTOP).unwrap();
    assert!(child.kill(stop).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut clients = Vec::new();
    let refused = loop {
        clients.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (connection, _) = listener.accept().unwrap();
        let message = Message::new(vec![b'x'; 100_000]).with_handle(connection);
        match child.send(message) {
            Ok(()) => {}
            Err(SendError::Full(message)) => break message,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(child.kill(Signal::KILL).unwrap());
    let heard = ear.hear_all(&mut child);
    assert_eq!(names(&heard), ["disconnected", "exited by signal 9", "closed by signal 9"]);
    let unsent = child.take_unsent();
    assert!(!unsent.is_empty() && unsent.len() + 1 < clients.len(), "{}", unsent.len());
    // Some clients are lost with the child, those behind are still ours.
    let saved = clients.split_off(clients.len() - unsent.len() - 1);
    for mut lost in clients {
        assert!(matches!(lost.read(&mut [0]), Ok(0) | Err(_)));
    }
    for (mut message, mut client) in unsent.into_iter().chain([refused]).zip(saved) {
        message.take_handle::<TcpStream>(0).unwrap().write_all(b"saved").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "saved");
    }
    assert!(child.take_unsent().is_empty());
}

/// Sends much, and is gone.
#[allow(clippy::disallowed_methods, reason = "nothing is dropped then, which is the point")]
fn fork_last_words(args: &[String]) -> Outcome {
    let mut parent = parent()?;
    let (count, bytes) = (args[1].parse::<usize>()?, args[2].parse::<usize>()?);
    for _ in 0..count {
        parent.send(vec![b'.'; bytes])?;
    }
    match args[0].as_str() {
        "drop" => return Ok(()),
        "flush" => parent.flush_deadline(soon())?,
        _ => {}
    }
    std::process::exit(3)
}

fn k10_what_a_child_sends_last_arrives_before_its_end() {
    // What the system takes is not lost, however the process ends.
    for (how, count, bytes, code) in
        [("drop", 3, 1 << 20, 0), ("flush", 3, 1 << 20, 3), ("exit", 200, 10, 3)]
    {
        let args = [how, &count.to_string(), &bytes.to_string()];
        let mut child = command("fork_last_words", &args).fork().unwrap();
        let heard = hear_all(&mut child);
        let is_whole = |event: &Event| match event {
            Event::Message(message) => message.bytes.len() == bytes,
            _ => false,
        };
        assert!(heard[1..=count].iter().all(is_whole), "{how}");
        let expected = ["disconnected".into(), format!("exited {code}"), format!("closed {code}")];
        assert_eq!(names(&heard[count + 1..]), expected, "{how}");
    }
}

fn f59_children_that_are_forked_at_once_hold_only_their_own_channels() {
    let start = || (0..5).map(|_| waiting(Stdio::inherit())).collect::<Vec<_>>();
    let mut children: Vec<Child> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    // Whoever had a copy of the other end would keep a channel open.
    while let Some(mut child) = children.pop() {
        child.disconnect().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(children.iter().all(Child::is_alive));
    }
}

fn fork_print_descriptors(_args: &[String]) -> Outcome {
    let private =
        std::env::vars_os().filter(|(name, _)| format!("{name:?}").contains("PROCESS_CHANNEL"));
    for line in descriptors().into_iter().chain(private.map(|entry| format!("{entry:?}"))) {
        println!("{line}");
    }
    Ok(())
}

/// Tells what is open in it, and in those that it starts itself.
fn fork_tell_descriptors(_args: &[String]) -> Outcome {
    let started = || -> io::Result<String> {
        let mut child = role("fork_print_descriptors", &[]).spawn()?;
        let text = io::read_to_string(child.stdout.take().expect("it is piped"))?;
        child.wait()?;
        Ok(text)
    };
    let before = descriptors();
    let early = started()?;
    let mut parent = parent()?;
    let received = parent.recv()?;
    let late = started()?;
    let stds = std_role("fork_print_descriptors", &[]).output()?;
    drop(received);
    parent.send(before.into_iter().collect::<Vec<_>>().join("\n"))?;
    parent.send(early)?;
    parent.send(late)?;
    parent.send(stds.stdout)?;
    Ok(())
}

fn f58_a_child_has_its_streams_and_the_channel_and_passes_on_neither() {
    let mut child = command("fork_tell_descriptors", &[]).fork().unwrap();
    child.send(Message::new("f32").with_handle(TcpListener::bind("[::1]:0").unwrap())).unwrap();
    let tables: Vec<String> = (0..4)
        .map(|_| String::from_utf8(child.recv_deadline(soon()).unwrap().bytes).unwrap())
        .collect();
    let numbers = |table: &String| -> Vec<String> {
        table.lines().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
    };
    assert_eq!(numbers(&tables[0]), ["0", "1", "2", "3"], "{tables:#?}");
    assert!(tables[0].contains("3 socket:["), "{tables:#?}");
    for table in &tables[1..] {
        assert_eq!(numbers(table), ["0", "1", "2"], "{tables:#?}");
        assert!(!table.contains("socket"), "{tables:#?}");
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn what_is_no_message_ends_the_channel_alone() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "printf 'This is no frame.' >&3; exec 3>&-; read line"]);
    let mut child = command.stdin(Stdio::pipe()).fork().unwrap();
    let mut ear = Ear::new(&mut child);
    let heard = names(&ear.hear_until(&mut child, |event| matches!(event, Event::Disconnected)));
    assert_eq!((heard.len(), &*heard[0], &*heard[2]), (3, "spawned", "disconnected"));
    assert!(heard[1].contains("sent what is no message"), "{}", heard[1]);
    assert!(child.is_alive() && !child.is_connected());
    child.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    assert_eq!(names(&ear.hear_all(&mut child)), ["exited 0", "closed 0"]);
}

/// Removes its own program's file, and runs a function all the same.
fn fork_without_a_file(args: &[String]) -> Outcome {
    fs::remove_file(&args[0])?;
    let mut child = DOUBLE.command().arg("5").fork()?;
    child.send("4")?;
    let answer = child.recv_deadline(soon())?;
    let code = child.wait()?.code();
    if answer.bytes == b"8" && code == Some(5) { Ok(()) } else { Err("it did not run".into()) }
}

fn a_function_runs_although_the_programs_file_is_gone() {
    let directory = Directory::new();
    let file = directory.join("program");
    fs::copy("/proc/self/exe", &file).unwrap();
    let role = std_role("fork_without_a_file", &[file.to_str().unwrap()]);
    let output = std::process::Command::new(&file).args(role.get_args()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!file.exists());
}
