use std::error::Error;
use std::fmt;

/// What a peer did against the protocol.
///
/// After one of these nothing that the peer sends can be trusted, not even where a frame begins:
/// the channel stays failed, and the only thing to do with it is to drop it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The peer speaks another version, or no version of this protocol at all.
    Version {
        /// The first byte of its frame.
        found: u8,
    },
    /// The header's reserved byte is not 0.
    Reserved {
        /// The byte that stands there.
        found: u8,
    },
    /// The header announces a longer payload than the limits allow.
    PayloadTooLarge {
        /// What it announces.
        bytes: u32,
        /// The limit.
        max: usize,
    },
    /// The body that the header announces is too short for the kinds of its handles.
    KindsMissing {
        /// How many handles the header announces.
        handles: u8,
    },
    /// A handle is announced as a kind that there is not.
    UnknownKind {
        /// The byte that stands for it.
        found: u8,
    },
    /// A packet is longer than one may be at its place.
    PacketTooLarge,
    /// A packet is empty, or ends in the middle of a frame that is short enough for one.
    CutFrame,
    /// More handles in one frame than the limits allow.
    TooManyHandles {
        /// What the header announces.
        handles: u8,
        /// The limit.
        max: usize,
    },
    /// The header announces handles, and they did not come.
    HandlesMissing {
        /// How many the header announces.
        claimed: usize,
        /// How many came.
        received: usize,
    },
    /// Handles came that no header announces. They have been closed.
    HandlesUnclaimed {
        /// How many were there to be claimed.
        received: usize,
        /// How many the header announces, or could at most announce if it is not complete.
        claimed: usize,
    },
    /// The system could not deliver all the handles of a message, and closed the rest: this
    /// process has as many descriptors open as `RLIMIT_NOFILE` lets it.
    HandlesTruncated,
    /// The system delivered something other than bytes and handles.
    UnexpectedAncillary,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Version { found } => write!(
                f,
                "the peer's frame has version {found}, this side speaks version {}",
                super::VERSION
            ),
            Self::Reserved { found } => {
                write!(f, "the peer's frame has {found:#04x} in the reserved byte, not 0")
            }
            Self::PayloadTooLarge { bytes, max } => write!(
                f,
                "the peer announced a payload of {bytes} bytes, the limit is {max} \
                 (Limits::payload_bytes_max)"
            ),
            Self::KindsMissing { handles } => {
                write!(f, "the peer announced {handles} handles and a body too short to say what")
            }
            Self::UnknownKind { found } => {
                write!(f, "the peer announced a handle of kind {found}, which there is not")
            }
            Self::PacketTooLarge => f.write_str("the peer sent a packet that is too long"),
            Self::CutFrame => {
                f.write_str("the peer sent an empty packet, or one that ends within a short frame")
            }
            Self::TooManyHandles { handles, max } => write!(
                f,
                "the peer announced a message with {handles} handles, the limit is {max} \
                 (Limits::handles_per_message_max)"
            ),
            Self::HandlesMissing { claimed, received } => write!(
                f,
                "the peer announced a message with {claimed} handles, {received} came with it"
            ),
            Self::HandlesUnclaimed { received, claimed } => {
                write!(f, "the peer sent {received} handles where at most {claimed} were announced")
            }
            Self::HandlesTruncated => f.write_str(
                "handles of a message were lost, this process may have no free descriptors \
                 (raise RLIMIT_NOFILE)",
            ),
            Self::UnexpectedAncillary => {
                f.write_str("the peer sent ancillary data that is not a set of handles")
            }
        }
    }
}

impl Error for ProtocolError {}
