//! Handing connections over with the bare system calls, as somebody would write it by hand for this
//! very purpose: no policy but the next in turn, no peer address, no care for workers that stall or
//! die.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, accept_with,
    recvmsg, sendmsg, socketpair,
};

/// Makes room for 16 connections, as in `runtime` by default; the kernel doubles it.
const SEND_BUFFER_BYTES: usize = 16 * 768 / 2;

/// The master's end of a way for connections, and the worker's.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_send_buffer_size(&ours, SEND_BUFFER_BYTES)?;
    Ok((ours, theirs))
}

/// The master: accepts, and sends each connection to the next worker that has room.
pub(crate) fn hand_over(listener: &TcpListener, workers: &[OwnedFd]) -> io::Result<()> {
    let epoll = watch(listener)?;
    let mut next = 0;
    loop {
        wait(&epoll)?;
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let connection = match accept_with(listener, flags) {
                Ok(connection) => connection,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut full = 0;
            while !put(&workers[next], connection.as_fd())? {
                full += 1;
                next = (next + 1) % workers.len();
                if full == workers.len() {
                    wait_for_room(workers)?;
                    full = 0;
                }
            }
            next = (next + 1) % workers.len();
        }
    }
}

/// Whether the worker had room for it.
fn put(worker: &OwnedFd, connection: BorrowedFd<'_>) -> io::Result<bool> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let connection = [connection];
    control.push(SendAncillaryMessage::ScmRights(&connection));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match retry_on_intr(|| sendmsg(worker, &[IoSlice::new(&[0])], &mut control, flags)) {
        Ok(_) => Ok(true),
        Err(Errno::AGAIN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn wait_for_room(workers: &[OwnedFd]) -> io::Result<()> {
    let mut fds: Vec<PollFd<'_>> =
        workers.iter().map(|worker| PollFd::new(worker, PollFlags::OUT)).collect();
    retry_on_intr(|| poll(&mut fds, None))?;
    Ok(())
}

/// The worker: takes the next; `None` when the master is gone.
pub(crate) fn take(socket: impl AsFd) -> rustix::io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message =
        retry_on_intr(|| recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags))?;
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Errno::MFILE);
    }
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut connections) => connections.next(),
        _ => None,
    });
    Ok(received)
}

/// Edge-triggered, since both loops go on until there is no more.
pub(crate) fn watch(socket: impl AsFd) -> rustix::io::Result<OwnedFd> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, socket, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
    Ok(epoll)
}

pub(crate) fn wait(epoll: &OwnedFd) -> rustix::io::Result<()> {
    let mut events = [MaybeUninit::uninit(); 1];
    retry_on_intr(|| epoll::wait(epoll, &mut events, None).map(drop))
}
