//! Real processes, by what all ways of starting one share.

use std::io;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::exit::Exit;
use crate::process::start::Extra;
use crate::process::{Command, Step, Stream};

/// Its exit and its standard output.
fn run(command: &mut Command) -> (Exit, String) {
    let mut started = command.start(Extra::default()).unwrap();
    started.streams.remove(&0);
    let mut text = String::new();
    let Some(Stream::Reader(mut stdout)) = started.streams.remove(&1) else { panic!("no pipe") };
    stdout.read_to_string(&mut text).unwrap();
    // It can be readable only when it has ended.
    let mut end = [PollFd::new(started.process.as_fd(), PollFlags::POLLIN)];
    poll(&mut end, PollTimeout::NONE).unwrap();
    (started.process.reap().unwrap().expect("it has ended"), text)
}

#[test]
fn a_program_has_its_arguments_and_environment_and_its_output_comes() {
    let mut command = Command::new("sh");
    command.arg0("name").args(["-c", "echo $0 $A $1; exit 7", "zero", "é"]).env("A", "b c");
    assert_eq!(run(&mut command), (Exit::Code(7), "zero b c é\n".into()));
    // Once more.
    assert_eq!(run(&mut command), (Exit::Code(7), "zero b c é\n".into()));
}

#[test]
fn f08_what_fails_is_named() {
    let step = |command: &mut Command| {
        let error = command.start(Extra::default()).unwrap_err();
        (error.step().clone(), error.kind())
    };
    let directory = PathBuf::from("/no/such");
    assert_eq!(
        step(Command::new("true").current_dir("/no/such")),
        (Step::Directory(directory.clone()), io::ErrorKind::NotFound)
    );
    assert_eq!(
        step(&mut Command::new("/no/such")),
        (Step::Execute(directory), io::ErrorKind::NotFound)
    );
    assert_eq!(
        step(&mut Command::new("no-such-program")),
        (Step::Execute("no-such-program".into()), io::ErrorKind::NotFound)
    );
    assert_eq!(
        step(&mut Command::new("/dev/null")),
        (Step::Execute("/dev/null".into()), io::ErrorKind::PermissionDenied)
    );
}

#[test]
fn a_child_that_is_another_user_leaves_this_process_dumpable() {
    use nix::sys::prctl::get_dumpable;
    if !crate::sys::is_root() {
        return; // Only root can become another.
    }
    assert!(get_dumpable().unwrap());
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "id -u; id -g; id -G"]).uid(65534).gid(65533);
    assert_eq!(run(&mut command), (Exit::Code(0), "65534\n65533\n65533\n".into()));
    assert!(get_dumpable().unwrap());
}

#[test]
fn a_line_for_a_shell_has_arguments() {
    let mut command = Command::new("echo $0 $1 $#");
    command.shell = Some("/bin/sh".into());
    assert_eq!(run(&mut command), (Exit::Code(0), "/bin/sh 0\n".into()));
    command.args(["a b", "c"]).arg0("name");
    assert_eq!(run(&mut command), (Exit::Code(0), "name a b 2\n".into()));
}
