//! What happened in a run: the last part to read, all of it as one number to compare.

use std::fmt::Write;

use super::Time;

/// How many lines are kept.
const LINES_MAX: usize = 200;

/// A line, not yet written out: `{}` in its text stands for a number.
#[derive(Clone, Copy, Debug)]
struct Line {
    at: Time,
    text: &'static str,
    numbers: [u64; 3],
}

#[derive(Debug)]
pub(super) struct Trace {
    /// A ring: line n is at n modulo its size.
    lines: Vec<Line>,
    count: usize,
    digest: u64,
}

impl Trace {
    pub(super) fn new() -> Trace {
        Trace { lines: Vec::with_capacity(LINES_MAX), count: 0, digest: 0xcbf2_9ce4_8422_2325 }
    }

    pub(super) fn note(&mut self, at: Time, text: &'static str, numbers: [u64; 3]) {
        let line = Line { at, text, numbers };
        if self.count < LINES_MAX {
            self.lines.push(line);
        } else {
            self.lines[self.count % LINES_MAX] = line;
        }
        self.count += 1;
        let mut mix = |word: u64| {
            self.digest = (self.digest.rotate_left(5) ^ word).wrapping_mul(0x0100_0000_01b3);
        };
        mix(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX));
        for part in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            mix(u64::from_le_bytes(word));
        }
        numbers.into_iter().for_each(mix);
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The last lines as text.
    pub(super) fn tail(&self) -> String {
        let first = self.count.saturating_sub(LINES_MAX);
        let mut text = String::new();
        for line in (first..self.count).map(|n| &self.lines[n % LINES_MAX]) {
            let _ = write!(text, "{:>12.3} ms  ", line.at.as_secs_f64() * 1e3);
            let mut numbers = line.numbers.iter();
            for (index, part) in line.text.split("{}").enumerate() {
                if index > 0 {
                    let _ = write!(text, "{}", numbers.next().unwrap_or(&0));
                }
                text.push_str(part);
            }
            text.push('\n');
        }
        text
    }
}
