//! Where a program may be.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::sys;

/// The files that a program may be, in the order in which they are tried: itself if it is given by
/// a path, else those of that name in each directory of `PATH`. An empty entry of `PATH` is the
/// current directory, as everywhere.
pub(super) fn candidates(file: &OsStr, path: Option<&OsStr>) -> Vec<PathBuf> {
    if sys::is_path(file) {
        return vec![file.into()];
    }
    let directories = std::env::split_paths(path.unwrap_or(OsStr::new(sys::DEFAULT_PATH)));
    let join = |directory: PathBuf| match directory.as_os_str().is_empty() {
        true => Path::new(".").join(file),
        false => directory.join(file),
    };
    directories.map(join).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, path: Option<&str>) -> Vec<String> {
        let files = candidates(file.as_ref(), path.map(OsStr::new));
        files.iter().map(|file| file.display().to_string()).collect()
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        for file in ["/bin/a", "./a", "b/a", "../a"] {
            assert_eq!(found(file, Some("/x:/y")), [file]);
        }
    }

    #[test]
    fn a_name_is_looked_for_in_each_directory_in_order() {
        assert_eq!(found("a", Some("/y:/x:/y/z")), ["/y/a", "/x/a", "/y/z/a"]);
        assert_eq!(found("a", Some("bin")), ["bin/a"]);
        assert_eq!(found("a", None), ["/bin/a", "/usr/bin/a"]);
    }

    #[test]
    fn an_empty_entry_is_the_current_directory() {
        assert_eq!(found("a", Some("/x::/y")), ["/x/a", "./a", "/y/a"]);
        assert_eq!(found("a", Some("")), ["./a"]);
    }
}
