//! The bytes that tell a Windows process which handle was pushed into it.
//!
//! Pure, and compiled everywhere, so that it is tested and fuzzed where fuzzers run.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | 1: a handle, 2: a socket |
//! | 1 | the code of its [`HandleKind`] |
//! | 2.. | a handle: its number, 32 bits, little-endian |
//! |     | a socket: its `WSAPROTOCOL_INFOW`, without the zeros at the end |

use std::{error, fmt};

use crate::HandleKind;

/// What one token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A handle that is already open in the receiving process.
    Handle {
        /// What it is announced as.
        kind: HandleKind,
        /// Its number there.
        number: u32,
    },
    /// A socket that the receiving process is to open by its description.
    Socket {
        /// What it is announced as.
        kind: HandleKind,
        /// The description, which only the system understands.
        description: Box<[u8; DESCRIPTION_BYTES]>,
    },
}

/// The size of a `WSAPROTOCOL_INFOW`, which is the same for all processors.
pub const DESCRIPTION_BYTES: usize = 628;

impl Token {
    /// Reads a token. Each token is written in one way only: what is read gives the same bytes.
    ///
    /// # Errors
    ///
    /// When the bytes are no token.
    pub fn decode(bytes: &[u8]) -> Result<Self, TokenError> {
        let [form, kind, rest @ ..] = bytes else { return Err(TokenError::Length) };
        let kind = HandleKind::from_code(*kind).ok_or(TokenError::Kind(*kind))?;
        match *form {
            HANDLE => {
                let number = rest.try_into().map(u32::from_le_bytes);
                let number = number.map_err(|_wrong_length| TokenError::Length)?;
                if !is_handle_number(number.into()) {
                    return Err(TokenError::Number(number));
                }
                Ok(Self::Handle { kind, number })
            }
            SOCKET => {
                let is_canonical = rest.last().is_some_and(|last| *last != 0);
                if rest.len() > DESCRIPTION_BYTES || !is_canonical {
                    return Err(TokenError::Length);
                }
                let mut description = Box::new([0; DESCRIPTION_BYTES]);
                description[..rest.len()].copy_from_slice(rest);
                Ok(Self::Socket { kind, description })
            }
            form => Err(TokenError::Form(form)),
        }
    }

    /// The token's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Handle { kind, number } => {
                [&[HANDLE, kind.code()], &number.to_le_bytes()[..]].concat()
            }
            Self::Socket { kind, description } => {
                let len = description.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
                [&[SOCKET, kind.code()], &description[..len]].concat()
            }
        }
    }
}

/// Whether a number can be that of an open handle. Pseudo-handles, which mean something else in
/// each process, are negative; the kernel's own numbers are positive multiples of four.
#[must_use]
pub fn is_handle_number(number: u64) -> bool {
    number != 0 && number.is_multiple_of(4) && i32::try_from(number).is_ok()
}

/// Why bytes are no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// They are too few or too many.
    Length,
    /// They begin with a number that stands for no form of tokens.
    Form(u8),
    /// They announce a kind that does not exist.
    Kind(u8),
    /// The number is no handle's, but for instance a pseudo-handle's.
    Number(u32),
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => f.write_str("a handle's token is cut off or too long"),
            Self::Form(form) => write!(f, "a handle's token has the unknown form {form}"),
            Self::Kind(code) => write!(f, "a handle's token has the unknown kind {code}"),
            Self::Number(number) => {
                write!(f, "{number:#x} in a handle's token is no number of an open handle")
            }
        }
    }
}

impl error::Error for TokenError {}

const HANDLE: u8 = 1;
const SOCKET: u8 = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn handle(number: u32) -> Token {
        Token::Handle { kind: HandleKind::File, number }
    }

    #[test]
    fn tokens_are_read_back() {
        let mut description = Box::new([7; DESCRIPTION_BYTES]);
        description[100..].fill(0);
        let socket = Token::Socket { kind: HandleKind::TcpStream, description };
        for (token, bytes) in [(handle(4), 6), (handle(0x7fff_fffc), 6), (socket, 102)] {
            assert_eq!(token.encode().len(), bytes);
            assert_eq!(Token::decode(&token.encode()), Ok(token));
        }
    }

    #[test]
    fn f103_pseudo_handles_are_no_handles() {
        for number in [0, u32::MAX, u32::MAX - 1, 0xffff_fffc, 0x8000_0000, 5, 6, 7] {
            let error = Token::decode(&handle(number).encode()).unwrap_err();
            assert_eq!(error, TokenError::Number(number));
        }
        for number in [u64::MAX, u64::MAX - 3, 1 << 32, (1 << 32) | 4] {
            assert!(!is_handle_number(number), "{number:#x}");
        }
    }

    #[test]
    fn what_is_cut_or_unknown_is_refused() {
        let token = handle(8).encode();
        for len in 0..token.len() {
            assert_eq!(Token::decode(&token[..len]), Err(TokenError::Length), "{len}");
        }
        assert_eq!(Token::decode(&[1, 10, 8, 0, 0, 0, 0]), Err(TokenError::Length));
        assert_eq!(Token::decode(&[3, 10, 8, 0, 0, 0]), Err(TokenError::Form(3)));
        assert_eq!(Token::decode(&[1, 200, 8, 0, 0, 0]), Err(TokenError::Kind(200)));
        assert_eq!(Token::decode(&[2, 2]), Err(TokenError::Length), "no description");
        assert_eq!(Token::decode(&[2, 2, 1, 0]), Err(TokenError::Length), "zeros at the end");
        let long = [&[2, 2], [1; DESCRIPTION_BYTES + 1].as_slice()].concat();
        assert_eq!(Token::decode(&long), Err(TokenError::Length));
        assert!(Token::decode(&long[..long.len() - 1]).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_written_alike(
            form in 0..4_u8, kind in 0..20_u8, rest in prop::collection::vec(any::<u8>(), 0..700),
        ) {
            let bytes = [&[form, kind], rest.as_slice()].concat();
            if let Ok(token) = Token::decode(&bytes) {
                prop_assert_eq!(token.encode(), bytes);
            }
        }
    }
}
