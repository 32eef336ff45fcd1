//! Collects children that were dropped while they ran, so that no zombie is left.
//!
//! One thread attends to all of them, and ends with the last. Without descriptors for that, it
//! looks at them now and then; and if it can't be started, that is tried again with the next child.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};

use super::supervised::Supervised;

/// How often what can't wake us is looked at.
const RETRY: Duration = Duration::from_millis(20);

/// The waker's; children count from 0.
const WAKER: Token = Token(usize::MAX);

struct Inbox {
    new: Vec<Supervised>,
    is_attended: bool,
    /// That of the thread, once it has one.
    waker: Option<Waker>,
}

static INBOX: Mutex<Inbox> = Mutex::new(Inbox { new: Vec::new(), is_attended: false, waker: None });

fn inbox() -> MutexGuard<'static, Inbox> {
    INBOX.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Attends to a child until it was collected.
pub(super) fn adopt(child: Supervised) {
    let mut inbox = inbox();
    inbox.new.push(child);
    inbox.attend();
}

/// Attends to those that nobody could attend to before.
pub(super) fn retry() {
    let mut inbox = inbox();
    if !inbox.new.is_empty() {
        inbox.attend();
    }
}

impl Inbox {
    fn attend(&mut self) {
        if !self.is_attended {
            let thread = thread::Builder::new().name("child-reaper".into());
            self.is_attended = thread.spawn(attend).is_ok();
        } else if let Some(waker) = &self.waker {
            // It looks again anyway if that can't be told.
            let _ = waker.wake();
        }
    }

    /// Whether there is nothing to do; whoever comes then starts another thread.
    fn leave(&mut self) -> bool {
        if self.new.is_empty() {
            *self = Inbox { new: Vec::new(), is_attended: false, waker: None };
        }
        !self.is_attended
    }
}

/// The thread.
fn attend() {
    loop {
        if let Ok(reaper) = Reaper::new() {
            return reaper.run();
        }
        let mut children = std::mem::take(&mut inbox().new);
        children.retain_mut(|child| !is_over(child));
        let mut inbox = inbox();
        inbox.new.extend(children);
        if inbox.leave() {
            return;
        }
        drop(inbox);
        thread::park_timeout(RETRY);
    }
}

/// Whether nothing is left to do for it.
fn is_over(child: &mut Supervised) -> bool {
    // What can't be collected now can't be later.
    let is_lost = child.advance().is_err();
    while child.poll_event().is_some() {}
    is_lost || child.exit().is_some()
}

struct Reaper {
    poll: Poll,
    children: BTreeMap<usize, Supervised>,
    /// What the system had no room for in the poll.
    unregistered: Vec<usize>,
    next: usize,
}

impl Reaper {
    fn new() -> io::Result<Reaper> {
        let poll = Poll::new()?;
        inbox().waker = Some(Waker::new(poll.registry(), WAKER)?);
        Ok(Reaper { poll, children: BTreeMap::new(), unregistered: Vec::new(), next: 0 })
    }

    fn run(mut self) {
        let mut ready = Events::with_capacity(256);
        while self.take_new() {
            let timeout = if self.unregistered.is_empty() { None } else { Some(RETRY) };
            match self.poll.poll(&mut ready, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // There is no cause for that; if there ever is, they are looked at now and then.
                Err(_) => thread::park_timeout(RETRY),
            }
            for token in ready.iter().map(|event| event.token()).filter(|token| *token != WAKER) {
                self.tend(token.0);
            }
            for number in std::mem::take(&mut self.unregistered) {
                self.register(number);
            }
        }
    }

    /// Takes what was left to us; `false` if there is nothing to do any more.
    fn take_new(&mut self) -> bool {
        loop {
            let mut inbox = inbox();
            if inbox.new.is_empty() {
                return !self.children.is_empty() || !inbox.leave();
            }
            let new = std::mem::take(&mut inbox.new);
            drop(inbox);
            for child in new {
                self.children.insert(self.next, child);
                self.register(self.next);
                self.next += 1;
            }
        }
    }

    fn register(&mut self, number: usize) {
        if let Some(child) = self.children.get_mut(&number)
            && child.register(self.poll.registry(), Token(number)).is_err()
        {
            self.unregistered.push(number);
        }
        self.tend(number);
    }

    fn tend(&mut self, number: usize) {
        if self.children.get_mut(&number).is_some_and(is_over) {
            self.children.remove(&number);
        }
    }
}
