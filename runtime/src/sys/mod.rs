//! The operating system: the only place with `cfg` and with `unsafe`.
//!
//! A backend gives: the errno values that the machine answers with, `path_from_bytes`; `Process` (a
//! child whose end is readable, that can be signalled without pid reuse, and reaped once);
//! `mailbox_pair`, `waiting_bytes`; `Timer` (a delay as a descriptor); `inherited_descriptor`;
//! `launch` (a new process), `Pipe` and its makers;
//! `raise_descriptor_limit`; `OomKills`; `is_shortage`, `accept_failure` (what errors mean).
//!
//! For dispatch: `ExclusiveEntry`, `ExclusiveWait` (a shared socket, handed out in turn);
//! `Steering` (sockets that share an address, chosen by the kernel), `claim_tcp` and its like (such
//! sockets); `Board`, `CellWriter` (counters in shared memory).

#[cfg(target_os = "linux")]
mod board;
#[cfg(unix)]
#[cfg_attr(target_os = "linux", path = "launch/clone.rs")]
#[cfg_attr(not(target_os = "linux"), path = "launch/fork.rs")]
mod clone;
#[cfg(target_os = "linux")]
mod exclusive;
#[cfg(unix)]
#[cfg_attr(target_vendor = "apple", path = "groups_apple.rs")]
mod groups;
#[cfg(target_os = "linux")]
mod inherited;
#[cfg(all(unix, not(target_os = "linux")))]
mod kqueue;
#[cfg(unix)]
mod launch;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod mapping;
#[cfg(target_os = "linux")]
mod oom;
#[cfg(unix)]
mod pipe;
#[cfg(target_os = "linux")]
mod reuseport;
#[cfg(unix)]
mod sigpipe;
#[cfg(target_os = "linux")]
mod steer;
#[cfg(unix)]
mod terminal;
#[cfg(target_os = "linux")]
mod timer;
#[cfg(target_os = "linux")]
mod tree;
#[cfg(unix)]
mod user;

#[cfg(not(target_os = "linux"))]
mod no_orphans;

#[cfg(windows)]
mod windows;
/// Pure, so that it is tested everywhere.
#[cfg(all(test, not(windows)))]
#[allow(dead_code)] // a limit that only the system has
#[path = "windows/text.rs"]
mod windows_text;

#[cfg(unix)]
pub(crate) use self::{
    clone::{CPUS_MAX, SIGNAL_MAX},
    launch::{DEFAULT_PATH, NOT_EXECUTABLE, is_open, is_path, launch},
    pipe::{Pipe, duplex, null, pipe_from_child, pipe_to_child},
    terminal::is_in_foreground,
    user::user,
};

#[cfg(target_os = "linux")]
pub(crate) use self::{
    board::{Board, Cell, CellWriter},
    exclusive::{ExclusiveEntry, ExclusiveWait},
    inherited::inherited_descriptor,
    linux::{
        AcceptFailure, EADDRINUSE, EDQUOT, EMFILE, ENOTCONN, Process, SIGKILL, SIGTERM,
        accept_failure, is_root, is_shortage, mailbox_pair, path_from_bytes, peek,
        raise_descriptor_limit, waiting_bytes,
    },
    oom::OomKills,
    reuseport::{claim_tcp, claim_udp, join_tcp, join_udp},
    steer::{SteerMeans, SteerPolicy, Steering},
    timer::{Timer, coarse_now},
    tree::{become_subreaper, kill_tree, orphans, own_session, own_start},
    user::user_and_group,
};

#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) use self::kqueue::{Process, Timer, kill_tree};
#[cfg(not(target_os = "linux"))]
pub(crate) use self::no_orphans::{become_subreaper, orphans, own_session, own_start};
#[cfg(windows)]
pub(crate) use self::windows::{
    CPUS_MAX, DEFAULT_PATH, NOT_EXECUTABLE, Pipe, Process, SIGNAL_MAX, Timer, duplex,
    is_in_foreground, is_open, is_path, kill_tree, launch, null, pipe_from_child, pipe_to_child,
    user,
};

/// This program, on Linux also when its file was replaced or removed.
#[cfg(target_os = "linux")]
pub(crate) fn this_program() -> std::path::PathBuf {
    "/proc/self/exe".into()
}

/// This program, on Linux also when its file was replaced or removed.
#[cfg(not(target_os = "linux"))]
pub(crate) fn this_program() -> std::path::PathBuf {
    // Where that is not known, what it was called by is the best guess.
    std::env::current_exe()
        .unwrap_or_else(|_| std::env::args_os().next().unwrap_or_default().into())
}

/// The channel to a process that was started with the other end of it.
#[cfg(unix)]
pub(crate) fn connect(
    ours: ipc_core::PreparedEnd,
    _process: &Process,
) -> std::io::Result<ipc_core::Channel> {
    Ok(ours.into_channel())
}

/// The channel to a process that was started with the other end of it.
#[cfg(windows)]
pub(crate) fn connect(
    ours: ipc_core::PreparedEnd,
    process: &Process,
) -> std::io::Result<ipc_core::Channel> {
    ours.into_channel(std::os::windows::io::AsHandle::as_handle(process))
}

/// The shell of this system.
#[cfg(not(windows))]
pub(crate) fn shell() -> std::path::PathBuf {
    "/bin/sh".into()
}

/// The shell of this system.
#[cfg(windows)]
pub(crate) fn shell() -> std::path::PathBuf {
    std::env::var_os("ComSpec").map_or_else(|| "cmd.exe".into(), std::path::PathBuf::from)
}
