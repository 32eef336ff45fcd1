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
//!
//! # What runs where
//!
//! [`Builder::run`] makes the process that you start the **master**. It starts the same program
//! again for each **slot**, and there `run` calls the closure with a [`Worker`]. Code before `run`
//! runs in all of them. A slot is a number from 0 that stays; the processes that sit in it one
//! after the other are counted by a generation, and `2.1` is the first worker of slot 2
//! ([`WorkerId`]).
//!
//! | the master is | with | you have |
//! |---|---|---|
//! | the whole process | [`Builder::run`] | hooks: [`on_event`], [`on_message`] |
//! | a thread of your program | [`Builder::spawn`] | a [`Cluster`], which is a [`Handle`] |
//! | part of your own event loop | [`Builder::driver`] | a [`Driver`], which is a [`Handle`] too |
//!
//! With the last two, workers are another [program](Builder::program), or this one, if it asks
//! [`Worker::from_env`] first whether it is one:
//!
//! ```no_run
//! use runtime::{Cluster, Worker};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     if let Some(worker) = Worker::from_env()? {
//!         return serve(worker);
//!     }
//!     let cluster = Cluster::builder().workers(4).spawn()?;
//!     let handle = cluster.handle().clone(); // for any thread
//!     // … the rest of the program …
//!     handle.shutdown();
//!     Ok(cluster.wait()?)
//! }
//!
//! fn serve(worker: Worker) -> Result<(), Box<dyn std::error::Error>> {
//!     for connection in worker.listen("127.0.0.1:8080")?.incoming() {
//!         drop(connection?);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Listening
//!
//! A worker asks for an [`Address`]; whoever asks for the same one shares it, and it stays open
//! until the cluster ends, whatever becomes of workers.
//!
//! | | |
//! |---|---|
//! | TCP | [`Worker::listen`] with `"[::]:80"` |
//! | Unix-domain paths and names | … with `"unix:/run/app.sock"`, `"unix:@name"` |
//! | UDP | [`Worker::bind`] with `"0.0.0.0:53"` gives a [`UdpSocket`] |
//! | sockets from systemd, or inherited otherwise | `"systemd:NAME"`, `"fd:3"` ([`Inherited`]) |
//! | backlog, IPv6 alone, one worker alone | [`Worker::listen_with`] and [`ListenOptions`] |
//!
//! A blocking worker takes connections from [`Listener::incoming`], which ends when it shall stop.
//! An event-driven one registers the [`Listener`] and the [`Worker`] with its mio `Poll`, or
//! watches their descriptors, and calls [`Listener::accept`] (the examples `echo`, `http`, `axum`).
//! A [`Connection`] reads and writes like a stream, and counts as open until it is dropped;
//! [`Connection::into_parts`] gives the stream itself.
//!
//! # Dispatch
//!
//! How connections get to workers is chosen by [`Builder::dispatch`], or for one address by
//! [`ListenOptions::dispatch`]:
//!
//! | [`Dispatch`] | who chooses | which policies |
//! |---|---|---|
//! | `Shared` | the kernel, which wakes workers that wait in turn | round-robin, by weight or not |
//! | `Handoff` | the policy, in the master | every one, your own, and with [`Builder::peek`] |
//! | `Steered` | a program in the kernel | the former, random, least connections, by source |
//! | `Auto`, the default | `Shared` where it does what the policy says, else `Handoff` | |
//!
//! `Steered` is for TCP and UDP, and takes `CAP_BPF`, but for random and by source. What can't be
//! had is done in the nearest way: [`Event::Opened`] and [`Handle::listeners`] tell what it is, and
//! why. An operator overrides both choices by the environment variable
//! [`CLUSTER_SCHED_POLICY`](Builder::policy).
//!
//! # Policies
//!
//! ```
//! use runtime::{Cluster, Dispatch, PeekOptions, PolicyKind};
//!
//! // The third worker gets half of what each other gets.
//! let weighted = Cluster::builder().weights([2, 2, 1]);
//! // Connections that last: to whoever has the fewest.
//! let balanced = Cluster::builder().policy(PolicyKind::LeastConnections);
//! // Sticky sessions: a client's address leads to the same worker, …
//! let sticky = Cluster::builder().policy(PolicyKind::Sticky);
//! // … or what it says first does: a cookie, a TLS server name, anything else.
//! let by_cookie = Cluster::builder()
//!     .policy(PolicyKind::ConsistentHash)
//!     .peek(PeekOptions::cookie("session"));
//! // The kernel does it, as far as it can.
//! let steered = Cluster::builder().policy(PolicyKind::SourceHash).dispatch(Dispatch::Steered);
//! ```
//!
//! [`PolicyKind`] names them all, the crate [`scheduler`] compares them and shows how to write
//! another, which [`Builder::custom_policy`] takes.
//!
//! # Lifecycle and events
//!
//! A worker that ends unasked is replaced: at once, then with growing delays, until its slot is
//! given up ([`RestartPolicy`]). A [`Handle`] changes a cluster as it runs; every call returns at
//! once, and [events](Event) tell what comes of it.
//!
//! | to | call |
//! |---|---|
//! | have more or fewer workers | [`Handle::scale`] |
//! | stop one gracefully, and leave its slot empty | [`Handle::disconnect`] |
//! | … from within | [`Worker::disconnect`] |
//! | replace one gracefully | [`Handle::restart`] |
//! | fill a slot that is empty or was given up | [`Handle::start`] |
//! | send a signal to one | [`Handle::kill`] |
//! | stop the cluster | [`Handle::shutdown`], SIGTERM or SIGINT with [`Builder::run`] |
//! | see how it is | [`Handle::workers`], [`Handle::listeners`] |
//!
//! ```no_run
//! use std::time::Duration;
//! use runtime::{Cluster, Event};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::builder().workers(2).program("my-worker").spawn()?;
//! cluster.scale(4)?;
//! for event in cluster.events() {
//!     eprintln!("{event}");
//!     match event {
//!         // Its connections have ten seconds to end, then its process has.
//!         Event::Online { worker } if worker.slot == 3 => {
//!             cluster.disconnect(worker, Duration::from_secs(10));
//!         }
//!         Event::Exited { worker, asked: true, .. } if worker.slot == 3 => cluster.shutdown(),
//!         _ => {}
//!     }
//! }
//! cluster.wait()?;
//! # Ok(())
//! # }
//! ```
//!
//! Workers that are asked to stop serve what waits for them, finish what they have, and exit; past
//! [`drain_timeout`] comes SIGTERM, past
//! [`kill_timeout`] SIGKILL. Without a master they do the same.
//! What sets slots apart (environment, processors, user, limits) is in [`SlotOptions`].
//!
//! # Messages
//!
//! The master's program and its workers send each other [`Message`]s, bytes and handles:
//! [`Handle::send`], [`Worker::send`], [`Worker::send_to`], to all by
//! [`broadcast`], or with a reply by [`request`]. They come in
//! [`Messages`], for threads and for event loops. With the feature `typed`, they hold any value
//! that serde can write (`Message::encode`, `Message::decode`).
//!
//! ```no_run
//! use std::net::{TcpListener, TcpStream};
//! use runtime::{Cluster, Message, Worker};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::builder().workers(2).program("my-worker").spawn()?;
//! let (client, _) = TcpListener::bind("127.0.0.1:0")?.accept()?;
//! cluster.send(1, Message::new("a client for you").with_handle(client))?;
//! # Ok(())
//! # }
//!
//! // In the worker:
//! fn next_client(worker: &Worker) -> Result<TcpStream, Box<dyn std::error::Error>> {
//!     let mut received = worker.messages().recv()?;
//!     Ok(received.message.take_handle::<TcpStream>(0)?)
//! }
//! ```
//!
//! # Child processes
//!
//! Programs that are no workers are started by [`process`]: with streams, with collected output, or
//! with a channel for messages and handles; no cluster is needed for that.
//!
//! # Limits
//!
//! | | default | at most | set by |
//! |---|---|---|---|
//! | slots | one per processor | 1024 | [`workers`], [`scale`] |
//! | addresses of a cluster | | 64 | |
//! | a listener's backlog | 4096 connections | `net.core.somaxconn` | [`backlog`] |
//! | a mailbox (`Handoff`) | 16 connections | 128 | [`mailbox_connections`] |
//! | open connections of a worker | none | | [`set_connections_max`] |
//! | bytes of a message | 1 MiB | 1 GiB | [`message_bytes_max`] |
//! | … handles | 4 | 16 | [`message_handles_max`] |
//! | messages that wait, each way | 256 of a worker | | |
//! | requests without a reply, of one asker | | 1024 | |
//! | events that nobody reads | 4096, then [`Lost`](Event::Lost) | | |
//! | time to come online | 30 s | | [`start_timeout`] |
//! | … to finish when asked to stop | 30 s | | [`drain_timeout`] |
//! | … from SIGTERM to SIGKILL | 5 s | | [`kill_timeout`] |
//! | … without taking what waits | 1 s | | [`stall_timeout`] |
//!
//! # From Node's `cluster`
//!
//! What a user of Node must know first: there is no `fork`, since slots refill themselves; clients
//! wait while no worker is there, instead of being refused; and a worker takes a connection only
//! when it can serve it. `PARITY.md` in this package has every feature in a table, [`Handle`] a
//! short one. The cluster is for Linux only, so far; [`process`] is for Windows, macOS and FreeBSD
//! too.
//!
//! # Features
//!
//! * `typed`: messages that are values of any type, by serde.
//! * `sim`: the simulator that tests this crate; no part of the stable interface.
//!
//! [`backlog`]: Builder::backlog
//! [`broadcast`]: Handle::broadcast
//! [`drain_timeout`]: Builder::drain_timeout
//! [`kill_timeout`]: Builder::kill_timeout
//! [`mailbox_connections`]: Builder::mailbox_connections
//! [`message_bytes_max`]: Builder::message_bytes_max
//! [`message_handles_max`]: Builder::message_handles_max
//! [`on_event`]: Builder::on_event
//! [`on_message`]: Builder::on_message
//! [`request`]: Handle::request
//! [`scale`]: Handle::scale
//! [`set_connections_max`]: Listener::set_connections_max
//! [`stall_timeout`]: Builder::stall_timeout
//! [`start_timeout`]: Builder::start_timeout
//! [`workers`]: Builder::workers

// The cluster is Linux's only, so far; child processes are everybody's.

#[cfg(unix)]
#[macro_use]
mod source;

#[cfg(target_os = "linux")]
mod address;
#[cfg(target_os = "linux")]
mod bound;
#[cfg(target_os = "linux")]
mod builder;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "some is the cluster's alone"))]
mod clock;
#[cfg(target_os = "linux")]
mod cluster;
#[cfg(target_os = "linux")]
mod desk;
#[cfg(target_os = "linux")]
mod driver;
#[cfg(target_os = "linux")]
mod error;
#[cfg(target_os = "linux")]
mod event;
mod exit;
#[cfg(target_os = "linux")]
mod listen;
// Public for the fuzz targets and the simulator; no part of the stable interface.
#[cfg(target_os = "linux")]
#[doc(hidden)]
pub mod machine;
#[cfg(target_os = "linux")]
mod mailbox;
mod message;
#[cfg(target_os = "linux")]
mod messages;
#[cfg(target_os = "linux")]
mod peek;
#[cfg(target_os = "linux")]
mod policy;
// Public for the fuzz targets; no part of the stable interface.
#[cfg(target_os = "linux")]
#[doc(hidden)]
pub mod post;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "trees are looked for on Linux"))]
pub mod process;
#[cfg(target_os = "linux")]
mod shell;
#[cfg(all(target_os = "linux", feature = "sim"))]
#[doc(hidden)]
pub mod sim;
#[cfg(target_os = "linux")]
mod slot_options;
#[cfg(target_os = "linux")]
mod status;
mod sys;
#[cfg(target_os = "linux")]
mod worker;

pub use exit::Exit;
#[cfg(feature = "typed")]
pub use ipc_core::CodecError;
pub use message::Message;
pub use process::Resource;

#[cfg(target_os = "linux")]
pub use self::{
    address::{Address, Inherited, ParseAddressError, Peer},
    builder::Builder,
    cluster::{Broadcast, Cluster, Handle},
    driver::Driver,
    error::Error,
    event::{Event, KillReason, ParseWorkerIdError, WorkerId, WorkerInfo, WorkerState},
    listen::{Dispatch, ListenOptions, ParseDispatchError},
    machine::RestartPolicy,
    messages::{Messages, Received},
    peek::{Peek, PeekOptions},
    post::{Recipient, RequestError, SendError, Sender},
    slot_options::SlotOptions,
    status::ListenerInfo,
    worker::{Connection, Incoming, Listener, OpenConnection, Stream, UdpSocket, Worker},
};
#[cfg(target_os = "linux")]
pub use scheduler::PolicyKind;

/// Compiles the examples of the workspace's README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
