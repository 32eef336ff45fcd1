//! What a child has started: all of it is signalled, and nobody else.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::resource::{Resource as Limit, getrlimit, setrlimit};
use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid, setsid};
use runtime::Exit;
use runtime::process::{Child, Command, Resource, Signal, become_subreaper};

use crate::harness::tools::{DEADLINE, Directory, proc_field, wait_until};
use crate::harness::{Outcome, ROLE, children, roles, tests};
use crate::support::role;

tests! {
    a_signal_reaches_all_of_a_tree,
    f56_members_that_trap_signals_are_killed,
    who_was_stopped_stays_stopped,
    what_outlives_its_parents_is_found_by_the_group,
    without_a_group_orphans_are_not_found,
    f56_a_session_of_its_own_belongs_to_the_tree,
    f56_a_daemon_escapes_without_a_subreaper,
    f56_a_daemon_comes_back_to_a_subreaper,
    f54_orphans_that_end_are_collected_and_children_of_others_are_not,
    each_child_of_a_subreaper_has_a_mark_of_its_own,
    f56_a_control_group_holds_a_daemon,
    a_fork_bomb_is_killed,
    f53_a_stranger_with_the_number_of_the_child_is_safe,
    threads_that_kill_at_once_leave_nobody_stopped,
    an_ended_child_is_not_alive,
    a_tree_that_is_over_is_not_looked_for,
}
roles! {
    branch,
    daemon,
    daemonize,
    leave_a_branch,
    bomb,
    reuse_numbers,
}

/// A command for this binary in a role that gets a directory.
fn command(name: &str, directory: &Directory, args: &[&str]) -> Command {
    let path = directory.join("");
    role(name, &[&[path.to_str().unwrap()], args].concat())
}

/// The processes that have written such a note.
fn notes(directory: &Directory, kind: &str) -> BTreeSet<u32> {
    let names = fs::read_dir(directory.join("")).unwrap().map(|entry| entry.unwrap().file_name());
    let pids = names.filter_map(|name| name.to_str()?.strip_prefix(kind)?.parse().ok());
    pids.collect()
}

#[track_caller]
fn wait_for_notes(directory: &Directory, kind: &str, count: usize) -> BTreeSet<u32> {
    wait_until(&format!("{count} are {kind}"), || notes(directory, kind).len() == count);
    notes(directory, kind)
}

fn note(directory: &str, kind: &str) -> Outcome {
    fs::write(Path::new(directory).join(format!("{kind}{}", process::id())), "")?;
    Ok(())
}

fn start_role(name: &str, args: &[&str]) -> std::io::Result<process::Child> {
    process::Command::new("/proc/self/exe").args([ROLE, name]).args(args).spawn()
}

fn state(pid: u32) -> Option<char> {
    proc_field(&format!("{pid}/status"), "State")?.chars().next()
}

/// The test is the parent of orphans, see the harness; collects one that was killed so.
#[track_caller]
fn assert_killed(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = Pid::from_raw(pid.cast_signed());
    assert_eq!(waitpid(pid, None), Ok(WaitStatus::Signaled(pid, signal, false)));
}

/// How a child ends that was killed with all of its tree.
#[track_caller]
fn assert_tree_killed(mut child: Child, members: &BTreeSet<u32>) {
    let exit = child.wait().unwrap();
    assert_eq!(exit, Exit::Signal { signal: 9, core_dumped: false });
    for pid in members.iter().filter(|pid| **pid != child.pid()) {
        assert_killed(*pid, SIGKILL);
    }
    assert_eq!(children(), []);
}

/// A process that begins two more, and so on to a depth; it traps SIGTERM if it is told so, and
/// notes it.
fn branch(args: &[String]) -> Outcome {
    let [directory, depth, traps] = args else { return Err("three arguments".into()) };
    let terminated = Arc::new(AtomicBool::new(false));
    if traps == "traps" {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&terminated))?;
        }
    }
    let depth: u32 = depth.parse()?;
    let inner = depth.checked_sub(1).map(|depth| depth.to_string());
    for depth in inner.iter().flat_map(|depth| [depth; 2]) {
        start_role("branch", &[directory, depth, traps])?;
    }
    note(directory, "ready")?;
    wait_until("it is terminated", || terminated.load(Ordering::Acquire));
    note(directory, "terminated")?;
    wait_until("it is killed", || false);
    Ok(())
}

fn a_signal_reaches_all_of_a_tree() {
    let configure: [fn(&mut Command); 3] = [
        |_| {},
        |command| {
            command.process_group(0);
        },
        |command| {
            command.detached();
        },
    ];
    for configure in configure {
        let directory = Directory::new();
        let mut command = command("branch", &directory, &["2", "dies"]);
        configure(&mut command);
        let mut child = command.spawn().unwrap();
        let members = wait_for_notes(&directory, "ready", 7);
        assert_eq!(child.kill_tree(Signal::TERM).unwrap(), 7);
        assert_eq!(child.wait().unwrap(), Exit::Signal { signal: 15, core_dumped: false });
        for pid in members.iter().filter(|pid| **pid != child.pid()) {
            assert_killed(*pid, SIGTERM);
        }
        assert_eq!(child.kill_tree(Signal::TERM).unwrap(), 0);
    }
}

fn f56_members_that_trap_signals_are_killed() {
    let directory = Directory::new();
    let child = command("branch", &directory, &["2", "traps"]).spawn().unwrap();
    let members = wait_for_notes(&directory, "ready", 7);
    assert_eq!(child.kill_tree(Signal::TERM).unwrap(), 7);
    assert_eq!(wait_for_notes(&directory, "terminated", 7), members);
    assert!(child.is_alive());
    assert_eq!(child.kill_tree(Signal::KILL).unwrap(), 7);
    assert_tree_killed(child, &members);
}

fn who_was_stopped_stays_stopped() {
    let directory = Directory::new();
    let child = command("branch", &directory, &["1", "traps"]).spawn().unwrap();
    let members = wait_for_notes(&directory, "ready", 3);
    let stop = Signal::from_number(libc::SIGSTOP).unwrap();
    let go_on = Signal::from_number(libc::SIGCONT).unwrap();
    assert_eq!(child.kill_tree(stop).unwrap(), 3);
    let are_stopped = || members.iter().all(|pid| state(*pid) == Some('T'));
    wait_until("all are stopped", are_stopped);
    assert_eq!(child.kill_tree(Signal::TERM).unwrap(), 3);
    assert!(are_stopped());
    assert_eq!(notes(&directory, "terminated").len(), 0);
    assert_eq!(child.kill_tree(go_on).unwrap(), 3);
    wait_for_notes(&directory, "terminated", 3);
    // Killing does not need them to run.
    assert_eq!(child.kill_tree(stop).unwrap(), 3);
    assert_eq!(child.kill_tree(Signal::KILL).unwrap(), 3);
    assert_tree_killed(child, &members);
}

/// Begins a branch and ends.
fn leave_a_branch(args: &[String]) -> Outcome {
    start_role("branch", &[&args[0], "1", "traps"])?;
    Ok(())
}

fn what_outlives_its_parents_is_found_by_the_group() {
    let configure: [fn(&mut Command); 2] = [
        |command| {
            command.process_group(0);
        },
        |command| {
            command.detached();
        },
    ];
    for configure in configure {
        let directory = Directory::new();
        let mut command = command("leave_a_branch", &directory, &[]);
        configure(&mut command);
        let mut child = command.spawn().unwrap();
        assert_eq!(child.wait().unwrap(), Exit::Code(0));
        let members = wait_for_notes(&directory, "ready", 3);
        assert!(!child.is_alive());
        assert!(!child.kill(Signal::KILL).unwrap());
        assert_eq!(child.kill_tree(Signal::TERM).unwrap(), 3);
        wait_for_notes(&directory, "terminated", 3);
        assert_eq!(child.kill_tree(Signal::KILL).unwrap(), 3);
        members.iter().for_each(|pid| assert_killed(*pid, SIGKILL));
        assert_eq!(child.kill_tree(Signal::KILL).unwrap(), 0);
    }
}

fn without_a_group_orphans_are_not_found() {
    let directory = Directory::new();
    let mut child = command("leave_a_branch", &directory, &[]).spawn().unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
    let members = wait_for_notes(&directory, "ready", 3);
    assert_eq!(child.kill_tree(Signal::KILL).unwrap(), 0);
    members.iter().for_each(|pid| assert_ne!(state(*pid), Some('Z')));
    for pid in members {
        nix::sys::signal::kill(Pid::from_raw(pid.cast_signed()), SIGKILL).unwrap();
        assert_killed(pid, SIGKILL);
    }
}

/// Begins a session and, in it, a branch; and stays or ends.
fn daemon(args: &[String]) -> Outcome {
    let [directory, stays] = args else { return Err("two arguments".into()) };
    setsid()?;
    start_role("branch", &[directory, "0", "traps"])?;
    note(directory, "ready")?;
    if stays == "stays" {
        wait_until("it is killed", || false);
    }
    Ok(())
}

/// Begins a daemon, and stays.
fn daemonize(args: &[String]) -> Outcome {
    let [directory, stays] = args else { return Err("two arguments".into()) };
    let mut child = start_role("daemon", &[directory, stays])?;
    if stays == "ends" {
        child.wait()?;
    }
    note(directory, "ready")?;
    wait_until("it is killed", || false);
    Ok(())
}

fn f56_a_session_of_its_own_belongs_to_the_tree() {
    let directory = Directory::new();
    let child = command("daemonize", &directory, &["stays"]).spawn().unwrap();
    let members = wait_for_notes(&directory, "ready", 3);
    assert_eq!(child.kill_tree(Signal::KILL).unwrap(), 3);
    assert_tree_killed(child, &members);
}

/// A child that has begun a daemon, and the daemon.
fn start_daemon(directory: &Directory, configure: impl Fn(&mut Command)) -> (Child, u32) {
    let mut command = command("daemonize", directory, &["ends"]);
    configure(&mut command);
    let child = command.spawn().unwrap();
    // Of the three, the one between has ended, and was collected.
    let ready = wait_for_notes(directory, "ready", 3);
    let mut others = ready.into_iter().filter(|pid| *pid != child.pid());
    let daemon = others.find(|pid| Path::new(&format!("/proc/{pid}")).exists());
    (child, daemon.expect("it does not end"))
}

fn f56_a_daemon_escapes_without_a_subreaper() {
    let directory = Directory::new();
    let (child, daemon) = start_daemon(&directory, |_| {});
    assert_eq!(child.kill_tree(Signal::KILL).unwrap(), 1);
    assert_ne!(state(daemon), Some('Z'));
    nix::sys::signal::kill(Pid::from_raw(daemon.cast_signed()), SIGKILL).unwrap();
    assert_tree_killed(child, &BTreeSet::from([daemon]));
}

fn f56_a_daemon_comes_back_to_a_subreaper() {
    become_subreaper().unwrap();
    let (one, two) = (Directory::new(), Directory::new());
    let (mut child, daemon) = start_daemon(&one, |_| {});
    let (mut other, others_daemon) = start_daemon(&two, |_| {});
    assert_eq!(child.kill_tree(Signal::TERM).unwrap(), 2);
    assert_eq!(wait_for_notes(&one, "terminated", 1), BTreeSet::from([daemon]));
    assert_eq!(child.wait().unwrap(), Exit::Signal { signal: 15, core_dumped: false });
    // The child has gone, and its daemon is known by its mark alone.
    assert_eq!(child.kill_tree(Signal::KILL).unwrap(), 1);
    wait_until("the daemon was collected", || state(daemon).is_none());
    assert_eq!(notes(&two, "terminated").len(), 0);
    assert_eq!(other.kill_tree(Signal::KILL).unwrap(), 2);
    assert_eq!(other.wait().unwrap(), Exit::Signal { signal: 9, core_dumped: false });
    wait_until("the other was collected", || state(others_daemon).is_none());
    assert_eq!(children(), []);
}

fn each_child_of_a_subreaper_has_a_mark_of_its_own() {
    let mark = |command: &mut Command| command.arg("PROCESS_TREE").exec_sync().map_err(|_| ());
    assert!(mark(&mut Command::new("printenv")).is_err(), "there is one without a subreaper");
    become_subreaper().unwrap();
    let own = format!("{}.", process::id());
    let text = |output: runtime::process::Output| output.stdout_lossy().trim().to_owned();
    let first = text(mark(&mut Command::new("printenv")).unwrap());
    assert!(first.starts_with(&own), "{first}");
    let second = text(mark(Command::new("/usr/bin/printenv").env_clear()).unwrap());
    assert!(second.starts_with(&own) && second != first, "{second}");
}

/// Whether this process has a pidfd of another.
fn is_held(pid: u32) -> bool {
    let descriptors = fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    let infos = descriptors.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let is_its = |line: &str| line.strip_prefix("Pid:").map(str::trim) == Some(&pid.to_string());
    infos.into_iter().any(|info| info.lines().any(is_its))
}

fn f54_orphans_that_end_are_collected_and_children_of_others_are_not() {
    become_subreaper().unwrap();
    let directory = Directory::new();
    // Not started by the library: one that has ended, and one that runs.
    let mut ended = start_role("exit", &["3"]).unwrap();
    let mut runs = process::Command::new("sleep").arg("100").spawn().unwrap();
    let (mut child, daemon) = start_daemon(&directory, |_| {});
    wait_until("the daemon is known", || is_held(daemon));
    child.kill(Signal::KILL).unwrap();
    child.wait().unwrap();
    nix::sys::signal::kill(Pid::from_raw(daemon.cast_signed()), SIGKILL).unwrap();
    wait_until("the daemon was collected", || state(daemon).is_none());
    assert_eq!(ended.wait().unwrap().code(), Some(3));
    runs.kill().unwrap();
    assert_eq!(runs.wait().unwrap().code(), None);
}

/// A control group of the test's own, removed on drop.
struct ControlGroup(PathBuf);

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// If there can be one.
fn control_group() -> Option<ControlGroup> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = mounts.find(|mount| mount.get(2) == Some(&"cgroup2"))?;
    let path = Path::new(mount[1]).join(format!("runtime-test-{}", process::id()));
    fs::create_dir(&path).ok().map(|()| ControlGroup(path))
}

fn f56_a_control_group_holds_a_daemon() {
    let Some(group) = control_group() else {
        return println!("no cgroup v2 can be written here: skipped");
    };
    let directory = Directory::new();
    let (mut child, daemon) = start_daemon(&directory, |command| {
        command.cgroup(&group.0);
    });
    assert_eq!(child.kill_tree(Signal::TERM).unwrap(), 2);
    wait_for_notes(&directory, "terminated", 1);
    assert_eq!(child.wait().unwrap(), Exit::Signal { signal: 15, core_dumped: false });
    assert_eq!(child.kill_tree(Signal::KILL).unwrap(), 1);
    assert_killed(daemon, SIGKILL);
    assert_eq!(child.kill_tree(Signal::KILL).unwrap(), 0);
    wait_until("the control group is empty", || fs::remove_dir(&group.0).is_ok());
    // A group that was removed has no members.
    assert_eq!(child.kill_tree(Signal::KILL).unwrap(), 0);
}

/// Starts itself as often as it can.
fn bomb(_args: &[String]) -> Outcome {
    let deadline = std::time::Instant::now() + DEADLINE;
    while std::time::Instant::now() < deadline {
        if start_role("bomb", &[]).is_err() {
            thread::yield_now();
        }
    }
    Ok(())
}

fn a_fork_bomb_is_killed() {
    const PROCESSES: u64 = 120;
    if !geteuid().is_root() {
        return println!("only root can bound a bomb by a user of its own: skipped");
    }
    let uid = 61_000_000 + process::id();
    let of_bomb = || {
        let mut alive = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let id = proc_field(&format!("{pid}/status"), "Uid").unwrap_or_default();
            let is_its = id.split_whitespace().next() == Some(uid.to_string().as_str());
            if is_its && state(pid).is_some_and(|state| state != 'Z') {
                alive.push(pid);
            }
        }
        alive
    };
    let mut command = role("bomb", &[]);
    command.uid(uid).gid(uid).rlimit(Resource::Processes, PROCESSES, PROCESSES);
    let mut child = command.spawn().unwrap();
    wait_until("it has spread", || of_bomb().len() > 30);
    let count = child.kill_tree(Signal::KILL).unwrap();
    assert!(count > 30, "only {count}");
    wait_until("nobody of it runs", || of_bomb().is_empty());
    child.wait().unwrap();
    for pid in children() {
        assert_killed(pid.cast_unsigned(), SIGKILL);
    }
}

/// The first process of a name space of process numbers, where it is alone.
fn reuse_numbers(_args: &[String]) -> Outcome {
    fn start_with_number(pid: u32) -> std::io::Result<process::Child> {
        use std::os::unix::process::CommandExt;
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())?;
        process::Command::new("sleep").arg("100").process_group(0).spawn()
    }
    let mut command = Command::new("true");
    let mut child = command.process_group(0).spawn()?;
    // Its number is its own as long as nobody has collected it.
    wait_until("it has ended", || !child.is_alive());
    let pid = child.pid();
    let mut other = start_with_number(pid)?;
    assert_ne!(other.id(), pid);
    other.kill()?;
    other.wait()?;
    assert_eq!(child.wait()?, Exit::Code(0));
    let mut stranger = start_with_number(pid)?;
    assert_eq!(stranger.id(), pid);
    assert!(!child.is_alive());
    assert!(!child.kill(Signal::KILL)?);
    assert_eq!(child.kill_tree(Signal::KILL)?, 0);
    assert_ne!(state(pid), Some('Z'));
    stranger.kill()?;
    stranger.wait()?;
    Ok(())
}

fn f53_a_stranger_with_the_number_of_the_child_is_safe() {
    let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let probe = Command::new("unshare").args(unshare).arg("true").spawn();
    if !probe.is_ok_and(|mut child| child.wait().unwrap() == Exit::Code(0)) {
        return println!("no name space of process numbers can be made here: skipped");
    }
    let mut command = Command::new("unshare");
    command.args(unshare).arg(std::env::current_exe().unwrap()).args([ROLE, "reuse_numbers"]);
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0), "{said}");
}

fn threads_that_kill_at_once_leave_nobody_stopped() {
    let directory = Directory::new();
    let child = command("branch", &directory, &["2", "traps"]).spawn().unwrap();
    let members = wait_for_notes(&directory, "ready", 7);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(child.kill_tree(Signal::TERM).unwrap(), 7));
        }
    });
    wait_for_notes(&directory, "terminated", 7);
    wait_until("all go on", || members.iter().all(|pid| state(*pid) != Some('T')));
    let counts: usize = thread::scope(|scope| {
        let kill = || child.kill_tree(Signal::KILL).unwrap();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(kill)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(counts >= 7, "{counts}");
    assert_tree_killed(child, &members);
}

fn an_ended_child_is_not_alive() {
    let mut child = role("exit", &["0"]).spawn().unwrap();
    wait_until("it has ended", || state(child.pid()) == Some('Z'));
    assert!(!child.is_alive());
    assert!(!child.kill(Signal::TERM).unwrap());
    assert_eq!(child.kill_tree(Signal::TERM).unwrap(), 0);
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
    assert!(!child.is_alive());
}

/// To look for it would take descriptors, and a look at all processes of the system.
fn a_tree_that_is_over_is_not_looked_for() {
    let mut child = role("exit", &["0"]).process_group(0).spawn().unwrap();
    child.wait().unwrap();
    let (soft, hard) = getrlimit(Limit::RLIMIT_NOFILE).unwrap();
    setrlimit(Limit::RLIMIT_NOFILE, 3, hard).unwrap();
    let reached = child.kill_tree(Signal::KILL);
    setrlimit(Limit::RLIMIT_NOFILE, soft, hard).unwrap();
    assert_eq!(reached.unwrap(), 0);
}
