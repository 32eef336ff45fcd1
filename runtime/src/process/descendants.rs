//! What children have started in their turn: how it is known, ended, and collected.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::launch::Group;
use super::signal::Signal;
use crate::exit::Exit;
use crate::sys::{self, Process};

/// The variable of the environment by which orphans are known: marks, of which each process that
/// becomes a subreaper adds one.
pub(crate) const MARKS_VARIABLE: &str = "PROCESS_TREE";

/// How often children are looked over for orphans. The system tells nobody of a new one.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

static IS_SUBREAPER: AtomicBool = AtomicBool::new(false);

/// Has this process get the orphans of its children, so that
/// [`Child::kill_tree`](super::Child::kill_tree) also finds those that have made themselves
/// daemons.
///
/// It holds for the whole process and can't be undone. Linux has the notion only:
///
/// * A process whose parent ends becomes a child of this process, instead of the system's first.
/// * Each child that is started from then on has a variable `PROCESS_TREE` in its environment, by
///   which what it starts is told from children of others. A process that clears its environment,
///   or may not be looked into (it runs as another user, and this one not as root), is not known.
/// * What is known is collected when it ends, by a thread that looks ten times a second as long as
///   there are children. Children that the program starts by other means are left alone; so an
///   orphan that begins and ends between two looks can't be told from them: it stays a zombie until
///   this program ends.
///
/// Where that is not enough, a control group holds on to everything:
/// [`Command::cgroup`](super::Command::cgroup).
///
/// # Errors
///
/// The system has no such thing.
///
/// # Examples
///
/// ```no_run
/// use runtime::process::{self, Command, Signal};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// process::become_subreaper()?;
/// let service = Command::new("my-service").arg("--daemonize").spawn()?;
/// // … later: the daemon too.
/// service.kill_tree(Signal::TERM)?;
/// # Ok(())
/// # }
/// ```
pub fn become_subreaper() -> io::Result<()> {
    sys::become_subreaper()?;
    IS_SUBREAPER.store(true, Ordering::Release);
    Ok(())
}

/// What a child's tree is known by, from its start on. To be kept until the child was collected.
#[derive(Debug)]
pub(crate) struct Lineage {
    /// The child was started as the first of a group, or of a session.
    pub(crate) leads: bool,
    /// Of a session, in which there can be other groups.
    pub(crate) leads_session: bool,
    /// The session that it was started from.
    pub(crate) born_in: u32,
    /// The control group that it was started in.
    pub(crate) cgroup: Option<PathBuf>,
    mark: Option<Mark>,
}

impl Lineage {
    /// Of a child that is about to be started.
    pub(crate) fn of(group: Group, cgroup: Option<&Path>) -> Lineage {
        Lineage {
            leads: matches!(group, Group::Own | Group::Session),
            leads_session: group == Group::Session,
            born_in: sys::own_session(),
            cgroup: cgroup.map(Path::to_owned),
            mark: IS_SUBREAPER.load(Ordering::Acquire).then(Mark::new),
        }
    }

    /// What the environment of the child gets, which otherwise has `inherited` there.
    pub(crate) fn variable(&self, inherited: Option<OsString>) -> Option<(OsString, OsString)> {
        let mark = self.mark.as_ref()?;
        let mut value = inherited.unwrap_or_default();
        if !value.is_empty() {
            value.push(" ");
        }
        value.push(&mark.text);
        Some((MARKS_VARIABLE.into(), value))
    }

    /// The child was started.
    pub(crate) fn set_pid(&self, pid: u32) {
        if let Some(mark) = &self.mark {
            let mut orphanage = Orphanage::lock();
            orphanage.children.insert(mark.number, Some(pid));
            orphanage.open();
        }
    }

    /// One of the marks of all that the child starts.
    pub(crate) fn mark(&self) -> Option<&str> {
        self.mark.as_ref().map(|mark| mark.text.as_str())
    }

    /// Signals the child and what it has started; says how many processes.
    pub(crate) fn kill(&self, process: &Process, signal: Signal) -> io::Result<usize> {
        let mut orphans = Vec::new();
        let result = sys::kill_tree(process, self, signal.number(), |orphan| orphans.push(orphan));
        if !orphans.is_empty() {
            let mut orphanage = Orphanage::lock();
            orphanage.orphans.extend(orphans);
            orphanage.open();
        }
        result
    }
}

/// A text that is in the environment of one child, and of what it starts.
#[derive(Debug)]
struct Mark {
    number: u64,
    text: String,
}

impl Mark {
    fn new() -> Mark {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Orphanage::lock().children.insert(number, None);
        Mark { number, text: format!("{}{number}", prefix()) }
    }

    fn number(text: &str) -> Option<u64> {
        text.strip_prefix(&prefix())?.parse().ok()
    }
}

/// What only marks of this process begin with.
fn prefix() -> String {
    format!("{}.{}.", std::process::id(), sys::own_start())
}

impl Drop for Mark {
    fn drop(&mut self) {
        Orphanage::lock().children.remove(&self.number);
    }
}

/// Who has become, or may become, a child of this process without having been started by it.
struct Orphanage {
    /// The children by the numbers of their marks; `None` while one is being started.
    children: BTreeMap<u64, Option<u32>>,
    orphans: Vec<Process>,
    is_open: bool,
}

impl Orphanage {
    fn lock() -> MutexGuard<'static, Orphanage> {
        static ORPHANAGE: Mutex<Orphanage> = Mutex::new(Orphanage {
            children: BTreeMap::new(),
            orphans: Vec::new(),
            is_open: false,
        });
        ORPHANAGE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to look for orphans. If there can't be a thread for it, the next child gets one.
    fn open(&mut self) {
        if !self.is_open {
            let thread = thread::Builder::new().name("orphans".into());
            self.is_open = thread.spawn(Orphanage::run).is_ok();
        }
    }

    fn run() {
        loop {
            let mut orphanage = Orphanage::lock();
            orphanage.look();
            if orphanage.children.is_empty() && orphanage.orphans.is_empty() {
                orphanage.is_open = false;
                return;
            }
            drop(orphanage);
            thread::park_timeout(LOOK_INTERVAL);
        }
    }

    fn look(&mut self) {
        let (children, orphans) = (&self.children, &self.orphans);
        let new = sys::orphans(|pid, mark| {
            let is_known = orphans.iter().any(|orphan| orphan.pid() == pid);
            let child = Mark::number(mark).map(|number| children.get(&number));
            match child {
                _ if is_known => false,
                Some(None) => true,
                Some(Some(Some(child))) => *child != pid,
                Some(Some(None)) | None => false,
            }
        });
        self.orphans.extend(new);
        self.orphans.retain(|orphan| !is_gone(orphan));
    }
}

/// Collects it, if it has ended and is this process's to collect. One whose parent lives yet, may
/// become so.
fn is_gone(orphan: &Process) -> bool {
    match orphan.reap() {
        Ok(None) => false,
        Ok(Some(Exit::Unknown)) => matches!(orphan.signal(0), Ok(false)),
        Ok(Some(_)) | Err(_) => true,
    }
}
