//! F92: either side of a ring is killed at every step of a call, and the other side goes on.
//!
//! The child makes one call, instruction by instruction (`ptrace`), while we look at the ring's
//! memory after each: every state that it goes through is one in which the child is killed once. So
//! no step is forgotten, and the code under test knows nothing of it.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod util;

use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use handle_passing::Handle;
use ipc_core::shm::SharedMemory;
use ipc_core::shm::ring::{
    self, Consumer, Producer, RecvError, SendError, TryRecvError, TrySendError,
};
use ipc_core::{Channel, Message};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};
use util::{in_thread, in_time, recv, role_channel, soon, spawn, this_binary, wait};

const CAPACITY: usize = 4096;
const TAIL: usize = 128;
const HEAD: usize = 256;
const CONSUMER_WAIT: usize = 384;
const PRODUCER_WAIT: usize = 512;
/// More instructions than any call has.
const STEPS_MAX: usize = 1_000_000;

/// What is sent: each word of it differs from the zeros that were there.
const RECORD: [u8; 44] = [7; 44];

/// A child that makes one call on its half of a ring, when told to.
struct Victim {
    child: Child,
    thread: Pid,
    memory: SharedMemory,
}

impl Victim {
    /// Starts the child, and brings it to the beginning of its call. `None` if this system lets
    /// nobody trace.
    fn start(role: &str, handles: [Handle; 2]) -> Option<Self> {
        let memory = handles[0].try_clone().expect("a handle");
        let memory = SharedMemory::open(memory, 1 << 20).expect("a ring's memory");
        let (mut channel, child) = spawn(this_binary(), role);
        let mut message = Message::new(0, []);
        message.handles = Vec::from(handles).into();
        channel.send_deadline(message, soon()).expect("it is read");
        let thread = recv(&mut channel).payload;
        let thread = Pid::from_raw(i32::from_le_bytes(thread.try_into().expect("four bytes")));
        let mut victim = Self { child, thread, memory };
        match ptrace::attach(thread) {
            Err(Errno::EPERM | Errno::ENOSYS) => {
                eprintln!("skipped: tracing is not allowed here");
                victim.child.kill().expect("our child");
                wait(&mut victim.child);
                return None;
            }
            attached => attached.expect("our child"),
        }
        victim.expect_stop(Signal::SIGSTOP);
        channel.send_deadline(Message::new(0, "go"), soon()).expect("it is read");
        ptrace::cont(thread, None).expect("it has stopped");
        victim.expect_stop(Signal::SIGTRAP); // Its own, before the call.
        Some(victim)
    }

    /// Runs the call until the memory has changed so many times, and says whether it has, before
    /// the call was over.
    fn run(&self, changes: usize) -> bool {
        let mut before = self.look();
        let mut seen = 0;
        for _ in 0..STEPS_MAX {
            if seen == changes {
                return true;
            }
            ptrace::step(self.thread, None).expect("it has stopped");
            self.expect_stop(Signal::SIGTRAP);
            let code = ptrace::getsiginfo(self.thread).expect("it has stopped").si_code;
            if code == nix::libc::SI_TKILL {
                return false; // Its own, after the call.
            }
            let now = self.look();
            seen += usize::from(now != before);
            before = now;
        }
        panic!("the call has no end");
    }

    fn kill(mut self) {
        self.child.kill().expect("our child");
        while !matches!(
            waitpid(self.thread, Some(WaitPidFlag::__WALL)),
            Ok(WaitStatus::Signaled(..)) | Err(Errno::ECHILD)
        ) {}
        // The one that was traced may have been the process itself.
        match self.child.try_wait() {
            Err(_) => {}
            Ok(_) => assert_eq!(wait(&mut self.child).signal(), Some(Signal::SIGKILL as i32)),
        }
    }

    /// Cursors, wait words, and the first records.
    fn look(&self) -> Vec<u64> {
        let offsets = (TAIL..640).step_by(8).chain((4096..4096 + 128).step_by(8));
        offsets.map(|offset| self.word(offset)).collect()
    }

    fn word(&self, offset: usize) -> u64 {
        self.memory.atomic_u64(offset).expect("in the memory").load(Ordering::SeqCst)
    }

    #[track_caller]
    fn expect_stop(&self, signal: Signal) {
        match waitpid(self.thread, Some(WaitPidFlag::__WALL)).expect("our child's") {
            WaitStatus::Stopped(_, found) => assert_eq!(found, signal),
            other => panic!("{other:?}"),
        }
    }
}

/// In the child: gets the handles, and says who is to be traced.
fn victim() -> Option<[Handle; 2]> {
    let mut channel: Channel = role_channel()?;
    let handles: Vec<Handle> = recv(&mut channel).handles.into_iter().collect();
    let thread = gettid().as_raw().to_le_bytes();
    channel.send_deadline(Message::new(0, thread), soon()).expect("it is read");
    recv(&mut channel);
    Some(handles.try_into().expect("two"))
}

fn mark() {
    raise(Signal::SIGTRAP).expect("we are traced");
}

#[test]
fn role_sends() {
    let Some(handles) = victim() else { return };
    let mut producer = Producer::from_handles(handles, CAPACITY).expect("a ring");
    mark();
    let sent = producer.try_send(&RECORD);
    mark();
    sent.expect("room");
}

#[test]
fn role_receives() {
    let Some(handles) = victim() else { return };
    let mut consumer = Consumer::from_handles(handles, CAPACITY).expect("a ring");
    let mut payload = Vec::with_capacity(4096);
    mark();
    let received = consumer.try_recv(&mut payload);
    mark();
    received.expect("a record");
}

#[test]
fn role_waits() {
    let Some(mut channel) = role_channel() else { return };
    let mut handles: Vec<Handle> = recv(&mut channel).handles.into_iter().collect();
    let producer = handles.split_off(2);
    let mut consumer = Consumer::from_handles(handles, CAPACITY).expect("a ring");
    let mut producer = Producer::from_handles(producer, CAPACITY).expect("a ring");
    channel.send_deadline(Message::new(0, "about to wait"), soon()).expect("it is read");
    let waits = in_thread(move || producer.send_deadline(&[1; 1000], None).is_ok());
    let _ = consumer.recv_deadline(&mut Vec::new(), None);
    in_time(&waits);
}

#[test]
fn f92_a_producer_killed_at_any_step_of_a_send_loses_what_it_had_not_committed() {
    for is_waiting in [false, true] {
        let mut steps = 0;
        loop {
            let (producer, mut consumer) = ring::create(CAPACITY).expect("memory");
            let Some(victim) = Victim::start("role_sends", producer.into_handles()) else { return };
            let (start, started) = mpsc::channel();
            let receiving = in_thread(move || {
                started.recv().expect("it is started");
                receive_all(&mut consumer)
            });
            if is_waiting {
                start.send(()).expect("it waits for this");
                while victim.word(CONSUMER_WAIT) == 0 {
                    std::thread::yield_now(); // Until it says that it waits.
                }
            }
            let was_killed_inside = victim.run(steps);
            let committed = victim.word(TAIL) > 0;
            victim.kill();
            let _ = start.send(());
            let found = in_time(&receiving);
            assert_eq!(found, vec![RECORD.to_vec(); usize::from(committed)], "step {steps}");
            if !was_killed_inside {
                break;
            }
            steps += 1;
        }
        // Six words of payload, the length, the tail, and of who waits the word.
        assert!(steps >= 8 + usize::from(is_waiting), "{steps} steps were seen");
    }
}

/// All records until the end, which there must be.
fn receive_all(consumer: &mut Consumer) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let mut payload = Vec::new();
    loop {
        match consumer.recv_deadline(&mut payload, soon()) {
            Ok(()) => records.push(payload.clone()),
            Err(RecvError::Closed) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(consumer.peek_deadline(None).err().map(|e| e.to_string()).as_deref(), Some(GONE));
    let polled = (0..2000).any(|_| consumer.try_recv(&mut payload) == Err(TryRecvError::Closed));
    assert!(polled, "who only looks finds out too");
    records
}

const GONE: &str = "the producer is gone";

#[test]
fn f92_a_consumer_killed_at_any_step_of_a_receive_is_noticed_by_the_producer() {
    let mut steps = 0;
    loop {
        let (mut producer, consumer) = ring::create(CAPACITY).expect("memory");
        while producer.try_send(&RECORD).is_ok() {}
        let handles = consumer.into_handles();
        let Some(victim) = Victim::start("role_receives", handles) else { return };
        let waiting = in_thread(move || {
            let mut sent = 0;
            loop {
                match producer.send_deadline(&RECORD, soon()) {
                    Ok(()) => sent += 1,
                    Err(SendError::Closed) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            let closed = (0..2000).any(|_| producer.try_send(&RECORD) == Err(TrySendError::Closed));
            assert!(closed, "who only tries finds out too");
            sent
        });
        while victim.word(PRODUCER_WAIT) == 0 {
            std::thread::yield_now(); // Until it says that it waits.
        }
        let was_killed_inside = victim.run(steps);
        let released = victim.word(HEAD) > 0;
        victim.kill();
        assert_eq!(in_time(&waiting), usize::from(released), "step {steps}");
        if !was_killed_inside {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 2, "{steps} steps were seen: the head, and who waits");
}

#[test]
fn f92_sides_killed_asleep_are_noticed() {
    let (mut producer, consumer) = ring::create(CAPACITY).expect("memory");
    let (full, mut other_consumer) = ring::create(CAPACITY).expect("memory");
    let mut full = full;
    while full.try_send(&[1; 1000]).is_ok() {}
    let (mut channel, mut child) = spawn(this_binary(), "role_waits");
    let handles = consumer.into_handles().into_iter().chain(full.into_handles());
    let mut message = Message::new(0, []);
    message.handles = handles.collect::<Vec<_>>().into();
    channel.send_deadline(message, soon()).expect("it is read");
    recv(&mut channel);
    child.kill().expect("our child");
    assert_eq!(wait(&mut child).signal(), Some(Signal::SIGKILL as i32));

    assert!(producer.is_closed().expect("a socket"));
    loop {
        match producer.send_deadline(&[2; 1000], soon()) {
            Ok(()) => {}
            Err(SendError::Closed) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let records = receive_all(&mut other_consumer);
    assert!(records.len() == 4 && records.iter().all(|record| record == &[1; 1000]));
}
