//! The process at the other end: this very program, with other arguments.

use std::env;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

/// A process that ends with this value.
#[derive(Debug)]
pub(crate) struct Peer(Child);

impl Peer {
    /// Starts it with these arguments, and with a socket for its standard input.
    pub(crate) fn start(args: &[&str], socket: Option<OwnedFd>) -> io::Result<Peer> {
        let stdin = socket.map_or_else(Stdio::null, Stdio::from);
        Command::new(env::current_exe()?).args(args).stdin(stdin).spawn().map(Peer)
    }

    /// Waits until it has ended by itself.
    #[allow(dead_code, reason = "not all peers have something to do at their end")]
    pub(crate) fn wait(&mut self) {
        // It can only fail if it has been waited for before.
        let _ = self.0.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It would end by itself when its connection does; it has nothing to lose.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
