//! Which file is executed.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use windows_sys::Win32::Foundation::{ERROR_BAD_EXE_FORMAT, ERROR_FILE_NOT_FOUND};

use super::text::{file_names, is_batch_file, upper_case};
use super::wide;
use crate::process::Step;
use crate::process::launch::Launch;

/// What a program given by a name is looked for in when there is no `PATH`.
pub(crate) const DEFAULT_PATH: &str = r"C:\Windows\System32";

/// What says that a file is no program.
pub(crate) const NOT_EXECUTABLE: i32 = ERROR_BAD_EXE_FORMAT.cast_signed();

/// What programs are called, where the child's environment does not say it.
const EXTENSIONS: &str = ".COM;.EXE;.BAT;.CMD";

/// Whether this is a path, which is not looked for in `PATH`.
pub(crate) fn is_path(file: &OsStr) -> bool {
    file.to_string_lossy().contains(['\\', '/', ':'])
}

/// The first of the files that there is, as seen from the child's directory.
pub(super) fn find(
    launch: &Launch<'_>,
    env: &[(Vec<u16>, Vec<u16>)],
) -> Result<PathBuf, (Step, io::Error)> {
    let extensions = env.iter().find(|(name, _)| upper_case(name) == wide("PATHEXT".as_ref()));
    let extensions = extensions.map(|(_, value)| String::from_utf16_lossy(value));
    let extensions = extensions.as_deref().unwrap_or(EXTENSIONS);
    for file in &launch.files {
        let from = launch.options.directory.as_deref().unwrap_or(Path::new(""));
        let directory = file.parent().map_or_else(PathBuf::new, |parent| from.join(parent));
        let name = file.file_name().unwrap_or(file.as_os_str());
        let Some(name) = name.to_str() else {
            // No extension can be told from it; and it may be one that is there.
            let whole = from.join(file);
            if whole.is_file() {
                return Ok(whole);
            }
            continue;
        };
        let names = file_names(name, extensions).into_iter();
        let mut paths = names.map(|name| directory.join(name));
        if let Some(path) = paths.find(|path| path.is_file()) {
            return if is_batch_file(&path.to_string_lossy()) {
                Err(refuse(path))
            } else {
                Ok(path)
            };
        }
    }
    let name = match &launch.files[..] {
        [file] => file.as_os_str(),
        files => files.last().and_then(|file| file.file_name()).unwrap_or_default(),
    };
    Err((Step::Execute(name.into()), not_found()))
}

fn refuse(path: PathBuf) -> (Step, io::Error) {
    let text = "it is a batch file, whose arguments can't be passed on safely (CVE-2024-24576): \
                run it by Command::shell, and take care of what is in the line";
    (Step::Execute(path), io::Error::new(io::ErrorKind::InvalidInput, text))
}

fn not_found() -> io::Error {
    io::Error::from_raw_os_error(ERROR_FILE_NOT_FOUND.cast_signed())
}
