//! Segments, in which handles' tokens travel among a pipe's bytes on Windows: any bytes, split
//! anywhere, are what a naive reader of the whole finds, or are refused.

use ipc_core::fuzzing::{NoSegment, Part, SEGMENT_BYTES_MAX, Segments, write};

/// What the segments of a stream hold: bytes, and the tokens that came with the first of them.
type Taken = Vec<(Vec<u8>, Vec<Vec<u8>>)>;

/// The first byte says how the rest is split and taken.
pub fn segment(data: &[u8]) {
    let [choice, stream @ ..] = data else { return };
    let part_bytes = 1 + usize::from(choice & 15) * 7;
    let room = [usize::MAX, 1, 5, 100][usize::from(choice >> 4 & 3)];
    let (taken, verdict) = take(stream, part_bytes, room);
    let (expected, expected_verdict) = take_naively(stream);
    assert_eq!((&taken, verdict), (&expected, expected_verdict));

    // What was understood is written alike, but for the last, which may be cut.
    let mut again = Vec::new();
    for (bytes, tokens) in taken.iter().take(taken.len().saturating_sub(1)) {
        write(&mut again, bytes.len(), tokens);
        again.extend_from_slice(bytes);
    }
    assert!(stream.starts_with(&again));
}

fn take(mut stream: &[u8], part_bytes: usize, room: usize) -> (Taken, Result<bool, NoSegment>) {
    let mut segments = Segments::default();
    let mut taken: Taken = Vec::new();
    let mut is_new = true;
    loop {
        let part;
        (part, stream) = stream.split_at(stream.len().min(part_bytes));
        segments.feed(part);
        loop {
            match segments.take(room) {
                Ok(Part::Bytes(bytes, tokens)) => {
                    assert!(!bytes.is_empty() && bytes.len() <= room);
                    if is_new {
                        taken.push((Vec::new(), tokens));
                    } else {
                        assert!(tokens.is_empty(), "they come with the first byte");
                    }
                    taken.last_mut().expect("one was pushed").0.extend_from_slice(bytes);
                    is_new = segments.is_between();
                }
                Ok(Part::Nothing) => break,
                Ok(Part::End) => return (taken, Ok(true)),
                Err(error) => {
                    assert_eq!(segments.take(room), Err(error), "it stays so");
                    return (taken, Err(error));
                }
            }
        }
        if stream.is_empty() {
            return (taken, Ok(false));
        }
    }
}

/// Reads the format as it is documented, from a stream that is there as a whole; says whether it
/// ends.
fn take_naively(mut stream: &[u8]) -> (Taken, Result<bool, NoSegment>) {
    let mut taken = Vec::new();
    loop {
        let Some((header, rest)) = stream.split_first_chunk::<12>() else {
            return (taken, Ok(false));
        };
        let number = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
                as usize
        };
        let (bytes, table_bytes, handles) = (number(0), number(4), header[8]);
        let is_sound = bytes <= SEGMENT_BYTES_MAX
            && table_bytes <= 253 * (2 + 1024)
            && handles <= 253
            && header[9..] == [0; 3]
            && (bytes > 0 || handles == 0 && table_bytes == 0);
        if !is_sound {
            return (taken, Err(NoSegment));
        }
        let Some((mut table, rest)) = rest.split_at_checked(table_bytes) else {
            return (taken, Ok(false));
        };
        let mut tokens = Vec::new();
        for _ in 0..handles {
            let Some(([a, b], behind)) = table.split_first_chunk() else {
                return (taken, Err(NoSegment));
            };
            let length = usize::from(u16::from_le_bytes([*a, *b]));
            let Some((token, behind)) = behind.split_at_checked(length) else {
                return (taken, Err(NoSegment));
            };
            if length > 1024 {
                return (taken, Err(NoSegment));
            }
            tokens.push(token.to_vec());
            table = behind;
        }
        if !table.is_empty() {
            return (taken, Err(NoSegment));
        }
        if bytes == 0 {
            return (taken, Ok(true));
        }
        let (part, rest) = rest.split_at(rest.len().min(bytes));
        if !part.is_empty() {
            taken.push((part.to_vec(), tokens));
        }
        if part.len() < bytes {
            return (taken, Ok(false));
        }
        stream = rest;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpus() {
        crate::corpus::run("segment", super::segment);
    }
}
