//! The terminal that this process was started from.

use std::fs::File;

use nix::unistd::{getpgrp, tcgetpgrp};

/// Whether this process has a terminal, and is among those that it reads and interrupts.
pub(crate) fn is_in_foreground() -> bool {
    let Ok(terminal) = File::open("/dev/tty") else { return false };
    tcgetpgrp(&terminal) == Ok(getpgrp())
}
