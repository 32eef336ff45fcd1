//! For systems on which nobody has written shared memory yet: it can't be created.

use std::io;

use handle_passing::Handle;

use super::Access;
use crate::shm::MemoryError;

/// There is none.
#[derive(Debug)]
pub(crate) enum Mapping {}

impl Mapping {
    pub(crate) fn create(_: usize, _: bool) -> io::Result<Self> {
        Err(unsupported())
    }

    pub(crate) fn create_frozen(_: usize, _: impl FnOnce(&mut [u8])) -> io::Result<Self> {
        Err(unsupported())
    }

    pub(crate) fn open(_: Handle, _: usize, _: Access) -> Result<Self, MemoryError> {
        Err(unsupported().into())
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        match *self {}
    }

    pub(crate) fn into_handle(self) -> Handle {
        match self {}
    }

    pub(crate) fn try_clone_handle(&self) -> io::Result<Handle> {
        match *self {}
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        match *self {}
    }

    pub(crate) fn len(&self) -> usize {
        match *self {}
    }
}

fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "shared memory is not supported on this system")
}

/// Without it, bells do.
pub(crate) mod futex {
    use std::io;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    pub(crate) const IS_SHARED: bool = false;

    pub(crate) fn wait(_: &AtomicU32, _: u32, _: Duration) -> io::Result<bool> {
        Err(super::unsupported())
    }

    pub(crate) fn wake(_: &AtomicU32) {}
}
