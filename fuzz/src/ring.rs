//! Both sides of a ring, and a peer that scribbles over the memory between their steps. Until it
//! does, records arrive as they were sent; after that a side may fail, and then stays failed.

use std::collections::VecDeque;

use ipc_core::shm::ring::Violation;
use ipc_core::shm::ring::fuzzing::{Bare, Place};

/// Sixteen words: laps are short, and the largest record has 56 bytes.
const WORDS: usize = 16;

/// Each step is a byte that says what, and one or two for how much.
pub fn ring(data: &[u8]) {
    let mut ring = Bare::new(WORDS);
    let mut sent = VecDeque::new();
    let mut is_honest = true;
    let mut failed: (Option<Violation>, Option<Violation>) = (None, None);
    for step in data.chunks_exact(3).take(STEPS_MAX) {
        let [what, which, how] = *step else { continue };
        match what % 8 {
            0 | 1 => {
                let room = ring.reserve(usize::from(how) % (ring.payload_bytes_max() + 1));
                check(&mut failed.0, &room, is_honest);
            }
            2 => {
                let payload: Vec<u8> = (0..how % 57).map(|n| n ^ which).collect();
                sent.extend(ring.commit(&payload).map(|length| payload[..length].to_vec()));
            }
            3..=5 => {
                let found = if what % 8 == 3 { ring.nap(u32::from(how % 4)) } else { ring.peek() };
                check(&mut failed.1, &found, is_honest);
                assert!(!is_honest || found == Ok(!sent.is_empty()));
            }
            6 if which < 16 => match ring.attach() {
                Ok(()) => failed = (None, None),
                Err(error) => assert!(!is_honest, "{error}"),
            },
            6 => {
                let payload = ring.release();
                assert!(payload.iter().all(|payload| payload.len() <= ring.payload_bytes_max()));
                if let (true, Some(payload)) = (is_honest, payload) {
                    assert_eq!(Some(payload), sent.pop_front());
                }
            }
            _ => {
                is_honest = false;
                let place = place(which);
                ring.scribble(place, value(how, ring.look(place)));
            }
        }
    }
}

/// A side fails for a reason, and that in the same way for ever.
fn check(failed: &mut Option<Violation>, result: &Result<bool, Violation>, is_honest: bool) {
    assert!(result.is_ok() || !is_honest, "{result:?}, and nobody broke it");
    if let Some(violation) = *failed {
        assert!(*result == Err(violation), "{result:?} after {violation:?}");
    }
    *failed = failed.or(result.err());
}

fn place(which: u8) -> Place {
    match which % 32 {
        0..=5 => Place::Tail,
        6..=11 => Place::Head,
        12 => Place::ConsumerWait,
        13 => Place::ProducerWait,
        _ => Place::Word(usize::from(which / 8)),
    }
}

/// Values near what is there, near the limits, and far from both.
fn value(how: u8, now: u64) -> u64 {
    let small = u64::from(how & 31);
    match how >> 5 {
        0 => now.wrapping_add(small),
        1 => now.wrapping_sub(small),
        2 => now.wrapping_add(small * 8),
        3 => now.wrapping_sub(small * 8),
        4 => small,
        5 => u64::MAX - small,
        6 => small * 8,
        _ => 1 << (small * 2),
    }
}

/// Enough for several laps; what follows would only cost executions.
const STEPS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    #[test]
    fn corpus() {
        crate::corpus::run("ring", super::ring);
    }
}
