//! A worker's end of the channel without the library: for workers that break its rules.

use std::io::{self, IoSlice};
use std::os::fd::RawFd;

use ipc_core::frame::Header;
use nix::sys::socket::{ControlMessage, MsgFlags, recv, send, sendmsg};
use runtime::machine::FromWorker;

use super::roles::park_for_ever;

/// The channel that this process has inherited.
pub(crate) struct RawChannel(RawFd);

impl RawChannel {
    pub(crate) fn inherited() -> RawChannel {
        let number = std::env::var("CLUSTER_CHANNEL_FD").expect("a cluster has started us");
        RawChannel(number.parse().expect("a number"))
    }

    /// Waits for the greeting, and answers it.
    pub(crate) fn online(&self) -> io::Result<()> {
        recv(self.0, &mut [0; 1024], MsgFlags::empty())?;
        self.send(&message(&FromWorker::Online { version: 1 }))
    }

    pub(crate) fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = send(self.0, bytes, MsgFlags::MSG_NOSIGNAL)?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Sends what a master kills for. One that has heard enough closes the channel before it does
    /// that: who took this for an error would exit, and might be gone by then.
    pub(crate) fn provoke(&self, bytes: &[u8]) -> io::Result<()> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        match self.send(bytes) {
            Err(error) if matches!(error.kind(), BrokenPipe | ConnectionReset) => park_for_ever(),
            result => result,
        }
    }

    pub(crate) fn send_with(&self, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let bytes = [IoSlice::new(bytes)];
        sendmsg::<()>(self.0, &bytes, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }
}

/// A message as it goes over the channel.
pub(crate) fn message(message: &FromWorker) -> Vec<u8> {
    let (kind, payload) = message.encode();
    frame(kind, 0, &payload)
}

/// A frame, whether or not it is right.
pub(crate) fn frame(kind: u8, handles: u8, payload: &[u8]) -> Vec<u8> {
    let body_bytes = u32::try_from(payload.len() + usize::from(handles)).expect("short");
    [&Header { kind, handles, body_bytes }.encode(), payload, &vec![0; handles.into()]].concat()
}
