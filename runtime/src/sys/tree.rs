//! The processes that a child has started: found in `/proc`, held by pidfds, signalled.
#![allow(unsafe_code)] // prctl(2)

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::getsid;

use super::linux::{Process, is_shortage, pidfd_open, pidfd_signal};
use crate::process::descendants::{Lineage, MARKS_VARIABLE};
use crate::process::tree::{Hunt, Number, Root, Row, State};

/// How many tables are read before a tree is said to grow faster than it can be stopped. Each finds
/// all that there is, so a tree of any shape takes a handful.
const TABLES_MAX: usize = 400;

/// How many of them wait for those that don't stop: what sleeps in the kernel, does not.
const WAITS_MAX: usize = 100;
const WAIT: Duration = Duration::from_millis(1);

/// Becomes the parent of descendants whose parents end.
pub(crate) fn become_subreaper() -> io::Result<()> {
    // SAFETY: this option takes a number, and touches no memory of ours.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })?;
    Ok(())
}

/// The session of this process.
pub(crate) fn own_session() -> u32 {
    getsid(None).map_or(0, |session| session.as_raw().unsigned_abs())
}

/// Sends a signal to a child and all that it has started, as far as that can be told; says to how
/// many processes. Those that may become children of this process, marked ones, are given away.
pub(crate) fn kill_tree(
    process: &Process,
    lineage: &Lineage,
    signal: i32,
    adopt: impl FnMut(Process),
) -> io::Result<usize> {
    if is_over(process, lineage) {
        return Ok(0);
    }
    // Two that stop and continue the same processes would undo each other's doing.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut pack = Pack::default();
    let mut reached = BTreeSet::new();
    if let Some(directory) = &lineage.cgroup
        && signal == libc::SIGKILL
    {
        reached = cgroup_members(directory)?;
        pack.note(kill_cgroup(directory));
    }
    if signal == libc::SIGKILL {
        // All of a group at once: who forks in this moment is in it too.
        let group = libc::PIDFD_SIGNAL_PROCESS_GROUP;
        let _ = pidfd_signal(process.as_fd(), libc::SIGSTOP, group);
    }
    let hunted = pack.hunt(process, lineage);
    if hunted.is_err() {
        // Where there are no descriptors, those who need none to be known get it nevertheless.
        let group = if lineage.leads { libc::PIDFD_SIGNAL_PROCESS_GROUP } else { 0 };
        let sent = pidfd_signal(process.as_fd(), signal, group);
        let _ = sent.or_else(|_| pidfd_signal(process.as_fd(), signal, 0));
    }
    pack.note(hunted);
    if let Some(mark) = lineage.mark() {
        // Before they end: then they have no environment.
        let others = pack.held.keys().copied().filter(|pid| *pid != process.pid());
        let marked: Vec<u32> = others.filter(|pid| has_mark(*pid, mark)).collect();
        pack.signal(signal, &mut reached);
        let held = marked.into_iter().filter_map(|pid| Some((pid, pack.held.remove(&pid)?)));
        held.map(|(pid, pidfd)| Process::new(pid, pidfd)).for_each(adopt);
    } else {
        pack.signal(signal, &mut reached);
    }
    match pack.failure {
        Some(error) => Err(error),
        None => Ok(reached.len()),
    }
}

/// Whether nobody of the tree can be left, as after most lines of a shell that were killed. To look
/// for them takes several looks at all processes of the system.
fn is_over(process: &Process, lineage: &Lineage) -> bool {
    let is_gone = |flags| pidfd_signal(process.as_fd(), 0, flags) == Err(Errno::ESRCH);
    let is_marked = lineage.cgroup.is_some() || lineage.mark().is_some();
    // Linux before 6.9 does not know the flag, which is another error.
    !is_marked && !lineage.leads_session && is_gone(0) && is_gone(libc::PIDFD_SIGNAL_PROCESS_GROUP)
}

/// Who is hunted, and held.
#[derive(Default)]
struct Pack {
    hunt: Hunt,
    held: BTreeMap<u32, OwnedFd>,
    /// The first; the rest is done nevertheless.
    failure: Option<io::Error>,
}

impl Pack {
    fn note(&mut self, result: io::Result<()>) {
        self.failure = self.failure.take().or(result.err());
    }

    fn hunt(&mut self, process: &Process, lineage: &Lineage) -> io::Result<()> {
        let mut waits = 0;
        for _ in 0..TABLES_MAX {
            let table = table(lineage)?;
            // Asked after the table was read: then it holds for all of it.
            let root = Root {
                pid: process.pid(),
                leads: lineage.leads,
                born_in: lineage.born_in,
                own_pid: std::process::id(),
                number: number(process),
            };
            let orders = self.hunt.look(&table, &root);
            for pid in orders.close {
                self.held.remove(&pid);
            }
            if orders.is_over {
                return Ok(());
            }
            if orders.stop.is_empty() && orders.open.is_empty() {
                waits += 1;
                if waits > WAITS_MAX {
                    return Ok(());
                }
                thread::park_timeout(WAIT);
            }
            for pid in orders.stop {
                self.stop(pid);
            }
            for pid in orders.open {
                self.open(pid)?;
            }
        }
        let remedy = "it grows faster than it can be stopped; start it in a control group";
        Err(io::Error::other(format!("the tree of process {}: {remedy}", process.pid())))
    }

    fn open(&mut self, pid: u32) -> io::Result<()> {
        match pidfd_open(pid) {
            Ok(pidfd) => {
                self.held.insert(pid, pidfd);
            }
            Err(error) => match error.raw_os_error() {
                // The latter from older systems, for a thread that was a process when it was seen.
                Some(libc::ESRCH | libc::EINVAL | libc::ENOENT) => self.hunt.lost(pid),
                _ => return Err(error),
            },
        }
        Ok(())
    }

    fn stop(&mut self, pid: u32) {
        match self.send(pid, libc::SIGSTOP) {
            Ok(()) => {}
            Err(Errno::ESRCH) => {
                self.held.remove(&pid);
                self.hunt.lost(pid);
            }
            Err(error) => self.note(Err(denied(pid, error))),
        }
    }

    fn send(&self, pid: u32, signal: i32) -> Result<(), Errno> {
        let pidfd = self.held.get(&pid).ok_or(Errno::ESRCH)?;
        pidfd_signal(pidfd.as_fd(), signal, 0)
    }

    /// Signals all that were found, and lets them go; adds whom it has reached.
    fn signal(&mut self, signal: i32, reached: &mut BTreeSet<u32>) {
        let found: Vec<(u32, bool)> = self.hunt.found().collect();
        // To continue takes back a stop that waits to be noticed.
        let stops = matches!(signal, libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU);
        for (pid, was_stopped) in found {
            let goes_on = !was_stopped && signal != libc::SIGKILL;
            if goes_on && stops {
                let _ = self.send(pid, libc::SIGCONT);
            }
            match self.send(pid, signal) {
                Ok(()) => drop(reached.insert(pid)),
                Err(Errno::ESRCH) => {}
                Err(error) => self.note(Err(denied(pid, error))),
            }
            if goes_on && !stops {
                let _ = self.send(pid, libc::SIGCONT);
            }
        }
    }
}

fn denied(pid: u32, error: Errno) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("can't signal process {pid} of the tree: {error}"))
}

/// Who has the number of this child.
fn number(process: &Process) -> Number {
    let is_there = |flags| pidfd_signal(process.as_fd(), 0, flags) != Err(Errno::ESRCH);
    if is_there(0) {
        return Number::Process;
    }
    match pidfd_signal(process.as_fd(), 0, libc::PIDFD_SIGNAL_PROCESS_GROUP) {
        Ok(()) | Err(Errno::EPERM) => Number::Group,
        // There is none, or Linux is older than 6.9.
        Err(_) => Number::FreeSince(process.collected_at()),
    }
}

/// All processes. Who ends meanwhile may be missing.
fn table(lineage: &Lineage) -> io::Result<Vec<Row>> {
    let own_pid = std::process::id();
    let in_cgroup = lineage.cgroup.as_deref().map_or(Ok(BTreeSet::new()), cgroup_members)?;
    let mark = lineage.mark();
    let mut table = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let Some(mut row) = row(pid)? else { continue };
        // Orphans become children of this process, if they do.
        let may_be_orphan = row.parent == own_pid && row.state != State::Ended;
        row.is_marked = in_cgroup.contains(&pid)
            || mark.is_some_and(|mark| may_be_orphan && has_mark(pid, mark));
        table.push(row);
    }
    Ok(table)
}

/// `None` of one that is gone, or may not be looked at.
fn row(pid: u32) -> io::Result<Option<Row>> {
    // Twice as long as the longest name and numbers make it; one read gives it whole.
    let mut text = [0; 1024];
    match File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut text)) {
        Ok(count) => Ok(row_of(pid, &text[..count])),
        // Else those who are there would be missing.
        Err(error) if is_shortage(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

fn row_of(pid: u32, text: &[u8]) -> Option<Row> {
    // The name is in parentheses, and may hold anything, also parentheses.
    let text = String::from_utf8_lossy(text);
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let fields: [&str; 20] = std::array::from_fn(|_| fields.next().unwrap_or_default());
    // The numbers of proc_pid_stat(5), where the state has number 3.
    let number = |at: usize| fields[at - 3].parse::<u64>().ok();
    let id = |at: usize| u32::try_from(number(at)?).ok();
    let threads = number(20)?;
    let state = match fields[0] {
        // With more threads only the first has ended.
        "Z" | "X" if threads <= 1 => State::Ended,
        "T" | "t" => State::Stopped,
        _ => State::Runs,
    };
    let (parent, group, session, start) = (id(4)?, id(5)?, id(6)?, number(22)?);
    Some(Row { pid, parent, group, session, start, state, is_marked: false })
}

fn has_mark(pid: u32, mark: &str) -> bool {
    marks(pid).iter().any(|theirs| theirs == mark)
}

/// The marks in the environment that the process was started with, or inherited.
fn marks(pid: u32) -> Vec<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables
        .find_map(|variable| variable.strip_prefix(MARKS_VARIABLE.as_bytes())?.strip_prefix(b"="));
    let value = String::from_utf8_lossy(value.unwrap_or_default());
    value.split(' ').map(str::to_owned).collect()
}

/// When this process began, in ticks.
pub(crate) fn own_start() -> u64 {
    row(std::process::id()).ok().flatten().map_or(0, |row| row.start)
}

/// Those children of this process one of whose marks says that it is an orphan, from others.
pub(crate) fn orphans(is_orphan: impl Fn(u32, &str) -> bool) -> Vec<Process> {
    let own_pid = std::process::id();
    let check = |pid| {
        let is_child = row(pid).is_ok_and(|row| row.is_some_and(|row| row.parent == own_pid));
        is_child && marks(pid).iter().any(|mark| is_orphan(pid, mark))
    };
    let mut pids = Vec::new();
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    let opened = pids.into_iter().filter(|pid| check(*pid));
    let opened = opened.filter_map(|pid| Some(Process::new(pid, pidfd_open(pid).ok()?)));
    // What was opened had the number while it is asked again, if it has it afterwards.
    opened.filter(|p| check(p.pid()) && matches!(p.signal(0), Ok(true))).collect()
}

/// The processes of a control group, and of those in it. One that was removed has none.
fn cgroup_members(directory: &Path) -> io::Result<BTreeSet<u32>> {
    let mut members = BTreeSet::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let text = match fs::read_to_string(directory.join("cgroup.procs")) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            // It is in the way of being removed.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => continue,
            text => text?,
        };
        members.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let inner = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        directories.extend(inner.map(|entry| entry.path()));
    }
    Ok(members)
}

/// At once, by the kernel. Linux before 5.14 has no such file: then the hunt does it.
fn kill_cgroup(directory: &Path) -> io::Result<()> {
    match fs::write(directory.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_row_says_who_the_parent_is() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let [own, theirs] = [std::process::id(), child.id()].map(|pid| row(pid).unwrap().unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(theirs.parent, own.pid);
        assert_eq!((theirs.group, theirs.session), (own.group, own.session));
        assert_eq!(own.session, own_session());
        assert!(theirs.start >= own.start);
        assert_eq!(row(0).unwrap(), None);
    }
}
