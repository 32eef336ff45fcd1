//! What workers can listen on, and what becomes of it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use runtime::{Address, Event};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::harness::{descriptors, tests};
use crate::support::{Client, Desk, Directory, Running, ask, puppets, role};

tests! {
    tcp_and_unix_addresses_are_served,
    a_socket_file_is_removed_at_the_end,
    the_peers_address_comes_with_the_connection,
    port_zero_is_the_same_port_for_all_workers,
    listeners_on_port_zero_are_told_apart_by_their_order,
    a_listener_on_port_zero_is_known_by_its_real_address_too,
    an_address_is_listened_on_once_by_a_worker,
    an_address_in_use_is_an_error_for_every_worker_that_asks_until_it_is_free,
    addresses_that_are_none_are_refused,
    addresses_that_the_system_refuses_are_named,
    a_listener_outlives_its_workers,
    connections_wait_while_nobody_listens,
    no_descriptors_for_a_listener_is_an_error_and_no_leak,
    v6_leaves_v4_to_others_if_asked_to,
    names_without_a_file_are_served,
    f84_a_stale_socket_file_is_replaced,
    f84_a_live_socket_is_not_stolen,
    f84_a_live_socket_whose_backlog_is_full_is_not_stolen_and_blocks_nobody,
    f85_files_that_are_no_sockets_are_left_alone,
    f72_a_file_that_has_taken_the_sockets_place_is_left_alone,
}

fn unix(path: &Path) -> String {
    Address::Unix(path.to_owned()).to_string()
}

fn tcp_and_unix_addresses_are_served() {
    let directory = Directory::new();
    let path = directory.join("socket");
    for address in ["127.0.0.1:0", "[::1]:0", &unix(&path)] {
        let mut running = Running::start(role("serve", &[address]).workers(2));
        let real = running.listening(2);
        assert_eq!([ask(&real), ask(&real), ask(&real)], ["0.1", "1.1", "0.1"], "{address}");
        running.stop();
    }
}

fn a_socket_file_is_removed_at_the_end() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let mut running = Running::start(role("serve", &[&unix(&path)]).workers(1));
    running.listening(1);
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
    running.stop();
    assert!(!path.exists());
}

fn the_peers_address_comes_with_the_connection() {
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    for (number, host) in ["127.0.0.1:0", "[::1]:0"].into_iter().enumerate() {
        let address = desk.listen("0", number, host);
        let mut client = Client::connect(&address);
        let took = desk.take("0", number);
        assert_eq!(took, client.local_address().to_string());
        assert_eq!(client.line(), "0.1");
    }
    running.stop();
}

fn port_zero_is_the_same_port_for_all_workers() {
    let desk = Desk::new();
    let running = puppets(&desk, 3);
    let told: Vec<_> = ["0", "1", "2"].map(|name| desk.ask(name, "listen 127.0.0.1:0")).into();
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0], told[2]);
    assert!(told[0].starts_with("0 127.0.0.1:") && !told[0].ends_with(":0"), "{}", told[0]);
    running.stop();
}

fn listeners_on_port_zero_are_told_apart_by_their_order() {
    let desk = Desk::new();
    let running = puppets(&desk, 2);
    let told = ["0", "1"]
        .map(|name| [desk.ask(name, "listen 127.0.0.1:0"), desk.ask(name, "listen 127.0.0.1:0")]);
    assert_eq!(told[0], told[1], "the same two for both");
    let port = |text: &str| text.rsplit(':').next().map(str::to_owned);
    assert_ne!(port(&told[0][0]), port(&told[0][1]), "not the same port twice");
    running.stop();
}

fn a_listener_on_port_zero_is_known_by_its_real_address_too() {
    let desk = Desk::new();
    let running = puppets(&desk, 2);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    assert_eq!(desk.listen("1", 0, &address.to_string()), address);
    for name in ["0", "1"] {
        assert_eq!(desk.ask(name, "serve 0"), "serving");
    }
    assert_eq!([ask(&address), ask(&address)], ["0.1", "1.1"]);
    let twice = desk.ask("0", &format!("listen {address}"));
    assert!(twice.starts_with("AddrInUse: "), "{twice}");
    running.stop();
}

fn an_address_is_listened_on_once_by_a_worker() {
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    let told = desk.ask("0", "listen 127.0.0.1:0");
    let address = told.strip_prefix("0 ").expect("it listens").to_owned();
    let directory = Directory::new();
    let path = unix(&directory.join("socket"));
    assert_eq!(desk.ask("0", &format!("listen {path}")), format!("1 {path}"));
    for address in [&address, &path] {
        let again = desk.ask("0", &format!("listen {address}"));
        assert!(again.starts_with("AddrInUse: ") && again.contains(address.as_str()), "{again}");
    }
    // Once the listener is closed the address is free again, for this worker too.
    assert_eq!(desk.ask("0", "close 1"), "closed");
    assert_eq!(desk.ask("0", &format!("listen {path}")), format!("2 {path}"));
    assert_eq!(desk.ask("0", "serve 2"), "serving");
    assert_eq!(ask(&path.parse().unwrap()), "0.1");
    running.stop();
}

fn an_address_in_use_is_an_error_for_every_worker_that_asks_until_it_is_free() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: Address = taken.local_addr().unwrap().into();
    let listen = format!("listen {address}");
    let desk = Desk::new();
    let mut running = puppets(&desk, 3);
    for name in ["0", "1", "2", "0"] {
        let told = desk.ask(name, &listen);
        assert!(told.starts_with("AddrInUse: "), "{told}");
        assert!(told.contains(&address.to_string()), "{told}");
        assert!(told.contains("choose another address"), "{told}");
    }
    running.until("the failures are told", |log| {
        let failures = log.iter().filter(|event| match event {
            Event::ListenFailed { error, .. } => error.contains(&address.to_string()),
            _ => false,
        });
        (failures.count() == 4).then_some(())
    });
    drop(taken);
    for name in ["0", "1", "2"] {
        assert_eq!(desk.ask(name, &listen), format!("0 {address}"));
        assert_eq!(desk.ask(name, "serve 0"), "serving");
    }
    assert_eq!([ask(&address), ask(&address), ask(&address)], ["0.1", "1.1", "2.1"]);
    running.stop();
}

fn addresses_that_are_none_are_refused() {
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    for text in ["nonsense", "127.0.0.1", "127.0.0.1:70000", "unix:"] {
        let told = desk.ask("0", &format!("listen {text}"));
        assert!(told.starts_with("InvalidInput: "), "{told}");
        assert!(told.contains(&format!("{text:?}")) && told.contains("HOST:PORT"), "{told}");
    }
    let log = running.stop();
    let asked = log.iter().any(|event| matches!(event, Event::ListenFailed { .. }));
    assert!(!asked, "the master need not be asked");
}

fn addresses_that_the_system_refuses_are_named() {
    let directory = Directory::new();
    let nowhere = unix(&directory.join("no/where"));
    let long = unix(&directory.join("x".repeat(200)));
    let cases = [
        // An address of nobody's: RFC 5737 keeps it for documentation.
        ("192.0.2.1:80", "AddrNotAvailable: "),
        (&nowhere, "NotFound: "),
        (&long, "InvalidInput: "),
    ];
    let desk = Desk::new();
    let mut running = puppets(&desk, 1);
    for (address, kind) in cases {
        let told = desk.ask("0", &format!("listen {address}"));
        assert!(told.starts_with(kind) && told.contains(address), "{told}");
        running.happens("it is told", |event| match event {
            Event::ListenFailed { error, .. } => error.contains(address),
            _ => false,
        });
    }
    running.stop();
}

fn a_listener_outlives_its_workers() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(1));
    let address = running.listening(1);
    running.signal(0, nix::sys::signal::Signal::SIGKILL);
    running.exits(0, 1);
    // No worker is there, or none yet, and nobody is refused.
    assert_eq!(ask(&address), "0.2");
    running.stop();
}

fn connections_wait_while_nobody_listens() {
    let directory = Directory::new();
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    let address = desk.listen("0", 0, &unix(&directory.join("socket")));
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(&address)).collect();
    desk.take("0", 0);
    assert_eq!(desk.ask("0", "close 0"), "closed");
    clients.extend((0..3).map(|_| Client::connect(&address)));
    assert_eq!(desk.listen("0", 1, &address.to_string()), address);
    for client in &mut clients[1..] {
        desk.take("0", 1);
        assert_eq!(client.line(), "0.1");
    }
    running.stop();
}

fn no_descriptors_for_a_listener_is_an_error_and_no_leak() {
    let desk = Desk::new();
    let running = puppets(&desk, 2);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let before = descriptors();
    setrlimit(Resource::RLIMIT_NOFILE, 100, hard).unwrap();
    let mut hoard: Vec<_> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
    // For its first worker it takes seven: a reserve, the socket, both ends of a mailbox, the
    // board, and for a moment two duplicates.
    for left in 0..7 {
        let refused = desk.ask("0", "listen 127.0.0.1:0");
        assert!(refused.contains("Too many open files"), "with {left}: {refused}");
        hoard.pop();
    }
    drop(hoard);
    // A worker to which it never happened gets the same listener.
    assert_eq!(desk.listen("0", 0, "127.0.0.1:0"), desk.listen("1", 0, "127.0.0.1:0"));
    assert_eq!(descriptors().len(), before.len() + 7, "{:?}", descriptors());
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    running.stop();
}

fn v6_leaves_v4_to_others_if_asked_to() {
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    let port = |address: Address| match address {
        Address::Tcp(address) => address.port(),
        other => panic!("{other} has no port"),
    };
    let dual = port(desk.listen("0", 0, "[::]:0 dual"));
    let told = desk.ask("0", &format!("listen 0.0.0.0:{dual}"));
    assert!(told.starts_with("AddrInUse: "), "{told}");
    assert_eq!(desk.ask("0", "serve 0"), "serving");
    for host in ["127.0.0.1", "[::1]"] {
        assert_eq!(ask(&format!("{host}:{dual}").parse().unwrap()), "0.1");
    }
    let only_v6 = port(desk.listen("0", 1, "[::]:0 only-v6"));
    let v4 = format!("127.0.0.1:{only_v6}").parse().unwrap();
    assert!(Client::try_connect(&v4).is_err(), "nobody listens there yet");
    desk.listen("0", 2, &format!("0.0.0.0:{only_v6}"));
    assert_eq!(desk.ask("0", "serve 2"), "serving");
    assert_eq!(ask(&v4), "0.1");
    running.stop();
}

fn names_without_a_file_are_served() {
    let name = format!("unix:@cluster-test-{}", std::process::id());
    let mut running = Running::start(role("serve", &[&name]).workers(2));
    let address = running.listening(2);
    assert_eq!(address.to_string(), name);
    assert_eq!([ask(&address), ask(&address)], ["0.1", "1.1"]);
    let told = assert_refused(&name);
    assert!(told.contains("choose another address"), "{told}");
    running.stop();
    // It is free at once.
    let mut running = Running::start(role("serve", &[&name]).workers(1));
    assert_eq!(running.listening(1), address);
    assert_eq!(ask(&address), "0.1");
    running.stop();
}

fn f84_a_stale_socket_file_is_replaced() {
    let directory = Directory::new();
    let path = directory.join("socket");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "its owner did not remove it");
    let mut running = Running::start(role("serve", &[&unix(&path)]).workers(2));
    let address = running.listening(2);
    assert_eq!([ask(&address), ask(&address)], ["0.1", "1.1"]);
    running.stop();
    assert!(!path.exists());
}

fn f84_a_live_socket_is_not_stolen() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let live = UnixListener::bind(&path).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    assert_refused(&unix(&path));
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    let _client = UnixStream::connect(&path).unwrap();
    live.accept().unwrap();
}

fn f84_a_live_socket_whose_backlog_is_full_is_not_stolen_and_blocks_nobody() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let address = SockAddr::unix(&path).unwrap();
    let live = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    live.bind(&address).unwrap();
    live.listen(0).unwrap();
    let mut clients = Vec::new();
    loop {
        let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        match client.connect(&address) {
            Ok(()) => clients.push(client),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_refused(&unix(&path));
    assert!(path.exists());
}

/// Asserts that a worker can't listen there, and can elsewhere; gives what it is told.
#[track_caller]
fn assert_refused(address: &str) -> String {
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    let told = desk.ask("0", &format!("listen {address}"));
    assert!(told.starts_with("AddrInUse: ") && told.contains(address), "{told}");
    assert!(desk.ask("0", "listen 127.0.0.1:0").starts_with("0 127.0.0.1:"));
    running.stop();
    told
}

fn f85_files_that_are_no_sockets_are_left_alone() {
    let directory = Directory::new();
    let [file, link, folder] = ["file", "link", "folder"].map(|name| directory.join(name));
    fs::write(&file, "precious").unwrap();
    symlink("file", &link).unwrap();
    fs::create_dir(&folder).unwrap();
    for path in [&file, &link, &folder] {
        assert_refused(&unix(path));
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("file"));
    assert!(folder.is_dir());
}

fn f72_a_file_that_has_taken_the_sockets_place_is_left_alone() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let mut running = Running::start(role("serve", &[&unix(&path)]).workers(1));
    running.listening(1);
    fs::remove_file(&path).unwrap();
    let successor = UnixListener::bind(&path).unwrap();
    running.stop();
    let _client = UnixStream::connect(&path).expect("the successor's file is still there");
    successor.accept().unwrap();
}
