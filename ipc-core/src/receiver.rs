use std::io;
use std::sync::Arc;
use std::time::Instant;

use handle_passing::Handle;

use crate::clock::time_left;
use crate::sys::{self, Received, ReceivedHandle, Socket, Wait};
use crate::{Inbox, Limits, Message, ProtocolError, RecvError, TryRecvError};

/// The receiving half of a [`Channel`](crate::Channel), see
/// [`Channel::into_split`](crate::Channel::into_split).
///
/// Nothing is read from the socket while a complete message waits, so a peer that floods the
/// channel fills the socket's buffer and then waits: what it can make this side hold is one
/// incomplete message, as long as [`Limits`] lets it be, and the bytes of one read.
#[derive(Debug)]
pub struct Receiver {
    pub(crate) socket: Arc<Socket>,
    inbox: Inbox<Handle>,
    /// Where a read puts its handles; empty between two reads.
    handles: Vec<ReceivedHandle>,
    /// The inbox has no message to give until more is received, nor a failure.
    is_drained: bool,
}

impl Receiver {
    pub(crate) fn new(socket: Arc<Socket>) -> Self {
        Self { socket, inbox: Inbox::new(Limits::default()), handles: Vec::new(), is_drained: true }
    }

    /// The next message, if it is there. Never blocks.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] when it is not there yet. Only after this answer does an
    /// edge-triggered poll, such as mio's, report the next message: call until `Empty`.
    ///
    /// [`TryRecvError::Closed`] when the peer is gone and everything has been received; then
    /// [`is_mid_message`](Self::is_mid_message) tells whether it went in the middle of a message.
    /// The other errors are those of a peer against the protocol, and of the system.
    pub fn try_recv(&mut self) -> Result<Message, TryRecvError> {
        loop {
            if let Some(message) = self.step(Wait::Never)? {
                return Ok(message);
            }
        }
    }

    /// The next message; blocks until the deadline at most, which holds for the whole message and
    /// not for each part of it. Without a deadline it blocks for as long as the peer takes.
    ///
    /// # Errors
    ///
    /// [`RecvError::TimedOut`]; what is there of a message then is kept for the next call. The
    /// other errors are those of [`try_recv`](Self::try_recv).
    pub fn recv_deadline(&mut self, deadline: Option<Instant>) -> Result<Message, RecvError> {
        let wait = if deadline.is_none() { Wait::MayBlock } else { Wait::Never };
        loop {
            let received = match self.step(wait) {
                Ok(Some(message)) => return Ok(message),
                // Bytes that trickle in do not put the deadline off.
                Ok(None) => time_left(deadline).map(|_left| ()),
                Err(TryRecvError::Empty) => {
                    time_left(deadline).and_then(|left| self.socket.wait_readable(left))
                }
                Err(error) => return Err(error.into()),
            };
            received?;
        }
    }

    /// Whether a part of a message has been received, of which the rest is outstanding; only of
    /// use after `Empty`, `TimedOut` or `Closed`.
    ///
    /// The channel itself lets a peer take its time. To limit the age of a partial message, start
    /// a timer when this becomes true.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.inbox.is_mid_message()
    }

    /// Closes the channel in both directions, for both sides, and for every process that holds a
    /// duplicate of the descriptor. A call on the other half that blocks in another thread
    /// returns.
    ///
    /// # Errors
    ///
    /// What the system reports. That the peer is gone already is no error.
    pub fn shutdown(&self) -> io::Result<()> {
        self.socket.shutdown()
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.inbox.set_limits(limits);
    }

    /// One read at most; `None` when it brought something, but not a whole message.
    fn step(&mut self, wait: Wait) -> Result<Option<Message>, TryRecvError> {
        if let Some(message) = self.next_message()? {
            return Ok(Some(message));
        }
        let room = self.inbox.room(self.socket.is_of_packets());
        match self.socket.recv(room, &mut self.handles, wait) {
            Ok(Received::Bytes(bytes)) => {
                if self.handles.is_empty() {
                    self.inbox.received_bytes(bytes);
                } else {
                    self.inbox.received(bytes, self.handles.drain(..).map(sys::into_handle));
                }
                self.is_drained = false;
            }
            Ok(Received::Nothing) => {
                self.inbox.relax();
                return Err(TryRecvError::Empty);
            }
            Ok(Received::Closed) => return Err(TryRecvError::Closed),
            Ok(Received::Broken(error)) => {
                self.inbox.fail(error);
                self.is_drained = false;
            }
            Err(error) => return Err(TryRecvError::Io(error)),
        }
        self.next_message()
    }

    #[inline]
    fn next_message(&mut self) -> Result<Option<Message>, TryRecvError> {
        if self.is_drained {
            return Ok(None);
        }
        let message = self.inbox.next_message()?;
        if message.is_none() && self.socket.is_of_packets() && self.inbox.is_cut_short() {
            // Who gets the next packet may be another process.
            self.inbox.fail(ProtocolError::CutFrame);
            return Err(ProtocolError::CutFrame.into());
        }
        self.is_drained = message.is_none() || self.inbox.is_drained();
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Channel;
    use crate::frame::PACKET_BYTES_MAX;

    #[test]
    fn a_channel_at_rest_keeps_no_room_for_long_messages() {
        let (mut ours, theirs) = Channel::pair().expect("a socket pair");
        let (_sender, mut receiver) = theirs.into_split();
        ours.try_send(Message::new(1, vec![0; 60_000])).expect("room");
        receiver.try_recv().expect("a message");
        assert!(matches!(receiver.try_recv(), Err(TryRecvError::Empty)));
        assert!(receiver.inbox.allocated_bytes() <= PACKET_BYTES_MAX);
    }
}
