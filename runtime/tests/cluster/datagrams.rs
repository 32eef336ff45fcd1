//! UDP: one socket, shared by all workers.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use runtime::{Address, Dispatch, Event};

use crate::harness::tests;
use crate::support::{DEADLINE, Desk, Running, puppets};

tests! {
    every_datagram_arrives_once_whoever_leaves,
    datagrams_wait_while_no_worker_listens,
    datagrams_wait_while_the_worker_is_replaced,
    the_port_is_the_same_for_all_workers_by_their_order,
    an_inherited_socket_is_bound_by_its_number,
    a_udp_address_in_use_is_an_error_in_the_worker,
    what_is_not_udp_is_not_bound_and_the_other_way_round,
    it_is_told_that_datagrams_are_shared,
    datagrams_are_steered_if_asked_to,
    steered_datagrams_wait_for_the_successor,
}

fn socket_address(address: &Address) -> SocketAddr {
    match address {
        Address::Udp(address) => *address,
        other => panic!("{other} is not UDP"),
    }
}

/// Has a puppet bind, for the `number`-th time from 0; says to what.
#[track_caller]
fn bind(desk: &Desk, name: &str, number: usize, address: &str) -> Address {
    let said = desk.ask(name, &format!("bind {address}"));
    let real = said.strip_prefix(&format!("{number} ")).and_then(|text| text.parse().ok());
    real.unwrap_or_else(|| panic!("bind {address}: {said}"))
}

fn client(to: SocketAddr) -> UdpSocket {
    let local: SocketAddr =
        if to.is_ipv4() { ([127, 0, 0, 1], 0).into() } else { ([0; 16], 0).into() };
    let client = UdpSocket::bind(local).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client
}

/// PARITY 5, row 21.
fn every_datagram_arrives_once_whoever_leaves() {
    const EACH: usize = 10;
    let names = ["0", "1", "2", "3"];
    let desk = Desk::new();
    let running = puppets(&desk, names.len());
    let address = bind(&desk, "0", 0, "udp:127.0.0.1:0");
    for name in &names[1..] {
        assert_eq!(bind(&desk, name, 0, &address.to_string()), address);
    }
    for name in names {
        desk.tell(name, &format!("gather 0 {EACH}"));
    }
    let to = socket_address(&address);
    let client = client(to);
    let mut answers = BTreeMap::new();
    for number in 0..names.len() * EACH {
        client.send_to(number.to_string().as_bytes(), to).unwrap();
        let mut name = [0; 16];
        let (length, from) = client.recv_from(&mut name).unwrap();
        assert_eq!(from, to, "it is answered from where it was sent to");
        *answers.entry(String::from_utf8_lossy(&name[..length]).into_owned()).or_insert(0) += 1;
    }
    let mut seen = Vec::new();
    for _ in names {
        let said = desk.hear();
        let texts = said.strip_prefix("gathered ").unwrap_or_else(|| panic!("{said}"));
        seen.extend(texts.split(' ').map(|text| text.parse::<usize>().unwrap()));
    }
    seen.sort_unstable();
    assert_eq!(seen, Vec::from_iter(0..names.len() * EACH));
    let each = names.map(|name| (format!("{name}.1"), EACH));
    assert_eq!(answers, BTreeMap::from(each));
    running.stop();
}

fn datagrams_wait_while_no_worker_listens() {
    for host in ["udp:127.0.0.1:0", "udp:[::1]:0"] {
        let desk = Desk::new();
        let running = puppets(&desk, 2);
        let address = bind(&desk, "0", 0, host);
        assert_eq!(desk.ask("0", "unbind 0"), "closed");
        let client = client(socket_address(&address));
        for text in ["a", "b", "c"] {
            client.send_to(text.as_bytes(), socket_address(&address)).unwrap();
        }
        assert_eq!(bind(&desk, "1", 0, &address.to_string()), address);
        assert_eq!(desk.ask("1", "gather 0 3"), "gathered a b c");
        // The first one may come back, too.
        assert_eq!(bind(&desk, "0", 1, &address.to_string()), address);
        running.stop();
    }
}

fn datagrams_wait_while_the_worker_is_replaced() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 1);
    let address = bind(&desk, "0", 0, "udp:127.0.0.1:0");
    running.signal(0, Signal::SIGKILL);
    running.exits(0, 1);
    let client = client(socket_address(&address));
    client.send_to(b"a", socket_address(&address)).unwrap();
    desk.ready(1);
    assert_eq!(bind(&desk, "0", 0, "udp:127.0.0.1:0"), address);
    assert_eq!(desk.ask("0", "gather 0 1"), "gathered a");
    let mut name = [0; 16];
    let length = client.recv(&mut name).unwrap();
    assert_eq!(&name[..length], b"0.2");
    running.stop();
}

/// PARITY 1B, `listen(0)`.
fn the_port_is_the_same_for_all_workers_by_their_order() {
    let desk = Desk::new();
    let running = puppets(&desk, 2);
    let told = ["0", "1"].map(|name| [0, 1].map(|n| bind(&desk, name, n, "udp:127.0.0.1:0")));
    assert_eq!(told[0], told[1]);
    assert_ne!(told[0][0], told[0][1]);
    let twice = desk.ask("0", &format!("bind {}", told[0][0]));
    assert!(twice.starts_with("AddrInUse: ") && twice.contains("close"), "{twice}");
    running.stop();
}

fn an_inherited_socket_is_bound_by_its_number() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let real = socket.local_addr().unwrap();
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let inherited = format!("fd:{}", socket.as_fd().as_raw_fd());
    // What came before the cluster is its workers', and what comes after it is the next one's.
    for text in ["a", "b"] {
        client(real).send_to(text.as_bytes(), real).unwrap();
        let desk = Desk::new();
        let running = puppets(&desk, 1);
        assert_eq!(bind(&desk, "0", 0, &inherited), Address::Udp(real));
        assert_eq!(desk.ask("0", "gather 0 1"), format!("gathered {text}"));
        running.stop();
    }
}

/// PARITY 5, row 15.
fn a_udp_address_in_use_is_an_error_in_the_worker() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = Address::Udp(taken.local_addr().unwrap());
    let desk = Desk::new();
    let mut running = puppets(&desk, 1);
    let told = desk.ask("0", &format!("bind {address}"));
    assert!(told.starts_with("AddrInUse: ") && told.contains(&address.to_string()), "{told}");
    running.happens("it is told", |event| matches!(event, Event::ListenFailed { .. }));
    drop(taken);
    assert_eq!(bind(&desk, "0", 0, &address.to_string()), address);
    running.stop();
}

fn what_is_not_udp_is_not_bound_and_the_other_way_round() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let [tcp, udp] = [listener.as_raw_fd(), socket.as_raw_fd()];
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    let cases = [
        ("bind unix:/tmp/socket".to_owned(), "Worker::listen"),
        (format!("bind fd:{tcp}"), "Worker::listen"),
        ("listen udp:127.0.0.1:0".to_owned(), "Worker::bind"),
        (format!("listen fd:{udp}"), "Worker::bind"),
    ];
    // Twice: what turned out to be of the other kind was left again.
    for (order, remedy) in cases.iter().chain(&cases) {
        let told = desk.ask("0", order);
        assert!(told.starts_with("InvalidInput: ") && told.contains(remedy), "{order}: {told}");
    }
    assert_eq!(bind(&desk, "0", 0, &format!("fd:{udp}")).to_string(), {
        Address::Udp(socket.local_addr().unwrap()).to_string()
    });
    running.stop();
}

fn it_is_told_that_datagrams_are_shared() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 1);
    let address = bind(&desk, "0", 0, "127.0.0.1:0");
    let opened = running.happens("it is open", |event| matches!(event, Event::Opened { .. }));
    let shared =
        Event::Opened { address, dispatch: Dispatch::Shared, policy: "none", reason: None };
    assert_eq!(opened, shared);
    assert_eq!(running.cluster.listeners()[0].policy, "none", "the status says the same");
    running.stop();
}

/// What the kernel decides is exact, where it lets us.
fn datagrams_are_steered_if_asked_to() {
    const EACH: usize = 10;
    let names = ["0", "1", "2", "3"];
    let desk = Desk::new();
    let mut running = puppets(&desk, names.len());
    let address = bind(&desk, "0", 0, "udp:127.0.0.1:0 dispatch=steered");
    if !can_steer(&mut running) {
        running.stop();
        return;
    }
    for name in &names[1..] {
        assert_eq!(bind(&desk, name, 0, &address.to_string()), address);
    }
    let to = socket_address(&address);
    let client = client(to);
    for number in 0..names.len() * EACH {
        client.send_to(number.to_string().as_bytes(), to).unwrap();
    }
    for name in names {
        let said = desk.ask(name, &format!("gather 0 {EACH}"));
        assert_eq!(said.split(' ').count(), 1 + EACH, "{said}");
    }
    running.stop();
}

/// A queue of datagrams can't be moved: the successor finds it.
fn steered_datagrams_wait_for_the_successor() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 2);
    let address = bind(&desk, "0", 0, "udp:127.0.0.1:0 dispatch=steered");
    assert_eq!(bind(&desk, "1", 0, &address.to_string()), address);
    if !can_steer(&mut running) {
        running.stop();
        return;
    }
    let to = socket_address(&address);
    let client = client(to);
    for text in ["a", "b"] {
        client.send_to(text.as_bytes(), to).unwrap();
    }
    running.signal(0, Signal::SIGKILL);
    running.exits(0, 1);
    desk.ready(1);
    assert_eq!(bind(&desk, "0", 0, &address.to_string()), address);
    let mut said = ["0", "1"].map(|name| desk.ask(name, "gather 0 1"));
    said.sort();
    assert_eq!(said, ["gathered a", "gathered b"]);
    running.stop();
}

/// Says so and gives `false` where the kernel does not let us load programs.
fn can_steer(running: &mut Running) -> bool {
    let opened = running.happens("it is open", |event| matches!(event, Event::Opened { .. }));
    let Event::Opened { dispatch, reason, .. } = opened else { panic!("{opened}") };
    if dispatch == Dispatch::Steered && reason.is_none() {
        return true;
    }
    println!("skipped: {}", reason.expect("it is said why"));
    false
}
