//! Sockets that a worker opens for itself.

use std::net::UdpSocket;
use std::os::unix::net::UnixStream;

use runtime::{Address, Event};

use crate::harness::{Outcome, roles, tests};
use crate::support::roles::{answer, worker};
use crate::support::{Client, DEADLINE, Desk, Directory, Running, ask, puppets, role};

tests! {
    an_exclusive_listener_is_one_workers_and_unknown_to_the_master,
    exclusive_datagrams_are_one_workers,
    an_exclusive_path_is_removed_with_its_listener,
    an_exclusive_listener_serves_what_waits_when_the_worker_stops,
    an_exclusive_listener_is_an_event_source,
    an_inherited_socket_cannot_be_exclusive,
}

roles! {
    serve_alone_in_event_loop,
}

/// PARITY 1B, `exclusive:true`.
fn an_exclusive_listener_is_one_workers_and_unknown_to_the_master() {
    let desk = Desk::new();
    let running = puppets(&desk, 2);
    let first = desk.listen("0", 0, "127.0.0.1:0 exclusive");
    let second = desk.listen("1", 0, "127.0.0.1:0 exclusive");
    assert_ne!(first, second, "each has a port of its own");
    for order in ["listen", "bind"] {
        let udp = if order == "bind" { bind(&desk, "0") } else { first.to_string() };
        for options in ["", " exclusive"] {
            let told = desk.ask("1", &format!("{order} {udp}{options}"));
            assert!(told.starts_with("AddrInUse: "), "{order} {udp}{options}: {told}");
        }
    }
    for (name, address) in [("0", &first), ("1", &second)] {
        assert_eq!(desk.ask(name, "serve 0"), "serving");
        let asked = [ask(address), ask(address), ask(address)];
        assert_eq!(asked, [name; 3].map(|name| format!("{name}.1")));
    }
    let log = running.stop();
    let known = |event: &&Event| matches!(event, Event::Opened { .. } | Event::Listening { .. });
    assert_eq!(log.iter().find(known), None);
}

fn bind(desk: &Desk, name: &str) -> String {
    let said = desk.ask(name, "bind 127.0.0.1:0 exclusive");
    said.strip_prefix("0 ").unwrap_or_else(|| panic!("{said}")).to_owned()
}

fn exclusive_datagrams_are_one_workers() {
    let desk = Desk::new();
    let running = puppets(&desk, 2);
    let addresses = ["0", "1"].map(|name| (name, bind(&desk, name)));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    for (name, address) in addresses {
        let to = address.strip_prefix("udp:").unwrap_or_else(|| panic!("{address} is not UDP"));
        client.send_to(name.as_bytes(), to).unwrap();
        assert_eq!(desk.ask(name, "gather 0 1"), format!("gathered {name}"));
    }
    running.stop();
}

fn an_exclusive_path_is_removed_with_its_listener() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let address = Address::Unix(path.clone());
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    assert_eq!(desk.listen("0", 0, &format!("{address} exclusive")), address);
    assert!(path.exists());
    assert_eq!(desk.ask("0", "close 0"), "closed");
    assert!(!path.exists());
    assert_eq!(desk.listen("0", 1, &format!("{address} exclusive")), address);
    assert_eq!(desk.ask("0", "serve 1"), "serving");
    assert_eq!(ask(&address), "0.1");
    running.stop();
    assert!(!path.exists());
}

fn an_exclusive_listener_serves_what_waits_when_the_worker_stops() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    let address = desk.listen("0", 0, &format!("{} exclusive", Address::Unix(path.clone())));
    let mut waits = Client::connect(&address);
    assert_eq!(desk.ask("0", "linger"), "lingering");
    running.cluster.shutdown();
    assert_eq!(desk.hear(), "stopping");
    assert_eq!(desk.ask("0", "serve 0"), "serving");
    assert_eq!(waits.line(), "0.1");
    waits.finish();
    desk.tell("0", "exit");
    running.end().0.unwrap();
    assert!(UnixStream::connect(&path).is_err());
}

fn an_exclusive_listener_is_an_event_source() {
    let directory = Directory::new();
    let address = Address::Unix(directory.join("socket"));
    let role = role("serve_alone_in_event_loop", &[&address.to_string()]);
    let mut running = Running::start(role.workers(1));
    running.online(1);
    crate::support::wait_until("it listens", || directory.join("socket").exists());
    for _ in 0..3 {
        assert_eq!(ask(&address), "0.1");
    }
    running.stop();
}

/// `serve_alone_in_event_loop ADDRESS`: accepts with mio, and serves one after the other.
fn serve_alone_in_event_loop(args: &[String]) -> Outcome {
    const LISTENER: mio::Token = mio::Token(0);
    const STOP: mio::Token = mio::Token(1);
    let mut worker = worker()?;
    let name = worker.id().to_string();
    let options = runtime::ListenOptions::new().exclusive(true);
    let mut listener = worker.listen_with(args[0].as_str(), options)?;
    let mut poll = mio::Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, mio::Interest::READABLE)?;
    poll.registry().register(&mut worker, STOP, mio::Interest::READABLE)?;
    let mut events = mio::Events::with_capacity(8);
    while !worker.is_stopping() {
        poll.poll(&mut events, None)?;
        loop {
            match listener.accept() {
                Ok((connection, _)) => {
                    connection.set_nonblocking(false)?;
                    answer(connection, &name)?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn an_inherited_socket_cannot_be_exclusive() {
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    for order in ["listen fd:3 exclusive", "bind systemd:web exclusive"] {
        let told = desk.ask("0", order);
        assert!(told.starts_with("InvalidInput: ") && told.contains("master"), "{told}");
    }
    running.stop();
}
