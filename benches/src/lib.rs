//! What the benches share: the HTTP load client, which is also the binary `load`.
#![forbid(unsafe_code)]

pub mod load;
