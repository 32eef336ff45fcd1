//! How a process is started: files, arguments, environment, descriptors, users, limits.

use crate::harness::{roles, tests};

tests! {}
roles! {}
