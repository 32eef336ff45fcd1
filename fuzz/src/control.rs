//! Control data as any bytes: the parser of handle passing, against a naive twin.

use handle_passing::fuzzing;

/// Feeds the parser. Panics when a twin disagrees.
pub fn control(control: &[u8]) {
    let parsed = fuzzing::parse(control);
    assert!(parsed.descriptors.len() * 4 + parsed.sets * 16 <= control.len(), "beyond the end");
    assert!(parsed.descriptors.iter().all(|number| *number >= 0), "no descriptor");
    assert_eq!(parsed, naive_parse(control));
}

/// The same by arithmetic that can't overflow, byte by byte, for 64-bit Linux.
fn naive_parse(control: &[u8]) -> fuzzing::Parsed {
    let int = |at: usize| i32::from_ne_bytes(control[at..at + 4].try_into().unwrap());
    let mut parsed = fuzzing::Parsed::default();
    let mut start = 0;
    while start + 16 <= control.len() {
        let claimed = u64::from_ne_bytes(control[start..start + 8].try_into().unwrap());
        let is_too_short = claimed < 16;
        let is_too_long = u128::from(claimed) > (control.len() - start) as u128;
        let end = match (is_too_short, is_too_long) {
            (true, _) => start + 16,
            (_, true) => control.len(),
            _ => start + usize::try_from(claimed).unwrap(),
        };
        let is_rights = (int(start + 8), int(start + 12)) == (1, 1);
        let is_pidfd = (int(start + 8), int(start + 12)) == (1, 4);
        parsed.sets += usize::from(is_rights);
        parsed.is_unexpected |= !is_rights || is_too_short || is_too_long;
        let mut at = start + 16;
        while (is_rights || is_pidfd) && at + 4 <= end {
            match int(at) {
                number if number < 0 => parsed.is_unexpected = true,
                number => parsed.descriptors.push(number),
            }
            at += 4;
        }
        parsed.is_unexpected |= is_rights && at != end;
        start = end.next_multiple_of(8);
    }
    parsed
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpus() {
        crate::corpus::run("control", super::control);
    }
}
