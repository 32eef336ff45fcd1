//! The processes of workers, and what is said to and by them.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use ipc_core::{Channel, Message, TryRecvError, TrySendError};
use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::post::limits;
use super::program::SpawnError;
use super::{Master, Subject};
use crate::event::WorkerId;
use crate::exit::Exit;
use crate::machine::{FromWorker, Input, ListenFailure, Signal, ToWorker};
use crate::mailbox::Accepted;
use crate::post::{MESSAGE_FROM_WORKER, NOTICE_FROM_WORKER};
use crate::sys::{self, Process};

/// How many messages of a worker that has ended are handled.
const LAST_MESSAGES_MAX: usize = 4096;

/// A worker's process and our end of its channel.
#[derive(Debug)]
pub(super) struct Seated {
    pub(super) process: Process,
    process_token: Token,
    /// Whether we sent it SIGKILL.
    killed: bool,
    /// `None` after its end.
    pub(super) channel: Option<(Channel, Token)>,
}

impl Master {
    pub(super) fn spawn(&mut self, worker: WorkerId) -> Input<Accepted> {
        let spawned = self.try_spawn(worker);
        // That takes its time.
        self.now = self.clock.now();
        match spawned {
            Ok(pid) => Input::Spawned { worker, pid },
            Err(SpawnError { reason, is_transient: transient }) => {
                let error = format!("{}: {reason}", self.config.program.name());
                Input::SpawnFailed { worker, error, transient }
            }
        }
    }

    fn try_spawn(&mut self, worker: WorkerId) -> Result<u32, SpawnError> {
        let options = self.config.slots.get(worker.slot);
        let options = options.expect("every slot of the machine's has options");
        let (process, channel) = self.config.program.spawn(worker, options)?;
        let mut channel = channel.with_limits(limits(self.config.terms));
        let pid = process.pid();
        let process_token = self.token(Subject::Process(worker));
        let channel_token = self.token(Subject::Channel(worker));
        let registry = self.poll.registry();
        let registered = registry
            .register(&mut SourceFd(&process_fd(&process)), process_token, Interest::READABLE)
            .and_then(|()| {
                let interest = Interest::READABLE | Interest::WRITABLE;
                registry.register(&mut channel, channel_token, interest)
            });
        if let Err(error) = registered {
            self.subjects.remove(&process_token);
            self.subjects.remove(&channel_token);
            // Nobody would hear of its end: end it here.
            let _ = process.signal(sys::SIGKILL);
            process.wait();
            return Err(error.into());
        }
        let channel = Some((channel, channel_token));
        self.workers.insert(worker, Seated { process, process_token, killed: false, channel });
        self.seat_post(worker);
        Ok(pid)
    }

    pub(super) fn signal(&mut self, worker: WorkerId, signal: Signal) {
        let signal = match signal {
            Signal::Terminate => sys::SIGTERM,
            Signal::Kill => sys::SIGKILL,
            Signal::Other(number) => number,
        };
        let Some(seated) = self.workers.get_mut(&worker) else { return };
        seated.killed |= signal == sys::SIGKILL;
        if let Err(error) = seated.process.signal(signal) {
            tracing::error!(%worker, %error, "can't send signal {signal}");
        }
    }

    /// Sends a message; where that fails, says what the machine must know of it.
    pub(super) fn tell(&mut self, worker: WorkerId, message: &ToWorker) -> Option<Input<Accepted>> {
        let (kind, payload) = message.encode();
        let mut frame = Message::new(kind, payload);
        if let ToWorker::Listening { request, result: Ok(joined) } = message {
            match self.handles_for(worker, joined) {
                Ok([source, board]) => frame = frame.with_handle(source).with_handle(board),
                Err(error) => {
                    // As if the worker had closed it at once: it hears that it failed.
                    let errno = error.raw_os_error().unwrap_or(sys::EMFILE);
                    let failure = ListenFailure { errno, reason: error.to_string() };
                    let failed = ToWorker::Listening { request: *request, result: Err(failure) };
                    let _ = self.tell(worker, &failed);
                    let message = FromWorker::Close { listener: joined.listener };
                    return Some(Input::Message { worker, message });
                }
            }
        }
        let (channel, _) = self.workers.get_mut(&worker)?.channel.as_mut()?;
        match channel.try_send(frame) {
            // That it is gone, its process says.
            Ok(()) | Err(TrySendError::Closed(_)) => {
                if channel.is_throttled() {
                    self.throttled.push(worker);
                }
                None
            }
            // One that does not read its channel does not wait for connections either.
            Err(TrySendError::Full(_)) if matches!(message, ToWorker::Look { .. }) => None,
            Err(error) => {
                tracing::error!(%worker, %error, "can't be told");
                Some(Input::Violation { worker })
            }
        }
    }

    /// Tries again to send what could not be sent for the number of descriptors in flight.
    pub(super) fn flush_throttled(&mut self) {
        for worker in std::mem::take(&mut self.throttled) {
            self.pump(worker);
        }
    }

    /// Handles what a worker says, up to a number of messages.
    pub(super) fn hear(&mut self, worker: WorkerId, messages_max: usize) {
        for _ in 0..messages_max {
            let Some(seated) = self.workers.get_mut(&worker) else { return };
            let Some((channel, _)) = &mut seated.channel else { return };
            let received = match channel.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Empty) => return self.pump(worker),
                Err(TryRecvError::Closed) => {
                    self.drop_channel(worker);
                    return self.handle(Input::ChannelClosed { worker });
                }
                Err(TryRecvError::Protocol(error)) => {
                    tracing::error!(%worker, %error, "protocol violation");
                    self.drop_channel(worker);
                    return self.handle(Input::Violation { worker });
                }
                Err(TryRecvError::Io(error)) => {
                    // Out of memory or descriptors, perhaps: the worker is not to blame.
                    tracing::error!(%worker, %error, "channel");
                    return self.unheard.push_back(worker);
                }
            };
            let kind = received.kind;
            let heard = match kind {
                MESSAGE_FROM_WORKER | NOTICE_FROM_WORKER => {
                    self.heard_post(worker, received).ok().map(|()| None)
                }
                _ if received.handles.is_empty() => {
                    FromWorker::decode(kind, &received.payload).ok().map(Some)
                }
                _ => None,
            };
            match heard {
                Some(Some(message)) => self.handle(Input::Message { worker, message }),
                Some(None) => {}
                None => {
                    tracing::error!(%worker, kind, "protocol violation");
                    self.drop_channel(worker);
                    return self.handle(Input::Violation { worker });
                }
            }
        }
        self.unheard.push_back(worker);
    }

    fn drop_channel(&mut self, worker: WorkerId) {
        if let Some(seated) = self.workers.get_mut(&worker)
            && let Some((mut channel, token)) = seated.channel.take()
        {
            let _ = self.poll.registry().deregister(&mut channel);
            self.subjects.remove(&token);
            self.unseat_post(worker);
            // What it has said comes before its end, also for the program.
            self.deliver_posts();
        }
    }

    /// Collects a worker that has ended, after all that it has said.
    pub(super) fn reap(&mut self, worker: WorkerId) {
        // Bounded, since a child of the worker's may hold the channel and go on sending.
        self.hear(worker, LAST_MESSAGES_MAX);
        let Some(seated) = self.workers.get(&worker) else { return };
        let exit = match seated.process.reap() {
            Ok(Some(exit)) => exit,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%worker, %error, "its exit status can't be had");
                Exit::Unknown
            }
        };
        let killed = seated.killed;
        let exit = match exit {
            Exit::Signal { signal: sys::SIGKILL, .. } if !killed && self.oom_kills.claim() => {
                Exit::OutOfMemory
            }
            other => other,
        };
        self.drop_channel(worker);
        if let Some(seated) = self.workers.remove(&worker) {
            let _ = self.poll.registry().deregister(&mut SourceFd(&process_fd(&seated.process)));
            self.subjects.remove(&seated.process_token);
        }
        for board in self.boards.values() {
            board.clear(worker.slot);
        }
        self.handle(Input::Exited { worker, exit });
    }
}

fn process_fd(process: &Process) -> RawFd {
    process.as_fd().as_raw_fd()
}
