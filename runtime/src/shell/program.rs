//! What a worker's process runs, and how it is started.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use ipc_core::Channel;

use crate::event::WorkerId;
use crate::slot_options::SlotOptions;
use crate::sys::{self, Process};
use crate::worker::{BOOTSTRAP, ID_VARIABLE};

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
    /// What the child could not do.
    pub(super) step: Option<String>,
    pub(super) error: io::Error,
}

impl From<io::Error> for SpawnError {
    fn from(error: io::Error) -> SpawnError {
        SpawnError { step: None, error }
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
        let mut command = self.command();
        command.args(&options.args);
        command.envs(options.env.iter().map(|(key, value)| (key, value)));
        // Its own process group keeps a terminal's Ctrl-C from it.
        command.env(ID_VARIABLE, worker.to_string()).stdin(Stdio::null()).process_group(0);
        let step = sys::prepare(&mut command, &options.child)?;
        let (channel, child) = BOOTSTRAP
            .spawn(&mut command)
            .map_err(|error| SpawnError { step: step.describe(), error })?;
        let process = Process::of_child(child)?;
        Ok((process, channel))
    }

    fn command(&self) -> Command {
        let mut own = std::env::args_os();
        let own_name = own.next();
        let mut command = match &self.path {
            Some(path) => Command::new(path),
            None => {
                let mut command = Command::new(SELF);
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
