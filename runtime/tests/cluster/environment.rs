//! What workers, and what they start, inherit; and how a program knows that it is a worker.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{MsgFlags, send};
use runtime::{Cluster, Worker};

use crate::harness::{Outcome, ROLE, descriptors, roles, tests};
use crate::support::roles::{wait_for_stop, worker};
use crate::support::{Client, DEADLINE, Desk, Phone, Program, Running, puppets, role};

tests! {
    f58_a_worker_starts_with_its_channel_and_nothing_else,
    f32_what_a_worker_starts_inherits_nothing_of_the_cluster,
    a_worker_that_had_threads_passes_on_markers_that_mean_nothing,
    f96_without_markers_a_program_is_no_worker,
    f96_markers_that_are_nonsense_are_refused,
    f96_a_descriptor_that_is_not_the_channel_is_left_alone,
    a_worker_is_one_once,
    a_worker_that_does_not_know_it_is_one_cannot_be_a_master,
    a_worker_can_have_a_cluster_of_its_own,
    variables_and_arguments_reach_the_workers,
}

roles! {
    say_descriptors,
    say_after_threads,
    who_am_i,
    say_twice,
    be_a_master,
    nest,
    say_variables,
}

/// Makes a descriptor one that every child inherits, as careless programs do.
fn make_inheritable(descriptor: impl AsFd) {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
}

fn f58_a_worker_starts_with_its_channel_and_nothing_else() {
    let careless: Vec<File> = (0..20).map(|_| File::open("/dev/null").unwrap()).collect();
    careless.iter().for_each(make_inheritable);
    let desk = Desk::new();
    let mut running = Running::start(role("say_descriptors", &[&desk.number()]).workers(3));
    running.online(3);
    let mut said = vec![desk.hear(), desk.hear(), desk.hear()];
    // Its successor, too, which is started with more around it.
    running.signal(0, nix::sys::signal::Signal::SIGKILL);
    said.push(desk.hear());
    for descriptors in said {
        let lines: Vec<_> = descriptors.lines().collect();
        let [input, output, error, channel] = lines[..] else { panic!("{descriptors}") };
        assert_eq!(input, "0 /dev/null");
        assert!(output.starts_with("1 ") && error.starts_with("2 "), "{descriptors}");
        assert!(channel.contains(" socket:["), "{descriptors}");
    }
    running.stop();
}

/// `say_descriptors DESK`: what it has before it does anything.
fn say_descriptors(args: &[String]) -> Outcome {
    let at_start = descriptors().into_iter().collect::<Vec<_>>().join("\n");
    let worker = worker()?;
    Phone::new(&args[0], &worker.id().to_string())?.say(&at_start)?;
    wait_for_stop(&worker)
}

fn f32_what_a_worker_starts_inherits_nothing_of_the_cluster() {
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    let mut client = Client::connect(&address);
    desk.take("0", 0);
    client.line();
    let environment = desk.ask("0", "run env");
    assert!(!environment.contains("CLUSTER_"), "{environment}");
    // And one for the directory itself.
    assert_eq!(desk.ask("0", "run ls /proc/self/fd"), "0\n1\n2\n3");
    running.stop();
}

fn a_worker_that_had_threads_passes_on_markers_that_mean_nothing() {
    let desk = Desk::new();
    let running = Running::start(role("say_after_threads", &[&desk.number()]).workers(1));
    let said = desk.hear();
    assert!(said.contains("CLUSTER_"), "this test has lost its purpose: {said}");
    assert!(said.ends_with("none"), "{said}");
    running.stop();
}

/// `say_after_threads DESK`: can't take the markers out of its environment, and starts a program.
fn say_after_threads(args: &[String]) -> Outcome {
    let (go_on, wait) = crossbeam_channel::bounded::<()>(0);
    let thread = thread::spawn(move || wait.recv());
    let worker = worker()?;
    let environment = Command::new("env").output()?;
    let child = Command::new("/proc/self/exe").args([ROLE, "who_am_i"]).output()?;
    let said = [environment.stdout, child.stdout].concat();
    let phone = Phone::new(&args[0], &worker.id().to_string())?;
    phone.say(String::from_utf8_lossy(&said).trim_end())?;
    drop(go_on);
    let _ = thread.join();
    wait_for_stop(&worker)
}

/// `who_am_i [DESCRIPTOR]`: prints what it is; then writes to a descriptor, if it is still there.
fn who_am_i(args: &[String]) -> Outcome {
    match Worker::from_env() {
        Ok(Some(worker)) => println!("worker {}", worker.id()),
        Ok(None) => println!("none"),
        Err(error) => println!("error: {error}"),
    }
    if let Some(number) = args.first() {
        let number: RawFd = number.parse()?;
        send(number, b"x", MsgFlags::MSG_NOSIGNAL)?;
    }
    Ok(())
}

/// What a program says of itself with these variables.
#[track_caller]
fn who_am_i_with(variables: &[(&str, &str)], args: &[&str]) -> String {
    let mut command = Program::command("who_am_i", args);
    command.envs(variables.iter().copied());
    let mut program = Program::start(command);
    let status = program.wait();
    program.silence();
    assert!(status.success(), "{variables:?}: {status}");
    program.seen.join("\n")
}

fn f96_without_markers_a_program_is_no_worker() {
    assert_eq!(who_am_i_with(&[], &[]), "none");
    assert_eq!(who_am_i_with(&[("CLUSTER_WORKER_ID", "0.1")], &[]), "none");
    assert_eq!(who_am_i_with(&[("CLUSTER_CHANNEL_FD", "5")], &[]), "none");
}

fn f96_markers_that_are_nonsense_are_refused() {
    let channels = ["0", "1", "2", "3", "999", "-1", "99999999999999999999", "garbage", ""];
    for channel in channels {
        for id in ["0.1", "garbage", ""] {
            for inode in [None, Some("1"), Some("garbage")] {
                let mut variables =
                    vec![("CLUSTER_WORKER_ID", id), ("CLUSTER_CHANNEL_FD", channel)];
                variables.extend(inode.map(|inode| ("CLUSTER_CHANNEL_INODE", inode)));
                let said = who_am_i_with(&variables, &[]);
                assert!(said == "none" || said.contains("CLUSTER_"), "{variables:?}: {said}");
            }
        }
    }
}

fn f96_a_descriptor_that_is_not_the_channel_is_left_alone() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    make_inheritable(&theirs);
    let number = theirs.as_raw_fd().to_string();
    for inode in [None, Some("1"), Some("0"), Some("garbage")] {
        let mut variables = vec![("CLUSTER_WORKER_ID", "0.1"), ("CLUSTER_CHANNEL_FD", &number)];
        variables.extend(inode.map(|inode| ("CLUSTER_CHANNEL_INODE", inode)));
        let said = who_am_i_with(&variables, &[&number]);
        assert!(said == "none" || said.contains("CLUSTER_"), "{inode:?}: {said}");
        ours.set_read_timeout(Some(DEADLINE)).unwrap();
        (&ours).read_exact(&mut [0]).expect("it can still be written to");
    }
}

fn a_worker_is_one_once() {
    let desk = Desk::new();
    let running = Running::start(role("say_twice", &[&desk.number()]).workers(1));
    let said = desk.hear();
    assert!(said.starts_with("error: ") && said.contains("already"), "{said}");
    running.stop();
}

/// `say_twice DESK`: asks twice who it is, and says the second answer.
fn say_twice(args: &[String]) -> Outcome {
    let worker = worker()?;
    let again = match Worker::from_env() {
        Ok(Some(_)) => "a worker".to_owned(),
        Ok(None) => "none".to_owned(),
        Err(error) => format!("error: {error}"),
    };
    Phone::new(&args[0], &worker.id().to_string())?.say(&again)?;
    wait_for_stop(&worker)
}

fn a_worker_that_does_not_know_it_is_one_cannot_be_a_master() {
    let desk = Desk::new();
    let running = Running::start(role("be_a_master", &[&desk.number()]).workers(1));
    let said = desk.hear();
    assert!(said.starts_with("error: ") && said.contains("from_env"), "{said}");
    running.stop();
}

/// `be_a_master DESK`: starts a cluster, and so itself again and again, if it may.
fn be_a_master(args: &[String]) -> Outcome {
    let said = match Cluster::builder().workers(1).spawn() {
        Ok(_) => "a cluster of a cluster".to_owned(),
        Err(error) => format!("error: {error}"),
    };
    let worker = worker()?;
    Phone::new(&args[0], &worker.id().to_string())?.say(&said)?;
    wait_for_stop(&worker)
}

fn a_worker_can_have_a_cluster_of_its_own() {
    let desk = Desk::new();
    let mut running = Running::start(role("nest", &[&desk.number()]).workers(2));
    running.online(2);
    // Four puppets of two clusters, who share two names: the second of a name takes it over.
    let mut ready: Vec<_> = (0..4).map(|_| desk.hear()).collect();
    ready.sort();
    assert_eq!(ready, ["ready 0.1", "ready 0.1", "ready 1.1", "ready 1.1"]);
    running.stop();
}

/// `nest DESK`: a worker, and a master of two puppets.
fn nest(args: &[String]) -> Outcome {
    let worker = worker()?;
    let inner = role("puppet", &[&args[0]]).workers(2).spawn()?;
    wait_for_stop(&worker)?;
    inner.shutdown();
    inner.wait()?;
    Ok(())
}

fn variables_and_arguments_reach_the_workers() {
    let desk = Desk::new();
    let builder = role("say_variables", &[&desk.number(), "with space", "", "ü"]);
    let running = Running::start(builder.env("IT_TEST", "a=b c").workers(1));
    assert_eq!(desk.hear(), "with space||ü|a=b c");
    running.stop();
    assert_eq!(std::env::var_os("IT_TEST"), None);
}

/// `say_variables DESK ARGS...`.
fn say_variables(args: &[String]) -> Outcome {
    let worker = worker()?;
    let said = format!("{}|{}", args[1..].join("|"), std::env::var("IT_TEST")?);
    Phone::new(&args[0], &worker.id().to_string())?.say(&said)?;
    wait_for_stop(&worker)
}
