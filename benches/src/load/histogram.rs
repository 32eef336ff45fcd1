//! Latencies in a fixed amount of memory.

use std::fmt;
use std::time::Duration;

/// Counts durations in buckets whose width grows with the value: an answer is at most 1/64 (1.6%)
/// above the exact one. The largest duration is kept exactly.
///
/// Up to 64 ns each nanosecond has a bucket; then each doubling is cut into 64 buckets of equal
/// width. Durations of 2^40 ns (18 minutes) and more share the last bucket.
pub(super) struct Histogram {
    counts: Box<[u64]>,
    max: Duration,
}

impl Histogram {
    pub(super) fn record(&mut self, duration: Duration) {
        self.counts[bucket(duration)] += 1;
        self.max = self.max.max(duration);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, other)| *count += other);
        self.max = self.max.max(other.max);
    }

    pub(super) fn max(&self) -> Duration {
        self.max
    }

    /// The duration that `percent` of all don't exceed, 0 when there are none.
    ///
    /// `percent` is 1 to 100.
    pub(super) fn percentile(&self, percent: u64) -> Duration {
        let total: u64 = self.counts.iter().sum();
        let rank = (u128::from(total) * u128::from(percent)).div_ceil(100);
        let mut below = 0;
        for (bucket, &count) in self.counts.iter().enumerate() {
            below += u128::from(count);
            if count > 0 && below >= rank {
                return highest(bucket).min(self.max);
            }
        }
        self.max
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into(), max: Duration::ZERO }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram").field("max", &self.max).finish_non_exhaustive()
    }
}

/// A doubling is cut into `1 << SUB_BITS` buckets.
const SUB_BITS: u32 = 6;
const NANOS_BITS: u32 = 40;
const BUCKETS: usize = ((NANOS_BITS - SUB_BITS + 1) << SUB_BITS) as usize;

fn bucket(duration: Duration) -> usize {
    let nanos = u64::try_from(duration.as_nanos()).map_or(u64::MAX, |nanos| nanos);
    let nanos = nanos.min((1 << NANOS_BITS) - 1);
    // The bits below the highest `SUB_BITS + 1` are dropped; the count of them is the doubling.
    let dropped = (u64::BITS - nanos.leading_zeros()).saturating_sub(SUB_BITS + 1);
    let bucket = (u64::from(dropped) << SUB_BITS) + (nanos >> dropped);
    usize::try_from(bucket).expect("a bucket's number is small")
}

/// The highest duration that falls in the bucket.
fn highest(bucket: usize) -> Duration {
    let dropped = (bucket >> SUB_BITS).saturating_sub(1);
    let kept = (bucket - (dropped << SUB_BITS)) as u64;
    Duration::from_nanos(((kept + 1) << dropped) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(nanos: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        nanos.into_iter().for_each(|nanos| histogram.record(Duration::from_nanos(nanos)));
        histogram
    }

    #[test]
    fn each_bucket_begins_where_the_one_before_it_ends() {
        let mut next = Duration::ZERO;
        for expected in 0..BUCKETS {
            assert_eq!(bucket(next), expected);
            assert_eq!(bucket(highest(expected)), expected);
            next = highest(expected) + Duration::from_nanos(1);
        }
        assert_eq!(next, Duration::from_nanos(1 << NANOS_BITS));
    }

    #[test]
    fn a_percentile_is_the_exact_one_or_up_to_a_64th_above() {
        let histogram = histogram((1..=100_000).map(|n| n * 37));
        for percent in 1..=100 {
            let exact = percent * 1000 * 37;
            let nanos = u64::try_from(histogram.percentile(percent).as_nanos()).unwrap();
            assert!((exact..=exact + exact / 64).contains(&nanos), "p{percent}: {nanos}");
        }
    }

    #[test]
    fn the_largest_is_exact_and_a_percentile_never_above_it() {
        let histogram = histogram([5, 1_000_003]);
        assert_eq!(histogram.percentile(50), Duration::from_nanos(5));
        assert_eq!(histogram.percentile(99), Duration::from_nanos(1_000_003));
        assert_eq!(histogram.max(), Duration::from_nanos(1_000_003));
    }

    #[test]
    fn nothing_and_the_largest_durations_are_in_range() {
        assert_eq!(Histogram::default().percentile(99), Duration::ZERO);
        let histogram = histogram([u64::MAX]);
        assert_eq!(histogram.max(), Duration::from_nanos(u64::MAX));
        assert_eq!(histogram.percentile(100), Duration::from_nanos((1 << NANOS_BITS) - 1));
    }

    #[test]
    fn merged_histograms_answer_as_one() {
        let mut one = histogram(1..=50);
        one.merge(&histogram(51..=100));
        assert_eq!(one.percentile(50), Duration::from_nanos(50));
        assert_eq!(one.max(), Duration::from_nanos(100));
    }
}
