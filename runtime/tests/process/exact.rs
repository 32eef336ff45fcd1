//! What a child has: descriptors, signals, environment; nothing that it was not given.

use crate::harness::{roles, tests};

tests! {}
roles! {}
