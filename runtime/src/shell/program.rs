//! What a worker's process runs, and how it is started.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use ipc_core::Channel;

use crate::event::WorkerId;
use crate::process::launch::ChildOptions;
use crate::process::start::{Extra, Started};
use crate::process::{self, Command, Stdio};
use crate::slot_options::SlotOptions;
use crate::sys::{self, Process};
use crate::worker::{BOOTSTRAP, ID_VARIABLE};

/// Where a worker has its end of its channel.
const CHANNEL: u32 = 3;

/// This program, also when its file was replaced or removed.
const SELF: &str = "/proc/self/exe";

/// A program, its arguments and environment.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// `None`: this very program, even if its file was replaced or removed since.
    pub(crate) path: Option<PathBuf>,
    /// `None`: the arguments that this process was started with.
    pub(crate) args: Option<Vec<OsString>>,
    /// Variables to set beyond those of this process.
    pub(crate) env: Vec<(OsString, OsString)>,
}

/// Why a worker's process could not be started.
#[derive(Debug)]
pub(super) struct SpawnError {
    pub(super) reason: String,
    /// It may succeed later.
    pub(super) is_transient: bool,
}

impl From<process::SpawnError> for SpawnError {
    fn from(error: process::SpawnError) -> SpawnError {
        let is_transient = sys::is_shortage(error.io_error());
        SpawnError { reason: error.reason().to_string(), is_transient }
    }
}

impl From<io::Error> for SpawnError {
    fn from(error: io::Error) -> SpawnError {
        SpawnError { reason: error.to_string(), is_transient: sys::is_shortage(&error) }
    }
}

impl Program {
    /// The same program from every directory.
    pub(crate) fn resolve(&mut self) {
        // A mere name is looked for elsewhere.
        if let Some(path) = &mut self.path
            && path.components().nth(1).is_some()
            && let Ok(absolute) = std::path::absolute(&*path)
        {
            *path = absolute;
        }
    }

    /// Starts a worker; gives its process and our end of its channel.
    pub(super) fn spawn(
        &self,
        worker: WorkerId,
        options: &SlotOptions,
    ) -> Result<(Process, Channel), SpawnError> {
        let mut command = self.command(&options.child);
        command.args(&options.args);
        command.envs(options.env.iter().map(|(key, value)| (key, value)));
        // Its own process group keeps a terminal's Ctrl-C from it.
        command.env(ID_VARIABLE, worker.to_string()).stdin(Stdio::null()).process_group(0);
        for number in [1, 2].into_iter().filter(|number| !sys::is_open(*number)) {
            command.descriptor(number, Stdio::null());
        }
        let channel = BOOTSTRAP.prepare(CHANNEL)?;
        let mut extra = Extra { standard: Stdio::inherit, ..Extra::default() };
        extra.stdio.insert(CHANNEL, Stdio::given(channel.theirs));
        extra.env = channel.variables.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        let Started { process, .. } = command.start(extra)?;
        Ok((process, channel.ours.into_channel()))
    }

    fn command(&self, options: &ChildOptions) -> Command {
        let mut own = std::env::args_os();
        let own_name = own.next();
        let mut command = match &self.path {
            Some(path) => Command::with_options(path, options),
            None => {
                let mut command = Command::with_options(SELF, options);
                if let Some(name) = own_name {
                    command.arg0(name);
                }
                command
            }
        };
        match &self.args {
            Some(args) => command.args(args),
            None => command.args(own),
        };
        // What the master inherits is not the workers'.
        for name in super::inherited::VARIABLES {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    /// The program's name, for people.
    pub(super) fn name(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => format!("this program ({SELF})"),
        }
    }
}
