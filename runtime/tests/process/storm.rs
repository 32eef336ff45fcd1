//! Thousands of children, started and ended in random ways.

use crate::harness::{roles, tests};

tests! {}
roles! {}
