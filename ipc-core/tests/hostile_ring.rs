//! The other half of a ring is in the hands of somebody who writes whatever to the memory.
#![cfg(target_os = "linux")]

mod util;

use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};

use handle_passing::{Handle, HandleKind};
use ipc_core::shm::ring::{
    self, AttachError, Consumer, Producer, RecvError, SendError, TryRecvError, TrySendError,
    Violation,
};
use ipc_core::shm::{MemoryError, SharedMemory};
use util::{in_ms, soon};

const CAPACITY: usize = 4096;

// Where things are in the memory; see the crate's `ring/core/layout.rs`.
const TAIL: usize = 128;
const HEAD: usize = 256;
const CONSUMER_WAIT: usize = 384;
const PRODUCER_WAIT: usize = 512;
const RECORDS: usize = 4096;

/// The memory of a half, and its bell.
fn raw(handles: [Handle; 2]) -> (SharedMemory, UnixStream) {
    let [memory, bell] = handles;
    let memory = SharedMemory::open(memory, 1 << 30).expect("memory");
    (memory, bell.into_type().expect("a socket"))
}

fn against_producer() -> (Consumer, SharedMemory, UnixStream) {
    let (producer, consumer) = ring::create(CAPACITY).expect("memory");
    let (memory, bell) = raw(producer.into_handles());
    (consumer, memory, bell)
}

fn against_consumer() -> (Producer, SharedMemory, UnixStream) {
    let (producer, consumer) = ring::create(CAPACITY).expect("memory");
    let (memory, bell) = raw(consumer.into_handles());
    (producer, memory, bell)
}

fn set(memory: &SharedMemory, offset: usize, value: u64) {
    memory.atomic_u64(offset).expect("in the memory").store(value, Ordering::SeqCst);
}

#[track_caller]
fn expect_detached(consumer: &mut Consumer, violation: Violation) {
    let mut payload = Vec::new();
    for _ in 0..3 {
        assert_eq!(consumer.try_recv(&mut payload), Err(TryRecvError::Violation(violation)));
        assert_eq!(consumer.try_peek().err(), Some(TryRecvError::Violation(violation)));
        match consumer.recv_deadline(&mut payload, None) {
            Err(RecvError::Violation(found)) => assert_eq!(found, violation),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn hostile_f90_a_tail_that_can_not_be_detaches_for_good() {
    let capacity = CAPACITY as u64;
    for tail in [4, 7, capacity + 8, capacity * 2, 1 << 63, u64::MAX, u64::MAX - 7] {
        let (mut consumer, memory, _bell) = against_producer();
        set(&memory, TAIL, tail);
        expect_detached(&mut consumer, Violation::Tail);
        set(&memory, TAIL, 0);
        expect_detached(&mut consumer, Violation::Tail);
    }
    let (mut consumer, memory, _bell) = against_producer();
    set(&memory, TAIL, 16);
    consumer.try_recv(&mut Vec::new()).expect("an empty record");
    consumer.try_recv(&mut Vec::new()).expect("another");
    set(&memory, TAIL, 8); // Backwards.
    expect_detached(&mut consumer, Violation::Tail);
}

#[test]
fn hostile_f90_a_head_that_can_not_be_detaches_for_good() {
    let capacity = CAPACITY as u64;
    for head in [4, 1001, capacity + 8, 1 << 63, u64::MAX, u64::MAX - 7] {
        let (mut producer, memory, _bell) = against_consumer();
        set(&memory, HEAD, head);
        // It is looked at when there would be no room.
        let error = loop {
            if let Err(error) = producer.try_send(&[1; 92]) {
                break error;
            }
        };
        let violation = Violation::Head;
        assert_eq!(error, TrySendError::Violation(violation), "{head}");
        set(&memory, HEAD, 0);
        assert_eq!(producer.try_send(b""), Err(TrySendError::Violation(violation)));
        assert_eq!(producer.try_reserve(5).err(), Some(TrySendError::Violation(violation)));
        match producer.send_deadline(b"", None) {
            Err(SendError::Violation(found)) => assert_eq!(found, violation),
            other => panic!("{other:?}"),
        }
    }
    let (mut producer, memory, _bell) = against_consumer();
    while producer.try_send(&[1; 92]).is_ok() {}
    set(&memory, HEAD, 800);
    while producer.try_send(&[1; 92]).is_ok() {}
    set(&memory, HEAD, 600); // Backwards.
    assert_eq!(producer.try_send(&[1; 92]), Err(TrySendError::Violation(Violation::Head)));
}

#[test]
fn hostile_f91_lengths_that_can_not_be_detach_for_good() {
    let max = CAPACITY as u64 / 2 - 8;
    // What stands at the front, how much is said to be there, and what that is.
    let cases = [
        (max + 1, CAPACITY as u64, Violation::Length),
        (9, 16, Violation::Length),
        (1, 8, Violation::Length),
        (1 << 32, CAPACITY as u64, Violation::Length),
        (u64::MAX - 1, CAPACITY as u64, Violation::Length),
        (u64::MAX, CAPACITY as u64, Violation::Wrap),
    ];
    for (length, tail, violation) in cases {
        let (mut consumer, memory, _bell) = against_producer();
        set(&memory, RECORDS, length);
        set(&memory, TAIL, tail);
        expect_detached(&mut consumer, violation);
    }
    // At the end: a record that would leave the memory, and marks that lead nowhere.
    let cases = [
        (100, CAPACITY as u64, Violation::Length),
        (u64::MAX, 8, Violation::Wrap),
        (u64::MAX, 16, Violation::Length), // A mark is followed by what is at the front: 3000.
    ];
    for (last, more, violation) in cases {
        let (mut consumer, memory, _bell) = against_producer();
        set(&memory, RECORDS, 2032);
        set(&memory, RECORDS + 2040, 2040);
        set(&memory, TAIL, 4088);
        consumer.try_recv(&mut Vec::new()).expect("a record");
        consumer.try_recv(&mut Vec::new()).expect("a record");
        set(&memory, RECORDS, 3000);
        set(&memory, RECORDS + 4088, last);
        set(&memory, TAIL, 4088 + more);
        expect_detached(&mut consumer, violation);
    }
}

#[test]
fn hostile_f91_what_changes_between_two_looks_is_looked_at_once() {
    let (mut consumer, memory, _bell) = against_producer();
    set(&memory, RECORDS, 16);
    set(&memory, TAIL, 4096);
    let record = consumer.try_peek().expect("a record");
    set(&memory, RECORDS, 1 << 40);
    set(&memory, TAIL, u64::MAX);
    assert_eq!((record.bytes().len(), record.to_vec().len()), (16, 16));
    record.release();
    assert_eq!(memory.atomic_u64(HEAD).expect("in it").load(Ordering::Relaxed), 24);
}

#[test]
fn hostile_scribbling_beside_every_call_ends_in_an_error_or_in_garbage() {
    let (producer, consumer) = ring::create(CAPACITY).expect("memory");
    let (handles, others) = (producer.into_handles(), consumer.into_handles());
    let twice = |handles: &[Handle; 2]| handles.each_ref().map(|h| h.try_clone().expect("one"));
    let mut producer = Producer::from_handles(twice(&handles), CAPACITY).expect("zeros");
    let mut consumer = Consumer::from_handles(twice(&others), CAPACITY).expect("zeros");
    let (memory, _bell) = raw(twice(&handles));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = 0x9e37_79b9_7f4a_7c15_u64;
            while !is_over.load(Ordering::Relaxed) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let places = [TAIL, HEAD, CONSUMER_WAIT, PRODUCER_WAIT, RECORDS, RECORDS + 1000];
                let place = places[usize::try_from(random >> 8 & 7).expect("small") % 6];
                let value = if random & 1 == 0 { random >> 50 << 3 } else { random };
                set(&memory, place, value);
            }
        });
        let mut payload = Vec::new();
        for round in 0..3000 {
            let _ = producer.try_send(&[1; 100][..round % 100]);
            let _ = producer.send_deadline(&[2; 1000], in_ms(0));
            let _ = consumer.try_recv(&mut payload);
            let _ = consumer.recv_deadline(&mut payload, in_ms(0));
            assert!(payload.len() <= CAPACITY / 2);
            // A side that has failed starts again, if the cursors allow.
            if let Ok(again) = Producer::from_handles(twice(&handles), CAPACITY) {
                producer = again;
            }
            if let Ok(again) = Consumer::from_handles(twice(&others), CAPACITY) {
                consumer = again;
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn hostile_f92_words_that_ask_for_a_wake_up_all_the_time_block_nobody() {
    for how in [1, 2, 3, u64::from(u32::MAX)] {
        // Nobody reads the bell that is rung.
        let (mut producer, memory, _bell) = against_consumer();
        for number in 1..3000_u64 {
            set(&memory, CONSUMER_WAIT, how);
            producer.try_send(b"").expect("room");
            set(&memory, HEAD, number * 8);
        }
    }
}

#[test]
fn hostile_f92_bells_that_ring_without_end_do_not_delay_a_deadline() {
    let (mut consumer, memory, bell) = against_producer();
    let is_over = AtomicBool::new(false);
    bell.set_nonblocking(true).expect("a socket");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let _ = std::io::Write::write(&mut &bell, &[0; 4096]);
                set(&memory, CONSUMER_WAIT, 0);
            }
        });
        for ms in [0, 5, 30] {
            let error = consumer.recv_deadline(&mut Vec::new(), in_ms(ms));
            assert!(matches!(error, Err(RecvError::TimedOut)), "{error:?}");
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn hostile_f93_a_consumer_that_takes_nothing_is_waited_for_until_the_deadline() {
    let (mut producer, _memory, _bell) = against_consumer();
    while producer.try_send(&[1; 500]).is_ok() {}
    assert_eq!(producer.try_send(&[1; 500]), Err(TrySendError::Full));
    let error = producer.send_deadline(&[1; 500], in_ms(25));
    assert!(matches!(error, Err(SendError::TimedOut)), "{error:?}");
    let error = producer.reserve_deadline(500, in_ms(0)).map(drop);
    assert!(matches!(error, Err(SendError::TimedOut)), "{error:?}");
}

/// Any sealed memory in the place of a ring's.
fn sealed(bytes: usize, fill: impl FnOnce(&SharedMemory)) -> Handle {
    let memory = SharedMemory::create(bytes).expect("memory");
    fill(&memory);
    memory.into()
}

#[test]
fn hostile_handles_make_no_half() {
    let (producer, consumer) = ring::create(CAPACITY).expect("memory");
    let (good, _bell) = raw(consumer.into_handles());
    let magic = good.atomic_u64(0).expect("in it").load(Ordering::Relaxed);
    let capacity = CAPACITY as u64;
    let bell = || Handle::from(UnixStream::pair().expect("sockets").0);
    let memory = |magic: u64, capacity: u64, tail: u64, head: u64, bytes: usize| {
        sealed(bytes, |memory| {
            for (offset, value) in [(0, magic), (8, capacity), (TAIL, tail), (HEAD, head)] {
                set(memory, offset, value);
            }
        })
    };
    let all = RECORDS + CAPACITY;
    let right = |tail, head| memory(magic, capacity, tail, head, all);
    let listener = || {
        let name = format!("ipc-core-ring-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        Handle::from(UnixListener::bind_addr(&address).expect("a listener"))
    };
    let cases: Vec<(&str, Vec<Handle>)> = vec![
        ("none", vec![]),
        ("memory only", vec![right(0, 0)]),
        ("the other way round", vec![bell(), right(0, 0)]),
        ("another magic", vec![memory(magic ^ 1, capacity, 0, 0, all), bell()]),
        ("another version", vec![memory(magic ^ (3 << 56), capacity, 0, 0, all), bell()]),
        ("another capacity", vec![memory(magic, capacity * 2, 0, 0, all), bell()]),
        ("no power of two", vec![memory(magic, 4104, 0, 0, RECORDS + 4104), bell()]),
        ("too little for a ring", vec![memory(magic, 8, 0, 0, 1000), bell()]),
        ("no room for records", vec![memory(magic, 0, 0, 0, RECORDS), bell()]),
        ("more than allowed", vec![memory(magic, 8192, 0, 0, RECORDS + 8192), bell()]),
        ("cursors too far apart", vec![right(capacity + 8, 0), bell()]),
        ("cursors in the wrong order", vec![right(0, 8), bell()]),
        ("cursors in a word", vec![right(12, 8), bell()]),
        ("a listener for a bell", vec![right(0, 0), listener()]),
        ("a lie for a bell", vec![right(0, 0), right(0, 0).announced(HandleKind::UnixStream)]),
    ];
    for (name, handles) in cases {
        let twice: Vec<_> = handles.iter().map(|h| h.try_clone().expect("a handle")).collect();
        let error = Producer::from_handles(handles, CAPACITY).expect_err(name);
        eprintln!("{name}: {error}");
        Consumer::from_handles(twice, CAPACITY).expect_err(name);
    }
    let frozen = ipc_core::shm::FrozenMemory::create(all, |_| {}).expect("memory");
    let error = Consumer::from_handles([frozen.into(), bell()], CAPACITY).expect_err("read-only");
    assert!(matches!(error, AttachError::Memory(MemoryError::ReadOnly)), "{error:?}");
    let mut consumer = Consumer::from_handles([right(8, 0), bell()], CAPACITY).expect("a ring");
    consumer.recv_deadline(&mut Vec::new(), soon()).expect("an empty record");
    // A half that is not in order leaves the memory alone.
    drop(producer);
    let _: OwnedFd = Handle::from(good).into_type().expect("any kind");
}
