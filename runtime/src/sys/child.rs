//! What a child does to itself between fork and exec.
#![allow(unsafe_code)] // calls that no safe wrapper offers, and a hook between fork and exec

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{self, setrlimit};
use nix::unistd::{pipe2, read};

use crate::process::Resource;
use crate::process::launch::{ChildOptions, Limit};

use super::user::user_and_group;

/// How many processors a set of them can hold.
pub(crate) const CPUS_MAX: usize = libc::CPU_SETSIZE as usize;

/// The largest number of a signal.
pub(crate) const SIGNAL_MAX: i32 = 64;

pub(super) fn system(resource: Resource) -> resource::Resource {
    match resource {
        Resource::AddressSpace => resource::Resource::RLIMIT_AS,
        Resource::CoreFile => resource::Resource::RLIMIT_CORE,
        Resource::ProcessorTime => resource::Resource::RLIMIT_CPU,
        Resource::Data => resource::Resource::RLIMIT_DATA,
        Resource::FileSize => resource::Resource::RLIMIT_FSIZE,
        Resource::LockedMemory => resource::Resource::RLIMIT_MEMLOCK,
        Resource::OpenFiles => resource::Resource::RLIMIT_NOFILE,
        Resource::Processes => resource::Resource::RLIMIT_NPROC,
        Resource::Stack => resource::Resource::RLIMIT_STACK,
    }
}

/// What the child has prepared for it, since it may not allocate.
struct Steps {
    limits: Vec<(resource::Resource, u64, u64)>,
    cpus: Option<libc::cpu_set_t>,
    groups: Option<Vec<libc::gid_t>>,
    gid: Option<libc::gid_t>,
    uid: Option<libc::uid_t>,
    directory: Option<CString>,
}

/// Tells by which step of a child the start has failed.
pub(crate) struct FailedStep<'a> {
    options: &'a ChildOptions,
    reader: Option<OwnedFd>,
}

const CPUS: u8 = 1;
const GROUPS: u8 = 2;
const GID: u8 = 3;
const UID: u8 = 4;
const DIRECTORY: u8 = 5;
/// And the number of the limit.
const LIMITS: u8 = 16;

/// Has the command's child start like a process that nobody has prepared, signals at their
/// defaults, and then take on the options.
pub(crate) fn prepare<'a>(
    command: &mut Command,
    options: &'a ChildOptions,
) -> io::Result<FailedStep<'a>> {
    // The standard library unblocks signals, and resets SIGPIPE, just before.
    // SAFETY: the hook calls sigaction(2) only.
    unsafe { command.pre_exec(reset_signals) };
    if *options == ChildOptions::default() {
        return Ok(FailedStep { options, reader: None });
    }
    let steps = Steps::new(options)?;
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let hook = move || {
        steps.run().map_err(|(step, error)| {
            // SAFETY: write(2) reads one byte, of `step`, and the descriptor is open.
            unsafe { libc::write(writer.as_raw_fd(), (&raw const step).cast(), 1) };
            io::Error::from(error)
        })
    };
    // SAFETY: the hook makes system calls with what was prepared for it; it allocates nothing and
    // takes no lock.
    unsafe { command.pre_exec(hook) };
    Ok(FailedStep { options, reader: Some(reader) })
}

impl Steps {
    fn new(options: &ChildOptions) -> io::Result<Steps> {
        let limit = |limit: &Limit| (system(limit.resource), limit.soft, limit.hard);
        // Who becomes another user does not keep the groups of this one.
        let becomes_another = options.uid.is_some_and(|uid| uid != user_and_group().0);
        let groups = options.groups.clone().or(becomes_another.then(Vec::new));
        let directory = options.directory.as_ref();
        let directory = directory.map(|path| CString::new(path.as_os_str().as_bytes()));
        Ok(Steps {
            limits: options.limits.iter().map(limit).collect(),
            cpus: options.cpus.as_deref().map(cpu_set),
            groups,
            gid: options.gid,
            uid: options.uid,
            directory: directory.transpose()?,
        })
    }

    /// In the child.
    fn run(&self) -> Result<(), (u8, Errno)> {
        for (step, (resource, soft, hard)) in (LIMITS..).zip(&self.limits) {
            setrlimit(*resource, *soft, *hard).map_err(|error| (step, error))?;
        }
        if let Some(cpus) = &self.cpus {
            // SAFETY: sched_setaffinity reads a set of the given size, which outlives the call; 0
            // is the calling thread, the only one.
            check(CPUS, unsafe { libc::sched_setaffinity(0, size_of_val(cpus), cpus) })?;
        }
        // Groups first, since only root may change them; the user last, for then it is not.
        if let Some(groups) = &self.groups {
            // SAFETY: setgroups reads so many group ids, which outlive the call.
            check(GROUPS, unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
        }
        if let Some(gid) = self.gid {
            // SAFETY: setgid takes no pointer.
            check(GID, unsafe { libc::setgid(gid) })?;
        }
        if let Some(uid) = self.uid {
            // SAFETY: setuid takes no pointer.
            check(UID, unsafe { libc::setuid(uid) })?;
        }
        if let Some(directory) = &self.directory {
            // SAFETY: chdir reads a string that ends with a zero byte and outlives the call.
            check(DIRECTORY, unsafe { libc::chdir(directory.as_ptr()) })?;
        }
        Ok(())
    }
}

fn check(step: u8, result: libc::c_int) -> Result<(), (u8, Errno)> {
    Errno::result(result).map(drop).map_err(|error| (step, error))
}

pub(super) fn cpu_set(cpus: &[usize]) -> libc::cpu_set_t {
    // SAFETY: all zeros are an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus.iter().filter(|cpu| **cpu < CPUS_MAX) {
        // SAFETY: the number is within the set.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    set
}

/// In the child. What the parent ignores would be ignored by the worker too, which could then be
/// deaf to SIGTERM, or not wait for its own children.
fn reset_signals() -> io::Result<()> {
    // SAFETY: all zeros are a sigaction: the default, no flags, an empty mask.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: sigaction reads one struct, which outlives the call. It fails, without effect,
        // for those signals that can't be changed.
        unsafe { libc::sigaction(signal, &default, std::ptr::null_mut()) };
    }
    Ok(())
}

impl FailedStep<'_> {
    /// What the child was doing when its start failed, if it was one of its steps.
    pub(crate) fn describe(&self) -> Option<String> {
        let mut step = [0];
        let told = self.reader.as_ref().is_some_and(|reader| read(reader, &mut step) == Ok(1));
        let ChildOptions { limits, cpus, groups, gid, uid, directory } = self.options;
        match step[0] {
            _ if !told => None,
            CPUS => Some(format!("set its processors to {:?}", cpus.as_deref()?)),
            GROUPS => Some(format!("set its groups to {:?}", groups.as_deref().unwrap_or(&[]))),
            GID => Some(format!("set its group to {}", (*gid)?)),
            UID => Some(format!("set its user to {}", (*uid)?)),
            DIRECTORY => Some(format!("enter {}", directory.as_ref()?.display())),
            step => {
                let limit = limits.get(usize::from(step.checked_sub(LIMITS)?))?;
                let Limit { resource, soft, hard } = limit;
                Some(format!("limit its {resource} to {soft} (soft) and {hard} (hard)"))
            }
        }
    }
}
