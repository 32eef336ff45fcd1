//! Starts a process: by a child that borrows this process's memory while the calling thread waits,
//! so that nothing is copied however large it is, and whatever the child has to do.
#![allow(unsafe_code)] // a descriptor by its number, which no safe function takes

mod child;
mod plan;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::process::Step;
use crate::process::launch::{ChildOptions, Group, Launch};

use self::child::{Failure, Phase};
use self::plan::Plan;
use super::{Process, clone};

/// Starts a process; if that fails, nothing of it is left.
pub(crate) fn launch(launch: &Launch) -> Result<Process, (Step, io::Error)> {
    let plan = Plan::new(launch)?;
    let changes_ids = plan.uid.is_some() || plan.gid.is_some();
    let started = clone::start(changes_ids, plan.descriptors_end(), &|| child::run(&plan));
    let started = started.map_err(|error| (Step::Create, error))?;
    started.map_err(|failure| failure.explain(launch, &plan))
}

/// What a program given by a name is looked for in when there is no `PATH`, as by execvp(3).
pub(crate) const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// What says that a file is no program.
pub(crate) const NOT_EXECUTABLE: i32 = libc::ENOEXEC;

/// Whether this process has something open under this number.
pub(crate) fn is_open(number: u32) -> bool {
    // SAFETY: F_GETFD takes no memory; of a number that is not open it is an error.
    RawFd::try_from(number).is_ok_and(|number| unsafe { libc::fcntl(number, libc::F_GETFD) } != -1)
}

/// Whether a program is not looked for elsewhere.
pub(crate) fn is_path(file: &OsStr) -> bool {
    file.as_bytes().contains(&b'/')
}

impl Failure {
    fn explain(self, launch: &Launch, plan: &Plan) -> (Step, io::Error) {
        let ChildOptions { limits, cpus, gid, uid, directory, .. } = &*launch.options;
        let step = match self.phase {
            Phase::ControlGroup => {
                Step::ControlGroup(launch.cgroup.unwrap_or(Path::new("")).into())
            }
            Phase::Group if launch.group == Group::Session => Step::Session,
            Phase::Group => Step::ProcessGroup,
            Phase::Descriptor(number) => Step::Descriptor(number),
            Phase::Limit(index) => {
                let limit = &limits[index];
                Step::Limit(limit.resource, limit.soft, limit.hard)
            }
            Phase::Processors => Step::Processors(cpus.clone().unwrap_or_default()),
            Phase::Groups => Step::Groups(plan.groups.clone().unwrap_or_default()),
            Phase::Gid => Step::Group(gid.unwrap_or_default()),
            Phase::Uid => Step::User(uid.unwrap_or_default()),
            Phase::Directory => Step::Directory(directory.clone().unwrap_or_default()),
            Phase::Execute(Some(index)) => Step::Execute(launch.files[index].clone()),
            // It is in none of the places.
            Phase::Execute(None) => {
                let name = launch.files.last().and_then(|file| file.file_name());
                Step::Execute(name.unwrap_or_default().into())
            }
        };
        (step, io::Error::from_raw_os_error(self.errno))
    }
}
