//! placeholder

/// Placeholder.
pub fn frame(_data: &[u8]) {}
