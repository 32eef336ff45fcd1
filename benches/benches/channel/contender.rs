//! Who carries the messages, and the process at the other end.

use std::env;
use std::error::Error;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use ipc_core::Channel;

use crate::peer::Peer;
use crate::{buffered, ipc_channel, ours, raw};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The end of a connection that the bench has. All payloads have one length.
pub(crate) trait Connection {
    /// Sends a message, waits until it is back, and sends it again, as often as that.
    fn round_trips(&mut self, messages: u64) -> Result<()>;

    /// Sends so many messages, each made anew from a template, and waits for the last to come back.
    fn one_way(&mut self, messages: u64) -> Result<()>;
}

/// A connection, and the process at its other end.
pub(crate) struct Link {
    pub(crate) connection: Box<dyn Connection>,
    _peer: Peer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// The system calls, by hand.
    Raw,
    /// `ipc-core`, over a stream.
    Ours,
    /// `ipc-core`, over packets.
    OursPackets,
    /// `std`, with a length prefix and the buffers that it has for it.
    Std,
    /// `interprocess`, in the same way.
    Interprocess,
    /// The channel for bytes of `ipc-channel`.
    IpcChannel,
    /// Its typed channel.
    IpcChannelSerde,
}

impl Contender {
    pub(crate) const ALL: [Contender; 7] = [
        Contender::Raw,
        Contender::Ours,
        Contender::OursPackets,
        Contender::Std,
        Contender::Interprocess,
        Contender::IpcChannel,
        Contender::IpcChannelSerde,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::Raw => "raw",
            Contender::Ours => "ours",
            Contender::OursPackets => "ours-packets",
            Contender::Std => "std",
            Contender::Interprocess => "interprocess",
            Contender::IpcChannel => "ipc-channel",
            Contender::IpcChannelSerde => "ipc-channel-serde",
        }
    }

    /// Starts a process, and connects to it.
    pub(crate) fn start(self, bytes: usize) -> Result<Link> {
        let start = |name: &str, socket: Option<OwnedFd>| {
            Peer::start(&[PEER, self.name(), &bytes.to_string(), name], socket)
        };
        let (connection, peer): (Box<dyn Connection>, _) = match self {
            Contender::Raw | Contender::Ours | Contender::Std => {
                let (ours, theirs) = UnixStream::pair()?;
                let peer = start("stdin", Some(theirs.into()))?;
                match self {
                    Contender::Raw => (Box::new(raw::Connection::new(ours.into(), bytes)), peer),
                    Contender::Ours => (Box::new(ours::Connection::new(ours.into(), bytes)?), peer),
                    _ => (Box::new(buffered::std(ours, bytes)?), peer),
                }
            }
            Contender::OursPackets => {
                let (ours, theirs) = Channel::packet_pair()?;
                let peer = start("stdin", Some(theirs.into_fd()))?;
                (Box::new(ours::Connection::new(ours.into_fd(), bytes)?), peer)
            }
            Contender::Interprocess => {
                let listener = buffered::Listener::new()?;
                let peer = start(listener.name(), None)?;
                (Box::new(listener.accept(bytes)?), peer)
            }
            Contender::IpcChannel => {
                let (server, name) = ipc_channel::Server::new()?;
                let peer = start(&name, None)?;
                (Box::new(ipc_channel::accept_bytes(server, bytes)?), peer)
            }
            Contender::IpcChannelSerde => {
                let (server, name) = ipc_channel::TypedServer::new()?;
                let peer = start(&name, None)?;
                (Box::new(ipc_channel::accept_typed(server, bytes)?), peer)
            }
        };
        Ok(Link { connection, _peer: peer })
    }

    /// The process at the other end: sends back what asks for it, until the connection ends.
    fn serve(self, bytes: usize, name: &str) -> Result<()> {
        let socket = || io::stdin().as_fd().try_clone_to_owned();
        match self {
            Contender::Raw => raw::Connection::new(socket()?, bytes).serve(),
            Contender::Ours | Contender::OursPackets => {
                ours::Connection::new(socket()?, bytes)?.serve()
            }
            Contender::Std => buffered::std(socket()?.into(), bytes)?.serve(),
            Contender::Interprocess => buffered::connect(name, bytes)?.serve(),
            Contender::IpcChannel => ipc_channel::serve_bytes(name),
            Contender::IpcChannelSerde => ipc_channel::serve_typed(name),
        }
    }
}

/// How much is collected for one write, in bytes, by those who can.
pub(crate) const BATCH_BYTES: usize = 64 * 1024;

/// What the first byte of a payload says, or the kind of a message of ours.
pub(crate) const KEEP: u8 = 0;
pub(crate) const SEND_BACK: u8 = 1;

/// For the message of that index.
pub(crate) fn request(index: u64, messages: u64) -> u8 {
    if index + 1 == messages { SEND_BACK } else { KEEP }
}

/// Is the other end, if this process was started as one.
pub(crate) fn run_if_asked() -> Result<bool> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [PEER, contender, bytes, name] = args[..] else { return Ok(false) };
    let mut all = Contender::ALL.into_iter();
    let contender = all.find(|known| known.name() == contender).ok_or("no such contender")?;
    contender.serve(bytes.parse()?, name)?;
    Ok(true)
}

const PEER: &str = "channel-peer";
