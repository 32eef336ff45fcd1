//! The frame decoder against a naive twin, whatever the bytes and however they are split.

use ipc_core::frame::{Decoder, Frame, HEADER_BYTES, Header, Pending};
use ipc_core::{Limits, ProtocolError};

type Decoded = (Vec<Frame>, Result<Pending, ProtocolError>);

/// The first byte chooses the limits and a split, the second what stands in front of the rest,
/// which is a stream of frames, or anything else.
pub fn frame(data: &[u8]) {
    let [choice, lead, rest @ ..] = data else { return };
    let limits = match choice % 4 {
        0 => Limits { payload_bytes_max: 10, handles_per_message_max: 2, ..Limits::default() },
        1 => Limits { payload_bytes_max: 9 * LEAD_BYTES as usize, ..Limits::default() },
        _ => Limits::default(),
    };
    // A long frame takes another path than a short one, and takes longer, so that most inputs have
    // none.
    let lead_bytes = u32::from(lead.saturating_sub(240)) * LEAD_BYTES;
    let mut stream = Vec::new();
    if lead_bytes > 0 {
        let header = Header { kind: *lead, handles: 0, body_bytes: lead_bytes };
        stream.extend_from_slice(&header.encode());
        stream.extend((0..lead_bytes).map(|n| u8::try_from(n % 251).expect("less than 251")));
    }
    stream.extend(rest.iter().take(REST_BYTES_MAX));

    let expected = decode_naively(&stream, &limits);
    let one_by_one = if lead_bytes == 0 { 1 } else { 997 };
    let sizes = [usize::MAX, HEADER_BYTES, HEADER_BYTES + 1, 1 + usize::from(*choice), one_by_one];
    let puts: [Put; 3] = [to_spare, to_room, to_room_for_packets];
    let ways = sizes.iter().flat_map(|size| puts.map(|put| (*size, put)));
    // A fuzzer finds each way by itself.
    let (skipped, taken) = if cfg!(fuzzing) { (usize::from(choice / 4) % 15, 1) } else { (0, 15) };
    for (size, put) in ways.skip(skipped).take(taken) {
        assert_eq!(decode(&stream, limits, size, put), expected, "in parts of {size} bytes");
    }
    let mut rest = stream.as_slice();
    for frame in &expected.0 {
        let header = rest.strip_prefix(frame.header.encode().as_slice());
        let body = header.and_then(|rest| rest.strip_prefix(frame.body.as_slice()));
        rest = body.expect("decoding and encoding gives the same bytes");
    }
}

fn decode(mut stream: &[u8], limits: Limits, size: usize, put: Put) -> Decoded {
    let mut decoder = Decoder::new(limits);
    let mut frames = Vec::new();
    loop {
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next_frame(), Err(error), "a failure stays");
                    return (frames, Err(error));
                }
            }
        }
        if stream.is_empty() {
            return (frames, Ok(decoder.pending()));
        }
        let length = put(&mut decoder, &stream[..stream.len().min(size)]);
        assert!(length > 0, "there is room for more");
        decoder.received(length);
        stream = &stream[length..];
    }
}

/// Puts bytes where the next ones belong, says how many found room.
type Put = fn(&mut Decoder, &[u8]) -> usize;

fn to_spare(decoder: &mut Decoder, bytes: &[u8]) -> usize {
    let spare = decoder.spare();
    let length = spare.len().min(bytes.len());
    spare[..length].copy_from_slice(&bytes[..length]);
    length
}

fn to_room(decoder: &mut Decoder, bytes: &[u8]) -> usize {
    decoder.room(false).put(bytes)
}

fn to_room_for_packets(decoder: &mut Decoder, bytes: &[u8]) -> usize {
    decoder.room(true).put(bytes)
}

/// Reads the wire format as it is documented, from a stream that is there as a whole.
fn decode_naively(mut stream: &[u8], limits: &Limits) -> Decoded {
    let mut frames = Vec::new();
    loop {
        let [version, kind, handles, reserved, a, b, c, d, rest @ ..] = stream else {
            let pending = if stream.is_empty() { Pending::Nothing } else { Pending::Header };
            return (frames, Ok(pending));
        };
        let bytes = u32::from_le_bytes([*a, *b, *c, *d]);
        let error = if *version != 1 {
            Some(ProtocolError::Version { found: *version })
        } else if *reserved != 0 {
            Some(ProtocolError::Reserved { found: *reserved })
        } else if bytes < u32::from(*handles) {
            Some(ProtocolError::KindsMissing { handles: *handles })
        } else if (bytes - u32::from(*handles)) as usize > limits.payload_bytes_max {
            let (bytes, max) = (bytes - u32::from(*handles), limits.payload_bytes_max);
            Some(ProtocolError::PayloadTooLarge { bytes, max })
        } else if usize::from(*handles) > limits.handles_per_message_max {
            let max = limits.handles_per_message_max;
            Some(ProtocolError::TooManyHandles { handles: *handles, max })
        } else {
            None
        };
        if let Some(error) = error {
            return (frames, Err(error));
        }
        let header = Header { kind: *kind, handles: *handles, body_bytes: bytes };
        let Some((body, rest)) = rest.split_at_checked(bytes as usize) else {
            return (frames, Ok(Pending::Body(header)));
        };
        frames.push(Frame { header, body: body.to_vec() });
        stream = rest;
    }
}

/// A few of these are longer than what a decoder reads at once, which is little for a fuzzer.
const LEAD_BYTES: u32 = if cfg!(fuzzing) { 62 } else { 8_000 };
/// Keeps one input from taking too long.
const REST_BYTES_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    #[test]
    fn corpus() {
        crate::corpus::run("frame", super::frame);
    }
}
