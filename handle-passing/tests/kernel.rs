//! What the kernel does with handles in flight, seen through this crate. The names cite K1 to K17
//! of the project's list of kernel facts.
#![cfg(unix)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;

use common::*;
use handle_passing::{
    HANDLES_MAX, HandleError, HandleKind, RecvError, SendError, expect, fuzzing, kind, recv, send,
    try_recv, try_send,
};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{MsgFlags, getsockopt, recvmsg, setsockopt, sockopt};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags};

#[test]
fn k01_a_second_handle_where_one_was_expected_is_owned_and_closed() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        let probe = Probe::new();
        send(&ours, b"x", &[probe.handle(), probe.handle()]).unwrap();
        let (_, handles) = receive(&theirs).unwrap();
        assert_eq!(handles.len(), 2);
        let error = expect(handles, &[HandleKind::Pipe]).unwrap_err();
        assert!(matches!(error, HandleError::Surplus { expected: 1, received: 2 }), "{error}");
        assert!(probe.released());
    }
}

#[test]
fn k01_f29_a_short_control_buffer_loses_handles_and_ours_is_long_enough() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        let probe = Probe::new();
        let before = descriptors();
        send(&ours, b"x", &[probe.handle(); 5]).unwrap();
        let mut byte = [0];
        let mut bytes = [std::io::IoSliceMut::new(&mut byte)];
        // Room for one, which padding makes more.
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::net::recvmsg(&theirs, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC);
        assert!(got.unwrap().flags.contains(ReturnFlags::CTRUNC));
        assert!((1..5).contains(&(descriptors() - before)), "some came, and some did not");
        drop(control);
        send(&ours, b"x", &[probe.handle(); HANDLES_MAX]).unwrap();
        assert_eq!(receive(&theirs).unwrap().1.len(), HANDLES_MAX);
        assert!(probe.released(), "what did not come was closed by the kernel");
    }
}

#[test]
fn k02_a_plain_read_closes_the_handles() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, mut theirs) = pair(sockets);
        let probe = Probe::new();
        send(&ours, b"x", &[probe.handle()]).unwrap();
        assert_eq!(theirs.read(&mut [0; 8]).unwrap(), 1);
        assert!(probe.released());
    }
}

#[test]
fn k03_at_the_descriptor_limit_the_handles_that_do_not_fit_are_lost() {
    let _ledger = Ledger::open();
    if !is_child() {
        // A process of its own, because the limit is the process's.
        return run(&mut child("k03_at_the_descriptor_limit_the_handles_that_do_not_fit_are_lost"));
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    for sockets in KINDS {
        for room in [0, 1, 2] {
            let (ours, theirs) = pair(sockets);
            let probe = Probe::new();
            send(&ours, b"three", &[probe.handle(); 3]).unwrap();
            send(&ours, b"after", &[]).unwrap();

            setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
            let mut fillers: Vec<OwnedFd> = Vec::new();
            while let Ok(filler) = probe.handle().try_clone_to_owned() {
                fillers.push(filler);
            }
            fillers.truncate(fillers.len() - room);
            let error = receive(&theirs).unwrap_err();
            fillers.clear();
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();

            assert!(
                matches!(error, RecvError::HandlesTruncated { received } if received == room),
                "{sockets:?} with room for {room}: {error}"
            );
            assert!(probe.released(), "{sockets:?} with room for {room}");
            assert_eq!(receive(&theirs).unwrap().0, b"after");
        }
    }
}

#[test]
fn k04_a_stream_glues_messages_but_never_two_sets_of_handles() {
    let _ledger = Ledger::open();
    let (ours, theirs) = pair(Kind::Stream);
    let (b, d) = (dev_null(), Probe::new());
    send(&ours, b"A", &[]).unwrap();
    send(&ours, b"B", &[b.as_fd()]).unwrap();
    send(&ours, b"C", &[]).unwrap();
    send(&ours, b"D", &[d.handle()]).unwrap();
    for (text, found) in [(b"AB", HandleKind::CharDevice), (b"CD", HandleKind::Pipe)] {
        let (bytes, handles) = receive(&theirs).unwrap();
        assert_eq!(bytes, text);
        expect(handles, &[found]).unwrap();
    }

    send(&ours, b"EF", &[d.handle()]).unwrap();
    let mut handles = Vec::new();
    assert_eq!(recv(&theirs, &mut [0; 1], &mut handles).unwrap(), 1);
    assert_eq!(handles.len(), 1, "handles come with the first byte");
    assert_eq!(recv(&theirs, &mut [0; 1], &mut handles).unwrap(), 1);
    assert_eq!(handles.len(), 1, "and only once");
}

#[test]
fn k04_seqpackets_keep_messages_apart() {
    let _ledger = Ledger::open();
    let (ours, theirs) = pair(Kind::Seqpacket);
    let handle = dev_null();
    send(&ours, b"A", &[]).unwrap();
    send(&ours, b"B", &[handle.as_fd()]).unwrap();
    send(&ours, b"C", &[]).unwrap();
    for (text, count) in [(b"A", 0), (b"B", 1), (b"C", 0)] {
        let (bytes, handles) = receive(&theirs).unwrap();
        assert_eq!((bytes.as_slice(), handles.len()), (text.as_slice(), count));
    }
}

#[test]
fn k05_f12_a_partial_send_takes_the_handles_with_its_first_bytes() {
    let _ledger = Ledger::open();
    let (ours, theirs) = pair(Kind::Stream);
    let probe = Probe::new();
    let sent: Vec<u8> = (0..4 << 20).map(|i: u32| i.to_le_bytes()[i as usize % 4]).collect();
    let mut done = try_send(&ours, &sent, &[probe.handle()]).unwrap();
    assert!(done < sent.len(), "the socket took all {done} bytes at once");

    let (mut received, mut handles) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 64 << 10];
    while received.len() < sent.len() {
        match try_recv(&theirs, &mut buffer, &mut handles) {
            Ok(len) => received.extend_from_slice(&buffer[..len]),
            // The rest goes without handles.
            Err(RecvError::WouldBlock) => done += try_send(&ours, &sent[done..], &[]).unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(received == sent, "the bytes differ");
    assert_eq!(handles.len(), 1);
    drop(handles);
    assert!(probe.released());
}

#[test]
fn k06_no_bytes_are_not_sent() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        let handle = dev_null();
        for handles in [&[handle.as_fd()][..], &[]] {
            assert!(matches!(send(&ours, b"", handles), Err(SendError::NoBytes)));
            let parts = [std::io::IoSlice::new(b""); 2];
            let error = handle_passing::send_vectored(&ours, &parts, handles).unwrap_err();
            assert!(matches!(error, SendError::NoBytes));
        }
        let error = try_recv(&theirs, &mut [0; 8], &mut Vec::new()).unwrap_err();
        assert!(matches!(error, RecvError::WouldBlock), "{error}");
    }
}

#[test]
fn k06_handles_without_bytes_are_dropped_by_a_stream_and_refused_from_a_seqpacket() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        let probe = Probe::new();
        fuzzing::send_raw(&ours, b"", &[&[probe.handle()]], false).unwrap();
        let mut handles = Vec::new();
        let error = try_recv(&theirs, &mut [0; 8], &mut handles).unwrap_err();
        match sockets {
            Kind::Stream => assert!(matches!(error, RecvError::WouldBlock), "{error}"),
            Kind::Seqpacket => assert!(matches!(error, RecvError::NoBytes), "{error}"),
        }
        assert!(handles.is_empty());
        assert!(probe.released());
    }
    // Nor is it the end if it is the last that the peer sends.
    let (ours, theirs) = pair(Kind::Seqpacket);
    let probe = Probe::new();
    fuzzing::send_raw(&ours, b"", &[&[probe.handle()]], false).unwrap();
    drop(ours);
    let error = receive(&theirs).unwrap_err();
    assert!(matches!(error, RecvError::NoBytes), "{error}");
    assert!(probe.released());
}

#[test]
fn k07_f28_a_message_carries_from_none_to_253_handles_and_no_more() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        let probe = Probe::new();
        for count in 0..=HANDLES_MAX {
            send(&ours, b"x", &vec![probe.handle(); count]).unwrap();
            assert_eq!(receive(&theirs).unwrap().1.len(), count);
        }
        let error = send(&ours, b"x", &vec![probe.handle(); HANDLES_MAX + 1]).unwrap_err();
        assert!(matches!(error, SendError::TooManyHandles { given: 254 }), "{error}");
        let raw = fuzzing::send_raw(&ours, b"x", &[&vec![probe.handle(); 254]], false);
        assert_eq!(raw.unwrap_err().raw_os_error(), Some(libc::EINVAL), "the kernel's own limit");
        assert!(probe.released());
    }
}

#[test]
fn k08_receiving_takes_handles_once_whereas_peeking_duplicates_them() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        let probe = Probe::new();
        send(&ours, b"x", &[probe.handle()]).unwrap();

        let before = descriptors();
        let mut control = nix::cmsg_space!([i32; 1]);
        let peek = MsgFlags::MSG_PEEK;
        let peeked = recvmsg::<()>(theirs.as_raw_fd(), &mut [], Some(&mut control), peek).unwrap();
        let nix::sys::socket::ControlMessageOwned::ScmRights(numbers) =
            peeked.cmsgs().unwrap().next().unwrap()
        else {
            panic!("no descriptors");
        };
        assert_eq!(descriptors(), before + 1, "a peek opens a descriptor");
        numbers.into_iter().for_each(|number| nix::unistd::close(number).unwrap());

        let (_, handles) = receive(&theirs).unwrap();
        assert_eq!((handles.len(), descriptors()), (1, before + 1));
        drop(handles);
        assert!(probe.released());
    }
}

#[test]
fn k09_a_receiver_that_does_not_receive_is_back_pressure_after_a_few_hundred_messages() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        setsockopt(&ours, sockopt::SndBuf, &(212_992 / 2)).unwrap(); // The kernel doubles it.
        let taken = fill(&ours, dev_null().as_fd());
        assert!((100..=1000).contains(&taken), "{taken}; 278 on Linux 6.18");
        drop(theirs);
    }
}

#[test]
fn k10_what_a_dead_sender_had_sent_is_received_and_then_the_end() {
    const TEST: &str = "k10_what_a_dead_sender_had_sent_is_received_and_then_the_end";
    if is_child() {
        let socket = std::io::stdin();
        for i in 0..5_u8 {
            send(&socket, &[b'0' + i], &[dev_null().as_fd()]).unwrap();
        }
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    let _ledger = Ledger::open();
    for sockets in KINDS {
        for is_unread in [false, true] {
            let (ours, theirs) = pair(sockets);
            if is_unread {
                // Makes the kernel report a reset, on a seqpacket socket before anything else.
                send(&ours, b"never read", &[]).unwrap();
            }
            let output = child(TEST).stdin(OwnedFd::from(theirs)).output().unwrap();
            assert!(!output.status.success());

            let mut text = Vec::new();
            for _ in 0..5 {
                let (bytes, handles) = receive(&ours).unwrap();
                expect(handles, &[HandleKind::CharDevice]).unwrap();
                text.extend(bytes);
            }
            assert_eq!(text, b"01234", "{sockets:?}, unread: {is_unread}");
            for _ in 0..2 {
                let (bytes, handles) = receive(&ours).unwrap();
                assert!(bytes.is_empty() && handles.is_empty(), "the end, and it stays");
            }
        }
    }
}

#[test]
fn k11_a_connection_that_dies_in_flight_is_reset_unless_its_sender_has_kept_it() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        for is_kept in [false, true] {
            let (ours, theirs) = pair(sockets);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            client.write_all(b"unread").unwrap();
            let (server, _) = listener.accept().unwrap();
            wait_until("it arrives", || server.peek(&mut [0; 8]).unwrap() == 6);
            send(&ours, b"x", &[server.as_fd()]).unwrap();
            let kept = is_kept.then_some(server);
            drop(theirs);
            match kept {
                None => {
                    let error = client.read(&mut [0; 8]).unwrap_err();
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                }
                Some(mut server) => {
                    server.write_all(b"alive").unwrap();
                    client.read_exact(&mut [0; 5]).unwrap();
                }
            }
        }
    }
}

#[test]
fn k12_f32_received_handles_are_close_on_exec_and_not_seen_by_programs() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        let file = dev_null();
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        send(&ours, b"x", &[file.as_fd(); 3]).unwrap();
        let (_, handles) = receive(&theirs).unwrap();
        for handle in &handles {
            let flags = fcntl(handle, FcntlArg::F_GETFD).unwrap();
            assert_eq!(FdFlag::from_bits_retain(flags), FdFlag::FD_CLOEXEC);
        }
        let is_inherited = |handle: &dyn AsRawFd| {
            let look = format!("[ -e /proc/self/fd/{} ]", handle.as_raw_fd());
            std::process::Command::new("sh").args(["-c", &look]).status().unwrap().success()
        };
        assert!(handles.iter().all(|handle| !is_inherited(handle)));
        assert!(is_inherited(&file), "what a program does inherit can be seen");
    }
}

#[test]
fn k12_blocking_mode_is_shared_both_ways() {
    let _ledger = Ledger::open();
    let (ours, theirs) = pair(Kind::Seqpacket);
    let (file, _peer) = UnixStream::pair().unwrap();
    send(&ours, b"x", &[file.as_fd()]).unwrap();
    let received = UnixStream::from(receive(&theirs).unwrap().1.remove(0));
    let is_nonblocking = |socket: &UnixStream| {
        let flags = fcntl(socket, FcntlArg::F_GETFL).unwrap();
        OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK)
    };
    assert!(!is_nonblocking(&received));
    file.set_nonblocking(true).unwrap();
    assert!(is_nonblocking(&received));
    received.set_nonblocking(false).unwrap();
    assert!(!is_nonblocking(&file));
}

#[test]
fn k13_an_epoll_goes_on_about_a_handle_that_was_passed_on_and_closed() {
    let _ledger = Ledger::open();
    let (ours, theirs) = pair(Kind::Seqpacket);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let (readable, mut other) = UnixStream::pair().unwrap();
    epoll.add(&readable, EpollEvent::new(EpollFlags::EPOLLIN, 7)).unwrap();
    send(&ours, b"x", &[readable.as_fd()]).unwrap();
    drop(readable);
    other.write_all(b"for whoever has it now").unwrap();
    let mut events = [EpollEvent::empty()];
    assert_eq!(epoll.wait(&mut events, EpollTimeout::ZERO).unwrap(), 1);
    assert_eq!(events[0].data(), 7);
    drop(theirs);
    assert_eq!(epoll.wait(&mut events, EpollTimeout::ZERO).unwrap(), 0, "nobody has it");
}

#[test]
fn k14_f13_too_many_descriptors_in_flight_are_back_pressure() {
    const TEST: &str = "k14_f13_too_many_descriptors_in_flight_are_back_pressure";
    const LIMIT: u64 = 64;
    let _ledger = Ledger::open();
    if !is_child() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root, to become a user without privileges");
            return;
        }
        // A user of its own: the limit counts all processes of a user.
        let user = 0x4000_0000 + std::process::id();
        return run(child(TEST).uid(user).gid(user));
    }
    setrlimit(Resource::RLIMIT_NOFILE, LIMIT, LIMIT).unwrap();
    let probe = Probe::new();
    let pairs = [pair(Kind::Seqpacket), pair(Kind::Stream)];
    let mut sent = 0;
    let error = pairs
        .iter()
        .cycle()
        .find_map(|(ours, _)| match try_send(ours, b"x", &[probe.handle()]) {
            Ok(_) => {
                sent += 1;
                None
            }
            Err(error) => Some(error),
        })
        .unwrap();
    assert!(matches!(error, SendError::TooManyInFlight), "{error}");
    assert!(error.is_back_pressure());
    assert!((LIMIT..=LIMIT + 1).contains(&sent), "{sent} were in flight");

    // It passes when somebody receives, on any socket of the user.
    for _ in 0..2 {
        assert_eq!(receive(&pairs[0].1).unwrap().1.len(), 1);
    }
    try_send(&pairs[1].0, b"x", &[probe.handle()]).unwrap();
    drop(pairs);
    assert!(probe.released());
}

#[test]
fn k15_sockets_in_their_own_queues_are_collected_and_can_be_refused() {
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        let probe = Probe::new();
        send(&ours, b"x", &[theirs.as_fd(), probe.handle()]).unwrap();
        send(&theirs, b"x", &[ours.as_fd()]).unwrap();
        drop((ours, theirs));
        // The kernel looks for cycles when another Unix socket is closed.
        let reader = probe.into_reader();
        wait_until("the cycle is collected", || {
            drop(UnixStream::pair().unwrap());
            fuzzing::is_hung_up(&reader).unwrap()
        });

        // Who expects connections of another kind lets no cycle form.
        let (ours, theirs) = pair(sockets);
        send(&ours, b"x", &[theirs.as_fd()]).unwrap();
        let error = expect(receive(&theirs).unwrap().1, &[HandleKind::TcpStream]).unwrap_err();
        assert!(matches!(error, HandleError::WrongKind { .. }), "{error}");
    }
}

#[test]
fn k17_a_socket_pair_knows_who_made_it_and_not_who_has_it() {
    const TEST: &str = "k17_a_socket_pair_knows_who_made_it_and_not_who_has_it";
    if is_child() {
        send(std::io::stdin(), &std::process::id().to_le_bytes(), &[]).unwrap();
        return;
    }
    let _ledger = Ledger::open();
    for sockets in KINDS {
        let (ours, theirs) = pair(sockets);
        run(child(TEST).stdin(OwnedFd::from(theirs)));
        let (bytes, _) = receive(&ours).unwrap();
        let claimed = getsockopt(&ours, sockopt::PeerCredentials).unwrap().pid();
        assert_eq!(claimed.unsigned_abs(), std::process::id());
        assert_ne!(bytes, std::process::id().to_le_bytes());
    }
}

#[test]
fn k16_a_listener_in_flight_keeps_its_waiting_connections() {
    let _ledger = Ledger::open();
    let (ours, theirs) = pair(Kind::Seqpacket);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let clients: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
    send(&ours, b"x", &[listener.as_fd()]).unwrap();
    drop(listener);

    let handles = expect(receive(&theirs).unwrap().1, &[HandleKind::TcpListener]).unwrap();
    let listener = TcpListener::from(handles.into_iter().next().unwrap());
    let mut accepted: Vec<_> = clients.iter().map(|_| listener.accept().unwrap().1).collect();
    let mut waiting: Vec<_> = clients.iter().map(|c| c.local_addr().unwrap()).collect();
    accepted.sort();
    waiting.sort();
    assert_eq!(accepted, waiting);
}

#[test]
fn k25_a_path_descriptor_is_no_file() {
    use std::os::unix::fs::OpenOptionsExt;
    let _ledger = Ledger::open();
    let mut options = std::fs::OpenOptions::new();
    let path = options.read(true).custom_flags(libc::O_PATH).open("/proc/self/exe").unwrap();
    assert_eq!(kind(&path).unwrap(), HandleKind::Other);
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    assert_eq!(kind(&file).unwrap(), HandleKind::File);
}
