//! What the workers of one slot have of their own, as they see it themselves.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use runtime::{Cluster, Event, Resource, RestartPolicy, SlotOptions};

use crate::harness::{Outcome, ROLE, roles, tests};
use crate::support::roles::{wait_for_stop, worker};
use crate::support::{Desk, Directory, Phone, Program, Running, ask, proc_field, role};

tests! {
    slots_differ_and_those_that_are_added_too,
    weights_of_slots_are_kept,
    a_worker_can_be_another_user,
    what_runs_as_another_user_must_say_its_group,
    a_master_without_privilege_says_what_it_may_not,
    a_step_that_fails_is_named,
    what_cannot_work_is_refused_at_the_start_and_when_scaling,
    f60_a_worker_ignores_no_signal_that_its_master_does,
}

roles! {
    say_about_itself,
    start_as_nobody,
}

const NOBODY: u32 = 65534;

/// `say_about_itself DESK ARGS...`: what it was given, and what the system says of it.
fn say_about_itself(args: &[String]) -> Outcome {
    let status = fs::read_to_string("/proc/self/status")?;
    let limits = fs::read_to_string("/proc/self/limits")?;
    let directory = std::env::current_dir()?;
    let name = std::env::var("NAME").unwrap_or_default();
    let rest = args[1..].join(" ");
    let said = format!("name: {name}\nargs: {rest}\nin: {}\n{status}{limits}", directory.display());
    let worker = worker()?;
    Phone::new(&args[0], &worker.id().to_string())?.say(&said)?;
    wait_for_stop(&worker)
}

/// What it says about one thing, without the spaces around.
#[track_caller]
fn said(text: &str, key: &str) -> String {
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    let words = value.unwrap_or_else(|| panic!("nothing about {key}: {text}"));
    words.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
}

fn slots_differ_and_those_that_are_added_too() {
    let (desk, directory) = (Desk::new(), Directory::new());
    for slot in 0..3 {
        fs::create_dir(directory.join(slot.to_string())).unwrap();
    }
    let parent = directory.join("");
    let builder = role("say_about_itself", &[&desk.number(), "all"]).workers(2);
    let builder = builder.env("NAME", "any").slot_options(move |slot| {
        let options = SlotOptions::new()
            .args(["one".to_owned(), slot.to_string()])
            .cpu_affinity([slot % 2])
            .working_directory(parent.join(slot.to_string()))
            .rlimit(Resource::OpenFiles, 100 + slot as u64, 200)
            .rlimit(Resource::CoreFile, 0, Resource::UNLIMITED);
        if slot == 0 { options } else { options.env("NAME", format!("slot {slot}")) }
    });
    let running = Running::start(builder);
    let mut all = vec![desk.hear(), desk.hear()];
    running.cluster.scale(3).unwrap();
    all.push(desk.hear());
    all.sort_by_key(|text| said(text, "args"));
    for (slot, text) in all.iter().enumerate() {
        let name = if slot == 0 { "any".to_owned() } else { format!("slot {slot}") };
        assert_eq!(said(text, "name"), name);
        assert_eq!(said(text, "args"), format!("all one {slot}"));
        assert_eq!(said(text, "in"), directory.join(slot.to_string()).display().to_string());
        assert_eq!(said(text, "Cpus_allowed_list"), (slot % 2).to_string());
        assert_eq!(said(text, "Max open files"), format!("{} 200 files", 100 + slot));
        assert_eq!(said(text, "Max core file size"), "0 unlimited bytes");
    }
    running.stop();
}

fn weights_of_slots_are_kept() {
    let builder = role("serve", &["127.0.0.1:0"]).workers(2);
    let options = |slot| SlotOptions::new().weight([3, 1][slot]);
    let mut running = Running::start(builder.slot_options(options));
    let address = running.listening(2);
    let mut served = [(); 8].map(|()| ask(&address));
    served.sort();
    assert_eq!(served, ["0.1", "0.1", "0.1", "0.1", "0.1", "0.1", "1.1", "1.1"]);
    running.stop();
}

/// A desk that every user can call.
fn public_desk() -> Desk {
    let desk = Desk::new();
    for name in ["", "desk"] {
        let path = format!("{}{name}", desk.number());
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    desk
}

fn a_worker_can_be_another_user() {
    if !Uid::effective().is_root() {
        return println!("skipped: this takes root");
    }
    let desk = public_desk();
    let builder = role("say_about_itself", &[&desk.number()]).workers(3);
    let running = Running::start(builder.slot_options(|slot| {
        let nobody = SlotOptions::new().uid(NOBODY).gid(NOBODY).env("NAME", slot.to_string());
        match slot {
            0 => nobody.groups([7, 8]),
            1 => nobody,
            _ => SlotOptions::new().gid(12).env("NAME", "2"),
        }
    }));
    let mut all = [desk.hear(), desk.hear(), desk.hear()];
    all.sort_by_key(|text| said(text, "name"));
    let ids = |id: u32| [id; 4].map(|id| id.to_string()).join(" ");
    let own_groups = proc_field("self/status", "Groups").unwrap();
    for (text, uid, gid, groups) in [
        (&all[0], NOBODY, NOBODY, "7 8"),
        (&all[1], NOBODY, NOBODY, ""),
        (&all[2], 0, 12, own_groups.as_str()),
    ] {
        assert_eq!(said(text, "Uid"), ids(uid));
        assert_eq!(said(text, "Gid"), ids(gid));
        assert_eq!(said(text, "Groups"), groups);
    }
    running.stop();
}

fn what_runs_as_another_user_must_say_its_group() {
    if !Uid::effective().is_root() {
        return println!("skipped: this takes root");
    }
    let builder = Cluster::builder().workers(1).slot_options(|_| SlotOptions::new().uid(NOBODY));
    let error = builder.spawn().expect_err("half of root is too much").to_string();
    assert!(error.contains("slot 0: uid 65534 without gid"), "{error}");
}

fn a_master_without_privilege_says_what_it_may_not() {
    if !Uid::effective().is_root() {
        return println!("skipped: this takes root");
    }
    let mut program = Program::role("start_as_nobody", &[]);
    assert!(program.wait().success());
    program.silence();
    let remedy = "run the master as root, or leave it out";
    assert_eq!(
        program.seen,
        [
            format!("slot 0: uid 0: {remedy}"),
            format!("slot 0: gid 7: {remedy}"),
            format!("slot 0: groups 7: {remedy}"),
            "its own are fine".to_owned(),
        ]
    );
}

/// `start_as_nobody`: prints how clusters fail to start that a user without privilege can't have.
fn start_as_nobody(_: &[String]) -> Outcome {
    setgroups(&[])?;
    setgid(Gid::from_raw(NOBODY))?;
    setuid(Uid::from_raw(NOBODY))?;
    let new = SlotOptions::new;
    for options in [new().uid(0), new().gid(7), new().groups([7])] {
        let builder = Cluster::builder().workers(1).slot_options(move |_| options.clone());
        println!("{}", builder.spawn().expect_err("it may not"));
    }
    let builder = Cluster::builder().workers(1).program("true");
    let cluster = builder.slot_options(move |_| new().uid(NOBODY).gid(NOBODY)).spawn()?;
    cluster.events().iter().find(|event| matches!(event, Event::Exited { .. })).ok_or("none")?;
    println!("its own are fine");
    Ok(())
}

fn a_step_that_fails_is_named() {
    let root = Uid::effective().is_root();
    let directory = Directory::new();
    let private = directory.join("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, Permissions::from_mode(0o700)).unwrap();
    let mut cases = vec![
        (SlotOptions::new().cpu_affinity([1023]), "can't set its processors to [1023]: Invalid"),
        (
            SlotOptions::new().rlimit(Resource::OpenFiles, 5, Resource::UNLIMITED),
            "can't limit its open files to 5 (soft) and 18446744073709551615 (hard): Operation",
        ),
    ];
    if root {
        let nobody = SlotOptions::new().uid(NOBODY).gid(NOBODY);
        cases.push((nobody.working_directory(&private), "/private: Permission denied"));
        let minus_one = SlotOptions::new().uid(u32::MAX).gid(NOBODY);
        cases.push((minus_one, "can't set its user to 4294967295: Invalid argument"));
    }
    for (options, text) in cases {
        let restart = RestartPolicy {
            delay_min: Duration::ZERO,
            start_failures_max: 2,
            ..RestartPolicy::default()
        };
        let builder = role("serve", &["127.0.0.1:0"]).workers(1).restart(restart);
        let running = Running::start(builder.slot_options(move |_| options.clone()));
        let (result, log) = running.end();
        assert!(result.unwrap_err().is_all_slots_failed());
        let errors = log.iter().filter_map(|event| match event {
            Event::SpawnFailed { error, .. } => Some(error.as_str()),
            _ => None,
        });
        let errors: Vec<_> = errors.collect();
        assert!(errors.len() == 2 && errors[0].contains(text), "{errors:?}");
    }
}

fn what_cannot_work_is_refused_at_the_start_and_when_scaling() {
    let refused = |slot: usize| {
        let options = SlotOptions::new();
        if slot == 2 { options.rlimit(Resource::OpenFiles, 2, 1) } else { options }
    };
    let builder = || role("serve", &["127.0.0.1:0"]).slot_options(refused);
    let text = "slot 2: rlimit: open files: 2 is above the hard limit 1";
    assert_eq!(builder().workers(3).spawn().expect_err(text).to_string(), text);
    let mut running = Running::start(builder().workers(2));
    running.listening(2);
    assert_eq!(running.cluster.scale(3).expect_err(text).to_string(), text);
    running.cluster.scale(1).unwrap();
    running.exits(1, 1);
    running.stop();
}

fn f60_a_worker_ignores_no_signal_that_its_master_does() {
    let mut command = Command::new("env");
    command.arg("--ignore-signal=TERM,INT,HUP,CHLD,USR1").arg(std::env::current_exe().unwrap());
    command.args([ROLE, "master", "1", "1000", "1000", "serve", "127.0.0.1:0"]);
    let mut master = Program::start(command);
    master.listening(1);
    let ignored = |pid| {
        let mask = proc_field(&format!("{pid}/status"), "SigIgn").unwrap();
        // Without 32 and 33, which are the C library's.
        u64::from_str_radix(&mask, 16).unwrap() & !(0b11 << 31)
    };
    // Rust programs ignore SIGPIPE from the start.
    let sigpipe = 1 << 12;
    assert_eq!(ignored(master.worker("0.1")), sigpipe);
    assert_ne!(ignored(master.pid()), sigpipe, "this test has lost its purpose");
    master.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(master.wait().success());
    master.silence();
}
