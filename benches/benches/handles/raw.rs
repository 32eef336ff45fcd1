//! The bare system calls, as somebody would write them by hand for this very purpose.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use rustix::cmsg_space;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

pub(crate) fn send(socket: &UnixStream, byte: u8, handles: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); SPACE_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(handles));
    let byte = [byte];
    let bytes = [IoSlice::new(&byte)];
    retry_on_intr(|| sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Says how many handles there were.
pub(crate) fn receive_and_close(socket: &UnixStream, byte: &mut [u8; 1]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE_BYTES];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [IoSliceMut::new(byte)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = retry_on_intr(|| recvmsg(socket, &mut bytes, &mut control, flags))?;
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Errno::MFILE.into());
    }
    Ok(control.drain().map(closed).sum())
}

fn closed(message: RecvAncillaryMessage<'_>) -> usize {
    match message {
        RecvAncillaryMessage::ScmRights(handles) => handles.count(),
        _ => 0,
    }
}

/// Room for 16 handles.
const SPACE_BYTES: usize = cmsg_space!(ScmRights(16));
