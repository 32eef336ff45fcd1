//! Starts a process, in a job of its own, before it runs.
#![allow(unsafe_code)] // System calls.

use std::ffi::{OsStr, c_void};
use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr;

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_BAD_EXE_FORMAT, ERROR_DIRECTORY, ERROR_FILE_NOT_FOUND,
    ERROR_PATH_NOT_FOUND, ERROR_SHARING_VIOLATION, HANDLE,
};
use windows_sys::Win32::System::JobObjects::{AssignProcessToJobObject, CreateJobObjectW};
use windows_sys::Win32::System::Threading::{
    CREATE_NEW_PROCESS_GROUP, CREATE_NO_WINDOW, CREATE_SUSPENDED, CREATE_UNICODE_ENVIRONMENT,
    CreateProcessW, DETACHED_PROCESS, DeleteProcThreadAttributeList, EXTENDED_STARTUPINFO_PRESENT,
    InitializeProcThreadAttributeList, LPPROC_THREAD_ATTRIBUTE_LIST,
    PROC_THREAD_ATTRIBUTE_HANDLE_LIST, PROCESS_INFORMATION, ResumeThread, STARTF_USESHOWWINDOW,
    STARTF_USESTDHANDLES, STARTUPINFOEXW, SetProcessAffinityMask, TerminateProcess,
    UpdateProcThreadAttribute,
};

use super::process::{KILLED, Process};
use super::stdio::ChildHandles;
use super::text::{self, COMMAND_LINE_MAX, environment_block, merged};
use super::{check, owned, program, wide};
use crate::process::Step;
use crate::process::environment::Environment;
use crate::process::launch::{ChildOptions, Group, Launch};

/// A window that is not shown, see ShowWindow.
const SW_HIDE: u16 = 0;

pub(super) type Failure = (Step, io::Error);

/// Starts a process; if that fails, nothing of it is left.
pub(crate) fn launch(launch: &Launch<'_>) -> Result<Process, Failure> {
    check_options(launch)?;
    let texts = Texts::new(launch)?;
    let job = new_job().map_err(|error| (Step::Create, error))?;
    let handles = ChildHandles::new(launch)?;
    let suspended = create(launch, &texts, &handles)?;
    drop(handles);
    match suspended.release(launch, &job) {
        Ok(()) => Ok(Process::new(suspended.pid, suspended.process, job)),
        Err(failure) => {
            // SAFETY: the process is open.
            unsafe { TerminateProcess(suspended.process.as_raw_handle(), KILLED) };
            Err(failure)
        }
    }
}

/// What a process here does not have can't be set.
fn check_options(launch: &Launch<'_>) -> Result<(), Failure> {
    let ChildOptions { limits, groups, gid, uid, directory, .. } = &*launch.options;
    let unsupported = [
        (uid.is_some(), "a user can't be set", "uid"),
        (gid.is_some(), "a group can't be set", "gid"),
        (groups.is_some(), "groups can't be set", "groups"),
        (!limits.is_empty(), "resources can't be limited", "rlimit"),
        (launch.cgroup.is_some(), "there are no control groups", "cgroup"),
        (
            matches!(launch.group, Group::Of(_)),
            "a process can begin a group, and not join one",
            "process_group",
        ),
    ];
    if let Some((_, what, option)) = unsupported.iter().find(|(is_set, ..)| *is_set) {
        let text = format!("{what} on Windows: leave out the option `{option}`");
        return Err((Step::Check, io::Error::new(io::ErrorKind::Unsupported, text)));
    }
    if let Some(directory) = directory
        && let Some(error) = directory_error(directory)
    {
        return Err((Step::Directory(directory.clone()), error));
    }
    Ok(())
}

/// The system does not say of a directory why it can't be entered.
fn directory_error(directory: &Path) -> Option<io::Error> {
    match std::fs::metadata(directory) {
        Ok(found) if found.is_dir() => None,
        Ok(_) => Some(io::ErrorKind::NotADirectory.into()),
        Err(error) => Some(error),
    }
}

/// What the system is told, each with a NUL at its end.
struct Texts {
    program: Vec<u16>,
    /// It may be written to.
    command_line: Vec<u16>,
    environment: Vec<u16>,
    directory: Option<Vec<u16>>,
    step: Step,
}

impl Texts {
    fn new(launch: &Launch<'_>) -> Result<Texts, Failure> {
        let env = environment(&launch.env);
        let program = program::find(launch, &env)?;
        let mut command_line = command_line(launch, &program)?;
        if command_line.len() > COMMAND_LINE_MAX {
            return Err(invalid(&format!(
                "its arguments are {} characters long, and the system takes {COMMAND_LINE_MAX}: \
                 pass them through standard input or a file",
                command_line.len()
            )));
        }
        command_line.push(0);
        Ok(Texts {
            program: with_nul(program.as_os_str()),
            command_line,
            environment: environment_block(&env),
            directory: launch.options.directory.as_deref().map(|path| with_nul(path.as_os_str())),
            step: Step::Execute(program),
        })
    }
}

fn environment(env: &Environment<'_>) -> Vec<(Vec<u16>, Vec<u16>)> {
    let ours = std::env::vars_os().filter(|_| !env.is_clear);
    let ours = ours.map(|(name, value)| (wide(&name), wide(&value)));
    merged(ours, env.changes.iter().map(|(name, value)| (wide(name), value.map(wide))))
}

/// The arguments, or what makes a shell read a line.
fn command_line(launch: &Launch<'_>, program: &Path) -> Result<Vec<u16>, Failure> {
    let args: Vec<_> = launch.args.iter().map(|arg| wide(arg)).collect();
    let (name, rest) = args.split_first().expect("at least the name");
    if name.contains(&b'"'.into()) {
        return Err(invalid("arg0: it can't hold a quotation mark here; leave it out"));
    }
    let Some(line) = launch.line.map(wide) else { return Ok(text::command_line(&args, None)) };
    if !program.file_stem().is_some_and(|stem| stem.eq_ignore_ascii_case("cmd")) {
        let args = [&[name.clone(), wide("-c".as_ref()), line, name.clone()], rest].concat();
        return Ok(text::command_line(&args, None));
    }
    if !rest.is_empty() {
        return Err(invalid("args: cmd.exe has none for a line; write them into it, with care"));
    }
    // It takes off the first quotation mark and the last, and what is between as it is.
    let quote = [u16::from(b'"')];
    let line = [&quote[..], &line, &quote[..]].concat();
    let args = [name.clone(), wide("/d".as_ref()), wide("/s".as_ref()), wide("/c".as_ref())];
    Ok(text::command_line(&args, Some(&line)))
}

fn invalid(text: &str) -> Failure {
    (Step::Check, io::Error::new(io::ErrorKind::InvalidInput, text))
}

fn with_nul(text: &OsStr) -> Vec<u16> {
    let mut text = wide(text);
    text.push(0);
    text
}

/// A process that does not run yet.
struct Suspended {
    pid: u32,
    process: OwnedHandle,
    thread: OwnedHandle,
}

impl Suspended {
    /// Has it run, in a job, on the processors that it may use.
    fn release(&self, launch: &Launch<'_>, job: &OwnedHandle) -> Result<(), Failure> {
        let (process, thread) = (self.process.as_raw_handle(), self.thread.as_raw_handle());
        // SAFETY: both are open.
        check(unsafe { AssignProcessToJobObject(job.as_raw_handle(), process) })
            .map_err(|error| (Step::Create, error))?;
        if let Some(cpus) = &launch.options.cpus {
            let mask = cpus.iter().filter_map(|cpu| 1_usize.checked_shl(u32::try_from(*cpu).ok()?));
            let mask = mask.fold(0, |mask, cpu| mask | cpu);
            // SAFETY: the process is open.
            check(unsafe { SetProcessAffinityMask(process, mask) })
                .map_err(|error| (Step::Processors(cpus.clone()), error))?;
        }
        // SAFETY: the thread is open. The answer is how often it was suspended, or -1.
        match unsafe { ResumeThread(thread) } {
            u32::MAX => Err((Step::Create, io::Error::last_os_error())),
            _ => Ok(()),
        }
    }
}

/// A job without limits: it is what a process and all that it starts can be ended by.
fn new_job() -> io::Result<OwnedHandle> {
    // SAFETY: neither attributes nor a name are passed.
    owned(unsafe { CreateJobObjectW(ptr::null(), ptr::null()) })
}

fn create(
    launch: &Launch<'_>,
    texts: &Texts,
    handles: &ChildHandles<'_>,
) -> Result<Suspended, Failure> {
    let list = handles.list();
    let mut attributes = Attributes::of_handles(&list).map_err(|error| (Step::Create, error))?;
    let mut for_c_runtime = handles.for_c_runtime();
    let mut startup = STARTUPINFOEXW::default();
    startup.StartupInfo.cb = u32::try_from(size_of_val(&startup)).expect("a few bytes");
    startup.StartupInfo.dwFlags = STARTF_USESTDHANDLES;
    if launch.is_window_hidden {
        startup.StartupInfo.dwFlags |= STARTF_USESHOWWINDOW;
        startup.StartupInfo.wShowWindow = SW_HIDE;
    }
    startup.StartupInfo.hStdInput = handles.get(0);
    startup.StartupInfo.hStdOutput = handles.get(1);
    startup.StartupInfo.hStdError = handles.get(2);
    startup.StartupInfo.cbReserved2 = u16::try_from(for_c_runtime.len()).expect("a small table");
    startup.StartupInfo.lpReserved2 = for_c_runtime.as_mut_ptr();
    startup.lpAttributeList = attributes.as_mut_ptr();
    let mut line = texts.command_line.clone();
    let directory = texts.directory.as_ref().map_or(ptr::null(), |text| text.as_ptr());
    let mut info = PROCESS_INFORMATION::default();
    // SAFETY: all texts end with a NUL, the environment with two; the command line may be written
    // to; the structure is the extended one, as its size and the flag say; all of it outlives the
    // call, with the handles that it names, which are open.
    let result = unsafe {
        CreateProcessW(
            texts.program.as_ptr(),
            line.as_mut_ptr(),
            ptr::null(),
            ptr::null(),
            i32::from(!list.is_empty()),
            flags(launch.group, launch.is_window_hidden),
            texts.environment.as_ptr().cast(),
            directory,
            &raw const startup.StartupInfo,
            &raw mut info,
        )
    };
    check(result).map_err(|error| explain(launch, texts, error))?;
    let own = |handle: HANDLE| owned(handle).map_err(|error| (Step::Create, error));
    Ok(Suspended {
        pid: info.dwProcessId,
        process: own(info.hProcess)?,
        thread: own(info.hThread)?,
    })
}

/// How the process is made.
pub(super) fn flags(group: Group, is_window_hidden: bool) -> u32 {
    let group = match group {
        // It has no console at all.
        Group::Session => DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP,
        Group::Own => CREATE_NEW_PROCESS_GROUP,
        Group::Inherited | Group::Of(_) => 0,
    };
    let window =
        if is_window_hidden && group & DETACHED_PROCESS == 0 { CREATE_NO_WINDOW } else { 0 };
    group | window | CREATE_SUSPENDED | CREATE_UNICODE_ENVIRONMENT | EXTENDED_STARTUPINFO_PRESENT
}

fn explain(launch: &Launch<'_>, texts: &Texts, error: io::Error) -> Failure {
    let step = match error.raw_os_error().unwrap_or(0).cast_unsigned() {
        ERROR_DIRECTORY => Step::Directory(launch.options.directory.clone().unwrap_or_default()),
        ERROR_FILE_NOT_FOUND
        | ERROR_PATH_NOT_FOUND
        | ERROR_ACCESS_DENIED
        | ERROR_SHARING_VIOLATION
        | ERROR_BAD_EXE_FORMAT => texts.step.clone(),
        _ => Step::Create,
    };
    (step, error)
}

/// What a process is started with beside the rest: the handles that it inherits, and no others.
struct Attributes<'a> {
    /// Aligned as for pointers; empty if there is no handle.
    memory: Vec<usize>,
    /// The system keeps a pointer to it.
    _handles: &'a [HANDLE],
}

impl<'a> Attributes<'a> {
    fn of_handles(handles: &'a [HANDLE]) -> io::Result<Attributes<'a>> {
        let mut attributes = Attributes { memory: Vec::new(), _handles: handles };
        if handles.is_empty() {
            return Ok(attributes);
        }
        let mut bytes = 0;
        // SAFETY: without memory it answers how much is needed, and nothing else.
        unsafe { InitializeProcThreadAttributeList(ptr::null_mut(), 1, 0, &raw mut bytes) };
        let mut memory = vec![0; bytes.div_ceil(size_of::<usize>())];
        let list: LPPROC_THREAD_ATTRIBUTE_LIST = memory.as_mut_ptr().cast();
        // SAFETY: there is as much memory as it has asked for.
        check(unsafe { InitializeProcThreadAttributeList(list, 1, 0, &raw mut bytes) })?;
        attributes.memory = memory;
        // SAFETY: the list was initialized for one attribute, which has the size that is given; the
        // handles outlive the list.
        check(unsafe {
            UpdateProcThreadAttribute(
                list,
                0,
                PROC_THREAD_ATTRIBUTE_HANDLE_LIST as usize,
                handles.as_ptr().cast::<c_void>(),
                size_of_val(handles),
                ptr::null_mut(),
                ptr::null(),
            )
        })?;
        Ok(attributes)
    }

    fn as_mut_ptr(&mut self) -> LPPROC_THREAD_ATTRIBUTE_LIST {
        if self.memory.is_empty() { ptr::null_mut() } else { self.memory.as_mut_ptr().cast() }
    }
}

impl Drop for Attributes<'_> {
    fn drop(&mut self) {
        if !self.memory.is_empty() {
            // SAFETY: it was initialized, and is not used any longer.
            unsafe { DeleteProcThreadAttributeList(self.as_mut_ptr()) };
        }
    }
}
