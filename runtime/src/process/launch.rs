//! All that a system needs to know to start a process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use handle_passing::Handle;

use super::limit::Resource;

/// A process that is about to be started; everything in it was checked.
#[derive(Debug)]
pub(crate) struct Launch {
    /// What to execute: the first that can be, as a shell goes through `PATH`.
    pub(crate) files: Vec<PathBuf>,
    /// The arguments, from the program's own name on; at least that.
    pub(crate) args: Vec<OsString>,
    /// The whole environment.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// What the child has under which number; it has nothing else.
    pub(crate) descriptors: BTreeMap<u32, ChildEnd>,
    pub(crate) group: Group,
    pub(crate) options: ChildOptions,
    /// A directory of a cgroup file system, which the child joins.
    pub(crate) cgroup: Option<PathBuf>,
}

/// What a child has under a number.
#[derive(Debug)]
pub(crate) enum ChildEnd {
    /// This, which is nobody else's.
    Given(Handle),
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
