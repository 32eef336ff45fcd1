//! Which policy balances, and how it is named from outside.

use std::fmt;
use std::str::FromStr;

use scheduler::PolicyKind;

use crate::listen::Dispatch;
use crate::machine::PolicyFactory;

/// The variable by which an operator overrides what the program asks for.
pub(crate) const VARIABLE: &str = "CLUSTER_SCHED_POLICY";

/// The policy of a cluster's listeners.
pub(crate) enum Choice {
    /// Round-robin, by weight if the weights differ.
    Default,
    Kind(PolicyKind),
    /// The user's own.
    Custom(PolicyFactory),
}

impl Choice {
    /// One of the known policies; `None` for the user's own. `weighted`: whether weights differ.
    pub(crate) fn kind(&self, weighted: bool) -> Option<PolicyKind> {
        match self {
            Choice::Default if weighted => Some(PolicyKind::SmoothWeighted),
            Choice::Default => Some(PolicyKind::RoundRobin),
            Choice::Kind(kind) => Some(*kind),
            Choice::Custom(_) => None,
        }
    }

    /// Makes a policy for each listener; chance is drawn from `seed`.
    pub(crate) fn into_factory(self, weighted: bool, seed: u64) -> PolicyFactory {
        let kind = self.kind(weighted).unwrap_or(PolicyKind::RoundRobin);
        match self {
            Choice::Custom(factory) => factory,
            Choice::Default | Choice::Kind(_) => {
                let mut listeners = 0;
                Box::new(move || {
                    listeners += 1;
                    kind.build(seed.wrapping_add(listeners))
                })
            }
        }
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Default => f.write_str("default"),
            Choice::Kind(kind) => kind.fmt(f),
            Choice::Custom(_) => f.write_str("custom"),
        }
    }
}

/// Whether workers that take turns at one socket do what this policy does.
pub(crate) fn is_rotation(kind: PolicyKind) -> bool {
    rotates_by_weight(kind) || matches!(kind, PolicyKind::RoundRobin | PolicyKind::FirstIdle)
}

/// Whether such a rotation is by weight.
pub(crate) fn rotates_by_weight(kind: PolicyKind) -> bool {
    matches!(kind, PolicyKind::SmoothWeighted | PolicyKind::ClassicWeighted)
}

/// What the variable says: a policy, a dispatch, or both with a colon between them
/// (`steered:least-connections`); `none` leaves it to the system, as in Node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Override {
    pub(crate) dispatch: Option<Dispatch>,
    pub(crate) policy: Option<PolicyKind>,
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Override, String> {
        let text = text.trim().to_ascii_lowercase();
        if text.is_empty() {
            return Ok(Override::default());
        }
        if text == "none" {
            return Ok(Override { dispatch: Some(Dispatch::Shared), policy: None });
        }
        let (dispatch, policy) = match text.split_once(':') {
            Some((dispatch, policy)) => (Some(dispatch), Some(policy)),
            None if text.parse::<Dispatch>().is_ok() => (Some(&*text), None),
            None => (None, Some(&*text)),
        };
        let dispatch = dispatch.map(str::parse::<Dispatch>).transpose();
        let policy = policy.map(str::parse::<PolicyKind>).transpose();
        Ok(Override {
            dispatch: dispatch.map_err(|error| error.to_string())?,
            policy: policy.map_err(|error| error.to_string())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_is_a_policy_a_dispatch_or_both() {
        let read = |text: &str| text.parse::<Override>().map(|o| (o.dispatch, o.policy));
        assert_eq!(read("rr"), Ok((None, Some(PolicyKind::RoundRobin))));
        assert_eq!(read("none"), Ok((Some(Dispatch::Shared), None)));
        assert_eq!(read(""), Ok((None, None)), "as if it were not set");
        assert_eq!(read(" Handoff "), Ok((Some(Dispatch::Handoff), None)));
        let both = (Some(Dispatch::Steered), Some(PolicyKind::LeastConnections));
        assert_eq!(read("steered:least-conn"), Ok(both));
    }

    #[test]
    fn a_bad_override_names_itself_and_the_remedy() {
        let error = "steered:fastest".parse::<Override>().unwrap_err();
        assert!(error.contains("\"fastest\"") && error.contains("least-connections"), "{error}");
        let error = "fast:rr".parse::<Override>().unwrap_err();
        assert!(error.contains("\"fast\"") && error.contains("handoff"), "{error}");
    }
}
