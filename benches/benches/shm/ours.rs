//! `ipc-core`'s shared memory, passed over its channel.

use std::hint::black_box;
use std::io;
use std::os::fd::AsFd;

use handle_passing::{FromHandle, Handle};
use ipc_core::shm::{FrozenMemory, SharedMemory};
use ipc_core::{Channel, Message, RecvError};

use crate::contender::{Act, Contender, Result, Subject};
use crate::peer::Peer;

pub(crate) fn start(subject: Subject, bytes: usize) -> Result<Act> {
    let source = vec![1; bytes];
    Ok(match subject {
        Subject::Create => Box::new(move || {
            drop(black_box(SharedMemory::create(bytes)?));
            Ok(())
        }),
        Subject::CreateFrom => Box::new(move || {
            let memory = SharedMemory::create(bytes)?;
            memory.write_at(0, &source)?;
            drop(black_box(memory));
            Ok(())
        }),
        Subject::CopyIn => {
            let memory = SharedMemory::create(bytes)?;
            Box::new(move || Ok(memory.write_at(0, black_box(&source))?))
        }
        Subject::CopyOut => {
            let memory = SharedMemory::create(bytes)?;
            let mut target = source;
            Box::new(move || {
                memory.read_at(0, &mut target)?;
                black_box(&mut target);
                Ok(())
            })
        }
        Subject::Pass => {
            let memory = SharedMemory::create(bytes)?;
            pass(Contender::Ours, move || memory.try_clone_handle())?
        }
    })
}

pub(crate) fn start_frozen(subject: Subject, bytes: usize) -> Result<Act> {
    let source = vec![1; bytes];
    let create =
        move |source: &[u8]| FrozenMemory::create(bytes, |memory| memory.copy_from_slice(source));
    Ok(match subject {
        Subject::Create | Subject::CopyIn => return Err("it can't be written to".into()),
        Subject::CreateFrom => Box::new(move || {
            drop(black_box(create(&source)?));
            Ok(())
        }),
        Subject::CopyOut => {
            let memory = create(&source)?;
            let mut target = source;
            Box::new(move || {
                target.copy_from_slice(&memory);
                black_box(&mut target);
                Ok(())
            })
        }
        Subject::Pass => {
            let memory = create(&source)?;
            pass(Contender::OursFrozen, move || memory.try_clone_handle())?
        }
    })
}

/// Starts the other process, and sends it what there is a handle of.
fn pass(contender: Contender, handle: impl Fn() -> io::Result<Handle> + 'static) -> Result<Act> {
    let (mut channel, theirs) = Channel::pair()?;
    let peer = Peer::start(&contender.peer_args(""), Some(theirs.into_fd()))?;
    Ok(Box::new(move || {
        let _ = &peer;
        channel.send_deadline(Message::new(0, []).with_handle(handle()?), None)?;
        channel.recv_deadline(None)?;
        Ok(())
    }))
}

/// Answers what is at the end of each memory.
pub(crate) fn serve<M: FromHandle>(last: impl Fn(M) -> Result<u8>) -> Result<()> {
    let mut channel = Channel::from_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    loop {
        match channel.recv_deadline(None) {
            Ok(mut message) => {
                let last = last(message.take_handle(0)?)?;
                channel.send_deadline(Message::new(last, []), None)?;
            }
            Err(RecvError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
