//! The examples, run as a user runs them.

use std::fs;
use std::process::{Command, Output};

use crate::harness::tools::Directory;
use crate::harness::{roles, tests};
use crate::support::bury_all;

tests! {
    ls_shows_each_line_and_counts_them,
    a_pipeline_leads_from_program_to_program,
    a_pipeline_of_which_a_part_fails_fails,
    exec_shows_what_became_of_a_line,
    a_pool_answers_all_although_a_worker_is_killed,
}
roles! {}

/// An example; `None` if it is not built, as when these tests are built alone.
fn example(name: &str) -> Option<Command> {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().and_then(|deps| deps.parent()).unwrap().join("examples").join(name);
    if path.exists() {
        return Some(Command::new(path));
    }
    println!("skipped: {} is not built; `cargo test` builds it", path.display());
    None
}

/// What it writes to standard output and error, and its exit code.
fn run(command: &mut Command) -> (String, String, Option<i32>) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap(), status.code())
}

fn ls_shows_each_line_and_counts_them() {
    let Some(mut ls) = example("ls") else { return };
    let directory = Directory::new();
    fs::write(directory.join("first"), "").unwrap();
    fs::write(directory.join("second"), "").unwrap();
    let (stdout, stderr, code) = run(ls.arg(directory.join("")));
    let lines: Vec<_> = stdout.lines().collect();
    assert!(lines.len() == 3 && lines[1].ends_with(" first") && lines[2].ends_with(" second"));
    assert_eq!((stderr.as_str(), code), ("3 lines; ls -lh exited with code 0\n", Some(0)));

    let (stdout, stderr, code) = run(example("ls").unwrap().arg(directory.join("third")));
    assert_eq!((stdout.as_str(), code), ("", Some(1)));
    assert!(stderr.starts_with("ls: can't start \"ls\": can't enter "), "{stderr}");
}

fn a_pipeline_leads_from_program_to_program() {
    let Some(mut pipeline) = example("pipeline") else { return };
    let directory = Directory::new();
    let file = directory.join("file");
    fs::write(&file, "a needle\nhay\nneedles\n").unwrap();
    pipeline.arg("cat").arg(file).args(["|", "grep", "needle", "|", "wc", "-l"]);
    let (stdout, stderr, code) = run(&mut pipeline);
    assert_eq!((stdout.trim(), code), ("2", Some(0)));
    let each = ["cat", "grep", "wc"].map(|name| format!("{name}: exited with code 0\n"));
    assert_eq!(stderr, each.concat());
}

fn a_pipeline_of_which_a_part_fails_fails() {
    let Some(mut pipeline) = example("pipeline") else { return };
    // Who has a reader no more learns it.
    let (stdout, stderr, code) = run(pipeline.args(["yes", "|", "head", "-n1"]));
    assert_eq!((stdout.as_str(), code), ("y\n", Some(1)));
    assert_eq!(stderr, "yes: killed by signal 13\nhead: exited with code 0\n");

    let (_, stderr, code) = run(example("pipeline").unwrap().args(["yes", "|", "no-such-program"]));
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("pipeline: can't start \"no-such-program\": "), "{stderr}");
}

fn exec_shows_what_became_of_a_line() {
    let Some(_) = example("exec") else { return };
    let shown = |args: &[&str]| run(example("exec").unwrap().args(args));
    let (stdout, stderr, code) = shown(&["echo \"$1\"; echo oops >&2; exit 3", "a; b"]);
    assert_eq!(
        (&stdout[..], &stderr[..], code),
        ("a; b\n", "oops\n[exited with code 3]\n", Some(3))
    );
    let (_, stderr, code) = shown(&["--timeout", "0.02", "sleep 1000"]);
    assert_eq!((&stderr[..], code), ("[its time was over: killed by signal 15]\n", Some(143)));
    let (stdout, stderr, code) = shown(&["--max", "3", "yes"]);
    let cut = "[standard output is cut off here: killed by signal 15]\n";
    assert_eq!((&stdout[..], &stderr[..], code), ("y\ny", cut, Some(143)));
    let (_, stderr, code) = shown(&["--max", "3x"]);
    assert!(stderr.starts_with("exec: \"3x\" is no number for this option\nusage: "), "{stderr}");
    assert_eq!(code, Some(2));
    bury_all();
}

fn a_pool_answers_all_although_a_worker_is_killed() {
    let Some(mut pool) = example("pool") else { return };
    let (stdout, stderr, code) = run(&mut pool);
    assert_eq!((stderr.as_str(), code), ("", Some(0)), "{stdout}");
    let count = |text: &str| stdout.lines().filter(|line| line.contains(text)).count();
    for client in 1..=24 {
        assert_eq!(count(&format!("client {client}: ")), 1, "{stdout}");
    }
    assert!(stdout.contains("client 10: 2262 primes below 20000, says process "), "{stdout}");
    assert_eq!(count("is killed in the middle of a job"), 1, "{stdout}");
    assert_eq!(count("killed by signal 9: again"), 1, "{stdout}");
    assert_eq!(count("exited with code 0"), 3, "{stdout}");
}
