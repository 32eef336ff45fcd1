//! Commands whose output is collected, blocking or not.

use crate::harness::{roles, tests};

tests! {}
roles! {}
