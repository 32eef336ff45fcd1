//! Tokens of handles that were pushed into a Windows process: any bytes are refused, or are the
//! only way to write what they say.

use handle_passing::fuzzing::{Token, is_handle_number};

/// Reads the bytes as a token. Panics if what is read would be written otherwise, or if its number
/// is one that no open handle has.
pub fn token(data: &[u8]) {
    let Ok(token) = Token::decode(data) else { return };
    assert_eq!(token.encode(), data);
    if let Token::Handle { number, .. } = token {
        assert!(is_handle_number(number.into()), "{number:#x}");
        assert!(number.cast_signed() > 0 && number % 4 == 0, "{number:#x}");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpus() {
        crate::corpus::run("token", super::token);
    }
}
