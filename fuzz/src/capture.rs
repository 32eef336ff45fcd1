//! Output that is collected, in any parts, against a naive twin.

use runtime::process::capture::Capture;

/// Takes a limit, and then parts, each behind its length. Panics when the twin disagrees.
pub fn capture(data: &[u8]) {
    let Some((limit, mut rest)) = data.split_first() else { return };
    let bytes_max = if *limit == u8::MAX { usize::MAX } else { usize::from(*limit) };
    let mut capture = Capture::new(bytes_max);
    let mut whole = Vec::new();
    while let Some((length, after)) = rest.split_first() {
        let part;
        (part, rest) = after.split_at(after.len().min(usize::from(*length)));
        whole.extend_from_slice(part);
        assert_eq!(capture.push(part), whole.len() <= bytes_max);
        assert_eq!(capture.is_too_long(), whole.len() > bytes_max);
    }
    whole.truncate(bytes_max);
    assert_eq!(capture.into_bytes(), whole);
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpus() {
        crate::corpus::run("capture", super::capture);
    }
}
