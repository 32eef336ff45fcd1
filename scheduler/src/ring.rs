use crate::bits::Bits;
use crate::hash::{crc32, crc32_of};

/// The ring of consistent hashing: every slot has points on a circle, and a key belongs to the
/// slot of the first point at its place or after it.
///
/// Points are those of ketama as nginx has them: 160 for each unit of weight, a chain of CRC-32
/// over the slot's name and the point before.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    names: Vec<String>,
    weights: Vec<u32>,
    total: u64,
    /// The slots whose weights have changed since the ring was built.
    changed: Bits,
    /// The total by which points were allotted, or 0 if everybody had all.
    allotted_total: u64,
    /// In the order of the circle.
    points: Vec<Point>,
    /// Where the points begin that are in the same part of the circle; one more than there are
    /// parts, which are a power of two.
    parts: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    place: u32,
    slot: u16,
}

impl Ring {
    /// Slots that have no name are called by their number.
    pub(crate) const fn new(names: Vec<String>) -> Self {
        Self {
            names,
            weights: Vec::new(),
            total: 0,
            changed: Bits::new(),
            allotted_total: 0,
            points: Vec::new(),
            parts: Vec::new(),
        }
    }

    pub(crate) fn set_weight(&mut self, slot: usize, weight: u32) {
        if slot >= self.weights.len() {
            if weight == 0 {
                return;
            }
            self.weights.resize(slot + 1, 0);
        }
        if self.weights[slot] != weight {
            self.total = self.total - u64::from(self.weights[slot]) + u64::from(weight);
            self.weights[slot] = weight;
            self.changed.set(slot, true);
        }
    }

    pub(crate) fn is_built(&self) -> bool {
        self.changed.is_empty()
    }

    /// Replaces the points of the slots that have changed.
    pub(crate) fn build(&mut self) {
        let exact = self.total.saturating_mul(POINTS_PER_WEIGHT) <= POINTS_MAX;
        let allotted_total = if exact { 0 } else { self.total };
        if allotted_total != self.allotted_total {
            self.allotted_total = allotted_total;
            (0..self.weights.len()).for_each(|slot| _ = self.changed.set(slot, true));
        }
        self.points.retain(|point| !self.changed.contains(point.slot.into()));
        for slot in self.changed.iter() {
            let slot_number = u16::try_from(slot).expect("slots are below SLOTS_MAX");
            let base =
                self.names.get(slot).map_or_else(|| base(&slot.to_string()), |name| base(name));
            let mut place = 0;
            for _ in 0..points_of(self.weights[slot], allotted_total) {
                place = crc32(base, &u32::to_le_bytes(place));
                self.points.push(Point { place, slot: slot_number });
            }
        }
        // Stable sorting is that which makes use of what is sorted already.
        self.points.sort();
        self.changed.clear();
        self.divide();
    }

    /// Divides the circle into about as many parts as there are points.
    fn divide(&mut self) {
        let count = self.points.len().next_power_of_two().max(2);
        self.parts.clear();
        self.parts.resize(count + 1, 0);
        let shift = u32::BITS - count.trailing_zeros();
        for point in &self.points {
            self.parts[(point.place >> shift) as usize + 1] += 1;
        }
        for part in 0..count {
            self.parts[part + 1] += self.parts[part];
        }
    }

    /// The slots of the points from the key's place on, all the way round. The ring is built and
    /// not empty.
    pub(crate) fn slots_from(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let place = crc32_of(key);
        let shift = u32::BITS - (self.parts.len() - 1).trailing_zeros();
        let start = self.parts[(place >> shift) as usize] as usize;
        let here = &self.points[start..];
        let before = here.iter().take_while(|point| point.place < place).count();
        let start = start + before;
        self.points[start..].iter().chain(&self.points[..start]).map(|point| point.slot.into())
    }
}

/// The beginning of a slot's chain: the host, a zero, and the port.
fn base(name: &str) -> u32 {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let (host, port) = match name.strip_prefix("unix:") {
        Some(path) => (path, ""),
        None => name.rsplit_once(':').filter(|(_, port)| is_port(port)).unwrap_or((name, "")),
    };
    crc32(crc32(crc32(0, host.as_bytes()), &[0]), port.as_bytes())
}

/// How many points a slot has: as many as nginx gives it, or its share when that would be too many
/// for all together.
fn points_of(weight: u32, allotted_total: u64) -> u64 {
    let weight = u64::from(weight);
    match allotted_total {
        0 => weight * POINTS_PER_WEIGHT,
        total => (weight * POINTS_MAX / total).max(weight.min(1)),
    }
}

const POINTS_PER_WEIGHT: u64 = 160;

/// As many as 4096 slots have with a weight of 1, and some more: 8 MiB.
const POINTS_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// The chain as nginx computes it, checked with Python's zlib.
    #[test]
    fn points_are_those_of_nginx() {
        let mut ring = Ring::new(vec!["127.0.0.1:8081".into(), "unix:/run/a.sock".into()]);
        ring.set_weight(0, 1);
        ring.set_weight(1, 2);
        ring.build();
        assert_eq!(ring.points.len(), 480);
        assert!(ring.points.is_sorted());
        let mut place = 0;
        let first = [(); 3].map(|()| {
            place = crc32(base("127.0.0.1:8081"), &u32::to_le_bytes(place));
            place
        });
        assert_eq!(first, [0x50aa_bcf7, 0xb8dc_900a, 0x2a33_55ce]);
        for place in first {
            assert!(ring.points.contains(&Point { place, slot: 0 }));
        }
    }

    #[test]
    fn a_change_gives_the_ring_that_one_would_build_anew() {
        let mut changed = Ring::new(Vec::new());
        for weights in [[1, 1, 0, 2], [1, 3, 1, 0], [0, 10_000, 1, 1], [2, 1, 1, 1]] {
            let mut fresh = Ring::new(Vec::new());
            for (slot, weight) in weights.into_iter().enumerate() {
                changed.set_weight(slot, weight);
                fresh.set_weight(slot, weight);
            }
            changed.build();
            fresh.build();
            assert_eq!((&changed.points, &changed.parts), (&fresh.points, &fresh.parts));
            assert!(changed.points.len() as u64 <= POINTS_MAX + 4);
        }
    }
}
