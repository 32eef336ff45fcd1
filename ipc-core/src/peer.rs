use std::fmt;
use std::sync::Arc;

use handle_passing::Handle;

/// Who is at the other end of a channel, as the system says.
///
/// It is taken when the connection is made, and names the process that connected (or, seen from
/// the other side, that called `listen`). A process may hand its end on, so it tells who opened the
/// door, not who speaks; and of the two ends of a pair, both name the process that made it.
#[derive(Debug)]
pub struct PeerIdentity {
    pub(crate) process_id: Option<u32>,
    pub(crate) user_id: Option<u32>,
    pub(crate) group_id: Option<u32>,
    /// Of this process's own user, or of the one that may do anything: root, the system itself.
    pub(crate) is_same_user: bool,
    pub(crate) process: Option<Handle>,
}

impl PeerIdentity {
    /// The process, where the system tells it. It may be gone by now and its id that of another:
    /// [`process`](Self::process) is safe from that.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.process_id
    }

    /// The effective user (Unix).
    #[must_use]
    pub fn user_id(&self) -> Option<u32> {
        self.user_id
    }

    /// The effective group (Unix).
    #[must_use]
    pub fn group_id(&self) -> Option<u32> {
        self.group_id
    }

    /// A handle to the process: a pidfd (Linux 6.5 or later), a process handle (Windows).
    #[must_use]
    pub fn process(&self) -> Option<&Handle> {
        self.process.as_ref()
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.process_id {
            Some(process) => write!(f, "process {process}")?,
            None => f.write_str("a process")?,
        }
        match self.user_id {
            Some(user) => write!(f, " of user {user}"),
            None => Ok(()),
        }
    }
}

/// Whom a [`Listener`](crate::Listener) lets in, or who a server may be run by.
///
/// # Examples
///
/// ```
/// use ipc_core::PeerPolicy;
///
/// let default = PeerPolicy::same_user();
/// let operators = PeerPolicy::users([0, 1000]);
/// let odd_ones = PeerPolicy::check(|peer| peer.process_id().is_some_and(|id| id % 2 == 1));
/// ```
#[derive(Clone)]
pub struct PeerPolicy(Rule);

type Check = dyn Fn(&PeerIdentity) -> bool + Send + Sync;

#[derive(Clone)]
enum Rule {
    SameUser,
    Anyone,
    Users(Vec<u32>),
    Check(Arc<Check>),
}

impl PeerPolicy {
    /// The user that this process runs as, and root. The default. On Windows the pipe itself lets
    /// nobody else in but the system, and a client finds out whose pipe it is.
    #[must_use]
    pub fn same_user() -> Self {
        Self(Rule::SameUser)
    }

    /// Whoever can connect.
    #[must_use]
    pub fn anyone() -> Self {
        Self(Rule::Anyone)
    }

    /// These users, by id, and nobody else, not even root or this process's own user.
    #[must_use]
    pub fn users(ids: impl IntoIterator<Item = u32>) -> Self {
        Self(Rule::Users(ids.into_iter().collect()))
    }

    /// Whoever a function lets in.
    #[must_use]
    pub fn check(admits: impl Fn(&PeerIdentity) -> bool + Send + Sync + 'static) -> Self {
        Self(Rule::Check(Arc::new(admits)))
    }

    /// Whether the policy lets this peer in. A peer whose user is not known is let in by
    /// [`anyone`](Self::anyone), or by a function.
    #[must_use]
    pub fn admits(&self, peer: &PeerIdentity) -> bool {
        match &self.0 {
            Rule::SameUser => peer.is_same_user,
            Rule::Anyone => true,
            Rule::Users(users) => peer.user_id.is_some_and(|user| users.contains(&user)),
            Rule::Check(admits) => admits(peer),
        }
    }
}

impl Default for PeerPolicy {
    fn default() -> Self {
        Self::same_user()
    }
}

impl fmt::Debug for PeerPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::SameUser => f.write_str("same_user()"),
            Rule::Anyone => f.write_str("anyone()"),
            Rule::Users(users) => write!(f, "users({users:?})"),
            Rule::Check(_) => f.write_str("check(_)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(user_id: Option<u32>) -> PeerIdentity {
        PeerIdentity {
            process_id: Some(7),
            user_id,
            group_id: None,
            is_same_user: false,
            process: None,
        }
    }

    #[test]
    fn policies_let_in_whom_they_say() {
        let users = PeerPolicy::users([5, 6]);
        assert!(users.admits(&peer(Some(6))));
        assert!(!users.admits(&peer(Some(0))) && !users.admits(&peer(None)));
        assert!(PeerPolicy::anyone().admits(&peer(None)));
        assert!(!PeerPolicy::same_user().admits(&peer(Some(0))));
        let same = PeerIdentity { is_same_user: true, ..peer(None) };
        assert!(PeerPolicy::same_user().admits(&same));
        let seven = PeerPolicy::check(|peer| peer.process_id() == Some(7));
        assert!(seven.admits(&peer(None)));
        assert!(!PeerPolicy::check(|_| false).admits(&peer(Some(0))));
        assert_eq!(peer(Some(3)).to_string(), "process 7 of user 3");
    }
}
