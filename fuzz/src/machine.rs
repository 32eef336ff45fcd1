//! placeholder

/// Placeholder.
pub fn machine(_data: &[u8]) {}
