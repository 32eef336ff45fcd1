//! A worker that does what a test tells it, step by step.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use runtime::{Builder, Connection, ListenOptions, Listener, Peer, UdpSocket, Worker};
use socket2::SockRef;

use super::cluster::{Running, role};
use super::desk::{Desk, Phone};
use super::roles::{answer, read_line, worker};
use crate::harness::{Outcome, descriptors, roles};

roles! {
    puppet,
}

/// Starts a cluster of puppets that are ready, and known to be: a worker that the master has not
/// heard of is ended by a signal when the cluster stops.
#[track_caller]
pub(crate) fn puppets(desk: &Desk, workers: usize) -> Running {
    let mut running = Running::start(puppet_builder(desk).workers(workers));
    desk.ready(workers);
    running.online(workers);
    running
}

/// A cluster of puppets, who may take their time.
pub(crate) fn puppet_builder(desk: &Desk) -> Builder {
    role("puppet", &[&desk.number()]).stall_timeout(Duration::from_secs(3600))
}

/// `puppet DESK`: says `ready ID`, and under the name of its slot does what it is told:
///
/// | order | answer |
/// |---|---|
/// | `listen ADDRESS [OPTION...]` | `N ADDRESS`: its number from now on; or `KIND: TEXT` |
/// | | the options: `only-v6`, `dual`, `backlog=N`, `exclusive`, `dispatch=WAY` |
/// | `bind ADDRESS [OPTION...]` | the same, for datagrams; it has numbers of its own |
/// | `gather N COUNT` | `gathered TEXT...`, so many datagrams; each was answered with its name |
/// | `unbind N` | `closed` |
/// | `cd PATH` | `there` |
/// | `close N` | `closed` |
/// | `serve N` | `serving`; connections to that listener are served one at a time from now on |
/// | `take N` | `took PEER`, the connection is kept; or `KIND: TEXT` |
/// | `max N COUNT` | `limited to COUNT`; that listener has no more connections open |
/// | `finish` | `finished`; the connections that it kept were served |
/// | `limit` | `limited`; it can't have more descriptors than it has now |
/// | `unlimit` | `unlimited`; it can have as many as it may |
/// | `break N` | `broken`; it has shut down its end of the mailbox |
/// | `linger` | `lingering`; once it shall stop it says `stopping`, and goes on |
/// | `disconnect` | `disconnected`: it has asked the master to let it go, who agrees |
/// | `leave` | `left`: it has closed its channel, and goes on |
/// | `run COMMAND...` | what the command prints |
/// | `exit` | none: it ends |
fn puppet(args: &[String]) -> Outcome {
    let worker = worker()?;
    let name = worker.id().to_string();
    let mut puppet = Puppet {
        phone: Phone::new(&args[0], &worker.id().slot.to_string())?,
        name,
        worker: Some(worker),
        listeners: Vec::new(),
        sockets: Vec::new(),
        kept: Vec::new(),
        serving: Vec::new(),
        hoard: Vec::new(),
        lingering: false,
        stopping: false,
    };
    puppet.phone.say(&format!("ready {}", puppet.name))?;
    while let Some(order) = puppet.order()? {
        let (verb, rest) = order.split_once(' ').unwrap_or((&order, ""));
        if verb == "exit" {
            return Ok(());
        }
        let answer = puppet.obey(verb, rest);
        let text = answer.unwrap_or_else(|error| format!("{:?}: {error}", error.kind()));
        puppet.phone.say(&text)?;
    }
    for thread in puppet.serving {
        thread.join().expect("it does not panic")?;
    }
    Ok(())
}

struct Puppet {
    phone: Phone,
    name: String,
    worker: Option<Worker>,
    listeners: Vec<Option<Listener>>,
    sockets: Vec<Option<UdpSocket>>,
    kept: Vec<Connection>,
    serving: Vec<JoinHandle<io::Result<()>>>,
    hoard: Vec<OwnedFd>,
    lingering: bool,
    /// Whether it goes on though it shall stop.
    stopping: bool,
}

impl Puppet {
    /// The next order; `None` when the worker shall stop.
    fn order(&mut self) -> io::Result<Option<String>> {
        let Some(worker) = self.worker.as_ref().filter(|_| !self.stopping) else {
            return self.phone.hear().map(Some);
        };
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [readable(self.phone.as_fd()), readable(worker.as_fd())];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) if fds[0].any() == Some(true) => return self.phone.hear().map(Some),
                Ok(_) if self.lingering => break,
                Ok(_) => return Ok(None),
            }
        }
        self.stopping = true;
        self.phone.say("stopping")?;
        self.phone.hear().map(Some)
    }

    fn obey(&mut self, verb: &str, rest: &str) -> io::Result<String> {
        match verb {
            "listen" => {
                let (address, options) = options(rest)?;
                let worker = self.worker.as_ref().expect("it has not left");
                let listener = worker.listen_with(address, options)?;
                let told = format!("{} {}", self.listeners.len(), listener.local_address());
                self.listeners.push(Some(listener));
                Ok(told)
            }
            "close" => {
                drop(self.listener(rest).take());
                Ok("closed".into())
            }
            "cd" => std::env::set_current_dir(rest).map(|()| "there".into()),
            "serve" => {
                let listener = self.listener(rest).take().expect("a listener");
                let name = self.name.clone();
                self.serving.push(thread::spawn(move || serve(&listener, &name)));
                Ok("serving".into())
            }
            "take" => {
                let (mut connection, peer) = self.listener(rest).as_ref().expect("one").accept()?;
                connection.set_nonblocking(false)?;
                connection.write_all(format!("{}\n", self.name).as_bytes())?;
                self.kept.push(connection);
                Ok(match peer {
                    Peer::Tcp(address) => format!("took {address}"),
                    Peer::Unix => "took unix".into(),
                })
            }
            "max" => {
                let (number, connections) = rest.split_once(' ').expect("two numbers");
                let listener = self.listener(number).as_ref().expect("a listener");
                listener.set_connections_max(connections.parse().expect("a number"));
                Ok(format!("limited to {connections}"))
            }
            "finish" => {
                self.kept.drain(..).try_for_each(finish)?;
                Ok("finished".into())
            }
            "limit" => self.limit().map(|()| "limited".into()),
            "unlimit" => self.unlimit().map(|()| "unlimited".into()),
            "break" => {
                let listener = self.listener(rest).as_ref().expect("a listener");
                SockRef::from(listener).shutdown(Shutdown::Both)?;
                Ok("broken".into())
            }
            "linger" => {
                self.lingering = true;
                Ok("lingering".into())
            }
            "disconnect" => {
                self.worker.as_ref().expect("it has not left").disconnect()?;
                Ok("disconnected".into())
            }
            "leave" => {
                drop(self.worker.take());
                Ok("left".into())
            }
            "run" => {
                let mut words = rest.split(' ');
                let mut command = Command::new(words.next().expect("a command"));
                let output = command.args(words).output()?;
                Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
            }
            _ => self.obey_for_datagrams(verb, rest),
        }
    }

    fn obey_for_datagrams(&mut self, verb: &str, rest: &str) -> io::Result<String> {
        match verb {
            "bind" => {
                let (address, options) = options(rest)?;
                let worker = self.worker.as_ref().expect("it has not left");
                let socket = worker.bind_with(address, options)?;
                let told = format!("{} {}", self.sockets.len(), socket.local_address());
                self.sockets.push(Some(socket));
                Ok(told)
            }
            "unbind" => {
                let number: usize = rest.parse().expect("a number");
                drop(self.sockets[number].take());
                Ok("closed".into())
            }
            "gather" => {
                let (number, count) = rest.split_once(' ').expect("two numbers");
                let number: usize = number.parse().expect("a number");
                let socket = self.sockets[number].as_ref().expect("one");
                gather(socket, count.parse().expect("a number"), &self.name)
            }
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, verb)),
        }
    }

    fn limit(&mut self) -> io::Result<()> {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let descriptors = descriptors();
        let numbers = descriptors.iter().filter_map(|text| text.split(' ').next()?.parse().ok());
        let limit = numbers.max().map_or(0, |highest: u64| highest + 1);
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard)?;
        // Any gap below is used up by duplicates.
        while let Ok(duplicate) = self.phone.as_fd().try_clone_to_owned() {
            self.hoard.push(duplicate);
        }
        Ok(())
    }

    fn unlimit(&mut self) -> io::Result<()> {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        self.hoard.clear();
        Ok(())
    }

    fn listener(&mut self, number: &str) -> &mut Option<Listener> {
        let number: usize = number.parse().expect("a number");
        &mut self.listeners[number]
    }
}

/// An address and options, each after a space.
fn options(text: &str) -> io::Result<(&str, ListenOptions)> {
    let mut words = text.split(' ');
    let address = words.next().unwrap_or_default();
    let options =
        words.try_fold(ListenOptions::new(), |options, word| match word.split_once('=') {
            None if word == "only-v6" => Ok(options.only_v6(true)),
            None if word == "exclusive" => Ok(options.exclusive(true)),
            None if word == "dual" => Ok(options.only_v6(false)),
            Some(("dispatch", name)) => Ok(options.dispatch(name.parse().expect("a way"))),
            Some(("backlog", number)) => Ok(options.backlog(number.parse().expect("a number"))),
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, word)),
        })?;
    Ok((address, options))
}

/// Receives so many datagrams, and answers each with a name.
fn gather(socket: &UdpSocket, count: usize, name: &str) -> io::Result<String> {
    let mut texts = Vec::new();
    while texts.len() < count && socket.wait()? {
        let mut bytes = [0; 64];
        match socket.recv_from(&mut bytes) {
            Ok((length, sender)) => {
                texts.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
                socket.send_to(name.as_bytes(), sender)?;
            }
            // Another worker was first.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(format!("gathered {}", texts.join(" ")))
}

fn serve(listener: &Listener, name: &str) -> io::Result<()> {
    for connection in listener.incoming() {
        let _ = answer(connection?, name);
    }
    Ok(())
}

/// Serves a connection that has been told the name already.
fn finish(mut connection: Connection) -> io::Result<()> {
    read_line(&mut connection)?;
    connection.write_all(b"done\n")
}
