//! Handles that say what they are: conversions, and lies about the kind.
#![cfg(unix)]

mod common;

use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use common::Ledger;
use handle_passing::{
    EventHandle, FromHandle, Handle, HandleError, HandleKind, MemoryHandle, ProcessHandle,
};
use nix::sys::eventfd::EventFd;

/// Converts there and back, and says what it was announced as.
fn round_trip<T: Into<Handle> + FromHandle>(typed: T) -> (HandleKind, Handle) {
    let handle = typed.into();
    let kind = handle.kind();
    handle.verify().expect("it is what it is announced as");
    (kind, handle.into_type::<T>().expect("it is of its own type").into())
}

/// The reason why the handle is not a `T`.
fn refusal<T: FromHandle>(handle: Handle) -> HandleError {
    let Err(error) = handle.into_type::<T>() else { panic!("it was taken for what it is not") };
    error.into_parts().1
}

#[test]
fn types_of_std_make_the_way_there_and_back() {
    let _ledger = Ledger::open();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let path = std::env::temp_dir().join(format!("handle-passing-typed-{}", std::process::id()));
    let unix_listener = UnixListener::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let kinds = [
        round_trip(stream).0,
        round_trip(listener).0,
        round_trip(UdpSocket::bind("127.0.0.1:0").unwrap()).0,
        round_trip(unix_listener).0,
        round_trip(UnixStream::pair().unwrap().0).0,
        round_trip(UnixDatagram::unbound().unwrap()).0,
        round_trip(reader).0,
        round_trip(writer).0,
        round_trip(File::open("/dev/null").unwrap()).0,
        round_trip(OwnedFd::from(EventFd::new().unwrap())).0,
    ];
    assert_eq!(
        kinds,
        [
            HandleKind::TcpStream,
            HandleKind::TcpListener,
            HandleKind::UdpSocket,
            HandleKind::UnixListener,
            HandleKind::UnixStream,
            HandleKind::UnixDatagram,
            HandleKind::Pipe,
            HandleKind::Pipe,
            HandleKind::Any,
            HandleKind::Any,
        ]
    );
}

#[test]
fn memory_events_and_processes_are_told_from_other_descriptors() {
    let _ledger = Ledger::open();
    let event = || Handle::from(OwnedFd::from(EventFd::new().unwrap()));
    let this = rustix::process::getpid();
    let flags = rustix::process::PidfdFlags::empty();
    let process = || Handle::from(rustix::process::pidfd_open(this, flags).unwrap());
    let file = || Handle::from(File::open("/proc/self/exe").unwrap());
    assert_eq!(round_trip(event().into_type::<EventHandle>().unwrap()).0, HandleKind::Event);
    assert_eq!(round_trip(process().into_type::<ProcessHandle>().unwrap()).0, HandleKind::Process);
    for (found, error) in [
        (HandleKind::Process, refusal::<EventHandle>(process())),
        (HandleKind::Event, refusal::<ProcessHandle>(event())),
        (HandleKind::File, refusal::<MemoryHandle>(file())),
        (HandleKind::Event, refusal::<File>(event())),
    ] {
        assert!(
            matches!(error, HandleError::WrongKind { found: f, .. } if f == found),
            "{found:?}: {error}"
        );
    }
}

#[test]
fn f31_a_lie_about_the_kind_is_a_typed_error_and_gives_the_handle_back() {
    let _ledger = Ledger::open();
    let pipe = || Handle::from(std::io::pipe().unwrap().0);
    for announced in [HandleKind::TcpStream, HandleKind::Any] {
        let error = pipe().announced(announced).into_type::<TcpStream>().unwrap_err();
        let HandleError::WrongKind { expected, found, .. } = *error.error() else {
            panic!("{error}");
        };
        assert_eq!((expected, found), (HandleKind::TcpStream, HandleKind::Pipe));
        assert_eq!(error.into_handle().actual_kind().unwrap(), HandleKind::Pipe);
    }
    // It is a file, and may be used as one, but it was announced as another kind of file.
    let null = Handle::from(File::open("/dev/null").unwrap()).announced(HandleKind::File);
    assert!(null.verify().is_err());
    assert!(matches!(
        refusal::<File>(null),
        HandleError::WrongKind { expected: HandleKind::File, found: HandleKind::CharDevice, .. }
    ));
}

#[test]
fn the_other_end_of_a_pipe_is_refused() {
    let _ledger = Ledger::open();
    let (reader, writer) = std::io::pipe().unwrap();
    let error = refusal::<std::io::PipeReader>(writer.into());
    assert!(matches!(error, HandleError::WrongAccess { needed: "reading", .. }), "{error}");
    let error = refusal::<std::io::PipeWriter>(reader.into());
    assert!(matches!(error, HandleError::WrongAccess { needed: "writing", .. }), "{error}");
}

#[test]
fn a_clone_is_another_handle_to_the_same_thing() {
    let _ledger = Ledger::open();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let handle = Handle::from(listener);
    let clone = handle.try_clone().unwrap();
    drop(handle);
    let listener = clone.into_type::<TcpListener>().unwrap();
    assert_eq!(listener.local_addr().unwrap(), address);
}

#[cfg(feature = "mio")]
#[test]
fn types_of_mio_make_the_way_there_and_back_and_do_not_block() {
    let _ledger = Ledger::open();
    let std = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp = Handle::from(std).into_type::<mio::net::UdpSocket>().unwrap();
    let error = udp.recv(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(round_trip(udp).0, HandleKind::UdpSocket);
    let (reader, writer) = std::io::pipe().unwrap();
    let mut receiver = Handle::from(reader).into_type::<mio::unix::pipe::Receiver>().unwrap();
    let error = std::io::Read::read(&mut receiver, &mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    assert!(Handle::from(writer).into_type::<mio::unix::pipe::Receiver>().is_err());
}

#[cfg(feature = "socket2")]
#[test]
fn any_socket_is_one_of_socket2_and_nothing_else_is() {
    let _ledger = Ledger::open();
    let stream = UnixStream::pair().unwrap().0;
    let socket = Handle::from(stream).into_type::<socket2::Socket>().unwrap();
    assert_eq!(Handle::from(socket).actual_kind().unwrap(), HandleKind::UnixStream);
    let null = Handle::from(File::open("/dev/null").unwrap());
    assert!(matches!(refusal::<socket2::Socket>(null), HandleError::Io(_)));
    let lie = Handle::from(UnixStream::pair().unwrap().0).announced(HandleKind::TcpStream);
    assert!(matches!(refusal::<socket2::Socket>(lie), HandleError::WrongKind { .. }));
}

#[test]
fn a_handle_lends_its_descriptor() {
    let _ledger = Ledger::open();
    let handle = Handle::from(File::open("/dev/null").unwrap());
    let kind = handle_passing::kind(handle.as_fd()).unwrap();
    assert_eq!(kind, HandleKind::CharDevice);
}
