//! Which listener a worker gets for an address, and what happens when there is none.

use std::collections::BTreeSet;
use std::net::TcpListener;

use runtime::{Address, Dispatch, Event};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::harness::tests;
use crate::support::{
    Client, Desk, Directory, Program, Running, ask, backlog, puppets, role, wait_until,
};

tests! {
    a_worker_closes_and_listens_again_while_another_listens,
    an_address_that_nobody_listens_on_is_joined_again,
    an_address_of_another_cluster_is_an_error_in_the_worker,
    an_address_of_another_program_is_an_error_in_the_worker,
    a_port_that_was_refused_to_one_is_had_by_another,
    a_listener_on_port_zero_that_was_closed_keeps_its_place,
    tcp_and_udp_ports_are_different_addresses,
    the_backlog_is_the_first_ones,
    a_cluster_has_so_many_addresses_and_says_so,
}

fn addresses(directory: &Directory) -> [String; 2] {
    ["127.0.0.1:0".into(), Address::Unix(directory.join("socket")).to_string()]
}

/// These, each with every way to dispatch.
fn dispatched(directory: &Directory) -> impl Iterator<Item = (String, Dispatch)> {
    let addresses = addresses(directory).into_iter();
    addresses.flat_map(|address| Dispatch::ALL.map(|dispatch| (address.clone(), dispatch)))
}

/// PARITY 5, row 14.
fn a_worker_closes_and_listens_again_while_another_listens() {
    let directory = Directory::new();
    for (address, dispatch) in dispatched(&directory) {
        let desk = Desk::new();
        let running = puppets(&desk, 2);
        let address = desk.listen("0", 0, &format!("{address} dispatch={dispatch}"));
        assert_eq!(desk.listen("1", 0, &address.to_string()), address);
        assert_eq!(desk.ask("1", "serve 0"), "serving");
        for number in 0..3 {
            assert_eq!(desk.ask("0", &format!("close {number}")), "closed");
            assert_eq!(desk.listen("0", number + 1, &address.to_string()), address);
        }
        assert_eq!(desk.ask("0", "serve 3"), "serving");
        let mut names = BTreeSet::new();
        wait_until("both serve", || {
            names.insert(ask(&address));
            names.len() == 2
        });
        running.stop();
    }
}

/// PARITY 5, row 14: nobody listens meanwhile.
fn an_address_that_nobody_listens_on_is_joined_again() {
    let directory = Directory::new();
    for (address, dispatch) in dispatched(&directory) {
        let desk = Desk::new();
        let running = puppets(&desk, 2);
        let address = desk.listen("0", 0, &format!("{address} dispatch={dispatch}"));
        assert_eq!(desk.ask("0", "close 0"), "closed");
        let mut waits = Client::connect(&address);
        assert_eq!(desk.listen("1", 0, &address.to_string()), address);
        assert_eq!(desk.ask("1", "serve 0"), "serving");
        assert_eq!(waits.line(), "1.1", "{dispatch}");
        waits.finish();
        running.stop();
    }
}

/// PARITY 5, row 15, and 4, row 31: in Node and PM2 they would share the port without a word.
fn an_address_of_another_cluster_is_an_error_in_the_worker() {
    let directory = Directory::new();
    for address in addresses(&directory) {
        let mut first = Running::start(role("serve", &[&address]).workers(1));
        let address = first.listening(1);
        let desk = Desk::new();
        let mut second = puppets(&desk, 1);
        let told = desk.ask("0", &format!("listen {address}"));
        assert!(told.starts_with("AddrInUse: ") && told.contains(&address.to_string()), "{told}");
        second.happens("it is told", |event| matches!(event, Event::ListenFailed { .. }));
        assert_eq!(ask(&address), "0.1");
        first.stop();
        // It is free now, and the worker well.
        assert_eq!(desk.listen("0", 0, &address.to_string()), address);
        second.stop();
    }
}

/// PARITY 5, row 15.
fn an_address_of_another_program_is_an_error_in_the_worker() {
    let directory = Directory::new();
    for address in addresses(&directory) {
        let mut program = Program::role("host", &["1", "0", "0", "serve", &address]);
        let address = program.listening(1);
        let desk = Desk::new();
        let running = puppets(&desk, 1);
        let told = desk.ask("0", &format!("listen {address}"));
        assert!(told.starts_with("AddrInUse: ") && told.contains(&address.to_string()), "{told}");
        assert!(program.wait().success());
        assert_eq!(desk.listen("0", 0, &address.to_string()), address);
        running.stop();
    }
}

/// PARITY 5, row 16.
fn a_port_that_was_refused_to_one_is_had_by_another() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: Address = taken.local_addr().unwrap().into();
    let desk = Desk::new();
    let running = puppets(&desk, 2);
    let told = desk.ask("0", &format!("listen {address}"));
    assert!(told.starts_with("AddrInUse: "), "{told}");
    drop(taken);
    assert_eq!(desk.listen("1", 0, &address.to_string()), address);
    assert_eq!(desk.ask("1", "serve 0"), "serving");
    assert_eq!(ask(&address), "1.1");
    assert_eq!(desk.listen("0", 0, &address.to_string()), address);
    running.stop();
}

/// PARITY 5, row 17, and 1B: the n-th time is the n-th listener, whatever was closed.
fn a_listener_on_port_zero_that_was_closed_keeps_its_place() {
    let desk = Desk::new();
    let running = puppets(&desk, 2);
    let first = desk.listen("0", 0, "127.0.0.1:0");
    let second = desk.listen("0", 1, "127.0.0.1:0");
    assert_eq!(desk.ask("0", "close 0"), "closed");
    let third = desk.listen("0", 2, "127.0.0.1:0");
    assert_ne!(first, second);
    assert_ne!(third, first);
    assert_ne!(third, second);
    // Each address counts by itself.
    let other = desk.listen("0", 3, "[::1]:0");
    for (number, address) in [&first, &second, &third].into_iter().enumerate() {
        assert_eq!(&desk.listen("1", number, "127.0.0.1:0"), address);
    }
    assert_eq!(desk.listen("1", 3, "[::1]:0"), other);
    // Closed, the first one is had by its real address.
    assert_eq!(desk.listen("0", 4, &first.to_string()), first);
    running.stop();
}

fn tcp_and_udp_ports_are_different_addresses() {
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    let tcp = desk.listen("0", 0, "127.0.0.1:0");
    let told = desk.ask("0", &format!("bind udp:{tcp}"));
    assert_eq!(told, format!("0 udp:{tcp}"));
    running.stop();
}

/// PARITY 5, row 19.
fn the_backlog_is_the_first_ones() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let unix = Address::Unix(path.clone());
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    let tcp = desk.listen("0", 0, "127.0.0.1:0 backlog=2");
    desk.listen("0", 1, &format!("{unix} backlog=2"));
    for number in 0..2 {
        assert_eq!(desk.ask("0", &format!("close {number}")), "closed");
    }
    // By its answer, the master has heard all that.
    desk.listen("0", 2, "127.0.0.1:0");
    // The kernel queues one more than was asked for.
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(&tcp)).collect();
    clients.extend((0..3).map(|_| Client::connect(&unix)));
    let more = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    more.set_nonblocking(true).unwrap();
    let error = more.connect(&SockAddr::unix(&path).unwrap()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);

    let Address::Tcp(address) = tcp else { panic!("{tcp} is not TCP") };
    let overflows = listen_overflows();
    let more = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    more.set_nonblocking(true).unwrap();
    let _ = more.connect(&address.into());
    wait_until("the kernel has dropped it", || listen_overflows() > overflows);
    assert_eq!(backlog(&tcp), 3);
    running.stop();
}

/// How often a connection found a backlog full, on this machine.
fn listen_overflows() -> u64 {
    let text = std::fs::read_to_string("/proc/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let pairs = names.split(' ').zip(values.split(' '));
    let overflows = pairs.filter(|(name, _)| *name == "ListenOverflows");
    overflows.map(|(_, value)| value.parse().unwrap()).next().expect("Linux counts it")
}

fn a_cluster_has_so_many_addresses_and_says_so() {
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    let first = desk.listen("0", 0, "127.0.0.1:0");
    for number in 1..64 {
        desk.listen("0", number, "127.0.0.1:0");
    }
    assert_eq!(desk.ask("0", "close 0"), "closed");
    let told = desk.ask("0", "listen 127.0.0.1:0");
    assert!(told.starts_with("QuotaExceeded: ") && told.contains("64 addresses"), "{told}");
    // One of those can be had again.
    assert_eq!(desk.listen("0", 64, &first.to_string()), first);
    running.stop();
}
