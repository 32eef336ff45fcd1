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

/// How a listener is opened, beyond its address.
///
/// The first worker that asks for an address decides; for the others it is open already.
///
/// ```
/// use runtime::{Dispatch, ListenOptions};
///
/// let options = ListenOptions::new().dispatch(Dispatch::Handoff).backlog(512);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenOptions {
    pub(crate) dispatch: Option<Dispatch>,
    pub(crate) backlog: Option<u32>,
}

impl ListenOptions {
    /// Those of the cluster.
    #[must_use]
    pub fn new() -> ListenOptions {
        ListenOptions::default()
    }

    /// How connections get to workers. Default: as the cluster's builder says.
    #[must_use]
    pub fn dispatch(mut self, dispatch: Dispatch) -> ListenOptions {
        self.dispatch = Some(dispatch);
        self
    }

    /// How many connections the kernel queues. Default: as the cluster's builder says.
    #[must_use]
    pub fn backlog(mut self, connections: u32) -> ListenOptions {
        self.backlog = Some(connections);
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
