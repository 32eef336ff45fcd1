use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use super::command::Command;

impl Command {
    /// A line for the shell: `/bin/sh -c LINE`; on Windows `cmd.exe /d /s /c "LINE"`, the shell
    /// that `ComSpec` names.
    ///
    /// Arguments that are added are what the line calls `$1`, `$2` and so on, on Unix. That is the
    /// way for all that you did not write yourself: **what is put into the line is read as a
    /// program**, so that a name like `x; rm -r ~` does what it says.
    ///
    /// ```
    /// use runtime::process::Command;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let name = "any; name";
    /// let output = Command::shell(r#"printf %s "$1" | tr a-z A-Z"#).arg(name).exec_sync()?;
    /// assert_eq!(output.stdout_str()?, "ANY; NAME");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Where that won't do, [`quote`] makes one word of any text, for `sh`.
    #[must_use]
    pub fn shell(line: impl Into<OsString>) -> Command {
        Command::shell_with(crate::sys::shell(), line)
    }

    /// A line for this shell, which takes it after `-c`; or as `cmd.exe` does, if it is that.
    #[must_use]
    pub fn shell_with(shell: impl Into<PathBuf>, line: impl Into<OsString>) -> Command {
        let mut command = Command::new(line);
        command.shell = Some(shell.into());
        command.is_tree_killed = true;
        command
    }
}

/// The command as one would type it; what a shell would not take for itself is quoted.
///
/// ```
/// use runtime::process::Command;
///
/// assert_eq!(Command::new("ls").args(["-l", "a file"]).to_string(), "ls -l 'a file'");
/// assert_eq!(Command::shell("ls *.rs | wc -l").to_string(), "ls *.rs | wc -l");
/// ```
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shell.is_some() {
            return write!(f, "{}", self.file.display());
        }
        write!(f, "{}", word(&self.file))?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", word(arg)))
    }
}

/// Makes one word of any text, in a line for `sh`: it stands for the text, and for nothing else.
///
/// Only NUL can't be part of a word at all: a command that has it is not started. For `cmd.exe`
/// there is no such way.
///
/// ```
/// use runtime::process::{exec_sync, quote};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let name = "it's $HOME; rm *";
/// let output = exec_sync(format!("printf %s {}", quote(name)))?;
/// assert_eq!(output.stdout_str()?, name);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What a person would type for this argument.
fn word(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    let is_plain = |c: char| c.is_alphanumeric() || "_-+=@%:,./".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { text.into_owned() } else { quote(&text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// What a shell makes of a word of pieces in quotes, and of letters that a backslash stands
    /// before; `None` if there is anything else.
    fn read(word: &str) -> Option<String> {
        let (mut text, mut rest) = (String::new(), word);
        while !rest.is_empty() {
            if let Some(escaped) = rest.strip_prefix('\\') {
                text.push(escaped.chars().next()?);
                rest = &escaped[escaped.chars().next()?.len_utf8()..];
            } else {
                let (piece, after) = rest.strip_prefix('\'')?.split_once('\'')?;
                text.push_str(piece);
                rest = after;
            }
        }
        Some(text)
    }

    proptest! {
        #[test]
        fn quoted_is_one_word_that_stands_for_the_text(
            text in "([^\0]|['\"\\\\$`;&|<>(){}*?~#!\n ]){0,20}",
        ) {
            prop_assert_eq!(read(&quote(&text)), Some(text));
        }
    }

    #[test]
    fn what_is_plain_is_shown_as_it_is() {
        let shown = |args: &[&str]| Command::new("run").args(args).to_string();
        assert_eq!(shown(&["--key=a/b.c", "naïve"]), "run --key=a/b.c naïve");
        assert_eq!(shown(&["", "a b", "it's", "$x"]), r"run '' 'a b' 'it'\''s' '$x'");
    }
}
