//! What a master and a worker say to each other, as any bytes: refused, or the only way to write
//! what they say.

use runtime::machine::{FromWorker, ToWorker};

/// Reads the bytes as a frame's kind and payload, both ways. Panics if what is read would be
/// written otherwise.
pub fn protocol(data: &[u8]) {
    let [kind, payload @ ..] = data else { return };
    if let Ok(message) = FromWorker::decode(*kind, payload) {
        assert_eq!(message.encode(), (*kind, payload.to_vec()), "{message:?}");
    }
    if let Ok(message) = ToWorker::decode(*kind, payload) {
        assert_eq!(message.encode(), (*kind, payload.to_vec()), "{message:?}");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpus() {
        crate::corpus::run("protocol", super::protocol);
    }
}
