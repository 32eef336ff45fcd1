//! What the tests share, beside `harness::tools`; above all small programs for children to be.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use mio::{Events, Interest, Poll, Token};
use runtime::process::{Child, Command, Event};

use crate::harness::tools::DEADLINE;
use crate::harness::{Outcome, ROLE, roles};

roles! {
    exit,
    cat,
}

/// This binary in a role.
pub(crate) fn role(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(this_binary());
    command.args([ROLE, name]).args(args.iter().copied());
    command
}

/// This binary, even if it was deleted since.
#[cfg(target_os = "linux")]
pub(crate) fn this_binary() -> PathBuf {
    "/proc/self/exe".into()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn this_binary() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// A child that a loop attends to, and what it has told.
pub(crate) struct Attended {
    pub(crate) child: Child,
    pub(crate) seen: Vec<String>,
    poll: Poll,
}

impl Attended {
    pub(crate) fn new(mut child: Child) -> Attended {
        let poll = Poll::new().unwrap();
        poll.registry().register(&mut child, Token(0), Interest::READABLE).unwrap();
        Attended { child, seen: Vec::new(), poll }
    }

    /// Waits until it has told this, in the words of `Debug`.
    #[track_caller]
    pub(crate) fn until(&mut self, event: &str) {
        let deadline = Instant::now() + DEADLINE;
        let mut ready = Events::with_capacity(8);
        while !self.tells(event) {
            let left = deadline.saturating_duration_since(Instant::now());
            self.poll.poll(&mut ready, Some(left)).unwrap();
            // To find it later, without having been woken, does not count.
            assert!(!ready.is_empty(), "waited in vain for {event}: {:?}", self.seen);
        }
    }

    /// Whether it has told this by now; it is not waited for.
    pub(crate) fn tells(&mut self, event: &str) -> bool {
        self.seen.extend(events(&mut self.child));
        self.seen.iter().any(|seen| seen == event)
    }
}

/// What it tells at once, but for its pid.
pub(crate) fn events(child: &mut Child) -> Vec<String> {
    let pid = child.pid();
    let events = std::iter::from_fn(|| child.next_event().unwrap());
    let named = events.map(|event| match event {
        Event::Spawned { pid: told } if told == pid => "Spawned".into(),
        event => format!("{event:?}"),
    });
    named.collect()
}

/// Exits with the code that it is given.
#[allow(clippy::disallowed_methods, reason = "a role that ends by error has code 1")]
pub(crate) fn exit(args: &[String]) -> Outcome {
    std::process::exit(args[0].parse()?)
}

/// Writes what it reads, to the end.
fn cat(_args: &[String]) -> Outcome {
    let mut bytes = vec![0; 1 << 16];
    loop {
        let count = io::stdin().read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        io::stdout().write_all(&bytes[..count])?;
        io::stdout().flush()?;
    }
}

/// Collects those that have come to us when their parents ended, and waits for all of them.
#[track_caller]
#[cfg(target_os = "linux")]
pub(crate) fn bury_all() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::Pid;

    use crate::harness::children;
    use crate::harness::tools::wait_until;

    let any = Pid::from_raw(-1);
    wait_until("all have ended", || {
        while waitpid(any, Some(WaitPidFlag::WNOHANG)).is_ok_and(|s| s != WaitStatus::StillAlive) {}
        children().is_empty()
    });
}

/// Bytes that do not repeat where pipes and buffers do.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()[2]).collect()
}
