//! How a listener is opened, and how its connections get to workers.

use std::fmt;
use std::str::FromStr;

/// How connections get from the kernel to the workers of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dispatch {
    /// [`Shared`](Dispatch::Shared) where the kernel can do what the policy says (round-robin, by
    /// weight or not), else [`Handoff`](Dispatch::Handoff).
    #[default]
    Auto,
    /// The master accepts, the policy picks a slot, and the slot's mailbox carries the connection:
    /// any policy, exactly, on every platform.
    Handoff,
    /// All workers hold the one listening socket, and the kernel wakes them in rotation:
    /// round-robin by weight, with no master in the way.
    Shared,
    /// Every slot has a listening socket of its own, and a program that the master loads into the
    /// kernel picks one: exact also under load, with no master in the way.
    Steered,
}

impl Dispatch {
    /// Every way.
    pub const ALL: [Dispatch; 4] =
        [Dispatch::Auto, Dispatch::Handoff, Dispatch::Shared, Dispatch::Steered];

    /// Its name: lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Dispatch::Auto => "auto",
            Dispatch::Handoff => "handoff",
            Dispatch::Shared => "shared",
            Dispatch::Steered => "steered",
        }
    }
}

impl fmt::Display for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dispatch {
    type Err = ParseDispatchError;

    fn from_str(text: &str) -> Result<Self, ParseDispatchError> {
        let known = Dispatch::ALL.into_iter().find(|dispatch| dispatch.name() == text);
        known.ok_or_else(|| ParseDispatchError { text: text.to_owned() })
    }
}

/// A text that names no [`Dispatch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseDispatchError {
    text: String,
}

impl fmt::Display for ParseDispatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no way to dispatch; expected auto, handoff, shared or steered",
            self.text
        )
    }
}

impl std::error::Error for ParseDispatchError {}

/// How many connections the kernel queues, where nobody says it.
pub(crate) const BACKLOG_CONNECTIONS: u32 = 4096;

/// How a listener is opened, beyond its address.
///
/// The first worker that asks for an address decides. For the others it is open already: they join
/// it as it is, and that they had asked for something else is no error.
///
/// ```
/// use runtime::{Dispatch, ListenOptions};
///
/// let options = ListenOptions::new().dispatch(Dispatch::Handoff).backlog(512).only_v6(true);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenOptions {
    pub(crate) dispatch: Option<Dispatch>,
    pub(crate) backlog: Option<u32>,
    pub(crate) only_v6: Option<bool>,
    pub(crate) exclusive: bool,
}

impl ListenOptions {
    /// Those of the cluster.
    #[must_use]
    pub fn new() -> ListenOptions {
        ListenOptions::default()
    }

    /// How connections get to workers. Default: as the cluster's builder says. Datagrams are
    /// [steered](Dispatch::Steered) or else [shared](Dispatch::Shared): nobody hands them on.
    #[must_use]
    pub fn dispatch(mut self, dispatch: Dispatch) -> ListenOptions {
        self.dispatch = Some(dispatch);
        self
    }

    /// How many connections the kernel queues. Default: as the cluster's builder says. Without
    /// effect on datagrams and inherited sockets.
    #[must_use]
    pub fn backlog(mut self, connections: u32) -> ListenOptions {
        self.backlog = Some(connections);
        self
    }

    /// Whether an IPv6 address leaves IPv4 to others: `[::]:80` then takes nothing of IPv4, and
    /// `0.0.0.0:80` may be listened on beside it; otherwise it takes both. Default: as the system
    /// is set (on Linux `net.ipv6.bindv6only`, commonly both). Without effect on other addresses.
    #[must_use]
    pub fn only_v6(mut self, only: bool) -> ListenOptions {
        self.only_v6 = Some(only);
        self
    }

    /// Whether this worker listens by itself and for itself. Default: false.
    ///
    /// The master is not asked and does not know: no other worker shares the address, or may
    /// listen there at the same time; there are no events; it closes with the listener or the
    /// worker, and with it what its backlog holds. A socket's file that a killed worker leaves is
    /// replaced by the next who listens there. Nothing of the cluster's is the default then:
    /// the backlog is of 4096 connections.
    #[must_use]
    pub fn exclusive(mut self, exclusive: bool) -> ListenOptions {
        self.exclusive = exclusive;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_told_the_remedy() {
        for dispatch in Dispatch::ALL {
            assert_eq!(dispatch.to_string().parse(), Ok(dispatch));
        }
        let error = "rr".parse::<Dispatch>().unwrap_err().to_string();
        assert_eq!(
            error,
            "\"rr\" is no way to dispatch; expected auto, handoff, shared or steered"
        );
    }
}
