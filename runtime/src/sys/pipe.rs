//! Streams between this process and a child.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use handle_passing::Handle;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{Shutdown, shutdown};

use super::sigpipe::without_sigpipe;

/// Our end of a stream, close-on-exec. It blocks until told otherwise.
#[derive(Debug)]
pub(crate) struct Pipe(File);

/// A pipe that the child reads: our end, and the child's.
pub(crate) fn pipe_to_child() -> io::Result<(Pipe, Handle)> {
    let (reader, writer) = io::pipe()?;
    Ok((OwnedFd::from(writer).into(), reader.into()))
}

/// A pipe that the child writes: our end, and the child's.
pub(crate) fn pipe_from_child() -> io::Result<(Pipe, Handle)> {
    let (reader, writer) = io::pipe()?;
    Ok((OwnedFd::from(reader).into(), writer.into()))
}

/// A stream in both directions: our end, and the child's.
pub(crate) fn duplex() -> io::Result<(Pipe, Handle)> {
    let (ours, childs) = UnixStream::pair()?;
    Ok((OwnedFd::from(ours).into(), childs.into()))
}

/// What is always at its end, and takes everything.
pub(crate) fn null() -> io::Result<Handle> {
    Ok(OpenOptions::new().read(true).write(true).open("/dev/null")?.into())
}

impl Pipe {
    pub(crate) fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        let flags = OFlag::from_bits_retain(fcntl(&self.0, FcntlArg::F_GETFL)?);
        let wanted = match is_nonblocking {
            true => flags | OFlag::O_NONBLOCK,
            false => flags - OFlag::O_NONBLOCK,
        };
        if wanted != flags {
            fcntl(&self.0, FcntlArg::F_SETFL(wanted))?;
        }
        Ok(())
    }

    /// Ends what the child reads from a [`duplex`], which can still be read.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        Ok(shutdown(self.0.as_raw_fd(), Shutdown::Write)?)
    }
}

impl From<OwnedFd> for Pipe {
    fn from(descriptor: OwnedFd) -> Pipe {
        Pipe(descriptor.into())
    }
}

impl From<Pipe> for Handle {
    fn from(pipe: Pipe) -> Handle {
        OwnedFd::from(pipe.0).into()
    }
}

impl Read for &Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }
}

impl Write for &Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        without_sigpipe(|| (&self.0).write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

source_by_descriptor! {
    Pipe
}
