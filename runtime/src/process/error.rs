use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::limit::Resource;
use crate::sys;

/// What was done to start a process when that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The command itself can't be carried out, on no system or not on this one; the error's text
    /// says what to change.
    Check,
    /// Making what the child has under this number.
    Stdio(u32),
    /// Making the process: there are too many, or there is no memory.
    Create,
    /// Joining this control group.
    ControlGroup(PathBuf),
    /// Beginning a session.
    Session,
    /// Beginning or joining a group of processes.
    ProcessGroup,
    /// Putting a descriptor where the child expects it.
    Descriptor(u32),
    /// Limiting a resource to so much, soft and hard.
    Limit(Resource, u64, u64),
    /// Choosing its processors.
    Processors(Vec<usize>),
    /// Becoming a member of these groups only.
    Groups(Vec<u32>),
    /// Becoming this group.
    Group(u32),
    /// Becoming this user.
    User(u32),
    /// Entering this directory.
    Directory(PathBuf),
    /// Executing this file.
    Execute(PathBuf),
    /// Having [`Children`](super::Children) attend to it.
    Attend,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Check => f.write_str("check its options"),
            Step::Stdio(number) => write!(f, "make its descriptor {number}"),
            Step::Create => f.write_str("make a process"),
            Step::ControlGroup(path) => write!(f, "join the control group {}", path.display()),
            Step::Session => f.write_str("begin a session"),
            Step::ProcessGroup => f.write_str("join its process group"),
            Step::Descriptor(number) => write!(f, "put its descriptor {number} in place"),
            Step::Limit(resource, soft, hard) => {
                write!(f, "limit its {resource} to {soft} (soft) and {hard} (hard)")
            }
            Step::Processors(cpus) => write!(f, "set its processors to {cpus:?}"),
            Step::Groups(groups) => write!(f, "set its groups to {groups:?}"),
            Step::Group(gid) => write!(f, "set its group to {gid}"),
            Step::User(uid) => write!(f, "set its user to {uid}"),
            Step::Directory(path) => write!(f, "enter {}", path.display()),
            Step::Attend => f.write_str("attend to it"),
            Step::Execute(path) => write!(f, "execute {}", path.display()),
        }
    }
}

/// A process was not started, and nothing of it is left.
#[derive(Debug)]
pub struct SpawnError {
    program: OsString,
    step: Step,
    source: io::Error,
}

impl SpawnError {
    pub(crate) fn new(program: impl Into<OsString>, step: Step, source: io::Error) -> SpawnError {
        SpawnError { program: program.into(), step, source }
    }

    /// The command can't be carried out, for this reason, which says what to change.
    pub(crate) fn check(program: impl Into<OsString>, reason: impl Into<String>) -> SpawnError {
        let source = io::Error::new(io::ErrorKind::InvalidInput, reason.into());
        SpawnError::new(program, Step::Check, source)
    }

    /// The program, as it was given.
    #[must_use]
    pub fn program(&self) -> &OsStr {
        &self.program
    }

    /// What failed.
    #[must_use]
    pub fn step(&self) -> &Step {
        &self.step
    }

    /// What the system said.
    #[must_use]
    pub fn io_error(&self) -> &io::Error {
        &self.source
    }

    /// The kind of what the system said: `NotFound` for a program that is not there.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

impl SpawnError {
    /// All but the program's name.
    pub(crate) fn reason(&self) -> impl fmt::Display {
        Reason(self)
    }

    /// What can be done, where the system's word for it does not tell.
    fn remedy(&self) -> Option<&'static str> {
        use io::ErrorKind::{
            ArgumentListTooLong, ExecutableFileBusy, InvalidInput, NotFound, PermissionDenied,
            WouldBlock,
        };
        let is_program = self.source.raw_os_error() != Some(sys::NOT_EXECUTABLE);
        Some(match (&self.step, self.source.kind()) {
            (Step::Execute(_), _) if !is_program => {
                "it is no program of this machine; a script needs a first line like #!/bin/sh"
            }
            (Step::Execute(path), NotFound) if path.parent() == Some(Path::new("")) => {
                match path.to_string_lossy().contains(' ') {
                    true => {
                        "it is in no directory of PATH; give its arguments apart, or the whole \
                         line to Command::shell"
                    }
                    false => "it is in no directory of PATH",
                }
            }
            (Step::Execute(_), NotFound) => {
                "check the path, and of a script the interpreter in its first line"
            }
            (Step::Execute(_), PermissionDenied) => {
                "it must be a file that its user may execute, in a directory that it may enter"
            }
            (Step::Execute(_), ArgumentListTooLong) => {
                "give it less arguments and environment, and the rest by a file or its input"
            }
            (Step::Execute(_), ExecutableFileBusy) => "close the file, which is open to be written",
            (Step::Create | Step::Execute(_), WouldBlock) => {
                "there are too many processes: of its user (RLIMIT_NPROC), or in its control \
                 group (pids.max)"
            }
            (Step::Groups(_) | Step::Group(_) | Step::User(_), PermissionDenied) => {
                "run this process as root, or leave it out"
            }
            (Step::Limit(..), PermissionDenied) => "only root can raise a hard limit",
            (Step::ProcessGroup, PermissionDenied) => "there is no such group in this session",
            (Step::ControlGroup(_), NotFound) => {
                "it must be a directory of a cgroup v2 file system"
            }
            (Step::Processors(_), InvalidInput) => "name some that this process may use",
            (Step::Descriptor(_), _) => "it must be below the limit of open files (RLIMIT_NOFILE)",
            _ => return None,
        })
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can't start {:?}: {}", self.program, self.reason())
    }
}

/// Without the program.
struct Reason<'a>(&'a SpawnError);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reason(SpawnError { step, source, .. }) = self;
        match step {
            Step::Check => write!(f, "{source}")?,
            step => write!(f, "can't {step}: {source}")?,
        }
        self.0.remedy().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

impl Error for SpawnError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// Keeps the kind, and the whole text.
impl From<SpawnError> for io::Error {
    fn from(error: SpawnError) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}
