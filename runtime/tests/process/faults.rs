//! System calls that fail, by strace: each failure is told, or overcome, and nothing is left.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource as SystemResource, getrlimit, setrlimit};
use nix::unistd::{close, dup, getegid, geteuid};
use runtime::Exit;
use runtime::process::{CancelToken, Command, Event, Resource, Signal, Stdio};

use crate::harness::tools::{DEADLINE, wait_until};
use crate::harness::{Outcome, ROLE, children, descriptors, roles, tests};
use crate::support::{bury_all, role};

tests! {
    f106_a_start_that_fails_names_its_step,
    a_start_overcomes_what_old_systems_lack_and_interruptions,
    f106_a_loop_that_cannot_have_a_child_is_told,
    dropped_children_are_collected_although_resources_were_short,
    a_tree_is_killed_although_it_cannot_be_looked_over,
}
roles! {
    starts,
    shows_descriptors,
    registers,
    drops,
    kills,
}

/// What a role of ours says when a system call of it fails; it checks itself that nothing is left.
/// `None` without strace.
#[track_caller]
fn with_fault(name: &str, fault: &str) -> Option<String> {
    let has_strace = || {
        let mut probe = Command::new("strace");
        let child = probe.args(["-f", "-o", "/dev/null", "true"]).spawn();
        child.is_ok_and(|mut child| child.wait().unwrap() == Exit::Code(0))
    };
    if !has_strace() {
        println!("strace is not here, or may not trace: skipped");
        return None;
    }
    let mut command = Command::new("strace");
    let inject = format!("inject={fault}");
    command.args(["-f", "-qqq", "-o", "/dev/null", "-e", "trace=all", "-e", &inject]);
    command.arg(std::env::current_exe().unwrap()).args([ROLE, name]);
    let output = command.timeout(DEADLINE).spawn_sync().unwrap();
    let stderr = output.stderr_lossy();
    assert!(output.is_success(), "{fault}: {}, {stderr}", output.stdout_lossy());
    Some(output.stdout_lossy().trim().to_owned())
}

/// Says how a child with every option starts.
fn starts(_args: &[String]) -> Outcome {
    let before = descriptors();
    let mut command = Command::new("/bin/true");
    command.descriptor(9, Stdio::duplex()).stderr(Stdio::null()).current_dir("/");
    command.process_group(0).rlimit(Resource::CoreFile, 0, 0).cpu_affinity(0..1000);
    if geteuid().is_root() {
        command.groups([]);
    }
    command.uid(geteuid().as_raw()).gid(getegid().as_raw());
    match command.spawn() {
        Ok(mut child) => println!("{:?}", child.wait()?),
        Err(error) => println!("{error}"),
    }
    assert_eq!(children(), []);
    assert_eq!(descriptors(), before);
    Ok(())
}

fn f106_a_start_that_fails_names_its_step() {
    let cases = [
        ("clone:error=EAGAIN", "can't make a process: ", "there are too many processes"),
        ("clone:error=ENOMEM", "can't make a process: ", "memory"),
        ("pipe2:error=EMFILE", "can't make its descriptor 0: ", "open files"),
        ("pipe2:error=ENFILE:when=2", "can't make its descriptor 1: ", "open files"),
        ("socketpair:error=EMFILE", "can't make its descriptor 9: ", "open files"),
        ("setpgid:error=EPERM", "can't join its process group: ", "no such group"),
        ("dup2:error=EBUSY", "can't put its descriptor 0 in place: ", "busy"),
        ("prlimit64:error=EPERM", "can't limit its core file to 0 (soft) and 0 (hard): ", "root"),
        ("sched_setaffinity:error=EINVAL", "can't set its processors to [0, 1", "may use"),
        ("setgroups:error=EPERM", "can't set its groups to []: ", "run this process as root"),
        ("setgid:error=EPERM", "can't set its group to ", "run this process as root"),
        ("setuid:error=EAGAIN", "can't set its user to ", "unavailable"),
        ("chdir:error=EIO", "can't enter /: ", "Input/output error"),
    ];
    for (fault, step, reason) in cases {
        if fault.starts_with("setgroups") && !geteuid().is_root() {
            continue;
        }
        let Some(said) = with_fault("starts", fault) else { return };
        let (start, step) = ("can't start \"/bin/true\": ", step.to_owned());
        assert!(said.starts_with(&format!("{start}{step}")), "{fault}: {said}");
        assert!(said.contains(reason), "{fault}: {said} does not say {reason}");
    }
}

/// Says which descriptors a child has.
fn shows_descriptors(_args: &[String]) -> Outcome {
    let _inheritable = dup(File::open("/etc/passwd")?.as_fd())?;
    // And one that the limit, as it is later, would not let be.
    let high = fcntl(&File::open("/etc/passwd")?, FcntlArg::F_DUPFD(500))?;
    let (_, hard) = getrlimit(SystemResource::RLIMIT_NOFILE)?;
    setrlimit(SystemResource::RLIMIT_NOFILE, 100, hard)?;
    let mut command = role("descriptors", &[]);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut text = String::new();
    child.stdout.take().ok_or("no pipe")?.read_to_string(&mut text)?;
    assert_eq!(child.wait()?, Exit::Code(0));
    let numbers: Vec<_> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    println!("{numbers:?}");
    close(high)?;
    Ok(())
}

fn a_start_overcomes_what_old_systems_lack_and_interruptions() {
    let cases = [
        "close_range:error=ENOSYS",
        "close_range:error=EINVAL",
        "dup2:error=EINTR:when=1",
        "ppoll:error=EINTR:when=1",
        "waitid:error=EINTR:when=1",
        "prctl:error=EINVAL",
    ];
    for fault in cases {
        let Some(said) = with_fault("shows_descriptors", fault) else { return };
        assert_eq!(said, r#"["0", "1", "2"]"#, "{fault}");
    }
}

/// Says what comes of a child in a loop, with a token by which it could be cancelled.
fn registers(_args: &[String]) -> Outcome {
    let (mut poll, mut ready) = (Poll::new()?, Events::with_capacity(8));
    let before = descriptors();
    let mut command = Command::new("true");
    command.timeout(Duration::from_secs(100)).cancel_with(&CancelToken::new());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    match poll.registry().register(&mut child, Token(0), Interest::READABLE) {
        Ok(()) => 'turns: loop {
            poll.poll(&mut ready, Some(DEADLINE))?;
            assert!(!ready.is_empty(), "nothing comes");
            while let Some(event) = child.next_event()? {
                if let Event::Closed(exit) = event {
                    println!("{exit:?}");
                    poll.registry().deregister(&mut child)?;
                    break 'turns;
                }
            }
        },
        Err(error) => {
            println!("not registered: {error}");
            // What failed once may go well the next time.
            poll.registry().register(&mut child, Token(0), Interest::READABLE)?;
            poll.registry().deregister(&mut child)?;
            assert_eq!(child.wait()?, Exit::Code(0));
        }
    }
    drop(child);
    assert_eq!(children(), []);
    assert_eq!(descriptors(), before);
    Ok(())
}

fn f106_a_loop_that_cannot_have_a_child_is_told() {
    let cases = [
        ("timerfd_create:error=EMFILE:when=1", "not registered: ", "open files"),
        ("timerfd_create:error=ENOMEM:when=1", "not registered: ", "memory"),
        ("epoll_ctl:error=ENOMEM:when=1", "not registered: ", "memory"),
        ("epoll_ctl:error=ENOSPC:when=2", "not registered: ", "space"),
        ("timerfd_settime:error=EINTR:when=100", "Code(0)", ""),
    ];
    for (fault, start, reason) in cases {
        let Some(said) = with_fault("registers", fault) else { return };
        assert!(said.starts_with(start) && said.contains(reason), "{fault}: {said}");
    }
}

/// Drops children that run, one after the other.
fn drops(_args: &[String]) -> Outcome {
    let before = descriptors();
    for _ in 0..3 {
        let mut command = Command::new("cat");
        drop(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    }
    wait_until("all were collected", || {
        // Whoever starts another has those collected that nobody could collect before.
        drop(Command::new("true").kill_on_drop(true).spawn());
        children().is_empty()
    });
    wait_until("the thread has ended", || descriptors() == before);
    Ok(())
}

fn dropped_children_are_collected_although_resources_were_short() {
    let cases = [
        "epoll_create1:error=EMFILE:when=1",
        "eventfd2:error=EMFILE:when=1",
        "clone3:error=EAGAIN:when=1",
        "epoll_ctl:error=ENOMEM:when=1",
        "epoll_ctl:error=ENOMEM:when=2+3",
        "timerfd_create:error=EMFILE:when=1",
        "timerfd_create:error=EMFILE:when=1+2",
        "epoll_wait:error=EINTR:when=1+2",
        "waitid:error=EINTR:when=1+2",
    ];
    for fault in cases {
        if with_fault("drops", fault).is_none() {
            return;
        }
    }
}

/// Kills a tree, and says what comes of it.
fn kills(_args: &[String]) -> Outcome {
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 100 & sleep 100"]).process_group(0);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    match child.kill_tree(Signal::KILL) {
        Ok(count) => println!("{count}"),
        Err(error) => println!("{error}"),
    }
    assert_eq!(child.wait()?, Exit::Signal { signal: 9, core_dumped: false });
    wait_until("its group was killed too", || child.kill_tree(Signal::KILL).unwrap() == 0);
    Ok(())
}

fn a_tree_is_killed_although_it_cannot_be_looked_over() {
    let cases = [
        ("pidfd_open:error=EMFILE:when=1", "open files"),
        ("pidfd_open:error=ENOMEM:when=1", "memory"),
        ("getdents64:error=ENOMEM:when=1", "memory"),
    ];
    for (fault, reason) in cases {
        let Some(said) = with_fault("kills", fault) else { return };
        assert!(said.contains(reason) && said.contains("the tree of process"), "{fault}: {said}");
    }
    // One that is gone before it is opened, is no error.
    let Some(said) = with_fault("kills", "pidfd_open:error=ESRCH:when=1") else { return };
    assert!(said.parse::<u32>().is_ok(), "{said}");
    // Those whose parent was killed first have come to us.
    bury_all();
}
