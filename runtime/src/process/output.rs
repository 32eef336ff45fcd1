use std::borrow::Cow;
use std::str::Utf8Error;

use crate::exit::Exit;

/// What a command has written, and how it ended.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let output = runtime::process::exec_sync("echo one; echo two >&2; exit 3");
/// # let output = output.unwrap_err().into_output().unwrap();
/// assert_eq!(output.status.code(), Some(3));
/// assert_eq!(output.stdout_str()?, "one\n");
/// assert_eq!(output.stderr, b"two\n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// How it ended.
    pub status: Exit,
    /// What it wrote to standard output, unless that went elsewhere.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, unless that went elsewhere.
    pub stderr: Vec<u8>,
    /// The process id that it had, which may be another's by now.
    pub pid: u32,
}

impl Output {
    /// Whether it exited with code 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status.code() == Some(0)
    }

    /// Its standard output as text.
    ///
    /// # Errors
    ///
    /// When it is not UTF-8; [`stdout_lossy`](Self::stdout_lossy) takes anything.
    pub fn stdout_str(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.stdout)
    }

    /// Its standard error as text.
    ///
    /// # Errors
    ///
    /// When it is not UTF-8; [`stderr_lossy`](Self::stderr_lossy) takes anything.
    pub fn stderr_str(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.stderr)
    }

    /// Its standard output as text, with `U+FFFD` for what is not UTF-8.
    #[must_use]
    pub fn stdout_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }

    /// Its standard error as text, with `U+FFFD` for what is not UTF-8.
    #[must_use]
    pub fn stderr_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stderr)
    }
}
