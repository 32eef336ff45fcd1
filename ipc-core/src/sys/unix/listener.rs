//! What a listener has on Unix only: its descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::Listening;
use crate::{Listener, ListenerOptions};

/// On Unix.
impl Listener {
    /// Listens with a socket that somebody else made: inherited, as from systemd, or received. The
    /// other options are the default ones.
    ///
    /// The socket becomes non-blocking, for everybody who shares it. Its file stays where it is.
    /// The [address](Self::address) is what the system knows of it; of a socket that a `Listener`
    /// has bound, that is a path in `/proc`, which means nothing elsewhere.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when it is no Unix socket that listens; the error says what it is instead.
    ///
    /// # Examples
    ///
    /// ```
    /// use ipc_core::{Channel, Listener};
    ///
    /// # let directory = std::env::temp_dir().join(format!("ipc-core-fd-{}", std::process::id()));
    /// # std::fs::create_dir_all(&directory)?;
    /// # let path = directory.join("inherited.sock");
    /// let inherited = std::os::unix::net::UnixListener::bind(&path)?;
    /// let mut listener = Listener::from_fd(inherited.into())?;
    /// let _client = Channel::connect(listener.address())?;
    /// let (_channel, peer) = listener.accept_deadline(None)?;
    /// println!("{peer} has connected");
    /// # std::fs::remove_dir_all(directory)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "LISTEN_FDS")]
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Self::options().from_fd(fd)
    }
}

/// On Unix.
impl ListenerOptions {
    /// Listens with a socket that somebody else made, see [`Listener::from_fd`]. Of the options,
    /// policy and limits count.
    ///
    /// # Errors
    ///
    /// Those of [`Listener::from_fd`].
    #[allow(clippy::wrong_self_convention, reason = "a twin of `Listener::from_fd`")]
    pub fn from_fd(&self, fd: OwnedFd) -> io::Result<Listener> {
        let (listening, address) = Listening::from_fd(fd)?;
        Ok(Listener::new(listening, address, self))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listening.as_fd()
    }
}
