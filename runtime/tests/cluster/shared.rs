//! Workers that share one listening socket: the kernel wakes them in turn.

use std::time::Duration;

use nix::sys::signal::Signal;
use runtime::{Builder, Dispatch, Event, PolicyKind, RestartPolicy};
use scheduler::RoundRobin;

use crate::harness::{descriptors, tests};
use crate::support::cluster::abandoned;
use crate::support::{
    Client, Desk, Directory, Running, ask, backlog, busy_ms, is_stopped, puppet_builder, role,
    shares, try_ask, wait_until,
};

tests! {
    round_robin_is_shared_by_default_and_others_are_handed_over,
    blocking_workers_take_turns,
    event_loops_take_turns,
    turns_are_by_weight,
    a_policy_without_weights_ignores_them,
    a_weight_of_zero_takes_nothing,
    unix_sockets_are_shared_too,
    a_stopped_worker_holds_nobody_up,
    a_killed_worker_loses_only_what_it_had_taken,
    connections_wait_while_no_worker_is_there,
    the_backlog_is_served_before_the_end_and_then_nobody_listens,
    a_worker_without_descriptors_leaves_connections_to_others,
    blocking_workers_without_descriptors_leave_each_connection_to_others,
    what_a_worker_without_descriptors_leaves_passes_over_those_at_their_limits,
    a_blocking_worker_of_weight_zero_sleeps_while_connections_wait,
    a_worker_at_its_limit_takes_no_more_until_one_ends,
    all_workers_at_their_limits_keep_connections_waiting,
    workers_that_stop_under_load_come_to_an_end,
    a_closed_listener_leaves_all_to_others_and_can_come_back,
    a_worker_that_shuts_the_socket_down_is_heard_of_and_nobody_spins,
    nothing_is_left_over,
}

fn shared(workers: &str, address: &str) -> Builder {
    role(workers, &[address]).dispatch(Dispatch::Shared)
}

fn puppets(desk: &Desk, workers: usize) -> Running {
    // A successor would speak up when nobody asks.
    let never = Duration::from_secs(3600);
    let restart = RestartPolicy { delay_min: never, delay_max: never, ..RestartPolicy::default() };
    let builder = puppet_builder(desk).restart(restart).dispatch(Dispatch::Shared).workers(workers);
    let running = Running::start(builder);
    desk.ready(workers);
    running
}

fn opened(running: &mut Running) -> (Dispatch, &'static str) {
    running.until("a listener is open", |log| {
        log.iter().find_map(|event| match event {
            Event::Opened { dispatch, policy, .. } => Some((*dispatch, *policy)),
            _ => None,
        })
    })
}

fn round_robin_is_shared_by_default_and_others_are_handed_over() {
    let auto = || role("serve", &["127.0.0.1:0"]).dispatch(Dispatch::Auto);
    for (builder, expected) in [
        (auto().workers(2), (Dispatch::Shared, "rotation")),
        (auto().weights([2, 1]), (Dispatch::Shared, "rotation")),
        (auto().policy(PolicyKind::FirstIdle).workers(1), (Dispatch::Shared, "rotation")),
        (auto().custom_policy(|| Box::new(RoundRobin::new())), (Dispatch::Handoff, "round-robin")),
    ] {
        let mut running = Running::start(builder);
        assert_eq!(opened(&mut running), expected);
        running.stop();
    }
}

fn blocking_workers_take_turns() {
    let mut running = Running::start(shared("serve", "127.0.0.1:0").workers(4));
    assert_eq!(shares(&mut running, 4, 400), [100, 100, 100, 100]);
    running.stop();
}

fn event_loops_take_turns() {
    let mut running = Running::start(shared("serve_in_event_loop", "127.0.0.1:0").workers(4));
    assert_eq!(shares(&mut running, 4, 400), [100, 100, 100, 100]);
    running.stop();
}

fn turns_are_by_weight() {
    for workers in ["serve", "serve_in_event_loop"] {
        let mut running = Running::start(shared(workers, "127.0.0.1:0").weights([5, 3, 1, 1]));
        assert_eq!(shares(&mut running, 4, 200), [100, 60, 20, 20], "{workers}");
        running.stop();
    }
}

fn a_policy_without_weights_ignores_them() {
    let builder = shared("serve", "127.0.0.1:0").weights([5, 1]).policy(PolicyKind::RoundRobin);
    let mut running = Running::start(builder);
    assert_eq!(shares(&mut running, 2, 60), [30, 30]);
    running.stop();
}

fn a_weight_of_zero_takes_nothing() {
    for workers in ["serve", "serve_in_event_loop"] {
        let mut running = Running::start(shared(workers, "127.0.0.1:0").weights([1, 0, 1]));
        assert_eq!(shares(&mut running, 3, 20), [10, 0, 10], "{workers}");
        running.stop();
    }
}

fn unix_sockets_are_shared_too() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let mut running =
        Running::start(shared("serve", &format!("unix:{}", path.display())).workers(4));
    assert_eq!(shares(&mut running, 4, 40), [10, 10, 10, 10]);
    running.stop();
    assert!(!path.exists());
}

fn a_stopped_worker_holds_nobody_up() {
    let mut running = Running::start(shared("serve_in_event_loop", "127.0.0.1:0").workers(2));
    let address = running.listening(2);
    running.signal(0, Signal::SIGSTOP);
    wait_until("it is stopped", || is_stopped(running.pid(0)));
    for _ in 0..20 {
        assert_eq!(ask(&address), "1.1");
    }
    running.signal(0, Signal::SIGCONT);
    wait_until("it takes its turns again", || ask(&address) == "0.1");
    running.stop();
}

fn a_killed_worker_loses_only_what_it_had_taken() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 2);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "127.0.0.1:0");
    let mut clients: Vec<_> = (0..5).map(|_| Client::connect(&address)).collect();
    for _ in 0..2 {
        desk.take("0", 0);
    }
    running.signal(0, Signal::SIGKILL);
    running.exits(0, 1);
    for client in &mut clients[..2] {
        assert_eq!(client.line(), "0.1");
        assert!(client.try_line().is_err(), "it is lost");
    }
    for _ in 0..3 {
        desk.take("1", 0);
    }
    for client in &mut clients[2..] {
        assert_eq!(client.line(), "1.1");
    }
    running.stop();
}

fn connections_wait_while_no_worker_is_there() {
    let mut running = Running::start(shared("serve", "127.0.0.1:0").workers(1));
    let address = running.listening(1);
    running.signal(0, Signal::SIGKILL);
    running.exits(0, 1);
    let mut clients: Vec<_> = (0..10).map(|_| Client::connect(&address)).collect();
    for client in &mut clients {
        assert_eq!(client.line(), "0.2");
        client.finish();
    }
    assert_eq!(abandoned(&running.stop()), 0);
}

fn the_backlog_is_served_before_the_end_and_then_nobody_listens() {
    for workers in ["serve", "serve_in_event_loop"] {
        let mut running = Running::start(shared(workers, "127.0.0.1:0").workers(1));
        let address = running.listening(1);
        let mut busy = Client::connect(&address);
        assert_eq!(busy.line(), "0.1");
        let mut clients: Vec<_> = (0..10).map(|_| Client::connect(&address)).collect();
        running.cluster.shutdown();
        running.happens("it stops", |event| *event == Event::Stopping);
        busy.finish();
        for client in &mut clients {
            assert_eq!(client.line(), "0.1", "{workers}");
            client.finish();
        }
        assert_eq!(abandoned(&running.stop()), 0);
        assert!(Client::try_connect(&address).is_err(), "nobody listens any more");
    }
}

fn a_worker_without_descriptors_leaves_connections_to_others() {
    let desk = Desk::new();
    let running = puppets(&desk, 2);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "127.0.0.1:0");
    assert_eq!(desk.ask("0", "limit"), "limited");
    let mut client = Client::connect(&address);
    wait_until("it has come", || backlog(&address) == 1);
    let refused = desk.ask("0", "take 0");
    assert!(refused.contains("Too many open files"), "{refused}");
    desk.take("1", 0);
    assert_eq!(client.line(), "1.1");
    // It comes back by itself.
    assert_eq!(desk.ask("0", "unlimit"), "unlimited");
    let mut client = Client::connect(&address);
    desk.take("0", 0);
    assert_eq!(client.line(), "0.1");
    running.stop();
}

/// Bug: threads that wait by iteration were not told to look, and the one without descriptors took
/// its place in the queue again and again, but said only once that others should.
fn blocking_workers_without_descriptors_leave_each_connection_to_others() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 2);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "127.0.0.1:0");
    running.listening(2);
    for name in ["0", "1"] {
        assert_eq!(desk.ask(name, "serve 0"), "serving");
    }
    // Both are in the queue.
    while ask(&address) != "0.1" {}
    assert_eq!(desk.ask("0", "limit"), "limited");
    for _ in 0..10 {
        wait_until("all wait", || running.is_idle());
        assert_eq!(ask(&address), "1.1");
    }
    assert_eq!(desk.ask("0", "unlimit"), "unlimited");
    wait_until("it comes back by itself", || ask(&address) == "0.1");
    running.stop();
}

/// Bug: only the next worker was told to look, which may be at its limit.
fn what_a_worker_without_descriptors_leaves_passes_over_those_at_their_limits() {
    let desk = Desk::new();
    let mut running = puppets(&desk, 3);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "127.0.0.1:0");
    desk.listen("2", 0, "127.0.0.1:0");
    running.listening(3);
    assert_eq!(desk.ask("1", "max 0 0"), "limited to 0");
    for name in ["0", "1", "2"] {
        assert_eq!(desk.ask(name, "serve 0"), "serving");
    }
    while ask(&address) != "0.1" {}
    assert_eq!(desk.ask("0", "limit"), "limited");
    for _ in 0..4 {
        assert_eq!(ask(&address), "2.1");
    }
    assert_eq!(desk.ask("0", "unlimit"), "unlimited");
    running.stop();
}

/// Bug: it was woken by each connection, again and again until another worker took it.
fn a_blocking_worker_of_weight_zero_sleeps_while_connections_wait() {
    let builder = shared("serve", "127.0.0.1:0").weights([1, 0]);
    let mut running = Running::start(builder);
    let address = running.listening(2);
    let mut busy = Client::connect(&address);
    assert_eq!(busy.line(), "0.1");
    let mut waits = Client::connect(&address);
    wait_until("it has come", || backlog(&address) == 1);
    let before = busy_ms(running.pid(1));
    running.passes(Duration::from_millis(300));
    let used = busy_ms(running.pid(1)) - before;
    assert!(used < 100, "it was busy for {used} ms of 300");
    busy.finish();
    assert_eq!(waits.line(), "0.1");
    waits.finish();
    running.stop();
}

fn a_worker_at_its_limit_takes_no_more_until_one_ends() {
    for dispatch in [Dispatch::Handoff, Dispatch::Shared] {
        let desk = Desk::new();
        let running = Running::start(puppet_builder(&desk).dispatch(dispatch).workers(1));
        desk.ready(1);
        let address = desk.listen("0", 0, "127.0.0.1:0");
        assert_eq!(desk.ask("0", "max 0 2"), "limited to 2");
        let mut clients: Vec<_> = (0..5).map(|_| Client::connect(&address)).collect();
        for _ in 0..2 {
            desk.take("0", 0);
        }
        for _ in 0..2 {
            let none = desk.ask("0", "take 0");
            assert!(none.starts_with("WouldBlock: "), "{dispatch}: {none}");
        }
        for client in &mut clients[..2] {
            client.send("\n").unwrap();
        }
        assert_eq!(desk.ask("0", "finish"), "finished");
        for _ in 0..2 {
            desk.take("0", 0);
        }
        assert_eq!(desk.ask("0", "max 0 3"), "limited to 3");
        desk.take("0", 0);
        running.stop();
    }
}

/// PARITY: all at `maxConnections` made Node's primary offer a connection 25 000 times a second.
fn all_workers_at_their_limits_keep_connections_waiting() {
    for (dispatch, workers) in [
        (Dispatch::Handoff, "serve_two_at_a_time"),
        (Dispatch::Shared, "serve_two_at_a_time"),
        (Dispatch::Handoff, "serve_two_in_event_loop"),
        (Dispatch::Shared, "serve_two_in_event_loop"),
    ] {
        let builder = role(workers, &["127.0.0.1:0"]).dispatch(dispatch).workers(2);
        let mut running = Running::start(builder);
        let address = running.listening(2);
        let mut clients: Vec<_> = (0..12).map(|_| Client::connect(&address)).collect();
        for group in clients.chunks_mut(4) {
            // As many as may be open are served at once; the others wait.
            let mut names: Vec<_> = group.iter_mut().map(Client::line).collect();
            names.sort();
            assert_eq!(names, ["0.1", "0.1", "1.1", "1.1"], "{dispatch} {workers}");
            group.iter_mut().for_each(Client::finish);
        }
        running.stop();
    }
}

/// Bug: they took what had come meanwhile, until there was nothing, which may never be.
fn workers_that_stop_under_load_come_to_an_end() {
    for dispatch in [Dispatch::Shared, Dispatch::Steered] {
        let endless = Duration::from_secs(3600);
        let builder = shared("serve", "127.0.0.1:0").dispatch(dispatch).workers(1);
        let mut running = Running::start(builder.drain_timeout(endless));
        let address = running.listening(1);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                // Until nobody listens; and not for ever if the test fails.
                scope.spawn(|| {
                    let clients = (0..200_000).map_while(|_| Client::try_connect(&address).ok());
                    clients.for_each(|mut client| drop(client.send("\n")));
                });
            }
            wait_until("something waits", || backlog(&address) > 0);
            running.stop();
        });
    }
}

fn a_closed_listener_leaves_all_to_others_and_can_come_back() {
    let desk = Desk::new();
    let running = puppets(&desk, 2);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "127.0.0.1:0");
    let mut client = Client::connect(&address);
    assert_eq!(desk.ask("0", "close 0"), "closed");
    desk.take("1", 0);
    assert_eq!(client.line(), "1.1");
    assert_eq!(desk.ask("1", "close 0"), "closed");
    // Nobody is there; it waits.
    let mut client = Client::connect(&address);
    assert_eq!(desk.listen("0", 1, &address.to_string()), address);
    desk.take("0", 1);
    assert_eq!(client.line(), "0.1");
    running.stop();
}

fn a_worker_that_shuts_the_socket_down_is_heard_of_and_nobody_spins() {
    let desk = Desk::new();
    let running = puppets(&desk, 2);
    desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "127.0.0.1:0");
    assert_eq!(desk.ask("0", "break 0"), "broken");
    for slot in ["0", "1"] {
        let told = desk.ask(slot, "take 0");
        assert!(told.starts_with("NotConnected: ") && told.contains("shut"), "{told}");
    }
    // In iteration it is an error, too, which ends the puppet's thread and then the puppet.
    assert_eq!(desk.ask("1", "serve 0"), "serving");
    running.stop();
}

fn nothing_is_left_over() {
    let before = descriptors();
    let mut running = Running::start(shared("serve", "127.0.0.1:0").workers(2));
    let address = running.listening(2);
    for round in 1..4 {
        assert!((0..10).all(|_| try_ask(&address).is_ok()));
        for slot in 0..2 {
            running.signal(slot, Signal::SIGKILL);
            running.exits(slot, round);
        }
        (0..2).for_each(|slot| running.listens(slot, round + 1));
    }
    running.stop();
    assert_eq!(descriptors(), before);
}
