use std::io;
use std::process::{Child, Command};

use handle_passing::Handle;

use crate::Channel;
use crate::sys::{self, is_pending, prepare, spawn, spawn_on_stdin, take};

/// Gives a child process one end of a channel, from its start.
///
/// The parent [spawns](Self::spawn) a [`Command`] and gets the other end; the child
/// [takes](Self::take) its own. There is no name in between that another process could take or
/// connect to, and nobody but the child gets the end: what other threads start at the same time
/// does not inherit it, and no copy stays in the parent. So when either process ends, the other
/// finds the channel closed.
///
/// # How it works
///
/// The child inherits a descriptor, and finds its number and its inode in the variables
/// `IPC_CHANNEL_FD` and `IPC_CHANNEL_INODE`. It inherits no other descriptor above standard error,
/// whatever this process has left inheritable (on Linux 5.11 or later): to give it more, send them.
///
/// The child trusts the variables only if that very socket is open there. It takes them out of its
/// environment if no other thread runs yet (on Linux), so [take](Self::take) early. Where they
/// stay, they do no harm: in a process further down they name nothing that is open.
///
/// # Cost
///
/// To mark the descriptor in the child alone, std has to fork, and cannot use the quicker
/// `posix_spawn`. A fork takes longer the more memory the parent has in use: 0.1 s for each
/// gigabyte on the machine where it was measured, against 0.7 ms whatever its size. For large
/// parents there is [`on_stdin`](Self::on_stdin), and [`prepare`](Self::prepare) for who starts
/// processes in a quick way of their own.
///
/// # Examples
///
/// In the parent:
///
/// ```no_run
/// use std::process::Command;
/// use ipc_core::{Bootstrap, Message};
///
/// let (mut channel, mut child) = Bootstrap::new().spawn(&mut Command::new("worker"))?;
/// channel.send_deadline(Message::new(1, "hello"), None)?;
/// let answer = channel.recv_deadline(None)?;
/// child.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// and in the child:
///
/// ```
/// use ipc_core::{Bootstrap, Message};
///
/// match Bootstrap::new().take()? {
///     Some(mut channel) => {
///         let message = channel.recv_deadline(None)?;
///         channel.send_deadline(Message::new(2, message.payload), None)?;
///     }
///     None => println!("started by hand"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    name: &'static str,
    beside: &'static [&'static str],
    on_stdin: bool,
}

impl Bootstrap {
    /// A bootstrap with the name `IPC_CHANNEL`.
    #[must_use]
    pub const fn new() -> Self {
        Self::named("IPC_CHANNEL")
    }

    /// A bootstrap whose variables begin with this name, the same one in the parent and the child.
    ///
    /// It is for libraries: two that start processes don't get into each other's way then.
    #[must_use]
    pub const fn named(name: &'static str) -> Self {
        Self { name, beside: &[], on_stdin: false }
    }

    /// Names further variables that the parent sets, with [`Command::env`], for the child alone:
    /// [`take`](Self::take) takes them out of the environment with its own, so read them before.
    #[must_use]
    pub const fn with_variables(self, names: &'static [&'static str]) -> Self {
        Self { beside: names, ..self }
    }

    /// Passes the end as the child's standard input, which is quick however large this process is,
    /// see [Cost](#cost). It concerns the parent alone: [`take`](Self::take) is the same.
    ///
    /// The child's standard input is empty once it has taken the channel, and it inherits what this
    /// process has left inheritable. The [`Command`]'s is null afterwards. On Windows, where
    /// nothing forks, this changes nothing.
    #[must_use]
    pub const fn on_stdin(self) -> Self {
        Self { on_stdin: true, ..self }
    }

    /// Starts a process that gets one end of a channel, and gives the other.
    ///
    /// The command may be used again, with or without a bootstrap.
    ///
    /// # Errors
    ///
    /// What [`Command::spawn`] reports, and the system when a channel is made. No process is left.
    pub fn spawn(&self, command: &mut Command) -> io::Result<(Channel, Child)> {
        let spawn = if self.on_stdin { spawn_on_stdin } else { spawn };
        let (socket, child) = spawn(self.name, command)?;
        Ok((Channel::new(socket), child))
    }

    /// Makes a channel for a process that is started in another way than by std's [`Command`]: the
    /// child must have one end as the descriptor of this number, and some variables. On Windows
    /// the descriptor 0 is the standard input; for any other number the child must inherit the very
    /// handle, which it finds by its value.
    ///
    /// # Errors
    ///
    /// What the system reports when a channel is made; `InvalidInput` when no descriptor can have
    /// that number.
    pub fn prepare(&self, number: u32) -> io::Result<Prepared> {
        prepare(self.name, number)
    }

    /// This process's end; `None` when it was not started by a [`spawn`](Self::spawn), or has taken
    /// its end before.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when the variables hold nonsense, `NotFound` when they name something that is
    /// not the channel, and is left alone: this process was not meant, but has inherited them.
    pub fn take(&self) -> io::Result<Option<Channel>> {
        Ok(take(self.name, self.beside)?.map(Channel::new))
    }

    /// Whether this process was given an end that it has not taken yet.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        is_pending(self.name)
    }
}

/// Both ends of a channel to a process that does not exist yet, see [`Bootstrap::prepare`].
///
/// # Examples
///
/// A channel as the child's standard output, whoever starts the child:
///
/// ```no_run
/// # #[cfg(unix)]
/// # fn main() -> std::io::Result<()> {
/// use std::os::fd::OwnedFd;
/// use std::process::Command;
/// use ipc_core::{Bootstrap, Message};
///
/// let prepared = Bootstrap::new().prepare(1)?;
/// let mut command = Command::new("worker");
/// command.stdout(OwnedFd::from(prepared.theirs)).envs(prepared.variables);
/// let mut child = command.spawn()?;
/// drop(command); // it has kept the child's end
/// let mut channel = prepared.ours.into_channel();
/// channel.try_send(Message::new(1, "hello")).map_err(std::io::Error::other)?;
/// # child.wait()?;
/// # Ok(())
/// # }
/// # #[cfg(not(unix))]
/// # fn main() {}
/// ```
#[derive(Debug)]
pub struct Prepared {
    /// What the child must have under the number, and nobody else, once it has started: as long as
    /// another copy is open, the end of the child does not close the channel.
    pub theirs: Handle,
    /// What the child must find in its environment, and nobody else.
    pub variables: Vec<(String, String)>,
    /// This process's end.
    pub ours: PreparedEnd,
}

/// This process's end of a channel, before the process at the other one exists. By dropping it the
/// channel is closed.
#[derive(Debug)]
pub struct PreparedEnd(pub(crate) sys::PreparedEnd);

impl Default for Bootstrap {
    fn default() -> Self {
        Self::new()
    }
}
