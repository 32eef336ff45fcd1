//! Tables of hashes, built anew from their definitions.

use std::cell::RefCell;
use std::collections::BTreeMap;

use scheduler::{Load, Policy, Request};

use super::Loads;

/// splitmix64's last step.
pub(crate) fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn in_range(number: u64, bound: u32) -> usize {
    usize::try_from((u128::from(number) * u128::from(bound)) >> 64).unwrap()
}

/// The slot with the highest hash.
fn favourite(key: u64, slots: impl Iterator<Item = usize>) -> Option<usize> {
    slots.max_by_key(|slot| mix(key ^ mix(*slot as u64 + 1)))
}

/// Bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

thread_local! {
    /// The points of each slot: they take long to compute, and are always the same.
    static CHAINS: RefCell<BTreeMap<usize, Vec<u32>>> = const { RefCell::new(BTreeMap::new()) };
}

fn chain(slot: usize, length: usize) -> Vec<u32> {
    CHAINS.with_borrow_mut(|chains| {
        let chain = chains.entry(slot).or_default();
        while chain.len() < length {
            let mut bytes = slot.to_string().into_bytes();
            bytes.push(0);
            bytes.extend(chain.last().unwrap_or(&0).to_le_bytes());
            chain.push(crc32(&bytes));
        }
        chain[..length].to_vec()
    })
}

/// Consistent hashing, with a bound in percent or without.
#[derive(Debug)]
pub(crate) struct NaiveRing {
    percent: Option<u128>,
    loads: Loads,
    points: Vec<(u32, usize)>,
}

impl NaiveRing {
    pub(crate) fn new(percent: Option<u128>) -> Self {
        Self { percent, loads: Loads::default(), points: Vec::new() }
    }

    fn has_room(&self, slot: usize) -> bool {
        let Some(percent) = self.percent else { return true };
        let eligible = self.loads.eligible();
        let connections = |slot: usize| u128::from(self.loads.connections(slot));
        let weight = |slot: usize| u128::from(self.loads.0[&slot].weight);
        let all: u128 = eligible.iter().map(|slot| connections(*slot)).sum();
        let weights: u128 = eligible.iter().map(|slot| weight(*slot)).sum();
        connections(slot) < (percent * (all + 1) * weight(slot)).div_ceil(100 * weights)
    }
}

impl Policy for NaiveRing {
    fn update(&mut self, slot: usize, load: Load) {
        let before = self.loads.insert(slot, load).map_or(0, |load| load.weight);
        if before != load.weight {
            self.points.retain(|(_, other)| *other != slot);
            let chain = chain(slot, 160 * load.weight as usize);
            self.points.extend(chain.into_iter().map(|place| (place, slot)));
            self.points.sort_unstable();
        }
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        let eligible: Vec<usize> =
            self.loads.eligible().into_iter().filter(|slot| self.has_room(*slot)).collect();
        let place = crc32(&request.key.to_le_bytes());
        let start = self.points.iter().position(|(point, _)| *point >= place).unwrap_or(0);
        let around = self.points[start..].iter().chain(&self.points[..start]);
        let mut slots = around.take(256).map(|(_, slot)| *slot);
        let found = slots.find(|slot| eligible.contains(slot));
        let slot = found.or_else(|| favourite(request.key, eligible.into_iter()))?;
        self.loads.place(slot);
        Some(slot)
    }

    fn name(&self) -> &'static str {
        "naive-ring"
    }
}

/// Maglev's table, built by slots that write down all their wishes first.
#[derive(Debug)]
pub(crate) struct NaiveMaglev {
    loads: Loads,
    count: u32,
    table: Vec<Option<usize>>,
}

impl NaiveMaglev {
    pub(crate) fn new(count: u32) -> Self {
        Self { loads: Loads::default(), count, table: Vec::new() }
    }

    fn build(&self) -> Vec<Option<usize>> {
        let mut table = vec![None; self.count as usize];
        let weights: Vec<(usize, u64)> = (self.loads.0.iter())
            .map(|(slot, load)| (*slot, u64::from(load.weight)))
            .filter(|(_, weight)| *weight > 0)
            .collect();
        let Some(highest) = weights.iter().map(|(_, weight)| *weight).max() else { return table };
        let mut wishes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (slot, _) in &weights {
            let hash = mix(*slot as u64 + 1);
            let (start, skip) =
                (in_range(hash, self.count), 1 + in_range(mix(hash), self.count - 1));
            let wish = |number| (start + number * skip) % self.count as usize;
            wishes.insert(*slot, (0..self.count as usize).map(wish).collect());
        }
        for turn in 1.. {
            for (slot, weight) in &weights {
                // So many entries it should have after so many turns.
                if turn * weight / highest > (turn - 1) * weight / highest {
                    let is_free = |wish: &&usize| table[**wish].is_none();
                    let Some(wish) = wishes[slot].iter().find(is_free) else { return table };
                    table[*wish] = Some(*slot);
                }
            }
        }
        table
    }
}

impl Policy for NaiveMaglev {
    fn update(&mut self, slot: usize, load: Load) {
        let before = self.loads.insert(slot, load).map_or(0, |load| load.weight);
        if before != load.weight {
            self.table.clear();
        }
    }

    fn pick(&mut self, request: &Request) -> Option<usize> {
        if self.table.is_empty() {
            self.table = self.build();
        }
        let eligible = self.loads.eligible();
        let place = in_range(mix(request.key.wrapping_add(0x9e37_79b9_7f4a_7c15)), self.count);
        let around = self.table[place..].iter().chain(&self.table[..place]);
        let found = around.take(32).flatten().find(|slot| eligible.contains(slot));
        found.copied().or_else(|| favourite(request.key, eligible.into_iter()))
    }

    fn name(&self) -> &'static str {
        "naive-maglev"
    }
}
