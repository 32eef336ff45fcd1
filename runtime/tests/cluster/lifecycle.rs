//! How single workers end: disconnected, restarted, killed, by themselves; and what follows.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime::{Event, Exit, RestartPolicy, WorkerId, WorkerState};

use crate::harness::{Outcome, roles, tests};
use crate::support::cluster::{exit_of, told};
use crate::support::roles::{park_for_ever, worker};
use crate::support::{Client, Desk, Program, Running, ask, puppets, role, wait_until};

tests! {
    a_disconnected_worker_goes_on_while_it_holds_a_connection,
    a_disconnected_worker_has_until_its_deadline,
    a_disconnected_worker_closes_what_is_idle,
    a_slot_without_worker_can_be_started,
    connections_wait_while_no_worker_is_there,
    a_restarted_worker_has_a_successor_when_it_is_gone,
    an_exit_by_itself_is_told_once_and_was_not_asked_for,
    a_killed_worker_is_told_of_once_and_replaced,
    signals_without_a_name_end_workers_too,
    a_worker_that_disconnects_itself_is_not_replaced,
    a_program_whose_workers_have_all_disconnected_ends_well,
    everybody_at_once_ends_and_starts_workers,
    calls_that_come_too_late_do_nothing,
    f10_a_worker_that_is_out_of_memory_is_told_apart,
}

roles! {
    keep_alive,
    exit_with,
    eat_memory,
}

const LONG: Duration = Duration::from_secs(3600);

fn id(slot: usize, generation: u32) -> WorkerId {
    WorkerId { slot, generation }
}

#[track_caller]
fn wait_until_it_drains(running: &Running, worker: WorkerId) {
    wait_until("it was asked to stop", || {
        running.cluster.worker(worker).is_some_and(|info| info.state == WorkerState::Draining)
    });
}

/// What has happened to one worker.
fn story(log: &[Event], worker: WorkerId) -> Vec<String> {
    let prefix = format!("worker {worker} ");
    log.iter().filter_map(|event| Some(event.to_string().strip_prefix(&prefix)?.into())).collect()
}

fn a_disconnected_worker_goes_on_while_it_holds_a_connection() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(2));
    let address = running.listening(2);
    let mut clients = [Client::connect(&address), Client::connect(&address)];
    let held = clients.each_mut().map(Client::line).iter().position(|name| name == "0.1").unwrap();
    running.cluster.disconnect(id(0, 1), None);
    wait_until_it_drains(&running, id(0, 1));
    clients[1 - held].finish();
    // All new ones are the other's.
    for _ in 0..4 {
        assert_eq!(ask(&address), "1.1");
    }
    assert!(running.cluster.worker(id(0, 1)).unwrap().is_connected);
    assert!(!running.told().contains("disconnected"), "{}", running.told());
    clients[held].finish();
    running.exits(0, 1);
    assert_eq!(running.cluster.worker(id(0, 1)), None);
    assert_eq!(running.cluster.workers().len(), 1);
    let log = running.stop();
    assert_eq!(exit_of(&log, 0, 1), (Exit::Code(0), true));
    assert!(!told(&log).contains("worker 0.2"), "{}", told(&log));
}

fn a_disconnected_worker_has_until_its_deadline() {
    let builder = role("serve", &["127.0.0.1:0"]).workers(1).drain_timeout(LONG);
    let mut running = Running::start(builder);
    let address = running.listening(1);
    let mut client = Client::connect(&address);
    client.line();
    running.cluster.disconnect(id(0, 1), LONG);
    wait_until_it_drains(&running, id(0, 1));
    // The earlier deadline holds.
    running.cluster.disconnect(id(0, 1), Duration::from_millis(50));
    running.exits(0, 1);
    assert!(client.try_finish().is_err());
    let log = running.stop();
    assert_eq!(exit_of(&log, 0, 1), (Exit::Signal { signal: 15, core_dumped: false }, true));
}

fn a_disconnected_worker_closes_what_is_idle() {
    let mut running = Running::start(role("keep_alive", &["127.0.0.1:0"]).workers(1));
    let address = running.listening(1);
    let mut client = Client::connect(&address);
    for _ in 0..3 {
        client.send("hello\n").unwrap();
        assert_eq!(client.line(), "hello");
    }
    running.cluster.disconnect(id(0, 1), LONG);
    client.end().unwrap();
    let log = running.stop();
    assert_eq!(exit_of(&log, 0, 1), (Exit::Code(0), true));
}

/// `keep_alive ADDRESS`: echoes what comes, on any number of connections, and closes them, between
/// two requests, when it shall stop.
fn keep_alive(args: &[String]) -> Outcome {
    let worker = worker()?;
    let listener = worker.listen(args[0].as_str())?;
    let mut connections = Vec::new();
    while !worker.is_stopping() {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![readable(worker.as_fd()), readable(listener.as_fd())];
        fds.extend(
            connections.iter().map(|connection: &runtime::Connection| readable(connection.as_fd())),
        );
        poll(&mut fds, PollTimeout::NONE)?;
        if let Ok((connection, _)) = listener.accept() {
            connections.push(connection);
        }
        for connection in &mut connections {
            let mut bytes = [0; 64];
            match connection.read(&mut bytes) {
                Ok(length) => connection.write_all(&bytes[..length])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn a_slot_without_worker_can_be_started() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(2));
    let address = running.listening(2);
    running.cluster.disconnect(id(0, 1), None);
    running.exits(0, 1);
    assert_eq!([ask(&address), ask(&address)], ["1.1", "1.1"]);
    running.cluster.start(0);
    running.listens(0, 2);
    let mut served = [ask(&address), ask(&address)];
    served.sort();
    assert_eq!(served, ["0.2", "1.1"]);
    running.stop();
}

fn connections_wait_while_no_worker_is_there() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(2));
    let address = running.listening(2);
    running.cluster.disconnect(id(0, 1), None);
    running.cluster.disconnect(id(1, 1), None);
    running.exits(0, 1);
    running.exits(1, 1);
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(&address)).collect();
    clients.iter_mut().for_each(|client| client.send("\n").unwrap());
    running.cluster.start(1);
    for client in &mut clients {
        assert_eq!(client.line(), "1.2");
        client.expect_done().unwrap();
    }
    running.stop();
}

fn a_restarted_worker_has_a_successor_when_it_is_gone() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(1));
    let address = running.listening(1);
    let mut client = Client::connect(&address);
    client.line();
    running.cluster.restart(id(0, 1), None);
    wait_until_it_drains(&running, id(0, 1));
    let mut waiting = Client::connect(&address);
    waiting.send("\n").unwrap();
    client.finish();
    assert_eq!(waiting.line(), "0.2");
    waiting.expect_done().unwrap();
    // This one is gone, and nothing happens to its successor.
    running.cluster.restart(id(0, 1), None);
    running.cluster.disconnect(id(0, 1), None);
    assert_eq!(ask(&address), "0.2");
    let log = running.stop();
    assert_eq!(exit_of(&log, 0, 1), (Exit::Code(0), true));
    assert!(!log.iter().any(|event| matches!(event, Event::Restarting { .. })), "{}", told(&log));
}

fn an_exit_by_itself_is_told_once_and_was_not_asked_for() {
    let restart = RestartPolicy { start_failures_max: 1, ..RestartPolicy::default() };
    let running = Running::start(role("exit_with", &["42"]).workers(1).restart(restart));
    let (result, log) = running.end();
    assert!(result.unwrap_err().is_all_slots_failed());
    assert_eq!(exit_of(&log, 0, 1), (Exit::Code(42), false));
    let story = story(&log, id(0, 1));
    assert_eq!(story.len(), 4, "{story:?}");
    assert!(story[0].starts_with("started, pid "), "{story:?}");
    assert_eq!(story[1..3], ["online", "disconnected"]);
    assert!(story[3].starts_with("exited with code 42 after "), "{story:?}");
}

/// `exit_with CODE`.
#[allow(clippy::disallowed_methods, reason = "that is its purpose")]
fn exit_with(args: &[String]) -> Outcome {
    let _worker = worker()?;
    std::process::exit(args[0].parse()?)
}

fn a_killed_worker_is_told_of_once_and_replaced() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(2));
    running.listening(2);
    let pid = running.pid(0);
    running.cluster.kill(id(0, 1), 9).unwrap();
    running.listens(0, 2);
    assert!(!Path::new("/proc").join(pid.to_string()).exists(), "it is really gone");
    let log = running.stop();
    let (exit, asked) = exit_of(&log, 0, 1);
    assert_eq!((exit.code(), exit.signal(), asked), (None, Some(9), false));
    let ends = story(&log, id(0, 1)).split_off(3);
    assert_eq!(ends[0], "disconnected");
    assert!(ends[1].starts_with("killed by signal 9 after "), "{ends:?}");
    assert_eq!(ends.len(), 2, "{ends:?}");
}

fn signals_without_a_name_end_workers_too() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(1));
    running.listening(1);
    for signal in [0, -1, 65] {
        let error = running.cluster.kill(id(0, 1), signal).unwrap_err().to_string();
        assert!(error.contains("is no signal"), "{error}");
    }
    running.cluster.kill(id(0, 1), 40).unwrap();
    running.listens(0, 2);
    let log = running.stop();
    let exit = Exit::Signal { signal: 40, core_dumped: false };
    assert_eq!(exit_of(&log, 0, 1), (exit, false));
}

fn a_worker_that_disconnects_itself_is_not_replaced() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 2);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    assert_eq!(desk.listen("1", 0, "127.0.0.1:0"), address);
    assert_eq!(desk.ask("1", "linger"), "lingering");
    assert_eq!(desk.ask("1", "disconnect"), "disconnected");
    // It has the master's word, so nothing comes to it any more.
    let state = running.cluster.worker(id(1, 1)).unwrap().state;
    assert_eq!(state, WorkerState::Draining);
    assert_eq!(desk.hear(), "stopping");
    assert_eq!(desk.ask("1", "disconnect"), "disconnected", "it does no harm again");
    let mut clients = [Client::connect(&address), Client::connect(&address)];
    for client in &mut clients {
        desk.take("0", 0);
        assert_eq!(client.line(), "0.1");
    }
    assert!(desk.ask("1", "take 0").starts_with("WouldBlock"));
    desk.tell("1", "exit");
    running.exits(1, 1);
    assert_eq!(running.cluster.workers().len(), 1);
    let log = running.stop();
    assert_eq!(exit_of(&log, 1, 1), (Exit::Code(0), true));
    assert!(!told(&log).contains("worker 1.2"), "{}", told(&log));
}

fn a_program_whose_workers_have_all_disconnected_ends_well() {
    let mut master = Program::role("master", &["2", "1000", "1000", "leaving"]);
    assert!(master.wait().success(), "{:?}", master.seen);
    master.silence();
    master.line("the cluster has ended well");
    for slot in [0, 1] {
        let line = master.line(&format!("worker {slot}.1 exited with code 0"));
        assert!(line.ends_with("as asked"), "{line}");
    }
}

fn everybody_at_once_ends_and_starts_workers() {
    let restart = RestartPolicy { delay_min: Duration::ZERO, ..RestartPolicy::default() };
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(4).restart(restart));
    running.listening(4);
    thread::scope(|scope| {
        for number in 0..8 {
            let handle = running.cluster.handle().clone();
            scope.spawn(move || {
                for step in 0..50 {
                    let workers = handle.workers();
                    let worker = workers.get((number + step) % workers.len().max(1));
                    let worker = worker.map_or(id(0, 1), |info| info.id);
                    match (number + step * 3) % 7 {
                        0 => handle.disconnect(worker, None),
                        1 => handle.restart(worker, Duration::ZERO),
                        2 => handle.kill(worker, 9).unwrap(),
                        3 => handle.kill(worker, 15).unwrap(),
                        4 => handle.scale(1 + (number + step) % 5).unwrap(),
                        _ => handle.start(worker.slot),
                    }
                    thread::yield_now();
                }
            });
        }
    });
    running.cluster.scale(4).unwrap();
    (0..4).for_each(|slot| running.cluster.start(slot));
    wait_until("all listen again", || {
        running.passes(Duration::ZERO);
        let infos = running.cluster.workers();
        infos.len() == 4 && infos.iter().all(|info| info.state == WorkerState::Listening)
    });
    let address = running.listening(4);
    let mut served = [(); 4].map(|()| ask(&address).split_once('.').unwrap().0.to_owned());
    served.sort();
    assert_eq!(served, ["0", "1", "2", "3"]);
    running.stop();
}

fn calls_that_come_too_late_do_nothing() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(1));
    running.listening(1);
    let handle = running.cluster.handle().clone();
    running.cluster.shutdown();
    handle.scale(3).unwrap();
    handle.restart(id(0, 1), None);
    let (result, log) = running.end();
    result.unwrap();
    assert_eq!(log.iter().filter(|event| matches!(event, Event::Spawned { .. })).count(), 1);
    handle.start(0);
    handle.shutdown();
    assert_eq!(handle.workers(), []);
}

/// A control group of this process's own, with little memory.
struct Group {
    path: PathBuf,
    parent: PathBuf,
}

impl Group {
    /// `None` where this process may not have one.
    fn enter() -> Option<Group> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = groups.lines().find_map(|line| line.split_once(":memory:"))?.1;
        let parent = PathBuf::from(format!("/sys/fs/cgroup/memory{own}"));
        let path = parent.join(format!("cluster-test-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let group = Group { path, parent };
        fs::write(group.path.join("memory.limit_in_bytes"), "64M").ok()?;
        fs::write(group.path.join("cgroup.procs"), std::process::id().to_string()).ok()?;
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let own = std::process::id().to_string();
        let _ = fs::write(self.parent.join("cgroup.procs"), own);
        let _ = fs::remove_dir(&self.path);
    }
}

fn f10_a_worker_that_is_out_of_memory_is_told_apart() {
    let Some(_group) = Group::enter() else {
        return println!("skipped: this takes a memory control group of version 1, and root");
    };
    let restart = RestartPolicy { start_failures_max: 1, ..RestartPolicy::default() };
    let running = Running::start(role("eat_memory", &[]).workers(1).restart(restart));
    let (result, log) = running.end();
    assert!(result.unwrap_err().is_all_slots_failed(), "it has failed: {}", told(&log));
    let (exit, asked) = exit_of(&log, 0, 1);
    assert_eq!((exit, exit.signal(), asked), (Exit::OutOfMemory, Some(9), false));
}

/// `eat_memory`: takes it all.
fn eat_memory(_: &[String]) -> Outcome {
    let _worker = worker()?;
    // Nobody else shall suffer.
    fs::write("/proc/self/oom_score_adj", "1000")?;
    let eaten: Vec<Vec<u8>> = (0..1024).map(|_| vec![1; 1 << 20]).collect();
    drop(eaten);
    park_for_ever()
}
