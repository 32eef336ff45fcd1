//! placeholder

/// Placeholder.
pub fn inbox(_data: &[u8]) {}
