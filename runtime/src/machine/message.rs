//! What master and workers say to each other, and its bytes.
//!
//! A message is one frame of the channel: the frame's kind is the variant, its payload the fields,
//! integers little-endian, an address as a tag and its parts, texts to the end of the payload.
//! Decoding is total: every byte string is a message or an error, and nothing may be left over.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use crate::address::Address;
use crate::event::WorkerId;
use crate::listen::{Dispatch, ListenOptions};

/// The version of this protocol; both sides must be of the same.
pub(crate) const PROTOCOL_VERSION: u16 = 1;

/// The longest path of a Unix-domain socket that is accepted, in bytes. The system's own limit,
/// about 100, is checked at bind.
const PATH_BYTES_MAX: usize = 4096;

/// What the master tells a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToWorker {
    /// The first message: who the worker is.
    Hello {
        /// The protocol's version.
        version: u16,
        /// The worker's own id.
        worker: WorkerId,
        /// How long it may go on by itself when the master is gone.
        drain_timeout: Duration,
    },
    /// The answer to [`FromWorker::Listen`]; comes with the mailbox's receiving end if it is `Ok`.
    Listening {
        /// The request that it answers.
        request: u32,
        /// What it joins, or the errno of the failure.
        result: Result<Joined, i32>,
    },
    /// Stop taking connections, finish what you have, exit.
    Stop {
        /// Whether to serve what waits in the mailboxes first: nobody else will.
        take_rest: bool,
    },
}

/// A listener as one worker has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The listener's number.
    pub listener: u32,
    /// What the handle is: a mailbox, or a listening socket.
    pub dispatch: Dispatch,
    /// How many connections the worker takes before it lets others go first, when it shares.
    pub weight: u32,
    /// The real address.
    pub address: Address,
}

/// What a worker tells the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromWorker {
    /// The answer to [`ToWorker::Hello`].
    Online {
        /// The protocol's version.
        version: u16,
    },
    /// It wants connections to this address.
    Listen {
        /// Its own number for this request.
        request: u32,
        /// Tells several listeners on port 0 in one worker apart; 0 for every other port.
        index: u16,
        /// How to open it, if it is not open yet.
        options: ListenOptions,
        /// The address.
        address: Address,
    },
    /// It takes no more from this listener.
    Close {
        /// The listener's number.
        listener: u32,
    },
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError;

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a message of this protocol")
    }
}

impl std::error::Error for DecodeError {}

impl ToWorker {
    /// The frame's kind and payload.
    pub fn encode(&self) -> (u8, Vec<u8>) {
        let mut out = Writer(Vec::new());
        let kind = match self {
            ToWorker::Hello { version, worker, drain_timeout } => {
                out.u16(*version);
                out.u32(u32::try_from(worker.slot).expect("slots are few"));
                out.u32(worker.generation);
                out.u64(u64::try_from(drain_timeout.as_millis()).unwrap_or(u64::MAX));
                1
            }
            ToWorker::Listening { request, result: Ok(joined) } => {
                out.u32(*request);
                out.u32(joined.listener);
                out.dispatch(joined.dispatch);
                out.u32(joined.weight);
                out.address(&joined.address);
                2
            }
            ToWorker::Listening { request, result: Err(errno) } => {
                out.u32(*request);
                out.0.extend(errno.to_le_bytes());
                3
            }
            ToWorker::Stop { take_rest } => {
                out.0.push(u8::from(*take_rest));
                4
            }
        };
        (kind, out.0)
    }

    /// Reads a frame's kind and payload.
    ///
    /// # Errors
    ///
    /// When they are no message of the master's.
    pub fn decode(kind: u8, payload: &[u8]) -> Result<ToWorker, DecodeError> {
        let mut input = Reader(payload);
        let message = match kind {
            1 => ToWorker::Hello {
                version: input.u16()?,
                worker: WorkerId {
                    slot: usize::try_from(input.u32()?).map_err(|_| DecodeError)?,
                    generation: input.u32()?,
                },
                drain_timeout: Duration::from_millis(input.u64()?),
            },
            2 => ToWorker::Listening {
                request: input.u32()?,
                result: Ok(Joined {
                    listener: input.u32()?,
                    dispatch: input.dispatch()?,
                    weight: input.u32()?,
                    address: input.address()?,
                }),
            },
            3 => ToWorker::Listening {
                request: input.u32()?,
                result: Err(i32::from_le_bytes(input.array()?)),
            },
            4 => ToWorker::Stop { take_rest: input.bool()? },
            _ => return Err(DecodeError),
        };
        input.end(message)
    }
}

impl FromWorker {
    /// The frame's kind and payload.
    pub fn encode(&self) -> (u8, Vec<u8>) {
        let mut out = Writer(Vec::new());
        let kind = match self {
            FromWorker::Online { version } => {
                out.u16(*version);
                129
            }
            FromWorker::Listen { request, index, options, address } => {
                out.u32(*request);
                out.u16(*index);
                out.options(options);
                out.address(address);
                130
            }
            FromWorker::Close { listener } => {
                out.u32(*listener);
                131
            }
        };
        (kind, out.0)
    }

    /// Reads a frame's kind and payload.
    ///
    /// # Errors
    ///
    /// When they are no message of a worker's.
    pub fn decode(kind: u8, payload: &[u8]) -> Result<FromWorker, DecodeError> {
        let mut input = Reader(payload);
        let message = match kind {
            129 => FromWorker::Online { version: input.u16()? },
            130 => FromWorker::Listen {
                request: input.u32()?,
                index: input.u16()?,
                options: input.options()?,
                address: input.address()?,
            },
            131 => FromWorker::Close { listener: input.u32()? },
            _ => return Err(DecodeError),
        };
        input.end(message)
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    fn dispatch(&mut self, dispatch: Dispatch) {
        self.0.push(match dispatch {
            Dispatch::Auto => 0,
            Dispatch::Handoff => 1,
            Dispatch::Shared => 2,
            Dispatch::Steered => 3,
        });
    }

    fn options(&mut self, options: &ListenOptions) {
        self.option(options.dispatch, Writer::dispatch);
        self.option(options.backlog, Writer::u32);
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Writer, T)) {
        self.0.push(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn address(&mut self, address: &Address) {
        match address {
            Address::Tcp(SocketAddr::V4(v4)) => {
                self.0.push(4);
                self.u16(v4.port());
                self.0.extend(v4.ip().octets());
            }
            Address::Tcp(SocketAddr::V6(v6)) => {
                self.0.push(6);
                self.u16(v6.port());
                self.0.extend(v6.ip().octets());
                self.u32(v6.flowinfo());
                self.u32(v6.scope_id());
            }
            Address::Unix(path) => {
                self.0.push(1);
                self.0.extend(path.as_os_str().as_encoded_bytes());
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(DecodeError)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(DecodeError),
        }
    }

    fn dispatch(&mut self) -> Result<Dispatch, DecodeError> {
        match self.array()? {
            [0] => Ok(Dispatch::Auto),
            [1] => Ok(Dispatch::Handoff),
            [2] => Ok(Dispatch::Shared),
            [3] => Ok(Dispatch::Steered),
            _ => Err(DecodeError),
        }
    }

    fn options(&mut self) -> Result<ListenOptions, DecodeError> {
        Ok(ListenOptions {
            dispatch: self.option(Reader::dispatch)?,
            backlog: self.option(Reader::u32)?,
        })
    }

    fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }

    fn address(&mut self) -> Result<Address, DecodeError> {
        let [tag] = self.array()?;
        match tag {
            4 => {
                let port = self.u16()?;
                let ip = Ipv4Addr::from(self.array::<4>()?);
                Ok(Address::Tcp(SocketAddr::new(IpAddr::V4(ip), port)))
            }
            6 => {
                let port = self.u16()?;
                let ip = Ipv6Addr::from(self.array::<16>()?);
                let v6 = SocketAddrV6::new(ip, port, self.u32()?, self.u32()?);
                Ok(Address::Tcp(SocketAddr::V6(v6)))
            }
            1 => {
                let bytes = std::mem::take(&mut self.0);
                if bytes.is_empty() || bytes.len() > PATH_BYTES_MAX || bytes.contains(&0) {
                    return Err(DecodeError);
                }
                crate::sys::path_from_bytes(bytes).map(Address::Unix).ok_or(DecodeError)
            }
            _ => Err(DecodeError),
        }
    }

    fn end<M>(&self, message: M) -> Result<M, DecodeError> {
        if self.0.is_empty() { Ok(message) } else { Err(DecodeError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = Address> {
        prop_oneof![
            any::<([u8; 4], u16)>().prop_map(|(ip, port)| Address::Tcp((ip, port).into())),
            any::<([u8; 16], u16, u32, u32)>().prop_map(|(ip, port, flow, scope)| {
                Address::Tcp(SocketAddrV6::new(ip.into(), port, flow, scope).into())
            }),
            "[a-z/.]{1,100}".prop_map(|path| Address::Unix(path.into())),
        ]
    }

    fn dispatch() -> impl Strategy<Value = Dispatch> {
        proptest::sample::select(Dispatch::ALL.to_vec())
    }

    fn options() -> impl Strategy<Value = ListenOptions> {
        (proptest::option::of(dispatch()), any::<Option<u32>>())
            .prop_map(|(dispatch, backlog)| ListenOptions { dispatch, backlog })
    }

    fn to_worker() -> impl Strategy<Value = ToWorker> {
        prop_oneof![
            any::<(u16, u16, u32, u32)>().prop_map(|(version, slot, generation, ms)| {
                ToWorker::Hello {
                    version,
                    worker: WorkerId { slot: slot.into(), generation },
                    drain_timeout: Duration::from_millis(ms.into()),
                }
            }),
            (any::<(u32, u32, u32)>(), dispatch(), address()).prop_map(
                |((request, listener, weight), dispatch, address)| {
                    let joined = Joined { listener, dispatch, weight, address };
                    ToWorker::Listening { request, result: Ok(joined) }
                }
            ),
            any::<(u32, i32)>()
                .prop_map(|(request, errno)| ToWorker::Listening { request, result: Err(errno) }),
            any::<bool>().prop_map(|take_rest| ToWorker::Stop { take_rest }),
        ]
    }

    fn from_worker() -> impl Strategy<Value = FromWorker> {
        prop_oneof![
            any::<u16>().prop_map(|version| FromWorker::Online { version }),
            (any::<(u32, u16)>(), options(), address()).prop_map(
                |((request, index), options, address)| {
                    FromWorker::Listen { request, index, options, address }
                }
            ),
            any::<u32>().prop_map(|listener| FromWorker::Close { listener }),
        ]
    }

    proptest! {
        #[test]
        fn messages_read_back_what_was_written(to in to_worker(), from in from_worker()) {
            let (kind, bytes) = to.encode();
            prop_assert_eq!(ToWorker::decode(kind, &bytes), Ok(to));
            let (kind, bytes) = from.encode();
            prop_assert_eq!(FromWorker::decode(kind, &bytes), Ok(from));
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(kind: u8, bytes: Vec<u8>) {
            if let Ok(message) = FromWorker::decode(kind, &bytes) {
                prop_assert_eq!(message.encode(), (kind, bytes.clone()));
            }
            if let Ok(message) = ToWorker::decode(kind, &bytes) {
                prop_assert_eq!(message.encode(), (kind, bytes));
            }
        }

        #[test]
        fn nothing_may_be_left_over(from in from_worker()) {
            let (kind, mut bytes) = from.encode();
            let cut = bytes.split_last().map(|(_, rest)| rest.to_vec()).unwrap_or_default();
            bytes.push(0);
            prop_assert_eq!(FromWorker::decode(kind, &bytes), Err(DecodeError));
            if let Ok(shorter) = FromWorker::decode(kind, &cut) {
                let is_path =
                    matches!(shorter, FromWorker::Listen { address: Address::Unix(_), .. });
                prop_assert!(is_path);
            }
        }
    }
}
