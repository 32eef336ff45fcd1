//! Streams that are read and written through the buffers of `std`, with a length of four bytes in
//! front of each payload: `std`'s own, and those of `interprocess`.

use std::hint::black_box;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use interprocess::TryClone;
use interprocess::local_socket::prelude::*;
use interprocess::local_socket::{self, GenericNamespaced, ListenerOptions, Name};

use crate::contender::{self, BATCH_BYTES, Result, SEND_BACK, request};

pub(crate) struct Connection<R, W: Write> {
    reader: BufReader<R>,
    writer: BufWriter<W>,
    template: Vec<u8>,
    /// What is sent, in memory that is used again.
    payload: Vec<u8>,
    /// What was received, in memory that is used again.
    received: Vec<u8>,
}

pub(crate) fn std(stream: UnixStream, bytes: usize) -> Result<Connection<UnixStream, UnixStream>> {
    Ok(Connection::new(stream.try_clone()?, stream, bytes))
}

impl<R: Read, W: Write> Connection<R, W> {
    fn new(reader: R, writer: W, bytes: usize) -> Connection<R, W> {
        Connection {
            reader: BufReader::with_capacity(BATCH_BYTES, reader),
            writer: BufWriter::with_capacity(BATCH_BYTES, writer),
            template: vec![0; bytes],
            payload: vec![0; bytes],
            received: Vec::new(),
        }
    }

    pub(crate) fn serve(mut self) -> Result<()> {
        loop {
            match self.receive() {
                Ok(()) if self.received[0] == SEND_BACK => {
                    put(&mut self.writer, &self.received)?;
                    self.writer.flush()?;
                }
                Ok(()) => _ = black_box(&self.received),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut header = [0; 4];
        self.reader.read_exact(&mut header)?;
        self.received.resize(u32::from_le_bytes(header) as usize, 0);
        self.reader.read_exact(&mut self.received)
    }
}

impl<R: Read, W: Write> contender::Connection for Connection<R, W> {
    fn round_trips(&mut self, messages: u64) -> Result<()> {
        self.received.clone_from(&self.template);
        self.received[0] = SEND_BACK;
        for _ in 0..messages {
            put(&mut self.writer, &self.received)?;
            self.writer.flush()?;
            self.receive()?;
        }
        Ok(())
    }

    fn one_way(&mut self, messages: u64) -> Result<()> {
        for index in 0..messages {
            self.payload.copy_from_slice(&self.template);
            self.payload[0] = request(index, messages);
            put(&mut self.writer, &self.payload)?;
        }
        self.writer.flush()?;
        self.receive()?;
        Ok(())
    }
}

fn put(writer: &mut impl Write, payload: &[u8]) -> io::Result<()> {
    let bytes = u32::try_from(payload.len()).map_err(io::Error::other)?;
    writer.write_all(&bytes.to_le_bytes())?;
    writer.write_all(payload)
}

type LocalSocket = Connection<local_socket::Stream, local_socket::Stream>;

/// Where the peer connects to; on Linux, an abstract name.
pub(crate) struct Listener {
    listener: local_socket::Listener,
    name: String,
}

impl Listener {
    pub(crate) fn new() -> Result<Listener> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bench-channel-{}-{count}", process::id());
        let listener = ListenerOptions::new().name(name_of(&name)?).create_sync()?;
        Ok(Listener { listener, name })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn accept(self, bytes: usize) -> Result<LocalSocket> {
        let stream = self.listener.accept()?;
        Ok(Connection::new(TryClone::try_clone(&stream)?, stream, bytes))
    }
}

pub(crate) fn connect(name: &str, bytes: usize) -> Result<LocalSocket> {
    let stream = local_socket::Stream::connect(name_of(name)?)?;
    Ok(Connection::new(TryClone::try_clone(&stream)?, stream, bytes))
}

fn name_of(name: &str) -> io::Result<Name<'_>> {
    name.to_ns_name::<GenericNamespaced>()
}
