//! What the child does before it is another program.
//!
//! It runs in its parent's memory, while the parent's other threads go on: it must neither allocate
//! nor take a lock, and makes plain system calls only. Those of the C library that change ids do
//! more: they have all threads of *the parent* change too.
#![allow(unsafe_code)] // system calls between clone and execve

use nix::errno::Errno;

use crate::process::launch::Group;

use super::plan::Plan;
use crate::sys::clone;

/// Why a child did not become another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) phase: Phase,
    pub(super) errno: i32,
}

/// What the child was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    ControlGroup,
    Group,
    Descriptor(u32),
    /// By its index.
    Limit(usize),
    Processors,
    Groups,
    Gid,
    Uid,
    Directory,
    /// By its index; `None` if none of several is there.
    Execute(Option<usize>),
}

fn check(phase: Phase, result: impl Into<i64>) -> Result<(), Failure> {
    if result.into() == -1 { Err(Failure { phase, errno: Errno::last_raw() }) } else { Ok(()) }
}

/// Becomes the program, or returns why not.
pub(super) fn run(plan: &Plan) -> Failure {
    match prepare(plan) {
        Ok(()) => execute(plan),
        Err(failure) => failure,
    }
}

fn prepare(plan: &Plan) -> Result<(), Failure> {
    if let Some(processes) = &plan.cgroup {
        check(Phase::ControlGroup, clone::join(processes))?;
    }
    // SAFETY: setsid and setpgid touch no memory.
    let group = unsafe {
        match plan.group {
            Group::Inherited => 0,
            Group::Own => libc::setpgid(0, 0),
            Group::Of(group) => libc::setpgid(0, group.cast_signed()),
            Group::Session => libc::setsid(),
        }
    };
    check(Phase::Group, group)?;
    place_descriptors(plan)?;
    for (index, (resource, limit)) in plan.limits.iter().enumerate() {
        check(Phase::Limit(index), clone::limit(*resource, limit))?;
    }
    if let Some(cpus) = &plan.cpus {
        check(Phase::Processors, clone::set_processors(cpus))?;
    }
    // Groups first, since only root may change them; the user last, for then it is not.
    if let Some(groups) = &plan.groups {
        check(Phase::Groups, clone::set_groups(groups))?;
    }
    if let Some(gid) = plan.gid {
        check(Phase::Gid, clone::set_gid(gid))?;
    }
    if let Some(uid) = plan.uid {
        check(Phase::Uid, clone::set_uid(uid))?;
    }
    if let Some(directory) = &plan.directory {
        // SAFETY: chdir reads a string that ends with a zero byte and outlives the call.
        check(Phase::Directory, unsafe { libc::chdir(directory.as_ptr()) })?;
    }
    Ok(())
}

/// Gives each descriptor its number, and lets no other through.
fn place_descriptors(plan: &Plan) -> Result<(), Failure> {
    let after_last = plan.descriptors_end();
    for descriptor in plan.descriptors.iter().filter(|descriptor| descriptor.is_in_the_way) {
        let source = descriptor.source.get();
        // SAFETY: F_DUPFD_CLOEXEC takes no memory.
        let moved = unsafe { libc::fcntl(source, libc::F_DUPFD_CLOEXEC, after_last) };
        check(Phase::Descriptor(descriptor.target.cast_unsigned()), moved)?;
        descriptor.source.set(moved);
    }
    let mut next = 0;
    for descriptor in &plan.descriptors {
        let (source, target) = (descriptor.source.get(), descriptor.target);
        // SAFETY: neither call takes memory. A duplicate is not close-on-exec.
        let placed = retry(|| unsafe {
            if source == target {
                libc::fcntl(target, libc::F_SETFD, 0)
            } else {
                libc::dup2(source, target)
            }
        });
        check(Phase::Descriptor(target.cast_unsigned()), placed)?;
    }
    // Only now, as what is not given may be a source.
    for descriptor in &plan.descriptors {
        if next < descriptor.target {
            clone::close_on_exec(next, Some(descriptor.target - 1));
        }
        next = descriptor.target.saturating_add(1);
    }
    clone::close_on_exec(next, None);
    Ok(())
}

fn retry(call: impl Fn() -> i32) -> i32 {
    loop {
        let result = call();
        if result != -1 || Errno::last() != Errno::EINTR {
            return result;
        }
    }
}

fn execute(plan: &Plan) -> Failure {
    // First no handler of ours is left, which would run in the parent's memory; then signals come.
    clone::reset_signals();
    clone::unblock_signals();
    let several = plan.files.len() > 1;
    let mut failure = Failure { phase: Phase::Execute(None), errno: libc::ENOENT };
    for (index, file) in plan.files.iter().enumerate() {
        // SAFETY: all three are strings and arrays in the form that execve takes, and outlive it.
        unsafe { libc::execve(file.as_ptr(), plan.args.as_ptr(), plan.env.as_ptr()) };
        let errno = Errno::last_raw();
        let here = Failure { phase: Phase::Execute(Some(index)), errno };
        match errno {
            // As execvp(3): it may be in another place.
            libc::ENOENT | libc::ENOTDIR if several => {}
            libc::EACCES if several => {
                if failure.errno != libc::EACCES {
                    failure = here;
                }
            }
            _ => return here,
        }
    }
    failure
}
