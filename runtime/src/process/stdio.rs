use std::fs::File;

use handle_passing::Handle;

/// What a child has under one of its descriptors.
///
/// ```
/// use std::fs::File;
/// use runtime::process::{Command, Stdio};
///
/// # fn main() -> std::io::Result<()> {
/// # let log = std::env::temp_dir().join(format!("process-stdio-{}", std::process::id()));
/// let mut command = Command::new("make");
/// command.stdin(Stdio::null()).stdout(File::create(&log)?).stderr(Stdio::inherit());
/// # std::fs::remove_file(log)
/// # }
/// ```
#[derive(Debug)]
pub struct Stdio(pub(super) Kind);

#[derive(Debug)]
pub(super) enum Kind {
    /// As the number has it: 0 is read by the child, 1 and 2 are written, others are both.
    Pipe,
    Input,
    Output,
    Duplex,
    Inherit,
    InheritFrom(u32),
    Null,
    Ipc,
    Given(Handle),
}

impl Stdio {
    /// A pipe: the child reads from standard input, and writes to standard output and error; under
    /// other numbers it is a [`duplex`](Self::duplex).
    #[must_use]
    pub fn pipe() -> Stdio {
        Stdio(Kind::Pipe)
    }

    /// A pipe that the child reads and we write, under any number.
    #[must_use]
    pub fn input() -> Stdio {
        Stdio(Kind::Input)
    }

    /// A pipe that the child writes and we read, under any number.
    #[must_use]
    pub fn output() -> Stdio {
        Stdio(Kind::Output)
    }

    /// A stream in both directions: a socket.
    #[must_use]
    pub fn duplex() -> Stdio {
        Stdio(Kind::Duplex)
    }

    /// What this process has under the same number.
    #[must_use]
    pub fn inherit() -> Stdio {
        Stdio(Kind::Inherit)
    }

    /// What this process has under another of the standard numbers: 2 makes a child's standard
    /// output go where our standard error goes.
    #[must_use]
    pub fn inherit_from(number: u32) -> Stdio {
        Stdio(Kind::InheritFrom(number))
    }

    /// Nothing: always at its end to read, and what is written is dropped (`/dev/null`, `NUL`).
    #[must_use]
    pub fn null() -> Stdio {
        Stdio(Kind::Null)
    }

    /// The channel for messages, of [`Command::spawn`](super::Command::spawn) and
    /// [`fork`](super::Command::fork) alone: one of the descriptors can be it.
    #[must_use]
    pub fn ipc() -> Stdio {
        Stdio(Kind::Ipc)
    }

    /// A descriptor, which the child gets and we no longer have: a file, a socket, a pipe.
    /// To keep it too, give a `try_clone` of it.
    #[must_use]
    pub fn given(handle: impl Into<Handle>) -> Stdio {
        Stdio(Kind::Given(handle.into()))
    }
}

impl From<Handle> for Stdio {
    fn from(handle: Handle) -> Stdio {
        Stdio::given(handle)
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Stdio {
        Stdio::given(file)
    }
}
