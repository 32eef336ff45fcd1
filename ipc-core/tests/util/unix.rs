//! What the test binaries share on Unix.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ipc_core::frame::Header;
use ipc_core::{Channel, Message, RecvError};

use super::{TIMEOUT, soon};

/// Calls something that may block for ever.
pub(crate) fn in_thread<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(call()));
    receiver
}

/// What the call in another thread gave.
#[track_caller]
pub(crate) fn in_time<T>(result: &mpsc::Receiver<T>) -> T {
    result.recv_timeout(TIMEOUT).expect("it comes to an end")
}

/// A channel, and the other end for a test that speaks the protocol itself, or breaks it.
pub(crate) fn raw_peer() -> (Channel, UnixStream) {
    let (ours, theirs) = Channel::pair().expect("a socket pair");
    (ours, theirs.into_fd().into())
}

/// The same, where each write is a packet. The type is `UnixStream` only as the owner.
pub(crate) fn raw_packet_peer() -> (Channel, UnixStream) {
    let (ours, theirs) = Channel::packet_pair().expect("a socket pair");
    (ours, theirs.into_fd().into())
}

/// The bytes of a frame, whether or not they are right.
pub(crate) fn frame(kind: u8, handles: u8, payload: &[u8]) -> Vec<u8> {
    let body_bytes = u32::try_from(payload.len() + usize::from(handles)).expect("short");
    [&Header { kind, handles, body_bytes }.encode(), payload, &vec![0; handles.into()]].concat()
}

/// A handle that can be told from all others by its [`inode`].
pub(crate) fn handle() -> OwnedFd {
    UnixStream::pair().expect("a socket pair").0.into()
}

pub(crate) fn handles(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| handle()).collect()
}

/// Identifies what a handle refers to, across processes.
pub(crate) fn inode(handle: &impl AsFd) -> u64 {
    let file = File::from(handle.as_fd().try_clone_to_owned().expect("a duplicate"));
    file.metadata().expect("metadata of a socket").ino()
}

pub(crate) fn inodes(message: &Message) -> Vec<u64> {
    message.handles.iter().map(inode).collect()
}

#[track_caller]
pub(crate) fn recv(channel: &mut Channel) -> Message {
    channel.recv_deadline(soon()).expect("a message")
}

#[track_caller]
pub(crate) fn expect_closed(channel: &mut Channel) {
    match channel.recv_deadline(soon()) {
        Err(RecvError::Closed) => {}
        other => panic!("expected the end of the stream, got {other:?}"),
    }
}

/// Open descriptors of this process.
pub(crate) fn descriptor_count() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").count()
}

/// Waits for a child; kills it if it does not end by itself.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let deadline = soon().expect("there is one");
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("our child") {
            return status;
        }
        std::thread::yield_now();
    }
    child.kill().expect("our child");
    panic!("the child did not end");
}

const ROLE: &str = "IPC_CORE_TEST_ROLE";

/// A command that runs one test of this test binary by itself, so that it finds itself in a role.
pub(crate) fn role_command(mut command: Command, role: &str) -> Command {
    command.args([role, "--exact"]).env(ROLE, role).stdout(Stdio::null());
    command
}

pub(crate) fn this_binary() -> Command {
    Command::new(std::env::current_exe().expect("this binary"))
}

/// Starts a role with the other end of a channel as its standard input.
pub(crate) fn spawn(command: Command, role: &str) -> (Channel, Child) {
    let (ours, theirs) = Channel::pair().expect("a pair");
    let mut command = role_command(command, role);
    let child = command.stdin(Stdio::from(theirs.into_fd())).spawn().expect("a process");
    (ours, child)
}

/// Whether this process is one in a role.
pub(crate) fn is_role() -> bool {
    std::env::var_os(ROLE).is_some()
}

/// In a role, the channel; `None` when the test runs like any other.
pub(crate) fn role_channel() -> Option<Channel> {
    is_role().then_some(())?;
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().expect("a duplicate");
    Some(Channel::from_fd(stdin).expect("the other end of a pair"))
}

/// The command, in a process that may have so many descriptors open.
pub(crate) fn limited(command: Command, descriptors: u32) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program());
    shell
}
