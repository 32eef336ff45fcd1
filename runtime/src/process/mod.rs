//! Child processes: spawn, exec, fork.

#![allow(dead_code)] // TO BE REMOVED when all parts have landed

mod attended;
mod bell;
mod cancel;
// Public for the fuzz target; no part of the stable interface.
#[doc(hidden)]
pub mod capture;
mod check;
mod child;
mod children;
mod command;
pub(crate) mod descendants;
pub(crate) mod environment;
mod error;
mod event;
mod exec;
mod exec_error;
mod exec_sync;
mod fork;
mod function;
mod handle;
pub(crate) mod launch;
mod link;
// Public for the fuzz targets; no part of the stable interface.
#[doc(hidden)]
pub mod life;
mod limit;
mod output;
mod parent;
mod path;
mod reap;
mod running;
mod shell;
mod signal;
pub(crate) mod start;
mod stdio;
mod stream;
mod supervised;
pub(crate) mod tree;

pub use self::cancel::CancelToken;
pub use self::child::{Child, spawn};
pub use self::children::Children;
pub use self::command::Command;
pub use self::descendants::become_subreaper;
pub use self::error::{SpawnError, Step};
pub use self::event::{Event, KillReason};
pub use self::exec::{Exec, exec, exec_file};
pub use self::exec_error::{ExecError, Failure, OutputStream};
pub use self::exec_sync::{exec_file_sync, exec_sync, spawn_sync};
pub use self::fork::fork;
pub use self::function::{Function, Run, run_functions};
pub use self::handle::{ChildHandle, ChildId};
pub use self::limit::Resource;
pub use self::link::{RecvError, SendError};
pub use self::output::Output;
pub use self::parent::{Parent, parent};
pub use self::shell::quote;
pub use self::signal::{ParseSignalError, Signal};
pub use self::stdio::Stdio;
pub use self::stream::{Duplex, PipeReader, PipeWriter, Stream};
pub use ipc_core::Limits as ChannelLimits;
