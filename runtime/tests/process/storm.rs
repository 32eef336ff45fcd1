//! Very many children that are started and ended in all ways, at random: nothing is left of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal as SystemSignal, kill};
use nix::unistd::Pid;
use runtime::Exit;
use runtime::process::{
    CancelToken, Child, ChildHandle, ChildId, Children, Command, Event, Failure, KillReason,
    OutputStream, Signal, Stdio, Step, become_subreaper,
};

use crate::harness::tools::{DEADLINE, wait_until};
use crate::harness::{children, roles, tests};
use crate::support::role;

tests! {
    children_that_are_started_and_ended_at_random_leave_nothing,
    children_of_one_thread_tell_their_ends_once,
}
roles! {}

/// How many children there are; `PROCESS_STORM` sets another number, and `PROCESS_SEED` the seed.
const CHILDREN: u64 = 600;
const THREADS: u64 = 4;

/// How many children of a thread are alive at once, at most.
const ALIVE_MAX: usize = 8;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// SplitMix64: the same seed, the same storm.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).expect("small")]
    }
}

/// An argument by which the processes of this test are known, and that they sleep for.
fn long() -> String {
    format!("10{}.25", std::process::id())
}

fn sleep() -> Command {
    let mut command = Command::new("sleep");
    command.arg(long()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A shell with children of its own.
fn shell() -> Command {
    let mut command = Command::new("sh");
    let line = format!("sleep {0} & sleep {0} & sleep {0}", long());
    command.args(["-c", &line]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn deadline() -> Instant {
    Instant::now() + DEADLINE
}

fn ended_by(signal: Signal) -> Exit {
    Exit::Signal { signal: signal.number(), core_dumped: false }
}

/// A child that runs, and what shall become of it.
struct Running {
    child: Child,
    end: End,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Signal,
    Tree,
    Timeout,
    TimeoutThenForce,
    Cancel,
    KillOnDrop,
    /// It runs on, and ends by itself.
    Drop,
    CloseInput,
    Echo,
    /// By somebody who knows its number.
    Stranger,
    Stop,
    ByItself,
    /// It was not to be found.
    Missing,
    /// It writes more than is collected.
    TooMuch,
    /// After some messages.
    Disconnect,
    /// With messages on their way.
    KillTalking,
}

const ENDS: [End; 16] = [
    End::Signal,
    End::Tree,
    End::Timeout,
    End::TimeoutThenForce,
    End::Cancel,
    End::KillOnDrop,
    End::Drop,
    End::CloseInput,
    End::Echo,
    End::Stranger,
    End::Stop,
    End::ByItself,
    End::Missing,
    End::TooMuch,
    End::Disconnect,
    End::KillTalking,
];

const SIGNALS: [Signal; 5] = [Signal::TERM, Signal::KILL, Signal::INT, Signal::HUP, Signal::ALRM];

/// Starts a child; `None` if it is one that can't be.
fn start(end: End, chance: &mut Chance, token: &CancelToken) -> Option<Running> {
    let mut cat = Command::new("cat");
    cat.stderr(Stdio::null());
    let mut command = match end {
        End::Signal | End::KillOnDrop | End::Stranger | End::Stop => sleep(),
        End::Tree => shell(),
        End::Timeout | End::Cancel => chance.of(&[sleep, shell])(),
        End::TimeoutThenForce => {
            let mut command = Command::new("sh");
            // The shell is deaf, and what it starts too.
            command.args(["-c", &format!("trap '' TERM; exec sleep {}", long())]);
            command.stdout(Stdio::null()).stdin(Stdio::null());
            command
        }
        End::Drop => chance.of(&[|| Command::new("cat"), || Command::new("true")])(),
        End::CloseInput | End::Echo => cat,
        End::ByItself => Command::new("true"),
        End::Disconnect | End::KillTalking => role("fork_echo", &[]),
        End::Missing => {
            let mut command = Command::new("no-such-program");
            command.env("PATH", "/usr/bin:/bin");
            command
        }
        End::TooMuch => {
            let result =
                Command::shell(format!("yes; sleep {}", long())).max_buffer(5000).exec_sync();
            let error = result.expect_err("it has no end");
            assert!(matches!(error.failure(), Failure::MaxBuffer(OutputStream::Stdout)));
            assert_eq!(error.stdout().len(), 5000);
            return None;
        }
    };
    match end {
        End::Tree => match chance.below(3) {
            0 => {
                command.process_group(0);
            }
            1 => {
                command.detached();
            }
            _ => {}
        },
        End::Timeout | End::TimeoutThenForce => {
            command.timeout(Duration::from_millis(chance.below(30)));
            command.kill_after(Duration::from_millis(5));
        }
        End::Cancel => {
            command.cancel_with(token);
        }
        End::KillOnDrop => {
            command.kill_on_drop(true);
        }
        _ => {}
    }
    let has_channel = matches!(end, End::Disconnect | End::KillTalking);
    match if has_channel { command.fork() } else { command.spawn() } {
        Ok(child) => Some(Running { child, end }),
        Err(error) => {
            assert!(matches!(end, End::Missing), "{error}");
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert_eq!(error.step(), &Step::Execute("no-such-program".into()));
            None
        }
    }
}

fn finish(running: Running, chance: &mut Chance, token: &CancelToken) {
    let Running { mut child, end } = running;
    match end {
        End::Signal => {
            let signal = chance.of(&SIGNALS);
            assert!(child.kill(signal).unwrap());
            assert_eq!(child.wait().unwrap(), ended_by(signal));
        }
        End::Tree => {
            assert!(child.kill_tree(Signal::KILL).unwrap() > 0);
            assert_eq!(child.wait().unwrap(), ended_by(Signal::KILL));
        }
        End::Timeout | End::TimeoutThenForce => {
            let exit = child.wait().unwrap();
            // Who is deaf may not have come so far as to be; who is not, may be slow to end.
            assert!([Signal::TERM, Signal::KILL].map(ended_by).contains(&exit), "{exit:?}");
            assert_eq!(child.kill_reason(), Some(KillReason::Timeout));
            child.kill_tree(Signal::KILL).unwrap();
        }
        End::Cancel => {
            token.cancel();
            assert_eq!(child.wait().unwrap(), ended_by(Signal::TERM));
            assert_eq!(child.kill_reason(), Some(KillReason::Cancelled));
            child.kill_tree(Signal::KILL).unwrap();
        }
        End::KillOnDrop | End::Drop => drop(child),
        End::CloseInput => {
            drop(child.stdin.take());
            assert_eq!(child.wait().unwrap(), Exit::Code(0));
        }
        End::Stranger => {
            kill(Pid::from_raw(child.pid().cast_signed()), SystemSignal::SIGKILL).unwrap();
            assert_eq!(child.wait().unwrap(), ended_by(Signal::KILL));
            assert!(!child.kill(Signal::TERM).unwrap());
        }
        End::Stop => {
            child.kill(Signal::from_number(libc::SIGSTOP).expect("it is one")).unwrap();
            assert_eq!(child.try_wait().unwrap(), None);
            assert!(child.is_alive());
            assert!(child.kill(Signal::KILL).unwrap());
            assert_eq!(child.wait().unwrap(), ended_by(Signal::KILL));
        }
        End::Echo | End::Disconnect | End::KillTalking => talk(child, end, chance),
        End::ByItself | End::Missing | End::TooMuch => {
            assert_eq!(child.wait().unwrap(), Exit::Code(0))
        }
    }
}

/// Ends a child that reads and writes.
fn talk(mut child: Child, end: End, chance: &mut Chance) {
    match end {
        End::Echo => {
            let text = vec![b'x'; usize::try_from(chance.below(50_000)).expect("small")];
            let mut input = child.stdin.take().expect("a pipe");
            input.write_all(&text).unwrap();
            drop(input);
            let mut output = Vec::new();
            child.stdout.take().expect("a pipe").read_to_end(&mut output).unwrap();
            assert_eq!(output, text);
            assert_eq!(child.wait().unwrap(), Exit::Code(0));
        }
        End::Disconnect => {
            for number in 0..chance.below(4) {
                child.send(number.to_string()).unwrap();
                let echo = child.recv_deadline(deadline()).unwrap();
                assert_eq!(echo.bytes, number.to_string().as_bytes());
            }
            child.disconnect().unwrap();
            assert_eq!(child.wait().unwrap(), Exit::Code(0));
        }
        End::KillTalking => {
            for _ in 0..chance.below(4) {
                child.send(vec![0; 10_000]).unwrap();
            }
            assert!(child.kill(Signal::KILL).unwrap());
            assert_eq!(child.wait().unwrap(), ended_by(Signal::KILL));
        }
        _ => unreachable!("{end:?} is silent"),
    }
}

fn storm(mut chance: Chance, count: u64) {
    let mut alive = Vec::new();
    let mut token = CancelToken::new();
    let mut started = 0;
    while started < count || !alive.is_empty() {
        let is_full = alive.len() == ALIVE_MAX || started == count;
        if is_full || (!alive.is_empty() && chance.below(3) == 0) {
            let at = usize::try_from(chance.below(alive.len() as u64)).expect("small");
            finish(alive.swap_remove(at), &mut chance, &token);
            if token.is_cancelled() {
                // Who has this token is ended by now, or will be.
                for running in alive.extract_if(.., |r: &mut Running| matches!(r.end, End::Cancel))
                {
                    finish(running, &mut chance, &token);
                }
                token = CancelToken::new();
            }
        } else {
            started += 1;
            let end = chance.of(&ENDS);
            alive.extend(start(end, &mut chance, &token));
        }
    }
}

/// All processes of this test, whoever their parents are.
fn stragglers() -> Vec<String> {
    let mark = long();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let path = entry.path();
        let text = fs::read_to_string(Path::new(&path).join("cmdline")).unwrap_or_default();
        if text.contains(&mark) {
            found.push(format!("{}: {}", path.display(), text.replace('\0', " ")));
        }
    }
    found
}

fn children_that_are_started_and_ended_at_random_leave_nothing() {
    // What shells start has no other parent when they are killed.
    become_subreaper().unwrap();
    let (count, seed) = (setting("PROCESS_STORM", CHILDREN), setting("PROCESS_SEED", 5));
    let together = Barrier::new(usize::try_from(THREADS).expect("small"));
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (chance, together) = (Chance(seed.wrapping_add(number << 32)), &together);
            scope.spawn(move || {
                together.wait();
                storm(chance, count / THREADS);
            });
        }
    });
    wait_until("all were collected", || children().is_empty());
    assert_eq!(stragglers(), [""; 0]);
}

/// What one child of the thread has told.
#[derive(Default)]
struct Told {
    exit: Option<Exit>,
    is_spawned: bool,
    is_closed: bool,
}

impl Told {
    /// Checks the order.
    fn hear(&mut self, event: &Event) {
        assert!(!self.is_closed, "{event:?} after the last");
        match event {
            Event::Spawned { .. } => {
                assert!(!std::mem::replace(&mut self.is_spawned, true), "twice spawned");
            }
            Event::Exited(exit) => {
                assert!(self.is_spawned);
                assert_eq!(self.exit.replace(*exit), None, "ended twice");
            }
            Event::Closed(exit) => {
                assert_eq!(self.exit, Some(*exit));
                self.is_closed = true;
            }
            Event::Killed(_) => {}
            event => panic!("unexpected {event:?}"),
        }
    }
}

/// Has a child end that was just started, and that nothing else ends.
fn end(handle: &ChildHandle, chance: &mut Chance) {
    match chance.below(4) {
        0 => assert!(handle.kill(chance.of(&SIGNALS)).unwrap()),
        1 => assert_eq!(handle.kill_tree(Signal::KILL).unwrap(), 1),
        2 => {
            let pid = Pid::from_raw(handle.pid().cast_signed());
            kill(pid, SystemSignal::SIGKILL).unwrap();
        }
        _ => drop(handle.take_stdin()),
    }
}

fn children_of_one_thread_tell_their_ends_once() {
    let (count, seed) = (setting("PROCESS_STORM", CHILDREN) / 2, setting("PROCESS_SEED", 5));
    let mut chance = Chance(seed);
    let children = Children::start().unwrap();
    let mut alive: BTreeMap<ChildId, (ChildHandle, Told, bool)> = BTreeMap::new();
    let mut started = 0;
    while started < count || !alive.is_empty() {
        if started < count && alive.len() < 4 * ALIVE_MAX {
            started += 1;
            let mut command = Command::new("cat");
            let ends_by_itself = chance.below(4) == 0;
            if ends_by_itself {
                command.timeout(Duration::from_millis(chance.below(20)));
            }
            let handle = children.spawn(&mut command).unwrap();
            alive.insert(handle.id(), (handle, Told::default(), ends_by_itself));
            continue;
        }
        let (id, event) = children.events().recv_timeout(DEADLINE).unwrap();
        let (handle, told, ends_by_itself) =
            alive.get_mut(&id).expect("it is alive, or was closed");
        told.hear(&event);
        if matches!(event, Event::Spawned { .. }) && !*ends_by_itself {
            end(handle, &mut chance);
        }
        if told.is_closed {
            alive.remove(&id);
        }
    }
    assert!(children.is_empty());
    assert!(children.events().is_empty());
}
