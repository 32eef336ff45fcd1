//! Clusters without a thread of their own: in the poll of their user, and several in one process.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime::{Address, Builder, Driver, Event, Exit, RestartPolicy, WorkerState};

use crate::harness::{children, tests};
use crate::support::cluster::{abandoned, exit_of, told};
use crate::support::host::stubborn_builder;
use crate::support::{DEADLINE, Desk, Running, ask, role};

tests! {
    a_cluster_lives_in_the_poll_of_its_user,
    every_loop_can_wait_for_its_descriptor,
    timeouts_need_no_help,
    no_event_is_missed_under_load,
    other_threads_reach_a_driver,
    several_clusters_share_a_poll_and_nothing_else,
    a_cluster_that_fails_says_so,
    a_driver_that_is_dropped_leaves_no_process,
    a_driver_can_move_to_another_thread,
}

/// How often to look for what is no event of the poll.
const TICK: Duration = Duration::from_millis(2);

/// Drivers in one poll, and all that has happened in each.
struct Host {
    poll: Poll,
    drivers: Vec<Driver>,
    logs: Vec<Vec<Event>>,
    over: Vec<bool>,
}

impl Host {
    fn new(builders: impl IntoIterator<Item = Builder>) -> Host {
        let mut host =
            Host { poll: Poll::new().unwrap(), drivers: vec![], logs: vec![], over: vec![] };
        for (number, builder) in builders.into_iter().enumerate() {
            let mut driver = builder.driver().unwrap();
            let registry = host.poll.registry();
            registry.register(&mut driver, Token(number), Interest::READABLE).unwrap();
            host.drivers.push(driver);
            host.logs.push(Vec::new());
            host.over.push(false);
        }
        host
    }

    /// Gives turns to those who are ready, and to nobody else, until this is so.
    #[track_caller]
    fn until<T>(&mut self, what: &str, find: impl Fn(&Host) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut events = Events::with_capacity(8);
        loop {
            if let Some(found) = find(self) {
                return found;
            }
            let log: String = self.logs.iter().map(|log| told(log)).collect();
            assert!(Instant::now() < deadline, "waited in vain until {what}:\n{log}");
            self.poll.poll(&mut events, Some(TICK)).unwrap();
            for event in &events {
                let Token(number) = event.token();
                self.over[number] = self.drivers[number].turn().unwrap().is_break();
                self.logs[number].extend(self.drivers[number].events().try_iter());
            }
        }
    }

    /// Waits until so many workers listen, and says where.
    #[track_caller]
    fn listening(&mut self, number: usize, workers: usize) -> Address {
        self.until("they listen", |host| {
            let mut listening = host.logs[number].iter().filter_map(|event| match event {
                Event::Listening { address, .. } => Some(address.clone()),
                _ => None,
            });
            listening.nth(workers - 1)
        })
    }

    #[track_caller]
    fn ends(&mut self, number: usize) -> &[Event] {
        self.until("it ends", |host| host.over[number].then_some(()));
        &self.logs[number]
    }
}

fn serving() -> Builder {
    role("serve", &["127.0.0.1:0"]).workers(2)
}

fn a_cluster_lives_in_the_poll_of_its_user() {
    let mut host = Host::new([serving()]);
    assert_eq!(children(), [], "nothing runs before the first turn");
    let address = host.listening(0, 2);
    let clients = thread::spawn(move || [ask(&address), ask(&address)]);
    host.until("both are served", |_| clients.is_finished().then_some(()));
    assert_eq!(clients.join().unwrap(), ["0.1", "1.1"]);
    let worker = host.drivers[0].workers()[0];
    assert_eq!((worker.state, worker.id.to_string().as_str()), (WorkerState::Listening, "0.1"));
    host.drivers[0].shutdown();
    let log = host.ends(0);
    assert_eq!(abandoned(log), 0);
    assert_eq!(exit_of(log, 1, 1), (Exit::Code(0), true));
    assert!(host.drivers[0].turn().unwrap().is_break(), "it stays over");
}

fn every_loop_can_wait_for_its_descriptor() {
    let mut driver = serving().driver().unwrap();
    let mut turns = 0;
    loop {
        let mut fds = [PollFd::new(driver.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::try_from(DEADLINE).unwrap()).unwrap();
        assert_eq!(ready, 1, "nothing happens:\n{:?}", driver.workers());
        turns += 1;
        if driver.turn().unwrap().is_break() {
            break;
        }
        let listens = |event: &Event| matches!(event, Event::Listening { .. });
        if driver.events().try_iter().filter(listens).count() > 0 {
            driver.shutdown();
        }
    }
    // Everything that it has waited for is gone: a loop that turns in vain would go on and on.
    assert!(turns < 200, "{turns} turns");
}

fn timeouts_need_no_help() {
    let desk = Desk::new();
    let short = Duration::from_millis(50);
    let builder = stubborn_builder(&desk).drain_timeout(short).kill_timeout(short);
    let mut host = Host::new([builder]);
    host.until("it is online", |host| {
        host.logs[0].iter().any(|event| matches!(event, Event::Online { .. })).then_some(())
    });
    desk.ready(1);
    host.drivers[0].shutdown();
    let killed = Exit::Signal { signal: 9, core_dumped: false };
    assert_eq!(exit_of(host.ends(0), 0, 1), (killed, true));
}

fn no_event_is_missed_under_load() {
    const CLIENTS: usize = 6;
    const REQUESTS: usize = 200;
    let mut host = Host::new([serving().mailbox_connections(2)]);
    let address = host.listening(0, 2);
    let served = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..REQUESTS {
                    ask(&address);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        host.until("all are served", |_| {
            (served.load(Ordering::Relaxed) == CLIENTS * REQUESTS).then_some(())
        });
    });
    host.drivers[0].shutdown();
    assert_eq!(abandoned(host.ends(0)), 0);
}

fn other_threads_reach_a_driver() {
    let mut host = Host::new([serving()]);
    host.listening(0, 2);
    let handle = host.drivers[0].handle().clone();
    let thread = thread::spawn(move || {
        handle.scale(3).unwrap();
        let deadline = Instant::now() + DEADLINE;
        while handle.workers().len() < 3 && Instant::now() < deadline {
            thread::park_timeout(TICK);
        }
        let workers = handle.workers();
        handle.kill(workers[0].id, 9).unwrap();
        workers.len()
    });
    host.listening(0, 4);
    assert_eq!(thread.join().unwrap(), 3);
    let log = &host.logs[0];
    assert!(log.contains(&Event::Scaled { from: 2, to: 3 }), "{}", told(log));
    host.drivers[0].shutdown();
    host.ends(0);
}

fn several_clusters_share_a_poll_and_nothing_else() {
    let mut host = Host::new([serving(), serving()]);
    let addresses = [host.listening(0, 2), host.listening(1, 2)];
    assert_ne!(addresses[0], addresses[1]);
    // And one with a thread, whose workers want what is the first's.
    let text = addresses[0].to_string();
    let restart = RestartPolicy { start_failures_max: 1, ..RestartPolicy::default() };
    let builder = role("serve", &[&text]).workers(1).restart(restart);
    let (result, log) = Running::start(builder).end();
    assert!(result.unwrap_err().is_all_slots_failed());
    let failed = log.iter().find(|event| matches!(event, Event::ListenFailed { .. }));
    let failed = failed.expect("another cluster's address is in use").to_string();
    assert!(failed.contains("in use"), "{failed}");

    host.drivers[0].shutdown();
    host.ends(0);
    let address = addresses[1].clone();
    let client = thread::spawn(move || [ask(&address), ask(&address)]);
    host.until("the other goes on", |_| client.is_finished().then_some(()));
    assert_eq!(client.join().unwrap(), ["0.1", "1.1"]);
    host.drivers[1].shutdown();
    host.ends(1);
}

fn a_cluster_that_fails_says_so() {
    let restart = RestartPolicy { start_failures_max: 1, ..RestartPolicy::default() };
    let builder = runtime::Cluster::builder().program("/no/such/program").workers(1);
    let mut driver = builder.restart(restart).driver().unwrap();
    assert!(driver.turn().unwrap_err().is_all_slots_failed());
    assert!(driver.turn().unwrap_err().is_all_slots_failed());
    assert!(matches!(driver.events().try_iter().last(), Some(Event::Stopped { .. })));
}

fn a_driver_that_is_dropped_leaves_no_process() {
    let mut host = Host::new([serving(), serving()]);
    host.listening(0, 2);
    let handle = host.drivers[0].handle().clone();
    assert!(children().len() >= 2);
    drop(host);
    assert_eq!(children(), []);
    assert_eq!(handle.workers(), []);
    handle.shutdown();
}

fn a_driver_can_move_to_another_thread() {
    let mut driver = serving().driver().unwrap();
    let handle = driver.handle().clone();
    let thread = thread::spawn(move || {
        let mut poll = Poll::new().unwrap();
        poll.registry().register(&mut driver, Token(0), Interest::READABLE).unwrap();
        let mut events = Events::with_capacity(8);
        while driver.turn().unwrap().is_continue() {
            poll.poll(&mut events, Some(DEADLINE)).unwrap();
        }
    });
    let deadline = Instant::now() + DEADLINE;
    while handle.workers().len() < 2 && Instant::now() < deadline {
        thread::park_timeout(TICK);
    }
    assert_eq!(handle.workers().len(), 2);
    handle.shutdown();
    thread.join().unwrap();
}
