//! What only a process with a single thread can do, on Unix.

#[cfg(unix)]
#[path = "alone/unix.rs"]
mod unix;

fn main() {
    #[cfg(unix)]
    unix::main();
}
