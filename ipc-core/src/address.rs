use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::sys;

/// Where a [`Listener`](crate::Listener) listens, and who wants a channel connects to.
///
/// * A **path** of a Unix socket. The directory decides who may come near it, and the file's mode
///   who may connect.
/// * An **abstract name** (Linux): no file is left behind, but anybody on the machine can connect,
///   or take the name first. Both sides therefore check who the other is; a path is the better
///   choice.
/// * A **pipe name** (Windows): `NAME` of `\\.\pipe\NAME`.
///
/// As text, `@NAME` is an abstract name, `\\.\pipe\NAME` a pipe, and anything else a path. Each
/// kind exists everywhere; only using it where the system lacks it is an error.
///
/// # Examples
///
/// ```
/// use ipc_core::Address;
///
/// let address: Address = "/run/app/control.sock".parse()?;
/// assert_eq!(address, Address::path("/run/app/control.sock")?);
/// assert_eq!(Address::abstract_name("app")?.to_string(), "@app");
/// assert_eq!(Address::pipe("app")?.to_string(), r"\\.\pipe\app");
/// # Ok::<(), ipc_core::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address(Name);

/// What an address consists of, for `sys`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    Path(PathBuf),
    Abstract(String),
    Pipe(String),
}

const PIPE_PREFIX: &str = r"\\.\pipe\";

impl Address {
    /// The path of a Unix socket.
    ///
    /// # Errors
    ///
    /// When it is empty, has a NUL byte, or does not end with a file name, or when that name is
    /// too long to be bound (about 80 bytes; the directory's path may be of any length on Linux).
    pub fn path(path: impl Into<PathBuf>) -> Result<Self, AddressError> {
        let path = path.into();
        let text = path.as_os_str().as_encoded_bytes();
        let fail = |why| Err(AddressError { text: path.display().to_string(), why });
        if text.is_empty() || text.contains(&0) {
            return fail("the path is empty or has a NUL byte".into());
        }
        let Some(name) = path.file_name() else {
            return fail("the path does not end with the name of a file".into());
        };
        let (length, max) = (length_that_counts(&path, name), sys::PATH_BYTES_MAX);
        if length > max {
            let what = if sys::NAMES_FROM_DIRECTORY { "file's name" } else { "path" };
            let why = format!(
                "its {what} has {length} bytes, and at most {max} fit into a socket's address: \
                 shorten it"
            );
            return fail(why);
        }
        Ok(Self(Name::Path(path)))
    }

    /// A name in Linux's abstract namespace, without the NUL byte in front.
    ///
    /// # Errors
    ///
    /// When it is empty, has a NUL byte, or is longer than 107 bytes.
    pub fn abstract_name(name: impl Into<String>) -> Result<Self, AddressError> {
        let name = name.into();
        if name.is_empty() || name.contains('\0') || name.len() > 107 {
            let why = "an abstract name has 1 to 107 bytes, none of them NUL".into();
            return Err(AddressError { text: name, why });
        }
        Ok(Self(Name::Abstract(name)))
    }

    /// The name of a Windows named pipe, without `\\.\pipe\`.
    ///
    /// # Errors
    ///
    /// When it is empty, has a backslash or a NUL, or is longer than 247 characters.
    pub fn pipe(name: impl Into<String>) -> Result<Self, AddressError> {
        let name = name.into();
        if name.is_empty() || name.contains(['\\', '\0']) || name.chars().count() > 247 {
            let why =
                "a pipe's name has 1 to 247 characters, none of them a backslash or NUL".into();
            return Err(AddressError { text: name, why });
        }
        Ok(Self(Name::Pipe(name)))
    }

    /// The path, if the address is one.
    #[must_use]
    pub fn as_path(&self) -> Option<&Path> {
        match &self.0 {
            Name::Path(path) => Some(path),
            Name::Abstract(_) | Name::Pipe(_) => None,
        }
    }

    pub(crate) fn name(&self) -> &Name {
        &self.0
    }
}

/// What of a path has to fit: on Linux its directory is opened, and the rest is named from there.
fn length_that_counts(path: &Path, name: &OsStr) -> usize {
    if sys::NAMES_FROM_DIRECTORY { name.len() } else { path.as_os_str().len() }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Name::Path(path) => path.display().fmt(f),
            Name::Abstract(name) => write!(f, "@{name}"),
            Name::Pipe(name) => write!(f, "{PIPE_PREFIX}{name}"),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(name) = text.strip_prefix('@') {
            return Self::abstract_name(name);
        }
        if let Some(name) = text.strip_prefix(PIPE_PREFIX) {
            return Self::pipe(name);
        }
        Self::path(text)
    }
}

/// What can't be an [`Address`], and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    text: String,
    why: String,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no address: {:?}: {}", self.text, self.why)
    }
}

impl std::error::Error for AddressError {}

impl From<AddressError> for std::io::Error {
    fn from(error: AddressError) -> Self {
        Self::new(std::io::ErrorKind::InvalidInput, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_make_the_way_there_and_back() {
        for text in ["/run/app.sock", "app.sock", "@app", r"\\.\pipe\app"] {
            let address: Address = text.parse().expect("an address");
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_cannot_be_an_address_is_refused_by_name() {
        let long = "n".repeat(300);
        for text in ["", "/", "/run/..", "a\0b", "@", "@a\0", r"\\.\pipe\", r"\\.\pipe\a\b", &long]
        {
            let error = text.parse::<Address>().expect_err(text);
            assert!(error.to_string().starts_with("no address: "), "{error}");
        }
        assert!(Address::abstract_name(long.clone()).is_err());
        assert!(Address::pipe(long).is_err());
    }
}
