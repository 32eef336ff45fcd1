//! The operating system: the only place with `unsafe`, and this file the only one with `cfg`.
//!
//! A platform provides
//!
//! * `send` and `recv`: one message, in the socket's own blocking mode or never blocking;
//! * `kind`: what a handle is;
//! * `fuzzing`: what hostile peers and fuzz targets need, and no user does.
//!
//! On Unix, `os` holds the few things that Linux has and others lack.

#[cfg(unix)]
mod control;
#[cfg(unix)]
mod unix;

#[cfg(unix)]
#[cfg_attr(any(target_os = "linux", target_os = "android"), path = "linux.rs")]
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "fallback.rs")]
mod os;

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod fuzzing;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) mod fuzzing {}

#[cfg(unix)]
pub(crate) use unix::{Wait, kind, recv, send};
