//! Policies that look at more than whose turn it is.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use runtime::{Address, Builder, Dispatch, Event, Peek, PeekOptions, PolicyKind};

use crate::harness::{descriptors, tests};
use crate::support::cluster::abandoned;
use crate::support::{Client, Desk, Running, ask, puppet_builder, role, shares};

tests! {
    every_policy_serves_and_spares_who_is_gone,
    the_fewest_connections_get_the_next,
    what_ended_is_seen_as_well_as_what_came,
    a_client_stays_with_its_worker,
    a_cookie_keeps_a_client_with_its_worker,
    a_function_of_the_users_finds_the_key,
    who_says_nothing_is_known_by_its_address,
    who_waits_for_a_look_is_served_before_the_end,
    a_waiting_connection_keeps_its_key_when_it_is_taken_back,
}

fn serving(policy: PolicyKind) -> Builder {
    role("serve", &["127.0.0.1:0"]).policy(policy)
}

fn every_policy_serves_and_spares_who_is_gone() {
    for policy in PolicyKind::ALL {
        let mut running = Running::start(serving(policy).workers(3));
        let shares = shares(&mut running, 3, 30);
        assert_eq!(shares.iter().sum::<usize>(), 30, "{policy}");
        let address = running.listening(3);
        running.signal(1, Signal::SIGSTOP);
        running.signal(1, Signal::SIGKILL);
        running.exits(1, 1);
        for _ in 0..6 {
            ask(&address);
        }
        assert_eq!(abandoned(&running.stop()), 0, "{policy}");
    }
}

fn puppets(desk: &Desk, workers: usize, policy: PolicyKind) -> Running {
    let running = Running::start(puppet_builder(desk).policy(policy).workers(workers));
    desk.ready(workers);
    running
}

fn the_fewest_connections_get_the_next() {
    for policy in [PolicyKind::LeastConnections, PolicyKind::FirstIdle] {
        let desk = Desk::new();
        let running = puppets(&desk, 3, policy);
        let address = desk.listen("0", 0, "127.0.0.1:0");
        desk.listen("1", 0, "127.0.0.1:0");
        desk.listen("2", 0, "127.0.0.1:0");
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.extend((0..3).map(|_| Client::connect(&address)));
            ["0", "1", "2"].iter().for_each(|slot| drop(desk.take(slot, 0)));
        }
        let names: BTreeSet<_> = clients.iter_mut().map(Client::line).collect();
        assert_eq!(names.len(), 3, "{policy}");
        running.stop();
    }
}

fn what_ended_is_seen_as_well_as_what_came() {
    let desk = Desk::new();
    let running = puppets(&desk, 2, PolicyKind::LeastConnections);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "127.0.0.1:0");
    let mut clients: Vec<_> = (0..6).map(|_| Client::connect(&address)).collect();
    for _ in 0..3 {
        desk.take("0", 0);
        desk.take("1", 0);
    }
    for client in &mut clients {
        if client.line() == "1.1" {
            client.send("\n").unwrap();
        }
    }
    let counted = |slot| {
        let listeners = running.cluster.listeners();
        assert_eq!(listeners.len(), 1);
        assert_eq!(
            (listeners[0].dispatch, listeners[0].policy),
            (Dispatch::Handoff, "least-connections")
        );
        (listeners[0].taken(slot), listeners[0].open(slot))
    };
    assert_eq!([counted(0), counted(1)], [(3, 3), (3, 3)]);
    // Three of its connections end; so the next three are its own.
    assert_eq!(desk.ask("1", "finish"), "finished");
    assert_eq!([counted(0), counted(1)], [(3, 3), (3, 0)]);
    let mut more: Vec<_> = (0..3).map(|_| Client::connect(&address)).collect();
    for client in &mut more {
        desk.take("1", 0);
        assert_eq!(client.line(), "1.1");
    }
    running.stop();
}

fn a_client_stays_with_its_worker() {
    for policy in
        [PolicyKind::SourceHash, PolicyKind::ConsistentHash, PolicyKind::Maglev, PolicyKind::Sticky]
    {
        let mut running = Running::start(serving(policy).workers(4));
        let address = running.listening(4);
        let first = ask(&address);
        assert!((0..20).all(|_| ask(&address) == first), "{policy}");
        running.stop();
    }
}

/// Asks with these first bytes; says who answers.
fn ask_with(address: &Address, first: &str) -> String {
    let mut client = Client::connect(address);
    client.send(first).unwrap();
    let name = client.line();
    // The worker reads all that the master has seen, so what it reads ends with the first line.
    assert_eq!(client.line(), "done");
    name
}

fn with_cookie(address: &Address, id: u32) -> String {
    ask_with(address, &format!("GET / HTTP/1.1\r\nCookie: a=b; id={id}\r\n\r\n"))
}

fn a_cookie_keeps_a_client_with_its_worker() {
    for dispatch in [Dispatch::Auto, Dispatch::Handoff, Dispatch::Steered] {
        let builder = serving(PolicyKind::ConsistentHash).dispatch(dispatch).workers(4);
        let mut running = Running::start(builder.peek(PeekOptions::cookie("id")));
        let address = running.listening(4);
        let first: Vec<_> = (0..20).map(|id| with_cookie(&address, id)).collect();
        let again: Vec<_> = (0..20).map(|id| with_cookie(&address, id)).collect();
        assert_eq!(first, again);
        assert!(first.iter().collect::<BTreeSet<_>>().len() > 1, "{first:?}");
        let is_handoff =
            |event: &Event| matches!(event, Event::Opened { dispatch: Dispatch::Handoff, .. });
        running.happens("it is handed over", is_handoff);
        running.stop();
    }
}

fn a_function_of_the_users_finds_the_key() {
    // The first two letters, however late the second comes.
    let find = |bytes: &[u8]| match bytes {
        [] | [_] => Peek::More,
        [a, b, ..] => Peek::key_of(&[*a, *b]),
    };
    let builder = serving(PolicyKind::SourceHash).workers(4);
    let mut running = Running::start(builder.peek(PeekOptions::new(find)));
    let address = running.listening(4);
    let expected = ask_with(&address, "xyz\n");
    let mut slow = Client::connect(&address);
    slow.send("x").unwrap();
    assert_eq!(ask_with(&address, "xyz\n"), expected, "who waits holds nobody up");
    slow.send("y\n").unwrap();
    assert_eq!(slow.line(), expected);
    running.stop();
}

fn who_says_nothing_is_known_by_its_address() {
    let before = descriptors();
    let peek = PeekOptions::cookie("id").timeout(Duration::from_millis(20));
    let mut running = Running::start(serving(PolicyKind::SourceHash).workers(4).peek(peek));
    let address = running.listening(4);
    let mut names = BTreeSet::new();
    for _ in 0..5 {
        let mut client = Client::connect(&address);
        names.insert(client.line());
        client.finish();
    }
    assert_eq!(names.len(), 1);
    running.stop();
    assert_eq!(descriptors(), before);
}

fn who_waits_for_a_look_is_served_before_the_end() {
    let peek = PeekOptions::cookie("id").timeout(Duration::from_secs(3600));
    let mut running = Running::start(serving(PolicyKind::SourceHash).workers(1).peek(peek));
    let address = running.listening(1);
    let mut clients: Vec<_> = (0..5).map(|_| Client::connect(&address)).collect();
    running.cluster.shutdown();
    for client in &mut clients {
        assert_eq!(client.line(), "0.1");
        client.finish();
    }
    assert_eq!(abandoned(&running.stop()), 0);
}

fn a_waiting_connection_keeps_its_key_when_it_is_taken_back() {
    let desk = Desk::new();
    let builder = puppet_builder(&desk).policy(PolicyKind::ConsistentHash).workers(3);
    let running = Running::start(builder.peek(PeekOptions::cookie("id")));
    desk.ready(3);
    let address = desk.listen("0", 0, "127.0.0.1:0");
    desk.listen("1", 0, "127.0.0.1:0");
    desk.listen("2", 0, "127.0.0.1:0");
    let connect = || {
        let mut client = Client::connect(&address);
        client.send("GET / HTTP/1.1\r\nCookie: id=7\r\n\r\n").unwrap();
        client
    };
    let mut clients: Vec<_> = (0..4).map(|_| connect()).collect();
    // Whose they are shows by who can take one.
    let takes = |slot: &str| !desk.ask(slot, "take 0").starts_with("WouldBlock");
    let mut owner = None;
    crate::support::wait_until("one takes", || {
        owner = ["0", "1", "2"].into_iter().find(|slot| takes(slot));
        owner.is_some()
    });
    let owner = owner.unwrap();
    // All others go to one of the two that are left: where the key belongs now.
    assert_eq!(desk.ask(owner, "close 0"), "closed");
    let others: Vec<_> = ["0", "1", "2"].into_iter().filter(|slot| *slot != owner).collect();
    let mut heir = None;
    crate::support::wait_until("another takes", || {
        heir = others.iter().copied().find(|slot| takes(slot));
        heir.is_some()
    });
    let heir = heir.unwrap();
    (0..2).for_each(|_| drop(desk.take(heir, 0)));
    let names: Vec<_> = clients.iter_mut().map(Client::line).collect();
    assert_eq!(names.iter().filter(|name| name.starts_with(heir)).count(), 3, "{names:?}");
    running.stop();
}
