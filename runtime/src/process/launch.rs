//! All that a system needs to know to start a process.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use handle_passing::Handle;

use super::environment::Environment;
use super::limit::Resource;
use crate::sys;

/// A process that is about to be started; everything in it was checked.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// What to execute: the first that can be, as a shell goes through `PATH`.
    pub(crate) files: Vec<PathBuf>,
    /// The arguments, from the program's own name on; at least that.
    pub(crate) args: Vec<&'a OsStr>,
    /// A command line for the shell that is executed; the arguments are that line's then.
    pub(crate) line: Option<&'a OsStr>,
    pub(crate) env: Environment<'a>,
    /// What the child has under which number; it has nothing else.
    pub(crate) descriptors: BTreeMap<u32, ChildEnd<'a>>,
    pub(crate) group: Group,
    #[allow(dead_code, reason = "only Windows has windows")]
    pub(crate) is_window_hidden: bool,
    pub(crate) options: Cow<'a, ChildOptions>,
    /// A directory of a cgroup file system, which the child joins.
    pub(crate) cgroup: Option<&'a Path>,
}

/// What a child has under a number.
#[derive(Debug)]
pub(crate) enum ChildEnd<'a> {
    /// This, which is nobody else's.
    Given(Handle),
    /// This, which the command keeps.
    Lent(&'a Handle),
    /// What this process has under this number, and keeps.
    Inherited(u32),
}

/// Which session and group of processes a child belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Group {
    /// Those of this process.
    #[default]
    Inherited,
    /// A group of its own in this session.
    Own,
    /// This group, of this session.
    Of(u32),
    /// A session of its own, without terminal.
    Session,
}

/// What a child does to itself before it executes its program, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChildOptions {
    pub(crate) limits: Vec<Limit>,
    pub(crate) cpus: Option<Vec<usize>>,
    pub(crate) groups: Option<Vec<u32>>,
    pub(crate) gid: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) directory: Option<PathBuf>,
}

/// A limit of a resource. [`Resource::UNLIMITED`] is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) resource: Resource,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

impl ChildOptions {
    /// Finds what can't work, whoever this process is.
    pub(crate) fn check(&self) -> Result<(), String> {
        if let Some(cpus) = &self.cpus {
            let too_large = cpus.iter().find(|cpu| **cpu >= sys::CPUS_MAX);
            if let Some(cpu) = too_large {
                return Err(format!("cpu_affinity: no processor {cpu}; they count from 0"));
            }
            if cpus.is_empty() {
                return Err("cpu_affinity: no processor; name one, or don't set it".into());
            }
        }
        for Limit { resource, soft, hard } in &self.limits {
            if soft > hard {
                return Err(format!("rlimit: {resource}: {soft} is above the hard limit {hard}"));
            }
        }
        Ok(())
    }
}
