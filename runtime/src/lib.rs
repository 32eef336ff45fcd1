//! A thin, non-async master/worker runtime: one service as many processes, and nothing lost when
//! one of them dies.
//!
//! ```no_run
//! use std::io::Write;
//! use runtime::{Cluster, Worker};
//!
//! fn main() -> Result<(), runtime::Error> {
//!     Cluster::builder().workers(4).run(|worker: Worker| {
//!         for connection in worker.listen("127.0.0.1:8080")?.incoming() {
//!             writeln!(connection?, "hello from worker {}", worker.id())?;
//!         }
//!         std::io::Result::Ok(())
//!     })
//! }
//! ```

mod address;
mod bound;
mod builder;
mod clock;
mod cluster;
mod desk;
mod driver;
mod error;
mod event;
mod listen;
// Public for the fuzz targets and the simulator; no part of the stable interface.
#[doc(hidden)]
pub mod machine;
mod mailbox;
mod messages;
mod peek;
mod policy;
// Public for the fuzz targets; no part of the stable interface.
#[doc(hidden)]
pub mod post;
mod shell;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod sim;
mod slot_options;
mod sys;
mod worker;

pub use address::{Address, Inherited, ParseAddressError, Peer};
pub use builder::Builder;
pub use cluster::{Broadcast, Cluster, Handle, ListenerInfo};
pub use driver::Driver;
pub use error::Error;
pub use event::{Event, Exit, KillReason, ParseWorkerIdError, WorkerId, WorkerInfo, WorkerState};
#[cfg(feature = "typed")]
pub use ipc_core::CodecError;
pub use listen::{Dispatch, ListenOptions, ParseDispatchError};
pub use machine::RestartPolicy;
pub use messages::{Messages, Received};
pub use peek::{Peek, PeekOptions};
pub use post::{Message, Recipient, RequestError, SendError, Sender};
pub use scheduler::PolicyKind;
pub use slot_options::SlotOptions;
pub use sys::Resource;
pub use worker::{Connection, Incoming, Listener, OpenConnection, Stream, UdpSocket, Worker};

/// Compiles the examples of the workspace's README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
