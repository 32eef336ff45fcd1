//! Messages both ways, and what holds them up.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::thread;

use runtime::Message;
use runtime::process::{
    self, ChannelLimits, Child, Children, Command, Event, RecvError, SendError, Stdio,
};

use super::{Ear, command, hear_all, names, parent, soon, std_role, wait_for_go};
use crate::harness::tools::wait_until;
use crate::harness::{Outcome, roles, tests};
use crate::support::role;

tests! {
    a_child_answers_in_a_loop_and_to_blocking_calls,
    row24_a_handle_comes_with_its_own_message,
    row26_a_child_that_does_not_read_is_noticed_and_so_is_that_there_is_room,
    row27_any_bytes_of_any_length_arrive,
    what_is_over_the_limits_is_refused_and_comes_back,
    both_sides_send_a_hundred_thousand_at_once,
    children_of_a_thread_are_sent_messages_from_any_other,
    a_handle_that_outlives_its_thread_is_disconnected,
    a_child_that_nobody_forked_has_no_parent,
    a_channel_may_have_another_number,
    channels_that_cannot_be_are_refused,
}
roles! {
    fork_echo,
    fork_count_when_told,
    fork_flood,
    fork_is_there_a_parent,
}

/// Answers each message with the same.
fn fork_echo(_args: &[String]) -> Outcome {
    let mut parent = parent()?;
    assert!(process::parent()?.is_none(), "a second time");
    parent.set_limits(large());
    while let Ok(message) = parent.recv() {
        parent.send_deadline(message, soon())?;
    }
    Ok(())
}

fn large() -> ChannelLimits {
    let payload_bytes_max = 3 << 20;
    let queued_bytes_max = 2 * payload_bytes_max;
    ChannelLimits { payload_bytes_max, queued_bytes_max, ..ChannelLimits::default() }
}

fn a_child_answers_in_a_loop_and_to_blocking_calls() {
    let mut child = command("fork_echo", &[]).fork().unwrap();
    child.send("one").unwrap();
    assert_eq!(child.recv_deadline(soon()).unwrap().bytes, b"one");
    child.send("two").unwrap();
    let mut ear = Ear::new(&mut child);
    let heard = ear.hear_until(&mut child, |event| matches!(event, Event::Message(_)));
    assert_eq!(names(&heard), ["spawned", "two"]);
    assert!(child.is_connected());
    child.disconnect().unwrap();
    assert!(!child.is_connected());
    assert!(matches!(child.send("three"), Err(SendError::Disconnected(_))));
    let heard = ear.hear_all(&mut child);
    assert_eq!(names(&heard), ["disconnected", "exited 0", "closed 0"]);
    assert!(matches!(child.recv_deadline(soon()), Err(RecvError::Disconnected)));
}

/// Waits to be told, and then tells the number of handles of so many messages.
fn fork_count_when_told(args: &[String]) -> Outcome {
    let mut parent = parent()?;
    wait_for_go()?;
    for _ in 0..args[0].parse::<usize>()? {
        let message = parent.recv_deadline(soon())?;
        let text = String::from_utf8_lossy(&message.bytes[..message.bytes.len().min(5)]);
        parent.send_deadline(format!("{text} {}", message.handles.len()), soon())?;
    }
    Ok(())
}

/// A child that receives so many messages when its standard input is closed.
fn count_when_told(count: usize) -> Child {
    let mut command = command("fork_count_when_told", &[&count.to_string()]);
    command.stdin(Stdio::pipe()).fork().unwrap()
}

fn row24_a_handle_comes_with_its_own_message() {
    let mut child = count_when_told(3);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    child.send("one").unwrap();
    child.send(Message::new("two").with_handle(listener)).unwrap();
    child.send("three").unwrap();
    drop(child.stdin.take());
    let heard = hear_all(&mut child);
    let expected = ["spawned", "one 0", "two 1", "three 0", "disconnected", "exited 0", "closed 0"];
    assert_eq!(names(&heard), expected);
}

fn row26_a_child_that_does_not_read_is_noticed_and_so_is_that_there_is_room() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut child = count_when_told(50);
    // A duplicate: the sender's stays usable.
    child.send(Message::new("first").with_handle(socket.try_clone().unwrap())).unwrap();
    assert!(!child.has_unsent(), "the system takes what is read soon");
    let mut sent = 1;
    let message = loop {
        match child.send(vec![b'x'; 200_000]) {
            Ok(()) => sent += 1,
            Err(SendError::Full(message)) => break message,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(child.has_unsent() && sent < 49, "{sent}");
    assert_eq!(message.bytes.len(), 200_000, "refused, and not lost");
    assert!(matches!(child.send(message), Err(SendError::Full(_))));
    drop(child.stdin.take());
    let mut ear = Ear::new(&mut child);
    let mut heard = ear.hear_until(&mut child, |event| matches!(event, Event::Drained));
    assert!(!child.has_unsent());
    for _ in sent..50 {
        child.send("more").unwrap();
    }
    heard.extend(ear.hear_all(&mut child));
    let mut names = names(&heard);
    names.retain(|name| name != "xxxxx 0");
    // Of these two, which go opposite ways, either may be first.
    names[1..3].sort_unstable();
    let mut expected = vec!["spawned", "drained", "first 1"];
    expected.extend(vec!["more 0"; 50 - sent]);
    expected.extend(["disconnected", "exited 0", "closed 0"]);
    assert_eq!(names, expected);
    assert!(socket.local_addr().is_ok());
}

fn row27_any_bytes_of_any_length_arrive() {
    let mut child = command("fork_echo", &[]).channel_limits(large()).fork().unwrap();
    let text = "Ünïcödé, 漢字, 🦀";
    child.send(text).unwrap();
    assert_eq!(child.recv_deadline(soon()).unwrap().bytes, text.as_bytes());
    let around = |bytes: usize| [bytes - 1, bytes, bytes + 1];
    let lengths = [[0, 1, 2], around(8), around(256), around(1 << 16), around(1 << 20)];
    for length in lengths.into_iter().flatten().chain([3 << 20]) {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
        child.send(bytes.clone()).unwrap();
        assert!(child.recv_deadline(soon()).unwrap().bytes == bytes, "{length}");
    }
    child.disconnect().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn what_is_over_the_limits_is_refused_and_comes_back() {
    let limits = ChannelLimits { payload_bytes_max: 9, ..ChannelLimits::default() };
    let mut child = command("fork_echo", &[]).channel_limits(limits).fork().unwrap();
    match child.send("ten bytes!") {
        Err(SendError::TooLarge(message)) => assert_eq!(message.bytes, b"ten bytes!"),
        other => panic!("{other:?}"),
    }
    child.send("nine byte").unwrap();
    assert_eq!(child.recv_deadline(soon()).unwrap().bytes, b"nine byte");
    child.disconnect().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Under Wine a message takes half a millisecond.
const FLOOD: u32 = if cfg!(windows) { 5_000 } else { 100_000 };

/// Sends as many messages as it receives, in order, and receives when there is no room.
fn flood(
    mut send: impl FnMut(Message) -> Result<(), SendError>,
    mut receive: impl FnMut() -> Result<Message, RecvError>,
    mut flush: impl FnMut() -> io::Result<()>,
) -> Outcome {
    let (mut sent, mut received) = (0_u32, 0_u32);
    while received < FLOOD || sent < FLOOD {
        while sent < FLOOD {
            match send(sent.to_le_bytes().to_vec().into()) {
                Ok(()) => sent += 1,
                Err(SendError::Full(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if received == FLOOD {
            flush()?;
            continue;
        }
        if receive()?.bytes != received.to_le_bytes() {
            return Err(format!("message {received} is not itself").into());
        }
        received += 1;
    }
    flush()?;
    Ok(())
}

fn fork_flood(_args: &[String]) -> Outcome {
    let parent = RefCell::new(parent()?);
    flood(
        |message| parent.borrow_mut().send(message),
        || parent.borrow_mut().recv_deadline(soon()),
        || parent.borrow_mut().flush_deadline(soon()),
    )
}

fn both_sides_send_a_hundred_thousand_at_once() {
    let child = RefCell::new(command("fork_flood", &[]).fork().unwrap());
    let flooded = flood(
        |message| child.borrow_mut().send(message),
        || child.borrow_mut().recv_deadline(soon()),
        || child.borrow_mut().flush_deadline(soon()),
    );
    flooded.unwrap();
    let mut heard = names(&hear_all(&mut child.into_inner()));
    heard.retain(|name| name != "drained");
    assert_eq!(heard, ["spawned", "disconnected", "exited 0", "closed 0"]);
}

fn children_of_a_thread_are_sent_messages_from_any_other() {
    const MESSAGES: usize = 50;
    let children = Children::start().unwrap();
    let mut echo = command("fork_echo", &[]);
    let handles = [0; 3].map(|_| children.fork(&mut echo).unwrap());
    let mut told: BTreeMap<_, Vec<String>> = BTreeMap::new();
    thread::scope(|scope| {
        for handle in &handles {
            scope.spawn(move || {
                for number in 0..MESSAGES {
                    handle.send(format!("{} {number}", handle.pid())).unwrap();
                }
            });
        }
        while told.values().map(Vec::len).sum::<usize>() < 3 * (MESSAGES + 4) {
            let (id, event) = children.events().recv_deadline(soon().unwrap()).unwrap();
            told.entry(id).or_default().extend(names(&[event]));
            let handle = handles.iter().find(|handle| handle.id() == id).unwrap();
            if told[&id].len() == MESSAGES + 1 {
                handle.disconnect().unwrap();
            }
        }
    });
    for handle in handles {
        let mut expected = vec!["spawned".to_owned()];
        expected.extend((0..MESSAGES).map(|number| format!("{} {number}", handle.pid())));
        expected.extend(["disconnected", "exited 0", "closed 0"].map(str::to_owned));
        assert_eq!(told[&handle.id()], expected);
        assert!(!handle.is_connected());
    }
    assert!(children.is_empty());
}

fn a_handle_that_outlives_its_thread_is_disconnected() {
    let children = Children::start().unwrap();
    let handle = children.fork(&mut command("fork_echo", &[])).unwrap();
    handle.send("one").unwrap();
    drop(children);
    assert!(matches!(handle.send("two"), Err(SendError::Disconnected(_))));
    assert!(!handle.is_connected() && !handle.has_unsent());
    handle.disconnect().unwrap();
    wait_until("the child has noticed", || !handle.is_alive());
}

fn fork_is_there_a_parent(_args: &[String]) -> Outcome {
    let is_private = |(name, _): &(_, _)| format!("{name:?}").contains("PROCESS_CHANNEL");
    let variables = std::env::vars_os().filter(is_private).count();
    match process::parent()? {
        Some(mut parent) => parent.send("yes")?,
        None => println!("no, {variables}"),
    }
    let left = std::env::vars_os().filter(is_private).count();
    if left == 0 { Ok(()) } else { Err(format!("{left} variables are left").into()) }
}

fn a_child_that_nobody_forked_has_no_parent() {
    let output = std_role("fork_is_there_a_parent", &[]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "no, 0\n");
    let mut child = role("fork_is_there_a_parent", &[]).spawn().unwrap();
    assert_eq!(io::read_to_string(child.stdout.take().unwrap()).unwrap(), "no, 0\n");
    assert!(matches!(child.send("one"), Err(SendError::Disconnected(_))));
    assert!(!child.is_connected());
    assert_eq!(names(&hear_all(&mut child)), ["spawned", "exited 0", "closed 0"]);
}

fn a_channel_may_have_another_number() {
    for number in [0, 2, 3, 7] {
        let mut command = command("fork_is_there_a_parent", &[]);
        let mut child = command.descriptor(number, Stdio::ipc()).spawn().unwrap();
        let heard = names(&hear_all(&mut child));
        assert_eq!(heard, ["spawned", "yes", "disconnected", "exited 0", "closed 0"]);
    }
    // The same command, in the other way, and again.
    let mut command = command("fork_is_there_a_parent", &[]);
    command.descriptor(5, Stdio::ipc());
    for _ in 0..2 {
        let mut child = command.fork().unwrap();
        assert_eq!(child.recv_deadline(soon()).unwrap().bytes, b"yes");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

fn channels_that_cannot_be_are_refused() {
    let mut two = Command::new("true");
    two.descriptor(4, Stdio::ipc()).descriptor(3, Stdio::ipc());
    let mut taken = Command::new("true");
    taken.descriptor(3, Stdio::null());
    let errors = [
        (two.spawn().unwrap_err(), "descriptors 3 and 4: a child has one channel"),
        (two.fork().unwrap_err(), "descriptors 3 and 4: a child has one channel"),
        (taken.fork().unwrap_err(), "descriptor 3: the channel is there"),
    ];
    for (error, text) in errors {
        assert!(error.to_string().contains(text), "{error}");
    }
    let mut sync = Command::new("true");
    let error = sync.descriptor(3, Stdio::ipc()).spawn_sync().unwrap_err();
    assert!(error.to_string().contains("only spawn and fork give a child a channel"), "{error}");
}
