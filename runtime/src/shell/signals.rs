//! SIGTERM and SIGINT as readiness: the self-pipe trick (cr.yp.to/docs/selfpipe.html).

use std::io::{self, Read};

use mio::net::UnixStream;
use nix::sys::signal::{SigSet, Signal};
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level;

/// The installed handlers, removed on drop.
#[derive(Debug)]
pub(super) struct Signals {
    reader: UnixStream,
    handlers: Vec<SigId>,
}

impl Signals {
    pub(super) fn install() -> io::Result<Signals> {
        let (reader, writer) = std::os::unix::net::UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        // Whoever started us may have blocked them, and a process inherits that.
        SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]).thread_unblock()?;
        let mut signals = Signals { reader: UnixStream::from_std(reader), handlers: Vec::new() };
        for signal in [SIGTERM, SIGINT] {
            // Every signal writes one byte, never blocking.
            signals.handlers.push(low_level::pipe::register(signal, writer.try_clone()?)?);
        }
        Ok(signals)
    }

    /// How many signals came since the last call.
    pub(super) fn take(&mut self) -> usize {
        let mut count = 0;
        let mut bytes = [0; 64];
        loop {
            match self.reader.read(&mut bytes) {
                Ok(read) if read > 0 => count += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return count,
            }
        }
    }

    pub(super) fn source(&mut self) -> &mut UnixStream {
        &mut self.reader
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            low_level::unregister(handler);
        }
    }
}
