//! Messages between the test, as the master's program, and its workers, and between workers.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, TryRecvError};
use mio::{Events, Interest, Poll, Token};
use nix::sys::signal::Signal;
use runtime::{Event, Message, RequestError, SendError, WorkerId};

use crate::harness::{descriptors, tests};
use crate::support::messenger::{
    ask, id, messenger_builder, messengers, next, next_text, send, text,
};
use crate::support::{DEADLINE, Desk, Running, wait_until};

tests! {
    messages_go_both_ways_in_order_each_once,
    row23_a_long_message_and_its_handle_arrive_together,
    row22_handles_both_ways_do_not_deadlock,
    row22_a_socket_that_is_sent_twice_is_two_handles,
    workers_send_to_workers_through_the_master,
    a_message_to_nobody_is_dropped,
    broadcasts_reach_everybody_else,
    requests_are_answered_by_whom_they_were_made_to,
    requests_between_workers_end_in_every_way,
    requests_of_workers_are_answered_by_the_program,
    a_request_ends_at_its_deadline_and_a_late_reply_changes_nothing,
    a_request_to_a_worker_that_is_killed_ends_at_once,
    what_a_worker_has_sent_comes_before_its_end,
    a_hook_is_called_with_messages_and_may_reply,
    messages_are_a_source_for_mio,
    messages_that_are_over_the_limits_are_refused,
    the_end_of_the_cluster_is_the_end_of_messages,
}

fn messages_go_both_ways_in_order_each_once() {
    const MESSAGES: usize = 3000;
    let desk = Desk::new();
    let running = messengers(&desk, 2);
    let messages = running.cluster.messages();
    thread::scope(|scope| {
        for slot in 0..2 {
            let running = &running;
            scope.spawn(move || {
                (0..MESSAGES).for_each(|number| send(running, slot, format!("echo {number}")));
            });
        }
        let mut seen = [0; 2];
        while seen != [MESSAGES; 2] {
            let (from, text) = next_text(&messages);
            assert_eq!(text, seen[from.slot].to_string(), "from {from}");
            seen[from.slot] += 1;
        }
    });
    assert!(matches!(messages.try_recv(), Err(TryRecvError::Empty)));
    running.stop();
}

fn row23_a_long_message_and_its_handle_arrive_together() {
    let desk = Desk::new();
    let running = messengers(&desk, 1);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let long: Vec<u8> = (0..800_000_u32).map(|number| b'a' + (number % 23) as u8).collect();
    let message = Message::new([b"echo ", long.as_slice()].concat()).with_handle(theirs);
    let mut reply = running.cluster.request(0, message, DEADLINE).expect("a reply");
    assert!(reply.bytes == long, "{} bytes", reply.bytes.len());
    assert_eq!(reply.handles.len(), 1);
    let mut theirs: UnixStream = reply.take_handle(0).expect("a stream");
    theirs.write_all(b"it is the same").unwrap();
    drop(theirs);
    let mut heard = String::new();
    (&ours).read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "it is the same", "and nobody else holds the other end");
    running.stop();
}

fn row22_handles_both_ways_do_not_deadlock() {
    const MESSAGES: usize = 300;
    let desk = Desk::new();
    let running = messengers(&desk, 2);
    let before = descriptors().len();
    let messages = running.cluster.messages();
    for slot in 0..2 {
        send(&running, slot, format!("flood {MESSAGES}"));
    }
    thread::scope(|scope| {
        for slot in 0..2 {
            let running = &running;
            scope.spawn(move || {
                for _ in 0..MESSAGES {
                    let null = File::open("/dev/null").unwrap();
                    send(running, slot, Message::new("drop").with_handle(null));
                }
            });
        }
        let mut seen = [0; 2];
        while seen != [MESSAGES; 2] {
            let mut received = next(&messages);
            assert_eq!(text(&received.message), seen[received.from.slot].to_string());
            received.message.take_handle::<File>(0).expect("the handle");
            seen[received.from.slot] += 1;
        }
    });
    wait_until("all handles are closed", || descriptors().len() == before);
    running.stop();
}

fn row22_a_socket_that_is_sent_twice_is_two_handles() {
    let desk = Desk::new();
    let running = messengers(&desk, 1);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let twin = theirs.try_clone().unwrap();
    let message = Message::new("echo ").with_handle(theirs).with_handle(twin);
    let mut reply = running.cluster.request(0, message, DEADLINE).expect("a reply");
    let mut streams = [0, 1].map(|n| reply.take_handle::<UnixStream>(n).expect("a stream"));
    streams[0].write_all(b"1").unwrap();
    drop(reply);
    streams[1].write_all(b"2").unwrap();
    drop(streams);
    let mut heard = String::new();
    ours.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "12");
    running.stop();
}

fn workers_send_to_workers_through_the_master() {
    let desk = Desk::new();
    let running = messengers(&desk, 3);
    let messages = running.cluster.messages();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    send(&running, 0, Message::new("to 2 look at this").with_handle(theirs));
    let mut received = next(&messages);
    assert_eq!((received.from, text(&received.message)), (id(2), "0.1: look at this".into()));
    let mut theirs: UnixStream = received.message.take_handle(0).expect("a stream");
    theirs.write_all(b"a long way").unwrap();
    drop(theirs);
    let mut heard = String::new();
    ours.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "a long way");
    // More than any window holds, in order.
    thread::scope(|scope| {
        scope.spawn(|| (0..1000).for_each(|number| send(&running, 0, format!("to 1 {number}"))));
        for number in 0..1000 {
            assert_eq!(next_text(&messages), (id(1), format!("0.1: {number}")));
        }
    });
    running.stop();
}

fn a_message_to_nobody_is_dropped() {
    let desk = Desk::new();
    let running = messengers(&desk, 2);
    for number in 0..600 {
        send(&running, 0, format!("to 7 {number}"));
    }
    // They cost nothing: there is room for others.
    assert_eq!(ask(&running, 0, "ask 7 30000 anybody?"), "Gone");
    let error = running.cluster.send(7_usize, "anybody?").expect_err("nobody is there");
    assert!(matches!(error, SendError::Gone(message) if message.bytes == b"anybody?"));
    match running.cluster.request(7_usize, "anybody?", DEADLINE) {
        Err(RequestError::NotSent(SendError::Gone(it))) => assert_eq!(it.bytes, b"anybody?"),
        other => panic!("{other:?}"),
    }
    let past = WorkerId { slot: 0, generation: 9 };
    assert!(matches!(running.cluster.send(past, "x"), Err(SendError::Gone(_))));
    running.stop();
}

fn broadcasts_reach_everybody_else() {
    let desk = Desk::new();
    let running = messengers(&desk, 3);
    let messages = running.cluster.messages();
    let broadcast = running.cluster.broadcast("echo news").expect("short");
    assert_eq!((broadcast.reached, broadcast.full), (3, vec![]));
    let mut heard: Vec<_> = (0..3).map(|_| next_text(&messages)).collect();
    heard.sort();
    assert_eq!(heard, [0, 1, 2].map(|slot| (id(slot), "news".to_owned())));

    send(&running, 1, "all gossip");
    let mut heard: Vec<_> = (0..2).map(|_| next_text(&messages)).collect();
    heard.sort();
    assert_eq!(heard, [0, 2].map(|slot| (id(slot), "1.1: gossip".to_owned())));
    assert!(matches!(messages.try_recv(), Err(TryRecvError::Empty)));
    running.stop();
}

fn requests_are_answered_by_whom_they_were_made_to() {
    let desk = Desk::new();
    let running = messengers(&desk, 3);
    thread::scope(|scope| {
        for slot in 0..3 {
            let running = &running;
            scope.spawn(move || {
                for number in 0..200 {
                    let order = format!("echo {slot} {number}");
                    assert_eq!(ask(running, slot, &order), order[5..]);
                }
            });
        }
    });
    // A request that is dropped fails at once.
    let dropped = running.cluster.request(0, "drop", DEADLINE);
    assert!(matches!(dropped, Err(RequestError::Unanswered)), "{dropped:?}");
    running.stop();
}

fn requests_between_workers_end_in_every_way() {
    let desk = Desk::new();
    let mut running = messengers(&desk, 2);
    assert_eq!(ask(&running, 0, "ask 1 30000 echo hello"), "hello");
    assert_eq!(ask(&running, 0, "ask 1 30000 drop"), "Unanswered");
    assert_eq!(ask(&running, 0, "ask 1 1 hold"), "TimedOut");
    assert_eq!(desk.hear(), "holding");
    // The late reply goes nowhere.
    send(&running, 1, "let go");
    assert_eq!(ask(&running, 0, "ask 1 30000 echo again"), "again");
    thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&running, 0, "ask 1 30000 hold"));
        assert_eq!(desk.hear(), "holding");
        running.signal(1, Signal::SIGKILL);
        assert_eq!(asked.join().expect("an answer"), "Gone");
    });
    running.exits(1, 1);
    running.stop();
}

fn requests_of_workers_are_answered_by_the_program() {
    let desk = Desk::new();
    let mut running = messengers(&desk, 1);
    let messages = running.cluster.messages();
    let query = |running: &Running| {
        send(running, 0, "query who am I?");
        let received = next(&messages);
        assert!(received.is_request());
        assert_eq!(text(&received.message), "who am I?");
        received
    };
    let received = query(&running);
    let answer = received.from.to_string();
    // From any thread.
    thread::scope(|scope| scope.spawn(|| received.reply(answer)).join().unwrap().unwrap());
    assert_eq!(next_text(&messages), (id(0), "0.1".into()));
    drop(query(&running));
    assert_eq!(next_text(&messages), (id(0), "Unanswered".into()));

    // What a dead worker has asked is not answered to its successor.
    let stale = query(&running);
    running.signal(0, Signal::SIGKILL);
    running.exits(0, 1);
    running.online(2);
    let fresh = query(&running);
    match stale.reply("to the dead") {
        Err(SendError::Gone(message)) => assert_eq!(message.bytes, b"to the dead"),
        other => panic!("{other:?}"),
    }
    fresh.reply("to the living").expect("it waits");
    let second = WorkerId { slot: 0, generation: 2 };
    assert_eq!(next_text(&messages), (second, "to the living".into()));
    running.stop();
}

fn a_request_ends_at_its_deadline_and_a_late_reply_changes_nothing() {
    let desk = Desk::new();
    let running = messengers(&desk, 1);
    let late = running.cluster.request(0, "hold", Duration::from_millis(20));
    assert!(matches!(late, Err(RequestError::TimedOut)), "{late:?}");
    assert_eq!(desk.hear(), "holding");
    send(&running, 0, "let go");
    assert_eq!(ask(&running, 0, "echo in time"), "in time");
    assert!(matches!(running.cluster.messages().try_recv(), Err(TryRecvError::Empty)));
    running.stop();
}

fn a_request_to_a_worker_that_is_killed_ends_at_once() {
    let desk = Desk::new();
    let mut running = messengers(&desk, 1);
    thread::scope(|scope| {
        let request = || running.cluster.request(0, "hold", Duration::MAX);
        let asking = [scope.spawn(request), scope.spawn(request)];
        assert_eq!([desk.hear(), desk.hear()], ["holding", "holding"]);
        running.signal(0, Signal::SIGKILL);
        for asked in asking {
            let outcome = asked.join().expect("an answer");
            assert!(matches!(outcome, Err(RequestError::Gone)), "{outcome:?}");
        }
    });
    running.exits(0, 1);
    running.stop();
}

fn what_a_worker_has_sent_comes_before_its_end() {
    let desk = Desk::new();
    let mut running = messengers(&desk, 1);
    for round in 1..=3 {
        // More than the socket takes at once.
        send(&running, 0, "end 200");
        running.exits(0, round);
        let messages = running.cluster.messages();
        for number in 0..200 {
            let received = messages.try_recv().expect("it is there");
            assert_eq!(received.from, WorkerId { slot: 0, generation: round });
            assert!(text(&received.message).starts_with(&format!("{number} ")));
        }
        let more = messages.try_recv();
        assert!(matches!(more, Err(TryRecvError::Empty)), "{more:?}");
        running.happens("its successor is online", |event| {
            *event == Event::Online { worker: WorkerId { slot: 0, generation: round + 1 } }
        });
    }
    running.stop();
}

fn a_hook_is_called_with_messages_and_may_reply() {
    let desk = Desk::new();
    let (sender, heard) = crossbeam_channel::unbounded();
    let events = sender.clone();
    let builder = messenger_builder(&desk)
        .workers(1)
        .on_message(move |received| {
            sender.send(text(&received.message)).unwrap();
            if received.is_request() {
                received.reply("from the hook").unwrap();
            }
        })
        .on_event(move |event| {
            if let Event::Exited { worker, .. } = event {
                events.send(format!("{worker} has ended")).unwrap();
            }
        });
    let mut running = Running::start(builder);
    running.online(1);
    send(&running, 0, "echo hello");
    assert_eq!(heard.recv_timeout(DEADLINE).unwrap(), "hello");
    assert!(matches!(running.cluster.messages().try_recv(), Err(TryRecvError::Empty)));
    send(&running, 0, "end 3");
    running.exits(0, 1);
    let told: Vec<_> = (0..4).map(|_| heard.recv_timeout(DEADLINE).unwrap()).collect();
    let starts = ["0 x", "1 x", "2 x", "0.1 has"];
    assert!(told.iter().zip(starts).all(|(text, start)| text.starts_with(start)));
    running.stop();
}

fn messages_are_a_source_for_mio() {
    let desk = Desk::new();
    let running = messengers(&desk, 1);
    let mut messages = running.cluster.messages();
    let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(8));
    poll.registry().register(&mut messages, Token(1), Interest::READABLE).unwrap();
    for round in 0..20 {
        (0..round % 3 + 1).for_each(|number| send(&running, 0, format!("echo {number}")));
        for number in 0..round % 3 + 1 {
            let received = loop {
                match messages.try_recv() {
                    Ok(received) => break received,
                    Err(_) => poll.poll(&mut events, Some(DEADLINE)).unwrap(),
                }
                assert!(events.iter().any(|event| event.is_readable()), "waited in vain");
            };
            assert_eq!(text(&received.message), number.to_string());
        }
        assert!(messages.try_recv().is_err());
    }
    poll.registry().deregister(&mut messages).unwrap();
    running.stop();
}

fn messages_that_are_over_the_limits_are_refused() {
    let desk = Desk::new();
    let builder = messenger_builder(&desk).workers(1).message_bytes_max(1000);
    let mut running = Running::start(builder.message_handles_max(1));
    running.online(1);
    let long = running.cluster.send(0, vec![0; 1001]).expect_err("it is too long");
    assert!(matches!(long, SendError::TooLarge(message) if message.bytes == [0; 1001]));
    let null = || File::open("/dev/null").unwrap();
    let two = Message::new("echo").with_handle(null()).with_handle(null());
    match running.cluster.request(0, two, DEADLINE) {
        Err(RequestError::NotSent(SendError::TooLarge(it))) => assert_eq!(it.handles.len(), 2),
        other => panic!("{other:?}"),
    }
    let longest = format!("echo {}", "x".repeat(995));
    assert_eq!(ask(&running, 0, &longest).len(), 995);
    // The worker knows the limits, too.
    assert_eq!(ask(&running, 0, "fill 1001"), "0");
    assert_eq!(ask(&running, 0, "fill 1000"), "256");
    running.stop();
    for builder in [
        messenger_builder(&desk).message_bytes_max((1 << 30) + 1),
        messenger_builder(&desk).message_handles_max(17),
    ] {
        assert!(builder.spawn().is_err(), "out of range");
    }
}

fn the_end_of_the_cluster_is_the_end_of_messages() {
    let desk = Desk::new();
    let running = messengers(&desk, 1);
    let messages = running.cluster.messages();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| messages.recv_deadline(Instant::now() + DEADLINE));
        let all = scope.spawn(|| messages.iter().count());
        running.stop();
        let end = waiting.join().expect("no panic");
        assert!(matches!(end, Err(RecvTimeoutError::Disconnected)));
        assert_eq!(all.join().expect("no panic"), 0);
    });
    assert!(messages.try_recv().is_err_and(|error| error == TryRecvError::Disconnected));
}
