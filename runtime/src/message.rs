use std::fmt;

use handle_passing::{FromHandle, Handle};
use ipc_core::{Handles, TakeHandleError};

/// A message between the master's program and a worker, or between workers: bytes and handles.
///
/// # Examples
///
/// ```
/// use std::net::TcpListener;
/// use runtime::Message;
///
/// let mut message = Message::new("serve this").with_handle(TcpListener::bind("127.0.0.1:0")?);
/// assert_eq!(message.bytes, b"serve this");
/// // The receiver says what it expects, and the system is asked whether it is that.
/// let listener = message.take_handle::<TcpListener>(0)?;
/// # drop(listener);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message<H = Handle> {
    /// The bytes; there may be none.
    pub bytes: Vec<u8>,
    /// The handles: sockets, files, whatever the system has descriptors for. What nobody takes is
    /// closed when the message is dropped.
    pub handles: Handles<H>,
}

impl<H> Message<H> {
    /// A message without handles.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Message { bytes: bytes.into(), handles: Handles::default() }
    }

    /// The message with one more handle.
    #[must_use]
    pub fn with_handle(mut self, handle: impl Into<H>) -> Self {
        self.handles.push(handle.into());
        self
    }
}

impl Message {
    /// Takes the handle at a place, from 0, as a type that says what it is, after asking the system
    /// whether it is that. The other handles keep their places.
    ///
    /// # Errors
    ///
    /// When there is no handle at that place, or it is something else, whatever its sender has
    /// claimed: then it stays where it is.
    pub fn take_handle<T: FromHandle>(&mut self, index: usize) -> Result<T, TakeHandleError> {
        self.handles.take_as(index)
    }
}

/// # Values
///
/// With the feature `typed`, a message is made of any value that [serde](https://serde.rs) can
/// write, in postcard's format. Both sides must agree on the type.
#[cfg(feature = "typed")]
impl<H> Message<H> {
    /// A message that is a value, without handles.
    ///
    /// ```
    /// use runtime::Message;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Debug, PartialEq, Serialize, Deserialize)]
    /// enum Order {
    ///     Forget { user: u64 },
    ///     ForgetAll,
    /// }
    ///
    /// let message: Message = Message::encode(&Order::Forget { user: 17 })?;
    /// assert_eq!(message.decode::<Order>()?, Order::Forget { user: 17 });
    /// # Ok::<(), runtime::CodecError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When the value can't be written.
    pub fn encode<T>(value: &T) -> Result<Self, ipc_core::CodecError>
    where
        T: serde::Serialize + ?Sized,
    {
        ipc_core::to_bytes(value).map(Message::new)
    }

    /// The value that the message is; [`ipc_core::Typed`] says what a hostile sender can do with
    /// some types.
    ///
    /// # Errors
    ///
    /// When the bytes are no such value, or are one and go on.
    pub fn decode<T: serde::de::DeserializeOwned>(&self) -> Result<T, ipc_core::CodecError> {
        ipc_core::from_bytes(&self.bytes)
    }
}

impl<H> From<Vec<u8>> for Message<H> {
    fn from(bytes: Vec<u8>) -> Self {
        Message::new(bytes)
    }
}

impl<H> From<String> for Message<H> {
    fn from(text: String) -> Self {
        Message::new(text)
    }
}

impl<H> From<&str> for Message<H> {
    fn from(text: &str) -> Self {
        Message::new(text)
    }
}

/// The beginning of the bytes says enough.
impl<H: fmt::Debug> fmt::Debug for Message<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES: usize = 32;
        let shown = &self.bytes[..self.bytes.len().min(SHOWN_BYTES)];
        f.debug_struct("Message")
            .field("length", &self.bytes.len())
            .field("bytes", &format_args!("\"{}\"", shown.escape_ascii()))
            .field("handles", &self.handles)
            .finish()
    }
}
