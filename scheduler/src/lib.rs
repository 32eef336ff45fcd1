//! Load-balancing policies as plain values: tell a [`Policy`] what changed, ask it where the next
//! connection goes.
//!
//! A policy does no I/O, reads no clock, takes no randomness that it was not given, and depends on
//! nothing: the same calls give the same answers. It balances over *slots*, small numbers that
//! stand for places where a worker sits.
//!
//! | policy | picks | needs | cost |
//! |---|---|---|---|
//! | [`RoundRobin`] | the next slot in order | | 1 |
//! | [`FirstIdle`] | the slot that is idle for longest, as Node does | connections | 1 |
//! | [`SmoothWeighted`] | by weight, spread evenly over time, as nginx does | | 1 (*n*) |
//! | [`ClassicWeighted`] | by weight, the heaviest first | | 1 |
//! | [`Random`] | at random by weight | seed | 1 (log *n*) |
//! | [`PowerOfTwo`] | the less busy of two at random | seed, connections | 1 (log *n*) |
//! | [`LeastConnections`] | the least busy | connections | log *n* |
//! | [`LeastTime`] | by average time and connections | connections, reports | log *n* |
//! | [`SourceHash`] | by key | keys | 1 (*n*) |
//! | [`ConsistentHash`] | by key, on a ring: few keys move ever | keys | 1 (160 *n*) |
//! | [`BoundedHash`] | the same, with a bound for each slot | keys, connections | 1 (160 *n*) |
//! | [`Maglev`] | by key, in even shares: few keys move | keys | 1 (65537) |
//! | [`Sticky`] | as the last time for the key, else as another policy | keys, time | 1 |
//!
//! All but [`RoundRobin`] and [`FirstIdle`] go by weight. The cost is in steps of a pick among *n*
//! slots, in parentheses of the picks after a change: of anything for [`SmoothWeighted`] (which
//! takes a cycle to settle), of weights for the others.
//!
//! [`SlowStart`] lets slots that return warm up, and [`Failover`] keeps away from slots that fail;
//! both go around any policy. Limits of connections ([`Load::connections_max`]), reserves
//! ([`Load::backup`]) and slots that are down ([`Load::can_take`]) are for every policy.
//! [`PolicyKind`] names them all, for options.
//!
//! # Which one?
//!
//! - Connections cost about the same: [`RoundRobin`], or [`SmoothWeighted`] when slots differ.
//! - They last, or cost differently: [`LeastConnections`], as long as the counts are fresh;
//!   [`PowerOfTwo`] when they are late, or when several processes pick for the same slots.
//! - Slots get slow now and then: [`LeastTime`].
//! - A client shall come to the same slot: [`ConsistentHash`] or [`Maglev`], which remember
//!   nothing; [`BoundedHash`] when some clients are much more eager than others; [`Sticky`] when a
//!   client may not move even if slots come, at the price of a table.
//!
//! # Using a policy
//!
//! Report each slot once, and again whenever something about it changes. A slot that was never
//! reported can't take.
//!
//! ```
//! use scheduler::{Load, Policy, Request, RoundRobin};
//!
//! let mut policy = RoundRobin::new();
//! for slot in 0..3 {
//!     policy.update(slot, Load { can_take: true, ..Load::default() });
//! }
//! let request = Request::default();
//! assert_eq!(policy.pick(&request), Some(0));
//!
//! // A pick is advice. When the slot refuses, say so and ask again: the connection goes to
//! // the next one, and the rotation goes on from there.
//! assert_eq!(policy.pick(&request), Some(1));
//! policy.update(1, Load { can_take: false, ..Load::default() });
//! assert_eq!(policy.pick(&request), Some(2));
//! assert_eq!(policy.pick(&request), Some(0));
//! assert_eq!(policy.pick(&request), Some(2));
//! ```
//!
//! # Writing a policy
//!
//! A policy that is generic over what is wrapped, as [`SlowStart`] is, accepts a
//! `Box<dyn Policy>` too.
//!
//! ```
//! use scheduler::{Load, Policy, Request};
//!
//! /// Fills the first slot before it uses the second, and so on.
//! #[derive(Debug, Default)]
//! struct FirstFree {
//!     loads: Vec<Load>,
//! }
//!
//! impl Policy for FirstFree {
//!     fn update(&mut self, slot: usize, load: Load) {
//!         if slot >= self.loads.len() {
//!             self.loads.resize(slot + 1, Load::default());
//!         }
//!         self.loads[slot] = load;
//!     }
//!
//!     fn pick(&mut self, _request: &Request) -> Option<usize> {
//!         self.loads.iter().position(Load::is_eligible)
//!     }
//!
//!     fn name(&self) -> &'static str {
//!         "first-free"
//!     }
//! }
//!
//! let mut policy: Box<dyn Policy> = Box::new(FirstFree::default());
//! policy.update(4, Load { can_take: true, ..Load::default() });
//! assert_eq!(policy.pick(&Request::default()), Some(4));
//! ```
#![forbid(unsafe_code)]

mod alias;
mod bits;
mod bounded_hash;
mod classic_weighted;
mod consistent_hash;
mod failover;
mod first_idle;
mod hash;
mod kind;
mod least_connections;
mod least_time;
mod maglev;
mod power_of_two;
mod random;
mod ring;
mod round_robin;
mod sampler;
mod slow_start;
mod smooth_weighted;
mod source_hash;
mod sticky;
mod tiers;
mod turns;
mod winners;

use std::fmt;
use std::time::Duration;

pub use bounded_hash::BoundedHash;
pub use classic_weighted::ClassicWeighted;
pub use consistent_hash::ConsistentHash;
pub use failover::Failover;
pub use first_idle::FirstIdle;
pub use kind::{PolicyKind, UnknownPolicy};
pub use least_connections::LeastConnections;
pub use least_time::LeastTime;
pub use maglev::Maglev;
pub use power_of_two::PowerOfTwo;
pub use random::Random;
pub use round_robin::RoundRobin;
pub use slow_start::SlowStart;
pub use smooth_weighted::SmoothWeighted;
pub use source_hash::SourceHash;
pub use sticky::Sticky;

/// How many slots a policy of this crate can hold: indices are below it.
///
/// A policy's memory grows with the highest index that it was told.
pub const SLOTS_MAX: usize = 4096;

/// Decides which slot the next connection goes to.
///
/// The contract, which custom policies keep too: [`pick`](Self::pick) returns only slots whose
/// last reported load [is eligible](Load::is_eligible), a [backup](Load::backup) only while no
/// other slot is eligible, and it returns one whenever there is one.
pub trait Policy: fmt::Debug + Send {
    /// Tells the policy a slot's new load.
    ///
    /// Slots are small dense indices; a slot never mentioned can't take.
    ///
    /// # Panics
    ///
    /// The policies of this crate panic when `slot` is [`SLOTS_MAX`] or more: the caller numbers
    /// the slots, so that is a mistake in the caller.
    fn update(&mut self, slot: usize, load: Load);

    /// Picks a slot that can take, or `None` when none can.
    ///
    /// The policy counts the pick as a connection placed. When the slot turns out to be full, tell
    /// it by an [`update`](Self::update) with `can_take: false` and pick again.
    fn pick(&mut self, request: &Request) -> Option<usize>;

    /// The policy's name, for status output and logs: lower case, words joined by a hyphen.
    fn name(&self) -> &'static str;

    /// Tells the policy that connections of this slot have ended, and how. By default nothing
    /// comes of it: few policies learn from the past.
    fn report(&mut self, slot: usize, outcome: &Outcome) {
        let _ = (slot, outcome);
    }

    /// Whether [`Load::connections`] changes picks; by default it doesn't.
    ///
    /// The caller that gets `false` saves itself the counting, except for slots with a
    /// [limit](Load::connections_max).
    fn uses_connections(&self) -> bool {
        false
    }
}

impl<P: Policy + ?Sized> Policy for Box<P> {
    fn update(&mut self, slot: usize, load: Load) {
        (**self).update(slot, load);
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        (**self).pick(request)
    }

    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn report(&mut self, slot: usize, outcome: &Outcome) {
        (**self).report(slot, outcome);
    }

    fn uses_connections(&self) -> bool {
        (**self).uses_connections()
    }
}

/// What a policy knows of one slot.
///
/// The default can't take, has a weight of 1, and neither connections nor a limit of them. Write
/// the fields that matter and take the others from it:
/// `Load { can_take: true, ..Load::default() }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Whether the slot takes connections now: a worker is ready in it and its queue has room.
    /// `false` is nginx's `down`.
    pub can_take: bool,
    /// The slot's share, relative to the other weights. With 0 the slot is never picked, whatever
    /// the policy and even when no other can take: the way to drain it.
    pub weight: u32,
    /// How many connections the slot has open.
    pub connections: u32,
    /// How many it may have open; 0 is no limit. A slot that has as many is not picked (nginx's
    /// `max_conns`).
    pub connections_max: u32,
    /// Whether the slot is a reserve: picked only while none that is not a backup can take.
    pub backup: bool,
}

impl Load {
    /// Whether a policy may pick the slot: it can take, its weight is not 0, and it has fewer
    /// connections than its limit.
    ///
    /// A backup that is eligible may be picked only while no other slot is.
    #[must_use]
    pub const fn is_eligible(&self) -> bool {
        let has_room = self.connections_max == 0 || self.connections < self.connections_max;
        self.can_take && self.weight > 0 && has_room
    }
}

impl Default for Load {
    fn default() -> Self {
        Self { can_take: false, weight: 1, connections: 0, connections_max: 0, backup: false }
    }
}

/// What is known of the connection to be placed.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Request {
    /// Stands for the client, for policies that keep a client on one slot: a hash of its address
    /// for example. The others ignore it.
    pub key: u64,
    /// The caller's monotonic time, from any start, for policies in which something wears off.
    pub now: Duration,
}

impl Request {
    /// A request of the client that `key` stands for, at time 0.
    #[must_use]
    pub const fn new(key: u64) -> Self {
        Self { key, now: Duration::ZERO }
    }

    /// The same at another time.
    #[must_use]
    pub const fn at(self, now: Duration) -> Self {
        Self { now, ..self }
    }
}

/// How connections of a slot went.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The caller's monotonic time, on the clock of [`Request::now`].
    pub now: Duration,
    /// How long the slot took: the average over `connections`.
    pub time: Duration,
    /// How many connections this is about.
    pub connections: u32,
    /// Whether they failed. How long a failure took does not count.
    pub failed: bool,
}

impl Outcome {
    /// So many connections ended well, which took `time` on average.
    #[must_use]
    pub const fn new(now: Duration, time: Duration, connections: u32) -> Self {
        Self { now, time, connections, failed: false }
    }

    /// A connection failed.
    #[must_use]
    pub const fn failure(now: Duration) -> Self {
        Self { now, time: Duration::ZERO, connections: 1, failed: true }
    }
}

/// Refuses an index that would cost memory without bound.
#[track_caller]
fn assert_slot(slot: usize) {
    assert!(slot < SLOTS_MAX, "slot {slot} is out of range: a policy holds {SLOTS_MAX} slots");
}
