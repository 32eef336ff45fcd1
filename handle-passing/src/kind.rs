//! What handles stand for.

use std::fmt;

/// What a handle stands for, as far as its user cares.
///
/// A kind can travel with its handle: [`code`](Self::code) is its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum HandleKind {
    /// Announced of a handle whose sender leaves open what it is. No handle *is* of this kind.
    Any = 0,
    /// A TCP socket that listens, over IPv4 or IPv6. MPTCP counts as TCP.
    TcpListener = 1,
    /// A TCP socket that does not listen: in most cases connected, but not surely.
    TcpStream = 2,
    /// A UDP socket.
    UdpSocket = 3,
    /// A Unix stream socket that listens.
    UnixListener = 4,
    /// A Unix stream socket that does not listen.
    UnixStream = 5,
    /// A Unix seqpacket socket that listens.
    UnixSeqpacketListener = 6,
    /// A Unix seqpacket socket that does not listen.
    UnixSeqpacket = 7,
    /// A Unix datagram socket.
    UnixDatagram = 8,
    /// Either end of a pipe, or a FIFO.
    Pipe = 9,
    /// A regular file, also one that is only in memory but could still shrink (memfd).
    File = 10,
    /// A directory.
    Directory = 11,
    /// A character device: a terminal, `/dev/null`.
    CharDevice = 12,
    /// Memory to be mapped, of a size that nobody can change: a memfd with the seals `SHRINK`,
    /// `GROW` and `SEAL` on Linux, a section on Windows.
    Memory = 13,
    /// A process: a pidfd on Linux, a process handle on Windows.
    Process = 14,
    /// A counter or flag to wait for: an eventfd on Linux, an event on Windows.
    Event = 15,
    /// Anything else, such as a raw or netlink socket, an epoll or timer descriptor, a block
    /// device, or a descriptor opened with `O_PATH`.
    Other = 16,
}

impl HandleKind {
    /// All kinds, each at the place that its code says.
    const ALL: [Self; 17] = [
        Self::Any,
        Self::TcpListener,
        Self::TcpStream,
        Self::UdpSocket,
        Self::UnixListener,
        Self::UnixStream,
        Self::UnixSeqpacketListener,
        Self::UnixSeqpacket,
        Self::UnixDatagram,
        Self::Pipe,
        Self::File,
        Self::Directory,
        Self::CharDevice,
        Self::Memory,
        Self::Process,
        Self::Event,
        Self::Other,
    ];

    /// The number that stands for this kind on the wire. It never changes.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The kind that a number on the wire stands for; `None` if it stands for none.
    ///
    /// # Examples
    ///
    /// ```
    /// use handle_passing::HandleKind;
    ///
    /// let code = HandleKind::UdpSocket.code();
    /// assert_eq!(HandleKind::from_code(code), Some(HandleKind::UdpSocket));
    /// assert_eq!(HandleKind::from_code(200), None);
    /// ```
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl fmt::Display for HandleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "anything",
            Self::TcpListener => "a TCP listener",
            Self::TcpStream => "a TCP stream",
            Self::UdpSocket => "a UDP socket",
            Self::UnixListener => "a Unix listener",
            Self::UnixStream => "a Unix stream",
            Self::UnixSeqpacketListener => "a Unix seqpacket listener",
            Self::UnixSeqpacket => "a Unix seqpacket socket",
            Self::UnixDatagram => "a Unix datagram socket",
            Self::Pipe => "a pipe",
            Self::File => "a file",
            Self::Directory => "a directory",
            Self::CharDevice => "a character device",
            Self::Memory => "sealed memory",
            Self::Process => "a process",
            Self::Event => "an event",
            Self::Other => "something else",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_stands_for_its_kind() {
        for (code, kind) in (0..).zip(HandleKind::ALL) {
            assert_eq!((kind.code(), HandleKind::from_code(code)), (code, Some(kind)));
        }
        assert_eq!(HandleKind::from_code(17), None);
        assert_eq!(HandleKind::from_code(u8::MAX), None);
    }
}
