//! Whose memory it is, what is done with it, and the process that it is passed to.

use std::env;
use std::error::Error;

use ipc_core::shm::{FrozenMemory, SharedMemory};

use crate::{ipc_channel, ours, raw};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What is measured, again and again.
pub(crate) type Act = Box<dyn FnMut() -> Result<()>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Memory full of zeros is made, and given up.
    Create,
    /// Memory is made with a copy of some bytes, and given up.
    CreateFrom,
    /// All bytes are copied to memory that is there.
    CopyIn,
    /// All bytes are copied from memory that is there.
    CopyOut,
    /// Memory that is there is passed to another process, which reads its last byte, gives it up,
    /// and answers.
    Pass,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// Sealed files in memory by hand, read and written without a mapping, which only `unsafe` code
    /// could make; for copying, memory of this process.
    Raw,
    /// `ipc-core`, memory that both may write to.
    Ours,
    /// `ipc-core`, memory that nobody can change any more.
    OursFrozen,
    /// The shared memory of `ipc-channel`, which has no seals.
    IpcChannel,
}

impl Subject {
    pub(crate) const ALL: [Subject; 5] =
        [Subject::Create, Subject::CreateFrom, Subject::CopyIn, Subject::CopyOut, Subject::Pass];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Subject::Create => "create",
            Subject::CreateFrom => "create-from",
            Subject::CopyIn => "copy-in",
            Subject::CopyOut => "copy-out",
            Subject::Pass => "pass",
        }
    }
}

impl Contender {
    pub(crate) const ALL: [Contender; 4] =
        [Contender::Raw, Contender::Ours, Contender::OursFrozen, Contender::IpcChannel];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::Raw => "raw",
            Contender::Ours => "ours",
            Contender::OursFrozen => "ours-frozen",
            Contender::IpcChannel => "ipc-channel",
        }
    }

    /// Frozen memory, and without `unsafe` ipc-channel's, is written where it is made only.
    pub(crate) fn can(self, subject: Subject) -> bool {
        match self {
            Contender::Raw | Contender::Ours => true,
            Contender::OursFrozen => !matches!(subject, Subject::Create | Subject::CopyIn),
            Contender::IpcChannel => subject != Subject::CopyIn,
        }
    }

    /// Prepares what it takes, the other process too.
    pub(crate) fn start(self, subject: Subject, bytes: usize) -> Result<Act> {
        match self {
            Contender::Raw => raw::start(subject, bytes),
            Contender::Ours => ours::start(subject, bytes),
            Contender::OursFrozen => ours::start_frozen(subject, bytes),
            Contender::IpcChannel => ipc_channel::start(subject, bytes),
        }
    }

    /// The arguments of the process at the other end, which may need to know where to connect to.
    pub(crate) fn peer_args(self, name: &str) -> [&str; 3] {
        [PEER, self.name(), name]
    }
}

/// Is the other end, if this process was started as one.
pub(crate) fn run_if_asked() -> Result<bool> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [PEER, contender, name] = args[..] else { return Ok(false) };
    let mut all = Contender::ALL.into_iter();
    match all.find(|known| known.name() == contender).ok_or("no such contender")? {
        Contender::Raw => raw::serve()?,
        Contender::Ours => ours::serve(|memory: SharedMemory| {
            let mut last = [0];
            memory.read_at(memory.len() - 1, &mut last)?;
            Ok(last[0])
        })?,
        Contender::OursFrozen => {
            ours::serve(|memory: FrozenMemory| Ok(memory[memory.len() - 1]))?;
        }
        Contender::IpcChannel => ipc_channel::serve(name)?,
    }
    Ok(true)
}

const PEER: &str = "shm-peer";
