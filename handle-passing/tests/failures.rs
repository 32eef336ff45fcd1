//! What goes wrong between two processes, and what is right then. The names cite F11 to F42 of the
//! project's catalogue of failures.
#![cfg(unix)]

mod common;

use std::fs::File;
use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::*;
use handle_passing::{
    Handle, HandleError, HandleKind, RecvBuffer, RecvError, SendError, expect, fuzzing, kind, recv,
    recv_vectored, send, try_recv, try_recv_vectored, try_send,
};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, sockopt};
use socket2::{Domain, Socket, Type};

#[test]
fn f11_a_full_socket_leaves_the_handle_with_its_sender() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        let probe = Probe::new();
        let taken = fill(&ours, probe.handle());
        assert!(taken > 10, "{taken}");
        let before = descriptors();
        for _ in 0..100 {
            let error = try_send(&ours, b"x", &[probe.handle()]).unwrap_err();
            assert!(matches!(error, SendError::WouldBlock) && error.is_back_pressure());
        }
        assert_eq!(descriptors(), before);

        // The same handle goes once there is room.
        for _ in 0..taken {
            assert_eq!(receive(&theirs).unwrap().1.len(), 1);
        }
        try_send(&ours, b"y", &[probe.handle()]).unwrap();
        let (bytes, handles) = receive(&theirs).unwrap();
        assert_eq!((bytes.as_slice(), handles.len()), (b"y".as_slice(), 1));
        drop(handles);
        assert!(probe.released());
    }
}

#[test]
fn f14_a_closed_peer_is_an_error_and_no_signal() {
    let _ledger = Ledger::open();
    let signals = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&signals);
    let pipe = Signal::SIGPIPE as i32;
    let registered = signal_hook::flag::register_usize(pipe, count, 1).unwrap();
    for sockets in KINDS {
        for is_unread in [false, true] {
            let (ours, theirs) = pair(sockets);
            let probe = Probe::new();
            if is_unread {
                send(&ours, b"x", &[probe.handle()]).unwrap();
            }
            drop(theirs);
            for _ in 0..2 {
                let error = send(&ours, b"x", &[probe.handle()]).unwrap_err();
                assert!(matches!(error, SendError::Closed), "{error}");
                let error = try_send(&ours, b"x", &[]).unwrap_err();
                assert!(matches!(error, SendError::Closed), "{error}");
            }
            assert!(probe.released(), "what was in flight went down with the peer");
        }
    }
    assert_eq!(signals.load(Ordering::SeqCst), 0);

    // The signal would have been seen.
    let (ours, theirs) = pair(Kind::Stream);
    drop(theirs);
    let ours_raw = std::os::fd::AsRawFd::as_raw_fd(&ours);
    nix::sys::socket::send(ours_raw, b"x", nix::sys::socket::MsgFlags::empty()).unwrap_err();
    assert_eq!(signals.load(Ordering::SeqCst), 1);
    assert!(signal_hook::low_level::unregister(registered));
}

#[test]
fn f14_a_socket_without_a_peer_is_closed() {
    let _ledger = Ledger::open();
    let socket = |kind| {
        let flags = SockFlag::SOCK_CLOEXEC;
        nix::sys::socket::socket(AddressFamily::Unix, kind, flags, None).unwrap()
    };
    for kind in [SockType::Stream, SockType::SeqPacket] {
        let error = try_send(socket(kind), b"x", &[]).unwrap_err();
        assert!(matches!(error, SendError::Closed), "{error}");
    }
}

#[test]
fn f22_try_calls_do_not_block_though_the_socket_would() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        let mut buffer = [0; 8];
        let receive = || try_recv(&theirs, &mut buffer, &mut Vec::new());
        let error = without_blocking(libc::SYS_recvmsg, receive).unwrap_err();
        assert!(matches!(error, RecvError::WouldBlock), "{error}");
        // Ends with the first message that the socket doesn't take.
        without_blocking(libc::SYS_sendmsg, || fill(&ours, dev_null().as_fd()));
        let parts = [std::io::IoSlice::new(b"x")];
        let send = || handle_passing::try_send_vectored(&ours, &parts, &[]);
        // One part without handles takes the shorter way.
        let error = without_blocking(libc::SYS_sendto, send).unwrap_err();
        assert!(matches!(error, SendError::WouldBlock), "{error}");
    }
}

#[test]
fn f22_the_other_calls_follow_the_socket() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        let probe = Probe::new();
        let taken = fill(&ours, probe.handle());
        ours.set_nonblocking(true).unwrap();
        let error = send(&ours, b"x", &[]).unwrap_err();
        assert!(matches!(error, SendError::WouldBlock), "{error}");
        ours.set_nonblocking(false).unwrap();

        let sent = while_blocked(
            libc::SYS_sendmsg,
            || send(&ours, b"last", &[probe.handle()]),
            |_| (0..taken).for_each(|_| drop(receive(&theirs).unwrap())),
        );
        assert_eq!(sent.unwrap(), 4);
        assert_eq!(receive(&theirs).unwrap().0, b"last");

        theirs.set_nonblocking(true).unwrap();
        let error = receive(&theirs).unwrap_err();
        assert!(matches!(error, RecvError::WouldBlock), "{error}");
    }
}

/// A connection whose last duplicate takes long to close, in flight to the socket that is
/// returned with its sender and the connection's other end.
fn lingering() -> (UnixStream, UnixStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = Socket::from(listener.accept().unwrap().0);
    server.set_linger(Some(DEADLINE)).unwrap();
    server.set_nonblocking(true).unwrap();
    while server.send(&[0; 65536]).is_ok() {}
    let (ours, theirs) = pair(Kind::Seqpacket);
    send(&ours, b"x", &[server.as_fd()]).unwrap();
    (ours, theirs, client)
}

#[test]
fn f23_closing_what_a_peer_chose_does_not_linger() {
    let _ledger = Ledger::open();
    type Close = fn(&UnixStream);
    let ways: [Close; 5] = [
        |theirs| drop(expect(receive(theirs).unwrap().1, &[]).unwrap_err()),
        |theirs| {
            fuzzing::receive_credentials(theirs, true).unwrap();
            receive(theirs).unwrap_err();
        },
        |theirs| drop(Handle::received(receive(theirs).unwrap().1.remove(0))),
        |theirs| {
            let handle = Handle::received(receive(theirs).unwrap().1.remove(0));
            drop(handle.into_type::<UdpSocket>().unwrap_err());
        },
        |theirs| {
            let handle = Handle::received(receive(theirs).unwrap().1.remove(0));
            let clone = handle.try_clone().unwrap();
            drop((handle, clone));
        },
    ];
    for close in ways {
        let (_ours, theirs, _client) = lingering();
        without_blocking(libc::SYS_close, || close(&theirs));
    }
    // What resets the connection does not wait, and goes on doing so; what is taken is the taker's.
    let (ours, theirs) = pair(Kind::Seqpacket);
    for linger in [std::time::Duration::ZERO, DEADLINE] {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_linger(Some(linger)).unwrap();
        send(&ours, b"x", &[socket.as_fd()]).unwrap();
        let handle = Handle::received(receive(&theirs).unwrap().1.remove(0));
        if linger.is_zero() {
            drop(handle)
        } else {
            drop(handle.into_type::<TcpStream>().unwrap())
        }
        assert_eq!(socket.linger().unwrap(), Some(linger));
    }
}

#[test]
fn f26_f27_the_count_must_be_the_announced_one() {
    let _ledger = Ledger::open();
    let pipe = HandleKind::Pipe;
    for (sent, kinds) in [(0, &[pipe][..]), (1, &[pipe; 2]), (1, &[]), (2, &[pipe]), (253, &[])] {
        let (ours, theirs) = pair(Kind::Seqpacket);
        let probe = Probe::new();
        send(&ours, b"x", &vec![probe.handle(); sent]).unwrap();
        let error = expect(receive(&theirs).unwrap().1, kinds).unwrap_err();
        match error {
            HandleError::Missing { expected, received } => {
                assert_eq!((expected, received, sent < kinds.len()), (kinds.len(), sent, true));
            }
            HandleError::Surplus { expected, received } => {
                assert_eq!((expected, received, sent > kinds.len()), (kinds.len(), sent, true));
            }
            other => panic!("{other}"),
        }
        assert!(probe.released());
    }
    assert!(expect(Vec::new(), &[]).unwrap().is_empty());
}

#[test]
fn f30_an_error_leaves_handles_received_earlier_alone() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        let (earlier, bad) = (Probe::new(), Probe::new());
        let mut handles = vec![earlier.handle().try_clone_to_owned().unwrap()];
        fuzzing::receive_credentials(&theirs, true).unwrap();
        send(&ours, b"x", &[bad.handle(); 7]).unwrap();
        recv(&theirs, &mut [0; 8], &mut handles).unwrap_err();
        assert!(bad.released());
        assert_eq!(handles.len(), 1);
        assert!(!earlier.released(), "the handle received earlier is still open");
    }
}

#[test]
fn k04_a_message_that_does_not_fit_is_an_error() {
    let _ledger = Ledger::open();
    let (ours, theirs) = pair(Kind::Seqpacket);
    let probe = Probe::new();
    send(&ours, b"nine byte", &[probe.handle()]).unwrap();
    send(&ours, b"next", &[]).unwrap();
    let mut handles = Vec::new();
    let error = recv(&theirs, &mut [0; 8], &mut handles).unwrap_err();
    assert!(matches!(error, RecvError::MessageTruncated), "{error}");
    assert!(handles.is_empty() && probe.released());
    assert_eq!(receive(&theirs).unwrap().0, b"next");
}

#[test]
fn f30_several_records_arrive_as_one_set_or_not_at_all() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        let probe = Probe::new();
        let (one, many) = ([probe.handle()], [probe.handle(); 100]);
        fuzzing::send_raw(&ours, b"x", &[&one, &one, &many], false).unwrap();
        // Linux merges them.
        assert_eq!(receive(&theirs).unwrap().1.len(), 102);
        assert!(probe.released());
    }
}

#[test]
fn f30_foreign_control_messages_close_all() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        for (has_credentials, has_pidfd) in [(true, false), (false, true), (true, true)] {
            let (ours, theirs) = pair(sockets);
            fuzzing::receive_credentials(&theirs, has_credentials).unwrap();
            if let Err(error) = fuzzing::receive_pidfds(&theirs, has_pidfd) {
                println!("skipped: no process descriptors: {error}");
                continue;
            }
            for count in [0, 1, 253] {
                let probe = Probe::new();
                let before = descriptors();
                send(&ours, b"x", &vec![probe.handle(); count]).unwrap();
                let error = receive(&theirs).unwrap_err();
                assert!(matches!(error, RecvError::UnexpectedControl), "{error}");
                assert_eq!(descriptors(), before, "the process descriptor is closed too");
                assert!(probe.released());
            }
        }
    }
}

#[test]
fn f30_out_of_band_data_brings_no_handles() {
    let _ledger = Ledger::open();
    let (ours, theirs) = pair(Kind::Stream);
    let probe = Probe::new();
    if let Err(error) = fuzzing::send_raw(&ours, b"!", &[&[probe.handle()]], true) {
        println!("skipped: no out-of-band data on Unix sockets: {error}");
        return;
    }
    let error = try_recv(&theirs, &mut [0; 8], &mut Vec::new()).unwrap_err();
    assert!(matches!(error, RecvError::WouldBlock), "{error}");
    send(&ours, b"in band", &[]).unwrap();
    let (bytes, handles) = receive(&theirs).unwrap();
    assert_eq!((bytes.as_slice(), handles.len()), (b"in band".as_slice(), 0));
    drop((ours, theirs));
    assert!(probe.released());
}

#[test]
fn f31_each_kind_is_told_apart_after_its_passage() {
    let _ledger = Ledger::open();
    let samples = samples();
    let (ours, theirs) = pair(Kind::Seqpacket);
    for (index, (name, sent, sent_kind)) in samples.iter().enumerate() {
        assert_eq!(kind(sent).unwrap(), *sent_kind, "{name}");
        send(&ours, b"x", &[sent.as_fd()]).unwrap();
        let handles = receive(&theirs).unwrap().1;
        let handles = expect(handles, &[*sent_kind]).unwrap_or_else(|e| panic!("{name}: {e}"));
        drop(handles);

        // Nothing else is taken for it, and the error says which handle was wrong.
        let probe = Probe::new();
        send(&ours, b"x", &[probe.handle(), sent.as_fd()]).unwrap();
        let other = samples.iter().map(|s| s.2).find(|k| k != sent_kind).unwrap();
        let error = expect(receive(&theirs).unwrap().1, &[HandleKind::Pipe, other]).unwrap_err();
        assert!(
            matches!(error, HandleError::WrongKind { index: 1, expected, found }
                if (expected, found) == (other, *sent_kind)),
            "sample {index}, {name}: {error}"
        );
        assert!(probe.released(), "the right one is closed with the wrong one");
    }
}

#[test]
fn f33_an_empty_seqpacket_is_not_the_end() {
    let _ledger = Ledger::open();
    let (ours, theirs) = pair(Kind::Seqpacket);
    fuzzing::send_raw(&ours, b"", &[], false).unwrap();
    send(&ours, b"more", &[]).unwrap();
    let error = receive(&theirs).unwrap_err();
    assert!(matches!(error, RecvError::NoBytes), "{error}");
    assert_eq!(receive(&theirs).unwrap().0, b"more");
    drop(ours);
    assert_eq!(receive(&theirs).unwrap().0, b"");
}

#[test]
fn f33_the_end_is_told_however_it_comes() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(receive(&theirs).unwrap().0, b"");
        send(&theirs, b"other way", &[]).unwrap();
        assert_eq!(receive(&ours).unwrap().0, b"other way");
        ours.shutdown(std::net::Shutdown::Read).unwrap();
        assert_eq!(receive(&ours).unwrap().0, b"");
    }
}

#[test]
fn f33_an_empty_buffer_is_refused_and_takes_nothing() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        send(&ours, b"x", &[dev_null().as_fd()]).unwrap();
        let error = recv(&theirs, &mut [], &mut Vec::new()).unwrap_err();
        assert!(matches!(error, RecvError::NoBuffer), "{error}");
        let (bytes, handles) = receive(&theirs).unwrap();
        assert_eq!((bytes.as_slice(), handles.len()), (b"x".as_slice(), 1));
    }
}

#[test]
fn f42_signals_do_not_interrupt() {
    let _ledger = Ledger::open();
    let caught = Arc::new(AtomicBool::new(false));
    let signal = Signal::SIGUSR1;
    let registered = signal_hook::flag::register(signal as i32, Arc::clone(&caught)).unwrap();
    let storm = |blocked: &Caller| {
        for _ in 0..20 {
            caught.store(false, Ordering::SeqCst);
            pthread_kill(blocked.thread, signal).unwrap();
            wait_until("the signal arrives", || caught.load(Ordering::SeqCst));
            blocked.wait_until_blocked();
        }
    };
    for sockets in KINDS {
        // These sockets have time-outs, with which the kernel itself restarts no call.
        let (ours, theirs) = pair(sockets);
        let probe = Probe::new();
        let taken = fill(&ours, probe.handle());
        let sent = while_blocked(
            libc::SYS_sendmsg,
            || send(&ours, b"last", &[probe.handle()]),
            |blocked| {
                storm(blocked);
                (0..taken).for_each(|_| drop(receive(&theirs).unwrap()));
            },
        );
        assert_eq!(sent.unwrap(), 4);
        assert_eq!(receive(&theirs).unwrap().0, b"last");

        let received = while_blocked(
            libc::SYS_recvmsg,
            || receive(&theirs),
            |blocked| {
                storm(blocked);
                send(&ours, b"at last", &[probe.handle()]).unwrap();
            },
        );
        let (bytes, handles) = received.unwrap();
        assert_eq!((bytes.as_slice(), handles.len()), (b"at last".as_slice(), 1));
    }
    assert!(signal_hook::low_level::unregister(registered));
}

#[test]
fn f95_a_peer_whose_handles_are_refused_is_told() {
    let _ledger = Ledger::open();
    let (ours, theirs) = pair(Kind::Seqpacket);
    if let Err(error) = handle_passing::refuse_handles(&theirs) {
        println!("skipped: handles can't be refused: {error}");
        return;
    }
    let error = send(&ours, b"x", &[dev_null().as_fd()]).unwrap_err();
    assert!(matches!(&error, SendError::Io(e) if e.raw_os_error() == Some(libc::EPERM)), "{error}");
    send(&ours, b"x", &[]).unwrap();
}

#[test]
fn parts_are_sent_as_one_message() {
    let _ledger = Ledger::open();
    let (ours, theirs) = pair(Kind::Seqpacket);
    let parts = [&b"head"[..], b"", b"body"].map(std::io::IoSlice::new);
    let handle = dev_null();
    assert_eq!(handle_passing::send_vectored(&ours, &parts, &[handle.as_fd()]).unwrap(), 8);
    let (bytes, handles) = receive(&theirs).unwrap();
    assert_eq!((bytes.as_slice(), handles.len()), (b"headbody".as_slice(), 1));
}

#[test]
fn f36_received_parts_are_filled_in_order_and_within_their_capacity() {
    let _ledger = Ledger::open();
    let bytes: Vec<u8> = (0..200).collect();
    for sent in [1, 4, 5, 20, 50, 120, 200] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&ours, &bytes[..sent], &[]).unwrap();
        let (mut head, mut tail) = ([0xff; 4], [0xff; 60]);
        let mut body = Vec::with_capacity(40);
        body.extend([1, 2, 3]);
        let (room, start) = (4 + (body.capacity() - 3) + 60, body.as_ptr());
        let mut parts = [
            RecvBuffer::Slice(&mut head),
            RecvBuffer::Spare(&mut body),
            RecvBuffer::Slice(&mut tail),
        ];
        let len = recv_vectored(&theirs, &mut parts, &mut Vec::new()).unwrap();
        assert_eq!((len, body.as_ptr(), &body[..3]), (sent.min(room), start, &[1, 2, 3][..]));
        let all = [&head, &body[3..], &tail].concat();
        assert_eq!(&all[..len], &bytes[..len], "{sent}");
        assert!(all[len..].iter().all(|byte| *byte == 0xff), "{sent}: nothing else is touched");
    }
}

#[test]
fn f36_an_error_leaves_a_vector_as_it_was_and_a_full_one_is_no_buffer() {
    let _ledger = Ledger::open();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut body = Vec::with_capacity(10);
    let error = try_recv_vectored(&theirs, &mut [RecvBuffer::Spare(&mut body)], &mut Vec::new());
    assert!(matches!(error, Err(RecvError::WouldBlock)));
    assert!(body.is_empty());
    send(&ours, b"x", &[]).unwrap();
    let mut full = Vec::new();
    let error = recv_vectored(&theirs, &mut [RecvBuffer::Spare(&mut full)], &mut Vec::new());
    assert!(matches!(error, Err(RecvError::NoBuffer)), "it would look like the end");
    let mut nine = [const { [0; 1] }; 9];
    let mut nine: Vec<_> = nine.iter_mut().map(|one| RecvBuffer::Slice(one)).collect();
    let error = recv_vectored(&theirs, &mut nine, &mut Vec::new());
    assert!(matches!(error, Err(RecvError::Io(_))), "too many places");
}

#[test]
fn a_received_connection_works() {
    let _ledger = Ledger::open();
    let (ours, theirs) = pair(Kind::Seqpacket);
    let (client, server) = UnixStream::pair().unwrap();
    send(&ours, b"x", &[server.as_fd()]).unwrap();
    drop(server);
    let server = UnixStream::from(receive(&theirs).unwrap().1.remove(0));
    std::io::Write::write_all(&mut &server, b"hello").unwrap();
    drop(server);
    let mut text = String::new();
    (&client).read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
}

/// One handle of each kind.
fn samples() -> Vec<(&'static str, OwnedFd, HandleKind)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (pipe_reader, pipe_writer) = std::io::pipe().unwrap();
    let name = format!("handle-passing-test-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let unix_listener = UnixListener::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let (seqpacket, _) = fuzzing::seqpacket_pair().unwrap();
    let memory = memfd_create("sample", MFdFlags::MFD_CLOEXEC).unwrap();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let epoll = epoll.0;
    let event = OwnedFd::from(EventFd::new().unwrap());
    let netlink = socket(AddressFamily::Netlink, SockType::Raw);
    let mut samples: Vec<(&str, OwnedFd, HandleKind)> = vec![
        ("TCP listener", listener.into(), HandleKind::TcpListener),
        ("TCP stream", stream.into(), HandleKind::TcpStream),
        ("unconnected TCP", socket(AddressFamily::Inet, SockType::Stream), HandleKind::TcpStream),
        ("UDP", UdpSocket::bind("127.0.0.1:0").unwrap().into(), HandleKind::UdpSocket),
        ("Unix listener", unix_listener.into(), HandleKind::UnixListener),
        ("Unix stream", UnixStream::pair().unwrap().0.into(), HandleKind::UnixStream),
        ("Unix seqpacket", seqpacket, HandleKind::UnixSeqpacket),
        ("seqpacket listener", seqpacket_listener(), HandleKind::UnixSeqpacketListener),
        ("Unix datagram", UnixDatagram::unbound().unwrap().into(), HandleKind::UnixDatagram),
        ("pipe, reading", pipe_reader.into(), HandleKind::Pipe),
        ("pipe, writing", pipe_writer.into(), HandleKind::Pipe),
        ("file", File::open("/proc/self/exe").unwrap().into(), HandleKind::File),
        ("unsealed memory", memory, HandleKind::File),
        ("memory", sealed_memory(), HandleKind::Memory),
        ("directory", File::open("/").unwrap().into(), HandleKind::Directory),
        ("device", dev_null().into(), HandleKind::CharDevice),
        ("epoll", epoll, HandleKind::Other),
        ("event", event, HandleKind::Event),
        ("process", this_process(), HandleKind::Process),
        ("netlink", netlink, HandleKind::Other),
    ];
    // What some kernels lack, or don't let us have.
    for (name, kind, protocol, found) in [
        ("MPTCP", Type::STREAM, libc::IPPROTO_MPTCP, HandleKind::TcpStream),
        ("SCTP", Type::STREAM, libc::IPPROTO_SCTP, HandleKind::Other),
        ("UDP-Lite", Type::DGRAM, libc::IPPROTO_UDPLITE, HandleKind::Other),
        ("ping", Type::DGRAM, libc::IPPROTO_ICMP, HandleKind::Other),
        ("raw", Type::RAW, libc::IPPROTO_ICMP, HandleKind::Other),
    ] {
        match Socket::new(Domain::IPV4, kind, Some(protocol.into())) {
            Ok(socket) => samples.push((name, socket.into(), found)),
            Err(error) => println!("skipped: {name}: {error}"),
        }
    }
    if let Ok(listener) = TcpListener::bind("[::1]:0") {
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        samples.push(("TCP listener, IPv6", listener.into(), HandleKind::TcpListener));
        samples.push(("TCP stream, IPv6", stream.into(), HandleKind::TcpStream));
    }
    samples
}

fn socket(family: AddressFamily, kind: SockType) -> OwnedFd {
    nix::sys::socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap()
}

fn seqpacket_listener() -> OwnedFd {
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket);
    let backlog = nix::sys::socket::Backlog::new(1).unwrap();
    // An abstract name that the kernel picks.
    let unnamed = nix::sys::socket::UnixAddr::new_unnamed();
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &unnamed).unwrap();
    nix::sys::socket::listen(&listener, backlog).unwrap();
    let is_listening = nix::sys::socket::getsockopt(&listener, sockopt::AcceptConn).unwrap();
    assert!(is_listening);
    listener
}

#[allow(dead_code, reason = "checked at compile time")]
fn signatures_take_what_borrows(owned: OwnedFd, borrowed: BorrowedFd<'_>) {
    let _ = send(&owned, b"x", &[borrowed]);
    let _ = recv(borrowed, &mut [0], &mut Vec::new());
    let _ = kind(&owned);
}

fn sealed_memory() -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let memory = memfd_create("sample", flags).unwrap();
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    memory
}

fn this_process() -> OwnedFd {
    let this = rustix::process::getpid();
    rustix::process::pidfd_open(this, rustix::process::PidfdFlags::empty()).unwrap()
}
