//! A delay as an object of the system, which a thread can wait for, and a poll by a bell.
#![allow(unsafe_code)] // System calls.

use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, OwnedHandle};
use std::ptr;
use std::time::Duration;

use ipc_core::overlapped::Alarm;
use mio::event::Source;
use mio::{Interest, Registry, Token};
use windows_sys::Win32::System::Threading::{
    CREATE_WAITABLE_TIMER_MANUAL_RESET, CancelWaitableTimer, CreateWaitableTimerExW,
    SetWaitableTimer, TIMER_ALL_ACCESS,
};

use super::{check, owned};

/// The longest delay, about 136 years.
const DELAY_MAX: Duration = Duration::from_secs(1 << 32);

/// The clock of timers ticks 64 times a second, so that a delay can seem to be over as much too
/// early by a finer one. It must not: nobody would wait for the rest of it.
const TICK: Duration = Duration::from_millis(16);

/// What the system counts delays in.
const UNIT_NANOS: u128 = 100;

/// Becomes readable, once, after the delay that it is set to.
#[derive(Debug)]
pub(crate) struct Timer {
    /// Before the timer, which must be closed later.
    alarm: Alarm,
    timer: OwnedHandle,
}

impl Timer {
    pub(crate) fn new() -> io::Result<Timer> {
        // SAFETY: neither attributes nor a name are passed.
        let timer = owned(unsafe {
            CreateWaitableTimerExW(
                ptr::null(),
                ptr::null(),
                CREATE_WAITABLE_TIMER_MANUAL_RESET,
                TIMER_ALL_ACCESS,
            )
        })?;
        Ok(Timer { alarm: Alarm::default(), timer })
    }

    /// Replaces the delay; `None` turns the timer off.
    pub(crate) fn set(&self, delay: Option<Duration>) -> io::Result<()> {
        self.alarm.rewind(self.as_handle(), || {
            self.start(delay.unwrap_or(DELAY_MAX))?;
            if delay.is_some() {
                return Ok(());
            }
            // SAFETY: the timer is open. Since it was set it is no longer signalled.
            check(unsafe { CancelWaitableTimer(self.timer.as_raw_handle()) })
        })
    }

    fn start(&self, delay: Duration) -> io::Result<()> {
        let delay = if delay.is_zero() { delay } else { delay.min(DELAY_MAX) + TICK };
        let units = delay.as_nanos().div_ceil(UNIT_NANOS).max(1);
        // What is negative counts from now.
        let due = -i64::try_from(units).unwrap_or(i64::MAX);
        let timer = self.timer.as_raw_handle();
        // SAFETY: the timer is open, `due` outlives the call, and there is no routine to call.
        check(unsafe { SetWaitableTimer(timer, &raw const due, 0, None, ptr::null(), 0) })
    }
}

impl AsHandle for Timer {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.timer.as_handle()
    }
}

impl Source for &Timer {
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
