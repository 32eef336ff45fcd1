//! What the tests of channels by name share.
#![allow(dead_code, reason = "each of them uses a part")]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ipc_core::{Address, Listener};

use super::{role_command, this_binary};

pub(crate) const NOBODY: u32 = 65534;

/// A directory of one test, which only this user can change.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ipc-core-listener-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("our own");
        Self(path)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("a.sock")
    }

    pub(crate) fn address(&self) -> Address {
        Address::path(self.socket()).expect("short enough")
    }

    pub(crate) fn files(&self) -> Vec<String> {
        let files = fs::read_dir(&self.0).expect("it exists");
        files.map(|file| file.expect("a file").file_name().into_string().expect("text")).collect()
    }

    pub(crate) fn set_mode(&self, mode: u32) {
        fs::set_permissions(&self.0, fs::Permissions::from_mode(mode)).expect("our own");
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a process that was killed leaves behind.
pub(crate) fn leave_stale(path: &Path) {
    drop(UnixListener::bind(path).expect("a free path"));
    assert!(path.exists());
}

pub(crate) fn refusal(address: &Address) -> std::io::Error {
    Listener::bind(address).expect_err("it must not listen there")
}

pub(crate) fn abstract_address(what: &str) -> Address {
    Address::abstract_name(format!("ipc-core-test-{what}-{}", std::process::id())).expect("short")
}

const PLACE: &str = "IPC_CORE_TEST_PLACE";

/// Runs a role of this binary in a process of its own, as another user if wanted, and waits until
/// it has said that it is ready, or something else.
pub(crate) fn in_process(role: &str, place: &Path, user: Option<u32>) -> (Child, String) {
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let mut command: Command = role_command(this_binary(), role);
    command.env(PLACE, place).stdin(Stdio::from(OwnedFd::from(theirs)));
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let child = command.spawn().expect("a process");
    drop(command);
    ours.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
    let mut said = vec![0; 4096];
    let length = ours.read(&mut said).expect("it says something");
    (child, String::from_utf8_lossy(&said[..length]).into_owned())
}

/// Where a role shall be active; `None` when the test runs like any other.
pub(crate) fn place() -> Option<Address> {
    let place = std::env::var(PLACE).ok()?;
    Some(place.parse().expect("an address"))
}

pub(crate) fn say(what: &str) {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().expect("a duplicate");
    UnixStream::from(stdin).write_all(what.as_bytes()).expect("somebody listens");
}
