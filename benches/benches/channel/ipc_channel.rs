//! `ipc-channel`, with its channel for bytes and with its typed one. Each carries messages one way,
//! so that there are two.

use std::hint::black_box;

use ipc_channel::IpcError;
use ipc_channel::ipc::{
    self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender,
};

use crate::contender::{self, Result, SEND_BACK, request};

/// A kind and a payload.
type Message = (u8, Vec<u8>);

/// Where the peer connects to, to send its two ends.
pub(crate) type Server = IpcOneShotServer<(IpcBytesSender, IpcBytesReceiver)>;
pub(crate) type TypedServer = IpcOneShotServer<(IpcSender<Message>, IpcReceiver<Message>)>;

struct Bytes {
    sender: IpcBytesSender,
    receiver: IpcBytesReceiver,
    template: Vec<u8>,
    /// What is sent, in memory that is used again.
    payload: Vec<u8>,
}

struct Typed {
    sender: IpcSender<Message>,
    receiver: IpcReceiver<Message>,
    template: Vec<u8>,
}

pub(crate) fn accept_bytes(
    server: Server,
    bytes: usize,
) -> Result<impl contender::Connection + use<>> {
    let (_, (sender, receiver)) = server.accept()?;
    Ok(Bytes { sender, receiver, template: vec![0; bytes], payload: vec![0; bytes] })
}

pub(crate) fn accept_typed(
    server: TypedServer,
    bytes: usize,
) -> Result<impl contender::Connection + use<>> {
    let (_, (sender, receiver)) = server.accept()?;
    Ok(Typed { sender, receiver, template: vec![0; bytes] })
}

pub(crate) fn serve_bytes(name: &str) -> Result<()> {
    let (to_peer, receiver) = ipc::bytes_channel()?;
    let (sender, from_peer) = ipc::bytes_channel()?;
    IpcSender::connect(name.into())?.send((to_peer, from_peer))?;
    loop {
        match receiver.recv() {
            Ok(payload) if payload[0] == SEND_BACK => sender.send(&payload)?,
            Ok(payload) => drop(black_box(payload)),
            Err(IpcError::Disconnected) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

pub(crate) fn serve_typed(name: &str) -> Result<()> {
    let (to_peer, receiver) = ipc::channel::<Message>()?;
    let (sender, from_peer) = ipc::channel::<Message>()?;
    IpcSender::connect(name.into())?.send((to_peer, from_peer))?;
    loop {
        match receiver.recv() {
            Ok(message) if message.0 == SEND_BACK => sender.send(message)?,
            Ok(message) => drop(black_box(message)),
            Err(IpcError::Disconnected) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

impl contender::Connection for Bytes {
    fn round_trips(&mut self, messages: u64) -> Result<()> {
        let mut payload = self.template.clone();
        payload[0] = SEND_BACK;
        for _ in 0..messages {
            self.sender.send(&payload)?;
            payload = self.receiver.recv()?;
        }
        Ok(())
    }

    fn one_way(&mut self, messages: u64) -> Result<()> {
        for index in 0..messages {
            self.payload.copy_from_slice(&self.template);
            self.payload[0] = request(index, messages);
            self.sender.send(&self.payload)?;
        }
        black_box(self.receiver.recv()?);
        Ok(())
    }
}

impl contender::Connection for Typed {
    fn round_trips(&mut self, messages: u64) -> Result<()> {
        let mut message = (SEND_BACK, self.template.clone());
        for _ in 0..messages {
            self.sender.send(message)?;
            message = self.receiver.recv()?;
        }
        Ok(())
    }

    fn one_way(&mut self, messages: u64) -> Result<()> {
        for index in 0..messages {
            self.sender.send((request(index, messages), self.template.clone()))?;
        }
        black_box(self.receiver.recv()?);
        Ok(())
    }
}
