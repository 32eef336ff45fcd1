//! Child processes, without a cluster: programs that are run, read, talked to, and ended.
//!
//! What Node's `child_process` is for JavaScript, this is for Rust: plain functions, without an
//! async runtime. Children are heard of in blocking calls, in your own mio `Poll`, or by a channel
//! that a thread fills.
//!
//! ```
//! # #[cfg(unix)] {
//! use std::io::{BufRead, BufReader};
//! use runtime::process::{exec_file_sync, spawn};
//!
//! // What it writes, when it has ended; it is an error if it fails.
//! let output = exec_file_sync("sort", ["/etc/passwd"])?;
//! assert_eq!(output.status.code(), Some(0));
//!
//! // What it writes, as it comes.
//! let mut child = spawn("ls", ["-l", "/"])?;
//! let stdout = child.stdout.take().ok_or("its output goes elsewhere")?;
//! let lines = BufReader::new(stdout).lines().collect::<Result<Vec<_>, _>>()?;
//! assert!(child.wait()?.code() == Some(0) && lines.len() > 1);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Four ways to start
//!
//! | | [`spawn`] | [`exec_file`] | [`exec`] | [`fork`] |
//! |---|---|---|---|---|
//! | starts | any program | any program | a line for the shell | a program to talk with |
//! | by a shell | no | no | **yes** | no |
//! | arguments | a list | a list | in the line, or a list for its `$1`, `$2` | a list |
//! | output | streams, of any length | collected | collected | inherited, or streams |
//! | gives | a [`Child`] | an [`Exec`], then an [`Output`] | the same | a [`Child`] |
//! | failing is | an [`Exit`] | an [`ExecError`] | an [`ExecError`] | an [`Exit`] |
//! | channel for messages and handles | with [`Stdio::ipc`] | no | no | yes |
//! | standard input | a pipe | [empty](Command::input) | [empty](Command::input) | inherited |
//! | standard output and error | pipes | collected | collected | inherited |
//! | ended at its timeout | it alone | it alone | all that the shell started | it alone |
//! | options | [`Command::spawn`] | [`Command::exec`] | [`Command::shell`] | [`Command::fork`] |
//! | blocking twin | [`spawn_sync`] | [`exec_file_sync`] | [`exec_sync`] | |
//! | costs | a process | a process | a shell, and what it starts | a process, a socket |
//!
//! **Which one?** For a known program and what it has to say, [`exec_file`]. For output without
//! end, for input that depends on output, for what runs long: [`spawn`]. For pipes, globs and
//! redirections, [`exec`]; but what is put into its line is read as a program, so pass all that you
//! did not write yourself as [arguments](Command::shell). For work in another process that this one
//! talks with, [`fork`]. None of them copies this process, as fork(2) does.
//!
//! The functions take a program and its arguments; a [`Command`] may have none, has all options,
//! and is started in any of these ways, any number of times:
//!
//! ```
//! # #[cfg(unix)] {
//! use std::time::Duration;
//! use runtime::process::{Command, Stdio};
//!
//! let mut command = Command::new("sh");
//! command
//!     .args(["-c", "pwd; echo $LANG; exit 3"])
//!     .current_dir("/")
//!     .env("LANG", "C")
//!     .stderr(Stdio::inherit())
//!     .timeout(Duration::from_secs(10));
//! for _ in 0..2 {
//!     let output = command.spawn_sync()?; // any exit is fine
//!     assert_eq!((output.stdout_str()?, output.status.code()), ("/\nC\n", Some(3)));
//! }
//! let error = command.exec_sync().unwrap_err(); // only success is
//! assert_eq!(error.code(), Some(3));
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Three ways to hear of a child
//!
//! | | spawn, fork | exec |
//! |---|---|---|
//! | blocking | [`Child::wait`], [`Child::recv`] | the twins, [`Exec::wait`] |
//! | in your own mio `Poll`, when it is ready | [`Child::next_event`] | [`Exec::try_finish`] |
//! | by a channel | [`Children::spawn`], [`Children::fork`] | [`Children::exec`] |
//!
//! Timeouts, cancellation and queued messages go on while somebody attends to the child in one of
//! these ways. Also [`Child::try_wait`] and [`Child::is_alive`] can be asked at any time.
//!
//! ## Events
//!
//! The same [`Event`]s come in each of them, in this order:
//!
//! | | how often | |
//! |---|---|---|
//! | [`Spawned`](Event::Spawned) | once | it was started |
//! | [`Message`](Event::Message) | any number | it has sent a message |
//! | [`Drained`](Event::Drained) | after [`Full`](SendError::Full) | there is room to send again |
//! | [`Disconnected`](Event::Disconnected) | once, with a channel | after its last message |
//! | [`Killed`](Event::Killed) | at most once | it was signalled, by timeout or cancellation |
//! | [`Exited`](Event::Exited) | once | as soon as it has ended; others may still have its output |
//! | [`Closed`](Event::Closed) | once, the last | so have its channel and streams in use |
//! | [`Error`](Event::Error) | any number | something failed that does not end it |
//! | [`Finished`](Event::Finished) | once, for [`Children::exec`] | the result |
//!
//! What it started in the background may hold its output open for long: that delays `Closed`, and
//! never `Exited`. A program that can't be started gives no event: the call that starts it fails,
//! with a [`SpawnError`] that names the program, the [`Step`] and the remedy.
//!
//! By a channel, for any number of children:
//!
//! ```
//! # #[cfg(unix)] {
//! use runtime::process::{Children, Command, Event};
//!
//! let children = Children::start()?;
//! for seconds in ["0.02", "0.01", "0"] {
//!     children.spawn(Command::new("sleep").arg(seconds))?;
//! }
//! while !children.is_empty() {
//!     let (id, event) = children.events().recv()?;
//!     if let Event::Exited(exit) = event {
//!         println!("child {id}: {exit}");
//!     }
//! }
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Streams
//!
//! [`Child::stdin`], [`stdout`](Child::stdout) and [`stderr`](Child::stderr) are taken out of the
//! child (`child.stdout.take()`), those under other numbers by [`Child::take_stream`]. They read
//! and write as any stream does, block until they are registered with a mio `Poll`, and then say
//! [`WouldBlock`](std::io::ErrorKind::WouldBlock). What a child has under each of its numbers is
//! said by a [`Stdio`]:
//!
//! | | the child has | you have |
//! |---|---|---|
//! | [`Stdio::pipe`] | a pipe; from 3 on a socket | [`PipeReader`], [`PipeWriter`], [`Duplex`] |
//! | [`Stdio::input`], [`Stdio::output`], [`Stdio::duplex`] | that, under any number | the same |
//! | [`Stdio::inherit`], [`Stdio::inherit_from`] | what this process has | nothing |
//! | [`Stdio::null`] | nothing to read, and nobody who reads | nothing |
//! | [`Stdio::given`], a [`File`](std::fs::File), a stream | that | nothing; the command keeps it |
//! | [`Stdio::ipc`] | the channel | [`Child::send`] |
//!
//! **They push back.** A pipe holds 64 KiB on Linux. Who writes more waits until it is read: a
//! child whose output nobody reads stops, and [`wait`](Child::wait) then waits for ever. Read
//! first, or collect it by [`exec`], or don't ask for it ([`Stdio::null`]). Likewise a
//! [`PipeWriter`] waits for a child that does not read; who writes much *and* reads needs two
//! threads, a `Poll`, or [`Command::input`].
//!
//! A pipeline, whose bytes pass through no third process:
//!
//! ```
//! # #[cfg(unix)] {
//! use runtime::process::{Command, spawn};
//!
//! let mut list = spawn("printf", ["%s\\n", "pear", "apple"])?;
//! let names = list.stdout.take().ok_or("no pipe")?;
//! // The temporary command is dropped here, and our end of the pipe with it.
//! let sorted = Command::new("sort").stdin(names).exec_sync()?;
//! assert_eq!((sorted.stdout_str()?, list.wait()?.code()), ("apple\npear\n", Some(0)));
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Ending children
//!
//! | to | |
//! |---|---|
//! | send it a signal, now | [`Child::kill`] |
//! | … and all that it has started | [`Child::kill_tree`] |
//! | end it if it runs too long | [`Command::timeout`] |
//! | end many at once, from any thread | [`Command::cancel_with`] a [`CancelToken`] |
//! | end it when this program does not want it any more | [`Command::kill_on_drop`] |
//! | let it run on | drop the [`Child`]: it is collected when it ends |
//! | let it outlive this program's terminal | [`Command::detached`] |
//! | have it end with this program | [`fork`] it: its messages end, however this one ends |
//!
//! Timeouts and cancellation send [`kill_signal`](Command::kill_signal) (SIGTERM), and SIGKILL when
//! [`kill_after`](Command::kill_after) (5 s) has passed: nobody outlives both. So do outputs that
//! are longer than [`max_buffer`](Command::max_buffer). They mean the child alone, but for lines of
//! a shell, where they mean all that it has started; [`Command::kill_whole_tree`] changes that.
//!
//! A signal never reaches a stranger: a child is known by a handle, not by a number that others may
//! get after it. [`Child::kill`] says `false` if it had ended.
//!
//! A tree is what descends from a child, and what is in its group or session. A daemon that has
//! left all of them is still found in a [control group](Command::cgroup), or if this process has
//! [become a subreaper](become_subreaper).
//!
//! ```
//! # #[cfg(unix)] {
//! use std::time::Duration;
//! use runtime::process::{Command, Failure, Signal, spawn};
//!
//! let slow = Command::shell("sleep 1000 | cat").timeout(Duration::from_millis(20)).exec_sync();
//! assert!(matches!(slow.unwrap_err().failure(), Failure::TimedOut));
//!
//! let mut child = spawn("sleep", ["1000"])?;
//! assert!(child.is_alive() && child.kill(Signal::INT)?);
//! assert_eq!(child.wait()?.signal(), Some(Signal::INT.number()));
//! assert!(!child.kill(Signal::INT)?, "it has ended");
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Messages and handles
//!
//! A child that is [forked](fn@fork) finds the channel to its parent by [`parent()`], which is
//! `None` in a program that was started by hand. A [`Message`] is bytes, and handles: sockets,
//! files, whatever the system has descriptors for. They move to the other process; to keep one too,
//! send its `try_clone`. With the feature `typed`, values of any type are messages, too.
//!
//! ```no_run
//! use std::net::{TcpListener, TcpStream};
//! use runtime::Message;
//! use runtime::process::{fork, parent};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // In the parent:
//! let mut child = fork("my-worker", ["--quiet"])?;
//! let (client, _) = TcpListener::bind("127.0.0.1:8080")?.accept()?;
//! child.send(Message::new("serve this").with_handle(client))?;
//! let answer = child.recv()?;
//! child.disconnect()?;
//! println!("{answer:?}, and it {}", child.wait()?);
//! # Ok(())
//! # }
//!
//! // In my-worker:
//! fn serve() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut parent = parent()?.ok_or("start me by fork")?;
//!     while let Ok(mut message) = parent.recv() {
//!         let client: TcpStream = message.take_handle(0)?;
//!         parent.send(format!("served {}", client.peer_addr()?))?;
//!     }
//!     Ok(()) // the parent has disconnected, or is gone
//! }
//! ```
//!
//! Messages arrive in order, each once. [`Child::send`] and [`Parent::send`] never block: what the
//! other side does not read is queued, up to a [limit](Command::channel_limits), and then refused
//! with [`SendError::Full`], which gives the message back; [`Event::Drained`] tells when there is
//! room. What a child has sent is heard before its end is. What could not be sent to one that died
//! comes back by [`Child::take_unsent`].
//!
//! ## A function of this program
//!
//! A [`Function`] runs in a new process of this very program:
//!
//! ```standalone_crate
//! # #[cfg(unix)] mod example {
//! use std::error::Error;
//! use std::ffi::OsString;
//! use runtime::process::{Function, Parent, run_functions};
//!
//! const COUNT: Function = Function::new("count", count);
//!
//! fn count(mut parent: Parent, _: Vec<OsString>) -> Result<u8, Box<dyn Error + Send + Sync>> {
//!     while let Ok(text) = parent.recv() {
//!         parent.send(text.bytes.len().to_string())?;
//!     }
//!     Ok(7)
//! }
//!
//! pub fn main() -> Result<(), Box<dyn Error>> {
//!     run_functions(&[COUNT]); // first: it does not return in the child
//!     let mut child = COUNT.command().fork()?;
//!     child.send("four")?;
//!     assert_eq!(child.recv()?.bytes, b"4");
//!     child.disconnect()?;
//!     assert_eq!(child.wait()?.code(), Some(7));
//!     Ok(())
//! }
//! # }
//! # #[cfg(not(unix))] mod example { pub fn main() {} }
//! # fn main() { let _ = example::main(); }
//! ```
//!
//! # What a child inherits
//!
//! | | |
//! |---|---|
//! | descriptors | those that its [`Stdio`]s say, and no other, whatever this process has open |
//! | environment | this process's at that moment, or as [`env`](Command::env) changes it |
//! | signals | none blocked, each with its default action; SIGPIPE too |
//! | working directory | this process's, or [`current_dir`](Command::current_dir) |
//! | group, session, terminal | this process's, unless options say otherwise |
//! | user, groups, limits, processors | this process's, unless options say otherwise |
//! | control group | this process's, or [`cgroup`](Command::cgroup) |
//! | umask, priority, namespaces | this process's |
//!
//! Rust programs ignore SIGPIPE; their children here do not. Groups and sessions change by
//! [`process_group`](Command::process_group), [`detached`](Command::detached) and
//! [`kill_whole_tree`](Command::kill_whole_tree), and variables by `env`, `env_remove` and
//! `env_clear`; those of this process's own channel are not inherited. The program is looked for in
//! the `PATH` that [`env`](Command::env) sets for the child, else in this process's.
//!
//! # From Node's `child_process`
//!
//! * **Errors of a start are returned**, not emitted, and say which step failed.
//! * **Timeouts escalate** to SIGKILL after [`kill_after`](Command::kill_after).
//! * **Out of time is an error** of `exec`, even if the command exits with 0 on the signal.
//! * **`exec` ends the whole tree** at its timeout, and not the shell alone.
//! * **`exec` has an empty standard input**, not a pipe that nobody writes: a program that asks for
//!   input ends instead of hanging. [`Command::input`] gives it some.
//! * **`exec` does not wait for a grandchild** that holds its output, unless [asked
//!   to](Command::wait_for_output_end): it gives what was written until the command ended.
//! * **Output is bytes**; [`Output::stdout_str`] and [`Output::stdout_lossy`] make text of it.
//! * **`spawn_sync` with a timeout or too much output** is an error that has the output; any exit
//!   is none.
//! * **`kill` is `false`** when the child has ended, also when nobody has waited for it yet.
//! * **A shell's line takes arguments**, as `$1`, `$2`: nothing has to be pasted into it.
//! * **Pipes are pipes**, not sockets, so that a child can open `/dev/stdin` again.
//!   [`Stdio::duplex`] is a socket.
//! * **A dropped `Child` runs on**, and is collected. There is no `unref`: no child keeps this
//!   program from ending.
//! * **`fork` runs a program**, or a [`Function`] of this one, without a virtual machine to start.
//! * **Messages are bytes and handles**, of any kind, several in one. There is no reserved prefix,
//!   and no acknowledgement on the way. Full is an error that gives the message back, where Node
//!   queues without end.
//! * **`disconnect` is told once, whatever happens**, and before the exit is.
//! * **Dropping the last handle closes a channel**; an idle child needs no `unref` either.
//!
//! `PARITY.md` in this package has every feature in a table, with its tests.
//!
//! # Limits and defaults
//!
//! | | default | set by |
//! |---|---|---|
//! | time to run | no limit | [`Command::timeout`] |
//! | signal to end it | SIGTERM | [`Command::kill_signal`] |
//! | … then, until SIGKILL | 5 s | [`Command::kill_after`] |
//! | collected of each output | 1 MiB | [`Command::max_buffer`] |
//! | bytes of a message | 1 MiB | [`Command::channel_limits`], [`Parent::set_limits`] |
//! | … handles | 253 | the same |
//! | messages that wait to be sent | 1024, or 4 MiB, or 506 handles | the same |
//! | events of a [`Children`] that wait | 1024; then they wait with each child | |
//! | a dropped [`Parent`] goes on sending | for 5 s at most | [`Parent::flush_deadline`] |
//! | number of a descriptor | below 1,048,576, and below the limit of open files | |
//! | children | what the system has | |
//!
//! A child takes a descriptor, one for each of its streams, one for its channel, and one while it
//! is in a `Poll` or can be cancelled.
//!
//! # Platforms
//!
//! Everything here is there on Linux 5.4 or later. On Windows:
//!
//! * [`Signal::TERM`], [`KILL`](Signal::KILL) and [`INT`](Signal::INT) end a process at once, and
//!   no other signal can be sent: nothing is asked to end, so that [`Command::kill_after`] has no
//!   use.
//! * A process that was ended so has exit code 1, as any other may have.
//! * Options that it has nothing for are errors of [`Step::Check`]: `user`, `uid`, `gid`, `groups`,
//!   `rlimit`, `cgroup`, and to join a `process_group`. Descriptors from 3
//!   on, up to 2047, reach programs with a C runtime.
//! * A tree is a job object, which nothing leaves; [`become_subreaper`] is not needed, and an
//!   error.
//! * [`Command::shell`] is `cmd.exe`, which takes no arguments for a line. Batch files are refused,
//!   since no quoting is safe for them.
//! * A parent sends handles to its child, and never gets any from it.
//! * A [`Duplex`] is closed as a whole: [`Duplex::close_write`] is an error.
//!
//! On macOS and FreeBSD it compiles, but was not run. Control groups and subreapers are Linux's.
//!
//! [`Exit`]: crate::Exit
//! [`exec`]: fn@exec
//! [`exec_sync`]: fn@exec_sync
//! [`fork`]: fn@fork
//! [`Message`]: crate::Message

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
