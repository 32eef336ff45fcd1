//! Windows: named pipes, in which handles' tokens travel among the bytes.

pub(crate) mod alarm;
mod bell;
pub(crate) mod bootstrap;
pub(crate) mod memory;
pub(crate) mod named;
pub(crate) mod overlapped;
mod owner;
mod pipe;
mod security;

pub(crate) use bell::Bell;
pub(crate) use pipe::Socket;

/// A path is no address here, but may be written down.
pub(crate) const PATH_BYTES_MAX: usize = 247;
pub(crate) const NAMES_FROM_DIRECTORY: bool = false;

/// What a read delivers beside the bytes.
pub(crate) type ReceivedHandle = handle_passing::Handle;

pub(crate) fn into_handle(received: ReceivedHandle) -> ReceivedHandle {
    received
}
