/// Finds a slot by weight in one step, for a number that may be any: the alias method of Walker
/// (1977), built as Vose (1991) does it.
///
/// There is a column for every slot, all equally wide. The lower part of each belongs to its slot,
/// the rest to one other slot that has more weight than fits in its own column.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alias {
    columns: Vec<Column>,
    /// Only for building: what is left of each slot's weight.
    rest: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Column {
    /// How much of the column belongs to its slot, in parts of 2^32.
    own: u32,
    /// Whose the rest is: the slot itself if all is its own.
    other: u16,
}

impl Alias {
    pub(crate) const fn new() -> Self {
        Self { columns: Vec::new(), rest: Vec::new() }
    }

    /// Whose the place is; places are spread evenly. `None` if it wasn't built, or without weights.
    pub(crate) fn slot(&self, place: u64) -> Option<usize> {
        let place = u128::from(place) * self.columns.len() as u128;
        #[allow(clippy::cast_possible_truncation, reason = "an index, and the 32 bits below it")]
        let (index, part) = ((place >> 64) as usize, (place >> 32) as u32);
        self.slot_in(index, part)
    }

    /// The same for a place of 32 bits. It is coarser: shares are exact to a millionth.
    pub(crate) fn slot_coarse(&self, place: u32) -> Option<usize> {
        let place = u64::from(place) * self.columns.len() as u64;
        #[allow(clippy::cast_possible_truncation, reason = "an index, and the 32 bits below it")]
        let (index, part) = ((place >> 32) as usize, place as u32);
        self.slot_in(index, part)
    }

    fn slot_in(&self, index: usize, part: u32) -> Option<usize> {
        let column = self.columns.get(index)?;
        // Either the index or the other, without a branch that would be hard to predict.
        let mask = usize::from(part < column.own).wrapping_sub(1);
        Some(index ^ ((index ^ usize::from(column.other)) & mask))
    }

    /// Allocates only when there are more slots than ever.
    pub(crate) fn build(&mut self, weights: &[u32]) {
        let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        self.columns.clear();
        if total == 0 {
            return;
        }
        // Counted so that a column holds `total`, and all together fill all columns.
        let count = weights.len() as u64;
        self.rest.clear();
        self.rest.extend(weights.iter().map(|&weight| u64::from(weight) * count));
        let own = |index| Column { own: u32::MAX, other: slot_of(index) };
        self.columns.extend((0..weights.len()).map(own));
        let mut giver = self.giver_from(0, total);
        for index in 0..weights.len() {
            let mut taker = index;
            // Who has given all it could spare takes in turn: at once if the loop has passed it,
            // else when the loop comes to it.
            while taker <= index && self.rest[taker] < total {
                #[allow(clippy::cast_possible_truncation, reason = "less than 2^32")]
                let own = (self.rest[taker] as f64 / total as f64 * 4_294_967_296.0) as u32;
                self.columns[taker] = Column { own, other: slot_of(giver) };
                self.rest[giver] -= total - self.rest[taker];
                self.rest[taker] = 0; // Closed: not a giver any more.
                if self.rest[giver] >= total {
                    break;
                }
                taker = giver;
                giver = self.giver_from(giver + 1, total);
            }
        }
    }

    /// The first slot from `start` on that fills its column, or any when there is none: then all
    /// are full.
    fn giver_from(&self, start: usize, total: u64) -> usize {
        (start..self.rest.len()).find(|&index| self.rest[index] >= total).unwrap_or(0)
    }
}

fn slot_of(index: usize) -> u16 {
    u16::try_from(index).expect("slots are below SLOTS_MAX")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SLOTS_MAX;

    /// How much of all places belongs to each slot, in columns.
    fn shares(alias: &Alias) -> Vec<f64> {
        let mut shares = vec![0.0; alias.columns.len()];
        for (index, column) in alias.columns.iter().enumerate() {
            let own = f64::from(column.own) / 4_294_967_296.0;
            shares[index] += own;
            shares[usize::from(column.other)] += 1.0 - own;
        }
        shares
    }

    fn assert_exact(weights: &[u32]) {
        let mut alias = Alias::new();
        alias.build(weights);
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        for (share, &weight) in shares(&alias).iter().zip(weights) {
            let expected = f64::from(weight) / total * weights.len() as f64;
            assert!((share - expected).abs() < 1e-6, "{share} for {expected} of {weights:?}");
        }
    }

    #[test]
    fn the_shares_are_the_weights() {
        assert_exact(&[5, 1, 1]);
        assert_exact(&[1, 1, 5]);
        assert_exact(&[0, 7, 0, 3, 0]);
        assert_exact(&[1; 5]);
        assert_exact(&[u32::MAX, 1, 1, u32::MAX]);
        assert_exact(&[u32::MAX; SLOTS_MAX]);
        let mut generator = crate::hash::Generator::new(7);
        for slots in 1..200 {
            let weights: Vec<_> = (0..slots).map(|_| (generator.next() % 50) as u32).collect();
            if weights.iter().any(|&weight| weight > 0) {
                assert_exact(&weights);
            }
        }
    }

    #[test]
    fn without_weights_there_is_no_slot() {
        let mut alias = Alias::new();
        assert_eq!(alias.slot(1), None);
        alias.build(&[0, 0]);
        assert_eq!(alias.slot(u64::MAX), None);
        alias.build(&[0, 1]);
        assert_eq!([0, u64::MAX].map(|place| alias.slot(place)), [Some(1); 2]);
    }
}
