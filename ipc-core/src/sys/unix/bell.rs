use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use handle_passing::Handle;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token, event};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, recv};

/// One end of a socket pair. Not an eventfd: of that both processes share one `O_NONBLOCK`, which a
/// peer can take away, and a write to a full one then blocks for ever. Of a socket each call says
/// that it does not block, and its end tells of the peer's death as well.
#[derive(Debug)]
pub(crate) struct Bell(UnixStream);

impl Bell {
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        UnixStream::pair().map(|(a, b)| (Self(a), Self(b)))
    }

    pub(crate) fn from_handle(handle: Handle) -> io::Result<Self> {
        let stream = handle.into_type::<UnixStream>()?;
        stream.peer_addr()?; // That it is connected.
        Ok(Self(stream))
    }

    pub(crate) fn into_handle(self) -> Handle {
        self.0.into()
    }

    pub(crate) fn ring(&self) {
        // A bell that is full was rung, and a peer that is gone needs none.
        let _ = handle_passing::try_send(&self.0, &[1], &[]);
    }

    pub(crate) fn silence(&self) -> io::Result<bool> {
        for _ in 0..SILENCE_READS_MAX {
            match recv(self.fd(), &mut [0; 256], MsgFlags::MSG_DONTWAIT) {
                Ok(0) | Err(Errno::ECONNRESET) => return Ok(true),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        super::wait(self.0.as_fd(), PollFlags::POLLIN, timeout)
    }

    pub(crate) fn hang_up(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both); // Fails when the peer was faster.
    }

    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Only reading matters: a ring is told by being rung.
impl event::Source for Bell {
    fn register(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        SourceFd(&self.fd()).register(registry, token, Interest::READABLE)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        SourceFd(&self.fd()).reregister(registry, token, Interest::READABLE)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.fd()).deregister(registry)
    }
}

/// Who rings more than this before it is silenced is there, and may ring again.
const SILENCE_READS_MAX: usize = 4;
