//! A master and its workers, in processes of their own that end with this one.

use std::env;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use runtime::Dispatch;
use scheduler::PolicyKind;

use crate::http::Service;
use crate::{ours, raw};

const MASTER: &str = "cluster-master";
const WORKER: &str = "cluster-worker";

/// How connections come to workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    /// All workers accept from one socket, by hand.
    RawShared,
    /// Each worker accepts from a socket of its own, by hand.
    RawReuseport,
    /// The master accepts and hands over, by hand.
    RawHandoff,
    /// `runtime`, whose master accepts and hands over.
    Handoff,
    /// `runtime`, whose workers accept from one socket.
    Shared,
    /// `runtime`, whose workers have sockets of their own, among which the kernel chooses.
    Steered,
}

impl Contender {
    pub(crate) const ALL: [Contender; 6] = [
        Contender::RawHandoff,
        Contender::Handoff,
        Contender::RawShared,
        Contender::Shared,
        Contender::RawReuseport,
        Contender::Steered,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::RawShared => "raw-shared",
            Contender::RawReuseport => "raw-reuseport",
            Contender::RawHandoff => "raw-handoff",
            Contender::Handoff => "handoff",
            Contender::Shared => "shared",
            Contender::Steered => "steered",
        }
    }

    fn from_name(name: &str) -> Option<Contender> {
        Contender::ALL.into_iter().find(|contender| contender.name() == name)
    }

    /// Who does the same by hand.
    pub(crate) fn raw(self) -> Contender {
        match self {
            Contender::RawShared | Contender::Shared => Contender::RawShared,
            Contender::RawReuseport | Contender::Steered => Contender::RawReuseport,
            Contender::RawHandoff | Contender::Handoff => Contender::RawHandoff,
        }
    }

    /// What ours is asked for; `None` for those by hand.
    pub(crate) fn dispatch(self) -> Option<Dispatch> {
        match self {
            Contender::Handoff => Some(Dispatch::Handoff),
            Contender::Shared => Some(Dispatch::Shared),
            Contender::Steered => Some(Dispatch::Steered),
            Contender::RawShared | Contender::RawReuseport | Contender::RawHandoff => None,
        }
    }

    /// All, but for the one that takes a privilege where this process has none: it is left out,
    /// with a word.
    pub(crate) fn available() -> Vec<Contender> {
        let steered = Server::start(&Setup::new(Contender::Steered, 1, Task::Http));
        if let Err(error) = &steered {
            eprintln!("left out: {error}");
        }
        let is_left_out = |contender| contender == Contender::Steered && steered.is_err();
        Contender::ALL.into_iter().filter(|contender| !is_left_out(*contender)).collect()
    }
}

/// What a worker does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    /// Answers requests.
    Http,
    /// Tells the client when it took it, and closes it.
    Stamp,
    /// Answers requests, and each answer takes some time.
    Even,
    /// The same, but one of the workers takes ten times as long.
    Skewed,
}

impl Task {
    const ALL: [Task; 4] = [Task::Http, Task::Stamp, Task::Even, Task::Skewed];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Task::Http => "http",
            Task::Stamp => "stamp",
            Task::Even => "even",
            Task::Skewed => "skewed",
        }
    }

    fn from_name(name: &str) -> Option<Task> {
        Task::ALL.into_iter().find(|task| task.name() == name)
    }
}

/// What a server is to be.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) contender: Contender,
    /// The workers' shares, which only ours heeds.
    pub(crate) weights: Vec<u32>,
    /// Who picks the worker, which only ours heeds.
    pub(crate) policy: Option<PolicyKind>,
    pub(crate) task: Task,
    /// What fits into a worker's mailbox, which only ours heeds.
    pub(crate) mailbox_connections: Option<usize>,
}

impl Setup {
    pub(crate) fn new(contender: Contender, workers: usize, task: Task) -> Setup {
        Setup {
            contender,
            weights: vec![1; workers],
            policy: None,
            task,
            mailbox_connections: None,
        }
    }

    fn to_args(&self) -> [String; 5] {
        let weights: Vec<String> = self.weights.iter().map(u32::to_string).collect();
        let policy = self.policy.map(|policy| policy.to_string()).unwrap_or_default();
        let mailbox = self.mailbox_connections.map(|n| n.to_string()).unwrap_or_default();
        let (contender, task) = (self.contender.name().into(), self.task.name().into());
        [contender, weights.join(","), policy, task, mailbox]
    }

    fn from_args(args: [&str; 5]) -> Result<Setup, Box<dyn Error>> {
        let [contender, weights, policy, task, mailbox] = args;
        Ok(Setup {
            contender: Contender::from_name(contender).ok_or("no such contender")?,
            weights: weights.split(',').map(str::parse).collect::<Result<_, _>>()?,
            policy: (!policy.is_empty()).then(|| policy.parse()).transpose()?,
            task: Task::from_name(task).ok_or("no such task")?,
            mailbox_connections: (!mailbox.is_empty()).then(|| mailbox.parse()).transpose()?,
        })
    }

    /// The arguments of the workers' program, without the slot.
    pub(crate) fn worker_args(&self) -> [&'static str; 3] {
        [WORKER, self.contender.name(), self.task.name()]
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    master: Child,
    address: SocketAddr,
    /// The master's process and the workers'.
    pids: Vec<Pid>,
}

impl Server {
    /// Starts a server, and waits until all its workers take connections.
    pub(crate) fn start(setup: &Setup) -> io::Result<Server> {
        let mut command = Command::new(env::current_exe()?);
        Server::spawn(command.arg(MASTER).args(setup.to_args()), setup.contender.name())
    }

    /// Starts a program that prints its address and the workers' process numbers on one line as
    /// soon as it takes connections, and ends at the end of its standard input.
    pub(crate) fn spawn(command: &mut Command, name: &str) -> io::Result<Server> {
        let mut master = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = master.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let pid = Pid::from_raw(i32::try_from(master.id()).map_err(io::Error::other)?);
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server = Server { master, address, pids: vec![pid] };
        let mut words = line.split_whitespace();
        let wrong = || io::Error::other(format!("{name} did not start: {line:?}"));
        server.address = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
        for pid in words {
            server.pids.push(Pid::from_raw(pid.parse().map_err(|_| wrong())?));
        }
        if server.pids.len() > 1 { Ok(server) } else { Err(wrong()) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the master and the workers have used of the processors, in user and kernel mode.
    pub(crate) fn cpu_time(&self) -> io::Result<Duration> {
        let mut sum = Duration::ZERO;
        for pid in &self.pids {
            sum += Duration::from(clock_gettime(clock_getcpuclockid(*pid)?)?);
        }
        Ok(sum)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its standard input ends the master, as the end of this process would.
        drop(self.master.stdin.take());
        let _ = self.master.wait();
    }
}

/// Is the master or the worker of a server, if this process was started as one.
pub(crate) fn run_if_asked() -> Result<bool, Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [MASTER, contender, weights, policy, task, mailbox] => {
            run_master(&Setup::from_args([contender, weights, policy, task, mailbox])?)?;
        }
        // Only those of raw can't say by themselves in which slot they are.
        [WORKER, contender, task, ref slot @ ..] => {
            let contender = Contender::from_name(contender).ok_or("no such contender")?;
            let task = Task::from_name(task).ok_or("no such task")?;
            match slot {
                [slot] => raw::work(contender, &Service::new(task, slot.parse()?, 1))?,
                _ => ours::work(task)?,
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Starts a cluster, whose master is a thread, says where it is, and keeps it until the end of
/// standard input.
fn run_master(setup: &Setup) -> Result<(), Box<dyn Error>> {
    let announce = |address: SocketAddr, pids: &[u32]| {
        let pids: String = pids.iter().map(|pid| format!(" {pid}")).collect();
        println!("{address}{pids}");
        io::stdin().read_to_end(&mut Vec::new())
    };
    if setup.contender.dispatch().is_none() {
        let cluster = raw::Cluster::start(setup)?;
        announce(cluster.address(), &cluster.pids())?;
    } else {
        let (cluster, address) = ours::start(setup)?;
        let pids: Vec<u32> = cluster.workers().iter().map(|worker| worker.pid).collect();
        announce(address, &pids)?;
    }
    Ok(())
}
