//! Files in memory, as somebody would make and pass them by hand; but they are read and written by
//! system calls, since only `unsafe` code can map them.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use rustix::cmsg_space;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::contender::{Act, Contender, Result, Subject};
use crate::peer::Peer;

pub(crate) fn start(subject: Subject, bytes: usize) -> Result<Act> {
    let source = vec![1; bytes];
    Ok(match subject {
        Subject::Create => Box::new(move || {
            drop(black_box(create(bytes)?));
            Ok(())
        }),
        Subject::CreateFrom => Box::new(move || {
            let file = create(bytes)?;
            file.write_all_at(&source, 0)?;
            drop(black_box(file));
            Ok(())
        }),
        Subject::CopyIn | Subject::CopyOut => {
            let mut target = vec![0; bytes];
            Box::new(move || {
                target.copy_from_slice(black_box(&source));
                black_box(&mut target);
                Ok(())
            })
        }
        Subject::Pass => {
            let file = create(bytes)?;
            let (mut socket, theirs) = UnixStream::pair()?;
            let peer = Peer::start(&Contender::Raw.peer_args(""), Some(theirs.into()))?;
            Box::new(move || {
                let _ = &peer;
                send(&socket, &file)?;
                socket.read_exact(&mut [0])?;
                Ok(())
            })
        }
    })
}

pub(crate) fn serve() -> Result<()> {
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    while let Some(file) = receive(&socket)? {
        let mut last = [0];
        file.read_exact_at(&mut last, file.metadata()?.len() - 1)?;
        drop(file);
        socket.write_all(&last)?;
    }
    Ok(())
}

fn create(bytes: usize) -> io::Result<File> {
    let file = memfd_create("raw", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes as u64)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}

fn send(socket: &UnixStream, file: &File) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); SPACE_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(socket, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: &UnixStream) -> io::Result<Option<File>> {
    let mut space = [MaybeUninit::uninit(); SPACE_BYTES];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut files = control.drain().filter_map(first);
    Ok(files.next().map(File::from))
}

fn first(message: RecvAncillaryMessage<'_>) -> Option<OwnedFd> {
    match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    }
}

const SPACE_BYTES: usize = cmsg_space!(ScmRights(1));
