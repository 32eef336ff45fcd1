use super::Header;
use super::decoder::BUFFER_BYTES;

/// A frame whose body has memory of its own.
#[derive(Debug)]
pub(super) struct LongFrame {
    pub(super) header: Header,
    /// The bytes that arrived, and in `spare` some zeros behind them.
    pub(super) body: Vec<u8>,
    /// `filled <= body.len() <= header.body_bytes`
    pub(super) filled: usize,
}

impl LongFrame {
    pub(super) fn new(header: Header, received: &[u8]) -> Self {
        let mut long = Self { header, body: Vec::new(), filled: received.len() };
        long.body.reserve_exact(long.room());
        long.body.extend_from_slice(received);
        long
    }

    pub(super) fn spare(&mut self) -> &mut [u8] {
        if self.body.len() == self.filled {
            self.reserve(0, false);
            let room = self.body.capacity().min(self.header.body_bytes as usize);
            self.body.resize(room, 0);
        }
        &mut self.body[self.filled..]
    }

    /// Makes room for more bytes behind what has arrived: for a packet if one is due, and for as
    /// many as were expected.
    pub(super) fn reserve(&mut self, expected_bytes: usize, is_of_packets: bool) {
        self.body.truncate(self.filled);
        let room = self.room().max(expected_bytes.min(self.header.body_bytes as usize));
        let least = if is_of_packets { room } else { self.filled + 1 };
        if self.body.capacity() < least {
            self.body.reserve_exact(room - self.filled);
        }
    }

    /// Memory for what has arrived and as much again, but no more than the frame needs: a peer
    /// that only announces a long frame gets nothing for it.
    fn room(&self) -> usize {
        let twice = self.filled + self.filled.max(BUFFER_BYTES);
        twice.min(self.header.body_bytes as usize)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.filled == self.header.body_bytes as usize
    }
}
