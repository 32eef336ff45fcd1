//! Unix: handles are descriptors, and travel beside the bytes of a Unix socket (`SCM_RIGHTS`).
#![allow(unsafe_code)] // System calls.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unnecessary_cast,
    reason = "the types of lengths differ between C libraries; those here are far below 2 GiB"
)]

pub(super) mod control;
mod convert;
pub(crate) mod message;
mod raw;

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use libc::{c_int, msghdr};

use control::{Aligned, RECV_BYTES, SEND_BYTES, Summary};

use super::os;
use crate::{HANDLES_MAX, HandleKind, RecvError, SendError};

pub(crate) use convert::actual_kind;
use message::RecvBuffer;
pub(crate) use raw::Raw;

/// Most places to receive into.
const RECV_BUFFERS_MAX: usize = 8;

/// Whether a call may block.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    /// As the socket's `O_NONBLOCK` says.
    AsSocket,
    /// Not even if a process that shares the socket has cleared its `O_NONBLOCK`.
    Never,
}

impl Wait {
    fn flags(self) -> c_int {
        match self {
            Self::AsSocket => 0,
            Self::Never => libc::MSG_DONTWAIT,
        }
    }
}

pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[IoSlice<'_>],
    handles: &[BorrowedFd<'_>],
    wait: Wait,
) -> Result<usize, SendError> {
    if bytes.iter().all(|part| part.is_empty()) {
        return Err(SendError::NoBytes);
    }
    if handles.len() > HANDLES_MAX {
        return Err(SendError::TooManyHandles { given: handles.len() });
    }
    let mut space = Aligned([const { MaybeUninit::<u8>::uninit() }; SEND_BYTES]);
    let mut message = message_header();
    message.msg_iov = bytes.as_ptr().cast_mut().cast();
    message.msg_iovlen = bytes.len() as _;
    if !handles.is_empty() {
        let len = control::write(&mut space.0, handles);
        message.msg_control = space.0.as_mut_ptr().cast();
        message.msg_controllen = len as _;
    }
    let flags = wait.flags() | libc::MSG_NOSIGNAL;
    loop {
        let sent = match (bytes, handles) {
            // Spares the kernel a message header, a vector and a look for control data.
            // SAFETY: the pointer and the length are those of one slice.
            ([part], []) => unsafe {
                libc::send(socket.as_raw_fd(), part.as_ptr().cast(), part.len(), flags)
            },
            // SAFETY: `message` points to `bytes` (an IoSlice is an iovec) and to the initialized
            // part of `space`, which all outlive the call and are only read.
            _ => unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) },
        };
        if let Ok(sent) = usize::try_from(sent) {
            return Ok(sent);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(send_error(error));
        }
    }
}

pub(crate) fn recv(
    socket: BorrowedFd<'_>,
    bytes: &mut [RecvBuffer<'_>],
    handles: &mut Vec<OwnedFd>,
    wait: Wait,
) -> Result<usize, RecvError> {
    const NOWHERE: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
    let mut parts = [NOWHERE; RECV_BUFFERS_MAX];
    if bytes.len() > parts.len() {
        return Err(RecvError::Io(io::Error::from_raw_os_error(libc::EMSGSIZE)));
    }
    for (part, buffer) in parts.iter_mut().zip(bytes.iter_mut()) {
        let (start, len) = buffer.room();
        *part = libc::iovec { iov_base: start.cast(), iov_len: len };
    }
    let parts = &mut parts[..bytes.len()];
    if parts.iter().all(|part| part.iov_len == 0) {
        return Err(RecvError::NoBuffer);
    }
    // All zeros and not uninitialized, because the kernel leaves the padding of records as it is.
    // That costs well under 1% of the system call.
    let mut space = Aligned([0_u8; RECV_BYTES]);
    let mut message = message_header();
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len() as _;
    message.msg_control = space.0.as_mut_ptr().cast();
    message.msg_controllen = RECV_BYTES as _;
    // SAFETY: `message` points to `parts`, which point to memory that `bytes` borrow for writing,
    // and to `space`, each with its length; all outlive the call.
    let len = unsafe { recvmsg(socket, &mut message, wait.flags() | os::RECV_FLAGS) }?;

    let control = &space.0[..RECV_BYTES.min(message.msg_controllen as usize)];
    let before = handles.len();
    let summary = control::read(control, |number| {
        // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows it;
        // `read` names each only once.
        handles.push(unsafe { OwnedFd::from_raw_fd(number) });
    });
    let verdict = judge(socket, len, &message, summary, &handles[before..]);
    if verdict.is_err() {
        handles.drain(before..).for_each(raw::close);
        return verdict;
    }
    let mut rest = len;
    for buffer in bytes {
        let filled = rest.min(buffer.room().1);
        // SAFETY: the kernel has filled the first `len` bytes of all parts, in their order, of
        // which these are the next, and no more than this part has room for.
        unsafe { buffer.fill(filled) };
        rest -= filled;
    }
    verdict
}

impl RecvBuffer<'_> {
    fn room(&mut self) -> (*mut u8, usize) {
        match self {
            Self::Slice(slice) => (slice.as_mut_ptr(), slice.len()),
            Self::Spare(vec) => {
                let spare = vec.spare_capacity_mut();
                (spare.as_mut_ptr().cast(), spare.len())
            }
        }
    }

    /// # Safety
    ///
    /// The first `bytes` of [`room`](Self::room) must be initialized.
    unsafe fn fill(&mut self, bytes: usize) {
        if let Self::Spare(vec) = self {
            // SAFETY: so many bytes after the vector's length lie within its capacity, and are
            // initialized, says the caller.
            unsafe { vec.set_len(vec.len() + bytes) };
        }
    }
}

/// What a descriptor must be open for.
#[derive(Debug, Clone, Copy)]
enum Access {
    Read,
    Write,
}

/// Whether a descriptor is open for that.
fn allows(handle: BorrowedFd<'_>, access: Access) -> io::Result<bool> {
    // SAFETY: the descriptor is open, and F_GETFL takes no argument.
    let flags = unsafe { libc::fcntl(handle.as_raw_fd(), libc::F_GETFL) };
    if flags == -1 {
        return Err(io::Error::last_os_error());
    }
    let mode = flags & libc::O_ACCMODE;
    Ok(match access {
        Access::Read => mode == libc::O_RDONLY || mode == libc::O_RDWR,
        Access::Write => mode == libc::O_WRONLY || mode == libc::O_RDWR,
    })
}

/// Whether a descriptor is a socket, of any family.
#[cfg(feature = "socket2")]
fn is_socket(handle: BorrowedFd<'_>) -> io::Result<bool> {
    match socket_option(handle, libc::SO_TYPE) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn kind(handle: BorrowedFd<'_>) -> io::Result<HandleKind> {
    match os::domain(handle) {
        Ok(libc::AF_INET | libc::AF_INET6) => internet_kind(handle),
        Ok(libc::AF_UNIX) => unix_kind(handle),
        Ok(_) => Ok(HandleKind::Other),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOTSOCK) => file_kind(handle),
            // A borrowed descriptor is open, so it was opened with O_PATH: good for no I/O.
            Some(libc::EBADF) => Ok(HandleKind::Other),
            _ => Err(error),
        },
    }
}

/// An integer option of the level `SOL_SOCKET`.
pub(super) fn socket_option(socket: BorrowedFd<'_>, option: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut len = INT_BYTES;
    // SAFETY: `value` has room for `len` bytes, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Receives until a signal does not interrupt.
///
/// A seqpacket socket whose peer closed with unread messages reports `ECONNRESET`
/// once, *before* it delivers what the peer had sent (a stream socket after). Nothing that was
/// sent may be lost by that, so the report is skipped: what follows says all, messages and then
/// the end of the stream.
///
/// # Safety
///
/// `message` must point to valid buffers.
unsafe fn recvmsg(
    socket: BorrowedFd<'_>,
    message: &mut msghdr,
    flags: c_int,
) -> Result<usize, RecvError> {
    let mut was_reset = false;
    loop {
        // SAFETY: the caller vouches for the buffers that `message` points to.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), message, flags) };
        if let Ok(received) = usize::try_from(received) {
            return Ok(received);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECONNRESET) if !was_reset => was_reset = true,
            Some(libc::EAGAIN) => return Err(RecvError::WouldBlock),
            _ => return Err(RecvError::Io(error)),
        }
    }
}

/// Whether a message is what an honest peer sends.
fn judge(
    socket: BorrowedFd<'_>,
    len: usize,
    message: &msghdr,
    summary: Summary,
    received: &[OwnedFd],
) -> Result<usize, RecvError> {
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(RecvError::HandlesTruncated { received: received.len() });
    }
    if summary.is_unexpected || summary.sets > 1 {
        return Err(RecvError::UnexpectedControl);
    }
    if message.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(RecvError::MessageTruncated);
    }
    if len == 0 && (!received.is_empty() || !os::has_ended(socket)) {
        return Err(RecvError::NoBytes);
    }
    received.iter().try_for_each(os::set_close_on_exec).map_err(RecvError::Io)?;
    Ok(len)
}

fn send_error(error: io::Error) -> SendError {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => SendError::WouldBlock,
        Some(libc::ENOBUFS | libc::ENOMEM) => SendError::NoMemory,
        Some(libc::ETOOMANYREFS) => SendError::TooManyInFlight,
        Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => SendError::Closed,
        _ => SendError::Io(error),
    }
}

fn internet_kind(socket: BorrowedFd<'_>) -> io::Result<HandleKind> {
    Ok(match socket_option(socket, libc::SO_TYPE)? {
        libc::SOCK_STREAM if !os::is_tcp(socket)? => HandleKind::Other,
        libc::SOCK_STREAM if is_listening(socket)? => HandleKind::TcpListener,
        libc::SOCK_STREAM => HandleKind::TcpStream,
        libc::SOCK_DGRAM if os::is_udp(socket)? => HandleKind::UdpSocket,
        _ => HandleKind::Other,
    })
}

fn unix_kind(socket: BorrowedFd<'_>) -> io::Result<HandleKind> {
    let is_listening = is_listening(socket)?;
    Ok(match (socket_option(socket, libc::SO_TYPE)?, is_listening) {
        (libc::SOCK_STREAM, true) => HandleKind::UnixListener,
        (libc::SOCK_STREAM, false) => HandleKind::UnixStream,
        (libc::SOCK_SEQPACKET, true) => HandleKind::UnixSeqpacketListener,
        (libc::SOCK_SEQPACKET, false) => HandleKind::UnixSeqpacket,
        (libc::SOCK_DGRAM, _) => HandleKind::UnixDatagram,
        _ => HandleKind::Other,
    })
}

fn is_listening(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(socket_option(socket, libc::SO_ACCEPTCONN)? != 0)
}

fn file_kind(handle: BorrowedFd<'_>) -> io::Result<HandleKind> {
    Ok(match os::file_type(handle)? {
        libc::S_IFREG if os::is_sealed_memory(handle) => HandleKind::Memory,
        libc::S_IFREG => HandleKind::File,
        libc::S_IFDIR => HandleKind::Directory,
        libc::S_IFIFO => HandleKind::Pipe,
        libc::S_IFCHR => HandleKind::CharDevice,
        // Epoll, event, timer and process descriptors have no type at all.
        _ => os::kind_of_untyped(handle),
    })
}

/// An empty message header.
pub(super) fn message_header() -> msghdr {
    // SAFETY: a msghdr is plain integers and pointers, for which zeros are valid; some C
    // libraries have private padding in it, so it can't be written as a literal.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// The length of an integer option.
pub(super) const INT_BYTES: libc::socklen_t = c_int::BITS / 8;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn f106_f11_errors_of_sending_fall_into_five_classes() {
        let class = |code| send_error(io::Error::from_raw_os_error(code));
        for full in [libc::EAGAIN, libc::EWOULDBLOCK] {
            assert!(matches!(class(full), SendError::WouldBlock), "{full}");
        }
        for memory in [libc::ENOBUFS, libc::ENOMEM] {
            assert!(matches!(class(memory), SendError::NoMemory), "{memory}");
        }
        assert!(matches!(class(libc::ETOOMANYREFS), SendError::TooManyInFlight));
        for gone in [libc::EPIPE, libc::ECONNRESET, libc::ENOTCONN] {
            assert!(matches!(class(gone), SendError::Closed), "{gone}");
        }
        for other in [libc::EPERM, libc::EMSGSIZE, libc::EINVAL, libc::ENOTSOCK, libc::EBADF] {
            let error = class(other);
            assert!(matches!(&error, SendError::Io(e) if e.raw_os_error() == Some(other)));
        }
    }

    #[test]
    fn f30_two_sets_of_descriptors_are_no_honest_message() {
        // Linux merges sets, so that no real peer gets this far.
        let (socket, _peer) = UnixStream::pair().unwrap();
        let verdict = |sets| {
            let summary = Summary { sets, is_unexpected: false };
            judge(socket.as_fd(), 1, &message_header(), summary, &[])
        };
        assert!(matches!(verdict(1), Ok(1)));
        assert!(matches!(verdict(2), Err(RecvError::UnexpectedControl)));
    }
}
