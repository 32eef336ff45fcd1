//! Runs a body under `cargo test`: on its committed corpus, and on mutations of that.

use std::fs;
use std::path::Path;

/// Runs `body` on every file of `corpus/NAME`, of which there must be one at least, and then on
/// [`MUTATIONS`] pseudo-random mutations of them, each time the same.
pub(crate) fn run(name: &str, body: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut paths: Vec<_> = fs::read_dir(&directory)
        .unwrap_or_else(|e| panic!("{}: {e}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no files", directory.display());

    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    for (path, seed) in paths.iter().zip(&seeds) {
        report_on_panic(seed, || path.display().to_string(), body);
    }
    let mut random = Random(SEED);
    for number in 0..MUTATIONS {
        let data = mutation(&seeds, &mut random);
        report_on_panic(&data, || format!("mutation {number} of {name}"), body);
    }
}

/// A seed with a few changes: bits, bytes, pieces of other seeds, its end.
fn mutation(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut data = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(data.len() + 1);
        match random.below(5) {
            0 => data.truncate(at),
            1 => data.insert(at, random.byte()),
            2 => {
                let other = &seeds[random.below(seeds.len())];
                let start = random.below(other.len() + 1);
                data.splice(at..at, other[start..].iter().copied());
            }
            3 if at < data.len() => data[at] ^= 1 << random.below(8),
            _ if at < data.len() => data[at] = random.byte(),
            _ => data.push(random.byte()),
        }
    }
    data
}

/// Runs `body`; if it panics, says on what.
fn report_on_panic(data: &[u8], name: impl Fn() -> String, body: fn(&[u8])) {
    struct Report<'a, N: Fn() -> String>(&'a [u8], N);

    impl<N: Fn() -> String> Drop for Report<'_, N> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the finding is {}: {:?}", self.1(), self.0);
            }
        }
    }

    let _report = Report(data, name);
    body(data);
}

/// Marsaglia's xorshift: pseudo-random, and small.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % bound
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }
}

const MUTATIONS: usize = 2_000;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
