//! Children with a channel: messages, handles, back-pressure, the end.

#[cfg(target_os = "linux")]
pub(crate) mod end;
pub(crate) mod functions;
#[cfg(target_os = "linux")]
pub(crate) mod handles;
pub(crate) mod messages;

use std::io::{self, BufRead};
use std::time::Instant;

use mio::{Events, Interest, Poll, Token};
use runtime::process::{self, Child, Command, Event, Parent, Stdio};

use crate::harness::ROLE;
use crate::harness::tools::DEADLINE;
use crate::support::{role, this_binary};

fn soon() -> Option<Instant> {
    Some(Instant::now() + DEADLINE)
}

/// A role of this binary, to be forked; it says on standard error why it fails.
fn command(name: &str, args: &[&str]) -> Command {
    let mut command = role(name, args);
    command.stdin(Stdio::null());
    command
}

/// The same, started in the ordinary way.
fn std_role(name: &str, args: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(this_binary());
    command.args([ROLE, name]).args(args);
    command
}

/// In a role, its parent.
fn parent() -> io::Result<Parent> {
    process::parent()?.ok_or_else(|| io::Error::other("a channel was expected"))
}

/// In a role, waits until the test closes the standard input, or says something there.
fn wait_for_go() -> io::Result<()> {
    io::stdin().lock().read_line(&mut String::new()).map(drop)
}

/// Hears of a child in a loop of its own.
struct Ear {
    poll: Poll,
    ready: Events,
}

impl Ear {
    fn new(child: &mut Child) -> Ear {
        let poll = Poll::new().unwrap();
        poll.registry().register(child, Token(7), Interest::READABLE).unwrap();
        Ear { poll, ready: Events::with_capacity(8) }
    }

    /// All events up to the first of those that are looked for, which is the last.
    #[track_caller]
    fn hear_until(&mut self, child: &mut Child, is_it: impl Fn(&Event) -> bool) -> Vec<Event> {
        let deadline = Instant::now() + DEADLINE;
        let mut heard = Vec::new();
        loop {
            while let Some(event) = child.next_event().unwrap() {
                let is_it = is_it(&event);
                heard.push(event);
                if is_it {
                    return heard;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "in vain, after {:?}", names(&heard));
            self.poll.poll(&mut self.ready, Some(left)).unwrap();
        }
    }

    /// All events to the end.
    #[track_caller]
    fn hear_all(&mut self, child: &mut Child) -> Vec<Event> {
        let heard = self.hear_until(child, |event| matches!(event, Event::Closed(_)));
        assert!(child.next_event().unwrap().is_none());
        self.poll.registry().deregister(child).unwrap();
        heard
    }
}

/// All events of a child to its end.
#[track_caller]
fn hear_all(child: &mut Child) -> Vec<Event> {
    Ear::new(child).hear_all(child)
}

/// Events in short: messages by their text, exits by their code or signal.
fn names(events: &[Event]) -> Vec<String> {
    let name = |event: &Event| match event {
        Event::Spawned { .. } => "spawned".into(),
        Event::Message(message) => String::from_utf8_lossy(&message.bytes).into_owned(),
        Event::Exited(exit) | Event::Closed(exit) if exit.signal().is_some() => {
            format!("{} by signal {}", kind(event), exit.signal().unwrap())
        }
        Event::Exited(exit) | Event::Closed(exit) => {
            format!("{} {}", kind(event), exit.code().unwrap())
        }
        Event::Error(error) => error.to_string(),
        event => kind(event),
    };
    events.iter().map(name).collect()
}

fn kind(event: &Event) -> String {
    let text = format!("{event:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_lowercase()
}
