use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::{Events, Interest, Poll, Registry, Token};

use super::cancel::CancelToken;
use super::capture::Capture;
use super::child::Child;
use super::command::Command;
use super::error::SpawnError;
use super::event::{Event, KillReason};
use super::exec_error::{ExecError, Failure, OutputStream};
use super::output::Output;
use super::signal::Signal;
use super::start::Extra;
use super::stdio::Stdio;
use super::stream::{PipeReader, PipeWriter};
use crate::clock::{deadline_after, time_left};
use crate::exit::Exit;

/// A command that runs while its output is collected: what [`Command::exec`] gives.
///
/// It is an event source for mio, under one token for all that it does. Whenever it is ready, call
/// [`try_finish`](Self::try_finish). What it is registered for does not matter. Any number of them
/// can run in one loop.
///
/// ```
/// # #[cfg(unix)] {
/// use mio::{Events, Interest, Poll, Token};
/// use runtime::process::exec;
///
/// let mut runs = [exec("echo one; sleep 0.01")?, exec("echo two")?];
/// let mut poll = Poll::new()?;
/// for (number, run) in runs.iter_mut().enumerate() {
///     poll.registry().register(run, Token(number), Interest::READABLE)?;
/// }
/// let mut ready = Events::with_capacity(16);
/// let mut said = vec![None; runs.len()];
/// while said.contains(&None) {
///     poll.poll(&mut ready, None)?;
///     for event in &ready {
///         let Token(number) = event.token();
///         if let Some(result) = runs[number].try_finish() {
///             said[number] = Some(result?.stdout);
///         }
///     }
/// }
/// assert_eq!(said, [Some(b"one\n".to_vec()), Some(b"two\n".to_vec())]);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Dropped before it has finished, it is what a dropped [`Child`] is; nobody reads what it writes
/// any more.
#[derive(Debug)]
pub struct Exec {
    pub(super) child: Child,
    command: String,
    input: Option<Input>,
    stdout: Collected,
    stderr: Collected,
    /// The stream of which more has come than is kept; the first, if both.
    too_long: Option<OutputStream>,
    /// When it was seen that it has ended, for other reasons than [`Child::kill_reason`] says.
    ending: Option<Ending>,
    options: Options,
    /// What went wrong while its result could not be told.
    failure: Option<io::Error>,
    is_finished: bool,
}

/// The child has ended; what others do, who have its output, may be waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    exit: Exit,
    until: Option<Instant>,
    /// Why the wait was given up.
    cut: Option<KillReason>,
}

#[derive(Debug)]
struct Options {
    is_tree_killed: bool,
    is_output_awaited: bool,
    kill_after: Option<Duration>,
    timeout_at: Option<Instant>,
    cancel: Option<CancelToken>,
}

#[derive(Debug)]
struct Input {
    pipe: PipeWriter,
    bytes: Arc<Vec<u8>>,
    written: usize,
}

#[derive(Debug)]
struct Collected {
    /// `None` when it is at its end, or too long, or goes elsewhere.
    pipe: Option<PipeReader>,
    capture: Capture,
}

/// How much of a stream is read before it is another's turn.
const TURN_BYTES: usize = 1 << 18;

/// How much is read of what is in a pipe when its writer has ended: all, since by default Linux
/// lets nobody make a pipe larger.
const PIPE_BYTES: usize = 1 << 20;

/// How much is read at once: what a pipe holds, unless it was made larger.
const READ_BYTES: usize = 1 << 16;

/// Has the shell carry out a line; its output is collected.
///
/// What is put into the line is read as a program, see [`Command::shell`], which has the options.
///
/// # Errors
///
/// When the shell can't be started.
pub fn exec(line: impl Into<OsString>) -> Result<Exec, SpawnError> {
    Command::shell(line).exec()
}

/// Starts a program with arguments, without a shell; its output is collected: [`Command::exec`]
/// without options.
///
/// # Errors
///
/// As [`Command::exec`].
pub fn exec_file<A: Into<OsString>>(
    file: impl Into<OsString>,
    args: impl IntoIterator<Item = A>,
) -> Result<Exec, SpawnError> {
    Command::new(file).args(args).exec()
}

impl Command {
    /// Starts it, and collects what it writes to standard output and error, as far as those are
    /// pipes, up to [`max_buffer`](Self::max_buffer) of each. It reads what
    /// [`input`](Self::input) says, or, unless [`stdin`](Self::stdin) was set, nothing.
    ///
    /// # Errors
    ///
    /// When it can't be started; nothing of it is left then.
    pub fn exec(&mut self) -> Result<Exec, SpawnError> {
        let mut extra = Extra::default();
        if self.input.is_some() {
            extra.stdio.insert(0, Stdio::input());
        } else if !self.stdio.contains_key(&0) {
            extra.stdio.insert(0, Stdio::null());
        }
        let started = self.start(extra)?;
        Ok(Exec::new(self, Child::new(self, started, None)))
    }
}

impl Exec {
    fn new(command: &Command, mut child: Child) -> Exec {
        let collected = |pipe| Collected { pipe, capture: Capture::new(command.max_buffer_bytes) };
        let (stdout, stderr) = (collected(child.stdout.take()), collected(child.stderr.take()));
        // Of a pipe into which nothing is to be written, the child reads the end.
        let pipes = child.stdin.take().zip(command.input.clone());
        let input = pipes.map(|(pipe, bytes)| Input { pipe, bytes, written: 0 });
        let exec = Exec {
            child,
            command: command.to_string(),
            input,
            stdout,
            stderr,
            too_long: None,
            ending: None,
            options: Options {
                is_tree_killed: command.is_tree_killed,
                is_output_awaited: command.is_output_awaited,
                kill_after: command.kill_after,
                timeout_at: command.timeout.and_then(deadline_after),
                cancel: command.cancel.clone(),
            },
            failure: None,
            is_finished: false,
        };
        exec.set_nonblocking();
        exec
    }

    /// Goes on as far as that is possible without blocking; gives the result when that has come,
    /// once. An error is one of the command, see [`ExecError`].
    pub fn try_finish(&mut self) -> Option<Result<Output, ExecError>> {
        if self.is_finished {
            return None;
        }
        let result = match self.failure.take().map_or_else(|| self.advance(), Err) {
            Ok(None) => return None,
            Ok(Some(ending)) => self.finish(ending),
            Err(error) => Err(self.give_up(error)),
        };
        self.is_finished = true;
        Some(result)
    }

    /// Waits for the result.
    ///
    /// # Errors
    ///
    /// When the command does not exit with code 0, or can't be waited for.
    ///
    /// # Panics
    ///
    /// When [`try_finish`](Self::try_finish) has given the result.
    pub fn wait(mut self) -> Result<Output, ExecError> {
        assert!(!self.is_finished, "it has finished");
        match Poll::new() {
            Ok(poll) => self.wait_in(poll),
            Err(error) => Err(self.give_up(error)),
        }
    }

    /// Sends it a signal; `false` if it has ended. What comes of it is the command's own failure,
    /// not ours.
    ///
    /// # Errors
    ///
    /// As [`Child::kill`].
    pub fn kill(&self, signal: Signal) -> io::Result<bool> {
        self.child.kill(signal)
    }

    /// The number of its process. Once it has finished, that may be another's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    pub(super) fn wait_in(mut self, mut poll: Poll) -> Result<Output, ExecError> {
        if let Err(error) = self.register(poll.registry(), Token(0), Interest::READABLE) {
            return Err(self.give_up(error));
        }
        let mut ready = Events::with_capacity(8);
        loop {
            if let Some(result) = self.try_finish() {
                return result;
            }
            match poll.poll(&mut ready, None) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(self.give_up(error));
                }
                _ => {}
            }
        }
    }

    /// Goes on while its result can't be told. A failure comes but once, so it is kept.
    pub(super) fn go_on(&mut self) {
        if self.failure.is_none() {
            self.failure = self.advance().err();
        }
    }

    /// Says how it ended when all is done.
    fn advance(&mut self) -> io::Result<Option<Ending>> {
        self.write()?;
        let has_more = self.read(TURN_BYTES)?;
        if self.too_long.is_some() {
            if self.ending.is_none() {
                self.child.end(KillReason::OutputTooLong)?;
            }
            // Not before: to write there would end it in another way.
            self.stdout.close_if_too_long();
            self.stderr.close_if_too_long();
        }
        self.hear()?;
        let Some(mut ending) = self.ending else {
            if has_more {
                self.child.ring();
            }
            return Ok(None);
        };
        if self.is_waiting(&mut ending) {
            if has_more {
                self.child.ring();
            } else if let Some(until) = ending.until {
                self.child.ring_in(time_left(until))?;
            }
            return Ok(None);
        }
        self.read(PIPE_BYTES)?;
        Ok(Some(ending))
    }

    /// Whether others write what is still to be collected.
    fn is_waiting(&self, ending: &mut Ending) -> bool {
        let is_killed = self.child.kill_reason().is_some();
        let is_awaited = match is_killed {
            // Those that are being ended, too, have their time for it.
            true => self.options.is_tree_killed,
            false => self.options.is_output_awaited && self.too_long.is_none(),
        };
        if !is_awaited || self.stdout.pipe.is_none() && self.stderr.pipe.is_none() {
            return false;
        }
        if ending.until.is_some_and(|until| time_left(until).is_zero()) {
            ending.cut = Some(KillReason::Timeout);
        } else if self.options.cancel.as_ref().is_some_and(CancelToken::is_cancelled) && !is_killed
        {
            ending.cut = Some(KillReason::Cancelled);
        }
        ending.cut.is_none()
    }

    fn hear(&mut self) -> io::Result<()> {
        while let Some(event) = self.child.next_event()? {
            match event {
                Event::Exited(exit) => {
                    self.input = None;
                    let until = match self.child.kill_reason() {
                        Some(_) => self.options.kill_after.and_then(deadline_after),
                        None => self.options.timeout_at,
                    };
                    self.ending = Some(Ending { exit, until, cut: None });
                }
                // It could not be signalled, and would be waited for in vain.
                Event::Error(error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(input) = &mut self.input else { return Ok(()) };
        while input.written < input.bytes.len() {
            match input.pipe.write(&input.bytes[input.written..]) {
                Ok(count) => input.written += count,
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return Ok(()),
                    // It need not read all.
                    io::ErrorKind::BrokenPipe => break,
                    _ => return Err(context("can't write its standard input", &error)),
                },
            }
        }
        self.input = None;
        Ok(())
    }

    /// Reads so much of each stream, at most; says whether there may be more.
    fn read(&mut self, bytes_max: usize) -> io::Result<bool> {
        let mut has_more = false;
        for (stream, collected) in
            [(OutputStream::Stdout, &mut self.stdout), (OutputStream::Stderr, &mut self.stderr)]
        {
            let read = collected.read(bytes_max);
            has_more |= read.map_err(|e| context(&format!("can't read its {stream}"), &e))?;
            if collected.capture.is_too_long() {
                self.too_long.get_or_insert(stream);
            }
        }
        Ok(has_more)
    }

    fn finish(&mut self, ending: Ending) -> Result<Output, ExecError> {
        let reason = self.child.kill_reason();
        let mut is_killed = reason.is_some();
        if self.options.is_tree_killed && (is_killed || ending.cut.is_some()) {
            // Who has not ended by now is told no more. It can fail for those that became others.
            is_killed |= self.child.kill_tree(Signal::KILL).is_ok_and(|count| count > 0);
        }
        let output = self.take_output(ending.exit);
        let failure = match (reason.or(ending.cut), self.too_long) {
            (Some(KillReason::Timeout), _) => Failure::TimedOut,
            (Some(KillReason::Cancelled), _) => Failure::Cancelled,
            (_, Some(stream)) => Failure::MaxBuffer(stream),
            _ if output.is_success() => return Ok(output),
            _ => Failure::Status,
        };
        Err(ExecError::new(failure, self.command.clone(), Some(output), is_killed))
    }

    /// Ends it at once: the system has failed.
    fn give_up(&mut self, error: io::Error) -> ExecError {
        let running = self.child.running().clone();
        let is_killed = running.end(Signal::KILL);
        // What can't be killed is left to itself, and collected when it ends.
        let exit = is_killed.as_ref().ok().and_then(|_| {
            // Unlike `Child::wait`, this needs no descriptor.
            running.process.wait_until(None, None).ok()?;
            self.child.try_wait().ok()?
        });
        let output = exit.map(|exit| self.take_output(exit));
        let is_killed = is_killed.unwrap_or(false);
        ExecError::new(Failure::Io(error), self.command.clone(), output, is_killed)
    }

    fn take_output(&mut self, status: Exit) -> Output {
        let [stdout, stderr] =
            [&mut self.stdout, &mut self.stderr].map(|collected| collected.take());
        Output { status, stdout, stderr, pid: self.child.pid() }
    }

    /// Also while it is not registered.
    fn set_nonblocking(&self) {
        self.input.iter().for_each(|input| input.pipe.set_nonblocking());
        let pipes = [&self.stdout.pipe, &self.stderr.pipe];
        pipes.into_iter().flatten().for_each(PipeReader::set_nonblocking);
    }

    fn sources(&mut self) -> impl Iterator<Item = (&mut dyn Source, Interest)> {
        let input = self.input.as_mut().map(|input| &mut input.pipe as &mut dyn Source);
        let outputs = [&mut self.stdout, &mut self.stderr];
        let outputs = outputs.into_iter().filter_map(|collected| collected.pipe.as_mut());
        let readable = std::iter::once(&mut self.child as &mut dyn Source)
            .chain(outputs.map(|pipe| pipe as &mut dyn Source))
            .map(|source| (source, Interest::READABLE));
        readable.chain(input.map(|source| (source, Interest::WRITABLE)))
    }
}

impl Collected {
    /// Whether there may be more.
    fn read(&mut self, bytes_max: usize) -> io::Result<bool> {
        let mut buffer = [0; READ_BYTES];
        let mut left = bytes_max;
        while let Some(pipe) = &mut self.pipe
            && !self.capture.is_too_long()
        {
            if left == 0 {
                return Ok(true);
            }
            match pipe.read(&mut buffer[..left.min(READ_BYTES)]) {
                Ok(count) => {
                    left -= count;
                    self.capture.push(&buffer[..count]);
                    if count == 0 {
                        self.pipe = None;
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => break,
                    _ => return Err(error),
                },
            }
        }
        Ok(false)
    }

    fn close_if_too_long(&mut self) {
        if self.capture.is_too_long() {
            self.pipe = None;
        }
    }

    fn take(&mut self) -> Vec<u8> {
        self.pipe = None;
        std::mem::replace(&mut self.capture, Capture::new(0)).into_bytes()
    }
}

/// Ready when [`try_finish`](Exec::try_finish) may go on. It can be spurious.
impl Source for Exec {
    fn register(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        let registered =
            self.sources().try_for_each(|(source, how)| source.register(registry, token, how));
        if registered.is_err() {
            // What was registered; of the others it fails.
            self.sources().for_each(|(source, _)| drop(source.deregister(registry)));
        }
        registered
    }

    fn reregister(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        self.sources().try_for_each(|(source, how)| source.reregister(registry, token, how))
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        let result = self.sources().try_for_each(|(source, _)| source.deregister(registry));
        self.set_nonblocking();
        result
    }
}

fn context(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
