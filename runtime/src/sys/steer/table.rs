//! Whose turn it is, worked out beforehand.

use scheduler::{Load, Policy, Request, SmoothWeighted};

/// A slot and its weight.
pub(super) type Share = (usize, u32);

/// The shares without those of weight zero, in smallest terms, and so that the weights add up to at
/// most `total_max`: the smallest weight is then 1, and the others approximate.
///
/// # Panics
///
/// When there are more shares than `total_max`.
pub(super) fn reduced(shares: &[Share], total_max: usize) -> Vec<Share> {
    let mut shares: Vec<Share> = shares.iter().copied().filter(|share| share.1 > 0).collect();
    assert!(shares.len() <= total_max, "{} shares of {total_max}", shares.len());
    let divisor = shares.iter().fold(0, |divisor, share| gcd(divisor, share.1));
    for share in &mut shares {
        share.1 /= divisor;
    }
    let total: u64 = shares.iter().map(|share| u64::from(share.1)).sum();
    let total_max = total_max as u64;
    if total > total_max {
        // What the small ones are rounded up by comes out of what is left for that.
        let target = total_max - shares.len() as u64;
        for share in &mut shares {
            let weight = u64::from(share.1) * target / total;
            share.1 = u32::try_from(weight).map_or(share.1, |weight| weight.max(1));
        }
    }
    shares
}

/// One cycle of smooth weighted round-robin: of each share, its index as often as its weight.
pub(super) fn turns(shares: &[Share]) -> Vec<usize> {
    let mut policy = SmoothWeighted::new();
    for (index, (_, weight)) in shares.iter().enumerate() {
        policy.update(index, Load { can_take: true, weight: *weight, ..Load::default() });
    }
    let total: usize = shares.iter().map(|share| share.1 as usize).sum();
    (0..total).filter_map(|_| policy.pick(&Request::default())).collect()
}

/// For each of a prime number of buckets the slot that owns it, by Maglev's method: shares are
/// exact to a bucket, and when they change most buckets stay with their owners.
///
/// In turn, each share takes the first free bucket of a sequence of its own.
pub(super) fn buckets(shares: &[Share], count: usize) -> Vec<usize> {
    let mut owners = vec![None; if shares.is_empty() { 0 } else { count }];
    let mut sequences: Vec<(usize, usize)> =
        shares.iter().map(|(slot, _)| sequence(*slot, count)).collect();
    let cycle = turns(shares);
    for index in cycle.iter().cycle().take(owners.len()) {
        let (next, step) = &mut sequences[*index];
        while owners[*next].is_some() {
            *next = (*next + *step) % count;
        }
        owners[*next] = Some(shares[*index].0);
    }
    owners.into_iter().flatten().collect()
}

/// Where a slot begins to look for buckets, and by which steps it goes on; since their number is
/// prime, any step comes by all of them.
fn sequence(slot: usize, count: usize) -> (usize, usize) {
    let first = mixed(2 * slot as u64);
    let step = mixed(2 * slot as u64 + 1);
    let count_u64 = count as u64;
    let below = |number: u64| usize::try_from(number).unwrap_or(0);
    (below(first % count_u64), 1 + below(step % (count_u64 - 1)))
}

/// The finalizer of SplitMix64.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_come_in_smallest_terms_and_fit() {
        assert_eq!(reduced(&[(0, 500), (7, 300), (3, 0), (9, 100)], 64), [(0, 5), (7, 3), (9, 1)]);
        assert_eq!(reduced(&[], 64), []);
        assert_eq!(reduced(&[(5, 0)], 64), []);
        assert_eq!(reduced(&[(5, u32::MAX)], 64), [(5, 1)]);
        let many: Vec<Share> = (0..64).zip((1..).step_by(1000)).collect();
        assert!(reduced(&many, 64).iter().all(|share| share.1 == 1));
        let fitted = reduced(&[(0, u32::MAX), (1, u32::MAX / 2), (2, 1)], 4096);
        let total: u32 = fitted.iter().map(|share| share.1).sum();
        assert!(total <= 4096 && fitted[2].1 == 1, "{fitted:?}");
        assert!(fitted[0].1.abs_diff(2 * fitted[1].1) <= 2, "{fitted:?}");
    }

    #[test]
    fn turns_are_those_of_smooth_weighted_round_robin() {
        assert_eq!(turns(&[(4, 5), (9, 1), (2, 1)]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(turns(&[]), []);
    }

    fn count(owners: &[usize], slot: usize) -> usize {
        owners.iter().filter(|owner| **owner == slot).count()
    }

    #[test]
    fn buckets_are_shared_exactly_and_stay_with_their_owners() {
        let shares: Vec<Share> = (0..8).map(|slot| (slot, 1)).collect();
        let before = buckets(&shares, 1021);
        assert!((0..8).all(|slot| (127..=128).contains(&count(&before, slot))));
        let after = buckets(&shares[..7], 1021);
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        // 127 had to.
        assert!(moved < 127 + 127, "{moved}");
        let weighted = buckets(&[(0, 5), (1, 3), (2, 1), (3, 1)], 4093);
        for (slot, exact) in [(0, 2046), (1, 1228), (2, 409), (3, 409)] {
            assert!(count(&weighted, slot).abs_diff(exact) <= 5, "{slot}");
        }
        assert_eq!(buckets(&[], 1021), []);
        assert_eq!(count(&buckets(&[(1023, 7)], 509), 1023), 509);
    }
}
