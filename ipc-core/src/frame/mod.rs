//! The wire format: a header of eight bytes, then the body. Pure: bytes in, frames out.
//!
//! ```text
//!   byte   0         1        2         3          4 .. 8               8 ..
//!        +---------+--------+---------+----------+--------------------+---------+-------+
//!        | version | kind   | handles | reserved | body length        | payload | kinds |
//!        | = 1     | yours  | 0..=253 | = 0      | u32, little-endian |         |       |
//!        +---------+--------+---------+----------+--------------------+---------+-------+
//! ```
//!
//! The body is the payload and, behind it, one byte for each handle: what its sender announces it
//! as ([`HandleKind::code`](handle_passing::HandleKind::code)). Handles themselves never appear
//! among the bytes: the operating system carries them beside the stream, and the header only says
//! how many belong to the frame ([`Inbox`](crate::Inbox) pairs the two). A
//! header is checked as soon as its eight bytes are there, so no length that a peer invents makes
//! us allocate: memory grows with the bytes that really arrive.

mod decoder;
mod error;
mod limits;
mod long;
mod room;

pub use decoder::{Decoder, Frame, Pending};
pub use error::ProtocolError;
pub use limits::Limits;
pub use room::Room;

use handle_passing::HANDLES_MAX;

/// Length of a frame's header, in bytes.
pub const HEADER_BYTES: usize = 8;

/// The version of the wire format, the first byte of every frame.
pub const VERSION: u8 = 1;

/// The longest frame that a channel over a seqpacket socket sends in one packet, header included:
/// a payload of 64 KiB with as many handles as there may be. A longer one is sent in parts.
pub const PACKET_BYTES_MAX: usize = HEADER_BYTES + 4 * DIRECT_BYTES + HANDLES_MAX;

/// From this length on, in bytes, a payload is not copied: it is sent from where it is, and the
/// rest of it is received to where it stays. Little for a fuzzer, whose inputs are short.
pub(crate) const DIRECT_BYTES: usize = if cfg!(fuzzing) { 128 } else { 16 * 1024 };

/// What stands in front of a frame's body.
///
/// # Examples
///
/// ```
/// use ipc_core::frame::Header;
///
/// let header = Header { kind: 7, handles: 2, body_bytes: 302 };
/// assert_eq!(header.encode(), [1, 7, 2, 0, 46, 1, 0, 0]);
/// assert_eq!(Header::decode(header.encode()), Ok(header));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the message is about; the user's own numbering.
    pub kind: u8,
    /// How many handles belong to the frame.
    pub handles: u8,
    /// Length of the body that follows, in bytes: of the payload, and one for each handle.
    pub body_bytes: u32,
}

impl Header {
    /// The header of a message with that many bytes and handles, or `None` when the limits, or
    /// the fields of the header, have no room for them.
    #[must_use]
    pub fn new(kind: u8, payload_bytes: usize, handles: usize, limits: &Limits) -> Option<Self> {
        let header = Self {
            kind,
            handles: u8::try_from(handles).ok()?,
            body_bytes: u32::try_from(payload_bytes.checked_add(handles)?).ok()?,
        };
        header.check(limits).is_ok().then_some(header)
    }

    /// The eight bytes on the wire.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [a, b, c, d] = self.body_bytes.to_le_bytes();
        [VERSION, self.kind, self.handles, 0, a, b, c, d]
    }

    /// Reads the eight bytes back.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::Version`] and [`ProtocolError::Reserved`]. Limits are not looked at, see
    /// [`Header::check`].
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, ProtocolError> {
        let [version, kind, handles, reserved, length @ ..] = bytes;
        if version != VERSION {
            return Err(ProtocolError::Version { found: version });
        }
        if reserved != 0 {
            return Err(ProtocolError::Reserved { found: reserved });
        }
        Ok(Self { kind, handles, body_bytes: u32::from_le_bytes(length) })
    }

    /// Checks that the frame is one that the limits allow.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::KindsMissing`], [`ProtocolError::PayloadTooLarge`] and
    /// [`ProtocolError::TooManyHandles`].
    pub fn check(self, limits: &Limits) -> Result<(), ProtocolError> {
        let Some(bytes) = self.body_bytes.checked_sub(self.handles.into()) else {
            return Err(ProtocolError::KindsMissing { handles: self.handles });
        };
        let max = limits.payload_bytes_max;
        if u64::from(bytes) > max as u64 {
            return Err(ProtocolError::PayloadTooLarge { bytes, max });
        }
        let max = limits.handles_per_message();
        if usize::from(self.handles) > max {
            return Err(ProtocolError::TooManyHandles { handles: self.handles, max });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn f40_another_version_is_refused() {
        let header = Header { kind: 0, handles: 0, body_bytes: 0 };
        for version in (0..=255).filter(|v| *v != VERSION) {
            let mut bytes = header.encode();
            bytes[0] = version;
            assert_eq!(Header::decode(bytes), Err(ProtocolError::Version { found: version }));
        }
    }

    #[test]
    fn a_reserved_byte_that_is_set_is_refused() {
        let bytes = [VERSION, 0, 0, 0x80, 0, 0, 0, 0];
        assert_eq!(Header::decode(bytes), Err(ProtocolError::Reserved { found: 0x80 }));
    }

    #[test]
    fn f34_the_limits_hold_to_the_byte_and_to_the_handle() {
        let limits =
            Limits { payload_bytes_max: 10, handles_per_message_max: 3, ..Limits::default() };
        assert!(Header::new(0, 10, 3, &limits).is_some());
        assert_eq!(Header::new(0, 11, 0, &limits), None);
        assert_eq!(Header::new(0, 0, 4, &limits), None);
        let header = Header { kind: 0, handles: 0, body_bytes: u32::MAX };
        let refused = ProtocolError::PayloadTooLarge { bytes: u32::MAX, max: 10 };
        assert_eq!(header.check(&limits), Err(refused));
    }

    #[test]
    fn f35_what_the_fields_cannot_say_is_refused_whatever_the_limits() {
        let limits = Limits {
            payload_bytes_max: usize::MAX,
            handles_per_message_max: usize::MAX,
            ..Limits::default()
        };
        assert_eq!(Header::new(0, 0, 254, &limits), None, "no more fit in one OS message");
        assert_eq!(Header::new(0, 0, 256, &limits), None);
        #[cfg(target_pointer_width = "64")]
        assert_eq!(Header::new(0, u32::MAX as usize + 1, 0, &limits), None);
        assert!(Header::new(0, u32::MAX as usize - 253, 253, &limits).is_some());
        assert_eq!(Header::new(0, u32::MAX as usize - 252, 253, &limits), None);
    }

    #[test]
    fn a_body_without_room_for_the_kinds_is_refused() {
        let header = |body_bytes| Header { kind: 0, handles: 3, body_bytes };
        let missing = Err(ProtocolError::KindsMissing { handles: 3 });
        assert_eq!(header(2).check(&Limits::default()), missing);
        assert_eq!(header(3).check(&Limits::default()), Ok(()));
    }

    proptest! {
        #[test]
        fn every_header_survives_the_round_trip(kind: u8, handles: u8, body_bytes: u32) {
            let header = Header { kind, handles, body_bytes };
            prop_assert_eq!(Header::decode(header.encode()), Ok(header));
        }
    }
}
