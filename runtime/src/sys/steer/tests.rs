#![allow(unsafe_code)] // a thread without privileges, or with descriptors of its own

use super::*;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::reuseport::{claim_tcp, claim_udp, join_tcp, join_udp};

pub(super) const LOCAL: &str = "127.0.0.1:0";
const BACKLOG: i32 = 4096;
const TIMEOUT: Duration = Duration::from_secs(30);

/// Says so when the system does not let us.
pub(super) fn steering(policy: SteerPolicy) -> Option<Steering> {
    match Steering::new(policy) {
        Ok(steering) => Some(steering),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// As [`steering`], and by eBPF.
pub(super) fn ebpf(policy: SteerPolicy) -> Option<Steering> {
    let steering = steering(policy)?;
    let is_ebpf = steering.means() == SteerMeans::Ebpf;
    is_ebpf.then_some(steering).or_else(|| {
        println!("skipped: this takes CAP_BPF");
        None
    })
}

/// Runs this as a user who may do nothing in particular.
pub(super) fn unprivileged<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    const NOBODY: libc::uid_t = 65534;
    let drop_and_run = || {
        if nix::unistd::geteuid().is_root() {
            // SAFETY: only numbers are passed. The plain call, unlike the one of the C library,
            // changes this thread only; and takes its capabilities with the user.
            let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
            assert_eq!(result, 0);
        }
        run()
    };
    thread::scope(|scope| scope.spawn(drop_and_run).join().unwrap())
}

/// Runs this with `CAP_BPF` and no other capability.
fn with_bpf_only<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_BPF_OF_UPPER_HALF: u32 = 1 << (39 - 32);
    let drop_and_run = || {
        let header = [VERSION_3, 0];
        let upper = CAP_BPF_OF_UPPER_HALF;
        // For each half: effective, permitted, inheritable.
        let sets = [[0, 0, 0], [upper, upper, 0]];
        // SAFETY: both point to as much as the call takes, which changes this thread only.
        let result = unsafe { libc::syscall(libc::SYS_capset, &header, &sets) };
        assert_eq!(result, 0);
        run()
    };
    thread::scope(|scope| scope.spawn(drop_and_run).join().unwrap())
}

/// A group, and what a worker of each slot has: a duplicate of the slot's listener.
pub(super) struct Group {
    pub(super) steering: Steering,
    pub(super) address: SocketAddr,
    workers: Vec<Option<TcpListener>>,
    /// How many connections there are that nobody has taken yet.
    waiting: usize,
}

impl Group {
    pub(super) fn new(steering: Steering, slots: usize) -> Group {
        Group::at(LOCAL, steering, slots)
    }

    pub(super) fn at(address: &str, steering: Steering, slots: usize) -> Group {
        let first = claim_tcp(address.parse().unwrap(), BACKLOG, Some(false)).unwrap();
        let address = first.local_addr().unwrap();
        let mut group = Group { steering, address, workers: Vec::new(), waiting: 0 };
        group.add(0, first);
        for slot in 1..slots {
            group.join(slot);
        }
        group
    }

    pub(super) fn join(&mut self, slot: usize) {
        self.add(slot, join_tcp(self.address, BACKLOG, Some(false)).unwrap());
    }

    fn add(&mut self, slot: usize, listener: TcpListener) {
        self.workers.resize_with(self.workers.len().max(slot + 1), || None);
        self.workers[slot] = Some(listener.try_clone().unwrap());
        self.steering.add(slot, listener.into()).unwrap();
    }

    /// Opens and closes so many connections.
    pub(super) fn connect(&mut self, connections: usize) {
        for _ in 0..connections {
            drop(TcpStream::connect(self.address).unwrap());
        }
        self.waiting += connections;
    }

    fn connect_in_parallel(&mut self, connections: usize, threads: usize) {
        let left = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while left.fetch_add(1, Ordering::Relaxed) < connections {
                        drop(TcpStream::connect(self.address).unwrap());
                    }
                });
            }
        });
        self.waiting += connections;
    }

    /// Takes all connections that there are; says how many each slot got.
    pub(super) fn taken(&mut self) -> Vec<usize> {
        let mut counts = vec![0; self.workers.len()];
        self.take(|slot, _| counts[slot] += 1);
        counts
    }

    fn take(&mut self, mut served: impl FnMut(usize, TcpStream)) {
        let deadline = Instant::now() + TIMEOUT;
        while self.waiting > 0 {
            for (slot, worker) in self.workers.iter().enumerate() {
                while let Some(Ok((connection, _))) = worker.as_ref().map(TcpListener::accept) {
                    served(slot, connection);
                    self.waiting -= 1;
                }
            }
            assert!(Instant::now() < deadline, "{} connections are lost", self.waiting);
            thread::yield_now();
        }
    }
}

/// Which slot the connections of a client of this address go to, in a group with nothing waiting.
pub(super) fn slot_of(group: &mut Group, client: Ipv4Addr) -> usize {
    let mut slots = Vec::new();
    for _ in 0..3 {
        let domain = socket2::Domain::for_address(group.address);
        let from: IpAddr = match domain {
            socket2::Domain::IPV4 => client.into(),
            _ => client.to_ipv6_mapped().into(),
        };
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        let to: IpAddr = match domain {
            socket2::Domain::IPV4 => Ipv4Addr::LOCALHOST.into(),
            _ => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        };
        socket.connect(&SocketAddr::new(to, group.address.port()).into()).unwrap();
        group.waiting += 1;
        group.take(|slot, _| slots.push(slot));
    }
    assert!(slots.iter().all(|slot| *slot == slots[0]), "{client}: {slots:?}");
    slots[0]
}

/// A client's connections go to one slot; clients are spread by weight, and stay when slots go.
pub(super) fn assert_source_hash(mut group: Group) {
    let clients: Vec<Ipv4Addr> =
        (0..240u32).map(|n| Ipv4Addr::from(0x7f00_0000 + 0x0101 * (n + 1))).collect();
    group.steering.set_table(&[(0, 1), (1, 1), (2, 1), (3, 1)]).unwrap();
    let before: Vec<usize> = clients.iter().map(|client| slot_of(&mut group, *client)).collect();
    for slot in 0..4 {
        let count = before.iter().filter(|s| **s == slot).count();
        assert!((30..=90).contains(&count), "slot {slot}: {count} of 240");
    }
    group.steering.set_table(&[(0, 1), (1, 1), (3, 1)]).unwrap();
    let after: Vec<usize> = clients.iter().map(|client| slot_of(&mut group, *client)).collect();
    assert!(!after.contains(&2));
    let stayed = before.iter().zip(&after).filter(|(before, after)| before == after).count();
    assert!(stayed > 120, "{stayed} of 180 who could");
    group.steering.set_table(&[(0, 8), (1, 1), (3, 1)]).unwrap();
    let heavy = clients.iter().filter(|client| slot_of(&mut group, **client) == 0).count();
    assert!((160..=225).contains(&heavy), "{heavy} of 192");
}

/// By which means this process can do it, or why it can't.
fn probe(policy: SteerPolicy) -> Result<SteerMeans, String> {
    let means = Steering::new(policy).map(|steering| steering.means());
    means.map_err(|error| error.to_string())
}

#[test]
fn round_robin_is_exact_at_any_parallelism() {
    let Some(steering) = steering(SteerPolicy::RoundRobin) else { return };
    let mut group = Group::new(steering, 4);
    group.steering.set_table(&[(0, 1), (1, 1), (2, 1), (3, 1)]).unwrap();
    group.connect_in_parallel(10_000, 64);
    assert_eq!(group.taken(), [2500; 4]);
}

#[test]
fn weights_are_exact() {
    let run = || {
        let Some(steering) = steering(SteerPolicy::RoundRobin) else { return };
        let mut group = Group::new(steering, 4);
        group.steering.set_table(&[(0, 500), (1, 300), (2, 100), (3, 100)]).unwrap();
        group.connect_in_parallel(1000, 8);
        assert_eq!(group.taken(), [500, 300, 100, 100]);
    };
    run();
    if ebpf(SteerPolicy::RoundRobin).is_some() {
        with_bpf_only(run);
    }
}

#[test]
fn packets_that_open_no_connection_take_no_turn() {
    let Some(steering) = ebpf(SteerPolicy::RoundRobin) else { return };
    let mut group = Group::new(steering, 3);
    group.steering.set_table(&[(0, 1), (1, 1), (2, 1)]).unwrap();
    let mut slots = Vec::new();
    for _ in 0..4 {
        let client = TcpStream::connect(group.address).unwrap();
        group.waiting += 1;
        group.take(|slot, connection| {
            slots.push(slot);
            vanish(connection);
        });
        // Its last packet finds no connection.
        drop(client);
    }
    assert_eq!(slots, [0, 1, 2, 0]);
}

/// Closes a connection without a packet; where that takes a privilege, it is closed as usual.
fn vanish(connection: TcpStream) {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an integer, of which the call is told the address and the size.
    unsafe {
        libc::setsockopt(
            connection.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const on).cast(),
            4,
        );
    }
}

#[test]
fn a_new_table_holds_at_once() {
    let Some(steering) = steering(SteerPolicy::RoundRobin) else { return };
    let mut group = Group::new(steering, 4);
    for round in 0..20 {
        let drained = round % 4;
        let shares: Vec<Share> =
            (0..4).filter(|slot| *slot != drained).map(|slot| (slot, 1)).collect();
        group.steering.set_table(&shares).unwrap();
        group.connect(30);
        let mut exact = [10; 4];
        exact[drained] = 0;
        assert_eq!(group.taken(), exact, "round {round}");
    }
}

#[test]
fn tables_change_while_they_are_in_use() {
    let Some(steering) = steering(SteerPolicy::RoundRobin) else { return };
    let mut group = Group::new(steering, 4);
    let address = group.address;
    group.steering.set_table(&[(1, 3), (2, 1), (3, 1)]).unwrap();
    let connected = AtomicUsize::new(0);
    thread::scope(|scope| {
        let client = || {
            for _ in 0..500 {
                drop(TcpStream::connect(address).unwrap());
                connected.fetch_add(1, Ordering::Relaxed);
            }
        };
        (0..4).for_each(|_| drop(scope.spawn(client)));
        // Of different lengths, and none of them has slot 0.
        while connected.load(Ordering::Relaxed) < 2000 {
            group.steering.set_table(&[(1, 100), (2, 7)]).unwrap();
            group.steering.set_table(&[(3, 1)]).unwrap();
            group.steering.set_table(&[(1, 1), (2, 1), (3, 1)]).unwrap();
        }
    });
    group.waiting = 2000;
    let counts = group.taken();
    assert!(counts[0] == 0 && counts[1..].iter().all(|count| *count > 0), "{counts:?}");
}

#[test]
fn nothing_is_refused_when_nothing_can_be_chosen() {
    for policy in [SteerPolicy::RoundRobin, SteerPolicy::Random, SteerPolicy::LeastConnections] {
        let Some(steering) = steering(policy) else { continue };
        let mut group = Group::new(steering, 3);
        for shares in [&[][..], &[(0, 0), (1, 0)], &[(7, 1)], &[(SLOTS_MAX - 1, 9), (8, 1)]] {
            group.steering.set_table(shares).unwrap();
            group.connect(90);
            let counts = group.taken();
            assert!(counts.iter().all(|count| (5..=60).contains(count)), "{counts:?}");
        }
    }
}

/// All that waits for slot 0 is served by the others, though nobody took it before.
fn assert_migrated(keep_duplicate: bool) {
    let Some(steering) = steering(SteerPolicy::RoundRobin) else { return };
    let mut group = Group::new(steering, 3);
    group.steering.set_table(&[(0, 1)]).unwrap();
    let mut clients: Vec<TcpStream> =
        (0..300).map(|_| TcpStream::connect(group.address).unwrap()).collect();
    for client in &mut clients {
        client.write_all(b"?").unwrap();
    }
    group.waiting = 300;
    group.steering.set_table(&[(1, 1), (2, 1)]).unwrap();
    let worker = group.workers[0].take();
    let worker = worker.filter(|_| keep_duplicate);
    group.steering.remove(0).unwrap();
    assert!(group.steering.socket(0).is_none());
    assert!(worker.is_none_or(|worker| worker.accept().is_err()));
    let mut counts = [0; 3];
    group.take(|slot, mut connection| {
        connection.set_nonblocking(false).unwrap();
        connection.read_exact(&mut [0]).unwrap();
        connection.write_all(b"!").unwrap();
        counts[slot] += 1;
    });
    assert_eq!(counts, [0, 150, 150]);
    for mut client in clients {
        client.set_read_timeout(Some(TIMEOUT)).unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn what_waits_goes_to_others_when_a_socket_is_closed() {
    assert_migrated(false);
}

#[test]
fn what_waits_goes_to_others_though_a_worker_still_has_the_socket() {
    assert_migrated(true);
}

#[test]
fn a_slot_gets_a_new_socket_in_place_of_the_old() {
    for policy in [SteerPolicy::RoundRobin, SteerPolicy::Random] {
        let run = || {
            let Some(steering) = steering(policy) else { return };
            let mut group = Group::new(steering, 3);
            for slot in [0, 1, 0, 2] {
                group.steering.set_table(&[(slot, 1)]).unwrap();
                group.join(slot);
                group.connect(20);
                assert_eq!(group.taken()[slot], 20);
            }
        };
        run();
        unprivileged(run);
    }
}

#[test]
fn a_group_may_be_empty_and_begin_again() {
    let Some(steering) = steering(SteerPolicy::RoundRobin) else { return };
    let mut group = Group::new(steering, 2);
    group.steering.remove(0).unwrap();
    group.steering.remove(1).unwrap();
    group.steering.remove(1).unwrap();
    group.workers.clear();
    TcpStream::connect(group.address).unwrap_err();
    let mut group = Group::at(&group.address.to_string(), group.steering, 2);
    group.steering.set_table(&[(1, 1)]).unwrap();
    group.connect(20);
    assert_eq!(group.taken(), [0, 20]);
}

#[test]
fn chance_follows_the_weights() {
    let run = || {
        let Some(steering) = steering(SteerPolicy::Random) else { return };
        let mut group = Group::new(steering, 4);
        group.steering.set_table(&[(0, 1), (1, 1), (2, 1), (3, 1)]).unwrap();
        group.connect(2000);
        let counts = group.taken();
        // Six times the standard deviation of 19.4, one in a hundred million.
        assert!(counts.iter().all(|count| count.abs_diff(500) < 117), "{counts:?}");
        group.steering.set_table(&[(0, 5), (1, 3), (3, 2)]).unwrap();
        group.connect(2000);
        let counts = group.taken();
        assert_eq!(counts[2], 0);
        for (slot, mean) in [(0, 1000), (1, 600), (3, 400)] {
            assert!(counts[slot].abs_diff(mean) < 135, "{counts:?}");
        }
    };
    run();
    unprivileged(run);
}

#[test]
fn clients_stay_with_a_slot() {
    for address in [LOCAL, "[::]:0"] {
        let run = || {
            let Some(steering) = steering(SteerPolicy::SourceHash) else { return };
            assert_source_hash(Group::at(address, steering, 4));
        };
        run();
        unprivileged(run);
    }
}

#[test]
fn one_client_of_version_6_stays_too() {
    let run = || {
        let Some(steering) = steering(SteerPolicy::SourceHash) else { return };
        let mut group = Group::at("[::1]:0", steering, 4);
        group.steering.set_table(&[(0, 1), (1, 1), (2, 1), (3, 1)]).unwrap();
        group.connect(40);
        assert!(group.taken().contains(&40));
    };
    run();
    unprivileged(run);
}

#[test]
fn what_is_possible_is_known_before() {
    use SteerPolicy::{LeastConnections, Random, RoundRobin, SourceHash};
    unprivileged(|| {
        for policy in [RoundRobin, LeastConnections] {
            let reason = probe(policy).unwrap_err();
            assert!(reason.starts_with("bpf(2): ") && reason.contains("CAP_BPF"), "{reason}");
        }
        assert_eq!(probe(Random), Ok(SteerMeans::Cbpf));
        assert_eq!(probe(SourceHash), Ok(SteerMeans::Cbpf));
    });
    if ebpf(RoundRobin).is_some() {
        with_bpf_only(|| {
            for policy in [RoundRobin, Random, SourceHash, LeastConnections] {
                assert_eq!(probe(policy), Ok(SteerMeans::Ebpf), "{policy:?}");
            }
        });
    }
}

#[test]
fn datagrams_are_steered_too() {
    for policy in [SteerPolicy::RoundRobin, SteerPolicy::Random] {
        let run = || {
            let Some(mut steering) = steering(policy) else { return };
            let first = claim_udp(LOCAL.parse().unwrap(), None).unwrap();
            let address = first.local_addr().unwrap();
            let mut sockets = vec![first];
            sockets.extend((1..4).map(|_| join_udp(address, None).unwrap()));
            for (slot, socket) in sockets.iter().enumerate() {
                steering.add(slot, socket.try_clone().unwrap().into()).unwrap();
            }
            let client = UdpSocket::bind(LOCAL).unwrap();
            // What is sent on the loopback interface has arrived when the call returns.
            let counts = |steering: &mut Steering, sockets: &[UdpSocket], shares: &[Share]| {
                steering.set_table(shares).unwrap();
                for _ in 0..90 {
                    client.send_to(b"x", address).unwrap();
                }
                let received = |socket: &UdpSocket| {
                    (0..).take_while(|_| socket.recv(&mut [0]).is_ok()).count()
                };
                sockets.iter().map(received).collect::<Vec<_>>()
            };
            let even = counts(&mut steering, &sockets, &[(0, 1), (1, 1), (2, 1)]);
            assert_eq!(even[3], 0);
            match policy {
                SteerPolicy::RoundRobin => assert_eq!(even, [30, 30, 30, 0]),
                _ => assert!(even[..3].iter().all(|count| (5..=60).contains(count)), "{even:?}"),
            }
            assert_eq!(counts(&mut steering, &sockets, &[(3, 1)]), [0, 0, 0, 90]);
            // The last takes the place of one that leaves.
            drop(sockets.remove(1));
            steering.remove(1).unwrap();
            assert_eq!(counts(&mut steering, &sockets, &[(3, 1)]), [0, 0, 90]);
            assert_eq!(counts(&mut steering, &sockets, &[(2, 1)]), [0, 90, 0]);
        };
        run();
        unprivileged(run);
    }
}

#[test]
fn no_descriptor_is_left() {
    let run = |policy| {
        let Some(steering) = steering(policy) else { return };
        let mut group = Group::new(steering, 4);
        group.steering.set_table(&[(0, 1), (1, 1)]).unwrap();
        group.connect(10);
        group.taken();
        group.join(0);
        group.steering.remove(1).unwrap();
    };
    let descriptors = || std::fs::read_dir("/proc/thread-self/fd").unwrap().count();
    let check = move || {
        // SAFETY: gives this thread a table of descriptors of its own; it uses none of before.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
        let before = descriptors();
        for policy in [SteerPolicy::RoundRobin, SteerPolicy::Random, SteerPolicy::LeastConnections]
        {
            (0..20).for_each(|_| run(policy));
            assert_eq!(descriptors(), before, "{policy:?}");
        }
    };
    thread::scope(|scope| scope.spawn(check).join().unwrap());
    unprivileged(check);
}
