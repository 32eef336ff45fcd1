//! Many children that one thread attends to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use runtime::process::{
    CancelToken, ChildHandle, ChildId, Children, Event, KillReason, Signal, Stdio, Step,
};

use crate::harness::tools::{DEADLINE, wait_until};
use crate::harness::{children as processes, descriptors, roles, tests};
use crate::support::role;

tests! {
    f51_five_hundred_children_tell_each_event_once_and_in_order,
    a_full_channel_loses_nothing_and_holds_up_no_timeout,
    children_are_killed_and_cancelled_by_other_threads,
    dropped_it_leaves_or_kills_its_children_and_no_thread,
    handles_outlive_their_child_with_its_streams,
    without_descriptors_a_child_is_not_left_alone,
}
roles! {}

fn allow_descriptors() {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit).unwrap();
}

/// A child without pipes that exits with this code.
fn quiet(children: &Children, code: usize) -> ChildHandle {
    let mut command = role("exit", &[&code.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    children.spawn(&mut command).unwrap()
}

/// A child that exits when its input ends.
fn patient(children: &Children) -> ChildHandle {
    children.spawn(role("cat", &[]).stdout(Stdio::null()).stderr(Stdio::inherit())).unwrap()
}

/// What all tell until none is left.
#[track_caller]
fn told(children: &Children) -> BTreeMap<ChildId, Vec<String>> {
    let mut told: BTreeMap<_, Vec<_>> = BTreeMap::new();
    while !children.is_empty() || !children.events().is_empty() {
        let (id, event) = children.events().recv_timeout(DEADLINE).expect("it goes on");
        let event = match event {
            Event::Spawned { .. } => "Spawned".into(),
            event => format!("{event:?}"),
        };
        told.entry(id).or_default().push(event);
    }
    told
}

fn f51_five_hundred_children_tell_each_event_once_and_in_order() {
    const CHILDREN: usize = 500;
    allow_descriptors();
    let open = descriptors();
    let children = Children::start().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let ids: Vec<_> = (0..CHILDREN)
        .map(|number| {
            let mut command = role("exit_after_input", &[&(number % 200).to_string()]);
            command.stdin(Stdio::given(std::os::fd::OwnedFd::from(reader.try_clone().unwrap())));
            command.stdout(Stdio::null()).stderr(Stdio::inherit());
            children.spawn(&mut command).unwrap().id()
        })
        .collect();
    // Now they die all at once.
    drop((reader, writer));
    let told = told(&children);
    assert_eq!(told.len(), CHILDREN);
    for (number, id) in ids.iter().enumerate() {
        let exit = format!("Code({})", number % 200);
        assert_eq!(told[id], ["Spawned", &format!("Exited({exit})"), &format!("Closed({exit})")]);
    }
    drop(children);
    assert_eq!(processes(), []);
    assert_eq!(descriptors(), open);
}

fn a_full_channel_loses_nothing_and_holds_up_no_timeout() {
    // Three events each, so that there is no room for the last of them.
    const CHILDREN: usize = Children::EVENTS_MAX / 3 + 20;
    allow_descriptors();
    let children = Children::start().unwrap();
    let mut handles: Vec<_> = (0..CHILDREN).map(|number| quiet(&children, number % 200)).collect();
    wait_until("it is full", || children.events().is_full());
    // Somebody with a timeout, whose events have no room.
    let mut command = role("cat", &[]);
    command.stdout(Stdio::null()).timeout(Duration::from_millis(20));
    let late = children.spawn(&mut command).unwrap();
    let stdin = late.take_stdin().unwrap();
    wait_until("the signal has reached it", || !late.is_alive());
    wait_until("all are collected", || processes().is_empty());
    assert!(children.events().is_full());
    handles.push(late);
    let told = told(&children);
    drop(stdin);
    assert_eq!(told.len(), CHILDREN + 1);
    for (number, handle) in handles.iter().enumerate().take(CHILDREN) {
        let exit = format!("Code({})", number % 200);
        let events = ["Spawned", &format!("Exited({exit})"), &format!("Closed({exit})")];
        assert_eq!(told[&handle.id()], events);
    }
    assert_eq!(told[&handles[CHILDREN].id()][..2], ["Spawned", "Killed(Timeout)"]);
}

fn children_are_killed_and_cancelled_by_other_threads() {
    let children = Children::start().unwrap();
    let token = CancelToken::new();
    let killed: Vec<_> = (0..5).map(|_| patient(&children)).collect();
    let mut command = role("cat", &[]);
    command.stdout(Stdio::null()).cancel_with(&token);
    let cancelled: Vec<_> = (0..5).map(|_| children.spawn(&mut command).unwrap()).collect();
    let thread = std::thread::spawn({
        let killed = killed.clone();
        move || {
            assert!(killed.iter().all(|handle| handle.kill(Signal::KILL).unwrap()));
            token.cancel();
        }
    });
    let told = told(&children);
    thread.join().unwrap();
    let by = |signal: i32| format!("Exited(Signal {{ signal: {signal}, core_dumped: false }})");
    for handle in &killed {
        assert_eq!(told[&handle.id()][..2], ["Spawned", &by(9)]);
        assert!(!handle.kill(Signal::KILL).unwrap());
    }
    for handle in &cancelled {
        let reason = format!("Killed({:?})", KillReason::Cancelled);
        assert_eq!(told[&handle.id()][..3], ["Spawned", &reason, &by(15)]);
        assert!(!handle.is_alive());
    }
}

fn dropped_it_leaves_or_kills_its_children_and_no_thread() {
    let open = descriptors();
    let children = Children::start().unwrap();
    let left = patient(&children);
    let stdin = left.take_stdin();
    let mut command = role("cat", &[]);
    let killed = children.spawn(command.kill_on_drop(true)).unwrap();
    let events = children.events().clone();
    drop(children);
    assert!(!killed.is_alive());
    assert_eq!(processes(), [left.pid().cast_signed()]);
    // What was told is there, then it is over.
    assert!(events.iter().all(|(_, event)| matches!(event, Event::Spawned { .. })));
    drop(stdin);
    wait_until("it has ended and was collected", || processes().is_empty());
    drop((left, killed, events));
    wait_until("everything is closed", || descriptors() == open);
}

fn handles_outlive_their_child_with_its_streams() {
    let children = Children::start().unwrap();
    let handle = children.spawn(&mut role("cat", &[])).unwrap();
    let other = handle.clone();
    let mut stdin = handle.take_stdin().unwrap();
    assert!(other.take_stdin().is_none());
    stdin.write_all(b"hello").unwrap();
    drop(stdin);
    assert_eq!(told(&children)[&handle.id()], ["Spawned", "Exited(Code(0))", "Closed(Code(0))"]);
    drop((children, handle));
    let text = std::io::read_to_string(other.take_stdout().unwrap()).unwrap();
    assert_eq!(text, "hello");
}

fn without_descriptors_a_child_is_not_left_alone() {
    let children = Children::start().unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    let mut hoard: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let mut steps = Vec::new();
    loop {
        let mut command = role("exit", &["7"]);
        command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
        let Err(error) = children.spawn(&mut command) else { break };
        assert_eq!(error.io_error().raw_os_error(), Some(nix::libc::EMFILE), "{error}");
        steps.push(error.step().clone());
        // One more, so that it gets a step further.
        hoard.pop().expect("it takes so few");
    }
    drop(hoard);
    assert!(steps.contains(&Step::Create) && steps.contains(&Step::Attend), "{steps:?}");
    let told = told(&children);
    assert_eq!(told.len(), 1, "{told:?}");
    wait_until("those that were refused are collected", || processes().is_empty());
}
