use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::{
    BoundedHash, ClassicWeighted, ConsistentHash, FirstIdle, LeastConnections, LeastTime, Maglev,
    Policy, PowerOfTwo, Random, RoundRobin, SmoothWeighted, SourceHash, Sticky,
};

/// Names every policy of this crate, for options and environment variables.
///
/// It is read from a policy's name, or from one of the usual short forms, and shown by its name.
///
/// # Examples
///
/// ```
/// use scheduler::PolicyKind;
///
/// let kind: PolicyKind = "p2c".parse()?;
/// assert_eq!(kind, PolicyKind::PowerOfTwo);
/// assert_eq!(kind.to_string(), "power-of-two");
///
/// let seed = 42; // from a source of randomness, where picks must not be foreseen
/// assert_eq!(PolicyKind::RoundRobin.build(seed).name(), "round-robin");
/// # Ok::<(), scheduler::UnknownPolicy>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PolicyKind {
    /// [`RoundRobin`], also `rr`.
    RoundRobin,
    /// [`FirstIdle`], also `idle`, `node`.
    FirstIdle,
    /// [`SmoothWeighted`], also `smooth`, `swrr`, `wrr`, `weighted`, `nginx`.
    SmoothWeighted,
    /// [`ClassicWeighted`], also `classic`.
    ClassicWeighted,
    /// [`Random`], also `rand`.
    Random,
    /// [`PowerOfTwo`], also `p2c`, `random-two`, `two-choices`.
    PowerOfTwo,
    /// [`LeastConnections`], also `least-conn`, `leastconn`, `lc`.
    LeastConnections,
    /// [`LeastTime`], also `ewma`.
    LeastTime,
    /// [`SourceHash`], also `ip-hash`, `source`, `hash`.
    SourceHash,
    /// [`ConsistentHash`], also `consistent`, `ketama`, `ring-hash`.
    ConsistentHash,
    /// [`BoundedHash`], also `bounded`, `bounded-load`.
    BoundedHash,
    /// [`Maglev`].
    Maglev,
    /// [`Sticky`] for 16384 keys and ten minutes over [`SmoothWeighted`], also `sticky-session`.
    Sticky,
}

impl PolicyKind {
    /// All of them, in the order of the table of the crate.
    pub const ALL: [Self; 13] = [
        Self::RoundRobin,
        Self::FirstIdle,
        Self::SmoothWeighted,
        Self::ClassicWeighted,
        Self::Random,
        Self::PowerOfTwo,
        Self::LeastConnections,
        Self::LeastTime,
        Self::SourceHash,
        Self::ConsistentHash,
        Self::BoundedHash,
        Self::Maglev,
        Self::Sticky,
    ];

    /// The name that the policy has too: lower case, words joined by a hyphen.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.names()[0]
    }

    /// Builds the policy with its defaults. Those that leave something to chance draw it from the
    /// seed: the same seed and the same calls give the same picks.
    #[must_use]
    pub fn build(self, seed: u64) -> Box<dyn Policy> {
        match self {
            Self::RoundRobin => Box::new(RoundRobin::new()),
            Self::FirstIdle => Box::new(FirstIdle::new()),
            Self::SmoothWeighted => Box::new(SmoothWeighted::new()),
            Self::ClassicWeighted => Box::new(ClassicWeighted::new()),
            Self::Random => Box::new(Random::new(seed)),
            Self::PowerOfTwo => Box::new(PowerOfTwo::new(seed)),
            Self::LeastConnections => Box::new(LeastConnections::new()),
            Self::LeastTime => Box::new(LeastTime::new()),
            Self::SourceHash => Box::new(SourceHash::new()),
            Self::ConsistentHash => Box::new(ConsistentHash::new()),
            Self::BoundedHash => Box::new(BoundedHash::new()),
            Self::Maglev => Box::new(Maglev::new()),
            Self::Sticky => Box::new(Sticky::new(SmoothWeighted::new(), STICKY_TIME, STICKY_KEYS)),
        }
    }

    /// The name, and then the short forms.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::RoundRobin => &["round-robin", "rr"],
            Self::FirstIdle => &["first-idle", "idle", "node"],
            Self::SmoothWeighted => {
                &["smooth-weighted", "smooth", "swrr", "wrr", "weighted", "nginx"]
            }
            Self::ClassicWeighted => &["classic-weighted", "classic"],
            Self::Random => &["random", "rand"],
            Self::PowerOfTwo => &["power-of-two", "p2c", "random-two", "two-choices"],
            Self::LeastConnections => &["least-connections", "least-conn", "leastconn", "lc"],
            Self::LeastTime => &["least-time", "ewma"],
            Self::SourceHash => &["source-hash", "ip-hash", "source", "hash"],
            Self::ConsistentHash => &["consistent-hash", "consistent", "ketama", "ring-hash"],
            Self::BoundedHash => &["bounded-hash", "bounded", "bounded-load"],
            Self::Maglev => &["maglev"],
            Self::Sticky => &["sticky", "sticky-session"],
        }
    }
}

/// As nginx's `sticky learn` has it.
const STICKY_TIME: Duration = Duration::from_secs(600);

/// They take 384 KiB.
const STICKY_KEYS: usize = 1 << 14;

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;

    /// Upper and lower case don't matter, and `_` is as good as `-`.
    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        let normal = name.trim().to_ascii_lowercase().replace('_', "-");
        let kind = Self::ALL.into_iter().find(|kind| kind.names().contains(&&*normal));
        kind.ok_or_else(|| UnknownPolicy { name: name.into() })
    }
}

/// A name that is none of a policy. Its message lists those that are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPolicy {
    name: String,
}

impl fmt::Display for UnknownPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no policy is called {:?}; there are ", self.name)?;
        for (index, kind) in PolicyKind::ALL.into_iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{kind}")?;
        }
        Ok(())
    }
}

impl Error for UnknownPolicy {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_shown_alike_and_none_stands_for_two() {
        let mut all: Vec<_> = PolicyKind::ALL.iter().flat_map(|kind| kind.names()).collect();
        for kind in PolicyKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            for name in kind.names() {
                assert_eq!(name.to_uppercase().replace('-', "_").parse(), Ok(kind), "{name}");
            }
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let error = "fastest".parse::<PolicyKind>().unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("no policy is called \"fastest\"; there are round-robin, "));
        assert!(PolicyKind::ALL.iter().all(|kind| text.contains(kind.name())), "{text}");
    }
}
