//! What a cluster listens on, and how its connections are spread.

use std::fmt;
use std::sync::Arc;

use crate::address::Address;
use crate::listen::Dispatch;
use crate::sys::Board;

/// A listener of a cluster, from [`Handle::listeners`](crate::Handle::listeners).
#[derive(Clone)]
pub struct ListenerInfo {
    /// The address, with the real port.
    pub address: Address,
    /// How its connections get to workers.
    pub dispatch: Dispatch,
    /// The name of the policy that balances them; `rotation` where workers take turns at one
    /// socket, `none` for datagrams that they share.
    pub policy: &'static str,
    /// Why it is another dispatch than was asked for.
    pub reason: Option<String>,
    pub(crate) board: Arc<Board>,
}

impl ListenerInfo {
    /// How many connections the slot's worker has taken; wraps. As the worker counts them, now.
    #[must_use]
    pub fn taken(&self, slot: usize) -> u32 {
        self.board.read(slot).taken
    }

    /// How many of them are open.
    #[must_use]
    pub fn open(&self, slot: usize) -> u32 {
        self.board.read(slot).open
    }
}

impl fmt::Debug for ListenerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerInfo")
            .field("address", &self.address)
            .field("dispatch", &self.dispatch)
            .field("policy", &self.policy)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}
