//! placeholder

/// Placeholder.
pub fn policy(_data: &[u8]) {}
