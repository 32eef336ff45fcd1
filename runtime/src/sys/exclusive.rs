//! A socket that several processes wait for, of which the kernel wakes one: the next in turn.
//!
//! With `EPOLLEXCLUSIVE` the kernel wakes one of those who wait, the first in the socket's queue of
//! waiters, and passes over those who are busy. Whoever was woken leaves the queue and joins it
//! again at its end ([`ExclusiveEntry::rotate`]), so that the wakes go round. Joining looks whether
//! something waits already, so that nothing is missed in between.
//!
//! One wake stands for one connection, and nobody else is told of it. So who was woken either calls
//! `accept` at least once before it rotates, rests or is dropped, or sees to it that another looks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// A socket's entry in somebody's epoll, level-triggered.
///
/// It has its own duplicates of both descriptors. An entry is found by the number of its socket's
/// descriptor and lives as long as anybody, in any process, has the socket open: were the caller's
/// descriptor closed first, the entry could not be removed any more, and would report a socket that
/// is long forgotten. And a number of an epoll that was closed may be another file by now.
#[derive(Debug)]
pub(crate) struct ExclusiveEntry {
    epoll: Epoll,
    socket: OwnedFd,
    token: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    In,
    /// It could not be added again, for want of memory; the next call tries once more.
    Out,
    /// Out until it is resumed.
    Resting,
}

impl ExclusiveEntry {
    /// Adds a socket to an epoll; its events carry `token`, as mio's do.
    pub(crate) fn add(
        epoll: BorrowedFd<'_>,
        socket: BorrowedFd<'_>,
        token: u64,
    ) -> io::Result<ExclusiveEntry> {
        let epoll = Epoll(epoll.try_clone_to_owned()?);
        let socket = socket.try_clone_to_owned()?;
        let mut entry = ExclusiveEntry { epoll, socket, token, state: State::Out };
        entry.join()?;
        Ok(entry)
    }

    /// Goes to the end of the queue of those who wait; one that rests goes on resting.
    ///
    /// After an error call it again, a little later: the entry may be out.
    pub(crate) fn rotate(&mut self) -> io::Result<()> {
        if self.state == State::Resting {
            return Ok(());
        }
        self.leave(State::Out)?;
        self.join()
    }

    /// Leaves until [`resume`](Self::resume): what comes is for the others.
    pub(crate) fn rest(&mut self) -> io::Result<()> {
        self.leave(State::Resting)
    }

    /// Joins again, if it is out.
    pub(crate) fn resume(&mut self) -> io::Result<()> {
        if self.state == State::In { Ok(()) } else { self.join() }
    }

    /// Whether the epoll reports the socket now.
    pub(crate) fn is_in(&self) -> bool {
        self.state == State::In
    }

    fn join(&mut self) -> io::Result<()> {
        // Modifying such an entry is an error (EINVAL), so it is always a new one.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
        self.epoll.add(&self.socket, EpollEvent::new(flags, self.token))?;
        self.state = State::In;
        Ok(())
    }

    fn leave(&mut self, left: State) -> io::Result<()> {
        if self.state == State::In {
            self.epoll.delete(&self.socket)?;
        }
        self.state = left;
        Ok(())
    }
}

impl Drop for ExclusiveEntry {
    fn drop(&mut self) {
        // While both duplicates are still open.
        let _ = self.leave(State::Resting);
    }
}

/// Waits for such a socket in a thread that has no event loop, or for the order to stop.
#[derive(Debug)]
pub(crate) struct ExclusiveWait {
    epoll: Epoll,
    entry: Arc<Mutex<ExclusiveEntry>>,
}

impl ExclusiveWait {
    /// Waits for `socket`, and for `stop` to become readable.
    pub(crate) fn new(socket: BorrowedFd<'_>, stop: BorrowedFd<'_>) -> io::Result<ExclusiveWait> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // Stays in for good: this epoll is nobody else's, and goes when both duplicates go.
        epoll.add(stop, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
        let entry = ExclusiveEntry::add(epoll.0.as_fd(), socket, 0)?;
        Ok(ExclusiveWait { epoll, entry: Arc::new(Mutex::new(entry)) })
    }

    /// Returns when the socket may have something, or when `stop` is readable; which, is for the
    /// caller to find out.
    pub(crate) fn wait(&self) -> io::Result<()> {
        loop {
            match self.epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                result => return Ok(result.map(drop)?),
            }
        }
    }

    /// Goes to the end of the queue, after as many connections as the worker's weight.
    pub(crate) fn rotate(&self) -> io::Result<()> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner).rotate()
    }

    /// The entry, for another thread: rotated, it makes the one that waits look.
    pub(crate) fn entry(&self) -> &Arc<Mutex<ExclusiveEntry>> {
        &self.entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::{JoinHandle, spawn};
    use std::time::{Duration, Instant};

    use nix::unistd::{Pid, gettid};

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    const CLIENTS: mio::Token = mio::Token(5);
    const ORDERS: mio::Token = mio::Token(6);

    /// A worker with its own event loop: takes one connection for each wake, says who it is, and
    /// goes to the end of the queue after `weight` of them.
    struct Worker {
        orders: Sender<bool>,
        waker: mio::Waker,
        done: Receiver<()>,
        thread: JoinHandle<usize>,
        id: Pid,
    }

    impl Worker {
        fn new(listener: TcpListener, weight: usize, took: Sender<usize>, name: usize) -> Worker {
            let (orders, ordered) = channel();
            let (did, done) = channel();
            let (is, id) = channel();
            let mut poll = mio::Poll::new().unwrap();
            let waker = mio::Waker::new(poll.registry(), ORDERS).unwrap();
            // Added here, so that the workers are in the queue in order of their making.
            let registry = poll.registry().as_fd();
            let token = CLIENTS.0 as u64;
            let mut entry = ExclusiveEntry::add(registry, listener.as_fd(), token).unwrap();
            let thread = spawn(move || {
                is.send(gettid()).unwrap();
                let (mut total, mut since) = (0, 0);
                let mut events = mio::Events::with_capacity(4);
                loop {
                    poll.poll(&mut events, Some(TIMEOUT)).unwrap();
                    assert!(!events.is_empty(), "worker {name} waited for nothing");
                    for event in &events {
                        if event.token() == ORDERS {
                            match ordered.try_recv() {
                                Ok(true) => entry.resume().unwrap(),
                                Ok(false) => entry.rest().unwrap(),
                                Err(_) => return total,
                            }
                            did.send(()).unwrap();
                        } else if let Ok((connection, _)) = listener.accept() {
                            total += 1;
                            since += 1;
                            if since == weight {
                                since = 0;
                                entry.rotate().unwrap();
                            }
                            drop(connection);
                            took.send(name).unwrap();
                        }
                    }
                }
            });
            let id = id.recv().unwrap();
            Worker { orders, waker, done, thread, id }
        }

        fn order(&self, resume: bool) {
            self.orders.send(resume).unwrap();
            self.waker.wake().unwrap();
            self.done.recv_timeout(TIMEOUT).unwrap();
        }

        /// Stops it; says how many connections it took.
        fn end(self) -> usize {
            drop(self.orders);
            self.waker.wake().unwrap();
            self.thread.join().unwrap()
        }
    }

    /// Waits until a thread sleeps, which one that has nothing to do does in its poll only.
    fn wait_until_idle(thread: Pid) {
        let path = format!("/proc/self/task/{thread}/stat");
        let deadline = Instant::now() + TIMEOUT;
        while !std::fs::read_to_string(&path).unwrap().contains(") S ") {
            assert!(Instant::now() < deadline, "the thread goes on running");
            std::thread::yield_now();
        }
    }

    fn workers(listener: &TcpListener, weights: &[usize]) -> (Vec<Worker>, Receiver<usize>) {
        let (took, taken) = channel();
        let worker = |(name, weight): (usize, &usize)| {
            Worker::new(listener.try_clone().unwrap(), *weight, took.clone(), name)
        };
        (weights.iter().enumerate().map(worker).collect(), taken)
    }

    /// Connects once, and waits until a worker says that it took it: who?
    fn connect(address: SocketAddr, taken: &Receiver<usize>) -> usize {
        let _client = TcpStream::connect(address).unwrap();
        taken.recv_timeout(TIMEOUT).expect("every connection is taken")
    }

    /// The shares of connections of which each comes when all workers wait.
    fn shares(weights: &[usize], connections: usize) -> Vec<usize> {
        let (listener, address) = listener();
        let (workers, taken) = workers(&listener, weights);
        for _ in 0..connections {
            workers.iter().for_each(|worker| wait_until_idle(worker.id));
            connect(address, &taken);
        }
        workers.into_iter().map(Worker::end).collect()
    }

    #[test]
    fn connections_one_by_one_go_round() {
        assert_eq!(shares(&[1; 2], 200), [100; 2]);
        assert_eq!(shares(&[1; 4], 400), [100; 4]);
    }

    #[test]
    fn weights_are_connections_before_a_turn_ends() {
        assert_eq!(shares(&[5, 3, 1, 1], 400), [200, 120, 40, 40]);
    }

    #[test]
    fn under_load_no_wake_is_lost() {
        let (listener, address) = listener();
        let (workers, taken) = workers(&listener, &[1; 4]);
        let connected = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while connected.fetch_add(1, Ordering::Relaxed) < 4000 {
                        drop(TcpStream::connect(address).unwrap());
                    }
                });
            }
            for _ in 0..4000 {
                taken.recv_timeout(TIMEOUT).expect("every connection is taken");
            }
        });
        let total: usize = workers.into_iter().map(Worker::end).sum();
        assert_eq!(total, 4000);
    }

    #[test]
    fn who_rests_gets_nothing_until_it_resumes() {
        let (listener, address) = listener();
        let (workers, taken) = workers(&listener, &[1; 2]);
        workers[0].order(false);
        for _ in 0..50 {
            assert_eq!(connect(address, &taken), 1);
        }
        // With all at rest connections wait, and the first to resume sees them.
        workers[1].order(false);
        let waiting: Vec<_> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        workers[0].order(true);
        for _ in &waiting {
            assert_eq!(taken.recv_timeout(TIMEOUT).unwrap(), 0);
        }
        assert!(taken.try_recv().is_err());
        assert_eq!(workers.into_iter().map(Worker::end).collect::<Vec<_>>(), [5, 50]);
    }

    fn is_reported(epoll: &Epoll) -> bool {
        epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn the_state_says_what_the_epoll_does() {
        let (listener, address) = listener();
        let _client = TcpStream::connect(address).unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let mut entry = ExclusiveEntry::add(epoll.0.as_fd(), listener.as_fd(), 9).unwrap();
        assert!(entry.is_in() && is_reported(&epoll) && is_reported(&epoll));
        entry.rotate().unwrap();
        assert!(entry.is_in() && is_reported(&epoll));
        for _ in 0..2 {
            entry.rest().unwrap();
            assert!(!entry.is_in() && !is_reported(&epoll));
        }
        entry.rotate().unwrap();
        assert!(!entry.is_in() && !is_reported(&epoll));
        for _ in 0..2 {
            entry.resume().unwrap();
            assert!(entry.is_in() && is_reported(&epoll));
        }
        let mut event = [EpollEvent::empty()];
        assert_eq!(epoll.wait(&mut event, EpollTimeout::ZERO), Ok(1));
        assert_eq!(event[0].data(), 9);
    }

    #[test]
    fn what_the_first_leaves_the_second_is_told_of_when_it_looks() {
        let (listener, address) = listener();
        let epolls = [(); 2].map(|()| Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap());
        let [mut first, mut second] = epolls
            .each_ref()
            .map(|epoll| ExclusiveEntry::add(epoll.0.as_fd(), listener.as_fd(), 9).unwrap());
        let limit = EpollTimeout::try_from(TIMEOUT).unwrap();
        let threads = epolls.map(|epoll| {
            let (is, id) = channel();
            let thread = spawn(move || {
                is.send(gettid()).unwrap();
                epoll.wait(&mut [EpollEvent::empty()], limit).unwrap()
            });
            wait_until_idle(id.recv().unwrap());
            thread
        });
        let _client = TcpStream::connect(address).unwrap();
        let [woken, other] = threads;
        assert_eq!(woken.join().unwrap(), 1);
        first.rest().unwrap();
        second.rotate().unwrap();
        assert_eq!(other.join().unwrap(), 1);
        listener.accept().unwrap();
    }

    #[test]
    fn one_that_could_not_join_again_does_so_later() {
        let (listener, address) = listener();
        let _client = TcpStream::connect(address).unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let mut entry = ExclusiveEntry::add(epoll.0.as_fd(), listener.as_fd(), 9).unwrap();
        // What takes its place makes the second half of the rotation fail.
        epoll.delete(&entry.socket).unwrap();
        entry.state = State::Out;
        epoll.add(&entry.socket, EpollEvent::new(EpollFlags::EPOLLOUT, 1)).unwrap();
        entry.rotate().unwrap_err();
        assert!(!entry.is_in());
        epoll.delete(&entry.socket).unwrap();
        entry.rotate().unwrap();
        assert!(entry.is_in() && is_reported(&epoll));
    }

    #[test]
    fn a_dropped_entry_is_gone_though_others_hold_the_socket() {
        let (listener, address) = listener();
        let other = listener.try_clone().unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let entry = ExclusiveEntry::add(epoll.0.as_fd(), listener.as_fd(), 9).unwrap();
        drop(listener);
        let _client = TcpStream::connect(address).unwrap();
        assert!(is_reported(&epoll));
        drop(entry);
        assert!(!is_reported(&epoll));
        other.accept().unwrap();
    }

    #[test]
    fn a_blocking_wait_ends_with_a_connection_and_with_the_stop() {
        let (listener, address) = listener();
        let (stop, stopped) = std::os::unix::net::UnixStream::pair().unwrap();
        let (took, taken) = channel();
        let names = 0..3;
        let threads: Vec<_> = names
            .map(|name| {
                let wait = ExclusiveWait::new(listener.as_fd(), stopped.as_fd()).unwrap();
                let (listener, took) = (listener.try_clone().unwrap(), took.clone());
                let stopped = stopped.try_clone().unwrap();
                spawn(move || {
                    loop {
                        wait.wait().unwrap();
                        if listener.accept().is_ok() {
                            wait.rotate().unwrap();
                            took.send(name).unwrap();
                        } else if crate::sys::waiting_bytes(stopped.as_fd()).unwrap() > 0 {
                            return;
                        }
                    }
                })
            })
            .collect();
        for _ in 0..90 {
            connect(address, &taken);
        }
        io::Write::write_all(&mut &stop, b"!").unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
