//! What the operating system does for a channel, and for shared memory. The only file with a `cfg`
//! for a platform.
//!
//! Each platform provides a `Socket`: a connected, two-way, ordered stream of bytes that carries
//! handles beside them. Its calls borrow it, because the two halves of a channel share it.
//!
//! * `pair() -> io::Result<(Socket, Socket)>`, `packet_pair()` likewise;
//! * `register`, `reregister` and `deregister`, as of a mio source;
//! * `is_of_packets()`: whether each write arrives as one read, apart from all others; then
//!   `packet_bytes_max()` is the most that one takes;
//! * `check_handles(count) -> io::Result<()>`: an error that says why it can't carry so many;
//! * `send(slices, handles, wait) -> io::Result<Sent>`, `send_bytes(bytes, wait)` for what has one
//!   slice and no handles, and `recv(room, handles, wait) -> io::Result<Received>`. With
//!   `Wait::Never` they do not block, whatever the mode of the descriptor; with `Wait::MayBlock`
//!   they may, or may return early;
//! * `wait_readable`, `wait_writable`, `wait_either` and `pause`, which block for at most the given
//!   time, may return early, and leave the clock to their caller;
//! * `has_left()`: whether the system has taken all that was sent, which can be later than `Sent`
//!   says where the system needs our memory for it;
//! * `shutdown()`, after which both sides find the stream closed;
//! * `ReceivedHandle`, what a read delivers, and `into_handle` for it.
//!
//! What only one platform has, such as a channel's descriptor, stands in its module.
//!
//! A `Mapping` is memory that other processes map too, together with the handle to it; its size
//! never changes while it is mapped, whoever has the handle.
//!
//! * `create(bytes, is_for_readers) -> io::Result<Mapping>`: zeros, all of them allocated, which
//!   others can map for writing, or only for reading;
//! * `create_frozen(bytes, fill)`: what `fill` has written, and nobody can write any more;
//! * `open(handle, bytes_max, access)`, which believes nothing of a handle that came from a peer;
//! * `try_clone() -> io::Result<Mapping>`, which is mapped once more; `into_handle`,
//!   `try_clone_handle`; `as_ptr() -> *mut u8` to a page's boundary, and `len()`.
//!
//! `futex` sleeps on a word of such memory, with `IS_SHARED` telling whether it can:
//! `wait(word, expected, timeout) -> io::Result<bool>` sleeps while the word is as expected, may
//! return early, and says whether that was before the time; `wake(word)` wakes who sleeps.
//!
//! A `Bell` is one of two ends, in two processes; it is a mio event source. None of its calls but
//! `wait` blocks, whatever the peer does.
//!
//! * `pair() -> io::Result<(Bell, Bell)>`, `from_handle(Handle)`, `into_handle()`;
//! * `ring()`, after which the other end is readable; `silence() -> io::Result<bool>` takes that
//!   back, and answers whether the other end is gone, which makes this one readable too;
//! * `wait(timeout)` until it is readable; `hang_up()` is what the end of the process does as well.
//!
//! And the way of one end into a child process, by variables that begin with a name:
//!
//! * `spawn(name, &mut Command) -> io::Result<(Socket, Child)>` starts the process, gives it an end
//!   that no other process can get at, keeps nothing of that end, and leaves the command as it was.
//!   Where a child connects by itself, it is checked to be this one. If it fails, nothing is left.
//!   `spawn_on_stdin` likewise, but it must not fork; where nothing does, it is the same;
//! * `prepare(name, number) -> io::Result<Prepared>` makes both ends for who starts the process in
//!   a way of their own; `PreparedEnd::into_channel` is part of the interface, and differs: Windows
//!   needs the process's handle;
//! * `take(name, variables) -> io::Result<Option<Socket>>`, in the child, gives its end, once, and
//!   takes those variables and its own out of the environment if that is safe; `is_pending(name)`.
//!
//! And for channels by name:
//!
//! * `Listening`, a mio source: `bind(&Name, &ListenerOptions)`, `accept() -> Accepted`, which does
//!   not block, and `wait(timeout)`, which may return early;
//! * `connect(&Name) -> io::Result<Socket>`, which does not wait for the listener;
//! * `peer_identity(&Socket)`, `pause(time)`;
//! * `PATH_BYTES_MAX` and `NAMES_FROM_DIRECTORY`: how long a path may be, and what of it counts.
//!
//! On Unix, `os` holds the few things that Linux has and others lack.

#[cfg(unix)]
#[cfg_attr(target_os = "linux", path = "unix/memory.rs")]
#[cfg_attr(not(target_os = "linux"), path = "unix/no_memory.rs")]
mod memory;
#[cfg(unix)]
mod unix;

#[cfg(unix)]
pub(crate) use memory::{Mapping, futex};

#[cfg(unix)]
#[cfg_attr(any(target_os = "linux", target_os = "android"), path = "unix/linux.rs")]
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "unix/fallback.rs")]
mod os;

#[cfg(unix)]
pub(crate) use os::{NAMES_FROM_DIRECTORY, PATH_BYTES_MAX};
#[cfg(unix)]
pub(crate) use unix::bootstrap::{PreparedEnd, is_pending, prepare, spawn, spawn_on_stdin, take};
#[cfg(unix)]
pub(crate) use unix::named::{Listening, connect, pause, peer_identity};
#[cfg(unix)]
pub(crate) use unix::{Bell, ReceivedHandle, Socket, into_handle};

// What only Windows needs, and users of this crate don't.
#[cfg(not(windows))]
pub(crate) mod alarm {}
#[cfg(not(windows))]
pub(crate) mod overlapped {}

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::bootstrap::{
    PreparedEnd, is_pending, prepare, spawn, spawn_on_stdin, take,
};
#[cfg(windows)]
pub(crate) use windows::memory::{Mapping, futex};
#[cfg(windows)]
pub(crate) use windows::named::{Listening, connect, pause, peer_identity};
#[cfg(windows)]
pub(crate) use windows::{
    Bell, NAMES_FROM_DIRECTORY, PATH_BYTES_MAX, ReceivedHandle, Socket, into_handle,
};
#[cfg(windows)]
pub(crate) use windows::{alarm, overlapped};

/// What came of accepting.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub(crate) enum Accepted {
    Peer(Socket, crate::PeerIdentity),
    Nobody,
}

/// What mapped memory is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    /// Others may write.
    Read,
    /// Nobody may write.
    Frozen,
}

/// Whether a call may wait for the peer, for as long as that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It saves a system call; but what the call answers may still be that it must wait.
    MayBlock,
    Never,
}

/// What came of an attempt to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The system took that many bytes, at least one, and all the handles.
    Bytes(usize),
    /// The peer must read first: the socket will become writable then.
    Full,
    /// The user's descriptors in flight are at their limit, or the system is out of memory. No
    /// readiness event tells when that is over: only trying again a little later helps.
    Throttled,
}

/// What came of an attempt to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// The first so many bytes were filled, at least one.
    Bytes(usize),
    /// Nothing is there at the moment.
    Nothing,
    /// The peer has closed its end, or died, and everything it had sent has been read.
    Closed,
    /// The stream has lost its integrity: bytes or handles of it are gone.
    Broken(crate::ProtocolError),
}
