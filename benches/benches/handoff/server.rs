//! A master and its workers, in processes of their own that end with this one.

use std::env;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::{ours, raw, stamp};

const MASTER: &str = "handoff-master";
pub(crate) const WORKER: &str = "handoff-worker";

/// Who hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    /// The system calls, by hand.
    Raw,
    /// `runtime`, with mio in the worker.
    Ours,
    /// `runtime`, with a blocking worker.
    OursBlocking,
}

impl Contender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::Raw => "raw",
            Contender::Ours => "ours",
            Contender::OursBlocking => "ours-blocking",
        }
    }

    fn from_name(name: &str) -> Option<Contender> {
        let all = [Contender::Raw, Contender::Ours, Contender::OursBlocking];
        all.into_iter().find(|contender| contender.name() == name)
    }
}

/// What a worker does with a connection before it closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    /// Tells the client when it took it.
    Stamp,
    /// Nothing.
    Close,
}

impl Task {
    /// What is measured by it.
    pub(crate) fn subject(self) -> &'static str {
        match self {
            Task::Stamp => "latency",
            Task::Close => "throughput",
        }
    }

    fn from_subject(subject: &str) -> Option<Task> {
        [Task::Stamp, Task::Close].into_iter().find(|task| task.subject() == subject)
    }

    /// To be called at once when a connection was taken.
    pub(crate) fn perform(self, connection: impl AsFd) -> io::Result<()> {
        if self == Task::Stamp {
            stamp::send(connection)?;
        }
        Ok(())
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
    pub(crate) fn start(contender: Contender, workers: usize, task: Task) -> io::Result<Server> {
        let mut master = Command::new(env::current_exe()?)
            .args([MASTER, contender.name(), &workers.to_string(), task.subject()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(stdout) = master.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let pid = Pid::from_raw(i32::try_from(master.id()).map_err(io::Error::other)?);
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server = Server { master, address, pids: vec![pid] };
        let mut words = line.split_whitespace();
        let wrong = || io::Error::other(format!("{} did not start: {line:?}", contender.name()));
        server.address = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
        for pid in words {
            server.pids.push(Pid::from_raw(pid.parse().map_err(|_| wrong())?));
        }
        if server.pids.len() == 1 + workers { Ok(server) } else { Err(wrong()) }
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
        [MASTER, contender, workers, task] => {
            let contender = Contender::from_name(contender).ok_or("no such contender")?;
            let task = Task::from_subject(task).ok_or("no such task")?;
            run_master(contender, workers.parse()?, task)?;
        }
        [WORKER, contender, task] => {
            let task = Task::from_subject(task).ok_or("no such task")?;
            match Contender::from_name(contender).ok_or("no such contender")? {
                Contender::Raw => raw::work(task)?,
                Contender::Ours => ours::work(task)?,
                Contender::OursBlocking => ours::work_blocking(task)?,
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Starts a cluster, whose master is a thread, says where it is, and keeps it until the end of
/// standard input.
fn run_master(contender: Contender, workers: usize, task: Task) -> Result<(), Box<dyn Error>> {
    let args = [WORKER, contender.name(), task.subject()];
    let announce = |address: SocketAddr, pids: &[u32]| {
        let pids: String = pids.iter().map(|pid| format!(" {pid}")).collect();
        println!("{address}{pids}");
        io::stdin().read_to_end(&mut Vec::new())
    };
    if contender == Contender::Raw {
        let cluster = raw::Cluster::start(workers, args)?;
        announce(cluster.address(), &cluster.pids())?;
    } else {
        let (cluster, address) = ours::start(workers, args)?;
        let pids: Vec<u32> = cluster.workers().iter().map(|worker| worker.pid).collect();
        announce(address, &pids)?;
    }
    Ok(())
}
