//! How a process is started: files, arguments, environment, descriptors, users, limits.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::prctl::get_dumpable;
use nix::sys::signal::{SigSet, Signal as SystemSignal, killpg};
use nix::unistd::{Uid, getpgrp};
use runtime::Exit;
use runtime::process::{Command, Resource, Signal, Stdio, Step};

use crate::harness::tests;
use crate::harness::tools::Directory;

tests! {
    a_name_is_looked_for_in_the_path_of_the_child_then_in_ours,
    what_is_not_executable_is_passed_over,
    a_relative_program_is_looked_for_from_the_directory_of_the_child,
    variables_are_added_replaced_and_taken_out,
    descriptors_change_places,
    a_user_comes_with_its_groups,
    a_child_that_is_another_user_leaves_its_parent_as_it_was,
    f60_signals_meanwhile_do_not_run_handlers_in_a_child,
    a_command_starts_alike_again_and_again,
    a_large_parent_with_many_threads_starts_children_with_every_option,
}

const NOBODY: u32 = 65534;

/// What it writes to its standard output, once it has exited with 0.
#[track_caller]
fn output(command: &mut Command) -> String {
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{error}"));
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0), "{text}");
    text
}

/// A script that prints this.
fn script(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\necho {text}\n")).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn a_name_is_looked_for_in_the_path_of_the_child_then_in_ours() {
    let directory = Directory::new();
    for name in ["first/tool", "second/tool", "second/other"] {
        script(&directory.join(name), name, 0o755);
    }
    let path = std::env::join_paths([directory.join("first"), directory.join("second")]).unwrap();
    assert_eq!(output(Command::new("tool").env("PATH", &path)), "first/tool\n");
    assert_eq!(output(Command::new("other").env("PATH", &path)), "second/other\n");
    // Without one of its own, or in no environment at all, it is found by ours.
    assert_eq!(output(Command::new("true").env_remove("PATH")), "");
    assert_eq!(output(Command::new("true").env_clear()), "");
    let error = Command::new("true").env("PATH", &path).spawn().unwrap_err();
    assert_eq!(error.step(), &Step::Execute("true".into()));
    assert!(error.to_string().contains("it is in no directory of PATH"), "{error}");
}

fn what_is_not_executable_is_passed_over() {
    let directory = Directory::new();
    script(&directory.join("first/tool"), "first", 0o644);
    script(&directory.join("second/tool"), "second", 0o755);
    let path = |names: &[&str]| {
        std::env::join_paths(names.iter().map(|name| directory.join(name))).unwrap()
    };
    let found = path(&["no/such", "first", "first/tool", "second"]);
    assert_eq!(output(Command::new("tool").env("PATH", found)), "second\n");
    // That it is there, but can't be executed, is the better answer than that it is not there.
    let error = Command::new("tool").env("PATH", path(&["first", "no/such"])).spawn().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(error.step(), &Step::Execute(directory.join("first/tool")));
}

fn a_relative_program_is_looked_for_from_the_directory_of_the_child() {
    let directory = Directory::new();
    script(&directory.join("bin/tool"), "here", 0o755);
    for file in ["bin/tool", "./bin/tool", "tool"] {
        let mut command = Command::new(file);
        command.env("PATH", "bin:/bin").current_dir(directory.join(""));
        assert_eq!(output(&mut command), "here\n");
    }
}

fn variables_are_added_replaced_and_taken_out() {
    let sorted = |text: String| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let ours = || std::env::vars().map(|(key, value)| format!("{key}={value}"));
    let mut expected: Vec<_> = ours().filter(|line| !line.starts_with("HOME=")).collect();
    expected.retain(|line| !line.starts_with("PATH="));
    expected.extend(["NEW=a=b".into(), "PATH=/bin:/usr/bin".into()]);
    expected.sort();
    let mut command = Command::new("/usr/bin/env");
    command.env("NEW", "a=b").env("PATH", "/bin:/usr/bin").env_remove("HOME").env_remove("none");
    assert_eq!(sorted(output(&mut command)), expected);
    let mut all: Vec<_> = ours().collect();
    all.sort();
    assert_eq!(sorted(output(&mut Command::new("/usr/bin/env"))), all);
    assert_eq!(output(Command::new("/usr/bin/env").env("A", "1").env_clear().env("B", "")), "B=\n");
    assert_eq!(output(Command::new("/usr/bin/env").env_clear()), "");
}

/// A file that holds this text, at its beginning.
fn file(text: &str) -> File {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let mut file = File::from(nix::sys::memfd::memfd_create("text", flags).unwrap());
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

fn descriptors_change_places() {
    let (a, b, c) = (file("a"), file("b"), file("c"));
    let numbers = [&a, &b, &c].map(|file| u32::try_from(file.as_raw_fd()).unwrap());
    let shared = [&a, &b, &c].map(|file| file.try_clone().unwrap());
    let mut command = Command::new("/bin/sh");
    let reads = numbers.map(|number| format!("cat <&{number}")).join("; ");
    command.args(["-c", &reads]);
    // Each gets the number of the next, and the number of each is in the way of another.
    command.descriptor(numbers[1], a).descriptor(numbers[2], b).descriptor(numbers[0], c);
    for _ in 0..3 {
        assert_eq!(output(&mut command), "cab");
        shared.iter().for_each(|mut file| file.rewind().unwrap());
    }
    // Standard streams, too: our standard error is the child's output, and what is its input.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "cat; echo d >&2"]).stdin(file("x")).stdout(Stdio::output());
    command.stderr(Stdio::null()).descriptor(7, Stdio::inherit_from(2));
    assert_eq!(output(&mut command), "x");
}

fn a_user_comes_with_its_groups() {
    if !Uid::effective().is_root() {
        return println!("skipped: this takes root");
    }
    let entry = nix::unistd::User::from_name("nobody").unwrap().expect("every system has it");
    let ids = |command: &mut Command| output(command.args(["-c", "id -u; id -g"]));
    let expected = format!("{}\n{}\n", entry.uid, entry.gid);
    assert_eq!(ids(Command::new("/bin/sh").user("nobody")), expected);
    // What is set beside counts.
    let expected = format!("{}\n12\n", entry.uid);
    assert_eq!(ids(Command::new("/bin/sh").user("nobody").gid(12)), expected);
    let error = Command::new("/bin/sh").user("no such user").spawn().unwrap_err();
    assert_eq!(error.step(), &Step::Check);
    assert!(error.to_string().contains("user: this system knows no user"), "{error}");
}

fn a_child_that_is_another_user_leaves_its_parent_as_it_was() {
    if !Uid::effective().is_root() {
        return println!("skipped: this takes root");
    }
    assert!(get_dumpable().unwrap());
    let starts = || {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "id -u; id -g; id -G"]).uid(NOBODY).gid(NOBODY);
        for _ in 0..20 {
            assert_eq!(output(&mut command), format!("{NOBODY}\n{NOBODY}\n{NOBODY}\n"));
            // It fails once it is another user.
            let error = Command::new("/no/such").uid(NOBODY).gid(NOBODY).spawn().unwrap_err();
            assert_eq!(error.step(), &Step::Execute("/no/such".into()));
        }
    };
    thread::scope(|scope| [(); 4].map(|()| scope.spawn(starts)).map(|t| t.join().unwrap()));
    assert!(get_dumpable().unwrap(), "a child has taken that from its parent");
    assert!(Uid::current().is_root() && Uid::effective().is_root());
}

fn f60_signals_meanwhile_do_not_run_handlers_in_a_child() {
    const STARTS: usize = 300;
    // The handler writes a byte. It does not run here, where the signal stays blocked; but it would
    // in a child, which lets signals in and has this pipe, until it is another program.
    let usr1 = SystemSignal::SIGUSR1;
    SigSet::from(usr1).thread_block().unwrap();
    let (mut heard, said) = UnixStream::pair().unwrap();
    let id = signal_hook::low_level::pipe::register(usr1 as i32, said).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let sender = thread::spawn({
        let is_over = is_over.clone();
        move || {
            while !is_over.load(Ordering::SeqCst) {
                killpg(getpgrp(), usr1).unwrap();
            }
        }
    });
    let mut killed = 0;
    for _ in 0..STARTS {
        match Command::new("/bin/true").spawn().unwrap().wait().unwrap() {
            Exit::Code(0) => {}
            Exit::Signal { signal, .. } if signal == usr1 as i32 => killed += 1,
            exit => panic!("{exit}"),
        }
    }
    is_over.store(true, Ordering::SeqCst);
    sender.join().unwrap();
    assert!(signal_hook::low_level::unregister(id));
    // That closes the other end.
    let mut rest = Vec::new();
    heard.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [], "a handler has run in a child");
    assert!(killed > 0, "no signal has hit a child");
}

fn a_command_starts_alike_again_and_again() {
    let text = file("text");
    let mut again = text.try_clone().unwrap();
    let mut command = Command::new("/bin/sh");
    command.arg0("name").args(["-c", "echo $0 $1 $A; cat <&5", "zero", "one"]).env("A", "b c");
    command.descriptor(5, text).process_group(0).kill_signal(Signal::KILL);
    for _ in 0..3 {
        assert_eq!(output(&mut command), "zero one b c\ntext");
        again.rewind().unwrap();
    }
}

fn a_large_parent_with_many_threads_starts_children_with_every_option() {
    let large = vec![1_u8; 256 << 20];
    let (uid, gid) = (Uid::current().as_raw(), nix::unistd::getgid().as_raw());
    let directory = Directory::new();
    let start = |name: usize| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo $NAME $(ulimit -n) $(ulimit -c); pwd; cat <&9; id -u; id -g"]);
        command.env("NAME", name.to_string()).current_dir(directory.join("")).uid(uid).gid(gid);
        command.rlimit(Resource::OpenFiles, 50, 60).rlimit(Resource::CoreFile, 0, 0);
        command.descriptor(9, file(&format!("{name}\n"))).process_group(0).cpu_affinity([0]);
        let home = directory.join("").canonicalize().unwrap();
        let expected = format!("{name} 50 0\n{}\n{name}\n{uid}\n{gid}\n", home.display());
        assert_eq!(output(&mut command), expected);
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| scope.spawn(move || (0..25).for_each(|n| start(thread * 100 + n))))
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    drop(large);
}
