//! What users of Node's `child_process` expect, where it is nobody else's test; see `PARITY.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::unistd::geteuid;
use runtime::process::{Command, Output, exec_sync, spawn_sync};

use crate::harness::tools::Directory;
use crate::harness::{roles, tests};

tests! {
    a_program_is_told_another_name,
    a_relative_program_is_looked_for_in_its_directory,
    a_program_is_looked_for_in_its_own_path,
    a_child_can_be_another_user,
    a_child_can_open_its_pipes_again,
    a_line_is_for_the_shell_and_a_list_is_not,
}
roles! {}

fn text(output: &Output) -> &str {
    output.stdout_str().unwrap()
}

fn a_program_is_told_another_name() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo $0"]);
    assert_eq!(text(&command.exec_sync().unwrap()), "sh\n");
    assert_eq!(text(&command.arg0("another name").exec_sync().unwrap()), "another name\n");
}

/// A program that says what it is told. It is never open to be written here, for then others that
/// are started meanwhile would have it open too, and it could not be executed.
fn write_program(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    assert!(spawn_sync("cp", [Path::new("/bin/echo"), path]).unwrap().is_success());
}

fn a_relative_program_is_looked_for_in_its_directory() {
    let directory = Directory::new();
    write_program(&directory.join("bin/program"));
    let mut command = Command::new("bin/program");
    command.arg("here").current_dir(directory.join(""));
    assert_eq!(text(&command.exec_sync().unwrap()), "here\n");
}

fn a_program_is_looked_for_in_its_own_path() {
    let directory = Directory::new();
    write_program(&directory.join("bin/a-program-of-this-test"));
    let mut command = Command::new("a-program-of-this-test");
    command.arg("found");
    let error = command.exec_sync().unwrap_err().to_string();
    assert!(error.contains("it is in no directory of PATH"), "{error}");
    assert_eq!(text(&command.env("PATH", directory.join("bin")).exec_sync().unwrap()), "found\n");
}

fn a_child_can_be_another_user() {
    if !geteuid().is_root() {
        return println!("only root can become another user: skipped");
    }
    let ids = |command: &mut Command| {
        let output = command.args(["-c", "id -u; id -g; id -G"]).exec_sync().unwrap();
        let mut lines = text(&output).lines().map(str::to_owned);
        let mut next = || lines.next().unwrap();
        let (uid, gid) = (next(), next());
        (uid, gid, next().split(' ').map(str::to_owned).collect::<BTreeSet<_>>())
    };
    let own = |text: &str| text.to_owned();
    let (uid, gid, groups) = ids(Command::new("sh").uid(61_001).gid(61_002));
    assert_eq!((uid, gid, groups), (own("61001"), own("61002"), [own("61002")].into()));
    let (_, _, groups) = ids(Command::new("sh").uid(61_001).gid(61_002).groups([61_003, 61_004]));
    assert_eq!(groups, ["61002", "61003", "61004"].map(own).into());
    // By name: that user's number and groups.
    let (uid, gid, groups) = ids(Command::new("sh").user("nobody"));
    let of_nobody = |flag| own(text(&spawn_sync("id", [flag, "nobody"]).unwrap()).trim());
    assert_eq!((uid, gid), (of_nobody("-u"), of_nobody("-g")));
    assert_eq!(groups, of_nobody("-G").split(' ').map(own).collect());
}

/// In Node they are sockets, which can't be opened.
fn a_child_can_open_its_pipes_again() {
    let mut command = Command::shell("cat /dev/stdin > /dev/stdout; echo two > /dev/stderr");
    let output = command.input("one").exec_sync().unwrap();
    assert_eq!((text(&output), output.stderr_str().unwrap()), ("one", "two\n"));
}

fn a_line_is_for_the_shell_and_a_list_is_not() {
    assert_eq!(text(&exec_sync("echo one | tr o 0; echo $((1 + 1))").unwrap()), "0ne\n2\n");
    let error = Command::new("echo one").spawn().unwrap_err().to_string();
    assert!(error.ends_with("apart, or the whole line to Command::shell"), "{error}");
    let words = ["one | tr o 0", "$((1 + 1))", "*", "; false"];
    let output = spawn_sync("printf", ["%s,"].iter().chain(&words)).unwrap();
    assert_eq!(text(&output), words.map(|word| format!("{word},")).concat());
}
