//! Memory that processes share, and rings of messages in it.
//!
//! * [`SharedMemory`]: any of them writes. Copies and atomics, no slices.
//! * [`ReadOnlyMemory`]: the view of one that only reads, and the only one that peers get of memory
//!   [for readers](SharedMemory::create_for_readers).
//! * [`FrozenMemory`]: nobody writes any more, so it is a slice.
//! * [`ring`]: messages from one process to another, without system calls as long as both are busy.
//!
//! All of them become [`Handle`](handle_passing::Handle)s, which go with a
//! [`Message`](crate::Message), and are again what they were in the process that takes them. A
//! handle from a peer is believed nothing: memory that could change its size, which would kill who
//! accesses it, is an error.
//!
//! Linux only, so far: elsewhere nothing can be created, and the error says so.

mod copy;
mod error;
mod memory;
pub mod ring;

pub use error::{MemoryError, OutOfBounds};
pub use memory::{FrozenMemory, ReadOnlyMemory, SharedMemory};
