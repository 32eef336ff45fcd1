//! A process and its life: carries out what that asks for, and keeps what it tells.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::{Interest, Registry, Token};

use super::bell::Bell;
use super::cancel::Attachment;
use super::command::Command;
use super::event::{Event, KillReason};
use super::life::{Input, Life, Options, Output, Time};
use super::link::{Heard, Link};
use super::running::Running;
use super::signal::Signal;
use crate::clock::{Clock, time_left};
use crate::exit::Exit;
use crate::message::Message;

/// How often what its channel did not take is offered again while its end is waited for.
const PUSH_PAUSE: Duration = Duration::from_millis(5);

/// How often its token is looked at while its channel is waited for.
const CANCEL_PAUSE: Duration = Duration::from_millis(20);

/// How often it is looked whether it has ended while its channel is waited for, which somebody else
/// may hold open.
const END_PAUSE: Duration = Duration::from_millis(200);

/// A child without its streams: what goes on with it, whoever has it.
#[derive(Debug)]
pub(super) struct Supervised {
    running: Arc<Running>,
    life: Life,
    clock: Clock,
    bell: Arc<Bell>,
    cancel: Option<Attachment>,
    /// What the bell's timer is set to, if that is known.
    armed: Option<Option<Time>>,
    events: VecDeque<Event>,
    /// Its channel, if it has one.
    link: Option<Link>,
}

impl Supervised {
    pub(super) fn new(command: &Command, running: Running, link: Option<Link>) -> Supervised {
        let bell = Arc::new(Bell::default());
        Supervised {
            running: Arc::new(running),
            life: Life::new(Options {
                timeout: command.timeout,
                kill_signal: command.kill_signal,
                kill_after: command.kill_after,
                has_streams: true,
                has_channel: link.is_some(),
            }),
            clock: Clock::start(),
            cancel: command.cancel.as_ref().map(|token| token.attach(&bell)),
            bell,
            armed: None,
            events: VecDeque::new(),
            link,
        }
    }

    /// Goes on as far as that is possible at once, and sets the timer for what comes next.
    pub(super) fn advance(&mut self) -> io::Result<()> {
        loop {
            if self.bell.hear() {
                self.armed = None;
            }
            // First, so that nobody is killed who has ended.
            if self.life.exit().is_none()
                && let Some(exit) = self.reap()?
            {
                self.hear_the_last();
                self.input(Input::Ended(exit));
            }
            if let Some(link) = &mut self.link {
                link.push()?;
            }
            if !self.bell.has_open_streams() {
                self.input(Input::StreamsEnded);
            }
            if self.cancel.as_ref().is_some_and(Attachment::is_cancelled) {
                self.input(Input::Kill(KillReason::Cancelled));
            }
            self.life.handle_timeout(self.clock.now());
            self.carry_out();
            self.arm()?;
            // It was not set if somebody has rung since then.
            if !self.bell.is_rung() {
                return Ok(());
            }
        }
    }

    /// Takes an input from another part of the child.
    pub(super) fn input(&mut self, input: Input) {
        self.life.handle(self.clock.now(), input);
        self.carry_out();
    }

    /// The next of what was told.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Makes an event of the next thing that comes by its channel, if there is any.
    pub(super) fn hear(&mut self) -> io::Result<()> {
        let Some(link) = &mut self.link else { return Ok(()) };
        match link.next()? {
            Some(Heard::Message(message)) => self.events.push_back(Event::Message(message)),
            Some(Heard::Drained) => self.events.push_back(Event::Drained),
            Some(Heard::Failed(error)) => self.events.push_back(Event::Error(error)),
            Some(Heard::Disconnected) => self.input(Input::ChannelClosed),
            None => self.arm()?,
        }
        Ok(())
    }

    /// All that it has sent, now that it has ended. That is no more than the system had room for,
    /// since a channel that is shut down takes nothing from those that it may have passed it on to.
    fn hear_the_last(&mut self) {
        // What is told already came before.
        self.carry_out();
        if let Some(link) = &mut self.link {
            link.shut_down();
        }
        let mut count = self.events.len();
        loop {
            if let Err(error) = self.hear() {
                self.events.push_back(Event::Error(error));
                return;
            }
            if self.events.len() == count {
                return;
            }
            count = self.events.len();
        }
    }

    /// Its channel, if it has one.
    pub(super) fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    /// The same.
    pub(super) fn link_mut(&mut self) -> Option<&mut Link> {
        self.link.as_mut()
    }

    /// Takes the first message out of what was told.
    pub(super) fn take_message(&mut self) -> Option<Message> {
        let index = self.events.iter().position(|event| matches!(event, Event::Message(_)))?;
        match self.events.remove(index) {
            Some(Event::Message(message)) => Some(message),
            _ => None,
        }
    }

    /// Waits for its end; `None` if the deadline comes first. Timeouts and cancellation take their
    /// course meanwhile.
    pub(super) fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Option<Exit>> {
        if self.cancel.is_some() {
            self.bell.hang()?;
        }
        loop {
            self.advance()?;
            if let Some(exit) = self.life.exit() {
                return Ok(Some(exit));
            }
            if deadline.is_some_and(|deadline| time_left(deadline).is_zero()) {
                return Ok(None);
            }
            // What is queued for it goes on meanwhile.
            let has_unsent = self.link.as_ref().is_some_and(Link::has_unsent);
            let push = has_unsent.then(|| self.clock.instant(self.clock.now() + PUSH_PAUSE));
            let until = push.flatten().into_iter().chain(self.turn(deadline)).min();
            self.running.process.wait_until(self.bell.timer(), until)?;
        }
    }

    /// Until when whoever waits for the deadline may wait before the child needs to be
    /// [looked after](Self::advance).
    fn turn(&self, deadline: Option<Instant>) -> Option<Instant> {
        let timeout = self.life.next_timeout().and_then(|time| self.clock.instant(time));
        deadline.into_iter().chain(timeout).min()
    }

    /// The same, for who waits for its channel, and is not woken by a token that is cancelled, nor
    /// by its end.
    pub(super) fn channel_turn(&self, deadline: Option<Instant>) -> Option<Instant> {
        let pause = if self.cancel.is_some() { CANCEL_PAUSE } else { END_PAUSE };
        let look = self.clock.instant(self.clock.now() + pause);
        look.into_iter().chain(self.turn(deadline)).min()
    }

    /// Makes it known to a loop, which hears of it at once.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let mut timer = self.bell.hang()?;
        (&self.running.process).register(registry, token, Interest::READABLE)?;
        if let Err(error) = timer.register(registry, token, Interest::READABLE) {
            let _ = (&self.running.process).deregister(registry);
            return Err(error);
        }
        if let Some(link) = &mut self.link
            && let Err(error) = link.register(registry, token, Interest::READABLE)
        {
            let _ = (&self.running.process).deregister(registry);
            let _ = timer.deregister(registry);
            return Err(error);
        }
        self.bell.ring();
        Ok(())
    }

    pub(super) fn reregister(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        (&self.running.process).reregister(registry, token, Interest::READABLE)?;
        let mut timer = self.bell.hang()?;
        timer.reregister(registry, token, Interest::READABLE)?;
        if let Some(link) = &mut self.link {
            link.reregister(registry, token, Interest::READABLE)?;
        }
        self.bell.ring();
        Ok(())
    }

    pub(super) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        (&self.running.process).deregister(registry)?;
        if let Some(link) = &mut self.link {
            link.deregister(registry)?;
        }
        self.bell.timer().map_or(Ok(()), |mut timer| timer.deregister(registry))
    }

    pub(super) fn running(&self) -> &Arc<Running> {
        &self.running
    }

    pub(super) fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        self.life.exit()
    }

    pub(super) fn killed(&self) -> Option<KillReason> {
        self.life.killed()
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.life.poll_output() {
            let event = match output {
                Output::Signal(signal) => {
                    let is_reached = self.signal(signal);
                    self.life.handle(self.clock.now(), Input::Signalled(is_reached));
                    continue;
                }
                Output::Spawned => Event::Spawned { pid: self.running.process.pid() },
                Output::Disconnected => Event::Disconnected,
                Output::Killed(reason) => Event::Killed(reason),
                Output::Exited(exit) => Event::Exited(exit),
                Output::Closed(exit) => Event::Closed(exit),
            };
            self.events.push_back(event);
        }
    }

    fn signal(&mut self, signal: Signal) -> bool {
        self.running.end(signal).unwrap_or_else(|error| {
            self.events.push_back(Event::Error(error));
            false
        })
    }

    fn reap(&self) -> io::Result<Option<Exit>> {
        self.running.process.reap().map_err(|error| self.running.error("collect", &error))
    }

    /// Sets the timer to the next timeout, unless it is.
    fn arm(&mut self) -> io::Result<()> {
        let retry = self.link.as_ref().and_then(Link::retry_after);
        let retry = retry.map(|pause| self.clock.now() + pause);
        let next = self.life.next_timeout().into_iter().chain(retry).min();
        if self.bell.timer().is_some() && self.armed != Some(next) {
            let delay: Option<Duration> = next.map(|time| self.clock.until(time));
            self.bell.arm(delay)?;
            self.armed = Some(next);
        }
        Ok(())
    }
}
