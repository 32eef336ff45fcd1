//! The queue in which a slot's connections wait for its worker.
//!
//! A pair of sequenced-packet sockets, of which the master holds both ends for as long as the slot
//! exists; a worker gets a duplicate of the receiving end. A message is one connection: its
//! descriptor, and the address of its peer in [`MESSAGE_BYTES`] bytes. A message without a
//! descriptor is a probe, whose only purpose is to be taken out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use handle_passing::{RecvError, SendError};

use crate::address::Peer;
use crate::sys;

/// The size of every message, so that the number that wait follows from the bytes that wait.
pub(crate) const MESSAGE_BYTES: usize = 40;

/// Where in it the key is.
const KEY_OFFSET: usize = 32;

const PROBE: u8 = 0;
const UNIX: u8 = 1;
const TCP4: u8 = 4;
const TCP6: u8 = 6;

/// A connection and who is at its other end.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) socket: OwnedFd,
    pub(crate) peer: Peer,
    /// What keeps the client with a worker: its address, or what it said first.
    pub(crate) key: u64,
}

impl Accepted {
    pub(crate) fn new(socket: OwnedFd, peer: Peer) -> Accepted {
        Accepted { socket, peer, key: peer.key() }
    }
}

/// What came out of a mailbox.
#[derive(Debug)]
pub(crate) enum Taken {
    Connection(Accepted),
    /// Nothing waits.
    Empty,
    /// Nothing waits, and nobody is left who could put anything in.
    Closed,
}

/// Both ends of a mailbox.
#[derive(Debug)]
pub(crate) struct Mailbox {
    sender: OwnedFd,
    receiver: OwnedFd,
}

impl Mailbox {
    /// A mailbox for about `connections` connections.
    pub(crate) fn new(connections: usize) -> io::Result<Mailbox> {
        let (sender, receiver) = sys::mailbox_pair(connections)?;
        Ok(Mailbox { sender, receiver })
    }

    /// Puts a connection in; the caller still has its own descriptor.
    pub(crate) fn put(&self, connection: &Accepted) -> Result<(), SendError> {
        let message = encode(connection);
        handle_passing::try_send(&self.sender, &message, &[connection.socket.as_fd()]).map(drop)
    }

    /// Puts a message without a connection in.
    pub(crate) fn probe(&self) -> Result<(), SendError> {
        handle_passing::try_send(&self.sender, &[PROBE; MESSAGE_BYTES], &[]).map(drop)
    }

    /// How many messages wait.
    pub(crate) fn waiting(&self) -> io::Result<u32> {
        let bytes = sys::waiting_bytes(self.receiver.as_fd())?;
        Ok(u32::try_from(bytes / MESSAGE_BYTES).unwrap_or(u32::MAX))
    }

    /// The end that becomes writable when there is room.
    pub(crate) fn sender(&self) -> BorrowedFd<'_> {
        self.sender.as_fd()
    }

    /// The end that a worker gets a duplicate of.
    pub(crate) fn receiver(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

/// Takes connections out of mailboxes, and loses none for want of a descriptor.
///
/// A message that arrives when the process has no descriptor left loses the one that it carries:
/// the kernel closes it. So a descriptor is made and given up just before a message is taken; where
/// that fails, nothing is taken.
#[derive(Debug, Default)]
pub(crate) struct Taker {
    /// Whether the last look found a connection. After the last of them comes a look that finds
    /// nothing, for which it would be a waste to make a descriptor.
    may_be_empty: bool,
    /// Empty; only for its memory.
    handles: Vec<OwnedFd>,
}

impl Taker {
    /// Takes a connection out of the mailbox whose receiving end this is; probes are passed over.
    ///
    /// Never blocks, whatever others who hold this end have made of its mode. When the process is
    /// out of descriptors (`EMFILE`, `ENFILE`), everything stays where it is.
    pub(crate) fn take(&mut self, receiver: BorrowedFd<'_>) -> io::Result<Taken> {
        if std::mem::take(&mut self.may_be_empty) && sys::waiting_bytes(receiver)? == 0 {
            return Ok(Taken::Empty);
        }
        drop(receiver.try_clone_to_owned()?);
        let taken = take(receiver, &mut self.handles);
        self.may_be_empty = matches!(taken, Ok(Taken::Connection(_)));
        taken
    }
}

fn take(receiver: BorrowedFd<'_>, handles: &mut Vec<OwnedFd>) -> io::Result<Taken> {
    handles.clear();
    loop {
        let mut message = [0; MESSAGE_BYTES];
        let length = match handle_passing::try_recv(receiver, &mut message, handles) {
            Ok(0) => return Ok(Taken::Closed),
            Ok(length) => length,
            Err(RecvError::WouldBlock) => return Ok(Taken::Empty),
            Err(error) => return Err(error.into()),
        };
        match (decode(&message[..length]), handles.pop(), handles.is_empty()) {
            (Some(Some((peer, key))), Some(socket), true) => {
                return Ok(Taken::Connection(Accepted { socket, peer, key }));
            }
            (Some(None), None, true) => {}
            _ => {
                let text = "a message in the mailbox is neither a connection nor a probe";
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
    }
}

fn encode(connection: &Accepted) -> [u8; MESSAGE_BYTES] {
    let mut message = [0; MESSAGE_BYTES];
    message[KEY_OFFSET..].copy_from_slice(&connection.key.to_le_bytes());
    match &connection.peer {
        Peer::Unix => message[0] = UNIX,
        Peer::Tcp(SocketAddr::V4(v4)) => {
            message[0] = TCP4;
            message[2..4].copy_from_slice(&v4.port().to_le_bytes());
            message[4..8].copy_from_slice(&v4.ip().octets());
        }
        Peer::Tcp(SocketAddr::V6(v6)) => {
            message[0] = TCP6;
            message[2..4].copy_from_slice(&v6.port().to_le_bytes());
            message[4..20].copy_from_slice(&v6.ip().octets());
            message[20..24].copy_from_slice(&v6.flowinfo().to_le_bytes());
            message[24..28].copy_from_slice(&v6.scope_id().to_le_bytes());
        }
    }
    message
}

/// The peer that a message names and its key, `Some(None)` for a probe, `None` for anything else.
fn decode(message: &[u8]) -> Option<Option<(Peer, u64)>> {
    let message: &[u8; MESSAGE_BYTES] = message.try_into().ok()?;
    let u16_at = |at: usize| Some(u16::from_le_bytes(message[at..at + 2].try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(message[at..at + 4].try_into().ok()?));
    let port = u16_at(2)?;
    let key = u64::from_le_bytes(message[KEY_OFFSET..].try_into().ok()?);
    match message[0] {
        PROBE => Some(None),
        UNIX => Some(Some((Peer::Unix, key))),
        TCP4 => {
            let octets: [u8; 4] = message[4..8].try_into().ok()?;
            let ip = IpAddr::V4(Ipv4Addr::from(octets));
            Some(Some((Peer::Tcp(SocketAddr::new(ip, port)), key)))
        }
        TCP6 => {
            let octets: [u8; 16] = message[4..20].try_into().ok()?;
            let v6 = SocketAddrV6::new(Ipv6Addr::from(octets), port, u32_at(20)?, u32_at(24)?);
            Some(Some((Peer::Tcp(v6.into()), key)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn connection(peer: &str) -> Accepted {
        // Any descriptor will do: the mailbox does not look at it.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        Accepted::new(socket.into(), Peer::Tcp(peer.parse().unwrap()))
    }

    fn expect(mailbox: &Mailbox) -> Peer {
        match taken(mailbox) {
            Taken::Connection(connection) => connection.peer,
            other => panic!("{other:?}"),
        }
    }

    fn taken(mailbox: &Mailbox) -> Taken {
        Taker::default().take(mailbox.receiver()).unwrap()
    }

    #[test]
    fn peers_read_back_what_was_written() {
        let mailbox = Mailbox::new(16).unwrap();
        for peer in ["1.2.3.4:5", "[1:2::3]:65535", "[fe80::1%7]:80"] {
            let connection = connection(peer);
            mailbox.put(&connection).unwrap();
            assert_eq!(expect(&mailbox), connection.peer);
        }
        mailbox.put(&Accepted { peer: Peer::Unix, key: 7, ..connection("1.2.3.4:5") }).unwrap();
        let Taken::Connection(taken) = taken(&mailbox) else { panic!("nothing waits") };
        assert_eq!((taken.peer, taken.key), (Peer::Unix, 7));
        assert!(matches!(super::take(mailbox.receiver(), &mut Vec::new()).unwrap(), Taken::Empty));
    }

    #[test]
    fn a_mailbox_is_bounded_and_says_how_many_wait() {
        let mailbox = Mailbox::new(16).unwrap();
        let connection = connection("1.2.3.4:5");
        let mut fitted = 0;
        while mailbox.put(&connection).is_ok() {
            fitted += 1;
            assert_eq!(mailbox.waiting().unwrap(), fitted);
        }
        assert!((12..=20).contains(&fitted), "{fitted}");
        assert!(matches!(mailbox.put(&connection), Err(SendError::WouldBlock)));
        expect(&mailbox);
        assert_eq!(mailbox.waiting().unwrap(), fitted - 1);
        mailbox.put(&connection).unwrap();
    }

    #[test]
    fn probes_are_counted_and_passed_over() {
        let mailbox = Mailbox::new(16).unwrap();
        mailbox.probe().unwrap();
        mailbox.put(&connection("1.2.3.4:5")).unwrap();
        assert_eq!(mailbox.waiting().unwrap(), 2);
        expect(&mailbox);
        assert_eq!(mailbox.waiting().unwrap(), 0);
    }

    #[test]
    fn k10_what_was_put_in_survives_the_sender() {
        let mailbox = Mailbox::new(16).unwrap();
        mailbox.put(&connection("1.2.3.4:5")).unwrap();
        let Mailbox { sender, receiver } = mailbox;
        drop(sender);
        assert!(matches!(take(receiver.as_fd(), &mut Vec::new()).unwrap(), Taken::Connection(_)));
        assert!(matches!(take(receiver.as_fd(), &mut Vec::new()).unwrap(), Taken::Closed));
    }

    #[test]
    fn foreign_messages_are_errors_and_leave_nothing_behind() {
        let mailbox = Mailbox::new(16).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let two = [socket.as_fd(), socket.as_fd()];
        for (bytes, handles) in [
            (&[9; MESSAGE_BYTES][..], &two[..1]),        // an unknown tag
            (&[TCP4; MESSAGE_BYTES][..], &two[..0]),     // a connection without its descriptor
            (&[TCP4; MESSAGE_BYTES][..], &two[..]),      // two descriptors
            (&[PROBE; MESSAGE_BYTES][..], &two[..1]),    // a probe with one
            (&[TCP4; 3][..], &two[..1]),                 // too short
            (&[TCP4; MESSAGE_BYTES + 1][..], &two[..1]), // too long
        ] {
            handle_passing::try_send(&mailbox.sender, bytes, handles).unwrap();
            take(mailbox.receiver(), &mut Vec::new()).unwrap_err();
            assert!(matches!(taken(&mailbox), Taken::Empty));
        }
    }
}
