//! Who gets a connection, and how a program takes it.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Barrier};
use std::thread;

use mio::{Events, Interest, Poll, Token};
use nix::sys::signal::Signal;
use runtime::{Event, Exit, Listener};
use scheduler::{Load, Policy, Request};

use crate::harness::{Outcome, roles, tests};
use crate::support::cluster::{abandoned, exit_of};
use crate::support::roles::{answer, worker};
use crate::support::{Client, Desk, Program, Running, ask, puppets, role, shares, try_ask};

tests! {
    connections_are_dealt_out_evenly,
    weights_are_kept_exactly,
    a_weight_of_zero_gets_nothing,
    a_policy_of_the_users_is_obeyed,
    a_policy_that_picks_nonsense_loses_no_connection,
    many_clients_at_once_are_all_served,
    threads_accept_on_one_listener,
    event_loops_watch_listeners_and_the_worker,
    iteration_ends_when_the_worker_shall_stop,
    accepting_never_blocks,
    a_closed_listener_gets_no_connections,
    the_http_example_serves_and_stops,
}

roles! {
    serve_in_threads,
    serve_in_event_loop,
    serve_two_at_a_time,
    serve_two_in_event_loop,
}

fn connections_are_dealt_out_evenly() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(4));
    assert_eq!(shares(&mut running, 4, 400), [100, 100, 100, 100]);
    running.stop();
}

fn weights_are_kept_exactly() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).weights([5, 3, 1, 1]));
    assert_eq!(shares(&mut running, 4, 200), [100, 60, 20, 20]);
    running.stop();
}

fn a_weight_of_zero_gets_nothing() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).weights([1, 0, 1]));
    assert_eq!(shares(&mut running, 3, 20), [10, 0, 10]);
    running.stop();
}

/// Picks the highest slot that can take; or always the same, whether or not there is one.
#[derive(Debug, Default)]
struct Highest {
    loads: Vec<Load>,
    always: Option<usize>,
}

impl Policy for Highest {
    fn update(&mut self, slot: usize, load: Load) {
        if slot >= self.loads.len() {
            self.loads.resize(slot + 1, Load::default());
        }
        self.loads[slot] = load;
    }

    fn pick(&mut self, _: &Request) -> Option<usize> {
        self.always.or_else(|| self.loads.iter().rposition(Load::is_eligible))
    }

    fn name(&self) -> &'static str {
        "highest"
    }
}

fn a_policy_of_the_users_is_obeyed() {
    let builder = role("serve", &["127.0.0.1:0"]).workers(3);
    let mut running = Running::start(builder.custom_policy(|| Box::new(Highest::default())));
    assert_eq!(shares(&mut running, 3, 20), [0, 0, 20]);
    running.stop();
}

fn a_policy_that_picks_nonsense_loses_no_connection() {
    let builder = role("serve", &["127.0.0.1:0"]).workers(2);
    let nonsense = || Highest { always: Some(usize::MAX), ..Highest::default() };
    let mut running = Running::start(builder.custom_policy(move || Box::new(nonsense())));
    assert_eq!(shares(&mut running, 2, 20).iter().sum::<usize>(), 20);
    running.stop();
}

fn many_clients_at_once_are_all_served() {
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(4));
    let address = running.listening(4);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| (0..50).for_each(|_| drop(try_ask(&address).expect("an answer"))));
        }
    });
    assert_eq!(abandoned(&running.stop()), 0);
}

fn threads_accept_on_one_listener() {
    let mut running = Running::start(role("serve_in_threads", &["127.0.0.1:0"]).workers(1));
    let address = running.listening(1);
    // Every thread answers only when all of them have a connection.
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(&address)).collect();
    for client in &mut clients {
        assert_eq!(client.line(), "0.1");
        client.finish();
    }
    let log = running.stop();
    assert_eq!(exit_of(&log, 0, 1), (Exit::Code(0), true));
}

/// `serve_in_threads ADDRESS`: four threads, who wait for one another.
fn serve_in_threads(args: &[String]) -> Outcome {
    let worker = worker()?;
    let listener = Arc::new(worker.listen(args[0].as_str())?);
    let barrier = Arc::new(Barrier::new(4));
    let name = worker.id().to_string();
    let serve = || {
        let (listener, barrier) = (Arc::clone(&listener), Arc::clone(&barrier));
        let name = name.clone();
        thread::spawn(move || -> io::Result<()> {
            for connection in listener.incoming() {
                let connection = connection?;
                barrier.wait();
                answer(connection, &name)?;
            }
            Ok(())
        })
    };
    for thread in (0..4).map(|_| serve()).collect::<Vec<_>>() {
        thread.join().expect("it does not panic")?;
    }
    Ok(())
}

fn event_loops_watch_listeners_and_the_worker() {
    let addresses = ["127.0.0.1:0", "[::1]:0"];
    let mut running = Running::start(role("serve_in_event_loop", &addresses).workers(2));
    let listening = running.until("both listen on both", |log| {
        let addresses = log.iter().filter_map(|event| match event {
            Event::Listening { address, .. } => Some(address.clone()),
            _ => None,
        });
        let addresses: Vec<_> = addresses.collect();
        (addresses.len() == 4).then_some(addresses)
    });
    for address in &listening {
        let mut names: Vec<_> = (0..10).map(|_| ask(address)).collect();
        names.sort();
        assert_eq!(names, [["0.1"; 5], ["1.1"; 5]].concat());
    }
    let log = running.stop();
    assert_eq!(exit_of(&log, 0, 1), (Exit::Code(0), true));
    assert_eq!(exit_of(&log, 1, 1), (Exit::Code(0), true));
}

/// `serve_in_event_loop ADDRESS...`.
fn serve_in_event_loop(args: &[String]) -> Outcome {
    const STOP: Token = Token(usize::MAX - 1);
    let mut worker = worker()?;
    let name = worker.id().to_string();
    let mut poll = Poll::new()?;
    poll.registry().register(&mut worker, STOP, Interest::READABLE)?;
    let mut listeners = Vec::new();
    for (number, address) in args.iter().enumerate() {
        let mut listener = worker.listen(address.as_str())?;
        poll.registry().register(&mut listener, Token(number), Interest::READABLE)?;
        listeners.push(listener);
    }
    let mut events = Events::with_capacity(16);
    loop {
        wait_for_events(&mut poll, &mut events)?;
        // Before the look: what came before the request to stop is taken.
        let stops = worker.is_stopping();
        for listener in &listeners {
            take_all(listener, &name)?;
        }
        if stops {
            return Ok(());
        }
    }
}

fn wait_for_events(poll: &mut Poll, events: &mut Events) -> io::Result<()> {
    match poll.poll(events, None) {
        // It was stopped and goes on.
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
        result => result,
    }
}

fn take_all(listener: &Listener, name: &str) -> Outcome {
    loop {
        match listener.accept() {
            Ok((connection, _)) => {
                connection.set_nonblocking(false)?;
                answer(connection, name)?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn iteration_ends_when_the_worker_shall_stop() {
    // No connection ever wakes it.
    let mut running = Running::start(role("serve", &["127.0.0.1:0"]).workers(1));
    running.listening(1);
    let log = running.stop();
    assert_eq!(exit_of(&log, 0, 1), (Exit::Code(0), true));
}

fn accepting_never_blocks() {
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    let none = desk.ask("0", "take 0");
    assert!(none.starts_with("WouldBlock: "), "{none}");
    let mut client = Client::connect(&address);
    desk.take("0", 0);
    assert_eq!(client.line(), "0.1");
    let none = desk.ask("0", "take 0");
    assert!(none.starts_with("WouldBlock: "), "{none}");
    running.stop();
}

fn a_closed_listener_gets_no_connections() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 2);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "127.0.0.1:0");
    let mut waiting: Vec<_> = (0..4).map(|_| Client::connect(&address)).collect();
    for _ in 0..2 {
        desk.take("1", 0);
    }
    // What waits for worker 0 goes to worker 1, and so does all that comes.
    assert_eq!(desk.ask("0", "close 0"), "closed");
    waiting.extend((0..4).map(|_| Client::connect(&address)));
    for _ in 0..6 {
        desk.take("1", 0);
    }
    for client in &mut waiting {
        assert_eq!(client.line(), "1.1");
    }
    running.happens("they are taken back", |event| {
        matches!(event, Event::TakenBack { slot: 0, connections: 2 })
    });
    running.stop();
}

fn the_http_example_serves_and_stops() {
    let example = std::env::current_exe().unwrap();
    let example = example.parent().and_then(|deps| deps.parent()).unwrap().join("examples/http");
    if !example.exists() {
        println!("skipped: {} is not built; `cargo test` builds it", example.display());
        return;
    }
    let mut command = std::process::Command::new(example);
    command.args(["--listen", "127.0.0.1:0", "--workers", "2"]);
    let mut http = Program::start(command);
    let address = http.listening(2);
    let mut client = Client::connect(&address);
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        assert_eq!(client.line(), "HTTP/1.1 200 OK\r");
        while client.line() != "\r" {}
        assert!(client.line().starts_with("hello from worker "));
    }
    let mut other = Client::connect(&address);
    other.send("GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(other.line(), "HTTP/1.1 200 OK\r");
    // A connection between two requests keeps nobody from stopping.
    http.signal(Signal::SIGTERM);
    assert!(http.wait().success());
    http.silence();
    assert!(Client::try_connect(&address).is_err(), "nobody listens any more");
}

/// `serve_two_at_a_time ADDRESS`: two connections may be open, each in a thread of its own.
fn serve_two_at_a_time(args: &[String]) -> Outcome {
    let worker = worker()?;
    let listener = worker.listen(args[0].as_str())?;
    listener.set_connections_max(2);
    let name = worker.id().to_string();
    for connection in listener.incoming() {
        let (connection, name) = (connection?, name.clone());
        thread::spawn(move || answer(connection, &name));
    }
    Ok(())
}

/// `serve_two_in_event_loop ADDRESS`: the same, and an event loop takes them.
fn serve_two_in_event_loop(args: &[String]) -> Outcome {
    let mut worker = worker()?;
    let mut listener = worker.listen(args[0].as_str())?;
    listener.set_connections_max(2);
    let name = worker.id().to_string();
    let mut poll = Poll::new()?;
    poll.registry().register(&mut worker, Token(0), Interest::READABLE)?;
    poll.registry().register(&mut listener, Token(1), Interest::READABLE)?;
    let mut events = Events::with_capacity(16);
    while !worker.is_stopping() {
        wait_for_events(&mut poll, &mut events)?;
        loop {
            match listener.accept() {
                Ok((connection, _)) => {
                    connection.set_nonblocking(false)?;
                    let name = name.clone();
                    thread::spawn(move || answer(connection, &name));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
