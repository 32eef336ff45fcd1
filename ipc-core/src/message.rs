use std::os::fd::OwnedFd;

/// What a channel carries: a kind, bytes, and handles.
///
/// `H` is the type of the handles: the system's own in production, integers in tests of what is
/// above a channel.
///
/// # Examples
///
/// ```
/// use std::os::fd::OwnedFd;
/// use ipc_core::Message;
///
/// let file = std::fs::File::open("/dev/null")?;
/// let message = Message::new(4, "here it is").with_handle(OwnedFd::from(file));
/// assert_eq!(message.handles.len(), 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message<H = OwnedFd> {
    /// What the message is about. The numbering is the user's own: it is carried, not looked at.
    pub kind: u8,
    /// The bytes; there may be none.
    pub payload: Vec<u8>,
    /// The handles, in the order in which the other side finds them.
    pub handles: Vec<H>,
}

impl<H> Message<H> {
    /// A message without handles.
    #[must_use]
    pub fn new(kind: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, payload: payload.into(), handles: Vec::new() }
    }

    /// The message with one more handle.
    #[must_use]
    pub fn with_handle(mut self, handle: H) -> Self {
        self.handles.push(handle);
        self
    }
}
