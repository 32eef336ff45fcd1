//! One end of the channel between a parent and its child, the same in both.

use std::error::Error;
use std::time::{Duration, Instant};
use std::{fmt, io, mem};

use ipc_core::{Channel, Limits, Message as Frame, TryRecvError, TrySendError};
use mio::event::Source;
use mio::{Interest, Registry, Token};

use crate::message::Message;

/// What a frame is that carries a message; there are no others.
const MESSAGE: u8 = 0;

/// How long to wait before a channel that is throttled tries again.
const THROTTLE_PAUSE: Duration = Duration::from_millis(5);

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// Why a message was not sent. It holds the message, untouched.
#[derive(Debug)]
pub enum SendError {
    /// As much is queued as may be: the other side does not take its messages. When there is room
    /// again is told by [`Event::Drained`](super::Event::Drained).
    Full(Message),
    /// The channel is closed, or the other side is gone.
    Disconnected(Message),
    /// The message is over a limit by itself, see
    /// [`Command::channel_limits`](super::Command::channel_limits).
    TooLarge(Message),
    /// The system refused.
    Io(io::Error, Message),
}

/// Why there is no message.
#[derive(Debug)]
pub enum RecvError {
    /// None has come yet, or none before the deadline.
    Nothing,
    /// None will come any more: the channel is closed.
    Disconnected,
    /// The system refused, and a later call may succeed; or the other side sent what is no message,
    /// and the channel is closed.
    Io(io::Error),
}

/// What there is to hear from the other side.
#[derive(Debug)]
pub(super) enum Heard {
    Message(Message),
    /// There is room again, after a message was refused.
    Drained,
    /// The other side sent what is no message.
    Failed(io::Error),
    /// Once, and nothing comes after it.
    Disconnected,
}

#[derive(Debug)]
pub(super) struct Link {
    /// `None` when it is closed.
    channel: Option<Channel>,
    /// We send no more.
    is_closing: bool,
    has_refused: bool,
    is_end_told: bool,
    unsent: Vec<Message>,
}

impl Link {
    pub(super) fn new(channel: Channel) -> Link {
        Link {
            channel: Some(channel),
            is_closing: false,
            has_refused: false,
            is_end_told: false,
            unsent: Vec::new(),
        }
    }

    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.channel = self.channel.take().map(|channel| channel.with_limits(limits));
    }

    /// Whether anything may still be heard.
    pub(super) fn is_open(&self) -> bool {
        self.channel.is_some()
    }

    /// Whether messages can be sent, as far as is known.
    pub(super) fn is_connected(&self) -> bool {
        self.channel.is_some() && !self.is_closing
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.channel.as_ref().is_some_and(Channel::has_unsent)
    }

    /// After which time to call [`next`](Self::next) although nothing is ready.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let is_throttled = self.channel.as_ref().is_some_and(Channel::is_throttled);
        is_throttled.then_some(THROTTLE_PAUSE)
    }

    /// Sends a message, or queues it. Never blocks.
    pub(super) fn send(&mut self, message: Message) -> Result<(), SendError> {
        let Some(channel) = self.channel.as_mut().filter(|_| !self.is_closing) else {
            return Err(SendError::Disconnected(message));
        };
        let result = channel.try_send(frame(message)).map_err(SendError::from);
        self.has_refused |= matches!(result, Err(SendError::Full(_)));
        result
    }

    /// Sends a message; blocks until the deadline at most. Where only a part of it went until then,
    /// the rest is queued.
    pub(super) fn send_deadline(
        &mut self,
        message: Message,
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        let Some(channel) = self.channel.as_mut().filter(|_| !self.is_closing) else {
            return Err(SendError::Disconnected(message));
        };
        let result = channel.send_deadline(frame(message), deadline);
        result.or_else(|error| SendError::of_part(error).map_or(Ok(()), Err))
    }

    /// What there is to hear; `None` if that is all, for now. Never blocks, and sends what waits.
    pub(super) fn next(&mut self) -> io::Result<Option<Heard>> {
        if self.push()? && mem::take(&mut self.has_refused) {
            return Ok(Some(Heard::Drained));
        }
        match self.receive(|channel| channel.try_recv()) {
            Ok(message) => Ok(Some(Heard::Message(message))),
            Err(RecvError::Nothing) => Ok(None),
            Err(RecvError::Disconnected) => Ok(self.end()),
            Err(RecvError::Io(error)) if self.channel.is_none() => Ok(Some(Heard::Failed(error))),
            Err(RecvError::Io(error)) => Err(error),
        }
    }

    /// The next message; blocks until the deadline at most, and sends what waits meanwhile.
    pub(super) fn recv_deadline(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Message, RecvError> {
        if self.is_closing {
            // The end comes after what waits. If that does not go, it shows below.
            let _ = self.flush_deadline(deadline);
        }
        self.receive(|channel| match channel.recv_deadline(deadline) {
            Ok(frame) => Ok(frame),
            Err(ipc_core::RecvError::TimedOut) => Err(TryRecvError::Empty),
            Err(ipc_core::RecvError::Closed) => Err(TryRecvError::Closed),
            Err(ipc_core::RecvError::Protocol(error)) => Err(TryRecvError::Protocol(error)),
            Err(ipc_core::RecvError::Io(error)) => Err(TryRecvError::Io(error)),
        })
    }

    /// Sends what waits; blocks until the deadline at most.
    pub(super) fn flush_deadline(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        if let Some(channel) = &mut self.channel {
            channel.flush_deadline(deadline)?;
        }
        self.push().map(drop)
    }

    /// Sends no more after what waits, and closes the channel then. What the other side has sent
    /// before it learns of that can still be heard.
    pub(super) fn disconnect(&mut self) -> io::Result<()> {
        self.is_closing = true;
        self.push().map(drop)
    }

    /// As [`disconnect`](Self::disconnect), for who hears no more.
    pub(super) fn hang_up(&mut self) {
        // Where it can't wait for what is queued, that is lost.
        if self.disconnect().is_err() || !self.has_unsent() {
            self.close();
        }
    }

    /// Closes the channel for both sides, now. What is there already can still be heard.
    pub(super) fn shut_down(&mut self) {
        self.is_closing = true;
        if let Some(channel) = &self.channel {
            // It fails where it is shut down already.
            let _ = channel.shutdown();
        }
    }

    /// The messages that were queued, and will not go any more, since the channel is closed.
    pub(super) fn take_unsent(&mut self) -> Vec<Message> {
        mem::take(&mut self.unsent)
    }

    /// Sends what waits, and closes the channel after it, if that is wanted. Whether nothing waits.
    pub(super) fn push(&mut self) -> io::Result<bool> {
        let Some(channel) = &mut self.channel else { return Ok(false) };
        // A peer that takes nothing any more may still have sent something.
        let is_done = channel.flush().unwrap_or(false);
        if is_done && self.is_closing {
            channel.shutdown()?;
        }
        Ok(is_done)
    }

    fn receive(
        &mut self,
        receive: impl FnOnce(&mut Channel) -> Result<Frame, TryRecvError>,
    ) -> Result<Message, RecvError> {
        let channel = self.channel.as_mut().ok_or(RecvError::Disconnected)?;
        let error = match receive(channel) {
            Ok(frame) if frame.kind == MESSAGE => return Ok(message(frame)),
            Ok(frame) => invalid(format!("a frame of kind {}", frame.kind)),
            Err(TryRecvError::Empty) => return Err(RecvError::Nothing),
            Err(TryRecvError::Io(error)) => return Err(RecvError::Io(error)),
            Err(TryRecvError::Closed) => {
                self.close();
                return Err(RecvError::Disconnected);
            }
            Err(TryRecvError::Protocol(error)) => invalid(error),
        };
        self.close();
        Err(RecvError::Io(error))
    }

    fn close(&mut self) {
        if let Some(channel) = self.channel.take() {
            self.unsent.extend(channel.into_unsent().into_iter().map(message));
        }
    }

    fn end(&mut self) -> Option<Heard> {
        (!mem::replace(&mut self.is_end_told, true)).then_some(Heard::Disconnected)
    }
}

/// Ready when [`next`](Link::next) has something, or there is room to send.
impl Source for Link {
    fn register(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        self.channel.as_mut().map_or(Ok(()), |channel| channel.register(registry, token, BOTH))
    }

    fn reregister(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        self.channel.as_mut().map_or(Ok(()), |channel| channel.reregister(registry, token, BOTH))
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.channel.as_mut().map_or(Ok(()), |channel| channel.deregister(registry))
    }
}

fn frame(message: Message) -> Frame {
    Frame { kind: MESSAGE, payload: message.bytes, handles: message.handles }
}

fn message(frame: Frame) -> Message {
    Message { bytes: frame.payload, handles: frame.handles }
}

fn invalid(what: impl fmt::Display) -> io::Error {
    let text = format!("the other side of the channel sent what is no message: {what}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl SendError {
    /// The message that was not sent.
    #[must_use]
    pub fn into_message(self) -> Message {
        match self {
            SendError::Full(message)
            | SendError::Disconnected(message)
            | SendError::TooLarge(message)
            | SendError::Io(_, message) => message,
        }
    }

    /// Of a call that may have sent a part: then the message is taken, and its rest is queued.
    fn of_part(error: ipc_core::SendError) -> Option<SendError> {
        Some(match error {
            ipc_core::SendError::TimedOut(frame) => SendError::Full(message(frame?)),
            ipc_core::SendError::TooLarge(frame) => SendError::TooLarge(message(frame)),
            ipc_core::SendError::Closed(frame) => SendError::Disconnected(message(frame?)),
            ipc_core::SendError::Io { error, message: frame } => {
                SendError::Io(error, message(frame?))
            }
        })
    }
}

impl From<TrySendError> for SendError {
    fn from(error: TrySendError) -> SendError {
        match error {
            TrySendError::Full(frame) => SendError::Full(message(frame)),
            TrySendError::TooLarge(frame) => SendError::TooLarge(message(frame)),
            TrySendError::Closed(frame) => SendError::Disconnected(message(frame)),
            TrySendError::Io { error, message: frame } => SendError::Io(error, message(frame)),
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Full(_) => f.write_str("the other process does not take its messages"),
            SendError::Disconnected(_) => f.write_str(CLOSED),
            SendError::TooLarge(message) => write!(
                f,
                "a message of {} bytes with {} handles is over the limits of this end of the \
                 channel: raise them, at both ends, or send less",
                message.bytes.len(),
                message.handles.len()
            ),
            SendError::Io(error, _) => write!(f, "can't send: {error}"),
        }
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecvError::Nothing => f.write_str("no message has come"),
            RecvError::Disconnected => f.write_str(CLOSED),
            RecvError::Io(error) => write!(f, "can't receive: {error}"),
        }
    }
}

const CLOSED: &str = "the channel to the other process is closed";

impl Error for SendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            SendError::Io(error, _) => Some(error),
            SendError::Full(_) | SendError::Disconnected(_) | SendError::TooLarge(_) => None,
        }
    }
}

impl Error for RecvError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            RecvError::Io(error) => Some(error),
            RecvError::Nothing | RecvError::Disconnected => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Link, Link) {
        let (a, b) = Channel::pair().unwrap();
        (Link::new(a), Link::new(b))
    }

    /// What is heard until there is nothing more.
    fn heard(link: &mut Link) -> Vec<String> {
        std::iter::from_fn(|| link.next().unwrap()).map(name).collect()
    }

    fn name(heard: Heard) -> String {
        match heard {
            Heard::Message(message) => String::from_utf8_lossy(&message.bytes).into_owned(),
            Heard::Failed(error) => error.to_string(),
            heard @ (Heard::Drained | Heard::Disconnected) => format!("{heard:?}"),
        }
    }

    /// Sends until there is no room; gives how many went.
    fn fill(link: &mut Link) -> usize {
        let mut count = 0;
        loop {
            match link.send(vec![b'x'; 100_000].into()) {
                Ok(()) => count += 1,
                Err(SendError::Full(message)) => {
                    assert_eq!(message.bytes.len(), 100_000);
                    return count;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn messages_go_both_ways_until_one_disconnects() {
        let (mut a, mut b) = pair();
        a.send("one".into()).unwrap();
        a.send("two".into()).unwrap();
        b.send("three".into()).unwrap();
        assert_eq!(heard(&mut b), ["one", "two"]);
        b.send("four".into()).unwrap();
        b.disconnect().unwrap();
        assert!(!b.is_connected());
        assert!(matches!(b.send("five".into()), Err(SendError::Disconnected(_))));
        assert_eq!(heard(&mut a), ["three", "four", "Disconnected"]);
        assert_eq!(heard(&mut a), [""; 0], "once");
        assert_eq!(heard(&mut b), ["Disconnected"]);
        assert!(!a.is_connected());
        a.disconnect().unwrap();
    }

    #[test]
    fn what_was_sent_before_a_disconnect_by_the_other_side_is_heard() {
        let (mut a, mut b) = pair();
        a.send("one".into()).unwrap();
        b.disconnect().unwrap();
        assert_eq!(heard(&mut b), ["one", "Disconnected"]);
        assert_eq!(heard(&mut a), ["Disconnected"]);
        assert!(matches!(a.send("two".into()), Err(SendError::Disconnected(_))));
    }

    #[test]
    fn row26_a_full_queue_gives_the_message_back_and_tells_once_when_there_is_room() {
        let (mut a, mut b) = pair();
        a.send("one".into()).unwrap();
        assert!(!a.has_unsent());
        let count = fill(&mut a);
        assert!(a.has_unsent() && count > 10, "{count}");
        assert_eq!(heard(&mut a), [""; 0]);
        let mut received = 0;
        let mut told = Vec::new();
        while a.has_unsent() {
            received += heard(&mut b).len();
            told.extend(heard(&mut a));
        }
        assert_eq!(told, ["Drained"]);
        received += heard(&mut b).len();
        assert_eq!(received, count + 1);
        a.send("last".into()).unwrap();
        assert_eq!(heard(&mut b), ["last"]);
    }

    #[test]
    fn a_disconnect_comes_after_what_is_queued() {
        let (mut a, mut b) = pair();
        let count = fill(&mut a);
        a.disconnect().unwrap();
        let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
        while a.is_open() || b.is_open() {
            at_b.extend(heard(&mut b));
            at_a.extend(heard(&mut a));
        }
        assert_eq!(at_a.last().map(String::as_str), Some("Disconnected"));
        assert_eq!((at_b.len(), &*at_b[count]), (count + 1, "Disconnected"));
    }

    #[test]
    fn row25_what_is_queued_when_the_other_side_goes_comes_back() {
        let (mut a, b) = pair();
        let count = fill(&mut a);
        drop(b);
        assert_eq!(heard(&mut a), ["Disconnected"]);
        let unsent = a.take_unsent();
        assert!(!unsent.is_empty() && unsent.len() < count, "{} of {count}", unsent.len());
        assert!(unsent.iter().all(|message| message.bytes.len() == 100_000));
        assert!(a.take_unsent().is_empty());
        assert!(matches!(a.send("late".into()), Err(SendError::Disconnected(_))));
    }

    #[test]
    fn what_is_no_message_closes_the_channel_and_is_told_once() {
        let (a, mut b) = Channel::pair().unwrap();
        let mut a = Link::new(a);
        b.try_send(Frame::new(MESSAGE, "one")).unwrap();
        b.try_send(Frame::new(MESSAGE + 1, "no message")).unwrap();
        let text = "the other side of the channel sent what is no message: a frame of kind 1";
        assert_eq!(heard(&mut a), ["one", text, "Disconnected"]);
        assert!(matches!(b.recv_deadline(None), Err(ipc_core::RecvError::Closed)));
    }

    #[test]
    fn a_deadline_that_is_over_is_told_and_nothing_is_lost() {
        let (mut a, mut b) = pair();
        let past = Some(crate::clock::deadline(Duration::ZERO));
        assert!(matches!(b.recv_deadline(past), Err(RecvError::Nothing)));
        a.send("one".into()).unwrap();
        assert_eq!(b.recv_deadline(past).unwrap().bytes, b"one");
        fill(&mut a);
        assert!(matches!(a.send_deadline("two".into(), past), Err(SendError::Full(_))));
        assert_eq!(a.flush_deadline(past).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(b);
        assert!(matches!(a.recv_deadline(None), Err(RecvError::Disconnected)));
        assert_eq!(heard(&mut a), ["Disconnected"]);
    }
}
