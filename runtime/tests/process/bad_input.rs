//! Commands that can't be carried out: each error says why, and nothing is left.

use crate::harness::{roles, tests};

tests! {}
roles! {}
