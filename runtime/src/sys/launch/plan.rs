//! All that a child needs, laid out beforehand, since it can't allocate.

use std::cell::Cell;
use std::ffi::{CString, OsStr, c_char};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use crate::process::environment::Environment;
use crate::process::launch::{ChildEnd, Group, Launch, Limit};
use crate::process::{Resource, Step};
use crate::sys::clone;
use crate::sys::user::user_and_group;

/// What a child does, in the order of the fields.
pub(super) struct Plan {
    /// The list of processes of the control group that it joins.
    pub(super) cgroup: Option<OwnedFd>,
    pub(super) group: Group,
    /// By target, in ascending order.
    pub(super) descriptors: Vec<Descriptor>,
    pub(super) limits: Vec<(i32, Limit)>,
    pub(super) cpus: Option<clone::Processors>,
    pub(super) groups: Option<Vec<libc::gid_t>>,
    pub(super) gid: Option<libc::gid_t>,
    pub(super) uid: Option<libc::uid_t>,
    pub(super) directory: Option<CString>,
    pub(super) files: Vec<CString>,
    pub(super) args: Strings,
    pub(super) env: Strings,
}

/// A descriptor of the child.
pub(super) struct Descriptor {
    /// Where it is; the child changes it if that is another's target.
    pub(super) source: Cell<RawFd>,
    pub(super) target: RawFd,
    pub(super) is_in_the_way: bool,
}

impl Plan {
    pub(super) fn new(launch: &Launch) -> Result<Plan, (Step, io::Error)> {
        let options = &launch.options;
        let check = |error: io::Error| (Step::Check, error);
        // Who becomes another user does not keep the groups of this one.
        let becomes_another = options.uid.is_some_and(|uid| uid != user_and_group().0);
        let directory = options.directory.as_deref().map(c_string).transpose().map_err(check)?;
        let files = launch.files.iter().map(|file| c_string(file)).collect::<io::Result<_>>();
        let args = arguments(launch).map(|arg| [arg, OsStr::new("")]);
        Ok(Plan {
            cgroup: launch.cgroup.map(processes_of).transpose()?,
            group: launch.group,
            descriptors: descriptors(launch)?,
            limits: options.limits.iter().map(|limit| (system(limit.resource), *limit)).collect(),
            cpus: options.cpus.as_deref().map(clone::processors),
            groups: options.groups.clone().or(becomes_another.then(Vec::new)),
            gid: options.gid,
            uid: options.uid,
            directory,
            files: files.map_err(check)?,
            args: Strings::new(args, b""),
            env: Strings::environment(&launch.env),
        })
    }

    /// The number behind the last of the child's.
    pub(super) fn descriptors_end(&self) -> RawFd {
        self.descriptors.last().map_or(0, |last| last.target.saturating_add(1))
    }
}

/// A shell takes `-c`, the line, and what `$0`, `$1` … in it stand for.
fn arguments<'a>(launch: &'a Launch<'_>) -> impl Iterator<Item = &'a OsStr> + Clone {
    let name = &launch.args[..1];
    let line = launch.line.map(|line| [OsStr::new("-c"), line]);
    let name_of_line = if line.is_some() { name } else { &[] };
    let line = line.into_iter().flatten();
    name.iter().copied().chain(line).chain(name_of_line.iter().chain(&launch.args[1..]).copied())
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[allow(clippy::unnecessary_cast, reason = "systems differ in the type")]
fn system(resource: Resource) -> i32 {
    (match resource {
        Resource::AddressSpace => libc::RLIMIT_AS,
        Resource::CoreFile => libc::RLIMIT_CORE,
        Resource::ProcessorTime => libc::RLIMIT_CPU,
        Resource::Data => libc::RLIMIT_DATA,
        Resource::FileSize => libc::RLIMIT_FSIZE,
        Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
        Resource::OpenFiles => libc::RLIMIT_NOFILE,
        Resource::Processes => libc::RLIMIT_NPROC,
        Resource::Stack => libc::RLIMIT_STACK,
    }) as i32
}

fn processes_of(cgroup: &Path) -> Result<OwnedFd, (Step, io::Error)> {
    match OpenOptions::new().write(true).open(cgroup.join("cgroup.procs")) {
        Ok(file) => Ok(file.into()),
        Err(error) => Err((Step::ControlGroup(cgroup.into()), error)),
    }
}

fn descriptors(launch: &Launch) -> Result<Vec<Descriptor>, (Step, io::Error)> {
    let raw = |number: u32| {
        let error = |_| (Step::Descriptor(number), io::ErrorKind::InvalidInput.into());
        RawFd::try_from(number).map_err(error)
    };
    let mut descriptors = Vec::with_capacity(launch.descriptors.len());
    for (number, end) in &launch.descriptors {
        let (source, target) = match end {
            ChildEnd::Given(handle) => (handle.as_fd().as_raw_fd(), raw(*number)?),
            ChildEnd::Lent(handle) => (handle.as_fd().as_raw_fd(), raw(*number)?),
            ChildEnd::Inherited(source) => (raw(*source)?, raw(*number)?),
        };
        let is_target = u32::try_from(source).is_ok_and(|n| launch.descriptors.contains_key(&n));
        let is_in_the_way = is_target && source != target;
        descriptors.push(Descriptor { source: Cell::new(source), target, is_in_the_way });
    }
    Ok(descriptors)
}

/// Strings as execve(2) takes them.
pub(super) struct Strings {
    /// Into the bytes, and null at the end.
    pointers: Vec<*const c_char>,
    _bytes: Vec<u8>,
}

impl Strings {
    /// These strings of two parts.
    fn new<'a>(strings: impl Iterator<Item = [&'a OsStr; 2]> + Clone, between: &[u8]) -> Strings {
        let length = |[first, second]: [&OsStr; 2]| first.len() + between.len() + second.len() + 1;
        let mut bytes: Vec<u8> = Vec::with_capacity(strings.clone().map(length).sum());
        let mut pointers = Vec::with_capacity(64);
        for [first, second] in strings {
            // The bytes stay where they are, since they were allocated for all.
            pointers.push(bytes.as_ptr().wrapping_add(bytes.len()).cast());
            for part in [first.as_bytes(), between, second.as_bytes(), b"\0"] {
                bytes.extend_from_slice(part);
            }
        }
        pointers.push(ptr::null());
        Strings { pointers, _bytes: bytes }
    }

    fn environment(env: &Environment) -> Strings {
        // By std, which has other threads that change it by std wait: they may, though nobody may
        // look at it in place meanwhile.
        let ours = (!env.is_clear).then(std::env::vars_os).into_iter().flatten();
        let kept: Vec<_> = ours.filter(|(key, _)| !env.changes.contains_key(&**key)).collect();
        let kept = kept.iter().map(|(key, value)| [key.as_os_str(), value.as_os_str()]);
        let set = env.changes.iter().filter_map(|(key, value)| Some([*key, (*value)?]));
        Strings::new(kept.chain(set), b"=")
    }

    pub(super) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}
