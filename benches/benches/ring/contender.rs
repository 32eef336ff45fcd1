//! Who carries the messages, and the process at the other end.

use std::env;
use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use ipc_core::shm::SharedMemory;
use ipc_core::{Channel, Message, RecvError};

use crate::end::Connection;
use crate::iceoryx2::{self, Folder, Side};
use crate::ours;
use crate::peer::Peer;
use crate::raw::{self, Waiting};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// Rings by hand.
    Raw,
    /// Likewise, with a futex.
    RawFutex,
    /// `ipc-core`, looking until there is something; messages are copied in and out.
    Ours,
    /// Likewise, with messages that stay where they are.
    OursInPlace,
    /// As it is without settings: it looks for a while, and then sleeps.
    OursAdaptive,
    /// It always sleeps.
    OursSleeping,
    /// `iceoryx2`, polled, with messages that are copied in and out.
    Iceoryx2,
    /// Likewise, with messages that stay where they are.
    Iceoryx2Loan,
    /// `iceoryx2`, with an event for each message.
    Iceoryx2Event,
}

/// The end of a connection that the bench has, and the process at the other one.
pub(crate) struct Link {
    connection: Option<Box<dyn Connection>>,
    /// Tells the other process what to do, and when to end.
    control: Option<Channel>,
    peer: Peer,
    folder: Option<Folder>,
}

impl Contender {
    const ALL: [Contender; 9] = [
        Contender::Raw,
        Contender::RawFutex,
        Contender::Ours,
        Contender::OursInPlace,
        Contender::OursAdaptive,
        Contender::OursSleeping,
        Contender::Iceoryx2,
        Contender::Iceoryx2Loan,
        Contender::Iceoryx2Event,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::Raw => "raw",
            Contender::RawFutex => "raw-futex",
            Contender::Ours => "ours",
            Contender::OursInPlace => "ours-in-place",
            Contender::OursAdaptive => "ours-adaptive",
            Contender::OursSleeping => "ours-sleeping",
            Contender::Iceoryx2 => "iceoryx2",
            Contender::Iceoryx2Loan => "iceoryx2-loan",
            Contender::Iceoryx2Event => "iceoryx2-event",
        }
    }

    /// Starts a process, and connects to it. At most `queued` messages wait in the connection.
    pub(crate) fn start(self, bytes: usize, queued: usize) -> Result<Link> {
        let (mut control, theirs) = Channel::pair()?;
        let mut setup = Message::new(READY, []);
        let mut folder = None;
        let connection = match self {
            Contender::Raw | Contender::RawFutex => {
                let memory = raw::Rings::memory(bytes, queued)?;
                for memory in &memory {
                    setup.handles.push(memory.try_clone()?.into());
                }
                self.raw(memory, bytes)
            }
            Contender::Iceoryx2 | Contender::Iceoryx2Loan | Contender::Iceoryx2Event => {
                self.iceoryx2(folder.insert(Folder::new()?), Side::Bench, bytes, queued)?
            }
            _ => self.ours(ours::Rings::new(bytes, queued, &mut setup)?, bytes),
        };
        let path = folder.as_ref().map_or("", Folder::path);
        let args = [PEER, self.name(), &bytes.to_string(), &queued.to_string(), path];
        let peer = Peer::start(&args, Some(theirs.into_fd()))?;
        control.send_deadline(setup, None)?;
        control.recv_deadline(None)?;
        Ok(Link { connection: Some(connection), control: Some(control), peer, folder })
    }

    /// The process at the other end: does what it is told to, until the bench has ended.
    fn serve(self, bytes: usize, queued: usize, path: &str) -> Result<()> {
        let mut control = Channel::from_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
        let mut setup = control.recv_deadline(None)?;
        let mut connection = match self {
            Contender::Raw | Contender::RawFutex => {
                self.raw([setup.take_handle(1)?, setup.take_handle(0)?], bytes)
            }
            Contender::Iceoryx2 | Contender::Iceoryx2Loan | Contender::Iceoryx2Event => {
                self.iceoryx2(&Folder::open(path), Side::Peer, bytes, queued)?
            }
            _ => self.ours(ours::Rings::open(&mut setup)?, bytes),
        };
        control.send_deadline(Message::new(READY, []), None)?;
        loop {
            let order = match control.recv_deadline(None) {
                Ok(order) => order,
                Err(RecvError::Closed) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let messages = u64::from_le_bytes(order.payload[..].try_into()?);
            match order.kind {
                SEND_BACK => connection.send_back(messages)?,
                _ => connection.take(messages)?,
            }
        }
    }

    fn raw(self, memory: [SharedMemory; 2], bytes: usize) -> Box<dyn Connection> {
        let is_asleep = self == Contender::RawFutex;
        let waiting = if is_asleep { Waiting::Sleeping } else { Waiting::Spinning };
        Box::new(raw::Rings::new(memory, waiting, bytes))
    }

    fn ours(self, rings: ours::Rings, bytes: usize) -> Box<dyn Connection> {
        let spinning = |rings: ours::Rings| rings.with_spins_max(u32::MAX);
        match self {
            Contender::OursInPlace => Box::new(ours::InPlace::new(spinning(rings), bytes)),
            Contender::OursAdaptive => Box::new(ours::Copying::new(rings, bytes)),
            Contender::OursSleeping => Box::new(ours::Copying::new(rings.with_spins_max(0), bytes)),
            _ => Box::new(ours::Copying::new(spinning(rings), bytes)),
        }
    }

    fn iceoryx2(
        self,
        folder: &Folder,
        side: Side,
        bytes: usize,
        queued: usize,
    ) -> Result<Box<dyn Connection>> {
        Ok(match self {
            Contender::Iceoryx2Loan => {
                Box::new(iceoryx2::InPlace::new(folder, side, bytes, queued)?)
            }
            Contender::Iceoryx2Event => {
                Box::new(iceoryx2::Event::new(folder, side, bytes, queued)?)
            }
            _ => Box::new(iceoryx2::Copying::new(folder, side, bytes, queued)?),
        })
    }
}

impl Link {
    pub(crate) fn round_trips(&mut self, messages: u64) -> Result<Duration> {
        self.order(SEND_BACK, messages)?.round_trips(messages)
    }

    pub(crate) fn one_way(&mut self, messages: u64) -> Result<Duration> {
        self.order(TAKE, messages)?.one_way(messages)
    }

    fn order(&mut self, kind: u8, messages: u64) -> Result<&mut dyn Connection> {
        let (Some(connection), Some(control)) = (&mut self.connection, &mut self.control) else {
            return Err("both are there until the link is dropped".into());
        };
        control.send_deadline(Message::new(kind, messages.to_le_bytes()), None)?;
        Ok(&mut **connection)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Both processes give up their ends in order, by which iceoryx2 removes its memory.
        self.control = None;
        self.connection = None;
        self.peer.wait();
        if let Some(folder) = &self.folder
            && let Err(error) = folder.remove()
        {
            eprintln!("{}: {error}", folder.path());
        }
    }
}

/// Is the other end, if this process was started as one.
pub(crate) fn run_if_asked() -> Result<bool> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [PEER, contender, bytes, queued, path] = args[..] else { return Ok(false) };
    let mut all = Contender::ALL.into_iter();
    let contender = all.find(|known| known.name() == contender).ok_or("no such contender")?;
    contender.serve(bytes.parse()?, queued.parse()?, path)?;
    Ok(true)
}

const PEER: &str = "ring-peer";

/// The kinds of messages that control the other process.
const READY: u8 = 0;
const SEND_BACK: u8 = 1;
const TAKE: u8 = 2;
