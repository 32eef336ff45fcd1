//! The core under loom, which runs every order of the two sides' steps, and shows each load every
//! value that the memory model lets it see. A wake-up that is lost is a deadlock here, because
//! these sleeps have no end. `ci/loom.sh` runs it.
//!
//! Loads that see values of the future are not among what loom shows, so it would not find that a
//! record could be overwritten before it was read; the comments in the core say why it can't.

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::layout::{Control, Slot, View};
use super::primitive::{AtomicU32, AtomicU64, Ordering};
use super::wait::{ASLEEP, Wake, arm, disarm};
use super::{Attempt, ConsumerCore, ForRecord, ForRoom, ProducerCore, read, write};

/// A ring so small that most things happen soon: four words.
#[derive(Default)]
struct Ring {
    control: Control,
    words: [AtomicU64; 4],
    consumer: Sleeper,
    producer: Sleeper,
}

/// A futex: what the word holds is looked at under a lock that who wakes takes too.
#[derive(Default)]
struct Sleeper {
    lock: Mutex<()>,
    woken: Condvar,
}

impl Sleeper {
    fn sleep(&self, word: &AtomicU32, expected: u32) {
        let guard = self.lock.lock().unwrap();
        if word.load(Ordering::Relaxed) == expected {
            drop(self.woken.wait(guard).unwrap());
        }
    }

    fn wake(&self, wake: Wake) {
        if wake != Wake::Nothing {
            drop(self.lock.lock().unwrap());
            self.woken.notify_one();
        }
    }

    /// As the ring does it, without the spinning and without the deadline.
    fn wait(&self, mut side: impl Attempt) -> Slot {
        loop {
            if let Some(slot) = side.attempt().unwrap() {
                return slot;
            }
            arm(side.wait_word(), ASLEEP);
            let slot = side.attempt().unwrap();
            if slot.is_none() {
                self.sleep(side.wait_word(), ASLEEP);
            }
            disarm(side.wait_word());
            if let Some(slot) = slot {
                return slot;
            }
        }
    }
}

impl Ring {
    fn view(&self) -> View<'_> {
        View { control: &self.control, words: &self.words }
    }

    fn send(&self, payloads: &[&[u8]]) {
        let view = self.view();
        let mut core = ProducerCore::attach(view).unwrap();
        for payload in payloads {
            let payload_bytes = payload.len();
            let slot = self.producer.wait(ForRoom { core: &mut core, view, payload_bytes });
            write(view, &slot, payload);
            self.consumer.wake(core.commit(view, &slot));
        }
    }

    fn recv(&self, payloads: &[&[u8]]) {
        let view = self.view();
        let mut core = ConsumerCore::attach(view).unwrap();
        for expected in payloads {
            let slot = self.consumer.wait(ForRecord { core: &mut core, view });
            let mut payload = Vec::new();
            read(view, &slot, &mut payload);
            self.producer.wake(core.release(view, &slot));
            assert_eq!(&payload, expected);
        }
    }
}

fn check(payloads: &'static [&'static [u8]]) {
    loom::model(move || {
        let ring = Arc::new(Ring::default());
        let theirs = Arc::clone(&ring);
        let producer = thread::spawn(move || theirs.send(payloads));
        ring.recv(payloads);
        producer.join().unwrap();
    });
}

#[test]
fn f92_who_waits_for_a_record_is_woken() {
    check(&[b"first"]);
    check(&[b"", b"second"]);
}

#[test]
fn f92_who_waits_for_room_is_woken_and_overwrites_nothing_unread() {
    check(&[b"12345678", b"abcdefgh", b"!"]);
}

#[test]
fn records_that_begin_at_the_front_again_arrive() {
    check(&[b"", b"12345678", b"abcdefgh"]);
}
