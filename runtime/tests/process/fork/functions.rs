//! Functions of this program, run in processes of their own.

use std::error::Error;
use std::ffi::OsString;

use runtime::process::{Function, Parent, Stdio};

use super::{hear_all, names, soon, std_role};
use crate::harness::{Outcome, roles, tests};

tests! {
    a_function_gets_its_parent_and_arguments_and_gives_an_exit_code,
    a_function_that_fails_says_why_and_one_that_panics_does_too,
    a_function_that_is_not_there_is_a_clear_error,
    f96_a_variable_that_was_set_by_hand_runs_no_function,
    a_function_without_a_channel_is_refused,
}
roles! {
    fork_say_normal,
}

pub(crate) const FUNCTIONS: &[Function] = &[DOUBLE, FAIL];

pub(super) const DOUBLE: Function = Function::new("double", double);
const FAIL: Function = Function::new("fail", fail);
const NOBODY: Function = Function::new("nobody", fail);

type Code = Result<u8, Box<dyn Error + Send + Sync>>;

/// Doubles one number; its exit code is its argument.
fn double(mut parent: Parent, args: Vec<OsString>) -> Code {
    let message = parent.recv_deadline(soon())?;
    let number: u32 = String::from_utf8(message.bytes)?.parse()?;
    parent.send(format!("{}", 2 * number))?;
    Ok(args[0].to_str().ok_or("no text")?.parse()?)
}

fn fail(_parent: Parent, args: Vec<OsString>) -> Code {
    if args.is_empty() {
        return Err("for a reason".into());
    }
    panic!("for no reason")
}

fn a_function_gets_its_parent_and_arguments_and_gives_an_exit_code() {
    let mut command = DOUBLE.command();
    command.arg("7");
    for _ in 0..2 {
        let mut child = command.fork().unwrap();
        child.send("21").unwrap();
        let heard = names(&hear_all(&mut child));
        assert_eq!(heard, ["spawned", "42", "disconnected", "exited 7", "closed 7"]);
    }
    let mut child = command.descriptor(9, Stdio::ipc()).spawn().unwrap();
    child.send("1").unwrap();
    assert_eq!(child.recv_deadline(soon()).unwrap().bytes, b"2");
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

/// The exit code of a forked function, and what it writes to standard error.
#[track_caller]
fn outcome(function: Function, args: &[&str]) -> (Option<i32>, String) {
    let mut command = function.command();
    let mut child = command.args(args.iter().copied()).stderr(Stdio::pipe()).fork().unwrap();
    let text = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    (child.wait().unwrap().code(), text)
}

fn a_function_that_fails_says_why_and_one_that_panics_does_too() {
    let (code, text) = outcome(FAIL, &[]);
    assert_eq!(code, Some(1));
    assert!(text.starts_with("fail, process ") && text.ends_with(": for a reason\n"), "{text}");
    let (code, text) = outcome(FAIL, &["by panic"]);
    assert_eq!(code, Some(101), "{text}");
    assert!(text.contains("for no reason"), "{text}");
}

fn a_function_that_is_not_there_is_a_clear_error() {
    let (code, text) = outcome(NOBODY, &[]);
    assert_eq!(code, Some(2));
    let expected = "PROCESS_FUNCTION=nobody: this program has no such function, only these: \
                    double, fail";
    assert!(text.starts_with(expected), "{text}");
}

fn fork_say_normal(_args: &[String]) -> Outcome {
    println!("normal");
    Ok(())
}

fn f96_a_variable_that_was_set_by_hand_runs_no_function() {
    let run = |variables: &[(&str, &str)]| {
        let variables = variables.iter().copied();
        let output = std_role("fork_say_normal", &[]).envs(variables).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    };
    for name in ["double", "nobody", ""] {
        let (code, text) = run(&[("PROCESS_FUNCTION", name)]);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("only a process that was started for it"), "{text}");
    }
    let double = ("PROCESS_FUNCTION", "double");
    let is_windows = cfg!(windows);
    let variable = if is_windows { "PROCESS_CHANNEL_PARENT" } else { "PROCESS_CHANNEL_FD" };
    let (code, text) = run(&[double, (variable, "x")]);
    assert_eq!(code, Some(2));
    assert!(text.contains(variable) && text.contains("set, but not by a parent"), "{text}");
    // As a process has them that was started by a function in a way that passes variables on.
    let stale = [double, (variable, "77"), ("PROCESS_CHANNEL_INODE", "1")];
    assert_eq!(run(&stale), (Some(0), "normal\n".into()));
}

fn a_function_without_a_channel_is_refused() {
    let text = "a function of this program needs a channel: start it by fork";
    let error = DOUBLE.command().spawn().unwrap_err();
    assert!(error.to_string().contains(text), "{error}");
    let error = DOUBLE.command().spawn_sync().unwrap_err();
    assert!(error.to_string().contains(text), "{error}");
}
