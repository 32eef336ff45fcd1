//! The master's mind: a state machine without I/O, clock, randomness or threads.
//!
//! Whatever happens comes in by [`Machine::handle`], the passing of time by
//! [`Machine::handle_timeout`]; what is to be done comes out of [`Machine::poll_output`], and
//! [`Machine::next_timeout`] says when to come back. After every input the caller drains the
//! outputs to empty, executes each, and hands the outcome back as an input. Time is counted from
//! the start of the master, chance comes from a seed: the same inputs always give the same outputs.
//!
//! `C` is a connection: a descriptor in the master, a number in the simulator.

mod codec;
mod direct;
mod dispatch;
mod life;
mod listen;
mod loads;
mod mailbox;
mod message;
mod restart;
mod scale;
mod slot;
mod stop;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use scheduler::Policy;

pub use self::dispatch::Refusal;
pub use self::mailbox::Counters;
pub(crate) use self::message::PROTOCOL_VERSION;
pub use self::message::{DecodeError, FromWorker, Joined, ListenFailure, ToWorker};
pub use self::restart::RestartPolicy;

use self::dispatch::Balancer;

use self::slot::{Life, Slot, Stimulus};
use crate::address::Address;
use crate::event::{Event, KillReason, WorkerId, WorkerInfo};
use crate::exit::Exit;
use crate::listen::{Dispatch, ListenOptions};

/// Time since the start of the master.
pub type Time = Duration;

/// The most listeners that one cluster may have.
pub const LISTENERS_MAX: usize = 64;

/// The most slots that one cluster may have.
pub const SLOTS_MAX: usize = 1024;

/// A listener's number in its cluster, from 0, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u32);

/// One slot's mailbox for one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MailboxId {
    /// The listener.
    pub listener: ListenerId,
    /// The slot.
    pub slot: usize,
}

/// What the machine needs to know before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// A weight for each slot; their number is the number of slots.
    pub weights: Vec<u32>,
    /// How connections get to workers, where a listener does not say it.
    pub dispatch: Dispatch,
    /// What [`Auto`](Dispatch::Auto) stands for.
    pub dispatch_auto: Dispatch,
    /// Whether workers that share a listener take turns by weight.
    pub rotates_by_weight: bool,
    /// How workers that die are replaced.
    pub restart: RestartPolicy,
    /// A worker that was not heard of for this long after its start is killed.
    pub start_timeout: Duration,
    /// How long a worker that was asked to stop may finish what it has, before SIGTERM.
    pub drain_timeout: Duration,
    /// How long it then has before SIGKILL.
    pub kill_timeout: Duration,
    /// How long a connection waits for a worker that takes none.
    pub stall_timeout: Duration,
    /// Whether the cluster stops when no slot has, or will have, a worker: nobody could start one.
    pub ends_when_empty: bool,
    /// Where chance comes from.
    pub seed: u64,
}

/// What happened.
#[derive(Debug)]
pub enum Input<C> {
    /// The cluster shall start.
    Start,
    /// The process of a worker was started.
    Spawned { worker: WorkerId, pid: u32 },
    /// The process of a worker could not be started. `transient`: for lack of processes, memory or
    /// descriptors.
    SpawnFailed { worker: WorkerId, error: String, transient: bool },
    /// A worker sent a message.
    Message { worker: WorkerId, message: FromWorker },
    /// A worker sent what is no message, or let a message wait for too long.
    Violation { worker: WorkerId },
    /// A worker's channel is at its end.
    ChannelClosed { worker: WorkerId },
    /// A worker's process ended, and its channel was read to the end.
    Exited { worker: WorkerId, exit: Exit },
    /// A listener is open; `address` has the real port. `dispatch` may be another than was asked
    /// for; `reason` then says why.
    ListenerOpened {
        listener: ListenerId,
        address: Address,
        dispatch: Dispatch,
        reason: Option<String>,
    },
    /// A listener could not be opened; `error` says why and does not name the address.
    ListenerFailed { listener: ListenerId, errno: i32, error: String },
    /// A connection was accepted. `key` is the same for all connections of one client address.
    Accepted { listener: ListenerId, connection: C, key: u64 },
    /// What the workers of each slot have counted of a listener's connections.
    Counters { listener: ListenerId, slots: Vec<Counters> },
    /// The last share of a listener's backlog was accepted.
    ListenerDry { listener: ListenerId },
    /// Clients were accepted and closed at once, for lack of descriptors.
    Shed { listener: ListenerId, connections: u64 },
    /// Accepting failed for lack of memory or descriptors, and not even shedding helps.
    Exhausted { listener: ListenerId },
    /// A connection, or a probe, is in the mailbox.
    Delivered { mailbox: MailboxId },
    /// A connection could not be put into the mailbox.
    Refused { mailbox: MailboxId, connection: C, key: u64, refusal: Refusal },
    /// A mailbox that was full has room.
    Room { mailbox: MailboxId },
    /// So many messages wait in a mailbox.
    Counted { mailbox: MailboxId, waiting: u32 },
    /// A connection was taken back out of a mailbox.
    TakenBack { mailbox: MailboxId, connection: C, key: u64 },
    /// Nothing waits in a mailbox that was being taken back.
    Emptied { mailbox: MailboxId },
    /// A connection waits in a mailbox, but there is no descriptor to take it back with.
    TakeBackFailed { mailbox: MailboxId },
    /// The user wants something of slots and workers.
    Order(Order),
    /// The cluster shall stop; each further time, quicker.
    Shutdown,
}

/// What a user can want while the cluster runs; once it stops, only signals go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// As many slots as there are weights. Slots that there were before keep their own.
    Scale { weights: Vec<u32> },
    /// A worker in a slot that was given up, or whose worker was disconnected.
    Start { slot: usize },
    /// A worker shall take no more, finish within `timeout` (or `drain_timeout`), and exit; then
    /// its slot has a `successor`, or stays empty. Where it has ended, only the latter counts.
    Disconnect { worker: WorkerId, timeout: Option<Duration>, successor: bool },
    /// A signal for a worker.
    Signal { worker: WorkerId, signal: i32 },
}

/// What to do.
#[derive(Debug)]
pub enum Output<C> {
    /// Start a process; answer `Spawned` or `SpawnFailed`.
    Spawn { worker: WorkerId },
    /// Send a message. A `Listening` that is `Ok` carries the mailbox's receiving end.
    Tell { worker: WorkerId, message: ToWorker },
    /// Send a signal.
    Signal { worker: WorkerId, signal: Signal },
    /// Listen; answer `ListenerOpened` or `ListenerFailed`. Accepting is off at first.
    OpenListener {
        listener: ListenerId,
        address: Address,
        dispatch: Dispatch,
        options: ListenOptions,
    },
    /// Close the listening socket, not the mailboxes.
    CloseListener { listener: ListenerId },
    /// From now on these slots get the connections of a steered listener, by weight.
    Steer { listener: ListenerId, shares: Vec<(usize, u32)> },
    /// What the kernel has queued on a slot's own listening socket goes to the others'.
    Reopen { mailbox: MailboxId },
    /// Accept, or leave connections in the backlog.
    Accept { listener: ListenerId, on: bool },
    /// From now on, answer `ListenerDry` as soon as the backlog is empty.
    AcceptLast { listener: ListenerId },
    /// Put a connection into a mailbox; answer `Delivered` or `Refused`.
    Deliver { mailbox: MailboxId, connection: C, key: u64 },
    /// Put a message without a connection into a mailbox; answer `Delivered` if it went.
    Probe { mailbox: MailboxId },
    /// Answer `Room`, once, when the mailbox has room.
    WatchRoom { mailbox: MailboxId },
    /// Answer `Counted`.
    Count { mailbox: MailboxId },
    /// Take one connection back out of a mailbox; answer `TakenBack`, `Emptied` or
    /// `TakeBackFailed`.
    TakeBack { mailbox: MailboxId },
    /// Close a connection that nobody will serve.
    Close { connection: C },
    /// Tell the user.
    Event(Event),
    /// Everything is over. `failed`: because every slot was given up.
    Finished { failed: bool },
}

/// A signal for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
    /// Any, for a user who says which.
    Other(i32),
}

/// How far the end of the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    NotStarted,
    Running,
    /// The backlogs are accepted, then the listeners close. The deadline is the drain's.
    Closing {
        deadline: Time,
    },
    /// Workers were asked to stop; each slot has its own deadline.
    Stopping,
    /// No worker is left; what the mailboxes hold is closed. `failed`: every slot was given up.
    Abandoning {
        failed: bool,
    },
    Finished,
}

/// Makes the policy of a new listener.
pub type PolicyFactory = Box<dyn FnMut() -> Box<dyn Policy> + Send>;

/// The master's state: slots, listeners, and how far the end is.
pub struct Machine<C> {
    config: Config,
    policy: PolicyFactory,
    random: u64,
    /// Whether any worker has ever listened, or run for long.
    worked: bool,
    stage: Stage,
    /// How many slots the cluster shall have: those from here on were scaled away.
    size: usize,
    slots: Vec<Slot>,
    listeners: BTreeMap<ListenerId, Balancer<C>>,
    keys: BTreeMap<(Address, u16), ListenerId>,
    next_listener: u32,
    output: VecDeque<Output<C>>,
}

impl<C> Machine<C> {
    /// A machine that waits for [`Input::Start`].
    ///
    /// # Panics
    ///
    /// When there is no slot, or more than [`SLOTS_MAX`].
    pub fn new(config: Config, policy: PolicyFactory) -> Machine<C> {
        assert!((1..=SLOTS_MAX).contains(&config.weights.len()), "1 to {SLOTS_MAX} slots");
        Machine {
            random: config.seed,
            worked: false,
            size: config.weights.len(),
            slots: (0..config.weights.len()).map(Slot::new).collect(),
            config,
            policy,
            stage: Stage::NotStarted,
            listeners: BTreeMap::new(),
            keys: BTreeMap::new(),
            next_listener: 0,
            output: VecDeque::new(),
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Time, input: Input<C>) {
        match input {
            Input::Start => self.start(now),
            Input::Spawned { worker, pid } => self.spawned(worker, pid),
            Input::SpawnFailed { worker, error, transient } => {
                self.spawn_failed(now, worker, error, transient);
            }
            Input::Message { worker, message } => self.message(now, worker, message),
            Input::Violation { worker } => self.kill(now, worker, KillReason::Protocol),
            Input::ChannelClosed { worker } => self.channel_closed(now, worker),
            Input::Exited { worker, exit } => self.exited(now, worker, exit),
            Input::ListenerOpened { listener, address, dispatch, reason } => {
                self.listener_opened(now, listener, address, dispatch, reason);
            }
            Input::ListenerFailed { listener, errno, error } => {
                self.listener_failed(listener, errno, error);
            }
            Input::Accepted { listener, connection, key } => match self.dispatch(listener) {
                Some((dispatch, out)) => dispatch.accepted(now, connection, key, out),
                None => self.output.push_back(Output::Close { connection }),
            },
            Input::Counters { listener, slots } => {
                self.with(listener, |dispatch, out| dispatch.counters(now, &slots, out));
            }
            Input::ListenerDry { listener } => {
                self.close_listener(listener);
                self.advance(now);
            }
            Input::Shed { listener, connections } => {
                self.with(listener, |dispatch, out| dispatch.shed(now, connections, out));
            }
            Input::Exhausted { listener } => {
                self.with(listener, |dispatch, out| dispatch.exhausted(now, out));
            }
            Input::Delivered { mailbox: MailboxId { listener, slot } } => {
                self.with(listener, |dispatch, out| dispatch.delivered(now, slot, out));
            }
            Input::Refused { mailbox, connection, key, refusal } => {
                self.refused(now, mailbox, (connection, key), refusal);
            }
            Input::Room { mailbox: MailboxId { listener, slot } } => {
                self.with(listener, |dispatch, out| dispatch.room(now, slot, out));
            }
            Input::Counted { mailbox: MailboxId { listener, slot }, waiting } => {
                self.with(listener, |dispatch, out| dispatch.counted(now, slot, waiting, out));
            }
            Input::TakenBack { mailbox, connection, key } => {
                match self.dispatch(mailbox.listener) {
                    Some((dispatch, out)) => {
                        dispatch.taken_back(now, mailbox.slot, connection, key, out);
                    }
                    None => self.output.push_back(Output::Close { connection }),
                }
            }
            Input::Emptied { mailbox: MailboxId { listener, slot } } => {
                self.with(listener, |dispatch, out| dispatch.emptied(now, slot, out));
                self.advance(now);
            }
            Input::TakeBackFailed { mailbox: MailboxId { listener, slot } } => {
                self.with(listener, |dispatch, out| dispatch.take_back_failed(now, slot, out));
                self.advance(now);
            }
            Input::Order(order) => self.order(now, order),
            Input::Shutdown => self.shutdown(now),
        }
    }

    fn refused(&mut self, now: Time, mailbox: MailboxId, cargo: (C, u64), refusal: Refusal) {
        let (connection, key) = cargo;
        match self.dispatch(mailbox.listener) {
            Some((dispatch, out)) => {
                dispatch.refused(now, mailbox.slot, connection, key, refusal, out);
            }
            None => self.output.push_back(Output::Close { connection }),
        }
    }

    /// Takes in that it is `now`.
    pub fn handle_timeout(&mut self, now: Time) {
        if let Stage::Closing { deadline } = self.stage
            && deadline <= now
        {
            self.stop_workers(now, now);
        }
        for slot in 0..self.slots.len() {
            if self.slots[slot].deadline.is_some_and(|deadline| deadline <= now) {
                self.slot_timeout(now, slot);
            }
        }
        for dispatch in self.listeners.values_mut() {
            dispatch.handle_timeout(now, &mut self.output);
        }
    }

    /// The next thing to do, in order; `None` when there is nothing left.
    pub fn poll_output(&mut self) -> Option<Output<C>> {
        self.output.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next; `None` when only an input can
    /// change anything.
    pub fn next_timeout(&self) -> Option<Time> {
        let slots = self.slots.iter().filter_map(|slot| slot.deadline);
        let listeners = self.listeners.values().filter_map(Balancer::next_timeout);
        let stage = match self.stage {
            Stage::Closing { deadline } => Some(deadline),
            Stage::NotStarted
            | Stage::Running
            | Stage::Stopping
            | Stage::Abandoning { .. }
            | Stage::Finished => None,
        };
        slots.chain(listeners).chain(stage).min()
    }

    /// What picks a worker when this listener is open at `address`, by `mode`.
    pub fn policy_name(
        &self,
        listener: ListenerId,
        mode: Dispatch,
        address: &Address,
    ) -> &'static str {
        self.listeners.get(&listener).map_or("", |balancer| balancer.policy_name(mode, address))
    }

    /// Of how many slots the counters are wanted, since picks of this listener depend on them.
    pub fn wants_counters(&self, listener: ListenerId) -> usize {
        let uses = self.listeners.get(&listener).is_some_and(Balancer::uses_counters);
        if uses { self.slots.len() } else { 0 }
    }

    /// The workers that have a process.
    pub fn workers(&self) -> impl Iterator<Item = WorkerInfo> + '_ {
        self.slots.iter().filter_map(Slot::info)
    }

    fn message(&mut self, now: Time, worker: WorkerId, message: FromWorker) {
        let Some(slot) = self.live(worker) else { return };
        match message {
            FromWorker::Online { version } => {
                if version != PROTOCOL_VERSION {
                    self.kill(now, worker, KillReason::Protocol);
                } else if slot.apply(Stimulus::Hello, None) {
                    slot.was_online = true;
                    self.output.push_back(Output::Event(Event::Online { worker }));
                }
            }
            // Before it was online, these are out of order.
            FromWorker::Listen { .. }
            | FromWorker::Close { .. }
            | FromWorker::Passed { .. }
            | FromWorker::Disconnect
                if slot.life == Life::Spawning =>
            {
                self.kill(now, worker, KillReason::Protocol);
            }
            FromWorker::Listen { request, index, options, address } => {
                if slot.life.is_heard() {
                    self.listen(now, worker, request, index, options, address);
                }
            }
            // One that was asked to stop already is told nothing new.
            FromWorker::Disconnect => {
                if matches!(slot.life, Life::Online | Life::Listening) {
                    self.leave(now, worker);
                }
            }
            FromWorker::Close { listener } => {
                self.with(ListenerId(listener), |dispatch, out| {
                    dispatch.detach(now, worker, out);
                    dispatch.vacated(now, worker.slot, out);
                });
                self.advance(now);
            }
            FromWorker::Passed { listener } => {
                // Also of one that has left meanwhile: it may have been woken until it heard that.
                self.with(ListenerId(listener), |dispatch, out| {
                    dispatch.pass_on(now, out);
                });
            }
        }
    }

    fn dispatch(
        &mut self,
        listener: ListenerId,
    ) -> Option<(&mut Balancer<C>, &mut VecDeque<Output<C>>)> {
        Some((self.listeners.get_mut(&listener)?, &mut self.output))
    }

    fn with(
        &mut self,
        listener: ListenerId,
        act: impl FnOnce(&mut Balancer<C>, &mut VecDeque<Output<C>>),
    ) {
        if let Some((dispatch, out)) = self.dispatch(listener) {
            act(dispatch, out);
        }
    }

    /// The slot of a worker that has not ended; `None` for everything that comes too late.
    fn live(&mut self, worker: WorkerId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(worker.slot)?;
        (slot.worker == worker && slot.life.is_alive()).then_some(slot)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl<C> fmt::Debug for Machine<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("stage", &self.stage).finish_non_exhaustive()
    }
}
