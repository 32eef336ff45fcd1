//! Commands that can't be carried out: each error says why, and nothing is left.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource as SystemResource, getrlimit, setrlimit};
use nix::unistd::geteuid;
use runtime::Exit;
use runtime::process::{Command, Resource, Signal, SpawnError, Stdio, Step};

use crate::harness::tools::Directory;
use crate::harness::{Outcome, children, descriptors, roles, tests};
use crate::support::role;

tests! {
    zero_bytes_are_refused_by_name,
    f08_programs_that_cannot_be_executed,
    directories_that_cannot_be_entered,
    users_groups_and_limits_that_cannot_be_had,
    descriptors_that_cannot_be_given,
    many_and_long_arguments,
    no_descriptor_left,
    f07_no_process_left,
    what_only_root_may_do,
    numbers_that_are_no_signals,
}
roles! {
    without_processes,
    without_privileges,
}

/// Why it can't be started; by then nothing of it is left.
#[track_caller]
fn refused(command: &mut Command) -> SpawnError {
    let before = descriptors();
    let error = command.spawn().expect_err("it can't be started");
    assert_eq!(descriptors(), before, "{error}");
    assert_eq!(children(), [], "{error}");
    error
}

#[track_caller]
fn assert_refused(command: &mut Command, step: &Step, kind: ErrorKind, says: &[&str]) {
    let error = refused(command);
    let text = error.to_string();
    assert_eq!((error.step(), error.kind()), (step, kind), "{text}");
    let program = format!("can't start {:?}: ", command.program());
    assert!(text.starts_with(&program), "{text:?} does not name the program");
    for part in says {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

fn echo() -> Command {
    Command::new("echo")
}

fn zero_bytes_are_refused_by_name() {
    let zero = || OsString::from_vec(b"a\0b".to_vec());
    let check = |option: &str, command: &mut Command| {
        assert_refused(command, &Step::Check, ErrorKind::InvalidInput, &[option]);
    };
    check("file", &mut Command::new(""));
    check("file", &mut Command::new(zero()));
    check("args", echo().arg("a").arg(zero()));
    check("arg0", echo().arg0(zero()));
    check("env", echo().env(zero(), "value"));
    check("env", echo().env("KEY", zero()));
    check("env", echo().env("KEY=", "value"));
    check("env", echo().env_remove(zero()));
    check("current_dir", echo().current_dir(zero()));
    check("cgroup", echo().cgroup(zero()));
    check("user", echo().user("a\0b"));
    let shell = refused(&mut Command::shell(zero()));
    assert_eq!((shell.step(), shell.kind()), (&Step::Check, ErrorKind::InvalidInput));
}

/// A file of the test's own.
fn file(directory: &Directory, name: &str, content: &[u8], mode: u32) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

fn f08_programs_that_cannot_be_executed() {
    let directory = Directory::new();
    let script = b"#!/bin/sh\necho\n";
    let cycle = directory.join("cycle");
    symlink(&cycle, &cycle).unwrap();
    let busy = directory.join("busy");
    fs::copy("/bin/true", &busy).unwrap();
    let writer = OpenOptions::new().append(true).open(&busy).unwrap();
    let inner = file(&directory, "plain", script, 0o644).join("inner");
    use ErrorKind::{ExecutableFileBusy, NotADirectory, NotFound, PermissionDenied};
    let cases = [
        (directory.join("missing"), NotFound, "check the path"),
        (
            file(&directory, "data", script, 0o644),
            PermissionDenied,
            "be a file that its user may execute",
        ),
        (directory.join(""), PermissionDenied, "be a file that its user may execute"),
        (inner, NotADirectory, ""),
        (file(&directory, "lost", b"#!/no/such\n", 0o755), NotFound, "the interpreter"),
        (busy.clone(), ExecutableFileBusy, "close the file"),
    ];
    for (path, kind, remedy) in cases {
        let step = Step::Execute(path.clone());
        let says = [path.to_str().unwrap(), remedy];
        assert_refused(&mut Command::new(&path), &step, kind, &says);
    }
    drop(writer);
    assert_eq!(Command::new(&busy).spawn().unwrap().wait().unwrap(), Exit::Code(0));
    // Those whose kind std does not name.
    let no_program = file(&directory, "text", b"echo\n", 0o755);
    for (path, errno, remedy) in
        [(no_program, libc::ENOEXEC, "a first line like #!/bin/sh"), (cycle, libc::ELOOP, "")]
    {
        let error = refused(&mut Command::new(&path));
        assert_eq!(error.step(), &Step::Execute(path));
        assert_eq!(error.io_error().raw_os_error(), Some(errno));
        assert!(error.to_string().contains(remedy), "{error}");
    }
    let name = Step::Execute("no-such-program".into());
    let says = ["no-such-program", "in no directory of PATH"];
    let mut command = Command::new("no-such-program");
    assert_refused(command.env("PATH", "/usr/bin:/bin"), &name, NotFound, &says);
    let mut command = Command::new("sh");
    command.env("PATH", directory.join(""));
    assert_refused(&mut command, &Step::Execute(directory.join("sh")), NotFound, &[]);
    // Of several, one that may not be executed tells more than one that is not there.
    let denied = file(&directory, "denied", script, 0o600);
    let path = format!("/no/such:{}:/no/such/either", directory.join("").display());
    let mut command = Command::new("denied");
    command.env("PATH", path);
    assert_refused(&mut command, &Step::Execute(denied), PermissionDenied, &[]);
}

fn directories_that_cannot_be_entered() {
    let directory = Directory::new();
    let missing = directory.join("missing");
    let plain = file(&directory, "plain", b"", 0o755);
    for (path, kind) in [(missing, ErrorKind::NotFound), (plain, ErrorKind::NotADirectory)] {
        let says = ["can't enter ", path.to_str().unwrap()];
        let step = Step::Directory(path.clone());
        assert_refused(echo().current_dir(&path), &step, kind, &says);
    }
    let cycle = directory.join("cycle");
    symlink(&cycle, &cycle).unwrap();
    let error = refused(echo().current_dir(&cycle));
    assert_eq!(error.io_error().raw_os_error(), Some(libc::ELOOP), "{error}");
    let long = "d".repeat(5000);
    let error = refused(echo().current_dir(&long));
    assert_eq!(error.io_error().raw_os_error(), Some(libc::ENAMETOOLONG), "{error}");
}

fn users_groups_and_limits_that_cannot_be_had() {
    let check = |command: &mut Command, says: &str| {
        assert_refused(command, &Step::Check, ErrorKind::InvalidInput, &[says]);
    };
    check(echo().user("no-such-user"), "this system knows no user \"no-such-user\"");
    check(echo().cpu_affinity([]), "cpu_affinity: no processor; name one");
    check(echo().cpu_affinity([1 << 20]), "cpu_affinity: no processor 1048576");
    check(echo().rlimit(Resource::OpenFiles, 2, 1), "open files: 2 is above the hard limit 1");
    check(echo().process_group(u32::MAX), "there is no group 4294967295");
    let cpus = Step::Processors(vec![1023]);
    let says = ["can't set its processors to [1023]", "this process may use"];
    assert_refused(echo().cpu_affinity([1023]), &cpus, ErrorKind::InvalidInput, &says);
    let says = ["no such group in this session"];
    let denied = ErrorKind::PermissionDenied;
    assert_refused(echo().process_group(1), &Step::ProcessGroup, denied, &says);
    for path in ["/no/such", "/etc"] {
        let says = [path, "a directory of a cgroup v2 file system"];
        let step = Step::ControlGroup(path.into());
        assert_refused(echo().cgroup(path), &step, ErrorKind::NotFound, &says);
    }
}

fn descriptors_that_cannot_be_given() {
    let check = |command: &mut Command, says: &str| {
        assert_refused(command, &Step::Check, ErrorKind::InvalidInput, &[says]);
    };
    check(echo().descriptor(1 << 20, Stdio::null()), "the highest number is 1048575");
    check(echo().descriptor(77, Stdio::inherit()), "it can't inherit 77, which is not open here");
    check(echo().stdin(Stdio::inherit_from(u32::MAX)), "which is not open here");
    let (soft, _) = getrlimit(SystemResource::RLIMIT_NOFILE).unwrap();
    let Ok(number) = u32::try_from(soft) else { return };
    if number < 1 << 20 {
        let error = refused(echo().descriptor(number, Stdio::null()));
        assert_eq!(error.step(), &Step::Descriptor(number));
        assert!(error.to_string().contains("below the limit of open files"), "{error}");
    }
}

fn many_and_long_arguments() {
    let too_long = |command: &mut Command| {
        let error = refused(command);
        assert!(matches!(error.step(), Step::Execute(_)), "{error}");
        assert_eq!(error.kind(), ErrorKind::ArgumentListTooLong, "{error}");
        assert!(error.to_string().contains("less arguments and environment"), "{error}");
    };
    let mut command = Command::new("true");
    command.args((0..100_000).map(|number| number.to_string()));
    assert_eq!(command.spawn().unwrap().wait().unwrap(), Exit::Code(0));
    too_long(Command::new("true").args(vec!["x".repeat(100); 1_000_000]));
    too_long(Command::new("true").arg("x".repeat(1 << 20)));
    too_long(Command::new("true").env("LONG", "x".repeat(1 << 20)));
    too_long(Command::new("true").arg0("x".repeat(1 << 20)));
}

fn no_descriptor_left() {
    let (_, hard) = getrlimit(SystemResource::RLIMIT_NOFILE).unwrap();
    let set = |limit: u64| setrlimit(SystemResource::RLIMIT_NOFILE, limit, hard).unwrap();
    let (mut started, mut refusals) = (0, Vec::new());
    for limit in (0..40).rev() {
        let before = descriptors();
        let mut command = Command::new("true");
        command.descriptor(3, Stdio::duplex()).stderr(Stdio::null());
        set(limit);
        let result = command.spawn().map(|mut child| {
            let exit = child.wait().expect("it needs no further descriptor");
            // Without descriptors of its own it can't load its libraries.
            assert!(exit == Exit::Code(0) || exit == Exit::Code(127), "{exit:?}");
        });
        set(hard.min(1024));
        assert_eq!(descriptors(), before);
        assert_eq!(children(), []);
        match result {
            Ok(()) => started += 1,
            Err(error) => refusals.push(error),
        }
    }
    assert!(started > 0);
    assert!(refusals.len() > 5, "{refusals:?}");
    for error in refusals {
        let is_named = matches!(
            error.step(),
            Step::Stdio(_) | Step::Create | Step::Descriptor(_) | Step::Check
        );
        assert!(is_named, "{error}");
        assert!(error.to_string().contains("open files"), "{error}");
    }
}

/// Fails if it can start a process, or is not told why not.
fn without_processes(_args: &[String]) -> Outcome {
    let error = refused(&mut echo());
    assert_eq!((error.step(), error.kind()), (&Step::Create, ErrorKind::WouldBlock), "{error}");
    assert!(error.to_string().contains("too many processes: of its user (RLIMIT_NPROC)"));
    Ok(())
}

/// A role that runs as somebody who has no other processes.
#[track_caller]
fn assert_role_succeeds(name: &str, prepare: impl FnOnce(&mut Command) -> &mut Command) {
    let uid = 62_000_000 + std::process::id();
    let mut command = role(name, &[]);
    prepare(command.uid(uid).gid(uid).stderr(Stdio::inherit()));
    assert_eq!(command.spawn().unwrap().wait().unwrap(), Exit::Code(0));
}

fn f07_no_process_left() {
    if !geteuid().is_root() {
        return println!("only root can be short of processes by a user of its own: skipped");
    }
    assert_role_succeeds("without_processes", |command| command.rlimit(Resource::Processes, 1, 1));
    // Who becomes a user that has too many is told when it executes its program.
    let uid = 63_000_000 + std::process::id();
    let mut command = Command::new("sleep");
    command.arg("100").uid(uid).gid(uid).rlimit(Resource::Processes, 0, 0).kill_on_drop(true);
    let _first = command.spawn().unwrap();
    let error = command.spawn().expect_err("it is one too many");
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    assert!(error.to_string().contains("too many processes"), "{error}");
}

fn without_privileges(_args: &[String]) -> Outcome {
    let denied = ErrorKind::PermissionDenied;
    let root = "run this process as root, or leave it out";
    assert_refused(echo().uid(0), &Step::Groups(vec![]), denied, &[root]);
    assert_refused(echo().gid(0), &Step::Group(0), denied, &[root]);
    assert_refused(echo().groups([0]), &Step::Groups(vec![0]), denied, &[root]);
    let (_, hard) = getrlimit(SystemResource::RLIMIT_NOFILE)?;
    let limit = Step::Limit(Resource::OpenFiles, 1, hard + 1);
    let says = ["only root can raise a hard limit"];
    assert_refused(echo().rlimit(Resource::OpenFiles, 1, hard + 1), &limit, denied, &says);
    let directory = Step::Directory("/proc/1/cwd".into());
    assert_refused(echo().current_dir("/proc/1/cwd"), &directory, denied, &["/proc/1/cwd"]);
    // To stay who one is, takes nothing.
    let ids = (geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let mut child = Command::new("true").uid(ids.0).gid(ids.1).spawn()?;
    assert_eq!(child.wait()?, Exit::Code(0));
    Ok(())
}

fn what_only_root_may_do() {
    if geteuid().is_root() {
        assert_role_succeeds("without_privileges", |command| command);
    } else {
        without_privileges(&[]).unwrap();
    }
}

fn numbers_that_are_no_signals() {
    for number in [0, -1, 65, i32::MAX, i32::MIN] {
        assert_eq!(Signal::from_number(number), None);
        assert!(number.to_string().parse::<Signal>().is_err());
    }
    for text in ["", "SIG", "SIGNONE", "TERM ", "15x"] {
        let error = text.parse::<Signal>().unwrap_err();
        assert!(error.to_string().contains("expected a name like SIGTERM"), "{error}");
    }
    let mut child =
        Command::new("true").stdin(File::open(Path::new("/dev/null")).unwrap()).spawn().unwrap();
    child.wait().unwrap();
    assert!(!child.kill(Signal::KILL).unwrap());
}
