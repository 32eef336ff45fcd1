//! The blocking twins.

use std::ffi::OsString;

use mio::Poll;

use super::command::Command;
use super::exec_error::{ExecError, Failure};
use super::output::Output;

/// Has the shell carry out a line, and waits for it: [`Command::exec_sync`] without options.
///
/// What is put into the line is read as a program, see [`Command::shell`].
///
/// ```
/// # #[cfg(unix)] {
/// let output = runtime::process::exec_sync("printf 'b\na\n' | sort")?;
/// assert_eq!(output.stdout_str()?, "a\nb\n");
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// As [`Command::exec_sync`].
pub fn exec_sync(line: impl Into<OsString>) -> Result<Output, ExecError> {
    Command::shell(line).exec_sync()
}

/// Runs a program with arguments, without a shell, and waits for it: [`Command::exec_sync`]
/// without options.
///
/// # Errors
///
/// As [`Command::exec_sync`].
pub fn exec_file_sync<A: Into<OsString>>(
    file: impl Into<OsString>,
    args: impl IntoIterator<Item = A>,
) -> Result<Output, ExecError> {
    Command::new(file).args(args).exec_sync()
}

/// Runs a program with arguments, and waits for it, however it ends: [`Command::spawn_sync`]
/// without options.
///
/// # Errors
///
/// As [`Command::spawn_sync`].
pub fn spawn_sync<A: Into<OsString>>(
    file: impl Into<OsString>,
    args: impl IntoIterator<Item = A>,
) -> Result<Output, ExecError> {
    Command::new(file).args(args).spawn_sync()
}

impl Command {
    /// Runs it as [`exec`](Self::exec) does, and waits for it.
    ///
    /// Both outputs are collected; to have one shown instead, set it to
    /// [`Stdio::inherit`](super::Stdio::inherit).
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// use std::time::Duration;
    /// use runtime::process::{Command, Failure};
    ///
    /// let mut sort = Command::new("sort");
    /// assert_eq!(sort.input("b\na\n").exec_sync()?.stdout, b"a\nb\n");
    ///
    /// let mut sleep = Command::shell("echo begun; sleep 1000");
    /// let error = sleep.timeout(Duration::from_millis(50)).exec_sync().unwrap_err();
    /// assert!(matches!(error.failure(), Failure::TimedOut));
    /// assert_eq!(error.signal(), Some(15));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When it can't be started, does not exit with code 0, is ended by its
    /// [`timeout`](Self::timeout) or [token](Self::cancel_with), or writes more than
    /// [`max_buffer`](Self::max_buffer). The error comes when it has really ended.
    pub fn exec_sync(&mut self) -> Result<Output, ExecError> {
        // First, so that nothing runs if that fails.
        let poll = match Poll::new() {
            Ok(poll) => poll,
            Err(error) => return Err(self.failed(Failure::Io(error))),
        };
        match self.exec() {
            Ok(exec) => exec.wait_in(poll),
            Err(error) => Err(self.failed(Failure::Spawn(error))),
        }
    }

    /// As [`exec_sync`](Self::exec_sync), but that how it ends is never an error:
    /// [`Output::status`] says it.
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// let output = runtime::process::spawn_sync("grep", ["-q", "needle", "/dev/null"])?;
    /// assert_eq!(output.status.code(), Some(1));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When it can't be started, is ended by its [`timeout`](Self::timeout) or
    /// [token](Self::cancel_with), or writes more than [`max_buffer`](Self::max_buffer).
    pub fn spawn_sync(&mut self) -> Result<Output, ExecError> {
        self.exec_sync().or_else(ExecError::unless_status)
    }

    fn failed(&self, failure: Failure) -> ExecError {
        ExecError::new(failure, self.to_string(), None, false)
    }
}
