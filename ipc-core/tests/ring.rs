//! A ring within one process: both halves here, or in two threads.

mod util;

use std::sync::atomic::Ordering;
use std::time::Duration;

use ipc_core::shm::ring::{
    self, Consumer, Producer, RecvError, SendError, TryRecvError, TrySendError,
};
use mio::{Events, Interest, Poll, Token};
use util::{in_ms, soon};

const CAPACITY: usize = 4096;

/// A record that tells its number and its length.
fn record(number: usize) -> Vec<u8> {
    let bytes = number * 37 % 700;
    (0..bytes).map(|n| u8::try_from((n + number) % 251).expect("less than 251")).collect()
}

#[track_caller]
fn recv(consumer: &mut Consumer) -> Vec<u8> {
    let mut payload = Vec::new();
    consumer.recv_deadline(&mut payload, soon()).expect("a record");
    payload
}

#[track_caller]
fn expect_event(poll: &mut Poll) {
    let mut events = Events::with_capacity(4);
    while events.is_empty() {
        poll.poll(&mut events, Some(Duration::from_secs(30))).expect("no signal");
        assert!(!events.is_empty(), "no event came");
    }
    assert!(events.iter().all(mio::event::Event::is_readable) || cfg!(windows));
}

/// Windows' pipes also report what nobody has asked for.
fn no_event(poll: &mut Poll) -> bool {
    let mut events = Events::with_capacity(4);
    poll.poll(&mut events, Some(Duration::ZERO)).expect("no signal");
    events.is_empty() || cfg!(windows)
}

#[test]
fn records_of_all_lengths_arrive_whole_and_in_order() {
    let (mut producer, mut consumer) = ring::create(CAPACITY).expect("memory");
    let mut sent = 0;
    let mut payload = vec![1; 3]; // What is in the buffer goes.
    for received in 0..2000 {
        while producer.try_send(&record(sent)).is_ok() {
            sent += 1;
        }
        consumer.try_recv(&mut payload).expect("the ring is full");
        assert_eq!(payload, record(received));
    }
}

#[test]
fn two_threads_of_which_both_sleep_lose_nothing() {
    for spins_max in [0, 100] {
        let (producer, consumer) = ring::create(CAPACITY).expect("memory");
        let mut producer = producer.with_spins_max(spins_max);
        let mut consumer = consumer.with_spins_max(spins_max);
        let sender = std::thread::spawn(move || {
            for number in 0..20_000 {
                producer.send_deadline(&record(number), soon()).expect("it is read");
            }
        });
        for number in 0..20_000 {
            assert_eq!(recv(&mut consumer), record(number));
        }
        sender.join().expect("no panic");
        let end = consumer.recv_deadline(&mut Vec::new(), soon());
        assert!(matches!(end, Err(RecvError::Closed)), "{end:?}");
    }
}

#[test]
fn the_largest_record_fits_wherever_the_last_one_ended() {
    let (mut producer, mut consumer) = ring::create(CAPACITY).expect("memory");
    let max = producer.payload_bytes_max();
    assert_eq!(max, CAPACITY / 2 - 8);
    for end in (0..CAPACITY).step_by(8) {
        producer.try_send(&vec![1; max]).expect("the ring is empty");
        assert_eq!(recv(&mut consumer).len(), max);
        producer.try_send(&vec![0; end % 2000]).expect("the ring is empty");
        recv(&mut consumer);
    }
    let too_large = producer.try_send(&vec![0; max + 1]);
    assert_eq!(too_large, Err(TrySendError::TooLarge { bytes_max: max }));
    assert_eq!(producer.try_reserve(usize::MAX).err(), too_large.err());
    let error = producer.send_deadline(&vec![0; max + 1], soon());
    assert!(matches!(error, Err(SendError::TooLarge { .. })));
}

#[test]
fn records_in_place_are_sent_by_commit_and_received_by_release() {
    let (mut producer, mut consumer) = ring::create(CAPACITY).expect("memory");
    drop(producer.try_reserve(5).expect("room"));
    assert_eq!(consumer.try_peek().map(drop), Err(TryRecvError::Empty), "it was abandoned");

    let mut grant = producer.reserve_deadline(100, soon()).expect("room");
    grant.truncate(3);
    grant.truncate(50);
    for (byte, value) in grant.bytes().iter().zip(*b"abc") {
        byte.store(value, Ordering::Relaxed);
    }
    grant.commit();
    for _ in 0..2 {
        assert_eq!(consumer.try_peek().expect("it was not released").to_vec(), b"abc");
    }
    consumer.peek_deadline(soon()).expect("it was not released").release();
    assert_eq!(consumer.try_peek().map(drop), Err(TryRecvError::Empty));
}

#[test]
fn waits_end_at_their_deadlines() {
    let (mut producer, mut consumer) = ring::create(CAPACITY).expect("memory");
    for ms in [0, 1, 15] {
        let error = consumer.recv_deadline(&mut Vec::new(), in_ms(ms));
        assert!(matches!(error, Err(RecvError::TimedOut)), "{error:?}");
    }
    while producer.try_send(&[0; 500]).is_ok() {}
    for ms in [0, 1, 15] {
        let error = producer.send_deadline(&[0; 500], in_ms(ms));
        assert!(matches!(error, Err(SendError::TimedOut)), "{error:?}");
    }
    assert_eq!(recv(&mut consumer).len(), 500);
    producer.send_deadline(&[0; 500], in_ms(0)).expect("there is room now");
}

#[test]
fn what_was_committed_is_received_after_the_producer_has_gone() {
    let (mut producer, mut consumer) = ring::create(CAPACITY).expect("memory");
    producer.try_send(b"one").expect("room");
    producer.try_send(b"two").expect("room");
    assert!(!consumer.is_closed().expect("a socket"));
    drop(producer);
    assert!(consumer.is_closed().expect("a socket"));
    assert_eq!((recv(&mut consumer), recv(&mut consumer)), (b"one".to_vec(), b"two".to_vec()));
    let error = consumer.recv_deadline(&mut Vec::new(), None);
    assert!(matches!(error, Err(RecvError::Closed)), "{error:?}");
    let found = (0..1024).any(|_| consumer.try_recv(&mut Vec::new()) == Err(TryRecvError::Closed));
    assert!(found, "who only looks finds out too");
}

#[test]
fn a_producer_finds_out_that_the_consumer_has_gone() {
    let (mut producer, consumer) = ring::create(CAPACITY).expect("memory");
    drop(consumer);
    assert!(producer.is_closed().expect("a socket"));
    while producer.try_send(b"nobody reads this").is_ok() {}
    let found = (0..1024).any(|_| producer.try_send(b"") == Err(TrySendError::Closed));
    assert!(found || producer.try_send(&[0; 99]) == Err(TrySendError::Closed));
    let error = producer.send_deadline(&[0; 2000], None);
    assert!(matches!(error, Err(SendError::Closed)), "{error:?}");
}

#[test]
fn who_sleeps_is_woken_by_the_end_of_the_other() {
    let (producer, mut consumer) = ring::create(CAPACITY).expect("memory");
    let waiter = std::thread::spawn(move || consumer.recv_deadline(&mut Vec::new(), soon()));
    drop(producer);
    assert!(matches!(waiter.join().expect("no panic"), Err(RecvError::Closed)));

    let (mut producer, consumer) = ring::create(CAPACITY).expect("memory");
    while producer.try_send(&[0; 100]).is_ok() {}
    let waiter = std::thread::spawn(move || producer.send_deadline(&[0; 100], soon()));
    drop(consumer);
    assert!(matches!(waiter.join().expect("no panic"), Err(SendError::Closed)));
}

#[test]
fn events_tell_of_records_of_room_and_of_the_end() {
    let (mut producer, mut consumer) = ring::create(CAPACITY).expect("memory");
    let mut poll = Poll::new().expect("a poll");
    let mut payload = Vec::new();
    poll.registry().register(&mut consumer, Token(0), Interest::READABLE).expect("a source");
    producer.try_send(b"before anybody asked").expect("room");
    assert!(no_event(&mut poll), "nobody asked");
    for round in 0..20 {
        while consumer.try_recv(&mut payload).is_ok() {}
        assert!(no_event(&mut poll) || round == 0);
        producer.try_send(b"x").expect("room");
        producer.try_send(b"y").expect("room");
        expect_event(&mut poll);
    }
    while consumer.try_recv(&mut payload).is_ok() {}
    // On Windows, who has been registered once works only while it is.
    if !cfg!(windows) {
        poll.registry().deregister(&mut consumer).expect("it was registered");
    }

    poll.registry().register(&mut producer, Token(1), Interest::WRITABLE).expect("a source");
    while producer.try_send(&[0; 100]).is_ok() {}
    assert!(no_event(&mut poll));
    recv(&mut consumer);
    expect_event(&mut poll);
    while producer.try_send(&[0; 100]).is_ok() {}
    drop(consumer);
    expect_event(&mut poll);
    assert_eq!(producer.try_send(&[0; 2000]), Err(TrySendError::Closed));
}

#[test]
fn halves_move_with_what_is_in_them() {
    let (mut producer, mut consumer) = ring::create(CAPACITY).expect("memory");
    for number in 0..300 {
        producer.try_send(&record(number)).expect("room");
        producer.try_send(&record(number + 1)).expect("room");
        if number % 3 == 0 {
            producer = Producer::from_handles(producer.into_handles(), CAPACITY).expect("a ring");
        }
        assert_eq!(recv(&mut consumer), record(number));
        consumer = Consumer::from_handles(consumer.into_handles(), CAPACITY).expect("a ring");
        assert_eq!(recv(&mut consumer), record(number + 1));
        assert_eq!(consumer.try_recv(&mut Vec::new()), Err(TryRecvError::Empty));
    }
}

#[test]
fn capacities_are_powers_of_two() {
    for capacity in [0, 1, 2048, 4095, 4097, 12_288, 1 << 32, usize::MAX] {
        let error = ring::create(capacity).expect_err("no capacity");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
    assert_eq!(ring::create(1 << 20).expect("memory").0.capacity_bytes(), 1 << 20);
}
