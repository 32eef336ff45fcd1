//! A directory that is held open, so that its files are the same ones from one look to the next,
//! whoever renames what above it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::sys::os;

/// How long to wait between two attempts to get a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(super) struct Directory {
    directory: File,
    path: PathBuf,
}

/// Keeps others out who start at the same name, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock<'a> {
    directory: &'a Directory,
    name: PathBuf,
    _file: Flock<File>,
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // Whoever has opened it meanwhile finds out, once he has the lock, that it is gone.
        let _ = self.directory.remove(&self.name);
    }
}

/// Tells a file from all others, as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

/// What there is to know of a file.
#[derive(Debug)]
pub(super) struct FileFacts {
    pub(super) id: FileId,
    pub(super) user_id: u32,
    pub(super) mode: u32,
    pub(super) is_socket: bool,
}

impl Directory {
    /// Opens the directory of a path; gives the last part of the path too. Links on the way are
    /// followed, what is found is held.
    pub(super) fn of(path: &Path) -> io::Result<(Self, PathBuf)> {
        let name = path.file_name().map(PathBuf::from).ok_or(Errno::EINVAL)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let directory = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(parent)
            .map_err(|error| about(parent, &error))?;
        Ok((Self { directory, path: parent.to_owned() }, name))
    }

    /// Makes sure that only this user and root can exchange files in it.
    pub(super) fn check(&self) -> io::Result<()> {
        let facts = self.directory.metadata()?;
        let owner_is_trusted = super::named::is_same_user(Some(facts.uid()));
        let is_open = facts.mode() & 0o022 != 0 && facts.mode() & 0o1000 == 0;
        if owner_is_trusted && !is_open {
            return Ok(());
        }
        let reason = format!(
            "others can exchange files in {} (mode {:o}, user {}): use a directory of mode 0700 of \
             this user, or allow it by ListenerOptions::any_directory",
            self.path.display(),
            facts.mode() & 0o7777,
            facts.uid(),
        );
        Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
    }

    /// Keeps others out who start at the same name.
    ///
    /// The lock is on a file beside, which only this user can open. One on the directory could be
    /// taken, and kept for ever, by everybody who may read the directory.
    pub(super) fn lock(&self, name: &Path, until: Instant) -> io::Result<Lock<'_>> {
        let mut lock_name = OsString::from(".");
        lock_name.push(name);
        lock_name.push(".lock");
        let name = PathBuf::from(lock_name);
        loop {
            match Flock::lock(self.open_lock(&name)?, FlockArg::LockExclusiveNonblock) {
                Ok(file) => {
                    let id = FileId(file.metadata()?.dev(), file.metadata()?.ino());
                    if self.file(&name).is_ok_and(|facts| facts.id == id) {
                        return Ok(Lock { directory: self, name, _file: file });
                    }
                    // Its last holder has removed it, so that it keeps nobody out.
                }
                Err((_, Errno::EAGAIN | Errno::EINTR)) => super::named::pause(LOCK_PAUSE)?,
                Err((_, error)) => return Err(about(&self.path.join(name), &error.into())),
            }
            if crate::clock::time_left(Some(until)).is_err() {
                let reason = "others that start at this address do not come to an end";
                let error = io::Error::new(io::ErrorKind::AddrInUse, reason);
                return Err(about(&self.path.join(name), &error));
            }
        }
    }

    fn open_lock(&self, name: &Path) -> io::Result<File> {
        let path = self.path.join(name);
        // Somebody may have put anything there: a link is not followed, a FIFO not waited for.
        let flags = OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = openat(&self.directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map(File::from)
            .map_err(|error| about(&path, &error.into()))?;
        let user = file.metadata()?.uid();
        if user != super::named::effective_user() {
            let reason = format!("user {user} keeps others from starting there: remove it");
            let error = io::Error::new(io::ErrorKind::PermissionDenied, reason);
            return Err(about(&path, &error));
        }
        Ok(file)
    }

    /// A path to a file in this very directory.
    pub(super) fn place(&self, name: &Path) -> PathBuf {
        os::place_in(&self.directory.as_fd(), &self.path, name)
    }

    pub(super) fn file(&self, name: &Path) -> io::Result<FileFacts> {
        let stat = fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        #[allow(
            clippy::unnecessary_cast,
            clippy::useless_conversion,
            reason = "the types differ between systems"
        )]
        Ok(FileFacts {
            id: FileId(stat.st_dev as u64, stat.st_ino as u64),
            user_id: stat.st_uid,
            mode: (stat.st_mode & 0o7777).into(),
            is_socket: kind == SFlag::S_IFSOCK,
        })
    }

    pub(super) fn set_mode(&self, name: &Path, mode: u32) -> io::Result<()> {
        #[allow(
            clippy::unnecessary_cast,
            clippy::cast_possible_truncation,
            reason = "the types differ between systems, and a mode has 12 bits"
        )]
        let mode = Mode::from_bits_truncate(mode as nix::sys::stat::mode_t);
        Ok(fchmodat(&self.directory, name, mode, FchmodatFlags::NoFollowSymlink)?)
    }

    pub(super) fn remove(&self, name: &Path) -> io::Result<()> {
        Ok(unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir)?)
    }
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
