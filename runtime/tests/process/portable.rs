//! What holds on all systems. A process that is ended by a signal ends with code 1 on Windows.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use runtime::process::{
    self, CancelToken, Children, Command, Event, Failure, Function, KillReason, OutputStream,
    Parent, Signal, Stdio, Step, become_subreaper, exec_sync, spawn_sync,
};
use runtime::{Exit, Message};

use crate::harness::tools::{DEADLINE, Directory, wait_until};
use crate::harness::{Outcome, roles, tests};
use crate::support::{Attended, pattern, role, this_binary};

tests! {
    events_come_once_and_in_order,
    arguments_arrive_whatever_is_in_them,
    the_environment_is_what_was_asked_for,
    the_directory_is_the_childs,
    streams_carry_more_than_they_hold,
    streams_push_back_in_a_poll,
    a_stream_is_used_with_a_poll_and_without,
    what_was_taken_to_be_written_goes_though_the_stream_is_dropped,
    streams_lead_from_child_to_child,
    output_is_collected_to_its_end,
    output_that_is_too_long_is_cut_off_exactly,
    input_of_any_size_goes_through,
    a_line_is_the_shells,
    a_timeout_ends_a_child,
    a_token_ends_children,
    a_tree_is_ended_as_a_whole,
    dropped_it_is_ended_if_asked,
    a_hundred_children_at_once_tell_each_event_once,
    children_are_attended_to_by_a_thread,
    messages_go_both_ways,
    what_a_child_sends_last_comes_before_its_end,
    a_child_serves_a_connection_that_was_accepted_here,
    a_function_of_this_program_is_a_child,
    a_child_that_nobody_forked_has_no_parent,
    what_fails_is_named,
}
roles! {
    says_args,
    says_env,
    says_directory,
    writes_pattern,
    has_grandchild,
    answers,
    says_much,
    serves,
    says_whether_it_has_a_parent,
}

pub(crate) const FUNCTIONS: &[Function] = &[ADD_ONE];

const ADD_ONE: Function = Function::new("add_one", add_one);

/// What comes of a signal that ends a process at once.
fn killed_by(signal: i32) -> Exit {
    if cfg!(windows) { Exit::Code(1) } else { Exit::Signal { signal, core_dumped: false } }
}

fn events_come_once_and_in_order() {
    let mut attended = Attended::new(role("exit", &["7"]).spawn().unwrap());
    attended.until("Closed(Code(7))");
    assert_eq!(attended.seen, ["Spawned", "Exited(Code(7))", "Closed(Code(7))"]);
    assert!(!attended.child.is_alive());
    assert!(!attended.child.kill(Signal::KILL).unwrap());
    assert_eq!(attended.child.wait().unwrap(), Exit::Code(7));
}

/// Prints its arguments, each as code.
fn says_args(args: &[String]) -> Outcome {
    print!("{args:?}");
    Ok(())
}

fn arguments_arrive_whatever_is_in_them() {
    let args = [
        "",
        " ",
        "a b",
        "\t",
        r#"say "hi""#,
        r"c:\d\",
        r#"e\"f g\\"#,
        r#"\\"""#,
        "%PATH%",
        "^&|<>",
        "'",
        "*",
        "é𝄞",
        "--",
        "/?",
        "a\nb",
    ];
    let output = role("says_args", &args).exec_sync().unwrap();
    assert_eq!(output.stdout_str().unwrap(), format!("{args:?}"));
}

/// Prints the variables that are named, each on a line.
fn says_env(names: &[String]) -> Outcome {
    for name in names {
        println!("{name}={:?}", std::env::var(name).ok());
    }
    println!("{}", std::env::vars_os().count());
    Ok(())
}

fn the_environment_is_what_was_asked_for() {
    let mut command = role("says_env", &["RUNTIME_A", "runtime_b", "RUNTIME_C"]);
    command.env("RUNTIME_A", "a b=\"c").env("runtime_b", "é").env("RUNTIME_C", "x");
    let said = command.env_remove("RUNTIME_C").exec_sync().unwrap();
    let lines = said.stdout_str().unwrap();
    let expected = "RUNTIME_A=Some(\"a b=\\\"c\")\nruntime_b=Some(\"é\")\nRUNTIME_C=None\n";
    assert!(lines.starts_with(expected), "{lines}");
    // Windows takes names for the same that differ in case.
    let mut command = role("says_env", &["PATH"]);
    let said = command.env("Path", "here").exec_sync().unwrap();
    let is_replaced = said.stdout_str().unwrap().starts_with("PATH=Some(\"here\")");
    assert_eq!(is_replaced, cfg!(windows));
    // The harness has set this one.
    std::env::var("RUST_BACKTRACE").expect("a variable of ours");
    let mut command = role("says_env", &["RUNTIME_A", "RUST_BACKTRACE"]);
    let said = command.env_clear().env("RUNTIME_A", "alone").exec_sync().unwrap();
    let lines = said.stdout_str().unwrap();
    assert!(lines.starts_with("RUNTIME_A=Some(\"alone\")\nRUST_BACKTRACE=None\n"), "{lines}");
    // Wine adds some of its own.
    assert!(cfg!(windows) || lines.ends_with("\n1\n"), "{lines}");
}

fn says_directory(_args: &[String]) -> Outcome {
    print!("{}", std::env::current_dir()?.canonicalize()?.display());
    Ok(())
}

fn the_directory_is_the_childs() {
    let directory = Directory::new();
    let mut command = role("says_directory", &[]);
    let said = command.current_dir(directory.join("")).exec_sync().unwrap();
    let expected = directory.join("").canonicalize().unwrap();
    assert_eq!(said.stdout_str().unwrap(), expected.display().to_string());
    let error = command.current_dir(directory.join("none")).spawn().unwrap_err();
    assert_eq!(error.step(), &Step::Directory(directory.join("none")));
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

fn streams_carry_more_than_they_hold() {
    let sent = pattern(1 << 20);
    let mut child = role("cat", &[]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&copy).unwrap());
    let mut got = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
}

fn is_full(result: &io::Result<usize>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

fn streams_push_back_in_a_poll() {
    let sent = pattern(3 << 20);
    let mut child = role("cat", &[]).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take(), child.stdout.take().unwrap());
    let mut poll = Poll::new().unwrap();
    poll.registry().register(&mut child, Token(0), Interest::READABLE).unwrap();
    poll.registry().register(stdin.as_mut().unwrap(), Token(1), Interest::WRITABLE).unwrap();
    poll.registry().register(&mut stdout, Token(2), Interest::READABLE).unwrap();
    let (mut ready, mut at, mut got, mut full) = (Events::with_capacity(8), 0, Vec::new(), 0);
    let mut is_closed = false;
    while !is_closed {
        // It is not read before the child can take no more.
        while let Some(pipe) = &mut stdin {
            let result = pipe.write(&sent[at..]);
            if is_full(&result) {
                full += 1;
                break;
            }
            at += result.unwrap();
            if at == sent.len() {
                stdin = None;
            }
        }
        let result = if full == 0 { Ok(0) } else { stdout.read_to_end(&mut got) };
        assert!(result.is_ok() || is_full(&result), "{result:?}");
        while let Some(event) = child.next_event().unwrap() {
            is_closed |= matches!(event, Event::Closed(Exit::Code(0)));
        }
        if !is_closed {
            poll.poll(&mut ready, Some(DEADLINE)).unwrap();
            assert!(!ready.is_empty(), "waited in vain: {at} sent, {} came back", got.len());
        }
    }
    assert!(full > 0);
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
}

fn a_stream_is_used_with_a_poll_and_without() {
    let mut child = role("cat", &[]).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for _ in 0..2 {
        let mut poll = Poll::new().unwrap();
        poll.registry().register(&mut stdout, Token(2), Interest::READABLE).unwrap();
        let mut buffer = [0; 8];
        assert!(is_full(&stdout.read(&mut buffer)));
        stdin.write_all(b"first").unwrap();
        let (mut ready, deadline) = (Events::with_capacity(8), Instant::now() + DEADLINE);
        let mut result = stdout.read(&mut buffer);
        while is_full(&result) {
            poll.poll(&mut ready, Some(DEADLINE)).unwrap();
            assert!(Instant::now() < deadline, "waited in vain");
            result = stdout.read(&mut buffer);
        }
        assert_eq!(&buffer[..result.unwrap()], b"first");
        assert!(is_full(&stdout.read(&mut buffer)));
        poll.registry().deregister(&mut stdout).unwrap();
        stdin.write_all(b"second").unwrap();
        stdout.read_exact(&mut buffer[..6]).unwrap();
        assert_eq!(&buffer[..6], b"second");
    }
    drop(stdin);
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
}

fn what_was_taken_to_be_written_goes_though_the_stream_is_dropped() {
    let mut child = role("cat", &[]).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let poll = Poll::new().unwrap();
    poll.registry().register(&mut stdin, Token(0), Interest::WRITABLE).unwrap();
    let mut sent = Vec::new();
    loop {
        let next = pattern(sent.len() + 70_000);
        match stdin.write(&next[sent.len()..]) {
            Ok(count) => sent = next[..sent.len() + count].to_vec(),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                break;
            }
        }
    }
    drop((stdin, poll));
    let mut got = Vec::new();
    stdout.read_to_end(&mut got).unwrap();
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
}

fn streams_lead_from_child_to_child() {
    let mut last = role("cat", &[]).spawn().unwrap();
    let stdin = last.stdin.take().unwrap();
    let mut first = role("cat", &[]).stdout(stdin).spawn().unwrap();
    first.stdin.take().unwrap().write_all(b"through both").unwrap();
    let mut text = String::new();
    last.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "through both");
    assert_eq!([first.wait().unwrap(), last.wait().unwrap()], [Exit::Code(0); 2]);
}

/// Writes so many bytes to standard output, and a text to standard error.
fn writes_pattern(args: &[String]) -> Outcome {
    io::stdout().write_all(&pattern(args[0].parse()?))?;
    eprint!("done");
    Ok(())
}

/// Also what a pipe held when the child ended.
fn output_is_collected_to_its_end() {
    for length in [0, 1, 100_000, 500_000] {
        let output = role("writes_pattern", &[&length.to_string()]).exec_sync().unwrap();
        assert!(output.stdout == pattern(length), "{} of {length}", output.stdout.len());
        assert_eq!(output.stderr_str().unwrap(), "done");
    }
    let output = spawn_sync(this_binary(), ["--role", "exit", "7"]).unwrap();
    assert_eq!(output.status, Exit::Code(7));
    let error = role("exit", &["7"]).exec_sync().unwrap_err();
    assert_eq!(error.code(), Some(7));
}

fn output_that_is_too_long_is_cut_off_exactly() {
    let mut command = role("writes_pattern", &["100000"]);
    assert_eq!(command.max_buffer(100_000).exec_sync().unwrap().stdout.len(), 100_000);
    let error = command.max_buffer(99_999).exec_sync().unwrap_err();
    assert!(matches!(error.failure(), Failure::MaxBuffer(OutputStream::Stdout)), "{error}");
    assert!(error.stdout() == &pattern(100_000)[..99_999]);
}

fn input_of_any_size_goes_through() {
    let input = pattern(300_000);
    let output = role("cat", &[]).input(input.clone()).exec_sync().unwrap();
    assert!(output.stdout == input, "{} bytes came back", output.stdout.len());
    assert_eq!(role("cat", &[]).exec_sync().unwrap().stdout, [], "it reads nothing by default");
}

fn a_line_is_the_shells() {
    let output = exec_sync("echo one&& echo two").unwrap();
    assert_eq!(output.stdout_str().unwrap().split_whitespace().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(exec_sync("exit 7").unwrap_err().code(), Some(7));
    // What it has started is ended with it. Where there are orphans, they are collected.
    let _ = become_subreaper();
    let this = std::env::current_exe().unwrap();
    let mut command = Command::shell(format!("\"{}\" --role cat", this.display()));
    let (stdin, _kept_open) = io::pipe().unwrap();
    command.stdin(Stdio::given(stdin)).timeout(Duration::from_millis(50));
    let error = command.exec_sync().unwrap_err();
    assert!(matches!(error.failure(), Failure::TimedOut), "{error}");
}

fn a_timeout_ends_a_child() {
    let mut command = role("cat", &[]);
    command.timeout(Duration::from_millis(20));
    let mut attended = Attended::new(command.spawn().unwrap());
    let killed = format!("Exited({:?})", killed_by(15));
    attended.until(&killed);
    assert_eq!(attended.seen[..3], ["Spawned", "Killed(Timeout)", &killed]);
    let mut waited = command.spawn().unwrap();
    let _stdin = waited.stdin.take();
    assert_eq!(waited.wait().unwrap(), killed_by(15));
    assert_eq!(waited.kill_reason(), Some(KillReason::Timeout));
    let mut waited = role("cat", &[]).spawn().unwrap();
    let _stdin = waited.stdin.take();
    let soon = Instant::now() + Duration::from_millis(20);
    assert_eq!(waited.wait_deadline(Some(soon)).unwrap(), None);
    assert!(Instant::now() >= soon && waited.kill(Signal::TERM).unwrap());
    assert_eq!(waited.wait().unwrap(), killed_by(15));
}

fn a_token_ends_children() {
    let token = CancelToken::new();
    let mut command = role("cat", &[]);
    command.cancel_with(&token);
    let mut attended = Attended::new(command.spawn().unwrap());
    let mut waited = command.spawn().unwrap();
    let _stdin = waited.stdin.take();
    let waiter = std::thread::spawn(move || (waited.wait().unwrap(), waited.kill_reason()));
    attended.until("Spawned");
    token.cancel();
    attended.until(&format!("Exited({:?})", killed_by(15)));
    assert_eq!(waiter.join().unwrap(), (killed_by(15), Some(KillReason::Cancelled)));
}

/// Starts a process that holds our output until it is ended, and waits for it.
fn has_grandchild(_args: &[String]) -> Outcome {
    let (stdin, _kept_open) = io::pipe()?;
    let mut command = role("cat", &[]);
    command.stdin(Stdio::given(stdin)).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    let mut grandchild = command.spawn()?;
    println!("{}", grandchild.pid());
    grandchild.wait()?;
    Ok(())
}

fn a_tree_is_ended_as_a_whole() {
    // Where there are orphans, they are collected.
    let _ = become_subreaper();
    // Of a group of its own, so that the tree is known everywhere.
    let mut child = role("has_grandchild", &[]).process_group(0).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0];
    stdout.read_exact(&mut first).unwrap();
    assert!(first[0].is_ascii_digit());
    assert_eq!(child.kill_tree(Signal::KILL).unwrap(), 2);
    assert_eq!(child.wait().unwrap(), killed_by(9));
    // It has no other end any more.
    stdout.read_to_end(&mut Vec::new()).unwrap();
    wait_until("nobody is left", || child.kill_tree(Signal::KILL).unwrap() == 0);
}

fn dropped_it_is_ended_if_asked() {
    let mut child = role("cat", &[]).kill_on_drop(true).spawn().unwrap();
    let (stdin, mut stdout) = (child.stdin.take(), child.stdout.take().unwrap());
    drop(child);
    assert_eq!(stdout.read(&mut [0]).unwrap(), 0);
    drop(stdin);
    // Else it runs on.
    let mut child = role("cat", &[]).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    drop(child);
    stdin.write_all(b"x").unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    drop(stdin);
    assert_eq!(stdout.read(&mut [0]).unwrap(), 0);
}

fn a_hundred_children_at_once_tell_each_event_once() {
    const CHILDREN: usize = 100;
    let mut poll = Poll::new().unwrap();
    let mut children = Vec::new();
    for number in 0..CHILDREN {
        let mut command = role("exit", &[&number.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        poll.registry().register(&mut child, Token(number), Interest::READABLE).unwrap();
        children.push(child);
    }
    let mut told = vec![Vec::new(); CHILDREN];
    let mut ready = Events::with_capacity(64);
    while told.iter().any(|events| events.len() < 3) {
        poll.poll(&mut ready, Some(DEADLINE)).unwrap();
        assert!(!ready.is_empty(), "waited in vain: {told:?}");
        for event in &ready {
            let number = event.token().0;
            told[number].extend(crate::support::events(&mut children[number]));
        }
    }
    for (number, told) in told.iter().enumerate() {
        let events =
            ["Spawned", &format!("Exited(Code({number}))"), &format!("Closed(Code({number}))")];
        assert_eq!(told[..], events);
    }
}

fn children_are_attended_to_by_a_thread() {
    let children = Children::start().unwrap();
    let mut command = role("exit", &["3"]);
    let handle = children.spawn(&mut command).unwrap();
    let mut told = Vec::new();
    while told.last().is_none_or(|event| event != "Closed(Code(3))") {
        let (id, event) = children.events().recv_timeout(DEADLINE).expect("it goes on");
        assert_eq!(id, handle.id());
        told.push(match event {
            Event::Spawned { .. } => "Spawned".into(),
            event => format!("{event:?}"),
        });
    }
    assert_eq!(told, ["Spawned", "Exited(Code(3))", "Closed(Code(3))"]);
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + DEADLINE)
}

/// Answers each message with the same, and ends with its parent.
fn answers(_args: &[String]) -> Outcome {
    let mut parent = process::parent()?.ok_or("no parent")?;
    while let Ok(message) = parent.recv() {
        parent.send_deadline(message, soon())?;
    }
    Ok(())
}

fn messages_go_both_ways() {
    let mut child = role("answers", &[]).fork().unwrap();
    child.send("one").unwrap();
    assert_eq!(child.recv_deadline(soon()).unwrap().bytes, b"one");
    let long = pattern(600_000);
    child.send_deadline(long.clone(), soon()).unwrap();
    assert!(child.recv_deadline(soon()).unwrap().bytes == long);
    child.disconnect().unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
    let mut attended = Attended::new(role("answers", &[]).fork().unwrap());
    attended.child.send("two").unwrap();
    attended.until("Message(Message { length: 3, bytes: \"two\", handles: Handles([]) })");
    attended.child.disconnect().unwrap();
    attended.until("Closed(Code(0))");
    let end = ["Disconnected", "Exited(Code(0))", "Closed(Code(0))"];
    assert_eq!(attended.seen[2..], end);
}

/// Sends so many long messages, and exits.
fn says_much(args: &[String]) -> Outcome {
    let mut parent = process::parent()?.ok_or("no parent")?;
    for number in 0..args[0].parse()? {
        parent.send_deadline(vec![number; 50_000], soon())?;
    }
    Ok(())
}

fn what_a_child_sends_last_comes_before_its_end() {
    const MESSAGES: usize = 20;
    let forked = || role("says_much", &[&MESSAGES.to_string()]).fork().unwrap();
    let mut attended = Attended::new(forked());
    attended.until("Closed(Code(0))");
    let message = |number: usize| {
        let bytes = vec![u8::try_from(number).unwrap(); 50_000];
        format!("{:?}", Event::Message(Message::new(bytes)))
    };
    let expected = std::iter::once("Spawned".into()).chain((0..MESSAGES).map(message));
    let expected =
        expected.chain(["Disconnected", "Exited(Code(0))", "Closed(Code(0))"].map(Into::into));
    assert_eq!(attended.seen, expected.collect::<Vec<String>>());
    let mut child = forked();
    let numbers = std::iter::from_fn(|| child.recv_deadline(soon()).ok()).map(|m| m.bytes[0]);
    assert!(numbers.eq(0..20));
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
}

/// Writes to the connection that it is sent.
fn serves(_args: &[String]) -> Outcome {
    let mut parent = process::parent()?.ok_or("no parent")?;
    while let Ok(mut message) = parent.recv() {
        message.take_handle::<TcpStream>(0)?.write_all(&message.bytes)?;
        parent.send("served")?;
    }
    Ok(())
}

fn a_child_serves_a_connection_that_was_accepted_here() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut child = role("serves", &[]).fork().unwrap();
    for text in ["first", "second"] {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (connection, _) = listener.accept().unwrap();
        child.send(Message::new(text).with_handle(connection)).unwrap();
        let mut got = String::new();
        client.read_to_string(&mut got).unwrap();
        assert_eq!(got, text);
        assert_eq!(child.recv_deadline(soon()).unwrap().bytes, b"served");
    }
    child.disconnect().unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
}

/// Adds one to a number; its exit code is its argument.
fn add_one(mut parent: Parent, args: Vec<OsString>) -> Result<u8, Box<dyn Error + Send + Sync>> {
    let number = parent.recv_deadline(soon())?.bytes[0];
    parent.send(vec![number + 1])?;
    Ok(args[0].to_str().ok_or("no text")?.parse()?)
}

fn a_function_of_this_program_is_a_child() {
    let mut child = ADD_ONE.command().arg("9").fork().unwrap();
    child.send(vec![41]).unwrap();
    assert_eq!(child.recv_deadline(soon()).unwrap().bytes, [42]);
    assert_eq!(child.wait().unwrap(), Exit::Code(9));
}

fn says_whether_it_has_a_parent(_args: &[String]) -> Outcome {
    print!("{}", process::parent()?.is_some());
    Ok(())
}

fn a_child_that_nobody_forked_has_no_parent() {
    let mut command = role("says_whether_it_has_a_parent", &[]);
    assert_eq!(command.exec_sync().unwrap().stdout_str().unwrap(), "false");
    command.env("PROCESS_CHANNEL_PARENT", std::process::id().to_string());
    command.env("PROCESS_CHANNEL_HANDLE", "4");
    assert_eq!(command.exec_sync().unwrap().stdout_str().unwrap(), "false");
}

fn what_fails_is_named() {
    let error = Command::new("no such program").spawn().unwrap_err();
    assert_eq!(error.step(), &Step::Execute("no such program".into()));
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let error = Command::new("").spawn().unwrap_err();
    assert!(error.to_string().contains("its file is an empty text"), "{error}");
    let error = role("exit", &["0"]).arg("a\0b").spawn().unwrap_err();
    assert!(error.to_string().contains("zero byte"), "{error}");
    let error = role("exit", &["0"]).args(vec!["12345678"; 400_000]).spawn().unwrap_err();
    assert!(matches!(error.step(), Step::Check | Step::Execute(_)), "{error}");
}
