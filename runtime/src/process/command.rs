use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipc_core::Limits;

use super::cancel::CancelToken;
use super::launch::{ChildOptions, Group, Limit};
use super::limit::Resource;
use super::signal::Signal;
use super::stdio::Stdio;

/// How much of each output is collected, unless [`Command::max_buffer`] says otherwise: 1 MiB.
const MAX_BUFFER_BYTES: usize = 1 << 20;

/// How long a process has to end by the signal that it was sent before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(5);

/// A program to start, with its arguments and options.
///
/// A command can be started any number of times, in any of these ways:
///
/// | | gives | |
/// |---|---|---|
/// | [`spawn`](Self::spawn) | a [`Child`](super::Child) | its output is read as it comes |
/// | [`fork`](Self::fork) | a [`Child`](super::Child) | … and it gets a channel for messages |
/// | [`exec`](Self::exec) | an [`Exec`](super::Exec) | its output is collected |
/// | [`spawn_sync`](Self::spawn_sync) | an [`Output`](super::Output) | waits for it |
/// | [`exec_sync`](Self::exec_sync) | an [`Output`](super::Output) | … and failing is an error |
///
/// By default a child inherits the environment and the working directory, has pipes for standard
/// input, output and error, and nothing else. What only one way uses is ignored by the others.
#[derive(Debug)]
pub struct Command {
    pub(super) file: OsString,
    pub(super) args: Vec<OsString>,
    pub(super) arg0: Option<OsString>,
    /// The file is a command line for a shell.
    pub(crate) shell: Option<PathBuf>,
    pub(super) is_env_clear: bool,
    /// `None`: without that variable.
    pub(super) env: BTreeMap<OsString, Option<OsString>>,
    pub(super) stdio: BTreeMap<u32, Stdio>,
    pub(super) user: Option<String>,
    pub(super) group: Group,
    pub(super) options: ChildOptions,
    pub(super) cgroup: Option<PathBuf>,
    pub(super) timeout: Option<Duration>,
    pub(super) kill_signal: Signal,
    pub(super) kill_after: Option<Duration>,
    pub(super) cancel: Option<CancelToken>,
    pub(super) is_tree_killed: bool,
    pub(super) is_killed_on_drop: bool,
    pub(super) is_window_hidden: bool,
    pub(super) max_buffer_bytes: usize,
    pub(super) is_output_awaited: bool,
    pub(super) input: Option<Arc<Vec<u8>>>,
    pub(super) channel_limits: Limits,
    /// Which function of this program it runs.
    pub(super) function: Option<&'static str>,
}

impl Command {
    /// A program, by its path, or by a name that is looked for in `PATH`: the child's, if it is
    /// set for it.
    #[must_use]
    pub fn new(file: impl Into<OsString>) -> Command {
        Command {
            file: file.into(),
            args: Vec::new(),
            arg0: None,
            shell: None,
            is_env_clear: false,
            env: BTreeMap::new(),
            stdio: BTreeMap::new(),
            user: None,
            group: Group::default(),
            options: ChildOptions::default(),
            cgroup: None,
            timeout: None,
            kill_signal: Signal::TERM,
            kill_after: Some(KILL_AFTER),
            cancel: None,
            is_tree_killed: false,
            is_killed_on_drop: false,
            is_window_hidden: false,
            max_buffer_bytes: MAX_BUFFER_BYTES,
            is_output_awaited: false,
            input: None,
            channel_limits: Limits::default(),
            function: None,
        }
    }

    pub(crate) fn with_options(file: impl Into<OsString>, options: &ChildOptions) -> Command {
        Command { options: options.clone(), ..Command::new(file) }
    }

    /// An argument.
    pub fn arg(&mut self, arg: impl Into<OsString>) -> &mut Command {
        self.args.push(arg.into());
        self
    }

    /// Arguments.
    pub fn args<A: Into<OsString>>(&mut self, args: impl IntoIterator<Item = A>) -> &mut Command {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The name that the program is told it has. Default: the file as it was given.
    pub fn arg0(&mut self, name: impl Into<OsString>) -> &mut Command {
        self.arg0 = Some(name.into());
        self
    }

    /// Sets a variable of its environment.
    pub fn env(&mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> &mut Command {
        self.env.insert(key.into(), Some(value.into()));
        self
    }

    /// Sets variables of its environment.
    pub fn envs<K: Into<OsString>, V: Into<OsString>>(
        &mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> &mut Command {
        let variables = variables.into_iter();
        self.env.extend(variables.map(|(key, value)| (key.into(), Some(value.into()))));
        self
    }

    /// Leaves a variable out of its environment.
    pub fn env_remove(&mut self, key: impl Into<OsString>) -> &mut Command {
        self.env.insert(key.into(), None);
        self
    }

    /// Leaves everything out of its environment, but for what is set after this call.
    pub fn env_clear(&mut self) -> &mut Command {
        self.is_env_clear = true;
        self.env.clear();
        self
    }

    /// The directory that it starts in. A program that is given by a relative path is looked for
    /// from there, as in Node.
    pub fn current_dir(&mut self, path: impl Into<PathBuf>) -> &mut Command {
        self.options.directory = Some(path.into());
        self
    }

    /// What it reads as standard input. Default: [`Stdio::pipe`].
    pub fn stdin(&mut self, stdio: impl Into<Stdio>) -> &mut Command {
        self.descriptor(0, stdio)
    }

    /// Where its standard output goes. Default: [`Stdio::pipe`].
    pub fn stdout(&mut self, stdio: impl Into<Stdio>) -> &mut Command {
        self.descriptor(1, stdio)
    }

    /// Where its standard error goes. Default: [`Stdio::pipe`].
    pub fn stderr(&mut self, stdio: impl Into<Stdio>) -> &mut Command {
        self.descriptor(2, stdio)
    }

    /// What it has under any other number. Default: nothing.
    pub fn descriptor(&mut self, number: u32, stdio: impl Into<Stdio>) -> &mut Command {
        self.stdio.insert(number, stdio.into());
        self
    }

    /// Has it run as this user, of this system's list, with that user's groups. To become another
    /// user takes root.
    pub fn user(&mut self, name: impl Into<String>) -> &mut Command {
        self.user = Some(name.into());
        self
    }

    /// Has it run as the user of this number. Without [`groups`](Self::groups) it keeps no
    /// supplementary group then.
    pub fn uid(&mut self, uid: u32) -> &mut Command {
        self.options.uid = Some(uid);
        self
    }

    /// Has it run as the group of this number.
    pub fn gid(&mut self, gid: u32) -> &mut Command {
        self.options.gid = Some(gid);
        self
    }

    /// Its supplementary groups.
    pub fn groups(&mut self, groups: impl IntoIterator<Item = u32>) -> &mut Command {
        self.options.groups = Some(groups.into_iter().collect());
        self
    }

    /// How much of a resource it may use: the soft limit counts, and can be raised by the child
    /// itself up to the hard one.
    pub fn rlimit(&mut self, resource: Resource, soft: u64, hard: u64) -> &mut Command {
        self.options.limits.push(Limit { resource, soft, hard });
        self
    }

    /// The processors that it may run on, by number, from 0.
    pub fn cpu_affinity(&mut self, cpus: impl IntoIterator<Item = usize>) -> &mut Command {
        self.options.cpus = Some(cpus.into_iter().collect());
        self
    }

    /// Has it begin a session of its own, without this one's terminal, as a daemon does: it does
    /// not get the Ctrl-C, nor the hang-up, of this terminal.
    pub fn detached(&mut self) -> &mut Command {
        self.group = Group::Session;
        self
    }

    /// Has it join this group of processes of this session, or, with 0, begin one.
    pub fn process_group(&mut self, group: u32) -> &mut Command {
        self.group = if group == 0 { Group::Own } else { Group::Of(group) };
        self
    }

    /// Has it join this control group, a directory of a cgroup v2 file system, where it and all
    /// that it starts stay; so that nothing escapes [`Child::kill_tree`](super::Child::kill_tree).
    pub fn cgroup(&mut self, directory: impl Into<PathBuf>) -> &mut Command {
        self.cgroup = Some(directory.into());
        self
    }

    /// Ends it if it still runs after this time, by [`kill_signal`](Self::kill_signal), then by
    /// force, see [`kill_after`](Self::kill_after).
    pub fn timeout(&mut self, timeout: Duration) -> &mut Command {
        self.timeout = Some(timeout);
        self
    }

    /// The signal that it is sent when its time is over, when it is cancelled, and when its output
    /// is too long. Default: SIGTERM.
    pub fn kill_signal(&mut self, signal: Signal) -> &mut Command {
        self.kill_signal = signal;
        self
    }

    /// How long it has to end by that signal before it is sent SIGKILL; `None` is for ever.
    /// Default: 5 s.
    pub fn kill_after(&mut self, time: impl Into<Option<Duration>>) -> &mut Command {
        self.kill_after = time.into();
        self
    }

    /// Ends it, as after the [`timeout`](Self::timeout), when this token is cancelled.
    pub fn cancel_with(&mut self, token: &CancelToken) -> &mut Command {
        self.cancel = Some(token.clone());
        self
    }

    /// Has those signals go to all that it has started, too. Default: for a line for a
    /// [shell](Self::shell) only, whose commands are what is meant.
    ///
    /// Such a child begins a [group](Self::process_group) of its own, where nothing that it starts
    /// gets lost, unless this process is in the foreground of a terminal: then it stays there, so
    /// that Ctrl-C reaches it, and so that it can ask for a password; and what is signalled is
    /// whatever descends from it at that time.
    pub fn kill_whole_tree(&mut self, is_wanted: bool) -> &mut Command {
        self.is_tree_killed = is_wanted;
        self
    }

    /// Has it killed when its [`Child`](super::Child) is dropped. Default: it runs on, and is
    /// collected when it ends.
    pub fn kill_on_drop(&mut self, is_killed: bool) -> &mut Command {
        self.is_killed_on_drop = is_killed;
        self
    }

    /// On Windows, has it get no window: a program for the console no console, any other no window
    /// unless it asks for one once more. Elsewhere it changes nothing.
    pub fn hide_window(&mut self) -> &mut Command {
        self.is_window_hidden = true;
        self
    }

    /// How many bytes of standard output, and of standard error, are collected at most; a child
    /// that writes more is ended. Default: 1 MiB of each.
    pub fn max_buffer(&mut self, bytes: usize) -> &mut Command {
        self.max_buffer_bytes = bytes;
        self
    }

    /// Has its output collected to the end, even if others still have it when the child itself has
    /// ended: what it started in the background. Default: what was written until it ended, which
    /// needs no wait for those others.
    pub fn wait_for_output_end(&mut self, is_awaited: bool) -> &mut Command {
        self.is_output_awaited = is_awaited;
        self
    }

    /// What it reads as standard input, whatever [`stdin`](Self::stdin) says; for those ways of
    /// starting it that collect its output. Default: nothing.
    pub fn input(&mut self, bytes: impl Into<Vec<u8>>) -> &mut Command {
        self.input = Some(Arc::new(bytes.into()));
        self
    }

    /// The program, as it was given.
    #[must_use]
    pub fn program(&self) -> &OsStr {
        &self.file
    }
}
