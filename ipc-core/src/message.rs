use std::error::Error;
use std::fmt;

use handle_passing::{FromHandle, FromHandleError, Handle, HandleKind};

/// What a channel carries: a kind, bytes, and handles.
///
/// `H` is the type of the handles: the system's own in production, integers in tests of what is
/// above a channel.
///
/// # Examples
///
/// ```
/// use std::fs::File;
/// use std::net::UdpSocket;
/// use ipc_core::Message;
///
/// let sent = Message::new(4, "a log and a socket")
///     .with_handle(File::open("/dev/null")?)
///     .with_handle(UdpSocket::bind("127.0.0.1:0")?);
///
/// // The other side says what it expects, and the system is asked whether it is that.
/// let mut received: Message = sent;
/// let socket = received.take_handle::<UdpSocket>(1)?;
/// let log = received.take_handle::<File>(0)?;
/// assert!(received.take_handle::<File>(0).is_err(), "it was taken already");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Message<H = Handle> {
    /// What the message is about. The numbering is the user's own: it is carried, not looked at.
    pub kind: u8,
    /// The bytes; there may be none.
    pub payload: Vec<u8>,
    /// The handles, in the order in which the other side finds them. What nobody takes is closed
    /// when the message is dropped.
    pub handles: Handles<H>,
}

impl<H> Message<H> {
    /// A message without handles.
    #[must_use]
    pub fn new(kind: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, payload: payload.into(), handles: Handles::default() }
    }

    /// The message with one more handle.
    #[must_use]
    pub fn with_handle(mut self, handle: impl Into<H>) -> Self {
        self.handles.push(handle.into());
        self
    }
}

/// The beginning of the payload says enough.
impl<H: fmt::Debug> fmt::Debug for Message<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES: usize = 32;
        let shown = &self.payload[..self.payload.len().min(SHOWN_BYTES)];
        f.debug_struct("Message")
            .field("kind", &self.kind)
            .field("payload_bytes", &self.payload.len())
            .field("payload", &format_args!("\"{}\"", shown.escape_ascii()))
            .field("handles", &self.handles)
            .finish()
    }
}

impl Message {
    /// Takes the handle at a place, from 0, as a type that says what it is, after asking the
    /// system whether it is that. The other handles keep their places.
    ///
    /// # Errors
    ///
    /// When there is no handle at that place, or it is something else, whatever its sender has
    /// claimed: then it stays where it is.
    pub fn take_handle<T: FromHandle>(&mut self, index: usize) -> Result<T, TakeHandleError> {
        self.handles.take_as(index)
    }
}

/// The handles of a message, each at its place until it is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handles<H = Handle>(Vec<Option<H>>);

impl<H> Handles<H> {
    /// How many there are that nobody has taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there are none, or none any more.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The handle at a place, from 0, unless it was taken.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&H> {
        self.0.get(index)?.as_ref()
    }

    /// Takes the handle at a place, from 0; the others keep theirs. Nothing is checked, see
    /// [`take_as`](Handles::take_as).
    pub fn take(&mut self, index: usize) -> Option<H> {
        self.0.get_mut(index)?.take()
    }

    /// Adds a handle at the end.
    pub fn push(&mut self, handle: H) {
        self.0.push(Some(handle));
    }

    /// Those that nobody has taken, in order.
    pub fn iter(&self) -> impl Iterator<Item = &H> {
        self.0.iter().flatten()
    }
}

impl Handles {
    /// Takes the handle at a place, checked, see [`Message::take_handle`].
    ///
    /// # Errors
    ///
    /// When there is no handle at that place, or it is something else: then it stays.
    pub fn take_as<T: FromHandle>(&mut self, index: usize) -> Result<T, TakeHandleError> {
        let places = self.0.len();
        let Some(handle) = self.take(index) else {
            return Err(TakeHandleError::Missing { index, places });
        };
        handle.into_type().map_err(|error| {
            let (handle, error) = FromHandleError::into_parts(error);
            self.0[index] = Some(handle);
            TakeHandleError::Wrong(error.at(index))
        })
    }
}

impl<H> Default for Handles<H> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<H> FromIterator<H> for Handles<H> {
    fn from_iter<I: IntoIterator<Item = H>>(handles: I) -> Self {
        Self(handles.into_iter().map(Some).collect())
    }
}

impl<H, T: Into<H>> From<Vec<T>> for Handles<H> {
    fn from(handles: Vec<T>) -> Self {
        handles.into_iter().map(T::into).collect()
    }
}

impl<H> IntoIterator for Handles<H> {
    type Item = H;
    type IntoIter = std::iter::Flatten<std::vec::IntoIter<Option<H>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().flatten()
    }
}

/// What can go with a message: a handle, or in tests something that stands for one.
///
/// The kind of each travels with it, so that the other side knows what it was announced as.
pub trait Attachment {
    /// What it is announced as.
    fn kind(&self) -> HandleKind {
        HandleKind::Any
    }

    /// Takes note of what it was announced as.
    #[must_use]
    fn announced(self, _kind: HandleKind) -> Self
    where
        Self: Sized,
    {
        self
    }
}

impl Attachment for Handle {
    fn kind(&self) -> HandleKind {
        self.kind()
    }

    fn announced(self, kind: HandleKind) -> Self {
        self.announced(kind)
    }
}

impl Attachment for u32 {}

/// Why [`Message::take_handle`] gave no handle out.
#[derive(Debug)]
pub enum TakeHandleError {
    /// The message came with fewer handles, or this one was taken before.
    Missing {
        /// The place that was asked for.
        index: usize,
        /// How many handles the message came with.
        places: usize,
    },
    /// The handle is something else than was asked for, or than its sender announced.
    Wrong(handle_passing::HandleError),
}

impl fmt::Display for TakeHandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { index, places } if index < places => {
                write!(f, "handle {index} of the message was taken before")
            }
            Self::Missing { index, places } => {
                write!(f, "the message has no handle {index}: {places} came with it")
            }
            Self::Wrong(error) => error.fmt(f),
        }
    }
}

impl Error for TakeHandleError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Missing { .. } => None,
            Self::Wrong(error) => error.source(),
        }
    }
}

impl From<TakeHandleError> for std::io::Error {
    fn from(error: TakeHandleError) -> Self {
        match error {
            TakeHandleError::Wrong(error) => error.into(),
            missing @ TakeHandleError::Missing { .. } => {
                Self::new(std::io::ErrorKind::InvalidData, missing)
            }
        }
    }
}
