//! Children are this test binary again: `role` is what they run.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::windows::io::{AsHandle, AsRawHandle};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use handle_passing::Handle;
use mio::event::Source;
use mio::{Events, Interest, Poll, Token};
use windows_sys::Win32::Foundation::{HANDLE, HANDLE_FLAG_INHERIT, SetHandleInformation};
use windows_sys::Win32::System::Pipes::PeekNamedPipe;
use windows_sys::Win32::System::Threading::{GetStartupInfoW, STARTUPINFOW};

use super::*;
use crate::clock::{deadline, time_left};
use crate::exit::Exit;
use crate::process::descendants::Lineage;
use crate::process::environment::Environment;
use crate::process::launch::{ChildEnd, Group, Launch};
use crate::process::{Resource, Signal, Step};

const TIMEOUT: Duration = Duration::from_secs(20);

/// What a child does.
const ROLE: &str = "RUNTIME_TEST_ROLE";

/// What a child prints begins with it: the test harness prints, too.
const MARK: &str = "said: ";

/// Where this test binary is.
static THIS: LazyLock<PathBuf> = LazyLock::new(|| std::env::current_exe().expect("a file"));

fn launch_of(role: &str) -> Launch<'_> {
    let name = concat!(module_path!(), "::role").split_once("::").expect("a path").1;
    let args = [THIS.as_os_str(), name.as_ref(), "--exact".as_ref(), "--nocapture".as_ref()];
    let changes = BTreeMap::from([(OsStr::new(ROLE), Some(OsStr::new(role)))]);
    Launch {
        files: vec![THIS.clone()],
        args: args.into(),
        line: None,
        env: Environment { is_clear: false, changes },
        descriptors: BTreeMap::new(),
        group: Group::Inherited,
        is_window_hidden: false,
        options: Cow::default(),
        cgroup: None,
    }
}

fn start(role: &str, descriptors: impl IntoIterator<Item = (u32, Handle)>) -> Process {
    let mut launch = launch_of(role);
    launch.descriptors =
        descriptors.into_iter().map(|(number, handle)| (number, ChildEnd::Given(handle))).collect();
    super::launch(&launch).expect("a child")
}

/// Starts a child whose output is read; gives all of it.
fn output_of(launch: &mut Launch<'_>) -> String {
    let (output, theirs) = pipe_from_child().expect("a pipe");
    launch.descriptors.insert(1, ChildEnd::Given(theirs));
    let child = super::launch(launch).expect("a child");
    launch.descriptors.clear();
    let mut text = String::new();
    (&output).read_to_string(&mut text).expect("it is read to its end");
    assert_eq!(end_of(&child), Exit::Code(0), "{text}");
    text
}

/// What a role has said.
fn said(launch: &mut Launch<'_>) -> String {
    let output = output_of(launch);
    output.lines().filter_map(|line| line.split_once(MARK)).map(|(_, said)| said).collect()
}

fn end_of(child: &Process) -> Exit {
    child.wait_until(None, Some(deadline(TIMEOUT))).expect("it can be waited for");
    child.reap().expect("it can be asked").expect("it has ended")
}

#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut words = role.split(' ');
    match words.next().expect("the first word") {
        "exit" => exit(words.next().and_then(|code| code.parse().ok()).expect("a code")),
        "args" => println!("{MARK}{:?}", std::env::args().skip(4).collect::<Vec<_>>()),
        "directory" => {
            println!("{MARK}{}", std::env::current_dir().expect("a directory").display());
        }
        "echo" => drop(io::copy(&mut io::stdin(), &mut io::stderr())),
        "many" => {
            for line in io::stdin().lines() {
                drop(line.expect("a line"));
                start_many();
                println!("{MARK}done");
            }
        }
        "wait" => drop(io::stdin().read_to_end(&mut Vec::new())),
        "open" => println!("{MARK}{:?}", descriptors()),
        "read" => {
            let mut text = String::new();
            let number = words.next().and_then(|number| number.parse().ok()).expect("a number");
            inherited(number).read_to_string(&mut text).expect("it is read to its end");
            println!("{MARK}{text}");
        }
        "parent" => {
            let child = start("wait", [(0, duplicate_of_stdin())]);
            println!("{MARK}{}", child.pid());
            end_of(&child);
        }
        role => panic!("no role {role}"),
    }
}

#[allow(clippy::disallowed_methods, reason = "a child's code")]
fn exit(code: i32) -> ! {
    std::process::exit(code)
}

fn duplicate_of_stdin() -> Handle {
    io::stdin().as_handle().try_clone_to_owned().expect("a duplicate").into()
}

/// What a C runtime finds: by number, whether something is there.
fn descriptors() -> Vec<HANDLE> {
    let mut startup = STARTUPINFOW::default();
    // SAFETY: the call fills in the structure; the block that it points to has the given size, and
    // stays as it is.
    let block = unsafe {
        GetStartupInfoW(&raw mut startup);
        if startup.lpReserved2.is_null() {
            return Vec::new();
        }
        std::slice::from_raw_parts(startup.lpReserved2, startup.cbReserved2.into())
    };
    let (count, rest) = block.split_first_chunk::<4>().expect("a count");
    let (_, handles) = rest.split_at(i32::from_ne_bytes(*count).try_into().expect("a count"));
    let handles = handles.chunks_exact(8).map(|value| value.try_into().expect("8 bytes"));
    handles.map(|value| usize::from_ne_bytes(value) as HANDLE).collect()
}

fn inherited(number: usize) -> File {
    // SAFETY: the child was given it, and takes it once.
    unsafe { File::from_raw_handle(descriptors()[number]) }
}

#[test]
fn exit_codes_come_as_they_are() {
    for code in [0, 7, -1, 0x4000_0000] {
        let child = start(&format!("exit {code}"), []);
        assert_eq!(end_of(&child), Exit::Code(code));
        assert!(!child.is_alive());
        assert!(!child.signal(Signal::KILL.number()).expect("no error"), "it has ended");
    }
}

#[test]
fn a_child_that_is_ended_says_so_once() {
    let (input, theirs) = pipe_to_child().expect("a pipe");
    let child = start("wait", [(0, theirs)]);
    assert!(child.is_alive());
    assert!(child.reap().expect("it can be asked").is_none());
    let error = child.signal(Signal::HUP.number()).expect_err("no such thing here");
    assert!(error.to_string().contains("SIGTERM"), "{error}");
    assert!(child.signal(Signal::TERM.number()).expect("it is ended"));
    assert_eq!(end_of(&child), Exit::Code(1));
    drop(input);
}

#[test]
fn streams_carry_more_than_they_hold() {
    let (input, stdin) = pipe_to_child().expect("a pipe");
    let (output, stderr) = pipe_from_child().expect("a pipe");
    let child = start("echo", [(0, stdin), (2, stderr)]);
    let sent: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let received = std::thread::scope(|scope| {
        scope.spawn(|| {
            (&input).write_all(&sent).expect("it is read");
            drop(input);
        });
        let mut received = Vec::new();
        (&output).read_to_end(&mut received).expect("it is written");
        received
    });
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    assert_eq!(end_of(&child), Exit::Code(0));
}

/// Runs a poll until a token is ready, as often as it takes.
fn wait_for(poll: &mut Poll, token: Token, mut is_done: impl FnMut() -> bool) {
    let (mut events, end) = (Events::with_capacity(16), deadline(TIMEOUT));
    while !is_done() {
        events.clear();
        // Others may be ready, too.
        while !events.iter().any(|event| event.token() == token) {
            assert!(!time_left(end).is_zero(), "nothing within {TIMEOUT:?}");
            poll.poll(&mut events, Some(time_left(end))).expect("a poll");
        }
    }
}

#[test]
fn a_poll_learns_of_the_end_and_of_timers_again_and_again() {
    let mut poll = Poll::new().expect("a poll");
    let (input, theirs) = pipe_to_child().expect("a pipe");
    let child = start("wait", [(0, theirs)]);
    (&mut &child).register(poll.registry(), Token(1), Interest::READABLE).expect("registered");
    let timer = Timer::new().expect("a timer");
    (&mut &timer).register(poll.registry(), Token(2), Interest::READABLE).expect("registered");
    // To be registered is an event of its own.
    let mut seen = 0;
    wait_for(&mut poll, Token(2), || std::mem::replace(&mut seen, 1) == 1);
    for delay in [0, 1, 0, 30] {
        let mut events = Events::with_capacity(16);
        while poll.poll(&mut events, Some(Duration::ZERO)).is_ok() && !events.is_empty() {}
        timer.set(Some(Duration::from_millis(delay))).expect("it is set");
        let mut seen = 0;
        wait_for(&mut poll, Token(2), || std::mem::replace(&mut seen, 1) == 1);
    }
    drop(input);
    wait_for(&mut poll, Token(1), || !child.is_alive());
    (&mut &child).deregister(poll.registry()).expect("deregistered");
    (&mut &timer).deregister(poll.registry()).expect("deregistered");
    // Another poll will do as well.
    let mut other = Poll::new().expect("a poll");
    (&mut &child).register(other.registry(), Token(3), Interest::READABLE).expect("registered");
    let mut seen = 0;
    wait_for(&mut other, Token(3), || std::mem::replace(&mut seen, 1) == 1);
    (&mut &timer).register(other.registry(), Token(4), Interest::READABLE).expect("registered");
    timer.set(Some(Duration::from_secs(60))).expect("it is set");
}

#[test]
fn a_timer_that_is_off_does_not_end_a_wait() {
    let (input, theirs) = pipe_to_child().expect("a pipe");
    let (child, timer) = (start("wait", [(0, theirs)]), Timer::new().expect("a timer"));
    timer.set(Some(Duration::ZERO)).expect("it is set");
    child.wait_until(Some(&timer), None).expect("the timer ends it");
    timer.set(None).expect("it is off");
    let short = deadline(Duration::from_millis(5));
    child.wait_until(Some(&timer), Some(short)).expect("the deadline ends it");
    assert!(time_left(short).is_zero() && child.is_alive());
    drop(input);
    end_of(&child);
}

#[test]
fn a_poll_moves_streams_both_ways() {
    let mut poll = Poll::new().expect("a poll");
    let (mut input, stdin) = pipe_to_child().expect("a pipe");
    let (mut output, stderr) = pipe_from_child().expect("a pipe");
    let child = start("echo", [(0, stdin), (2, stderr)]);
    input.set_nonblocking(true).and(output.set_nonblocking(true)).expect("it can be set");
    input.register(poll.registry(), Token(0), Interest::WRITABLE).expect("registered");
    output.register(poll.registry(), Token(1), Interest::READABLE).expect("registered");
    let sent = vec![7; 300_000];
    let (mut input, mut written, mut received) = (Some(input), 0, Vec::new());
    let (mut events, end, mut is_at_end) = (Events::with_capacity(16), deadline(TIMEOUT), false);
    while !is_at_end {
        poll.poll(&mut events, Some(time_left(end))).expect("a poll");
        assert!(!time_left(end).is_zero(), "{written} written, {} read", received.len());
        while let Some(pipe) = &input {
            match { pipe }.write(&sent[written..]) {
                Ok(count) => written += count,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
            if written == sent.len() {
                input = None;
            }
        }
        let mut buffer = [0; 10_000];
        loop {
            match (&output).read(&mut buffer) {
                Ok(0) => is_at_end = true,
                Ok(count) => {
                    received.extend_from_slice(&buffer[..count]);
                    continue;
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            break;
        }
    }
    assert!(received == sent);
    assert_eq!(end_of(&child), Exit::Code(0));
}

/// Of a pipe that holds nothing.
fn is_at_end(pipe: &PipeReader) -> bool {
    let none = std::ptr::null_mut;
    let mut bytes = 0;
    // SAFETY: the pipe is open, `bytes` outlives the call, and nothing else is asked for.
    let result = unsafe {
        PeekNamedPipe(pipe.as_raw_handle(), none(), 0, none().cast(), &raw mut bytes, none().cast())
    };
    result == 0
}

#[test]
fn f58_a_child_has_what_it_was_given_under_its_number_and_nothing_else() {
    // This one can be inherited, and is not.
    let (reader, left_open) = io::pipe().expect("a pipe");
    let left_open: OwnedHandle = left_open.into();
    let inheritable = Handle::from(left_open);
    let raw = inheritable.as_object().expect("no socket").as_raw_handle();
    // SAFETY: the handle is open.
    check(unsafe { SetHandleInformation(raw, HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT) })
        .expect("it can be inherited");
    let (ours, theirs) = pipe_to_child().expect("a pipe");
    let mut launch = launch_of("read 5");
    launch.descriptors.insert(5, ChildEnd::Given(theirs));
    let writer = std::thread::spawn(move || (&ours).write_all(b"five").expect("it is read"));
    assert_eq!(said(&mut launch), "five");
    writer.join().expect("no panic");
    // The child of "wait" would keep it open.
    let (_input, theirs) = pipe_to_child().expect("a pipe");
    let child = start("wait", [(0, theirs)]);
    drop(inheritable);
    // It has nothing to read, so this is its end.
    assert!(is_at_end(&reader));
    assert!(child.signal(Signal::KILL.number()).expect("it is ended"));
}

#[test]
fn a_tree_is_ended_as_a_whole() {
    let (_input, stdin) = pipe_to_child().expect("a pipe");
    let (output, stdout) = pipe_from_child().expect("a pipe");
    let child = start("parent", [(0, stdin), (1, stdout)]);
    let (mut text, mut buffer) = (String::new(), [0; 256]);
    while !text.contains(MARK) || !text.ends_with('\n') {
        let count = (&output).read(&mut buffer).expect("it is written");
        assert_ne!(count, 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    let lineage = Lineage::of(Group::Inherited, None);
    let kill = || kill_tree(&child, &lineage, Signal::KILL.number(), |_| {}).expect("it is ended");
    assert_eq!(kill(), 2, "{text}");
    assert_eq!(end_of(&child), Exit::Code(1));
    // The grandchild has our end's other side, too.
    assert_eq!((&output).read(&mut buffer).expect("its end"), 0);
    assert_eq!(kill(), 0);
}

#[test]
fn arguments_and_the_directory_arrive() {
    let mut launch = launch_of("args");
    let args = ["", "a b", r#"say "hi""#, r"c:\d\", r#"e\"f g\\"#, "%PATH%", "^&|<>", "é𝄞"];
    launch.args.extend(args.map(OsStr::new));
    assert_eq!(said(&mut launch), format!("{args:?}"));
    let mut launch = launch_of("directory");
    launch.options.to_mut().directory = Some(std::env::temp_dir());
    let expected = std::env::temp_dir().canonicalize().expect("it is there");
    let found = std::path::PathBuf::from(said(&mut launch)).canonicalize().expect("it is there");
    assert_eq!(found, expected);
}

/// The parts that only `cmd.exe` sees.
#[test]
fn a_line_reaches_the_shell_as_it_is() {
    let mut launch = launch_of("");
    let shell = crate::sys::shell();
    (launch.files, launch.args) = (vec![shell.clone()], vec![shell.as_os_str()]);
    launch.line = Some(r#"echo "a  b" & echo c^&d"#.as_ref());
    assert_eq!(output_of(&mut launch), "\"a  b\" \r\nc&d\r\n");
    launch.args.push("e".as_ref());
    let (step, error) = super::launch(&launch).expect_err("no arguments");
    assert_eq!(step, Step::Check);
    assert!(error.to_string().contains("cmd.exe"), "{error}");
}

fn failure(change: impl FnOnce(&mut Launch<'_>)) -> (Step, String) {
    let mut launch = launch_of("exit 0");
    change(&mut launch);
    let (step, error) = super::launch(&launch).expect_err("it can't be started");
    (step, error.to_string())
}

#[test]
fn what_can_not_be_done_is_named() {
    let nowhere = std::env::temp_dir().join("nowhere");
    let (step, _) = failure(|launch| launch.files = vec![nowhere.join("a.exe")]);
    assert_eq!(step, Step::Execute(nowhere.join("a.exe")));
    let (step, _) = failure(|launch| launch.options.to_mut().directory = Some(nowhere.clone()));
    assert_eq!(step, Step::Directory(nowhere));
    let (step, text) = failure(|launch| launch.options.to_mut().uid = Some(1));
    assert_eq!(step, Step::Check);
    assert!(text.contains("`uid`"), "{text}");
    let limit = crate::process::launch::Limit { resource: Resource::Data, soft: 1, hard: 1 };
    let (_, text) = failure(|launch| launch.options.to_mut().limits.push(limit));
    assert!(text.contains("`rlimit`"), "{text}");
    let (step, text) = failure(|launch| launch.args.extend([OsStr::new("12345678"); 4_000]));
    assert_eq!(step, Step::Check);
    assert!(text.contains("32766"), "{text}");
    let batch = std::env::temp_dir().join(format!("batch-{}.bat", std::process::id()));
    File::create(&batch).expect("a file");
    let (step, text) = failure(|launch| launch.files = vec![batch.with_extension("")]);
    assert!(matches!(step, Step::Execute(_)));
    assert!(text.contains("Command::shell"), "{text}");
    std::fs::remove_file(batch).expect("it was there");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let (step, text) = failure(|launch| {
        launch.descriptors.insert(0, ChildEnd::Given(socket.into()));
    });
    assert_eq!(step, Step::Check);
    assert!(text.contains("descriptor 0: ") && text.contains("channel"), "{text}");
}

#[test]
fn a_hundred_children_at_once_all_end() {
    let (mut poll, mut events) = (Poll::new().expect("a poll"), Events::with_capacity(128));
    let children: Vec<Process> = (0..100).map(|code| start(&format!("exit {code}"), [])).collect();
    for (child, number) in children.iter().zip(0..) {
        let token = Token(number);
        Source::register(&mut &*child, poll.registry(), token, Interest::READABLE).expect("one");
    }
    let (mut exits, end) = (BTreeMap::new(), deadline(TIMEOUT));
    while exits.len() < children.len() {
        poll.poll(&mut events, Some(time_left(end))).expect("a poll");
        assert!(!time_left(end).is_zero(), "{} have ended", exits.len());
        for event in &events {
            let child = &children[event.token().0];
            if let Some(exit) = child.reap().expect("it can be asked") {
                exits.insert(event.token().0, exit);
            }
        }
    }
    let expected = (0..100).map(Exit::Code);
    assert!(exits.into_values().eq(expected));
}

#[test]
fn what_is_detached_has_no_console_and_what_is_hidden_no_window() {
    use windows_sys::Win32::System::Threading::{CREATE_NO_WINDOW, DETACHED_PROCESS};

    let both = DETACHED_PROCESS | CREATE_NO_WINDOW;
    assert_eq!(launch::flags(Group::Inherited, false) & both, 0);
    assert_eq!(launch::flags(Group::Own, true) & both, CREATE_NO_WINDOW);
    assert_eq!(launch::flags(Group::Session, true) & both, DETACHED_PROCESS);
}

/// Nothing of a pipe that was given to a child is left here.
#[test]
fn the_childs_end_is_the_childs_alone() {
    let (output, theirs) = pipe_from_child().expect("a pipe");
    let child = start("exit 0", [(1, theirs)]);
    (&output).read_to_end(&mut Vec::new()).expect("its end comes");
    end_of(&child);
    let (reader, writer) = io::pipe().expect("a pipe");
    let child = start("exit 0", [(1, writer.into())]);
    PipeReader::read_to_end(&mut { reader }, &mut Vec::new()).expect("its end comes");
    end_of(&child);
}

/// Starts children, with pipes and a poll, as often as it is told to.
fn start_many() {
    let mut poll = Poll::new().expect("a poll");
    let mut events = Events::with_capacity(16);
    for _ in 0..10 {
        let (mut output, theirs) = pipe_from_child().expect("a pipe");
        let child = start("exit 3", [(1, theirs)]);
        let timer = Timer::new().expect("a timer");
        (&mut &child).register(poll.registry(), Token(1), Interest::READABLE).expect("registered");
        (&mut &timer).register(poll.registry(), Token(2), Interest::READABLE).expect("registered");
        output.register(poll.registry(), Token(3), Interest::READABLE).expect("registered");
        timer.set(Some(Duration::ZERO)).expect("it is set");
        (&output).read_to_end(&mut Vec::new()).expect("its end comes");
        while child.is_alive() {
            poll.poll(&mut events, Some(TIMEOUT)).expect("a poll");
        }
    }
}

#[test]
fn nothing_is_left_open_of_children_that_have_ended() {
    let mut role = std::process::Command::new(&*THIS);
    let launch = launch_of("many");
    role.args(&launch.args[1..]).env(ROLE, "many");
    role.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut role = role.spawn().expect("a child");
    let mut stdin = role.stdin.take().expect("a pipe");
    let mut lines = io::BufRead::lines(io::BufReader::new(role.stdout.take().expect("a pipe")));
    let mut counts = Vec::new();
    for _ in 0..3 {
        stdin.write_all(b"\n").expect("it is read");
        let done = lines.by_ref().map_while(Result::ok).find(|line| line.contains(MARK));
        assert!(done.is_some());
        counts.push(handle_passing::fuzzing::handle_count(&role).expect("they can be counted"));
    }
    drop(stdin);
    assert!(role.wait().expect("it has ended").success());
    // The first time, the system has started threads of its own, and it may start or end one later.
    assert!(counts[2] <= counts[1] + 2, "{counts:?}");
}
