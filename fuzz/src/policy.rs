//! Load-balancing policies: any calls give the answers of a naive twin, and keep the contract.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use scheduler::{Load, Outcome, Policy, Request};

#[path = "../../scheduler/tests/twin/mod.rs"]
mod twin;

/// Interprets the bytes as calls, and makes them on every policy and on its naive twin. Panics when
/// the two disagree, when a slot is picked that isn't eligible, or none though one is.
pub fn policy(data: &[u8]) {
    for [mut policy, mut twin] in twin::pairs() {
        run(&mut *policy, Some(&mut *twin), u32::MAX, Unstructured::new(data));
    }
    for [mut policy, mut twin] in twin::ring_pairs() {
        run(&mut *policy, Some(&mut *twin), 3, Unstructured::new(data));
    }
    for mut policy in twin::loners().into_iter().chain(twin::failovers()) {
        run(&mut *policy, None, u32::MAX, Unstructured::new(data));
    }
}

#[derive(Arbitrary)]
enum Operation {
    Update {
        slot: u8,
        can_take: bool,
        weight: Weight,
        backup: bool,
        connections: u8,
        connections_max: u8,
    },
    Pick {
        key: u8,
        later_ms: u16,
    },
    /// The last picked slot is full.
    Refuse,
    Report {
        slot: u8,
        connections: u8,
        time_ms: u16,
        failed: bool,
    },
}

/// Mostly small weights, as everywhere; the largest ones for overflows.
#[derive(Arbitrary)]
enum Weight {
    Small(u8),
    Any(u32),
}

/// Within as many half-lives of averages as the naive twin of `LeastTime` and the real one count
/// alike: the real one takes what is older for nothing.
const TIME_MAX: Duration = Duration::from_secs(170);

/// Few slots that lie in several words of a set of bits: tables for more are slow to build.
fn slot_of(slot: u8) -> usize {
    usize::from(slot % 24) * 9
}

/// Makes the calls. With its twin, a policy also keeps to backups; a wrapper that takes a slot for
/// one that fails may prefer a backup to it.
fn run(
    policy: &mut dyn Policy,
    mut twin: Option<&mut dyn Policy>,
    weight_max: u32,
    mut data: Unstructured<'_>,
) {
    let mut loads = [Load::default(); 24 * 9];
    let (mut last, mut now) = (None, Duration::ZERO);
    while let (false, Ok(operation)) = (data.is_empty(), Operation::arbitrary(&mut data)) {
        let slot = match operation {
            Operation::Update { slot, can_take, weight, backup, connections, connections_max } => {
                let weight = match weight {
                    Weight::Small(weight) => weight.into(),
                    Weight::Any(weight) => weight,
                };
                let (connections, connections_max) = (connections.into(), connections_max.into());
                let weight = weight.min(weight_max);
                let load = Load { can_take, weight, connections, connections_max, backup };
                loads[slot_of(slot)] = load;
                slot_of(slot)
            }
            Operation::Pick { key, later_ms } => {
                now = TIME_MAX.min(now + Duration::from_millis(later_ms.into()));
                let request = Request::new((key % 16).into()).at(now);
                last = policy.pick(&request);
                match last {
                    Some(slot) => assert!(loads[slot].is_eligible(), "{slot} of {policy:?}"),
                    None => assert!(!loads.iter().any(Load::is_eligible), "none of {policy:?}"),
                }
                if let Some(twin) = &mut twin {
                    assert_eq!(last, twin.pick(&request), "{policy:?}");
                    let is_primary = |load: &Load| load.is_eligible() && !load.backup;
                    let stands_in = last.is_some_and(|slot| loads[slot].backup);
                    assert!(!(stands_in && loads.iter().any(is_primary)), "{policy:?}");
                }
                continue;
            }
            Operation::Report { slot, connections, time_ms, failed } => {
                let time = Duration::from_millis(time_ms.into());
                let well = Outcome::new(now, time, connections.into());
                let outcome = if failed { Outcome::failure(now) } else { well };
                policy.report(slot_of(slot), &outcome);
                if let Some(twin) = &mut twin {
                    twin.report(slot_of(slot), &outcome);
                }
                continue;
            }
            Operation::Refuse => {
                let Some(slot) = last else { continue };
                loads[slot].can_take = false;
                slot
            }
        };
        policy.update(slot, loads[slot]);
        if let Some(twin) = &mut twin {
            twin.update(slot, loads[slot]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policies_equal_their_twins() {
        crate::corpus::run("policy", policy);
    }
}
