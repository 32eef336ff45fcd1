//! Who passes the handles, and the process at the other end.

use std::env;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::net::sockopt::set_socket_send_buffer_size;
use sendfd::{RecvWithFd, SendWithFd};
use unix_ancillary::UnixStreamExt;

use crate::peer::Peer;
use crate::raw;

/// Makes room for about 32 messages; the kernel doubles it. With 16 handles each, that is half of
/// what a user may have in flight where `RLIMIT_NOFILE` is 1024.
const SEND_BUFFER_BYTES: usize = 32 * 768 / 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// The system calls, by hand.
    Raw,
    /// `handle-passing`.
    Ours,
    UnixAncillary,
    Sendfd,
}

impl Contender {
    pub(crate) const ALL: [Contender; 4] =
        [Contender::Raw, Contender::Ours, Contender::UnixAncillary, Contender::Sendfd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::Raw => "raw",
            Contender::Ours => "ours",
            Contender::UnixAncillary => "unix-ancillary",
            Contender::Sendfd => "sendfd",
        }
    }
}

/// The end of a connection that the bench has. All messages are one byte, and as many handles as
/// each other.
#[derive(Debug)]
pub(crate) struct Link {
    contender: Contender,
    count: usize,
    file: File,
    socket: UnixStream,
    _peer: Peer,
}

impl Link {
    /// Starts a process, and connects to it.
    pub(crate) fn start(contender: Contender, count: usize) -> io::Result<Link> {
        let (socket, theirs) = UnixStream::pair()?;
        set_socket_send_buffer_size(&socket, SEND_BUFFER_BYTES)?;
        let peer = Peer::start(&[PEER, contender.name(), &count.to_string()], Some(theirs.into()))?;
        Ok(Link { contender, count, file: File::open("/dev/null")?, socket, _peer: peer })
    }

    /// Sends so many messages, and waits until the handles of the last are closed.
    pub(crate) fn one_way(&self, messages: u64) -> Result<(), Box<dyn Error>> {
        let socket = &self.socket;
        let handles: Vec<BorrowedFd<'_>> = vec![self.file.as_fd(); self.count];
        match self.contender {
            Contender::Raw => send_all(messages, |byte| raw::send(socket, byte, &handles))?,
            Contender::Ours => send_all(messages, |byte| {
                Ok(handle_passing::send(socket, &[byte], &handles).map(drop)?)
            })?,
            Contender::UnixAncillary => {
                send_all(messages, |byte| socket.send_fds(&[byte], &handles).map(drop))?;
            }
            Contender::Sendfd => {
                let numbers: Vec<RawFd> = handles.iter().map(AsRawFd::as_raw_fd).collect();
                send_all(messages, |byte| socket.send_with_fd(&[byte], &numbers).map(drop))?;
            }
        }
        self.answer()
    }

    fn answer(&self) -> Result<(), Box<dyn Error>> {
        (&self.socket).read_exact(&mut [0])?;
        Ok(())
    }
}

fn send_all(messages: u64, mut send: impl FnMut(u8) -> io::Result<()>) -> io::Result<()> {
    for _ in 1..messages {
        send(KEEP)?;
    }
    send(ANSWER)
}

/// Is the other end, if this process was started as one.
pub(crate) fn run_if_asked() -> Result<bool, Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [PEER, contender, count] = args[..] else { return Ok(false) };
    let mut all = Contender::ALL.into_iter();
    let contender = all.find(|known| known.name() == contender).ok_or("no such contender")?;
    serve(contender, count.parse()?)?;
    Ok(true)
}

/// Closes the handles of each message, and answers those that ask for it, until the connection
/// ends.
fn serve(contender: Contender, count: usize) -> Result<(), Box<dyn Error>> {
    let socket = &UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    match contender {
        Contender::Raw => receive_all(socket, count, |byte| raw::receive_and_close(socket, byte)),
        Contender::Ours => {
            let mut handles = Vec::new();
            receive_all(socket, count, |byte| {
                handle_passing::recv(socket, byte, &mut handles)?;
                Ok(handles.drain(..).count())
            })
        }
        Contender::UnixAncillary => receive_all(socket, count, |byte| {
            let received = match count {
                1 => socket.recv_fds_into::<1>(byte),
                _ => socket.recv_fds_into::<16>(byte),
            };
            Ok(received?.1.len())
        }),
        Contender::Sendfd => {
            let mut numbers = vec![-1; count];
            receive_all(socket, count, |byte| {
                let (_, received) = socket.recv_with_fd(byte, &mut numbers)?;
                numbers[..received].iter().try_for_each(|number| nix::unistd::close(*number))?;
                Ok(received)
            })
        }
    }
}

fn receive_all(
    mut socket: &UnixStream,
    count: usize,
    mut receive_and_close: impl FnMut(&mut [u8; 1]) -> io::Result<usize>,
) -> Result<(), Box<dyn Error>> {
    loop {
        let mut byte = [END];
        match receive_and_close(&mut byte)? {
            0 if byte == [END] => return Ok(()),
            received if received != count => return Err("not all handles came".into()),
            _ if byte == [ANSWER] => socket.write_all(&byte)?,
            _ => {}
        }
    }
}

const PEER: &str = "handles-peer";

/// What the byte of a message says; the last is what is found in its place when none came.
const KEEP: u8 = 0;
const ANSWER: u8 = 1;
const END: u8 = 2;
