//! A worker that does what messages tell it, and what a test needs to talk with it.

use std::error::Error;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use ipc_core::Handles;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime::{Builder, Message, Messages, Received, SendError, Sender, Worker, WorkerId};

use super::DEADLINE;
use super::cluster::{Running, role};
use super::desk::{Desk, Phone};
use super::roles::worker;
use crate::harness::{Outcome, roles};

roles! {
    messenger,
}

pub(crate) fn messengers(desk: &Desk, workers: usize) -> Running {
    let mut running = Running::start(messenger_builder(desk).workers(workers));
    running.online(workers);
    running
}

pub(crate) fn messenger_builder(desk: &Desk) -> Builder {
    role("messenger", &[&desk.number()])
}

pub(crate) fn id(slot: usize) -> WorkerId {
    WorkerId { slot, generation: 1 }
}

/// `messenger DESK`: does what messages of the master's program tell it. What workers send it, it
/// reports to the program as `SENDER: TEXT`, with the handles.
///
/// | message | what it does |
/// |---|---|
/// | `echo TEXT` | replies, or sends, TEXT and the handles |
/// | `hold` | keeps the message; says `holding` to the desk |
/// | `let go` | replies `late` to what it keeps |
/// | `drop` | nothing: drops the message |
/// | `to SLOT TEXT` | sends TEXT and the handles to another |
/// | `ask SLOT MS TEXT` | asks another, and replies what came of it |
/// | `query TEXT` | asks the program, and sends it what came of it |
/// | `all TEXT` | sends TEXT to all others |
/// | `fill SLOT BYTES` | sends so many bytes until there is no room; replies how often |
/// | `fill BYTES` | the same, to the program |
/// | `flood N` | sends N messages with a handle each to the program, waiting for room |
/// | `hush` | says `hushed` to the desk, and takes no message until the desk says something |
/// | `end N` | sends N messages, and ends |
fn messenger(args: &[String]) -> Outcome {
    messenger_as(args)
}

pub(crate) fn messenger_as(args: &[String]) -> Outcome {
    let worker = worker()?;
    let messages = worker.messages();
    let phone = Phone::new(&args[0], &worker.id().slot.to_string())?;
    let mut held = Vec::new();
    loop {
        if !await_one(&worker, messages.as_fd())? {
            return Ok(());
        }
        while let Ok(received) = messages.try_recv() {
            if !obey(&worker, &phone, received, &mut held)? {
                return Ok(());
            }
        }
    }
}

/// False when the worker shall stop.
fn await_one(worker: &Worker, other: BorrowedFd<'_>) -> Result<bool, Errno> {
    let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut fds = [readable(worker.as_fd()), readable(other)];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(fds[0].any() == Some(false)),
        }
    }
}

/// False when the worker shall end.
fn obey(
    worker: &Worker,
    phone: &Phone,
    mut received: Received<Sender>,
    held: &mut Vec<Received<Sender>>,
) -> Result<bool, Box<dyn Error + Send + Sync>> {
    let order = String::from_utf8_lossy(&received.message.bytes).into_owned();
    let handles = std::mem::take(&mut received.message.handles);
    if let (Sender::Worker(from), false) = (received.from, received.is_request()) {
        let report = Message { bytes: format!("{from}: {order}").into_bytes(), handles };
        worker.send_deadline(report, Instant::now() + DEADLINE)?;
        return Ok(true);
    }
    let (verb, rest) = order.split_once(' ').unwrap_or((&order, ""));
    match verb {
        "echo" => {
            let message = Message { bytes: rest.as_bytes().to_vec(), handles };
            match received.is_request() {
                true => received.reply(message)?,
                false => worker.send_deadline(message, Instant::now() + DEADLINE)?,
            }
        }
        "hold" => {
            held.push(received);
            phone.say("holding")?;
        }
        "let" => held.drain(..).try_for_each(|one| one.reply("late").or_else(is_gone))?,
        "drop" => drop(received),
        "hush" => {
            phone.say("hushed")?;
            if !await_one(worker, phone.as_fd())? {
                return Ok(false);
            }
            phone.hear()?;
        }
        "end" => {
            for number in 0..rest.parse::<usize>()? {
                worker.send(format!("{number} {}", "x".repeat(8000)))?;
            }
            return Ok(false);
        }
        _ => send_on(worker, received, handles, verb, rest)?,
    }
    Ok(true)
}

/// The orders to send something.
fn send_on(
    worker: &Worker,
    received: Received<Sender>,
    handles: Handles,
    verb: &str,
    rest: &str,
) -> Outcome {
    match verb {
        "to" => {
            let (slot, text) = rest.split_once(' ').ok_or("no text")?;
            let message = Message { bytes: text.as_bytes().to_vec(), handles };
            let deadline = Instant::now() + DEADLINE;
            worker.send_to_deadline(slot.parse::<usize>()?, message, deadline)?;
        }
        "ask" => {
            let mut words = rest.splitn(3, ' ');
            let mut word = || words.next().ok_or("too few words");
            let (slot, ms, text) = (word()?.parse::<usize>()?, word()?.parse()?, word()?);
            let reply = worker.request_of(slot, text, Duration::from_millis(ms));
            received.reply(match reply {
                Ok(reply) => reply,
                Err(error) => Message::new(format!("{error:?}")),
            })?;
        }
        "query" => {
            let report = match worker.request(rest, DEADLINE) {
                Ok(reply) => reply,
                Err(error) => Message::new(format!("{error:?}")),
            };
            worker.send_deadline(report, Instant::now() + DEADLINE)?;
        }
        "all" => worker.broadcast(rest)?,
        "fill" => {
            let (slot, bytes) = rest.split_once(' ').map_or((None, rest), |(a, b)| (Some(a), b));
            let (slot, bytes): (Option<usize>, usize) =
                (slot.map(str::parse).transpose()?, bytes.parse()?);
            let mut count = 0;
            let send = |bytes| match slot {
                Some(slot) => worker.send_to(slot, bytes),
                None => worker.send(bytes),
            };
            while send(vec![b'x'; bytes]).is_ok() {
                count += 1;
            }
            received.reply(count.to_string())?;
        }
        "flood" => {
            for number in 0..rest.parse()? {
                let message =
                    Message::new(format!("{number}")).with_handle(File::open("/dev/null")?);
                worker.send_deadline(message, Instant::now() + DEADLINE)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn is_gone(error: SendError) -> Result<(), SendError> {
    if let SendError::Gone(_) = error { Ok(()) } else { Err(error) }
}

/// The next message.
#[track_caller]
pub(crate) fn next(messages: &Messages) -> Received {
    let received = messages.recv_deadline(Instant::now() + DEADLINE);
    received.unwrap_or_else(|error| panic!("waited in vain for a message: {error}"))
}

/// The next message's sender and text.
#[track_caller]
pub(crate) fn next_text(messages: &Messages) -> (WorkerId, String) {
    let received = next(messages);
    assert_eq!(received.message.handles.len(), 0);
    (received.from, text(&received.message))
}

pub(crate) fn text(message: &Message) -> String {
    String::from_utf8(message.bytes.clone()).expect("text")
}

/// Asks a messenger; gives its answer's text.
#[track_caller]
pub(crate) fn ask(running: &Running, slot: usize, order: &str) -> String {
    let reply = running.cluster.request(slot, order, DEADLINE);
    text(&reply.unwrap_or_else(|error| panic!("{order}: {error}")))
}

#[track_caller]
pub(crate) fn send(running: &Running, slot: usize, message: impl Into<Message>) {
    let sent = running.cluster.send_deadline(slot, message, Instant::now() + DEADLINE);
    sent.unwrap_or_else(|error| panic!("{error}"));
}
