//! The operating system: the only place with `unsafe`, and this file the only one with `cfg`.
//!
//! A platform provides
//!
//! * `Raw`: its owned handle, with `try_clone`; and `actual_kind`: what one is;
//! * `api`: the calls that pass handles, part of the crate's interface. They differ by platform:
//!   Unix sends handles beside bytes, Windows pushes them into a process;
//! * conversions from and to [`Handle`](crate::Handle), for the types of std, mio and socket2;
//! * `fuzzing`: what hostile peers and fuzz targets need, and no user does.
//!
//! On Unix, `os` holds the few things that Linux has and others lack.

#[cfg(unix)]
mod unix;

#[cfg(unix)]
#[cfg_attr(any(target_os = "linux", target_os = "android"), path = "unix/linux.rs")]
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "unix/fallback.rs")]
mod os;

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "unix/fuzzing.rs"]
pub(crate) mod fuzzing;
#[cfg(windows)]
#[path = "windows/fuzzing.rs"]
pub(crate) mod fuzzing;
#[cfg(not(any(target_os = "linux", target_os = "android", windows)))]
pub(crate) mod fuzzing {}

#[cfg(unix)]
pub(crate) use unix::{Raw, actual_kind, message as api};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::{Raw, actual_kind, push as api};
