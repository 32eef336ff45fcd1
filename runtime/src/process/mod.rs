//! Child processes: spawn, exec, fork.

#![allow(dead_code)] // TO BE REMOVED when all parts have landed

mod cancel;
// Public for the fuzz target; no part of the stable interface.
#[doc(hidden)]
pub mod capture;
mod command;
mod error;
mod exec_error;
pub(crate) mod launch;
mod limit;
mod output;
mod shell;
mod signal;
mod stdio;

pub use self::cancel::CancelToken;
pub use self::command::Command;
pub use self::error::{SpawnError, Step};
pub use self::exec_error::{ExecError, Failure, OutputStream};
pub use self::limit::Resource;
pub use self::output::Output;
pub use self::shell::quote;
pub use self::signal::{ParseSignalError, Signal};
pub use self::stdio::Stdio;
