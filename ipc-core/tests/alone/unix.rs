//! What only a process with a single thread can do: so this test binary has no harness, whose
//! threads would be in the way. Without arguments it is the tests, with one it is in a role.

#[path = "../util/mod.rs"]
mod util;

use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use ipc_core::{Bootstrap, Message};
use util::{inode, recv, soon, this_binary, wait};

const BOOTSTRAP: Bootstrap = Bootstrap::named("IPC_TEST").with_variables(&["IPC_TEST_BESIDE"]);

/// Says which of our variables are left, and what is open.
const SCRIPT: &str = "env | grep -c ^IPC_TEST; ls -l /proc/self/fd";

pub(crate) fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("alone") => role(0),
        Some("with_threads") => role(1),
        _ => {
            f96_what_a_child_starts_has_neither_the_variables_nor_the_channel();
            f59_what_a_command_does_for_one_process_it_does_not_do_for_the_next();
        }
    }
}

fn f96_what_a_child_starts_has_neither_the_variables_nor_the_channel() {
    // With other threads, it is not safe to take them out; then they say nothing.
    for bootstrap in [BOOTSTRAP, BOOTSTRAP.on_stdin()] {
        for (role, variables) in [("alone", "0"), ("with_threads", "3")] {
            let mut command = this_binary();
            command.arg(role).env("IPC_TEST_BESIDE", "for you").stdin(Stdio::null());
            let (mut channel, mut child) = bootstrap.spawn(&mut command).expect("a process");
            let said = String::from_utf8(recv(&mut channel).payload).expect("text");
            let (count, table) = said.split_once('\n').expect("several lines");
            assert_eq!(count, variables, "{role}");
            assert!(table.contains("/proc/") && !table.contains("socket:"), "{role}: {table}");
            assert!(wait(&mut child).success(), "{role}");
        }
    }
}

fn f59_what_a_command_does_for_one_process_it_does_not_do_for_the_next() {
    let mut command = Command::new("ls");
    command.args(["-l", "/proc/self/fd"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let (channel, child) = Bootstrap::new().spawn(&mut command).expect("a process");
    let output = child.wait_with_output().expect("our child").stdout;
    assert!(String::from_utf8(output).expect("text").contains("socket:"));
    drop(channel);
    // One of these has the number that the channel's end had.
    let sockets: Vec<_> = (0..40).map(|_| UnixStream::pair().expect("a pair").0).collect();
    let output = command.output().expect("a process").stdout;
    let output = String::from_utf8(output).expect("text");
    let passed = |socket| output.contains(&format!("socket:[{}]", inode(socket)));
    assert!(output.contains("/proc/") && !sockets.iter().any(passed), "{output}");
}

fn role(threads: usize) {
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let thread = (threads > 0).then(|| std::thread::spawn(move || wait.recv()));
    assert_eq!(std::env::var("IPC_TEST_BESIDE").as_deref(), Ok("for you"));
    assert!(BOOTSTRAP.is_pending());
    let mut channel = BOOTSTRAP.take().expect("markers").expect("a channel");
    assert!(BOOTSTRAP.take().expect("no error").is_none(), "a second time, whatever has stayed");
    assert!(!BOOTSTRAP.is_pending());
    assert!(Bootstrap::new().take().expect("no error").is_none(), "another name");
    let output = Command::new("sh").args(["-c", SCRIPT]).stdin(Stdio::inherit()).output();
    channel.send_deadline(Message::new(0, output.expect("sh").stdout), soon()).expect("read");
    drop(go_on);
    let ended = thread.map(|thread| thread.join().expect("no panic"));
    assert_eq!(ended.is_some(), threads > 0);
}
