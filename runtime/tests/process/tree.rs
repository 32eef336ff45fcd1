//! Trees of processes, and their end.

use crate::harness::{roles, tests};

tests! {}
roles! {}
