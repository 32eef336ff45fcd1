//! The bare system calls, as somebody would write them by hand for this very purpose: a length of
//! four bytes in front of each payload, buffers of the right size that are used again and again,
//! one plain `write` from there and one plain `read` to there; no kinds, no handles, no limits, and
//! nothing owned.

use std::hint::black_box;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::io::{read, retry_on_intr, write};

use crate::contender::{self, BATCH_BYTES, Result, SEND_BACK, request};

/// How much is read at once, in bytes: what a socket holds by default.
const BUFFER_BYTES: usize = 208 * 1024;

const HEADER_BYTES: usize = 4;

pub(crate) struct Connection {
    socket: OwnedFd,
    header: [u8; HEADER_BYTES],
    template: Vec<u8>,
    /// Frames that wait to be written.
    batch: Vec<u8>,
    /// Read and not looked at yet: `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd, bytes: usize) -> Connection {
        Connection {
            socket,
            header: u32::try_from(bytes).expect("short payloads").to_le_bytes(),
            template: vec![0; bytes],
            batch: Vec::new(),
            buffer: vec![0; BUFFER_BYTES.max(HEADER_BYTES + bytes)],
            start: 0,
            end: 0,
        }
    }

    pub(crate) fn serve(mut self) -> Result<()> {
        while let Some(frame) = self.receive()? {
            let frame = black_box(&self.buffer[frame]);
            if frame[HEADER_BYTES] == SEND_BACK {
                write_all(&self.socket, frame)?;
            }
        }
        Ok(())
    }

    /// Where the next frame is in the buffer; `None` at the end.
    fn receive(&mut self) -> Result<Option<Range<usize>>> {
        loop {
            if let Some((header, rest)) = self.buffer[self.start..self.end].split_first_chunk() {
                let bytes = u32::from_le_bytes(*header) as usize;
                if rest.len() >= bytes {
                    let frame = self.start..self.start + HEADER_BYTES + bytes;
                    self.start = frame.end;
                    return Ok(Some(frame));
                }
            }
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            match retry_on_intr(|| read(&self.socket, &mut self.buffer[self.end..]))? {
                0 => return Ok(None),
                bytes => self.end += bytes,
            }
        }
    }

    fn collect(&mut self, request: u8) {
        self.batch.extend_from_slice(&self.header);
        self.batch.extend_from_slice(&self.template);
        let start = self.batch.len() - self.template.len();
        self.batch[start] = request;
    }

    fn must_receive(&mut self) -> Result<Range<usize>> {
        Ok(self.receive()?.ok_or("the peer is gone")?)
    }
}

impl contender::Connection for Connection {
    fn round_trips(&mut self, messages: u64) -> Result<()> {
        self.collect(SEND_BACK);
        write_all(&self.socket, &self.batch)?;
        self.batch.clear();
        for _ in 1..messages {
            let frame = self.must_receive()?;
            write_all(&self.socket, &self.buffer[frame])?;
        }
        self.must_receive()?;
        Ok(())
    }

    fn one_way(&mut self, messages: u64) -> Result<()> {
        for index in 0..messages {
            self.collect(request(index, messages));
            if self.batch.len() >= BATCH_BYTES || index + 1 == messages {
                write_all(&self.socket, &self.batch)?;
                self.batch.clear();
            }
        }
        self.must_receive()?;
        Ok(())
    }
}

fn write_all(socket: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match retry_on_intr(|| write(socket, bytes))? {
            0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}
