use std::io::{self, Read, Write};
use std::sync::Arc;

use handle_passing::Handle;
use mio::event::Source;
use mio::{Interest, Registry, Token};

use super::bell::{Bell, OpenStream};
use super::stdio::Stdio;
use crate::sys::Pipe;

/// What a child writes: its standard output or error, or another
/// [`Stdio::output`](super::Stdio::output).
///
/// It blocks until it is registered with a mio `Poll`; then a read that has nothing fails with
/// [`WouldBlock`](io::ErrorKind::WouldBlock), and readiness is edge-triggered: read until that. It
/// is at its end when the child, and all that got the stream from it, have closed it.
///
/// Made a [`Stdio`], it becomes the input of another child.
///
/// ```
/// # #[cfg(unix)] {
/// use std::io::Read;
/// use runtime::process::Command;
///
/// let mut list = Command::new("printf").arg("b\\na\\n").spawn()?;
/// let mut sort = Command::new("sort").stdin(list.stdout.take().ok_or("no pipe")?).spawn()?;
/// let mut sorted = String::new();
/// sort.stdout.take().ok_or("no pipe")?.read_to_string(&mut sorted)?;
/// assert_eq!(sorted, "a\nb\n");
/// assert_eq!((list.wait()?.code(), sort.wait()?.code()), (Some(0), Some(0)));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PipeReader(Incoming);

/// What a child reads: its standard input, or another [`Stdio::input`](super::Stdio::input).
///
/// It blocks until it is registered with a mio `Poll`; then a write for which the pipe has no room
/// fails with [`WouldBlock`](io::ErrorKind::WouldBlock), and readiness is edge-triggered: write
/// until that. Dropped, it is the end of what the child reads. When the child has closed its end,
/// to write fails with [`BrokenPipe`](io::ErrorKind::BrokenPipe).
///
/// ```
/// # #[cfg(unix)] {
/// use std::io::Write;
/// use runtime::process::{Command, Stdio};
///
/// let mut child = Command::new("grep").args(["-q", "needle"]).stdout(Stdio::null()).spawn()?;
/// child.stdin.take().ok_or("no pipe")?.write_all(b"a needle\n")?;
/// assert_eq!(child.wait()?.code(), Some(0));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PipeWriter(Pipe);

/// A stream in both directions between this process and a child: [`Stdio::duplex`].
///
/// It is a [`PipeReader`] and a [`PipeWriter`] in one. [`close_write`](Self::close_write) ends what
/// the child reads.
#[derive(Debug)]
pub struct Duplex(Incoming);

/// One of a child's streams.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stream {
    /// The child writes it.
    Reader(PipeReader),
    /// The child reads it.
    Writer(PipeWriter),
    /// The child does both.
    Duplex(Duplex),
}

impl Duplex {
    /// Ends what the child reads; what it writes can still be read.
    ///
    /// # Errors
    ///
    /// When the child has closed its end.
    pub fn close_write(&self) -> io::Result<()> {
        self.0.pipe.shutdown_write()
    }
}

impl Stream {
    pub(super) fn reader(pipe: Pipe) -> Stream {
        Stream::Reader(PipeReader(Incoming::new(pipe)))
    }

    pub(super) fn writer(pipe: Pipe) -> Stream {
        Stream::Writer(PipeWriter(pipe))
    }

    pub(super) fn duplex(pipe: Pipe) -> Stream {
        Stream::Duplex(Duplex(Incoming::new(pipe)))
    }

    /// Has its end ring this bell.
    pub(super) fn attach(&mut self, bell: &Arc<Bell>) {
        match self {
            Stream::Reader(PipeReader(incoming)) | Stream::Duplex(Duplex(incoming)) => {
                incoming.open = Some(OpenStream::new(bell));
            }
            Stream::Writer(_) => {}
        }
    }

    /// Counts as ended if nobody has used it.
    pub(super) fn settle(&mut self) {
        match self {
            Stream::Reader(reader) => reader.settle(),
            Stream::Duplex(duplex) => duplex.0.settle(),
            Stream::Writer(_) => {}
        }
    }
}

impl PipeReader {
    /// As it is once it is registered.
    pub(super) fn set_nonblocking(&self) {
        // Where that fails, so does everything with this pipe.
        let _ = self.0.pipe.set_nonblocking(true);
    }

    pub(super) fn settle(&mut self) {
        self.0.settle();
    }
}

impl PipeWriter {
    /// As it is once it is registered.
    pub(super) fn set_nonblocking(&self) {
        let _ = self.0.set_nonblocking(true);
    }
}

/// Our end of a stream on which a child writes.
#[derive(Debug)]
struct Incoming {
    pipe: Pipe,
    /// Somebody has read it, or wants to know when to.
    is_used: bool,
    /// Until its end, or that of who counts it.
    open: Option<OpenStream>,
}

impl Incoming {
    fn new(pipe: Pipe) -> Incoming {
        Incoming { pipe, is_used: false, open: None }
    }

    fn settle(&mut self) {
        if !self.is_used {
            self.open = None;
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.is_used = true;
        let count = (&self.pipe).read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            self.open = None;
        }
        Ok(count)
    }

    fn register(&mut self, registry: &Registry, token: Token, how: Interest) -> io::Result<()> {
        self.is_used = true;
        register(&mut self.pipe, registry, token, how)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, how: Interest) -> io::Result<()> {
        self.pipe.reregister(registry, token, how)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        deregister(&mut self.pipe, registry)
    }
}

fn register(pipe: &mut Pipe, registry: &Registry, token: Token, how: Interest) -> io::Result<()> {
    pipe.set_nonblocking(true)?;
    pipe.register(registry, token, how)
}

fn deregister(pipe: &mut Pipe, registry: &Registry) -> io::Result<()> {
    pipe.deregister(registry)?;
    pipe.set_nonblocking(false)
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Read for Duplex {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Duplex {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0.pipe).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for PipeWriter {
    fn register(&mut self, registry: &Registry, token: Token, how: Interest) -> io::Result<()> {
        register(&mut self.0, registry, token, how)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, how: Interest) -> io::Result<()> {
        self.0.reregister(registry, token, how)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        deregister(&mut self.0, registry)
    }
}

/// Makes a mio source of what is one inside.
macro_rules! source_by_incoming {
    ($($type:ident)*) => {$(
        impl Source for $type {
            fn register(
                &mut self,
                registry: &Registry,
                token: Token,
                interests: Interest,
            ) -> io::Result<()> {
                self.0.register(registry, token, interests)
            }

            fn reregister(
                &mut self,
                registry: &Registry,
                token: Token,
                interests: Interest,
            ) -> io::Result<()> {
                self.0.reregister(registry, token, interests)
            }

            fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
                self.0.deregister(registry)
            }
        }
    )*};
}

source_by_incoming!(PipeReader Duplex);

/// For another child, which gets it blocking; it must not be registered any more.
fn given(pipe: Pipe) -> Stdio {
    // Where that fails, so does everything with this pipe.
    let _ = pipe.set_nonblocking(false);
    Stdio::given(Handle::from(pipe))
}

/// The child reads what the other writes.
impl From<PipeReader> for Stdio {
    fn from(reader: PipeReader) -> Stdio {
        given(reader.0.pipe)
    }
}

/// The child writes what the other reads.
impl From<PipeWriter> for Stdio {
    fn from(writer: PipeWriter) -> Stdio {
        given(writer.0)
    }
}

/// The child talks with the other.
impl From<Duplex> for Stdio {
    fn from(duplex: Duplex) -> Stdio {
        given(duplex.0.pipe)
    }
}
