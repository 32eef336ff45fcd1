//! Wakes a poll.
//!
//! mio watches sockets and named pipes here, and nothing else. So whatever else shall wake a poll
//! has a pipe for it, whose other end is closed: to register such a pipe anew makes it ready anew.
#![allow(unsafe_code)] // System calls.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mio::event::Source;
use mio::windows::NamedPipe;
use mio::{Interest, Registry, Token};
use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::System::Threading::{
    INFINITE, RegisterWaitForSingleObject, UnregisterWaitEx, WT_EXECUTEONLYONCE,
};

use super::{named, security};

/// Wakes a poll when an object is signalled.
///
/// The object must be closed later than this.
#[derive(Debug, Default)]
pub struct Alarm {
    /// While it is registered.
    watch: Mutex<Option<Watch>>,
    bell: Arc<Bell>,
}

impl Alarm {
    /// To be registered is an event of its own.
    pub fn register(
        &self,
        object: BorrowedHandle<'_>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        let mut watch = lock(&self.watch);
        self.bell.register(registry, token)?;
        match Watch::start(object, &self.bell) {
            Ok(started) => *watch = Some(started),
            Err(error) => {
                let _ = self.bell.deregister(registry);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Likewise.
    pub fn reregister(&self, registry: &Registry, token: Token) -> io::Result<()> {
        self.bell.reregister(registry, token)
    }

    /// Nothing wakes the poll any more.
    pub fn deregister(&self, registry: &Registry) -> io::Result<()> {
        drop(lock(&self.watch).take());
        self.bell.deregister(registry)
    }

    /// Does something after which the object can be signalled once more.
    pub fn rewind(
        &self,
        object: BorrowedHandle<'_>,
        act: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut watch = lock(&self.watch);
        let is_registered = watch.take().is_some();
        let result = act();
        if is_registered {
            *watch = Some(Watch::start(object, &self.bell)?);
        }
        result
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the poll that it is registered with return.
#[derive(Debug, Default)]
pub struct Bell(Mutex<Option<Rope>>);

#[derive(Debug)]
struct Rope {
    pipe: NamedPipe,
    registry: Registry,
    token: Token,
}

impl Bell {
    /// Rings, as any registration of a source here does.
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let mut rope = self.rope();
        if rope.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (ours, theirs) = named::unnamed_pair()?;
        drop(theirs);
        let (mut pipe, registry) = (security::into_mio(ours), registry.try_clone()?);
        pipe.register(&registry, token, Interest::READABLE)?;
        *rope = Some(Rope { pipe, registry, token });
        Ok(())
    }

    /// Likewise.
    pub fn reregister(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let mut rope = self.rope();
        let Rope { pipe, token: current, .. } = rope.as_mut().ok_or(io::ErrorKind::NotFound)?;
        pipe.reregister(registry, token, Interest::READABLE)?;
        *current = token;
        Ok(())
    }

    /// Nobody hears it any more.
    pub fn deregister(&self, registry: &Registry) -> io::Result<()> {
        let mut rope = self.rope().take().ok_or(io::ErrorKind::NotFound)?;
        rope.pipe.deregister(registry)
    }

    /// Makes the poll return, if there is one.
    pub fn ring(&self) {
        if let Some(Rope { pipe, registry, token }) = &mut *self.rope() {
            // It can only fail when the system has no memory; then nothing else would work either.
            let _ = pipe.reregister(registry, *token, Interest::READABLE);
        }
    }

    /// Rings when an object is signalled, if somebody would hear it and nothing rings then yet.
    pub fn watch(
        self: &Arc<Self>,
        watch: &mut Option<Watch>,
        object: BorrowedHandle<'_>,
    ) -> io::Result<()> {
        if watch.is_none() && self.rope().is_some() {
            *watch = Some(Watch::start(object, self)?);
        }
        Ok(())
    }

    fn rope(&self) -> MutexGuard<'_, Option<Rope>> {
        lock(&self.0)
    }
}

/// Rings a bell when an object is signalled, once, from a thread of the system's.
#[derive(Debug)]
pub struct Watch {
    wait: HANDLE,
    bell: *const Bell,
}

// SAFETY: the wait may be ended by any thread, and a Bell is Send and Sync.
unsafe impl Send for Watch {}

impl Watch {
    /// The object must be closed after the watch only.
    pub fn start(object: BorrowedHandle<'_>, bell: &Arc<Bell>) -> io::Result<Watch> {
        let bell = Arc::into_raw(Arc::clone(bell));
        let mut wait: HANDLE = ptr::null_mut();
        // SAFETY: the object is open; `bell` stays where it is until the wait has ended, which
        // `drop` sees to, or at once if there is none.
        let result = unsafe {
            RegisterWaitForSingleObject(
                &raw mut wait,
                object.as_raw_handle(),
                Some(ring),
                bell.cast(),
                INFINITE,
                WT_EXECUTEONLYONCE,
            )
        };
        if result == 0 {
            let error = io::Error::last_os_error();
            // SAFETY: it came from an Arc just now, and no wait has it.
            drop(unsafe { Arc::from_raw(bell) });
            return Err(error);
        }
        Ok(Watch { wait, bell })
    }
}

unsafe extern "system" fn ring(bell: *mut c_void, _has_timed_out: bool) {
    // SAFETY: it is the Bell of a Watch, which outlives its wait.
    unsafe { &*bell.cast::<Bell>() }.ring();
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: the wait was registered, and is ended once. The call returns when `ring` neither
        // runs nor will run, so that the bell can go.
        unsafe {
            UnregisterWaitEx(self.wait, INVALID_HANDLE_VALUE);
            drop(Arc::from_raw(self.bell));
        }
    }
}
