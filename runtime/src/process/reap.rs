//! Collects children that were dropped while they ran, so that no zombie is left.
//!
//! One thread attends to all of them, and ends with the last. If it can't be started (no
//! descriptors, no threads), that is tried again with the next child.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};

use super::supervised::Supervised;

/// How often what could not be registered is looked for.
const RETRY: Duration = Duration::from_millis(100);

/// The waker's; children count from 0.
const WAKER: Token = Token(usize::MAX);

struct Inbox {
    new: Vec<Supervised>,
    /// That of the thread, as long as there is one.
    waker: Option<Arc<Waker>>,
}

static INBOX: Mutex<Inbox> = Mutex::new(Inbox { new: Vec::new(), waker: None });

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
        match &self.waker {
            Some(waker) => drop(waker.wake()),
            None => self.waker = Reaper::start().ok(),
        }
    }
}

struct Reaper {
    poll: Poll,
    children: BTreeMap<usize, Supervised>,
    /// What the system had no room for in the poll.
    unregistered: Vec<usize>,
    next: usize,
}

impl Reaper {
    fn start() -> io::Result<Arc<Waker>> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let reaper = Reaper { poll, children: BTreeMap::new(), unregistered: Vec::new(), next: 0 };
        thread::Builder::new().name("child-reaper".into()).spawn(|| reaper.run())?;
        Ok(waker)
    }

    fn run(mut self) {
        let mut ready = Events::with_capacity(256);
        while self.take_new() {
            let timeout = if self.unregistered.is_empty() { None } else { Some(RETRY) };
            match self.poll.poll(&mut ready, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return self.give_back(),
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
            let new = std::mem::take(&mut inbox.new);
            if new.is_empty() {
                if self.children.is_empty() {
                    // Whoever comes now starts another thread.
                    inbox.waker = None;
                }
                return !self.children.is_empty();
            }
            drop(inbox);
            for child in new {
                self.children.insert(self.next, child);
                self.register(self.next);
                self.next += 1;
            }
        }
    }

    fn register(&mut self, number: usize) {
        if let Some(child) = self.children.get(&number)
            && child.register(self.poll.registry(), Token(number)).is_err()
        {
            self.unregistered.push(number);
        }
        self.tend(number);
    }

    fn tend(&mut self, number: usize) {
        let Some(child) = self.children.get_mut(&number) else { return };
        // What can't be collected now can't be later.
        let is_lost = child.advance().is_err();
        while child.poll_event().is_some() {}
        if is_lost || child.exit().is_some() {
            self.children.remove(&number);
        }
    }

    fn give_back(mut self) {
        let mut inbox = inbox();
        inbox.waker = None;
        inbox.new.extend(std::mem::take(&mut self.children).into_values());
    }
}
