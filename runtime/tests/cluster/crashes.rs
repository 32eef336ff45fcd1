//! Workers that die, and what becomes of their connections and slots.

use std::fs::rename;
use std::io;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use runtime::machine::FromWorker;
use runtime::{Address, Event, Exit, KillReason, ListenOptions, RestartPolicy, WorkerId};

use crate::harness::{Outcome, ROLE, children, descriptors, roles, tests};
use crate::support::cluster::{exit_of, told};
use crate::support::raw::{RawChannel, message};
use crate::support::roles::{park_for_ever, serve_as, wait_for_stop, worker};
use crate::support::{
    Client, Desk, Directory, Program, Running, ask, puppets, role, try_ask, wait_until,
};

tests! {
    f15_killed_workers_lose_only_what_they_had_taken,
    f15_connections_that_wait_for_a_killed_worker_go_to_others,
    f16_with_one_slot_its_next_worker_gets_what_waits_but_nothing_that_was_taken,
    f43_a_slot_whose_workers_crash_is_given_up_and_the_others_go_on,
    f43_a_cluster_whose_workers_all_crash_ends_with_an_error,
    f08_a_program_that_is_not_there_is_named_and_given_up,
    f08_a_program_that_comes_back_is_started_again,
    f44_a_worker_that_does_not_come_online_is_killed,
    a_worker_that_ends_well_unasked_is_replaced,
    f51_workers_that_die_together_are_all_collected_and_replaced,
    f50_the_end_of_a_worker_is_seen_though_its_child_holds_the_channel,
    f50_what_waits_for_a_dead_worker_whose_child_holds_the_channel_goes_to_others,
    f55_what_a_worker_has_said_is_heard_before_its_end,
    f41_f50_a_child_that_floods_the_channel_of_a_dead_worker_holds_nobody_up,
    f52_a_worker_that_somebody_else_has_collected_is_replaced,
    f61_workers_are_replaced_when_directory_and_program_are_gone,
}

roles! {
    crash,
    ask_and_end,
    crash_in_slot_0,
    end_at_first,
    leave_channel_to_child,
    leave_channel_to_flood,
    listen_and_leave_channel_to_child,
    flood_online,
}

/// Restarts soon, and gives up after so many failures, whatever happened before.
fn quickly(failures_max: u32) -> RestartPolicy {
    RestartPolicy {
        delay_min: Duration::from_millis(5),
        delay_max: Duration::from_millis(20),
        failures_max,
        start_failures_max: failures_max,
        ..RestartPolicy::default()
    }
}

fn f15_killed_workers_lose_only_what_they_had_taken() {
    const KILLS: usize = 40;
    let serve = role("serve", &["127.0.0.1:0"]).workers(4).restart(quickly(0));
    let mut running = Running::start(serve);
    let address = running.listening(4);
    let before = descriptors().len();
    let enough = AtomicBool::new(false);
    let work = || {
        let (mut served, mut failures) = (0, Vec::new());
        while !enough.load(Ordering::Relaxed) {
            match try_ask(&address) {
                Ok(_) => served += 1,
                Err(error) => failures.push(error),
            }
        }
        (served, failures)
    };
    let (mut served, mut failures) = (0, Vec::new());
    thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
        for round in 0..KILLS {
            running.passes(Duration::from_millis(40));
            // Slots in an order without rhythm.
            running.kill_some(round * 7 + round * round);
        }
        enough.store(true, Ordering::Relaxed);
        for client in clients {
            let (ok, mut bad) = client.join().unwrap();
            served += ok;
            failures.append(&mut bad);
        }
    });
    let hung = failures.iter().any(|error| error.kind() == io::ErrorKind::WouldBlock);
    assert!(!hung, "a client has waited to its deadline: {failures:?}");
    // A worker in this role holds one connection at most.
    assert!(failures.len() <= KILLS, "{} failures: {failures:?}", failures.len());
    assert!(served > KILLS, "only {served} were served");
    running.listening(4);
    wait_until("the master has as many descriptors as before", || descriptors().len() == before);
    let log = running.stop();
    let killed = Exit::Signal { signal: 9, core_dumped: false };
    let deaths = log.iter().filter(|e| matches!(e, Event::Exited { exit, .. } if *exit == killed));
    assert_eq!(deaths.count(), KILLS);
}

fn f15_connections_that_wait_for_a_killed_worker_go_to_others() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 2);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    assert_eq!(desk.listen("1", 0, "127.0.0.1:0"), address);
    let mut clients: Vec<_> = (0..6).map(|_| Client::connect(&address)).collect();
    // The last of them is worker 1's third, so all are in their mailboxes.
    for _ in 0..3 {
        desk.take("1", 0);
    }
    running.signal(0, Signal::SIGKILL);
    desk.ready(1);
    for _ in 0..3 {
        desk.take("1", 0);
    }
    for client in &mut clients {
        assert_eq!(client.line(), "1.1");
        client.send("\n").unwrap();
    }
    assert_eq!(desk.ask("1", "finish"), "finished");
    for client in &mut clients {
        client.expect_done().unwrap();
    }
    running.happens("they are taken back", |event| {
        matches!(event, Event::TakenBack { slot: 0, connections: 3 })
    });
    running.stop();
}

fn f16_with_one_slot_its_next_worker_gets_what_waits_but_nothing_that_was_taken() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 1);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    let mut clients: Vec<_> = (0..5).map(|_| Client::connect(&address)).collect();
    for _ in 0..2 {
        desk.take("0", 0);
    }
    running.signal(0, Signal::SIGKILL);
    desk.ready(1);
    assert_eq!(desk.listen("0", 0, "127.0.0.1:0"), address);
    assert_eq!(desk.ask("0", "serve 0"), "serving");
    for client in &mut clients[..2] {
        assert_eq!(client.line(), "0.1");
        let next = client.try_finish().expect_err("nobody else gets it");
        assert_ne!(next.kind(), io::ErrorKind::WouldBlock, "nor does it hang");
    }
    for client in &mut clients[2..] {
        assert_eq!(client.line(), "0.2");
        client.finish();
    }
    running.listens(0, 2);
    running.stop();
}

fn f43_a_slot_whose_workers_crash_is_given_up_and_the_others_go_on() {
    let crash = role("crash_in_slot_0", &["127.0.0.1:0"]).workers(2).restart(quickly(4));
    let mut running = Running::start(crash);
    let failed =
        running.happens("the slot is given up", |event| matches!(event, Event::SlotFailed { .. }));
    assert_eq!(failed, Event::SlotFailed { slot: 0, failures: 4 });
    let address = running.listening(1);
    assert_eq!([ask(&address), ask(&address)], ["1.1", "1.1"]);
    let slots: Vec<_> = running.cluster.workers().iter().map(|worker| worker.id.slot).collect();
    assert_eq!(slots, [1]);
    let log = running.stop();
    let started = |e: &&Event| matches!(e, Event::Spawned { worker, .. } if worker.slot == 0);
    assert_eq!(log.iter().filter(started).count(), 4);
    let delays = log.iter().filter_map(|event| match event {
        Event::Restarting { slot: 0, failures, .. } => Some(*failures),
        _ => None,
    });
    assert_eq!(delays.collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(exit_of(&log, 0, 4), (Exit::Code(1), false));
}

/// `crash_in_slot_0 ADDRESS`.
fn crash_in_slot_0(args: &[String]) -> Outcome {
    let worker = worker()?;
    if worker.id().slot == 0 { Err("crash".into()) } else { serve_as(&worker, args) }
}

fn f43_a_cluster_whose_workers_all_crash_ends_with_an_error() {
    let running = Running::start(role("crash", &[]).workers(2).restart(quickly(2)));
    let (result, log) = running.end();
    let error = result.expect_err("every slot has failed");
    assert!(error.is_all_slots_failed(), "{error}");
    let failed = log.iter().filter(|event| matches!(event, Event::SlotFailed { .. }));
    assert_eq!(failed.count(), 2, "{}", told(&log));
}

/// `crash`: before it is online.
fn crash(_: &[String]) -> Outcome {
    Err("crash".into())
}

fn f08_a_program_that_is_not_there_is_named_and_given_up() {
    let directory = Directory::new();
    let [missing, text] = [directory.join("missing"), directory.join("text")];
    std::fs::write(&text, "no program").unwrap();
    for (program, why) in [(missing, "No such file"), (text, "Permission denied")] {
        let builder = role("serve", &[]).workers(1).restart(quickly(2)).program(&program);
        let (result, log) = Running::start(builder).end();
        assert!(result.expect_err("there is no program").is_all_slots_failed());
        let errors: Vec<_> = log
            .iter()
            .filter_map(|event| match event {
                Event::SpawnFailed { worker, error } => Some((worker.generation, error)),
                _ => None,
            })
            .collect();
        assert_eq!(errors.len(), 2, "{}", told(&log));
        for (attempt, (generation, error)) in (1..).zip(errors) {
            assert_eq!(generation, attempt);
            assert!(error.contains(why) && error.contains(program.to_str().unwrap()), "{error}");
        }
        assert!(log.contains(&Event::SlotFailed { slot: 0, failures: 2 }), "{}", told(&log));
    }
}

fn f08_a_program_that_comes_back_is_started_again() {
    let directory = Directory::new();
    let [program, away] = ["program", "away"].map(|name| directory.join(name));
    symlink(std::env::current_exe().unwrap(), &program).unwrap();
    let builder = role("serve", &["127.0.0.1:0"]).workers(2).program(&program);
    let mut running = Running::start(builder.restart(quickly(0)));
    let address = running.listening(2);
    rename(&program, &away).unwrap();
    running.signal(0, Signal::SIGKILL);
    running.until("it can't be started, again and again", |log| {
        let failures = log.iter().filter(|event| matches!(event, Event::SpawnFailed { .. }));
        (failures.count() == 5).then_some(())
    });
    assert_eq!([ask(&address), ask(&address)], ["1.1", "1.1"]);
    rename(&away, &program).unwrap();
    running.listening(2);
    let mut names = [ask(&address), ask(&address)];
    names.sort();
    assert!(names[0].starts_with("0.") && names[1] == "1.1", "{names:?}");
    running.stop();
}

fn f44_a_worker_that_does_not_come_online_is_killed() {
    let builder = runtime::Cluster::builder()
        .program("sleep")
        .args(["1000"])
        .workers(1)
        .restart(quickly(2))
        .start_timeout(Duration::from_millis(200));
    let (result, log) = Running::start(builder).end();
    assert!(result.expect_err("nobody was ever online").is_all_slots_failed());
    for generation in [1, 2] {
        let worker = WorkerId { slot: 0, generation };
        assert!(log.contains(&Event::Killed { worker, reason: KillReason::NotOnline }));
        let killed = Exit::Signal { signal: 9, core_dumped: false };
        assert_eq!(exit_of(&log, 0, generation), (killed, false));
    }
}

fn a_worker_that_ends_well_unasked_is_replaced() {
    let builder = role("end_at_first", &["127.0.0.1:0"]).workers(1).restart(quickly(4));
    let mut running = Running::start(builder);
    assert_eq!(ask(&running.listening(1)), "0.2");
    let log = running.stop();
    assert_eq!(exit_of(&log, 0, 1), (Exit::Code(0), false));
    assert_eq!(exit_of(&log, 0, 2), (Exit::Code(0), true));
}

/// `end_at_first ADDRESS`: the first generation just ends.
fn end_at_first(args: &[String]) -> Outcome {
    let worker = worker()?;
    if worker.id().generation == 1 { Ok(()) } else { serve_as(&worker, args) }
}

fn f51_workers_that_die_together_are_all_collected_and_replaced() {
    const WORKERS: usize = 16;
    let builder = role("serve", &["127.0.0.1:0"]).workers(WORKERS).restart(quickly(4));
    let mut running = Running::start(builder);
    let address = running.listening(WORKERS);
    for slot in 0..WORKERS {
        running.signal(slot, Signal::SIGKILL);
    }
    running.until("all are replaced", |log| {
        let again = log
            .iter()
            .filter(|e| matches!(e, Event::Listening { worker, .. } if worker.generation == 2));
        (again.count() == WORKERS).then_some(())
    });
    assert_eq!(children().len(), WORKERS, "no zombie is left");
    let mut names: Vec<_> = (0..WORKERS).map(|_| ask(&address)).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), WORKERS, "everybody gets connections: {names:?}");
    running.stop();
}

fn f50_the_end_of_a_worker_is_seen_though_its_child_holds_the_channel() {
    let running =
        Running::start(role("leave_channel_to_child", &[]).workers(1).restart(quickly(1)));
    let (_, log) = running.end();
    assert_eq!(exit_of(&log, 0, 1), (Exit::Code(1), false));
    let [child] = children()[..] else { panic!("one child is left: {:?}", children()) };
    let sockets = std::fs::read_dir(format!("/proc/{child}/fd")).unwrap().flatten().filter(|fd| {
        std::fs::read_link(fd.path()).unwrap().to_string_lossy().starts_with("socket:")
    });
    assert_eq!(sockets.count(), 1, "it holds the channel");
    kill(Pid::from_raw(child), Signal::SIGKILL).unwrap();
    waitpid(Pid::from_raw(child), None).unwrap();
}

/// `leave_channel_to_child`: its child inherits what it has not taken.
fn leave_channel_to_child(_: &[String]) -> Outcome {
    RawChannel::inherited().online()?;
    Command::new("sleep").arg("1000").spawn()?;
    Err("it leaves its child alone".into())
}

fn f50_what_waits_for_a_dead_worker_whose_child_holds_the_channel_goes_to_others() {
    let builder = role("listen_and_leave_channel_to_child", &["127.0.0.1:0"]).workers(2);
    let mut running = Running::start(builder.stall_timeout(Duration::from_secs(3600)));
    let address = running.listening(2);
    let mut clients = [Client::connect(&address), Client::connect(&address)];
    let mut names = Vec::new();
    for client in &mut clients {
        client.send("\n").unwrap();
    }
    // One of them has to wait until its worker is dead.
    running.signal(0, Signal::SIGKILL);
    running.exits(0, 1);
    for client in &mut clients {
        names.push(client.line());
        client.expect_done().unwrap();
    }
    assert_eq!(names, ["1.1", "1.1"]);
    running.stop();
    let [child] = children()[..] else { panic!("one child is left: {:?}", children()) };
    kill(Pid::from_raw(child), Signal::SIGKILL).unwrap();
    waitpid(Pid::from_raw(child), None).unwrap();
}

/// `listen_and_leave_channel_to_child ADDRESS`: the first worker of slot 0 listens and takes
/// nothing, its next does not listen; the others serve.
fn listen_and_leave_channel_to_child(args: &[String]) -> Outcome {
    let id: WorkerId = std::env::var("CLUSTER_WORKER_ID")?.parse()?;
    if id.slot != 0 {
        return serve_as(&worker()?, args);
    }
    if id.generation > 1 {
        return wait_for_stop(&worker()?);
    }
    let channel = RawChannel::inherited();
    channel.online()?;
    Command::new("sleep").arg("1000").spawn()?;
    let (options, address) = (ListenOptions::new(), args[0].parse()?);
    let listen = FromWorker::Listen { request: 0, index: 0, options, address };
    channel.send(&message(&listen))?;
    park_for_ever()
}

fn f55_what_a_worker_has_said_is_heard_before_its_end() {
    let builder = role("ask_and_end", &[]).workers(1).restart(quickly(1));
    let (_, log) = Running::start(builder).end();
    let exit = log.iter().position(|event| matches!(event, Event::Exited { .. })).unwrap();
    let heard = log[..exit].iter().filter(|event| matches!(event, Event::ListenFailed { .. }));
    assert_eq!(heard.count(), QUESTIONS);
}

/// More than are answered in one go.
const QUESTIONS: usize = 1000;

/// `ask_and_end`: waits for no answer.
fn ask_and_end(_: &[String]) -> Outcome {
    let channel = RawChannel::inherited();
    channel.online()?;
    // An address of nobody's.
    let address = Address::Tcp(([192, 0, 2, 1], 80).into());
    let options = ListenOptions::new();
    let listen = FromWorker::Listen { request: 0, index: 0, options, address };
    channel.send(&message(&listen).repeat(QUESTIONS))?;
    Err("it has nothing more to say".into())
}

fn f41_f50_a_child_that_floods_the_channel_of_a_dead_worker_holds_nobody_up() {
    let running =
        Running::start(role("leave_channel_to_flood", &[]).workers(1).restart(quickly(1)));
    let (_, log) = running.end();
    assert_eq!(exit_of(&log, 0, 1), (Exit::Code(1), false));
    // It ends when nobody listens to it any more.
    let status = waitpid(None, None).unwrap();
    assert!(matches!(status, WaitStatus::Exited(_, 1)), "{status:?}");
}

/// `leave_channel_to_flood`: ends once its child is at work.
fn leave_channel_to_flood(_: &[String]) -> Outcome {
    RawChannel::inherited().online()?;
    let (ours, theirs) = io::pipe()?;
    let child = Command::new("/proc/self/exe").args([ROLE, "flood_online"]).stdout(theirs).spawn();
    drop(child?);
    io::Read::read_exact(&mut &ours, &mut [0])?;
    Err("it leaves its child alone".into())
}

/// `flood_online`: says for ever that it is online, and writes a byte after the first time.
fn flood_online(_: &[String]) -> Outcome {
    let channel = RawChannel::inherited();
    let online = message(&FromWorker::Online { version: 1 }).repeat(1000);
    channel.send(&online)?;
    nix::unistd::write(io::stdout(), b"x")?;
    loop {
        channel.send(&online)?;
    }
}

fn f52_a_worker_that_somebody_else_has_collected_is_replaced() {
    // Children of a process that ignores SIGCHLD are collected by the kernel.
    let mut command = Command::new("env");
    command.arg("--ignore-signal=CHLD").arg(std::env::current_exe().unwrap());
    command.args([ROLE, "master", "1", "1000", "1000", "serve", "127.0.0.1:0"]);
    let mut master = Program::start(command);
    let address = master.listening(1);
    let pid = Pid::from_raw(master.worker("0.1").cast_signed());
    kill(pid, Signal::SIGKILL).unwrap();
    assert_eq!(ask(&address), "0.2");
    let line = master.line("worker 0.1 ended");
    assert!(line.contains("collected by somebody else"), "{line}");
    master.signal(Signal::SIGTERM);
    assert!(master.wait().success());
    master.silence();
}

fn f61_workers_are_replaced_when_directory_and_program_are_gone() {
    let directory = Directory::new();
    let program = directory.join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let folder = directory.join("folder");
    std::fs::create_dir(&folder).unwrap();
    let mut command = Command::new(&program);
    command.args([ROLE, "master", "1", "1000", "1000", "serve", "127.0.0.1:0"]);
    command.current_dir(&folder);
    let mut master = Program::start(command);
    let address = master.listening(1);
    std::fs::remove_dir(&folder).unwrap();
    std::fs::remove_file(&program).unwrap();
    kill(Pid::from_raw(master.worker("0.1").cast_signed()), Signal::SIGKILL).unwrap();
    assert_eq!(ask(&address), "0.2");
    master.signal(Signal::SIGTERM);
    assert!(master.wait().success());
    master.silence();
}
