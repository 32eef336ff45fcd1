use std::io;
use std::time::Duration;

use handle_passing::{Handle, HandleKind};
use mio::{Interest, Registry, Token, event};

use super::pipe::Socket;
use super::security::Side;
use crate::frame::Room;
use crate::sys::{Received, Wait};

/// One end of a pipe: its bytes ring, and its end tells of the peer's death.
#[derive(Debug)]
pub(crate) struct Bell(Socket);

impl Bell {
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        Socket::pair().map(|(a, b)| (Self(a), Self(b)))
    }

    pub(crate) fn from_handle(handle: Handle) -> io::Result<Self> {
        let pipe = handle.expect_kind(&[HandleKind::Pipe])?.into_type()?;
        Ok(Self(Socket::new(pipe, Side::Client, None, false)?))
    }

    pub(crate) fn into_handle(self) -> Handle {
        self.0.into_handle()
    }

    pub(crate) fn ring(&self) {
        // A bell that is full was rung, and a peer that is gone needs none.
        let _ = self.0.send_bytes(&[1], Wait::Never);
    }

    pub(crate) fn silence(&self) -> io::Result<bool> {
        for _ in 0..SILENCE_READS_MAX {
            let room = Room { head: &mut [0; 256], body: None, tail: &mut [] };
            match self.0.recv(room, &mut Vec::new(), Wait::Never)? {
                Received::Bytes(_) => {}
                Received::Nothing => return Ok(false),
                Received::Closed | Received::Broken(_) => return Ok(true),
            }
        }
        Ok(false)
    }

    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.wait_readable(timeout)
    }

    pub(crate) fn hang_up(&self) {
        let _ = self.0.shutdown();
    }
}

impl event::Source for Bell {
    fn register(&mut self, registry: &Registry, token: Token, on: Interest) -> io::Result<()> {
        self.0.register(registry, token, on)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, on: Interest) -> io::Result<()> {
        self.0.reregister(registry, token, on)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.0.deregister(registry)
    }
}

/// Who rings more than this before it is silenced is there, and may ring again.
const SILENCE_READS_MAX: usize = 4;
