//! What Node's own tests of its cluster module check of listeners, each dispatch; `PARITY.md`
//! says which rows. Tests that are about more than that are elsewhere.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use runtime::{Address, Dispatch, Exit};
use socket2::{Domain, Socket, Type};

use crate::harness::{Outcome, roles, tests};
use crate::support::cluster::exit_of;
use crate::support::roles::{answer, serve_as, worker};
use crate::support::{
    Client, DISPATCHES, Program, Running, ask, busy_ms, is_stopped, role, try_ask, wait_until,
};

tests! {
    clients_that_are_gone_before_they_are_taken_harm_nobody,
    limits_of_0_1_and_9_connections_serve_ten_clients_once_each,
    a_worker_that_was_at_its_limit_has_its_share_again,
    clients_of_workers_with_limits_are_all_served,
    workers_that_are_all_at_their_limits_sleep,
    a_listener_that_is_closed_as_connections_come_loses_and_leaks_none,
    a_listener_keeps_no_worker_alive,
}

roles! {
    listen_and_end,
    serve_at_most,
    serve_and_relisten,
}

/// Soon, and longer than a worker takes to wake up on a busy machine.
const SOON: Duration = Duration::from_millis(400);

/// Connects and resets the connection.
fn come_and_go(address: &Address) {
    let Address::Tcp(address) = address else { panic!("{address} is not TCP") };
    let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None).unwrap();
    socket.connect(&(*address).into()).unwrap();
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

/// PARITY row 8.
fn clients_that_are_gone_before_they_are_taken_harm_nobody() {
    const CLIENTS: usize = 20;
    // Whoever accepts is stopped meanwhile: the master, in a process of its own, or the workers.
    let mut host = Program::role("host", &["2", "0", "0", "serve", "127.0.0.1:0"]);
    let address = host.listening(2);
    host.signal(Signal::SIGSTOP);
    wait_until("it is stopped", || is_stopped(host.pid()));
    (0..CLIENTS).for_each(|_| come_and_go(&address));
    host.signal(Signal::SIGCONT);
    assert!((0..4).all(|_| try_ask(&address).is_ok()));
    assert!(host.wait().success());
    host.silence();

    for dispatch in [Dispatch::Shared, Dispatch::Steered] {
        let mut running =
            Running::start(role("serve", &["127.0.0.1:0"]).dispatch(dispatch).workers(2));
        let address = running.listening(2);
        for slot in [0, 1] {
            running.signal(slot, Signal::SIGSTOP);
            wait_until("it is stopped", || is_stopped(running.pid(slot)));
        }
        (0..CLIENTS).for_each(|_| come_and_go(&address));
        (0..2).for_each(|slot| running.signal(slot, Signal::SIGCONT));
        assert!((0..4).all(|_| try_ask(&address).is_ok()), "{dispatch}");
        let log = running.stop();
        for slot in [0, 1] {
            assert_eq!(exit_of(&log, slot, 1), (Exit::Code(0), true), "{dispatch}");
        }
    }
}

/// `serve_at_most ADDRESS LIMIT...`: a limit for each slot; every connection has its thread.
fn serve_at_most(args: &[String]) -> Outcome {
    let worker = worker()?;
    let listener = worker.listen(args[0].as_str())?;
    listener.set_connections_max(args[1 + worker.id().slot].parse()?);
    let name = worker.id().to_string();
    for connection in listener.incoming() {
        let (connection, name) = (connection?, name.clone());
        thread::spawn(move || answer(connection, &name));
    }
    Ok(())
}

/// Who is full leaves connections to others; where the kernel steers, it keeps what came to it.
const LIMITED: [Dispatch; 2] = [Dispatch::Handoff, Dispatch::Shared];

fn start_limited(dispatch: Dispatch, limits: &[&str]) -> Running {
    let builder = role("serve_at_most", &[&["127.0.0.1:0"], limits].concat()).dispatch(dispatch);
    Running::start(builder.workers(limits.len()).stall_timeout(SOON))
}

/// PARITY row 9: in Node, a worker that is full refuses, and the connection is offered again.
fn limits_of_0_1_and_9_connections_serve_ten_clients_once_each() {
    for dispatch in LIMITED {
        let mut running = start_limited(dispatch, &["0", "1", "9"]);
        let address = running.listening(3);
        let mut clients: Vec<_> = (0..10).map(|_| Client::connect(&address)).collect();
        let mut served = BTreeMap::new();
        for client in &mut clients {
            *served.entry(client.line()).or_insert(0) += 1;
        }
        let expected = [("1.1", 1), ("2.1", 9)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(served, BTreeMap::from(expected), "{dispatch}");
        clients.iter_mut().for_each(Client::finish);
        running.stop();
    }
}

/// PARITY row 9, afterwards.
fn a_worker_that_was_at_its_limit_has_its_share_again() {
    for dispatch in LIMITED {
        let mut running = start_limited(dispatch, &["1", "9"]);
        let address = running.listening(2);
        let mut clients: Vec<_> = (0..10).map(|_| Client::connect(&address)).collect();
        clients.iter_mut().for_each(|client| drop(client.line()));
        clients.iter_mut().for_each(Client::finish);
        wait_until("both are asked again", || {
            let mut names = [ask(&address), ask(&address)];
            names.sort();
            names == ["0.1", "1.1"]
        });
        running.stop();
    }
}

/// PARITY row 9, when connections end: whoever has been chosen, all are served.
fn clients_of_workers_with_limits_are_all_served() {
    for dispatch in DISPATCHES {
        let mut running = start_limited(dispatch, &["1", "2"]);
        let address = running.listening(2);
        thread::scope(|scope| {
            let client = || (0..20).for_each(|_| drop(ask(&address)));
            (0..8).for_each(|_| drop(scope.spawn(client)));
        });
        running.stop();
    }
}

/// PARITY 5, extra: in Node a connection goes from one full worker to the other and back.
fn workers_that_are_all_at_their_limits_sleep() {
    for dispatch in DISPATCHES {
        for workers in ["serve_two_at_a_time", "serve_two_in_event_loop"] {
            let builder = role(workers, &["127.0.0.1:0"]).dispatch(dispatch).workers(2);
            let mut running = Running::start(builder.stall_timeout(Duration::from_millis(50)));
            let address = running.listening(2);
            let mut taken: Vec<_> = (0..4).map(|_| Client::connect(&address)).collect();
            taken.iter_mut().for_each(|client| drop(client.line()));
            let mut waiting: Vec<_> = (0..8).map(|_| Client::connect(&address)).collect();
            // What has to be found out once, with time for it.
            running.passes(Duration::from_millis(200));
            let everybody = [std::process::id(), running.pid(0), running.pid(1)];
            let before = everybody.map(busy_ms);
            running.passes(Duration::from_millis(500));
            for (pid, before) in everybody.into_iter().zip(before) {
                let used = busy_ms(pid) - before;
                assert!(used < 50, "{dispatch} {workers}: busy for {used} ms of 500");
            }
            waiting.iter_mut().for_each(|client| client.send("\n").unwrap());
            taken.iter_mut().for_each(Client::finish);
            for client in &mut waiting {
                client.line();
                client.expect_done().unwrap();
            }
            running.stop();
        }
    }
}

/// PARITY row 10.
fn a_listener_that_is_closed_as_connections_come_loses_and_leaks_none() {
    for dispatch in DISPATCHES {
        let builder = role("serve_and_relisten", &["127.0.0.1:0"]).dispatch(dispatch).workers(2);
        let mut running = Running::start(builder);
        let address = running.listening(2);
        wait_until("both wait", || running.is_idle());
        let pids = [running.pid(0), running.pid(1)];
        let count = |pid| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let before = pids.map(count);
        thread::scope(|scope| {
            let client = || {
                for _ in 0..100 {
                    try_ask(&address).unwrap_or_else(|error| panic!("{dispatch}: {error}"));
                }
            };
            (0..4).for_each(|_| drop(scope.spawn(client)));
        });
        wait_until("they have as many descriptors as before", || pids.map(count) == before);
        let log = running.stop();
        for slot in [0, 1] {
            assert_eq!(exit_of(&log, slot, 1), (Exit::Code(0), true), "{dispatch}");
        }
    }
}

/// `serve_and_relisten ADDRESS`: closes its listener after every third connection, and listens
/// again.
fn serve_and_relisten(args: &[String]) -> Outcome {
    let worker = worker()?;
    let name = worker.id().to_string();
    let mut address = args[0].parse::<Address>()?;
    loop {
        let listener = match worker.listen(address) {
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
            result => result?,
        };
        for connection in listener.incoming().take(3) {
            answer(connection?, &name)?;
        }
        address = listener.local_address().clone();
    }
}

/// PARITY row 20: in Node it does, unless it is told not to.
fn a_listener_keeps_no_worker_alive() {
    for dispatch in DISPATCHES {
        let builder = role("listen_and_end", &["127.0.0.1:0"]).dispatch(dispatch).workers(1);
        let mut running = Running::start(builder);
        running.listens(0, 2);
        assert_eq!(ask(&running.listening(1)), "0.2", "{dispatch}");
        let log = running.stop();
        assert_eq!(exit_of(&log, 0, 1), (Exit::Code(0), false), "{dispatch}");
        assert_eq!(exit_of(&log, 0, 2), (Exit::Code(0), true), "{dispatch}");
    }
}

/// `listen_and_end ADDRESS`: the first generation has nothing to do but to listen.
fn listen_and_end(args: &[String]) -> Outcome {
    let worker = worker()?;
    if worker.id().generation > 1 {
        return serve_as(&worker, args);
    }
    let _listener = worker.listen(args[0].as_str())?;
    Ok(())
}
