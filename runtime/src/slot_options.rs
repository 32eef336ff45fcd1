//! What a slot's workers have of their own: weight, environment, and what their processes may do.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::machine::SLOTS_MAX;
use crate::process::Resource;
use crate::process::launch::{ChildOptions, Limit};
use crate::sys;

/// What distinguishes the workers of one slot, beyond the cluster's settings.
///
/// Set by [`Builder::slot_options`](crate::Builder::slot_options). What changes a process is done
/// by the child itself just before it becomes the worker's program, in this order: limits,
/// processors, groups, group, user, working directory. The first step that fails is named by an
/// [`Event::SpawnFailed`](crate::Event::SpawnFailed).
///
/// ```
/// use runtime::{Cluster, SlotOptions};
///
/// // One worker a processor, and the first does more.
/// let builder = Cluster::builder().workers(4).slot_options(|slot| {
///     SlotOptions::new().cpu_affinity([slot]).weight(if slot == 0 { 2 } else { 1 })
/// });
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotOptions {
    pub(crate) weight: Option<u32>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) args: Vec<OsString>,
    pub(crate) child: ChildOptions,
}

impl SlotOptions {
    /// Nothing of its own.
    #[must_use]
    pub fn new() -> SlotOptions {
        SlotOptions::default()
    }

    /// Its share of the connections; 0 is none. Default: that of
    /// [`Builder::weights`](crate::Builder::weights), or 1. It is that of the slot's first worker
    /// for good.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> SlotOptions {
        self.weight = Some(weight);
        self
    }

    /// A variable in its environment, beyond, or instead of, the cluster's.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> SlotOptions {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Arguments of its program, after the cluster's.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> SlotOptions {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The processors that it may run on, by number. Default: those of the master.
    #[must_use]
    pub fn cpu_affinity(mut self, cpus: impl IntoIterator<Item = usize>) -> SlotOptions {
        self.child.cpus = Some(cpus.into_iter().collect());
        self
    }

    /// The user that it runs as; the master must be root, and [`gid`](Self::gid) must be set too.
    /// It has no supplementary groups then, unless [`groups`](Self::groups) says which.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> SlotOptions {
        self.child.uid = Some(uid);
        self
    }

    /// The group that it runs as; the master must be root.
    #[must_use]
    pub fn gid(mut self, gid: u32) -> SlotOptions {
        self.child.gid = Some(gid);
        self
    }

    /// Its supplementary groups; the master must be root. Default: those of the master, or none if
    /// it runs as another user.
    #[must_use]
    pub fn groups(mut self, groups: impl IntoIterator<Item = u32>) -> SlotOptions {
        self.child.groups = Some(groups.into_iter().collect());
        self
    }

    /// The directory that it starts in, which its user must be able to enter. Default: that of the
    /// master.
    #[must_use]
    pub fn working_directory(mut self, path: impl Into<PathBuf>) -> SlotOptions {
        self.child.directory = Some(path.into());
        self
    }

    /// How much of a resource it may use: the soft limit counts, and can be raised up to the hard
    /// one by the worker itself. [`Resource::UNLIMITED`] is no limit. Default: those of the master.
    #[must_use]
    pub fn rlimit(mut self, resource: Resource, soft: u64, hard: u64) -> SlotOptions {
        self.child.limits.push(Limit { resource, soft, hard });
        self
    }

    /// Finds what can't work, whatever the system says later.
    fn check(&self) -> Result<(), String> {
        for (key, value) in &self.env {
            let bytes = key.as_encoded_bytes();
            if bytes.is_empty() || bytes.contains(&b'=') || bytes.contains(&0) {
                return Err(format!("env: {key:?} is no name; leave out '=' and zero bytes"));
            }
            if value.as_encoded_bytes().contains(&0) {
                return Err(format!("env: {key:?} holds a zero byte; leave it out"));
            }
        }
        if self.args.iter().any(|arg| arg.as_encoded_bytes().contains(&0)) {
            return Err("args: one holds a zero byte; leave it out".into());
        }
        check_child(&self.child)
    }
}

/// Finds what this process can't have a child do.
fn check_child(options: &ChildOptions) -> Result<(), String> {
    options.check()?;
    let (ids, root) = (sys::user_and_group(), sys::is_root());
    let others = [
        ("uid", options.uid.filter(|uid| *uid != ids.0)),
        ("gid", options.gid.filter(|gid| *gid != ids.1)),
        ("groups", options.groups.as_ref().map(|groups| groups.first().copied().unwrap_or(0))),
    ];
    for (option, id) in others {
        if let Some(id) = id.filter(|_| !root) {
            return Err(format!("{option} {id}: run the master as root, or leave it out"));
        }
    }
    if let (Some(uid), None, true) = (options.uid, options.gid, root) {
        return Err(format!("uid {uid} without gid: it would keep the master's group; set both"));
    }
    match &options.directory {
        Some(path) => check_directory(path),
        None => Ok(()),
    }
}

fn check_directory(path: &Path) -> Result<(), String> {
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(format!("working_directory: {} is no directory", path.display())),
        Err(error) => Err(format!("working_directory: {}: {error}; create it", path.display())),
    }
}

/// What slots have, whatever their number.
#[derive(Default)]
pub(crate) struct SlotPlan {
    pub(crate) weights: Vec<u32>,
    pub(crate) options: Option<OptionsOf>,
}

/// Gives a slot's options.
pub(crate) type OptionsOf = Box<dyn Fn(usize) -> SlotOptions + Send + Sync>;

impl SlotPlan {
    /// The options of so many slots.
    pub(crate) fn slots(&self, workers: usize) -> Result<Vec<SlotOptions>, Error> {
        if !(1..=SLOTS_MAX).contains(&workers) {
            let text = format!("{workers} workers; there may be 1 to {SLOTS_MAX}");
            return Err(Error::invalid(text));
        }
        let mut slots = Vec::with_capacity(workers);
        for slot in 0..workers {
            let mut options = self.options.as_ref().map_or_else(SlotOptions::new, |of| of(slot));
            options.check().map_err(|text| Error::invalid(format!("slot {slot}: {text}")))?;
            if let Some(path) = &mut options.child.directory {
                // The master may be elsewhere when it starts the next worker.
                *path = std::path::absolute(&*path).unwrap_or_else(|_| path.clone());
            }
            options.weight = options.weight.or_else(|| self.weights.get(slot).copied());
            slots.push(options);
        }
        if slots.iter().all(|options| options.weight == Some(0)) {
            return Err(Error::invalid(
                "every weight is 0, so no worker would get a connection; give one of them 1",
            ));
        }
        Ok(slots)
    }
}

impl fmt::Debug for SlotPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotPlan").field("weights", &self.weights).finish_non_exhaustive()
    }
}

/// The weights of slots with these options.
pub(crate) fn weights(slots: &[SlotOptions]) -> Vec<u32> {
    slots.iter().map(|options| options.weight.unwrap_or(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(options: SlotOptions) -> String {
        let options_of: OptionsOf =
            Box::new(move |slot| if slot == 1 { options.clone() } else { SlotOptions::new() });
        let plan = SlotPlan { weights: Vec::new(), options: Some(options_of) };
        plan.slots(2).expect_err("slot 1 can't be").to_string()
    }

    #[test]
    fn what_cannot_work_is_named_with_its_slot_and_remedy() {
        let new = SlotOptions::new;
        let cases = [
            (new().env("A=B", "c"), "slot 1: env: \"A=B\" is no name; leave out '='"),
            (new().env("A", "c\0"), "slot 1: env: \"A\" holds a zero byte"),
            (new().args(["a\0"]), "slot 1: args: one holds a zero byte"),
            (new().cpu_affinity([]), "slot 1: cpu_affinity: no processor; name one"),
            (new().cpu_affinity([0, 1 << 20]), "slot 1: cpu_affinity: no processor 1048576"),
            (
                new().rlimit(Resource::OpenFiles, 11, 10),
                "slot 1: rlimit: open files: 11 is above the hard limit 10",
            ),
            (new().working_directory("/dev/null"), "working_directory: /dev/null is no directory"),
            (new().working_directory("/no/such"), "/no/such: No such file or directory"),
        ];
        for (options, text) in cases {
            let error = error_of(options);
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn weights_come_from_the_slot_then_from_the_cluster() {
        let options: OptionsOf = Box::new(|slot| match slot {
            1 => SlotOptions::new().weight(7),
            _ => SlotOptions::new(),
        });
        let plan = SlotPlan { weights: vec![2, 3, 4], options: Some(options) };
        assert_eq!(weights(&plan.slots(4).unwrap()), [2, 7, 4, 1]);
        assert_eq!(weights(&plan.slots(1).unwrap()), [2]);
        assert!(plan.slots(0).is_err() && plan.slots(1025).is_err());
        let idle = SlotPlan { weights: vec![0, 0, 1], options: None };
        assert!(idle.slots(3).is_ok());
        assert!(idle.slots(2).unwrap_err().to_string().contains("every weight is 0"));
    }
}
