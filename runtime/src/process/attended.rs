use std::io;

use mio::event::Source;
use mio::{Interest, Registry, Token};

use super::child::Child;
use super::event::Event;
use super::exec::Exec;

/// What [`Children`](super::Children) attends to.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "each has an allocation of its own anyway")]
pub(super) enum Attended {
    Child(Child),
    /// Its only event is the last.
    Exec(Exec),
}

impl Attended {
    pub(super) fn next_event(&mut self) -> io::Result<Option<Event>> {
        match self {
            Attended::Child(child) => child.next_event(),
            Attended::Exec(exec) => Ok(exec.try_finish().map(Event::Finished)),
        }
    }

    /// Goes on as far as that is possible without telling anything.
    pub(super) fn advance(&mut self) -> io::Result<()> {
        match self {
            Attended::Child(child) => child.advance(),
            Attended::Exec(exec) => {
                exec.go_on();
                Ok(())
            }
        }
    }

    pub(super) fn child(&self) -> &Child {
        match self {
            Attended::Child(child) => child,
            Attended::Exec(exec) => &exec.child,
        }
    }

    pub(super) fn child_mut(&mut self) -> &mut Child {
        match self {
            Attended::Child(child) => child,
            Attended::Exec(exec) => &mut exec.child,
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Attended::Child(child) => child,
            Attended::Exec(exec) => exec,
        }
    }
}

impl Source for Attended {
    fn register(&mut self, registry: &Registry, token: Token, how: Interest) -> io::Result<()> {
        self.source().register(registry, token, how)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, how: Interest) -> io::Result<()> {
        self.source().reregister(registry, token, how)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.source().deregister(registry)
    }
}
