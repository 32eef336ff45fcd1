//! The bytes of what master and workers say about messages.
//!
//! Two kinds of frames go each way: messages, and notices about them. A message's payload is its
//! bytes, and behind them an envelope of fixed length, so that neither side has to move the bytes.
//! Integers are little-endian. Decoding is total, and nothing may be left over.
//!
//! ```text
//!   message:   bytes ...   what   peer: tag   slot   generation   id
//!                          u8           u8    u32    u32          u32
//!   notice:    what   fields ...
//! ```

use std::fmt;

use super::{Amount, Failure, Terms};
use crate::event::WorkerId;

/// The kind of a frame that carries a message to a worker.
pub const MESSAGE_TO_WORKER: u8 = 6;
/// The kind of a frame that tells a worker something about messages.
pub const NOTICE_TO_WORKER: u8 = 7;
/// The kind of a frame that carries a message from a worker.
pub const MESSAGE_FROM_WORKER: u8 = 133;
/// The kind of a frame by which a worker tells something about messages.
pub const NOTICE_FROM_WORKER: u8 = 134;

/// Length of an envelope, in bytes.
pub const ENVELOPE_BYTES: usize = 14;

/// Bytes that are no envelope, or no notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameError;

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a frame about messages")
    }
}

impl std::error::Error for FrameError {}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It wants no reply.
    Note,
    /// It wants a reply, under this number of the asking side's.
    Request(u32),
    /// It replies to the request of this number.
    Reply(u32),
}

/// The other end of a message: its sender on the way to a worker, its receiver on the way from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The master's program.
    Master,
    /// A worker.
    Worker(WorkerId),
    /// Whichever worker is in this slot; only on the way from a worker.
    Slot(usize),
    /// Every other worker; only of notes, and only on the way from a worker.
    Others,
}

/// What stands behind the bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What it is.
    pub what: What,
    /// From whom, or for whom.
    pub peer: Peer,
}

/// The two windows of each direction: replies have their own, so that an application that asks
/// gets its answer, however many messages wait that it does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Notes and requests.
    Messages,
    /// Replies.
    Replies,
}

/// Something about messages, on either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// What may be sent; the first that a worker hears about messages. Only to a worker.
    Open {
        /// The limits on messages.
        terms: Terms,
        /// The credit to begin with, for each lane.
        credit: [Amount; 2],
    },
    /// So much was taken, and may be sent again.
    Credit {
        /// Of which window.
        lane: Lane,
        /// How much.
        amount: Amount,
    },
    /// A request of the worker's will get no reply. Only to a worker.
    Failed {
        /// The request's number.
        request: u32,
        /// Why.
        failure: Failure,
    },
    /// A request of its own is given up: nobody waits for the reply. Only from a worker.
    Cancel {
        /// The request's number.
        request: u32,
    },
    /// A request that it was asked will get no reply from it. Only from a worker.
    Unanswered {
        /// Who has asked: the master's program if it is `None`.
        asker: Option<WorkerId>,
        /// The asker's number for the request.
        request: u32,
    },
}

impl Lane {
    /// Both lanes, each at its index.
    pub const ALL: [Lane; 2] = [Lane::Messages, Lane::Replies];

    /// Its index.
    pub fn index(self) -> usize {
        match self {
            Lane::Messages => 0,
            Lane::Replies => 1,
        }
    }
}

impl Envelope {
    /// The window that the message needs credit of.
    pub fn lane(&self) -> Lane {
        match self.what {
            What::Note | What::Request(_) => Lane::Messages,
            What::Reply(_) => Lane::Replies,
        }
    }

    /// Puts it behind the bytes of a message.
    pub fn append(&self, payload: &mut Vec<u8>) {
        let (what, id) = match self.what {
            What::Note => (0, 0),
            What::Request(id) => (1, id),
            What::Reply(id) => (2, id),
        };
        let (tag, slot, generation) = match self.peer {
            Peer::Master => (0, 0, 0),
            Peer::Worker(worker) => (1, worker.slot, worker.generation),
            Peer::Slot(slot) => (2, slot, 0),
            Peer::Others => (3, 0, 0),
        };
        payload.reserve_exact(ENVELOPE_BYTES);
        payload.extend([what, tag]);
        // A slot that is beyond all slots is nobody's, as it was.
        payload.extend(u32::try_from(slot).unwrap_or(u32::MAX).to_le_bytes());
        payload.extend(generation.to_le_bytes());
        payload.extend(id.to_le_bytes());
    }

    /// Takes it off the payload of a frame, of which the message's bytes are left.
    ///
    /// # Errors
    ///
    /// When no envelope is there, and when it is one that does not go to a worker, or not from one.
    pub fn split_off(payload: &mut Vec<u8>, to_worker: bool) -> Result<Envelope, FrameError> {
        let (bytes, envelope) = payload.split_last_chunk().ok_or(FrameError)?;
        let decoded = Envelope::decode(envelope)?;
        if to_worker && matches!(decoded.peer, Peer::Slot(_) | Peer::Others) {
            return Err(FrameError);
        }
        payload.truncate(bytes.len());
        Ok(decoded)
    }

    fn decode(bytes: &[u8; ENVELOPE_BYTES]) -> Result<Envelope, FrameError> {
        let mut input = Reader(bytes);
        let [what, tag] = input.array()?;
        let (slot, generation, id) = (input.u32()?, input.u32()?, input.u32()?);
        let what = match (what, id) {
            (0, 0) => What::Note,
            (1, id) => What::Request(id),
            (2, id) => What::Reply(id),
            _ => return Err(FrameError),
        };
        let in_slot = usize::try_from(slot).map_err(|_| FrameError)?;
        let peer = match (tag, slot, generation) {
            (0, 0, 0) => Peer::Master,
            (1, _, generation) => Peer::Worker(WorkerId { slot: in_slot, generation }),
            (2, _, 0) => Peer::Slot(in_slot),
            (3, 0, 0) => Peer::Others,
            _ => return Err(FrameError),
        };
        match (what, peer) {
            (What::Request(_) | What::Reply(_), Peer::Others) => Err(FrameError),
            (What::Reply(_), Peer::Slot(_)) => Err(FrameError),
            _ => Ok(Envelope { what, peer }),
        }
    }
}

impl Notice {
    /// The payload of its frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Notice::Open { terms, credit } => {
                out.push(0);
                out.extend(terms.message_bytes_max.to_le_bytes());
                out.extend(terms.message_handles_max.to_le_bytes());
                credit.iter().for_each(|amount| put_amount(&mut out, *amount));
            }
            Notice::Credit { lane, amount } => {
                out.push(if *lane == Lane::Messages { 1 } else { 2 });
                put_amount(&mut out, *amount);
            }
            Notice::Failed { request, failure } => {
                out.push(match failure {
                    Failure::Gone => 3,
                    Failure::Unanswered => 4,
                });
                out.extend(request.to_le_bytes());
            }
            Notice::Cancel { request } => {
                out.push(5);
                out.extend(request.to_le_bytes());
            }
            Notice::Unanswered { asker: None, request } => {
                out.push(6);
                out.extend(request.to_le_bytes());
            }
            Notice::Unanswered { asker: Some(worker), request } => {
                out.push(7);
                out.extend(request.to_le_bytes());
                out.extend(u32::try_from(worker.slot).unwrap_or(u32::MAX).to_le_bytes());
                out.extend(worker.generation.to_le_bytes());
            }
        }
        out
    }

    /// Reads a frame's payload.
    ///
    /// # Errors
    ///
    /// When it is no notice, or one that does not go to a worker, or not from one.
    pub fn decode(payload: &[u8], to_worker: bool) -> Result<Notice, FrameError> {
        let mut input = Reader(payload);
        let [what] = input.array()?;
        let notice = match (what, to_worker) {
            (0, true) => Notice::Open {
                terms: Terms { message_bytes_max: input.u32()?, message_handles_max: input.u32()? },
                credit: [input.amount()?, input.amount()?],
            },
            (1, _) => Notice::Credit { lane: Lane::Messages, amount: input.amount()? },
            (2, _) => Notice::Credit { lane: Lane::Replies, amount: input.amount()? },
            (3, true) => Notice::Failed { request: input.u32()?, failure: Failure::Gone },
            (4, true) => Notice::Failed { request: input.u32()?, failure: Failure::Unanswered },
            (5, false) => Notice::Cancel { request: input.u32()? },
            (6, false) => Notice::Unanswered { asker: None, request: input.u32()? },
            (7, false) => {
                let (request, slot) = (input.u32()?, input.u32()?);
                let slot = usize::try_from(slot).map_err(|_| FrameError)?;
                let asker = Some(WorkerId { slot, generation: input.u32()? });
                Notice::Unanswered { asker, request }
            }
            _ => return Err(FrameError),
        };
        if input.0.is_empty() { Ok(notice) } else { Err(FrameError) }
    }
}

fn put_amount(out: &mut Vec<u8>, amount: Amount) {
    for part in [amount.messages, amount.bytes, amount.handles] {
        out.extend(part.to_le_bytes());
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(FrameError)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.array().map(u32::from_le_bytes)
    }

    fn amount(&mut self) -> Result<Amount, FrameError> {
        Ok(Amount { messages: self.u32()?, bytes: self.u32()?, handles: self.u32()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn worker() -> impl Strategy<Value = WorkerId> {
        any::<(u32, u32)>()
            .prop_map(|(slot, generation)| WorkerId { slot: slot as usize, generation })
    }

    fn envelope() -> impl Strategy<Value = Envelope> {
        let note = prop_oneof![
            Just(Peer::Master),
            worker().prop_map(Peer::Worker),
            any::<u32>().prop_map(|slot| Peer::Slot(slot as usize)),
            Just(Peer::Others),
        ];
        let request = prop_oneof![
            Just(Peer::Master),
            worker().prop_map(Peer::Worker),
            any::<u32>().prop_map(|slot| Peer::Slot(slot as usize)),
        ];
        let reply = prop_oneof![Just(Peer::Master), worker().prop_map(Peer::Worker)];
        prop_oneof![
            note.prop_map(|peer| Envelope { what: What::Note, peer }),
            (any::<u32>(), request)
                .prop_map(|(id, peer)| Envelope { what: What::Request(id), peer }),
            (any::<u32>(), reply).prop_map(|(id, peer)| Envelope { what: What::Reply(id), peer }),
        ]
    }

    proptest! {
        #[test]
        fn envelopes_read_back_what_was_written(bytes: Vec<u8>, envelope in envelope()) {
            let mut payload = bytes.clone();
            envelope.append(&mut payload);
            prop_assert_eq!(payload.len(), bytes.len() + ENVELOPE_BYTES);
            let mut same = payload.clone();
            prop_assert_eq!(Envelope::split_off(&mut payload, false), Ok(envelope));
            prop_assert_eq!(&payload, &bytes);
            let to_worker = matches!(envelope.peer, Peer::Master | Peer::Worker(_));
            prop_assert_eq!(Envelope::split_off(&mut same, true).is_ok(), to_worker);
        }

        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes: Vec<u8>, what in 0..9_u8, to_worker: bool) {
            let mut payload = bytes.clone();
            if let Ok(envelope) = Envelope::split_off(&mut payload, to_worker) {
                envelope.append(&mut payload);
            }
            prop_assert_eq!(&payload, &bytes, "what is no envelope stays whole");
            let bytes = [&[what], bytes.as_slice()].concat();
            if let Ok(notice) = Notice::decode(&bytes, to_worker) {
                prop_assert_eq!(notice.encode(), bytes);
            }
        }
    }
}
