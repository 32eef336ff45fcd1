//! `ipc-core`, with default limits.

use std::hint::black_box;
use std::os::fd::OwnedFd;

use ipc_core::frame::HEADER_BYTES;
use ipc_core::{Channel, Message, RecvError};

use crate::contender::{self, BATCH_BYTES, Result, SEND_BACK, request};

pub(crate) struct Connection {
    channel: Channel,
    template: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd, bytes: usize) -> Result<Connection> {
        Ok(Connection { channel: Channel::from_fd(socket)?, template: vec![0; bytes] })
    }

    pub(crate) fn serve(mut self) -> Result<()> {
        loop {
            match self.channel.recv_deadline(None) {
                Ok(message) if message.kind == SEND_BACK => {
                    self.channel.send_deadline(message, None)?;
                }
                Ok(message) => drop(black_box(message)),
                Err(RecvError::Closed) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl contender::Connection for Connection {
    fn round_trips(&mut self, messages: u64) -> Result<()> {
        let mut message = Message::new(SEND_BACK, self.template.clone());
        for _ in 0..messages {
            self.channel.send_deadline(message, None)?;
            message = self.channel.recv_deadline(None)?;
        }
        Ok(())
    }

    fn one_way(&mut self, messages: u64) -> Result<()> {
        let batch = BATCH_BYTES.div_ceil(HEADER_BYTES + self.template.len()) as u64;
        for index in 0..messages {
            let message = Message::new(request(index, messages), self.template.clone());
            self.channel.queue(message)?;
            if (index + 1).is_multiple_of(batch) {
                self.channel.flush_deadline(None)?;
            }
        }
        self.channel.flush_deadline(None)?;
        black_box(self.channel.recv_deadline(None)?);
        Ok(())
    }
}
