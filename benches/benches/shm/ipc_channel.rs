//! The shared memory of `ipc-channel`, passed over its typed channel.

use std::hint::black_box;

use ipc_channel::IpcError;
use ipc_channel::ipc::{self, IpcOneShotServer, IpcReceiver, IpcSender, IpcSharedMemory};

use crate::contender::{Act, Contender, Result, Subject};
use crate::peer::Peer;

/// What the peer connects with: where to send memory, and where answers come from.
type Ends = (IpcSender<IpcSharedMemory>, IpcReceiver<u8>);

pub(crate) fn start(subject: Subject, bytes: usize) -> Result<Act> {
    let source = vec![1; bytes];
    Ok(match subject {
        Subject::Create => Box::new(move || {
            drop(black_box(IpcSharedMemory::from_byte(0, bytes)));
            Ok(())
        }),
        Subject::CreateFrom => Box::new(move || {
            drop(black_box(IpcSharedMemory::from_bytes(&source)));
            Ok(())
        }),
        Subject::CopyIn => return Err("its memory can't be written to without `unsafe`".into()),
        Subject::CopyOut => {
            let memory = IpcSharedMemory::from_bytes(&source);
            let mut target = source;
            Box::new(move || {
                target.copy_from_slice(&memory);
                black_box(&mut target);
                Ok(())
            })
        }
        Subject::Pass => {
            let memory = IpcSharedMemory::from_bytes(&source);
            let (server, name) = IpcOneShotServer::<Ends>::new()?;
            let peer = Peer::start(&Contender::IpcChannel.peer_args(&name), None)?;
            let (_, (sender, answers)) = server.accept()?;
            Box::new(move || {
                let _ = &peer;
                sender.send(memory.clone())?;
                black_box(answers.recv()?);
                Ok(())
            })
        }
    })
}

pub(crate) fn serve(name: &str) -> Result<()> {
    let (to_us, memories) = ipc::channel::<IpcSharedMemory>()?;
    let (answers, to_bench) = ipc::channel::<u8>()?;
    IpcSender::<Ends>::connect(name.into())?.send((to_us, to_bench))?;
    loop {
        match memories.recv() {
            Ok(memory) => {
                let last = memory[memory.len() - 1];
                drop(memory);
                answers.send(last)?;
            }
            Err(IpcError::Disconnected) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
