//! What of a command can be known to be wrong before anything is done.

use std::ffi::OsStr;

use super::command::Command;
use super::environment;
use super::launch::Group;

/// The highest number of a child's descriptor: what Linux lets a process have, unless its
/// `fs.nr_open` was changed.
const DESCRIPTOR_MAX: u32 = (1 << 20) - 1;

/// The highest number of a process, and so of a group of them.
const GROUP_MAX: u32 = i32::MAX.cast_unsigned();

/// Says what to change.
pub(super) fn check(command: &Command) -> Result<(), String> {
    if command.file.is_empty() {
        return Err("its file is an empty text; name a program".into());
    }
    let options = &command.options;
    let texts = [
        ("file", Some(command.file.as_os_str())),
        ("arg0", command.arg0.as_deref()),
        ("shell", command.shell.as_ref().map(|path| path.as_os_str())),
        ("current_dir", options.directory.as_ref().map(|path| path.as_os_str())),
        ("cgroup", command.cgroup.as_ref().map(|path| path.as_os_str())),
        ("user", command.user.as_deref().map(OsStr::new)),
    ];
    for (name, text) in texts {
        if text.is_some_and(has_zero) {
            return Err(format!("{name}: it holds a zero byte; leave it out"));
        }
    }
    if let Some(index) = command.args.iter().position(|arg| has_zero(arg)) {
        return Err(format!("args: the one with index {index} holds a zero byte; leave it out"));
    }
    for (key, value) in &command.env {
        environment::check(key, value.as_deref())?;
    }
    if let Some(number) = command.stdio.keys().find(|number| **number > DESCRIPTOR_MAX) {
        return Err(format!("descriptor {number}: the highest number is {DESCRIPTOR_MAX}"));
    }
    if let Group::Of(group) = command.group
        && group > GROUP_MAX
    {
        return Err(format!("process_group: there is no group {group}; use 0 for a new one"));
    }
    options.check()
}

fn has_zero(text: &OsStr) -> bool {
    text.as_encoded_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Resource, Stdio};

    fn error_of(prepare: impl FnOnce(&mut Command) -> &mut Command) -> String {
        let mut command = Command::new("ls");
        prepare(&mut command);
        check(&command).expect_err("it can't be carried out")
    }

    #[test]
    fn what_cannot_work_is_named_with_its_remedy() {
        let texts = [
            (check(&Command::new("")).unwrap_err(), "its file is an empty text; name a program"),
            (check(&Command::new("l\0s")).unwrap_err(), "file: it holds a zero byte"),
            (error_of(|c| c.arg("a").arg("b\0")), "args: the one with index 1 holds a zero"),
            (error_of(|c| c.arg0("\0")), "arg0: it holds a zero byte"),
            (error_of(|c| c.current_dir("a\0")), "current_dir: it holds a zero byte"),
            (error_of(|c| c.cgroup("a\0")), "cgroup: it holds a zero byte"),
            (error_of(|c| c.user("a\0")), "user: it holds a zero byte"),
            (error_of(|c| c.env("A=B", "c")), "env: \"A=B\" is no name; leave out '='"),
            (error_of(|c| c.env("", "c")), "env: \"\" is no name"),
            (error_of(|c| c.env_remove("=")), "env: \"=\" is no name"),
            (error_of(|c| c.env("A", "c\0")), "env: the value of \"A\" holds a zero byte"),
            (error_of(|c| c.cpu_affinity([])), "cpu_affinity: no processor; name one"),
            (error_of(|c| c.cpu_affinity([1 << 20])), "cpu_affinity: no processor 1048576"),
            (
                error_of(|c| c.rlimit(Resource::OpenFiles, 11, 10)),
                "rlimit: open files: 11 is above the hard limit 10",
            ),
            (
                error_of(|c| c.descriptor(1 << 20, Stdio::null())),
                "descriptor 1048576: the highest number is 1048575",
            ),
            (
                error_of(|c| c.process_group(u32::MAX)),
                "process_group: there is no group 4294967295; use 0",
            ),
        ];
        for (error, text) in texts {
            assert!(error.contains(text), "{error:?} does not say {text:?}");
        }
    }

    #[test]
    fn what_can_be_is_let_through() {
        let mut command = Command::new("ls");
        command.arg("").arg0("").env("A", "").env("B", "=").env_remove("C").args(["-l", "é"]);
        command.rlimit(Resource::Stack, 1, 1).rlimit(Resource::Data, 0, Resource::UNLIMITED);
        command.cpu_affinity([0]).descriptor((1 << 20) - 1, Stdio::null()).process_group(0);
        assert_eq!(check(&command), Ok(()));
    }
}
