//! A directory that is held open, so that its files are the same ones from one look to the next,
//! whoever renames what above it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg};
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

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { directory: self.directory.try_clone()?, path: self.path.clone() })
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

    /// Keeps others out who use this lock, until it is dropped.
    pub(super) fn lock(&self, until: Instant) -> io::Result<Flock<File>> {
        // A lock belongs to an open directory, so that one opened again is needed.
        let mut file = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(os::place_in(&self.directory.as_fd(), &self.path, Path::new(".")))?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((back, Errno::EAGAIN | Errno::EINTR)) => file = back,
                Err((_, error)) => return Err(about(&self.path, &error.into())),
            }
            if crate::clock::time_left(Some(until)).is_err() {
                let reason = "others that start in this directory do not come to an end";
                let error = io::Error::new(io::ErrorKind::TimedOut, reason);
                return Err(about(&self.path, &error));
            }
            super::named::pause(LOCK_PAUSE)?;
        }
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
        Ok(fchmodat(&self.directory, name, mode, FchmodatFlags::FollowSymlink)?)
    }

    pub(super) fn remove(&self, name: &Path) -> io::Result<()> {
        Ok(unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir)?)
    }
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
