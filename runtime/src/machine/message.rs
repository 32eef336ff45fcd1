//! What master and workers say to each other, and its bytes.
//!
//! A message is one frame of the channel: the frame's kind is the variant, its payload the fields,
//! as `codec` writes them.

use std::time::Duration;

pub use super::codec::DecodeError;
use super::codec::{Reader, Writer};
use crate::address::Address;
use crate::event::WorkerId;
use crate::listen::{Dispatch, ListenOptions};

/// The version of this protocol; both sides must be of the same.
pub(crate) const PROTOCOL_VERSION: u16 = 1;

/// How much of a failure's reason is sent, in bytes.
const REASON_BYTES_MAX: usize = 1024;

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
        /// What it joins, or why it does not.
        result: Result<Joined, ListenFailure>,
    },
    /// A connection may wait at a shared listener that nobody else was woken for.
    Look {
        /// The listener's number.
        listener: u32,
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

/// Why a worker does not get a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenFailure {
    /// The number of the error that it is most like.
    pub errno: i32,
    /// What went wrong, and what to do about it; at most 1024 bytes of it are sent.
    pub reason: String,
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
    /// It wants to end, and not to be replaced. The answer is [`ToWorker::Stop`].
    Disconnect,
    /// It can't take what waits at this shared listener; somebody else may.
    Passed {
        /// The listener's number.
        listener: u32,
    },
}

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
            ToWorker::Listening { request, result: Err(failure) } => {
                out.u32(*request);
                out.0.extend(failure.errno.to_le_bytes());
                out.text(&failure.reason, REASON_BYTES_MAX);
                3
            }
            ToWorker::Stop { take_rest } => {
                out.0.push(u8::from(*take_rest));
                4
            }
            ToWorker::Look { listener } => {
                out.u32(*listener);
                5
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
                result: Err(ListenFailure {
                    errno: i32::from_le_bytes(input.array()?),
                    reason: input.text(REASON_BYTES_MAX)?,
                }),
            },
            4 => ToWorker::Stop { take_rest: input.bool()? },
            5 => ToWorker::Look { listener: input.u32()? },
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
            FromWorker::Disconnect => 135,
            FromWorker::Passed { listener } => {
                out.u32(*listener);
                132
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
            135 => FromWorker::Disconnect,
            132 => FromWorker::Passed { listener: input.u32()? },
            _ => return Err(DecodeError),
        };
        input.end(message)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, SocketAddrV6};

    use proptest::prelude::*;

    use super::*;
    use crate::address::Inherited;

    fn socket_address() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
            any::<([u8; 16], u16, u32, u32)>().prop_map(|(ip, port, flow, scope)| {
                SocketAddrV6::new(ip.into(), port, flow, scope).into()
            }),
        ]
    }

    fn address() -> impl Strategy<Value = Address> {
        let systemd = |(name, index)| Address::Inherited(Inherited::Systemd { name, index });
        prop_oneof![
            socket_address().prop_map(Address::Tcp),
            socket_address().prop_map(Address::Udp),
            "[a-z/.]{1,100}".prop_map(|path| Address::Unix(path.into())),
            "[a-zü@/]{1,50}".prop_map(Address::Abstract),
            any::<u32>().prop_map(|number| Address::Inherited(Inherited::Number(number))),
            ("[a-z.]{1,255}", any::<u16>()).prop_map(systemd),
        ]
    }

    fn dispatch() -> impl Strategy<Value = Dispatch> {
        proptest::sample::select(Dispatch::ALL.to_vec())
    }

    fn options() -> impl Strategy<Value = ListenOptions> {
        let others = any::<(Option<u32>, Option<bool>)>();
        (proptest::option::of(dispatch()), others).prop_map(|(dispatch, (backlog, only_v6))| {
            ListenOptions { dispatch, backlog, only_v6, exclusive: false }
        })
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
            (any::<(u32, i32)>(), ".{0,99}").prop_map(|((request, errno), reason)| {
                ToWorker::Listening { request, result: Err(ListenFailure { errno, reason }) }
            }),
            any::<bool>().prop_map(|take_rest| ToWorker::Stop { take_rest }),
            any::<u32>().prop_map(|listener| ToWorker::Look { listener }),
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
            Just(FromWorker::Disconnect),
            any::<u32>().prop_map(|listener| FromWorker::Passed { listener }),
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
            // None of a message without fields.
            let cut = bytes.split_last().map(|(_, rest)| rest.to_vec());
            bytes.push(0);
            prop_assert_eq!(FromWorker::decode(kind, &bytes), Err(DecodeError));
            if let Some(Ok(shorter)) = cut.map(|cut| FromWorker::decode(kind, &cut)) {
                let FromWorker::Listen { address, .. } = shorter else { panic!("{shorter:?}") };
                let is_text = !matches!(
                    address,
                    Address::Tcp(_) | Address::Udp(_) | Address::Inherited(Inherited::Number(_))
                );
                prop_assert!(is_text);
            }
        }

        #[test]
        fn a_long_reason_is_cut_at_a_character(reason in "[aü€]{0,2000}") {
            let failure = ListenFailure { errno: 1, reason: reason.clone() };
            let (kind, bytes) = ToWorker::Listening { request: 0, result: Err(failure) }.encode();
            match ToWorker::decode(kind, &bytes) {
                Ok(ToWorker::Listening { result: Err(failure), .. }) => {
                    prop_assert!(reason.starts_with(&failure.reason));
                    prop_assert!(failure.reason.len() + 3 > REASON_BYTES_MAX.min(reason.len()));
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
