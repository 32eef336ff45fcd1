//! Messages in the master: from its program's threads to its loop and back, and through channels.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use handle_passing::Handle;
use ipc_core::{Limits, Message as Frame, TrySendError};

use super::{Control, Master};
use crate::clock::deadline_after;
use crate::desk::{Desk, Nothing, batch};
use crate::event::WorkerId;
use crate::messages::{End, Received};
use crate::post::{
    Arrival, ENVELOPE_BYTES, Hub, Message, Recipient, RequestError, SendError, Terms, Violation,
    What,
};

/// The largest frame that is no message, in bytes: an address to listen on.
const CONTROL_BYTES_MAX: usize = 8 << 10;

/// The most handles that the master sends with a frame that is no message.
const CONTROL_HANDLES_MAX: usize = 2;

/// What is called with every message, on the master's thread.
pub(crate) type MessageHook = Box<dyn FnMut(Received) + Send>;

/// What the master's program and its loop share for messages.
#[derive(Debug, Default)]
pub(crate) struct Post(OnceLock<Desk<Hub<Handle>>>);

impl Post {
    /// Prepares it, before the master exists. If the program takes no messages (`is_read`), they
    /// are dropped.
    pub(crate) fn open(&self, terms: Terms, is_read: bool) -> io::Result<()> {
        let desk = Desk::new(Hub::new(terms, is_read))?;
        assert!(self.0.set(desk).is_ok(), "it is opened once");
        Ok(())
    }

    pub(super) fn desk(&self) -> &Desk<Hub<Handle>> {
        self.0.get().expect("it is opened before there is a master")
    }
}

/// The calls of the program's threads.
impl Control {
    pub(crate) fn send_message(
        &self,
        to: Recipient,
        message: Message,
        may_wait: bool,
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        let sent = self.with_hub(|hub| hub.send(to, What::Note, message, may_wait));
        let (_, ticket) = sent?;
        let result = self.post.desk().wait_sent(ticket, deadline);
        self.wake_for_messages();
        result
    }

    pub(crate) fn broadcast(&self, bytes: Vec<u8>) -> Result<(usize, Vec<WorkerId>), SendError> {
        self.with_hub(|hub| hub.broadcast(bytes))
    }

    pub(crate) fn request(
        &self,
        to: Recipient,
        message: Message,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        let deadline = deadline_after(timeout);
        let (request, _, ticket) = self.with_hub(|hub| hub.request(to, message))?;
        let result = self.post.desk().wait_reply(request, ticket, deadline);
        self.wake_for_messages();
        result
    }

    fn with_hub<T>(&self, act: impl FnOnce(&mut Hub<Handle>) -> T) -> T {
        let result = self.post.desk().with(act);
        self.wake_for_messages();
        result
    }

    /// The loop looks at the hub at the end of each turn: see that there is one.
    fn wake_for_messages(&self) {
        if self.post.desk().with(|hub| hub.is_dirty()) {
            self.wake();
        }
    }
}

impl End<WorkerId> for Control {
    fn take(
        &self,
        may_wait: bool,
        deadline: Option<Instant>,
    ) -> Result<Arrival<WorkerId, Handle>, Nothing> {
        let arrival = self.post.desk().take(may_wait, deadline);
        self.wake_for_messages();
        arrival
    }

    fn reply(&self, to: WorkerId, request: u32, message: Message) -> Result<(), SendError> {
        self.with_hub(|hub| hub.reply(to, request, message))
    }

    fn refuse(&self, to: WorkerId, request: u32) {
        self.with_hub(|hub| hub.refuse(to, request));
    }

    fn message_fd(&self) -> BorrowedFd<'_> {
        self.post.desk().as_fd()
    }
}

/// The loop's part.
impl Master {
    /// A worker has a channel.
    pub(super) fn seat_post(&self, worker: WorkerId) {
        // Who runs as somebody else, may be hostile.
        let options = self.config.slots.get(worker.slot);
        let is_trusted = options.is_some_and(|options| options.child.uid.is_none());
        self.control.post.desk().with(|hub| hub.seat(worker, is_trusted));
    }

    /// A worker's channel is at its end.
    pub(super) fn unseat_post(&self, worker: WorkerId) {
        self.control.post.desk().with(|hub| hub.unseat(worker));
    }

    /// A worker has sent a message, or something about messages.
    pub(super) fn heard_post(&self, worker: WorkerId, frame: Frame) -> Result<(), Violation> {
        self.control.post.desk().with(|hub| hub.heard(worker, frame))
    }

    /// Gives messages to the program's hook, and to channels what they take.
    pub(super) fn deliver_posts(&mut self) {
        if let Some(hook) = &mut self.on_message {
            while let Ok(arrival) = self.control.post.desk().take(false, None) {
                let end: Arc<dyn End<WorkerId>> = Arc::<Control>::clone(&self.control);
                hook(Received::new(arrival, end));
            }
        }
        for worker in self.control.post.desk().with(Hub::take_dirty) {
            self.pump(worker);
        }
    }

    /// Sends to a worker what its channel takes: what waits there, then messages, which so never
    /// stand in front of anything else for long.
    pub(super) fn pump(&mut self, worker: WorkerId) {
        let Some(seated) = self.workers.get_mut(&worker) else { return };
        let Some((channel, _)) = &mut seated.channel else { return };
        loop {
            match channel.flush() {
                Ok(true) => {}
                Ok(false) => {
                    if channel.is_throttled() && !self.throttled.contains(&worker) {
                        self.throttled.push(worker);
                    }
                    return;
                }
                Err(error) => return tracing::debug!(%worker, %error, "channel"),
            }
            let frames = self.control.post.desk().with(|hub| batch(|| hub.poll_frame(worker)));
            if frames.is_empty() {
                return;
            }
            for frame in frames {
                if let Err(error) = channel.queue(frame) {
                    report(worker, &error);
                }
            }
        }
    }

    /// Nothing more can be said or heard.
    pub(super) fn close_post(&self) {
        self.control.post.desk().with(Hub::close);
    }
}

/// What one channel carries: messages, and frames of ours. Which of them may have handles is looked
/// at on receipt.
pub(crate) fn limits(terms: Terms) -> Limits {
    let defaults = Limits::default();
    let message_bytes_max = terms.message_bytes_max as usize + ENVELOPE_BYTES;
    Limits {
        payload_bytes_max: message_bytes_max.max(CONTROL_BYTES_MAX),
        handles_per_message_max: (terms.message_handles_max as usize).max(CONTROL_HANDLES_MAX),
        // Messages are queued a few at a time; the rest is for what must not wait for them.
        queued_bytes_max: message_bytes_max + defaults.queued_bytes_max,
        ..defaults
    }
}

/// The channel's limits are above those of messages, so this is a bug or the system's refusal.
fn report(worker: WorkerId, error: &TrySendError) {
    tracing::error!(%worker, %error, "a message can't be sent");
}
