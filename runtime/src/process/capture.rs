//! What is kept of an output that is collected. Nothing here does any I/O.

/// The first bytes of a stream, up to a limit, however its parts are cut.
#[derive(Debug)]
pub struct Capture {
    bytes: Vec<u8>,
    bytes_max: usize,
    is_too_long: bool,
}

impl Capture {
    /// Of a stream of which nothing has come. Memory is taken for what comes, not for what may.
    #[must_use]
    pub fn new(bytes_max: usize) -> Capture {
        Capture { bytes: Vec::new(), bytes_max, is_too_long: false }
    }

    /// Keeps what fits of the next part; says whether all has fitted so far.
    pub fn push(&mut self, part: &[u8]) -> bool {
        let room = self.bytes_max - self.bytes.len();
        let fitting = part.len().min(room);
        self.bytes.extend_from_slice(&part[..fitting]);
        self.is_too_long |= fitting < part.len();
        !self.is_too_long
    }

    /// Whether more came than is kept.
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        self.is_too_long
    }

    /// What is kept.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::collection::vec;
    use proptest::prelude::*;

    /// All of it in one piece, cut off at the end.
    fn naive(parts: &[Vec<u8>], bytes_max: usize) -> (Vec<u8>, bool) {
        let mut whole = parts.concat();
        let is_too_long = whole.len() > bytes_max;
        whole.truncate(bytes_max);
        (whole, is_too_long)
    }

    proptest! {
        #[test]
        fn keeps_exactly_the_first_bytes(
            parts in vec(vec(any::<u8>(), 0..9), 0..9),
            bytes_max in prop_oneof![0_usize..40, Just(usize::MAX)],
        ) {
            let mut capture = Capture::new(bytes_max);
            let mut came = Vec::new();
            for part in &parts {
                came.push(part.clone());
                let (kept, is_too_long) = naive(&came, bytes_max);
                prop_assert_eq!(capture.push(part), !is_too_long);
                prop_assert_eq!(capture.is_too_long(), is_too_long);
                prop_assert_eq!(&capture.bytes, &kept);
                let came_bytes = came.concat().len().max(8);
                prop_assert!(capture.bytes.capacity() <= 2 * came_bytes, "memory for what came");
            }
            let (kept, _) = naive(&parts, bytes_max);
            prop_assert_eq!(capture.into_bytes(), kept);
        }
    }

    #[test]
    fn the_limit_itself_fits() {
        for (bytes, fits) in [(3, true), (4, true), (5, false)] {
            let mut capture = Capture::new(4);
            assert_eq!(capture.push(&vec![7; bytes]), fits, "{bytes}");
            assert_eq!(capture.into_bytes().len(), bytes.min(4));
        }
    }

    #[test]
    fn what_did_not_fit_is_never_made_up_for() {
        let mut capture = Capture::new(1);
        assert!(!capture.push(b"ab"));
        assert!(!capture.push(b""));
        assert_eq!(capture.into_bytes(), b"a");
    }
}
