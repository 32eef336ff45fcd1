//! What the benches share: the HTTP load client, which is also the binary `load`; and what a bench
//! compares with that takes unsafe code.

pub mod load;
pub mod sys;
