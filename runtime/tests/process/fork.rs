//! Children with a channel: messages, handles, back-pressure, the end.

use crate::harness::{roles, tests};

tests! {}
roles! {}
