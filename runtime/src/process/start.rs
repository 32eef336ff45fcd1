//! Starting a process from a command, the part that all ways of it share.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;

use super::check::check;
use super::command::Command;
use super::descendants::{Lineage, MARKS_VARIABLE};
use super::environment::{self, Environment};
use super::error::{SpawnError, Step};
use super::launch::{ChildEnd, ChildOptions, Group, Launch};
use super::parent::{FUNCTION_VARIABLE, PRIVATE_VARIABLES};
use super::path::candidates;
use super::stdio::{Kind, Stdio};
use super::stream::Stream;
use crate::sys::{self, Pipe, Process};

/// What one start has beyond, or instead of, what the command says.
#[derive(Debug)]
pub(crate) struct Extra {
    /// What the child has under which number.
    pub(crate) stdio: BTreeMap<u32, Stdio>,
    pub(crate) env: Vec<(OsString, OsString)>,
    /// What it has as those of the three standard streams that nobody has set.
    pub(crate) standard: fn() -> Stdio,
}

impl Default for Extra {
    fn default() -> Extra {
        Extra { stdio: BTreeMap::new(), env: Vec::new(), standard: Stdio::pipe }
    }
}

/// A process that was started, and our ends of its streams, by the child's number.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) process: Process,
    pub(crate) lineage: Lineage,
    pub(crate) streams: BTreeMap<u32, Stream>,
}

impl Command {
    pub(crate) fn start(&self, mut extra: Extra) -> Result<Started, SpawnError> {
        let fail = |step, error| SpawnError::new(&self.file, step, error);
        let invalid = |reason| SpawnError::check(&self.file, reason);
        check(self).map_err(invalid)?;
        for (key, value) in &extra.env {
            environment::check(key, Some(value)).map_err(invalid)?;
        }
        if self.function.is_some() && !extra.env.iter().any(|(key, _)| key == FUNCTION_VARIABLE) {
            let reason = "a function of this program needs a channel: start it by fork";
            return Err(invalid(reason.into()));
        }
        let options = self.child_options().map_err(invalid)?;
        let standard: Vec<_> = (0..3).map(|number| (number, (extra.standard)())).collect();
        let kinds = self.stdio_of(&extra.stdio, &standard);
        check_inherited(&kinds).map_err(invalid)?;
        let mut streams = BTreeMap::new();
        let mut descriptors = BTreeMap::new();
        for (number, stdio) in kinds {
            let made = child_end(number, stdio);
            let (ours, childs) = made.map_err(|error| fail(Step::Stdio(number), error))?;
            streams.extend(ours.map(|stream| (number, stream)));
            descriptors.insert(number, childs);
        }
        let group = self.group();
        let lineage = Lineage::of(group, self.cgroup.as_deref());
        extra.env.extend(lineage.variable(std::env::var_os(MARKS_VARIABLE)));
        let name = self.arg0.as_deref().unwrap_or(self.executed());
        let args = std::iter::once(name).chain(self.args.iter().map(OsString::as_os_str));
        let launch = Launch {
            files: self.files(),
            args: args.collect(),
            line: self.shell.is_some().then_some(&self.file),
            env: self.environment(&extra.env),
            descriptors,
            group,
            is_window_hidden: self.is_window_hidden,
            options,
            cgroup: self.cgroup.as_deref(),
        };
        let process = sys::launch(&launch).map_err(|(step, error)| fail(step, error))?;
        lineage.set_pid(process.pid());
        Ok(Started { process, lineage, streams })
    }

    fn stdio_of<'a>(
        &'a self,
        extra: &'a BTreeMap<u32, Stdio>,
        standard: &'a [(u32, Stdio)],
    ) -> BTreeMap<u32, &'a Stdio> {
        let mut stdio: BTreeMap<_, _> = standard.iter().map(|(n, stdio)| (*n, stdio)).collect();
        stdio.extend(self.stdio.iter().chain(extra).map(|(number, stdio)| (*number, stdio)));
        stdio
    }

    /// What to execute, or the shell that does.
    fn executed(&self) -> &OsStr {
        self.shell.as_ref().map_or(self.file.as_os_str(), |shell| shell.as_os_str())
    }

    /// Where that may be.
    fn files(&self) -> Vec<PathBuf> {
        let path = match self.env.get(OsStr::new("PATH")) {
            Some(Some(path)) => Some(Cow::Borrowed(path.as_os_str())),
            // Where the child has none, ours leads to the same programs as a shell here would.
            Some(None) | None => std::env::var_os("PATH").map(Cow::Owned),
        };
        candidates(self.executed(), path.as_deref())
    }

    /// What is ended with all that it starts begins a group of its own, so that nothing escapes.
    /// But in the foreground of a terminal that would take the terminal from it: Ctrl-C would not
    /// reach it, and it could not ask for a password.
    fn group(&self) -> Group {
        match self.group {
            Group::Inherited if self.is_tree_killed && !sys::is_in_foreground() => Group::Own,
            group => group,
        }
    }

    fn environment<'a>(&'a self, extra: &'a [(OsString, OsString)]) -> Environment<'a> {
        let none = PRIVATE_VARIABLES.iter().map(|key| (OsStr::new(key), None));
        let own = self.env.iter().map(|(key, value)| (key.as_os_str(), value.as_deref()));
        let extra = extra.iter().map(|(key, value)| (key.as_os_str(), Some(value.as_os_str())));
        Environment { is_clear: self.is_env_clear, changes: none.chain(own).chain(extra).collect() }
    }

    /// With those of its user, but for what is set beside.
    fn child_options(&self) -> Result<Cow<'_, ChildOptions>, String> {
        let Some(name) = &self.user else { return Ok(Cow::Borrowed(&self.options)) };
        let user = match sys::user(name) {
            Ok(Some(user)) => user,
            Ok(None) => return Err(format!("user: this system knows no user {name:?}")),
            Err(error) => return Err(format!("user: can't look up {name:?}: {error}")),
        };
        let mut options = self.options.clone();
        options.uid.get_or_insert(user.uid);
        options.gid.get_or_insert(user.gid);
        options.groups.get_or_insert(user.groups);
        Ok(Cow::Owned(options))
    }
}

/// Before anything is opened that could get the number of what is not open.
fn check_inherited(kinds: &BTreeMap<u32, &Stdio>) -> Result<(), String> {
    for (number, stdio) in kinds {
        let ours = match stdio.0 {
            Kind::Inherit => *number,
            Kind::InheritFrom(ours) => ours,
            Kind::Pipe | Kind::Input | Kind::Output | Kind::Duplex => continue,
            Kind::Null | Kind::Ipc | Kind::Given(_) => continue,
        };
        if !sys::is_open(ours) {
            return Err(format!(
                "descriptor {number}: it can't inherit {ours}, which is not open here; use \
                 Stdio::null()"
            ));
        }
    }
    Ok(())
}

/// Our end and the child's.
fn child_end(number: u32, stdio: &Stdio) -> io::Result<(Option<Stream>, ChildEnd<'_>)> {
    let (make, pipe): (fn(Pipe) -> Stream, _) = match (&stdio.0, number) {
        (Kind::Input, _) | (Kind::Pipe, 0) => (Stream::writer, sys::pipe_to_child()?),
        (Kind::Output, _) | (Kind::Pipe, 1 | 2) => (Stream::reader, sys::pipe_from_child()?),
        (Kind::Duplex | Kind::Pipe, _) => (Stream::duplex, sys::duplex()?),
        (Kind::Inherit, _) => return Ok((None, ChildEnd::Inherited(number))),
        (Kind::InheritFrom(ours), _) => return Ok((None, ChildEnd::Inherited(*ours))),
        (Kind::Null, _) => return Ok((None, ChildEnd::Given(sys::null()?))),
        (Kind::Ipc, _) => {
            let reason = "only spawn and fork give a child a channel; use one of them";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        (Kind::Given(handle), _) => return Ok((None, ChildEnd::Lent(handle))),
    };
    let (ours, childs) = pipe;
    Ok((Some(make(ours)), ChildEnd::Given(childs)))
}
