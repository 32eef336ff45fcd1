use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::{Interest, Registry, Token};

use super::bell::Bell;
use super::cancel::CancelToken;
use super::command::Command;
use super::error::SpawnError;
use super::event::{Event, KillReason};
use super::life::Input;
use super::link::Link;
use super::reap;
use super::running::Running;
use super::signal::Signal;
use super::start::Started;
use super::stdio::Stdio;
use super::stream::{PipeReader, PipeWriter, Stream};
use super::supervised::Supervised;
use crate::clock::deadline;
use crate::exit::Exit;
use crate::message::Message;

/// A process that was started by [`Command::spawn`] or [`Command::fork`].
///
/// Its [timeout](Command::timeout) and its [cancellation](Command::cancel_with) take their course
/// while somebody attends to it, which is done in any of these ways:
///
/// * **Blocking**: [`wait`](Self::wait) and [`wait_deadline`](Self::wait_deadline).
/// * **In your own loop**: it is an event source for mio. Whenever it is ready, and it is at once,
///   call [`next_event`](Self::next_event) until that has no more. It looks only for what concerns
///   it: the interests that it is registered with do not matter. Streams are sources of their own.
/// * **Now and then**: [`try_wait`](Self::try_wait) and `next_event` never block.
/// * **By a thread** for many children: [`Children`](super::Children).
///
/// Dropped while it runs, it is killed if the command says [so](Command::kill_on_drop), else it
/// runs on. Either way it is collected when it ends, by a thread that exists for so long, which
/// minds its timeout and its cancellation too: no zombie is left. Its channel is closed, after what
/// is queued. As with any source of mio, deregister it before it is dropped.
///
/// ```
/// # #[cfg(unix)] {
/// use std::io::Read;
/// use runtime::process::Command;
///
/// let mut child = Command::new("ls").arg("-lh").spawn()?;
/// let mut list = String::new();
/// child.stdout.take().ok_or("no pipe")?.read_to_string(&mut list)?;
/// assert_eq!(child.wait()?.code(), Some(0));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// In a loop, with streams that are read as they come:
///
/// ```
/// # #[cfg(unix)] {
/// use std::io::{self, Read};
/// use mio::{Events, Interest, Poll, Token};
/// use runtime::process::{Command, Event};
///
/// let mut child = Command::new("printf").arg("hello").spawn()?;
/// let mut stdout = child.stdout.take().ok_or("no pipe")?;
/// let mut poll = Poll::new()?;
/// poll.registry().register(&mut child, Token(0), Interest::READABLE)?;
/// poll.registry().register(&mut stdout, Token(1), Interest::READABLE)?;
/// let (mut ready, mut said) = (Events::with_capacity(16), Vec::new());
/// let exit = 'turns: loop {
///     poll.poll(&mut ready, None)?;
///     match stdout.read_to_end(&mut said) {
///         Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
///         result => drop(result?),
///     }
///     while let Some(event) = child.next_event()? {
///         if let Event::Closed(exit) = event {
///             break 'turns exit;
///         }
///     }
/// };
/// assert_eq!((exit.code(), &said[..]), (Some(0), &b"hello"[..]));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Child {
    /// Writes what it reads as standard input, if that is a pipe.
    pub stdin: Option<PipeWriter>,
    /// Reads what it writes as standard output, if that is a pipe.
    pub stdout: Option<PipeReader>,
    /// Reads what it writes as standard error, if that is a pipe.
    pub stderr: Option<PipeReader>,
    /// All others, by the child's numbers.
    streams: BTreeMap<u32, Stream>,
    /// `None` once it is abandoned.
    supervised: Option<Supervised>,
    is_killed_on_drop: bool,
    /// It has ended, and unused streams no longer count.
    is_settled: bool,
}

/// How long a child that is killed when it is dropped is waited for; that is when it can't be
/// killed, for example since it waits for a disk.
const KILL_WAIT: Duration = Duration::from_millis(100);

/// Starts a program with arguments: [`Command::spawn`] without options.
///
/// # Errors
///
/// As [`Command::spawn`].
pub fn spawn<A: Into<OsString>>(
    file: impl Into<OsString>,
    args: impl IntoIterator<Item = A>,
) -> Result<Child, SpawnError> {
    Command::new(file).args(args).spawn()
}

impl Command {
    /// Starts it. What it writes is read from [`Child::stdout`] and [`Child::stderr`], what it
    /// reads is written to [`Child::stdin`].
    ///
    /// # Errors
    ///
    /// When it can't be started; nothing of it is left then.
    pub fn spawn(&mut self) -> Result<Child, SpawnError> {
        let (started, link) = self.start_linked(self.channel_number()?, Stdio::pipe)?;
        Ok(Child::new(self, started, link))
    }
}

impl Child {
    pub(super) fn new(command: &Command, started: Started, link: Option<Link>) -> Child {
        reap::retry();
        let Started { process, lineage, mut streams } = started;
        let running = Running { process, lineage, is_tree_killed: command.is_tree_killed };
        let supervised = Supervised::new(command, running, link);
        streams.values_mut().for_each(|stream| stream.attach(supervised.bell()));
        let mut child = Child {
            stdin: None,
            stdout: None,
            stderr: None,
            streams: BTreeMap::new(),
            supervised: Some(supervised),
            is_killed_on_drop: command.is_killed_on_drop,
            is_settled: false,
        };
        for (number, stream) in streams {
            match (number, stream) {
                (0, Stream::Writer(writer)) => child.stdin = Some(writer),
                (1, Stream::Reader(reader)) => child.stdout = Some(reader),
                (2, Stream::Reader(reader)) => child.stderr = Some(reader),
                (number, stream) => drop(child.streams.insert(number, stream)),
            }
        }
        if command.cancel.as_ref().is_some_and(CancelToken::is_cancelled) {
            // An error comes again when somebody attends to it.
            let _ = child.advance();
        }
        child
    }

    /// What has happened; `None` if that is all, for now.
    ///
    /// Never blocks. Readiness is edge-triggered: call it until there is no more.
    ///
    /// # Errors
    ///
    /// When the system does not let its state be known.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        if let Some(event) = self.supervised_mut().poll_event() {
            return Ok(Some(event));
        }
        self.advance()?;
        let supervised = self.supervised_mut();
        if let Some(event) = supervised.poll_event() {
            return Ok(Some(event));
        }
        supervised.hear()?;
        Ok(supervised.poll_event())
    }

    /// Waits until it has ended.
    ///
    /// What it writes does not matter for that, nor who else writes there: of a child that writes
    /// much, read the streams first, and its messages, or it waits for that for ever. Its standard
    /// input is closed first, if it is still here. Events are kept for
    /// [`next_event`](Self::next_event).
    ///
    /// # Errors
    ///
    /// When the system refuses to wait; the child is not affected.
    pub fn wait(&mut self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.wait_deadline(None)? {
                return Ok(exit);
            }
        }
    }

    /// As [`wait`](Self::wait), at most until the deadline, if there is one; `None` if that came
    /// first.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_deadline(&mut self, deadline: Option<Instant>) -> io::Result<Option<Exit>> {
        drop(self.stdin.take());
        let exit = self.supervised_mut().wait(deadline)?;
        self.settle()?;
        Ok(exit)
    }

    /// How it has ended; `None` if it still runs.
    ///
    /// # Errors
    ///
    /// As [`next_event`](Self::next_event).
    pub fn try_wait(&mut self) -> io::Result<Option<Exit>> {
        self.advance()?;
        Ok(self.supervised().exit())
    }

    /// Sends it a signal; `false` if it has ended, even if nobody has collected it yet.
    ///
    /// # Errors
    ///
    /// When we may not, as when it has become another user.
    pub fn kill(&self, signal: Signal) -> io::Result<bool> {
        self.running().kill(signal)
    }

    /// Sends a signal to it and to what it has started; says how many processes that are. It can
    /// have ended itself.
    ///
    /// They are stopped until all are found, so that none starts another unseen, and then go on,
    /// but for those that were stopped before. No other process is ever signalled, not even if it
    /// has got the number of one that has ended. Found are, with their children in turn:
    ///
    /// * all in its [control group](Command::cgroup), which holds on to everything;
    /// * its group and its session, if it [begins](Command::process_group)
    ///   [one](Command::detached), also after it has ended;
    /// * its children and sessions begun by them, as long as it has not been waited for;
    /// * daemons that have left all of that, if this process has become a
    ///   [subreaper](super::become_subreaper).
    ///
    /// Linux knows all of these, before 6.9 without those of a group that have begun after its
    /// first process has ended. On other Unix systems it is the group alone, on Windows the job
    /// that the child was started in.
    ///
    /// # Errors
    ///
    /// When one of them could not be sent it; the others were.
    pub fn kill_tree(&self, signal: Signal) -> io::Result<usize> {
        self.running().kill_tree(signal)
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.running().process.is_alive()
    }

    /// The number of its process. Once it was waited for, that may be another's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running().process.pid()
    }

    /// Why it was sent a signal by us, if one has reached it; signals by [`kill`](Self::kill) do
    /// not count.
    #[must_use]
    pub fn kill_reason(&self) -> Option<KillReason> {
        self.supervised().killed()
    }

    /// Its stream of this number, if there is one that nobody has taken.
    pub fn take_stream(&mut self, number: u32) -> Option<Stream> {
        let standard = match number {
            0 => self.stdin.take().map(Stream::Writer),
            1 => self.stdout.take().map(Stream::Reader),
            2 => self.stderr.take().map(Stream::Reader),
            _ => None,
        };
        standard.or_else(|| self.streams.remove(&number))
    }

    /// Has it end, in the same way as after its timeout.
    pub(super) fn end(&mut self, reason: KillReason) -> io::Result<()> {
        self.advance()?;
        self.supervised_mut().input(Input::Kill(reason));
        self.advance()
    }

    /// Has whoever waits for it call [`next_event`](Self::next_event).
    pub(super) fn ring(&self) {
        self.bell().ring();
    }

    /// The same, after this time, unless it rings already; for when it has ended.
    pub(super) fn ring_in(&self, delay: Duration) -> io::Result<()> {
        self.bell().arm(Some(delay))
    }

    pub(super) fn bell(&self) -> &Arc<Bell> {
        self.supervised().bell()
    }

    pub(super) fn running(&self) -> &Arc<Running> {
        self.supervised().running()
    }

    /// Leaves its process to itself, or kills it if it shall not outlive this.
    pub(super) fn abandon(&mut self) {
        let Some(mut supervised) = self.supervised.take() else { return };
        if supervised.exit().is_none() && self.is_killed_on_drop {
            let _ = supervised.running().end(Signal::KILL);
            let _ = supervised.wait(Some(deadline(KILL_WAIT)));
        }
        if supervised.exit().is_none() {
            if let Some(link) = supervised.link_mut() {
                // What is queued still goes: who adopts it minds the channel too.
                link.hang_up();
            }
            reap::adopt(supervised);
        }
    }

    /// Ends it, since nobody can have it.
    pub(super) fn discard(&mut self) {
        self.is_killed_on_drop = true;
        self.abandon();
    }

    /// Goes on as far as that is possible at once.
    pub(super) fn advance(&mut self) -> io::Result<()> {
        self.supervised_mut().advance()?;
        self.settle()
    }

    /// Once it has ended, what nobody has used keeps nothing open.
    fn settle(&mut self) -> io::Result<()> {
        if self.is_settled || self.supervised().exit().is_none() {
            return Ok(());
        }
        self.is_settled = true;
        self.stdout.iter_mut().chain(&mut self.stderr).for_each(PipeReader::settle);
        self.streams.values_mut().for_each(Stream::settle);
        self.supervised_mut().advance()
    }

    /// Its channel; `None` if it has none, or was abandoned.
    pub(super) fn link(&self) -> Option<&Link> {
        self.supervised.as_ref()?.link()
    }

    /// The same.
    pub(super) fn link_mut(&mut self) -> Option<&mut Link> {
        self.supervised.as_mut()?.link_mut()
    }

    /// Looks after it, and says until when to wait for its channel before that is due again.
    pub(super) fn channel_turn(
        &mut self,
        deadline: Option<Instant>,
    ) -> io::Result<Option<Instant>> {
        self.advance()?;
        Ok(self.supervised().channel_turn(deadline))
    }

    /// Takes its first message out of the events that wait.
    pub(super) fn take_message(&mut self) -> Option<Message> {
        self.supervised.as_mut()?.take_message()
    }

    fn supervised(&self) -> &Supervised {
        self.supervised.as_ref().expect("it is not abandoned")
    }

    fn supervised_mut(&mut self) -> &mut Supervised {
        self.supervised.as_mut().expect("it is not abandoned")
    }
}

/// Ready when [`next_event`](Child::next_event) has something. It can be spurious.
impl Source for Child {
    fn register(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        self.supervised_mut().register(registry, token)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        self.supervised_mut().reregister(registry, token)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.supervised_mut().deregister(registry)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.abandon();
    }
}
