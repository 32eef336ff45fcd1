//! A child process, by its handle, and the job that it is in with all that it starts.
#![allow(unsafe_code)] // System calls.

use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, OwnedHandle};
use std::time::Instant;

use ipc_core::overlapped::Alarm;
use mio::event::Source;
use mio::{Interest, Registry, Token};
use windows_sys::Win32::Foundation::{WAIT_FAILED, WAIT_OBJECT_0};
use windows_sys::Win32::System::JobObjects::{
    JOBOBJECT_BASIC_ACCOUNTING_INFORMATION, JobObjectBasicAccountingInformation,
    QueryInformationJobObject, TerminateJobObject,
};
use windows_sys::Win32::System::Threading::{
    GetExitCodeProcess, INFINITE, TerminateProcess, WaitForMultipleObjects, WaitForSingleObject,
};

use super::check;
use super::timer::Timer;
use crate::clock::time_left;
use crate::exit::Exit;
use crate::process::Signal;
use crate::process::descendants::Lineage;

/// The code that a process ends with when it is ended, as with Node.
pub(super) const KILLED: u32 = 1;

/// A child process: readable when it has ended, never another process.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    /// Before the process, which must be closed later.
    alarm: Alarm,
    process: OwnedHandle,
    job: OwnedHandle,
}

impl Process {
    pub(super) fn new(pid: u32, process: OwnedHandle, job: OwnedHandle) -> Process {
        Process { pid, alarm: Alarm::default(), process, job }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends it, by one of the signals that do that; false if it has ended already.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<bool> {
        check_signal(signal)?;
        if !self.is_alive() {
            return Ok(false);
        }
        // SAFETY: the process is open.
        match check(unsafe { TerminateProcess(self.process.as_raw_handle(), KILLED) }) {
            Ok(()) => Ok(true),
            // It has ended meanwhile, which is reported as a lack of rights.
            Err(_) if !self.is_alive() => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        // SAFETY: the process is open.
        unsafe { WaitForSingleObject(self.process.as_raw_handle(), 0) != WAIT_OBJECT_0 }
    }

    /// How it has ended, if it has.
    pub(crate) fn reap(&self) -> io::Result<Option<Exit>> {
        if self.is_alive() {
            return Ok(None);
        }
        let mut code = 0;
        // SAFETY: the process is open, and `code` outlives the call.
        check(unsafe { GetExitCodeProcess(self.process.as_raw_handle(), &raw mut code) })?;
        Ok(Some(Exit::Code(code.cast_signed())))
    }

    /// Returns when it has ended, the timer has rung, or the deadline has passed.
    pub(crate) fn wait_until(
        &self,
        timer: Option<&Timer>,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        // Rounded up, so that a caller whose time is not quite over does not spin.
        let millis = deadline.map_or(INFINITE, |deadline| {
            let millis = time_left(deadline).as_nanos().div_ceil(1_000_000);
            u32::try_from(millis).unwrap_or(INFINITE).min(INFINITE - 1)
        });
        let objects = [Some(self.as_handle()), timer.map(AsHandle::as_handle)];
        let objects: Vec<_> = objects.iter().flatten().map(AsRawHandle::as_raw_handle).collect();
        let count = u32::try_from(objects.len()).expect("two at most");
        // SAFETY: so many handles are there, and all of them are open.
        match unsafe { WaitForMultipleObjects(count, objects.as_ptr(), 0, millis) } {
            WAIT_FAILED => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

/// Ends a child and all that it has started; says how many processes. There are no orphans to give
/// away: a job holds on to everything.
pub(crate) fn kill_tree(
    process: &Process,
    _lineage: &Lineage,
    signal: i32,
    _orphan: impl FnMut(Process),
) -> io::Result<usize> {
    check_signal(signal)?;
    let mut accounting = JOBOBJECT_BASIC_ACCOUNTING_INFORMATION::default();
    let bytes = u32::try_from(size_of_val(&accounting)).expect("a few bytes");
    let job = process.job.as_raw_handle();
    // SAFETY: the job is open; `accounting` is what is asked for, has the size that is given, and
    // outlives the call.
    check(unsafe {
        QueryInformationJobObject(
            job,
            JobObjectBasicAccountingInformation,
            (&raw mut accounting).cast(),
            bytes,
            std::ptr::null_mut(),
        )
    })?;
    // SAFETY: the job is open.
    check(unsafe { TerminateJobObject(job, KILLED) })?;
    Ok(accounting.ActiveProcesses as usize)
}

/// Whether this signal ends processes here.
fn check_signal(signal: i32) -> io::Result<()> {
    if [Signal::TERM, Signal::KILL, Signal::INT].iter().any(|known| known.number() == signal) {
        return Ok(());
    }
    let text = format!(
        "Windows has no signal {signal}: only SIGTERM, SIGKILL and SIGINT mean something there, \
         and all three end a process at once"
    );
    Err(io::Error::new(io::ErrorKind::Unsupported, text))
}

impl AsHandle for Process {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.process.as_handle()
    }
}

impl Source for &Process {
    fn register(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        self.alarm.register(self.as_handle(), registry, token)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        self.alarm.reregister(registry, token)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.alarm.deregister(registry)
    }
}
