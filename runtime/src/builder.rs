//! A cluster's settings.

mod messages;

use std::ffi::OsString;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use scheduler::{Policy, PolicyKind};

use crate::cluster::{Cluster, Handle};
use crate::driver::Driver;
use crate::error::Error;
use crate::event::Event;
use crate::listen::{BACKLOG_CONNECTIONS, Dispatch};
use crate::machine::{self, Machine, RestartPolicy};
use crate::peek::PeekOptions;
use crate::policy::{self, Choice, Override};
use crate::shell::{self, Control, EventHook, Master, MessageHook, Program, Publisher};
use crate::slot_options::{self, OptionsOf, SlotOptions, SlotPlan};
use crate::worker::{self, Worker};

/// The most connections that one mailbox may be made for.
const MAILBOX_CONNECTIONS_MAX: usize = 128;

/// A cluster's settings, from [`Cluster::builder`].
///
/// Every setter replaces a default; nothing is checked or started before [`run`](Self::run),
/// [`spawn`](Self::spawn) or [`driver`](Self::driver). Any timeout may be [`Duration::MAX`], which
/// is never.
pub struct Builder {
    workers: Option<usize>,
    weights: Option<Vec<u32>>,
    policy: Choice,
    dispatch: Dispatch,
    peek: Option<PeekOptions>,
    restart: RestartPolicy,
    start_timeout: Duration,
    drain_timeout: Duration,
    kill_timeout: Duration,
    stall_timeout: Duration,
    backlog: u32,
    mailbox_connections: usize,
    seed: Option<u64>,
    program: Program,
    slot_options: Option<OptionsOf>,
    signals: Option<bool>,
    on_event: Option<EventHook>,
    message_bytes_max: usize,
    message_handles_max: usize,
    on_message: Option<MessageHook>,
}

impl Builder {
    pub(crate) fn new() -> Builder {
        Builder {
            workers: None,
            weights: None,
            policy: Choice::Default,
            dispatch: Dispatch::Auto,
            peek: None,
            restart: RestartPolicy::default(),
            start_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            kill_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(1),
            backlog: BACKLOG_CONNECTIONS,
            mailbox_connections: 16,
            seed: None,
            program: Program { path: None, args: None, env: Vec::new() },
            slot_options: None,
            signals: None,
            on_event: None,
            message_bytes_max: 1 << 20,
            message_handles_max: 4,
            on_message: None,
        }
    }

    /// The number of workers, 1 to 1024. Default: as many as this process may use processors.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Each worker's share of the connections, in slot order; also sets their number. 0 is none,
    /// and slots that are added later have 1. Slots are then picked by weighted round-robin, unless
    /// [`policy`](Self::policy) is set. Default: 1 each.
    pub fn weights(mut self, weights: impl Into<Vec<u32>>) -> Self {
        self.weights = Some(weights.into());
        self
    }

    /// What picks the worker for a connection. Default: round-robin, by weight where
    /// [weights](Self::weights) differ.
    ///
    /// The variable `CLUSTER_SCHED_POLICY` in the environment of the master overrides it, and the
    /// [dispatch](Self::dispatch): it holds the name of a policy (`rr`, `least-connections`, …), of
    /// a dispatch (`handoff`, `shared`, `steered`), both with a colon between them, or `none`,
    /// which leaves it to the system.
    pub fn policy(mut self, policy: PolicyKind) -> Self {
        self.policy = Choice::Kind(policy);
        self
    }

    /// A policy of your own, or one of the crate [`scheduler`] that is made otherwise than its
    /// [`PolicyKind`] would; called once for every listener. Connections are then handed over
    /// ([`Dispatch::Handoff`]).
    ///
    /// ```
    /// use std::time::Duration;
    /// use runtime::Cluster;
    /// use scheduler::{LeastConnections, SlowStart};
    ///
    /// // A worker that has just come warms up for ten seconds.
    /// let builder = Cluster::builder().custom_policy(|| {
    ///     Box::new(SlowStart::new(LeastConnections::new(), Duration::from_secs(10)))
    /// });
    /// ```
    pub fn custom_policy(
        mut self,
        policy: impl FnMut() -> Box<dyn Policy> + Send + 'static,
    ) -> Self {
        self.policy = Choice::Custom(Box::new(policy));
        self
    }

    /// Finds what keeps a client with its worker in the first bytes that it sends, for policies
    /// that go by a key (such as [`PolicyKind::ConsistentHash`] and [`PolicyKind::Sticky`]).
    /// Without it the client's address is the key.
    ///
    /// Connections are then handed over ([`Dispatch::Handoff`]): the kernel does not look into
    /// them.
    pub fn peek(mut self, options: PeekOptions) -> Self {
        self.peek = Some(options);
        self
    }

    /// How connections get to workers, where [`ListenOptions`](crate::ListenOptions) don't say it.
    /// Default: [`Dispatch::Auto`], as the policy needs it.
    pub fn dispatch(mut self, dispatch: Dispatch) -> Self {
        self.dispatch = dispatch;
        self
    }

    /// How workers that die are replaced. Default: [`RestartPolicy::default`], which gives up
    /// a slot after ten failures in a row.
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.restart = policy;
        self
    }

    /// How long a worker may take to come online; then it is killed, which counts as a failure.
    /// Default 30 s.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// How long workers may finish what they have when the cluster stops, before SIGTERM. It is
    /// also how long a worker goes on when the master is gone. Default 30 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// How long a worker has between SIGTERM and SIGKILL. Default 5 s.
    pub fn kill_timeout(mut self, timeout: Duration) -> Self {
        self.kill_timeout = timeout;
        self
    }

    /// How long connections wait for a worker that takes none, before others get them. Default 1 s.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.stall_timeout = timeout;
        self
    }

    /// How many connections the kernel queues for each listener before the master accepts them.
    /// Default 4096; the system's limit holds too (`net.core.somaxconn`).
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// About how many accepted connections wait for one worker, 1 to 128. Default 16.
    ///
    /// Few make a stalled or killed worker cheap, and leave a connection to the worker that is free
    /// first; many keep a worker busy while the master is not.
    pub fn mailbox_connections(mut self, connections: usize) -> Self {
        self.mailbox_connections = connections;
        self
    }

    /// Where chance (the jitter of restarts, random policies) comes from. Default: another for
    /// every cluster.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The program that workers run; it calls [`Worker::from_env`]. Default: this very program.
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program.path = Some(path.into());
        self
    }

    /// The arguments of the workers' program. Default: those of this process.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.program.args = Some(args.into_iter().map(Into::into).collect());
        self
    }

    /// A variable in the workers' environment, beyond those of this process, or instead of one.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.program.env.push((key.into(), value.into()));
        self
    }

    /// What the workers of each slot have of their own, by the slot's number from 0. It is called
    /// for every slot at the start, and again whenever the cluster is
    /// [scaled](crate::Handle::scale).
    ///
    /// ```
    /// use runtime::{Cluster, Resource, SlotOptions};
    ///
    /// let builder = Cluster::builder().slot_options(|slot| {
    ///     SlotOptions::new()
    ///         .env("PORT", (9000 + slot).to_string())
    ///         .rlimit(Resource::OpenFiles, 10_000, 10_000)
    /// });
    /// ```
    pub fn slot_options(
        mut self,
        options: impl Fn(usize) -> SlotOptions + Send + Sync + 'static,
    ) -> Self {
        self.slot_options = Some(Box::new(options));
        self
    }

    /// Whether SIGTERM and SIGINT stop the cluster. Default: with [`run`](Self::run) they do, with
    /// [`spawn`](Self::spawn) they are left to the host program.
    pub fn handle_signals(mut self, handle: bool) -> Self {
        self.signals = Some(handle);
        self
    }

    /// Called with every [event](Event), on the master's thread: it must not block.
    ///
    /// ```
    /// use runtime::{Cluster, Event};
    ///
    /// let builder = Cluster::builder().on_event(|event| match event {
    ///     Event::Exited { asked: true, .. } => {}
    ///     event => eprintln!("{event}"),
    /// });
    /// ```
    pub fn on_event(mut self, hook: impl FnMut(&Event) + Send + 'static) -> Self {
        self.on_event = Some(Box::new(hook));
        self
    }

    /// Runs this program as a cluster: in the process that was started by a user this is the
    /// master, which starts this program again for every slot and returns when the cluster has
    /// ended; in those processes it is `serve`, whose outcome it returns.
    ///
    /// Code before this call runs in the master and in every worker. The cluster ends also when all
    /// its workers have [disconnected](Worker::disconnect) themselves.
    ///
    /// # Errors
    ///
    /// In the master, when a setting is out of its range, the operating system refuses what it
    /// needs, or every slot was given up; in a worker, when `serve` fails, or its master does not
    /// answer.
    pub fn run<F, E>(self, serve: F) -> Result<(), Error>
    where
        F: FnOnce(Worker) -> Result<(), E>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if let Some(worker) = Worker::from_env()? {
            return serve(worker).map_err(|error| Error::serve(error.into()));
        }
        let (master, _) = self.into_master(true, false)?;
        master.run()
    }

    /// Starts a cluster whose master is a thread of this process.
    ///
    /// Workers run [`program`](Self::program), by default this very program with the same
    /// arguments: it must come to [`Worker::from_env`], or to [`run`](Self::run), before it comes
    /// here again.
    ///
    /// The soft limit of open descriptors of this process is raised to the hard one, since the
    /// system holds descriptors on their way to workers against it; workers inherit it.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, or the operating system refuses what the master needs.
    pub fn spawn(self) -> Result<Cluster, Error> {
        let (master, mut outside) = self.into_master(false, true)?;
        let thread = thread::Builder::new()
            .name("cluster-master".to_owned())
            .spawn(move || master.run())
            .map_err(|error| Error::io("start the master's thread", error))?;
        let events = outside.events.take().unwrap_or_else(crossbeam_channel::never);
        Ok(Cluster::new(Handle::new(outside.control), events, thread))
    }

    /// Prepares a cluster whose master is driven by the event loop of this program.
    ///
    /// What [`spawn`](Self::spawn) says of the program and of descriptors holds here, too.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, or the operating system refuses what the master needs.
    pub fn driver(self) -> Result<Driver, Error> {
        let (master, mut outside) = self.into_master(false, true)?;
        let events = outside.events.take().unwrap_or_else(crossbeam_channel::never);
        Ok(Driver::new(master, Handle::new(outside.control), events))
    }

    fn into_master(mut self, signals: bool, with_events: bool) -> Result<(Master, Outside), Error> {
        worker::refuse_to_be_master()?;
        self.read_override()?;
        let terms = self.terms()?;
        let plan = SlotPlan {
            weights: self.weights.take().unwrap_or_default(),
            options: self.slot_options.take(),
        };
        let slots = plan.slots(self.slots(&plan)?)?;
        let mut config = self.machine_config(slot_options::weights(&slots))?;
        // Without a handle nobody can start workers.
        config.ends_when_empty = !with_events;
        let weighted = is_uneven(&config.weights);
        self.program.resolve();
        let shell_config = shell::Config {
            program: self.program,
            slots,
            terms,
            policy: self.policy.kind(weighted),
            backlog: self.backlog,
            mailbox_connections: self.mailbox_connections,
            handle_signals: self.signals.unwrap_or(signals),
            peek: self.peek,
        };
        let policy = self.policy.into_factory(weighted, config.seed);
        let machine = Machine::new(config, policy);
        let control = Arc::new(Control::new(plan));
        let (publisher, events) = Publisher::new(self.on_event, with_events);
        let is_read = with_events || self.on_message.is_some();
        let hook = self.on_message;
        let post = control.post.open(terms, is_read);
        let master = post
            .and_then(|()| {
                Master::new(shell_config, machine, Arc::clone(&control), publisher, hook)
            })
            .map_err(|error| Error::io("prepare the master", error))?;
        Ok((master, Outside { control, events }))
    }

    fn read_override(&mut self) -> Result<(), Error> {
        let Some(text) = std::env::var_os(policy::VARIABLE) else { return Ok(()) };
        let text = text.to_string_lossy();
        let Override { dispatch, policy } = text.parse().map_err(|error| {
            Error::invalid(format!("{} is {text:?}: {error}", policy::VARIABLE))
        })?;
        self.dispatch = dispatch.unwrap_or(self.dispatch);
        self.policy =
            policy.map_or(std::mem::replace(&mut self.policy, Choice::Default), Choice::Kind);
        Ok(())
    }

    /// How many slots there are at first.
    fn slots(&self, plan: &SlotPlan) -> Result<usize, Error> {
        match (plan.weights.len(), self.workers) {
            (0, Some(workers)) => Ok(workers),
            (0, None) => Ok(thread::available_parallelism().map_or(1, usize::from)),
            (weights, Some(workers)) if weights != workers => {
                let text = format!("{weights} weights for {workers} workers; give each one");
                Err(Error::invalid(text))
            }
            (weights, _) => Ok(weights),
        }
    }

    fn machine_config(&self, weights: Vec<u32>) -> Result<machine::Config, Error> {
        if !(1..=MAILBOX_CONNECTIONS_MAX).contains(&self.mailbox_connections) {
            let given = self.mailbox_connections;
            let text =
                format!("mailbox_connections is {given}; it may be 1 to {MAILBOX_CONNECTIONS_MAX}");
            return Err(Error::invalid(text));
        }
        self.peek.as_ref().map_or(Ok(()), PeekOptions::check)?;
        let kind = self.policy.kind(is_uneven(&weights));
        Ok(machine::Config {
            weights,
            dispatch: self.dispatch,
            dispatch_auto: if self.peek.is_none() && kind.is_some_and(policy::is_rotation) {
                Dispatch::Shared
            } else {
                Dispatch::Handoff
            },
            rotates_by_weight: kind.is_none_or(policy::rotates_by_weight),
            restart: self.restart,
            start_timeout: self.start_timeout,
            drain_timeout: self.drain_timeout,
            kill_timeout: self.kill_timeout,
            stall_timeout: self.stall_timeout,
            ends_when_empty: false,
            // The hasher's keys are the standard library's only source of chance.
            seed: self.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish()),
        })
    }
}

fn is_uneven(weights: &[u32]) -> bool {
    weights.windows(2).any(|pair| pair[0] != pair[1])
}

/// What reaches a master from outside.
struct Outside {
    control: Arc<Control>,
    events: Option<crossbeam_channel::Receiver<Event>>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("workers", &self.workers)
            .field("weights", &self.weights)
            .field("restart", &self.restart)
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}
