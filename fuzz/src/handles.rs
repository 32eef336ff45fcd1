//! placeholder

/// Placeholder.
pub fn handles(_data: &[u8]) {}
