use std::error::Error;
use std::fmt;
use std::io;

use super::error::SpawnError;
use super::output::Output;

/// A command whose output is collected did not do what was asked.
///
/// It has what the command had written until then, and its text names the command, what happened,
/// and the last lines of standard error.
///
/// ```
/// use runtime::process::{Failure, exec_sync};
///
/// let error = exec_sync("echo so far; echo no host >&2; exit 6").unwrap_err();
/// assert!(matches!(error.failure(), Failure::Status));
/// assert_eq!(error.code(), Some(6));
/// assert_eq!(error.stdout(), b"so far\n");
/// assert_eq!(
///     error.to_string(),
///     "command failed: echo so far; echo no host >&2; exit 6: exited with code 6: no host"
/// );
/// ```
#[derive(Debug)]
pub struct ExecError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    failure: Failure,
    command: String,
    output: Option<Output>,
    is_killed: bool,
}

/// What happened to a command that failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// It was not started.
    Spawn(SpawnError),
    /// It ended by itself, but not with code 0.
    Status,
    /// It was ended because its [`timeout`](super::Command::timeout) was over.
    TimedOut,
    /// It was ended because its [token](super::Command::cancel_with) was cancelled.
    Cancelled,
    /// It wrote more than [`max_buffer`](super::Command::max_buffer) to this stream, and was ended
    /// if it had not by itself.
    MaxBuffer(OutputStream),
    /// The system failed to run it, or to hand over its output; it was killed.
    Io(io::Error),
}

/// A stream that is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl ExecError {
    pub(super) fn new(
        failure: Failure,
        command: String,
        output: Option<Output>,
        is_killed: bool,
    ) -> ExecError {
        ExecError(Box::new(Inner { failure, command, output, is_killed }))
    }

    /// The output, if all that failed is how the command ended.
    pub(super) fn unless_status(self) -> Result<Output, ExecError> {
        match *self.0 {
            Inner { failure: Failure::Status, output: Some(output), .. } => Ok(output),
            inner => Err(ExecError(Box::new(inner))),
        }
    }

    /// What happened.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        &self.0.failure
    }

    /// The command, as one would type it.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.0.command
    }

    /// The code with which it exited, if it did.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.output()?.status.code()
    }

    /// The number of the signal that ended it, if one did.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.output()?.status.signal()
    }

    /// Whether it was sent a signal by us, because of its timeout, token, or output.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.0.is_killed
    }

    /// Its standard output, up to the limit; nothing if it was not started.
    #[must_use]
    pub fn stdout(&self) -> &[u8] {
        self.output().map_or(&[], |output| &output.stdout)
    }

    /// Its standard error, up to the limit; nothing if it was not started.
    #[must_use]
    pub fn stderr(&self) -> &[u8] {
        self.output().map_or(&[], |output| &output.stderr)
    }

    /// How it ended, with its output; `None` if it was not started, or the system failed.
    #[must_use]
    pub fn output(&self) -> Option<&Output> {
        self.0.output.as_ref()
    }

    /// The same, for keeps.
    #[must_use]
    pub fn into_output(self) -> Option<Output> {
        self.0.output
    }
}

/// Bounded in length, whatever the command and its output are.
impl fmt::Display for ExecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = first_characters(self.command());
        match self.failure() {
            Failure::Spawn(error) => return write!(f, "{error}"),
            Failure::Status => write!(f, "command failed: {command}")?,
            Failure::TimedOut => write!(f, "command timed out: {command}")?,
            Failure::Cancelled => write!(f, "command was cancelled: {command}")?,
            Failure::MaxBuffer(stream) => {
                write!(f, "command wrote more to {stream} than `max_buffer`: {command}")?;
            }
            Failure::Io(error) => return write!(f, "can't run command: {command}: {error}"),
        }
        if let Some(output) = self.output() {
            write!(f, ": {}", output.status)?;
        }
        match last_lines(self.stderr()) {
            lines if lines.is_empty() => Ok(()),
            lines => write!(f, ": {lines}"),
        }
    }
}

impl Error for ExecError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.failure() {
            Failure::Spawn(error) => error.source(),
            Failure::Io(error) => Some(error),
            Failure::Status | Failure::TimedOut | Failure::Cancelled | Failure::MaxBuffer(_) => {
                None
            }
        }
    }
}

/// Keeps the whole error, and the kind if the system or the clock was to blame.
impl From<ExecError> for io::Error {
    fn from(error: ExecError) -> io::Error {
        let kind = match error.failure() {
            Failure::Spawn(error) => error.kind(),
            Failure::TimedOut => io::ErrorKind::TimedOut,
            Failure::Io(error) => error.kind(),
            Failure::Status | Failure::Cancelled | Failure::MaxBuffer(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl fmt::Display for OutputStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OutputStream::Stdout => "standard output",
            OutputStream::Stderr => "standard error",
        })
    }
}

/// How much of a command an error's text shows.
const COMMAND_CHARACTERS: usize = 200;

/// How much of standard error it shows.
const LINES: usize = 10;
const LINES_BYTES: usize = 1000;

fn first_characters(command: &str) -> String {
    let end = command.char_indices().nth(COMMAND_CHARACTERS).map(|(at, _)| at);
    let shown = printable(&command[..end.unwrap_or(command.len())]);
    if end.is_some() { shown + "…" } else { shown }
}

/// The last lines of a text that may be long, and anything.
fn last_lines(text: &[u8]) -> String {
    let text = text.trim_ascii();
    let tail = &text[text.len().saturating_sub(LINES_BYTES)..];
    let line_ends = tail.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    let start = line_ends.map(|(at, _)| at + 1).nth(LINES - 1).unwrap_or(0);
    let mut lines = &tail[start..];
    let is_cut = lines.len() < text.len();
    // The cut may have gone through a character.
    while let [0x80..0xc0, rest @ ..] = lines
        && is_cut
    {
        lines = rest;
    }
    let shown = printable(&String::from_utf8_lossy(lines));
    if is_cut { format!("…{shown}") } else { shown }
}

/// The text without what would command a terminal.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => printable.push(character),
            _ if character.is_control() => printable.extend(character.escape_default()),
            _ => printable.push(character),
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use crate::exit::Exit;

    fn error(failure: Failure, command: &str, stderr: &[u8]) -> ExecError {
        let output = Output {
            status: Exit::Code(2),
            stdout: b"out".to_vec(),
            stderr: stderr.to_vec(),
            pid: 7,
        };
        ExecError::new(failure, command.into(), Some(output), false)
    }

    #[test]
    fn says_what_was_run_what_happened_and_why() {
        let text = |failure| error(failure, "ls /nope", b"ls: no /nope\n").to_string();
        let ending = "ls /nope: exited with code 2: ls: no /nope";
        assert_eq!(text(Failure::Status), format!("command failed: {ending}"));
        assert_eq!(text(Failure::TimedOut), format!("command timed out: {ending}"));
        assert_eq!(text(Failure::Cancelled), format!("command was cancelled: {ending}"));
        assert_eq!(
            text(Failure::MaxBuffer(OutputStream::Stderr)),
            format!("command wrote more to standard error than `max_buffer`: {ending}")
        );
        let quiet = error(Failure::Status, "false", b" \n").to_string();
        assert_eq!(quiet, "command failed: false: exited with code 2");
    }

    #[test]
    fn a_failure_of_the_system_is_named() {
        let failed = io::Error::from(io::ErrorKind::OutOfMemory);
        let error = ExecError::new(Failure::Io(failed), "make".into(), None, false);
        assert_eq!(error.to_string(), "can't run command: make: out of memory");
        assert_eq!((error.code(), error.stdout(), error.stderr()), (None, &[][..], &[][..]));
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::OutOfMemory);

        let spawn = || SpawnError::check("make", "its name is \"\"");
        let error = ExecError::new(Failure::Spawn(spawn()), "make".into(), None, false);
        assert_eq!(error.to_string(), spawn().to_string());
    }

    #[test]
    fn only_the_last_lines_are_shown() {
        let lines: String = (0..40).map(|number| format!("line {number}\n")).collect();
        let shown = last_lines(lines.as_bytes());
        assert!(shown.starts_with("…line 30\n") && shown.ends_with("\nline 39"), "{shown}");
        assert_eq!(last_lines(&lines.as_bytes()[..14]), "line 0\nline 1");
        // 1000 bytes end within a character of three.
        assert_eq!(last_lines("€".repeat(400).as_bytes()), format!("…{}", "€".repeat(333)));
    }

    #[test]
    fn nothing_reaches_the_terminal_as_a_command() {
        let text = error(Failure::Status, "a\u{1b}b", b"red \x1b[31m\x07").to_string();
        assert_eq!(text, r"command failed: a\u{1b}b: exited with code 2: red \u{1b}[31m\u{7}");
    }

    proptest! {
        #[test]
        fn texts_are_bounded(
            command in "(?s).{0,1000}",
            stderr in vec(any::<u8>(), 0..3000),
        ) {
            let text = error(Failure::Status, &command, &stderr).to_string();
            // At worst, all of it is control characters.
            prop_assert!(text.chars().count() < 100 + 10 * (COMMAND_CHARACTERS + LINES_BYTES));
            let is_command = |c: char| c.is_control() && c != '\n' && c != '\t';
            prop_assert!(!text.contains(is_command));
        }
    }
}
