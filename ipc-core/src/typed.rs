use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Channel, Handles, Message, RecvError, SendError, TryRecvError, TrySendError};

/// The kind of all messages of a typed channel.
const KIND: u8 = 0;

/// A channel that carries values: it sends `Tx` and receives `Rx`, with handles beside them.
///
/// The values are written in [postcard](https://docs.rs/postcard)'s format, which is short and does
/// not describe itself: both sides must agree on the types. Handles are no part of a value: they
/// come beside it, by place.
///
/// A value is borrowed for sending, and one that does not go stays with its owner; the handles come
/// back in the error.
///
/// # Hostile peers
///
/// A payload that is no `Rx`, or is one and goes on, is a [`TypedRecvError::Decode`], after which
/// the channel is as good as before. What a peer can do depends on the type, though:
///
/// * A value may need more memory than its payload has bytes, by the size of its smallest part: an
///   empty `String` is one byte there and 24 here. [`Limits::payload_bytes_max`] bounds both.
/// * A type that contains itself (`enum List { End, Node(Box<List>) }`) is read by recursion, as
///   deep as the payload is long, and may overflow the stack, which ends the process.
/// * A sequence whose elements take no bytes (`Vec<()>`) may claim any length, and be read for
///   ever.
///
/// Don't receive types of the last two sorts from a peer that you do not trust.
///
/// [`Limits::payload_bytes_max`]: crate::Limits::payload_bytes_max
///
/// # Examples
///
/// ```
/// use std::net::{TcpListener, UdpSocket};
/// use std::time::{Duration, Instant};
///
/// use ipc_core::{Channel, Typed};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum Request {
///     Serve { name: String, workers: u16 },
/// }
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct Done(u32);
///
/// let (ours, theirs) = Channel::pair()?;
/// let mut client: Typed<Request, Done> = Typed::new(ours);
/// let mut server: Typed<Done, Request> = Typed::new(theirs);
/// let deadline = Some(Instant::now() + Duration::from_secs(5));
///
/// let request = Request::Serve { name: "http".into(), workers: 4 };
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// client.send_deadline_with(&request, vec![listener], deadline)?;
///
/// let (Request::Serve { name, workers }, mut handles) = server.recv_deadline(deadline)?;
/// assert_eq!((name.as_str(), workers), ("http", 4));
/// assert!(handles.take_as::<UdpSocket>(0).is_err(), "that is something else, and stays");
/// let listener = handles.take_as::<TcpListener>(0)?;
/// server.try_send(&Done(1))?;
///
/// assert_eq!(client.recv_deadline(deadline)?.0, Done(1));
/// # drop(listener);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Typed<Tx, Rx = Tx> {
    channel: Channel,
    types: PhantomData<fn(Tx) -> Rx>,
}

/// Why a value was not sent. `E` is the error of the channel.
#[derive(Debug)]
pub enum TypedSendError<E> {
    /// The value can't be written.
    Encode {
        /// Why.
        error: CodecError,
        /// What was to go with the value.
        handles: Handles,
    },
    /// The channel did not take it. A message that comes back holds the value as bytes, and
    /// [`Typed::channel_mut`] sends it as it is.
    Channel(E),
}

/// Why there is no value. `E` is the error of the channel.
#[derive(Debug)]
pub enum TypedRecvError<E> {
    /// A message came that is no such value. The channel goes on.
    Decode {
        /// Why.
        error: CodecError,
        /// What came.
        message: Message,
    },
    /// The channel has no message.
    Channel(E),
}

/// What is wrong with a value that shall be written, or with bytes that should be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecError(Codec);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Codec {
    Postcard(postcard::Error),
    Trailing { bytes: usize },
    Kind { found: u8 },
}

impl<Tx: Serialize, Rx: DeserializeOwned> Typed<Tx, Rx> {
    /// Values over this channel. All its messages are values then, on both sides.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { channel, types: PhantomData }
    }

    /// Sends a value without handles, see [`try_send_with`](Self::try_send_with).
    ///
    /// # Errors
    ///
    /// Those of [`try_send_with`](Self::try_send_with).
    pub fn try_send(&mut self, value: &Tx) -> Result<(), TypedSendError<TrySendError>> {
        self.try_send_with(value, Handles::default())
    }

    /// Sends a value and handles, or queues what the socket does not take of it, see
    /// [`Channel::try_send`].
    ///
    /// # Errors
    ///
    /// When the value can't be written, or the channel does not take it. The handles come back.
    pub fn try_send_with(
        &mut self,
        value: &Tx,
        handles: impl Into<Handles>,
    ) -> Result<(), TypedSendError<TrySendError>> {
        let message = encode(value, handles.into())?;
        self.channel.try_send(message).map_err(TypedSendError::Channel)
    }

    /// Sends a value without handles; blocks until the deadline at most, see
    /// [`send_deadline_with`](Self::send_deadline_with).
    ///
    /// # Errors
    ///
    /// Those of [`send_deadline_with`](Self::send_deadline_with).
    pub fn send_deadline(
        &mut self,
        value: &Tx,
        deadline: Option<Instant>,
    ) -> Result<(), TypedSendError<SendError>> {
        self.send_deadline_with(value, Handles::default(), deadline)
    }

    /// Sends a value and handles; blocks until the deadline at most, see
    /// [`Channel::send_deadline`].
    ///
    /// # Errors
    ///
    /// When the value can't be written, or did not go as a whole. The handles come back as long as
    /// no part of it went.
    pub fn send_deadline_with(
        &mut self,
        value: &Tx,
        handles: impl Into<Handles>,
        deadline: Option<Instant>,
    ) -> Result<(), TypedSendError<SendError>> {
        let message = encode(value, handles.into())?;
        self.channel.send_deadline(message, deadline).map_err(TypedSendError::Channel)
    }

    /// The next value, and the handles that came with it, if it is there, see
    /// [`Channel::try_recv`].
    ///
    /// # Errors
    ///
    /// [`TypedRecvError::Decode`] for a message that is no such value, which is used up by that;
    /// those of the channel.
    pub fn try_recv(&mut self) -> Result<(Rx, Handles), TypedRecvError<TryRecvError>> {
        decode(self.channel.try_recv().map_err(TypedRecvError::Channel)?)
    }

    /// The next value, and the handles that came with it; blocks until the deadline at most, see
    /// [`Channel::recv_deadline`].
    ///
    /// # Errors
    ///
    /// Those of [`try_recv`](Self::try_recv), and [`RecvError::TimedOut`].
    pub fn recv_deadline(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<(Rx, Handles), TypedRecvError<RecvError>> {
        decode(self.channel.recv_deadline(deadline).map_err(TypedRecvError::Channel)?)
    }
}

impl<Tx, Rx> Typed<Tx, Rx> {
    /// The channel below, for all that is not about values: registering, flushing, closing.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The channel below. What is received here is lost to the values.
    pub fn channel_mut(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// The channel below.
    #[must_use]
    pub fn into_channel(self) -> Channel {
        self.channel
    }
}

impl<Tx, Rx> fmt::Debug for Typed<Tx, Rx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Typed").field(&self.channel).finish()
    }
}

/// A value as bytes, as a typed channel sends it.
///
/// # Errors
///
/// When the value can't be written: its type says so, or does not know its own length.
///
/// # Examples
///
/// ```
/// let bytes = ipc_core::to_bytes(&("three", 3_u8))?;
/// assert_eq!(ipc_core::from_bytes::<(String, u8)>(&bytes)?, ("three".into(), 3));
/// assert!(ipc_core::from_bytes::<String>(&bytes).is_err(), "something follows");
/// # Ok::<(), ipc_core::CodecError>(())
/// ```
pub fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    postcard::to_allocvec(value).map_err(|error| CodecError(Codec::Postcard(error)))
}

/// A value of bytes, as a typed channel receives it; see there for what hostile bytes can do.
///
/// # Errors
///
/// When the bytes are no such value, or are one and go on.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_value, rest)) => Err(CodecError(Codec::Trailing { bytes: rest.len() })),
        Err(error) => Err(CodecError(Codec::Postcard(error))),
    }
}

fn encode<E>(value: &impl Serialize, handles: Handles) -> Result<Message, TypedSendError<E>> {
    match to_bytes(value) {
        Ok(payload) => Ok(Message { kind: KIND, payload, handles }),
        Err(error) => Err(TypedSendError::Encode { error, handles }),
    }
}

fn decode<T: DeserializeOwned, E>(message: Message) -> Result<(T, Handles), TypedRecvError<E>> {
    let value = match message.kind {
        KIND => from_bytes(&message.payload),
        found => Err(CodecError(Codec::Kind { found })),
    };
    match value {
        Ok(value) => Ok((value, message.handles)),
        Err(error) => Err(TypedRecvError::Decode { error, message }),
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Codec::Postcard(error) => error.fmt(f),
            Codec::Trailing { bytes } => write!(f, "{bytes} bytes follow the value"),
            Codec::Kind { found } => {
                write!(f, "a message of kind {found}, where values are of kind {KIND}")
            }
        }
    }
}

impl Error for CodecError {}

impl<E: fmt::Display> fmt::Display for TypedSendError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encode { error, .. } => write!(f, "the value can't be written: {error}"),
            Self::Channel(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Display> fmt::Display for TypedRecvError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode { error, .. } => write!(f, "what came is no such value: {error}"),
            Self::Channel(error) => error.fmt(f),
        }
    }
}

impl<E: Error> Error for TypedSendError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Encode { error, .. } => Some(error),
            Self::Channel(error) => error.source(),
        }
    }
}

impl<E: Error> Error for TypedRecvError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Decode { error, .. } => Some(error),
            Self::Channel(error) => error.source(),
        }
    }
}
