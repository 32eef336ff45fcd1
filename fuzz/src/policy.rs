//! Load-balancing policies: any calls give the answers of a naive twin.

use arbitrary::{Arbitrary, Unstructured};
use scheduler::{Load, Policy, Request, RoundRobin, SmoothWeighted};

#[path = "../../scheduler/tests/twin/mod.rs"]
mod twin;
use twin::Tiered;

/// Interprets the bytes as calls, and makes them on every policy and on its naive twin. Panics when
/// the two disagree, when a slot is picked that isn't eligible, or none though one is.
pub fn policy(data: &[u8]) {
    let mut policies: [(Box<dyn Policy>, Box<dyn Policy>); 2] = [
        (Box::new(RoundRobin::new()), Box::<Tiered<twin::NaiveRoundRobin>>::default()),
        (Box::new(SmoothWeighted::new()), Box::<Tiered<twin::NaiveSmoothWeighted>>::default()),
    ];
    for (policy, twin) in &mut policies {
        compare(&mut **policy, &mut **twin, Unstructured::new(data));
    }
}

#[derive(Arbitrary)]
enum Operation {
    Update {
        slot: u8,
        can_take: bool,
        weight: Weight,
    },
    Pick {
        key: u8,
    },
    /// The last picked slot is full.
    Refuse,
}

/// Mostly small weights, as everywhere; the largest ones for overflows.
#[derive(Arbitrary)]
enum Weight {
    Small(u8),
    Any(u32),
}

fn compare(policy: &mut dyn Policy, twin: &mut dyn Policy, mut data: Unstructured<'_>) {
    let mut loads = [Load::default(); 1 << u8::BITS];
    let mut last = None;
    while let (false, Ok(operation)) = (data.is_empty(), Operation::arbitrary(&mut data)) {
        let slot = match operation {
            Operation::Update { slot, can_take, weight } => {
                let weight = match weight {
                    Weight::Small(weight) => weight.into(),
                    Weight::Any(weight) => weight,
                };
                let slot = usize::from(slot);
                loads[slot] = Load { can_take, weight, ..Load::default() };
                slot
            }
            Operation::Pick { key } => {
                let request = Request::new(key.into());
                last = policy.pick(&request);
                assert_eq!(last, twin.pick(&request), "{policy:?}");
                match last {
                    Some(slot) => assert!(loads[slot].is_eligible(), "{slot} of {policy:?}"),
                    None => assert!(!loads.iter().any(Load::is_eligible), "none of {policy:?}"),
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
        twin.update(slot, loads[slot]);
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
