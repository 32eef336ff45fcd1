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

    /// With `PATH` of these directories.
    fn found(file: &str, path: Option<&[&str]>) -> Vec<PathBuf> {
        let path = path.map(|path| std::env::join_paths(path).unwrap());
        candidates(file.as_ref(), path.as_deref())
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        for file in ["/bin/a", "./a", "b/a", "../a"] {
            assert_eq!(found(file, Some(&["/x", "/y"])), [Path::new(file)]);
        }
    }

    #[test]
    fn a_name_is_looked_for_in_each_directory_in_order() {
        let paths = ["/y", "/x", "/y/z"].map(|directory| Path::new(directory).join("a"));
        assert_eq!(found("a", Some(&["/y", "/x", "/y/z"])), paths);
        assert_eq!(found("a", Some(&["bin"])), [Path::new("bin").join("a")]);
        let default = std::env::split_paths(sys::DEFAULT_PATH).map(|path| path.join("a"));
        assert_eq!(found("a", None), default.collect::<Vec<_>>());
    }

    #[test]
    fn an_empty_entry_is_the_current_directory() {
        let paths = ["/x", ".", "/y"].map(|directory| Path::new(directory).join("a"));
        assert_eq!(found("a", Some(&["/x", "", "/y"])), paths);
        assert_eq!(found("a", Some(&[""])), [Path::new(".").join("a")]);
    }
}
