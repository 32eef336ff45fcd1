//! The master's state machine: in the simulator, with the bytes as its chance, and on its own, with
//! inputs that no shell would give it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use runtime::machine::{
    Config, Counters, FromWorker, Input, ListenerId, Machine, MailboxId, Order, Output, Refusal,
    RestartPolicy, Time, ToWorker,
};
use runtime::sim::{self, Source, Token};
use runtime::{Address, Dispatch, Exit, ListenOptions, WorkerId};
use scheduler::{Policy, RoundRobin};

/// The first byte chooses; the rest is the simulator's chance, or a list of inputs.
pub fn machine(data: &[u8]) {
    match data {
        [] => {}
        [choice, rest @ ..] if choice % 2 == 0 => {
            if let Err(violation) = sim::run(Source::bytes(rest)) {
                panic!("{violation}");
            }
        }
        [_, rest @ ..] => nonsense(rest),
    }
}

/// How many slots there are at first, and at most.
const SLOTS: usize = 3;
const SLOTS_MAX: usize = 5;

/// Four bytes are an input: the time since the one before, which input it is, whom it concerns, and
/// a number. No panic, no connection dropped, outputs in proportion to inputs, one end.
fn nonsense(data: &[u8]) {
    let mut world = World::new();
    for (number, step) in data.chunks_exact(4).enumerate() {
        world.pass(step[0]);
        if step[1] == 255 {
            world.machine.handle_timeout(world.now);
        } else {
            let input = world.input(step[1], step[2], step[3]);
            world.machine.handle(world.now, input);
        }
        world.drain();
        assert_eq!(world.dropped.get(), 0, "connections were dropped without a word");
        let outputs = world.outputs;
        // In the worst case an input concerns each mailbox of each listener.
        let most = (number + 1) * 4 * SLOTS_MAX * (1 + world.listeners);
        assert!(outputs <= most, "{outputs} outputs after {} inputs", number + 1);
    }
}

struct World {
    machine: Machine<Token>,
    now: Time,
    /// What the machine told and asked: the workers in the slots, the protocol's version.
    workers: [WorkerId; SLOTS_MAX],
    version: u16,
    listeners: usize,
    connections: usize,
    dropped: Rc<Cell<usize>>,
    outputs: usize,
    is_finished: bool,
}

impl World {
    fn new() -> World {
        let config = Config {
            weights: vec![1; SLOTS],
            dispatch: Dispatch::Handoff,
            dispatch_auto: Dispatch::Handoff,
            rotates_by_weight: true,
            restart: RestartPolicy::default(),
            start_timeout: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(1),
            kill_timeout: Duration::from_millis(100),
            stall_timeout: Duration::from_millis(100),
            ends_when_empty: false,
            seed: 1,
        };
        let policy = || -> Box<dyn Policy> { Box::new(RoundRobin::new()) };
        World {
            machine: Machine::new(config, Box::new(policy)),
            now: Duration::ZERO,
            workers: std::array::from_fn(|slot| WorkerId { slot, generation: 0 }),
            version: 0,
            listeners: 0,
            connections: 0,
            dropped: Rc::default(),
            outputs: 0,
            is_finished: false,
        }
    }

    fn pass(&mut self, pause: u8) {
        let until = match pause {
            0..=199 => self.now.saturating_add(Duration::from_millis(pause.into())),
            200..=252 => self.now.saturating_add(Duration::from_secs(u64::from(pause) - 199)),
            253 => Duration::MAX,
            254 | 255 => self.machine.next_timeout().unwrap_or_default(),
        };
        self.now = self.now.max(until);
    }

    fn input(&mut self, kind: u8, whom: u8, number: u8) -> Input<Token> {
        let (worker, listener) = (self.worker(whom), ListenerId((whom % 4).into()));
        // A slot out of range would be a bug of the shell's, and is none that it has.
        let mailbox = MailboxId { listener, slot: usize::from(whom / 4) % SLOTS };
        let message = |message| Input::Message { worker, message };
        let error = String::from("an error");
        match kind % 28 {
            0 => Input::Start,
            1 => Input::Shutdown,
            2 => Input::Spawned { worker, pid: number.into() },
            3 => Input::SpawnFailed { worker, error, transient: number.is_multiple_of(2) },
            4 => message(FromWorker::Online { version: self.version + u16::from(number / 200) }),
            5 | 6 => {
                let (request, index) = (u32::from(number), u16::from(number / 128));
                let (options, address) = (ListenOptions::new(), address(number));
                message(FromWorker::Listen { request, index, options, address })
            }
            7 => message(FromWorker::Close { listener: u32::from(number % 4) }),
            8 => Input::Violation { worker },
            9 => Input::ChannelClosed { worker },
            10 => Input::Exited { worker, exit: Exit::Code(i32::from(number)) },
            11 => Input::Exited { worker, exit: Exit::Unknown },
            12 => Input::ListenerOpened {
                listener,
                address: address(number),
                dispatch: [Dispatch::Handoff, Dispatch::Shared, Dispatch::Steered]
                    [usize::from(number / 3 % 3)],
                reason: None,
            },
            13 => Input::ListenerFailed { listener, errno: i32::from(number), error },
            14 | 15 => {
                let (connection, key) = self.token();
                Input::Accepted { listener, connection, key }
            }
            16 => Input::ListenerDry { listener },
            17 => Input::Shed { listener, connections: large(number) },
            18 => Input::Delivered { mailbox },
            19 => {
                let (connection, key) = self.token();
                let refusal = if number.is_multiple_of(2) { Refusal::Full } else { Refusal::Busy };
                Input::Refused { mailbox, connection, key, refusal }
            }
            20 => Input::Room { mailbox },
            21 => {
                let waiting = u32::try_from(large(number)).unwrap_or(u32::MAX);
                Input::Counted { mailbox, waiting }
            }
            22 => {
                let (connection, key) = self.token();
                Input::TakenBack { mailbox, connection, key }
            }
            23 => Input::Order(order(worker, whom, number)),
            24 => message(FromWorker::Disconnect),
            25 => match number % 3 {
                0 => Input::Emptied { mailbox },
                1 => Input::TakeBackFailed { mailbox },
                _ => Input::Exhausted { listener },
            },
            26 => message(FromWorker::Passed { listener: u32::from(number % 4) }),
            _ => {
                let slots = vec![counters(whom, number); usize::from(whom % 8)];
                Input::Counters { listener, slots }
            }
        }
    }

    /// The worker in a slot, or another that there was, will be, or could not be.
    fn worker(&self, whom: u8) -> WorkerId {
        let slot = usize::from(whom) % (SLOTS_MAX + 1);
        let current = self.workers.get(slot).map_or(0, |worker| worker.generation);
        let generation = match whom / 64 {
            0 | 1 => current,
            2 => current.wrapping_sub(1),
            _ => current.wrapping_add(1),
        };
        WorkerId { slot, generation }
    }

    fn token(&mut self) -> (Token, u64) {
        self.connections += 1;
        let key = self.connections as u64;
        (Token::new(self.connections, key, &self.dropped), key)
    }

    fn drain(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            self.outputs += 1;
            assert!(!self.is_finished || matches!(output, Output::Close { .. }), "{output:?}");
            match output {
                Output::Deliver { connection, key, .. } => {
                    assert_eq!(connection.into_parts().1, key, "a key stays with its connection");
                }
                Output::Close { connection } => drop(connection.into_parts()),
                Output::Finished { .. } => self.is_finished = true,
                Output::Spawn { worker } => self.workers[worker.slot] = worker,
                Output::Tell { message: ToWorker::Hello { version, .. }, .. } => {
                    self.version = version;
                }
                Output::OpenListener { .. } => self.listeners += 1,
                Output::Tell { .. }
                | Output::Signal { .. }
                | Output::CloseListener { .. }
                | Output::Steer { .. }
                | Output::Reopen { .. }
                | Output::Accept { .. }
                | Output::AcceptLast { .. }
                | Output::Probe { .. }
                | Output::WatchRoom { .. }
                | Output::Count { .. }
                | Output::TakeBack { .. }
                | Output::Event(_) => {}
            }
        }
        let timeout = self.machine.next_timeout();
        assert!(!self.is_finished || timeout.is_none(), "at the end, a timeout: {timeout:?}");
    }
}

fn order(worker: WorkerId, whom: u8, number: u8) -> Order {
    match number % 5 {
        0 | 1 => Order::Scale { weights: vec![1; usize::from(whom) % (SLOTS_MAX + 1)] },
        2 => Order::Start { slot: worker.slot },
        3 => {
            let timeout = (number > 99).then_some(Duration::from_millis(number.into()));
            Order::Disconnect { worker, timeout, successor: number.is_multiple_of(2) }
        }
        _ => Order::Signal { worker, signal: number.into() },
    }
}

/// What a worker may claim to have counted.
fn counters(whom: u8, number: u8) -> Counters {
    let count = |n: u8| u32::try_from(large(number.wrapping_mul(n))).unwrap_or(u32::MAX);
    Counters { taken: count(1), open: count(3), closed: count(5), lifetime_us: large(whom) }
}

fn address(number: u8) -> Address {
    Address::Unix(format!("/{}", number % 3).into())
}

/// Small numbers, and a few that are as large as can be.
fn large(number: u8) -> u64 {
    if number < 250 { number.into() } else { u64::MAX - u64::from(255 - number) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpus() {
        crate::corpus::run("machine", super::machine);
    }
}
