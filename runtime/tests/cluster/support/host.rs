//! Masters in processes of their own: tests kill them, and take away what they need.

use std::fs::File;
use std::io::{self, BufRead};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Uid, setuid};
use runtime::{Builder, Cluster, Dispatch, RestartPolicy, Worker};

use super::roles::{park_for_ever, serve_as, worker};
use crate::harness::{Outcome, ROLE, roles};
use crate::support::{Desk, Phone, role};

roles! {
    host,
    master,
    stubborn_worker,
}

/// A cluster of one worker that does not stop, and ignores SIGTERM, but says so.
pub(crate) fn stubborn_builder(desk: &Desk) -> Builder {
    role("stubborn_worker", &[&desk.number()]).workers(1)
}

/// `stubborn_worker DESK`.
fn stubborn_worker(args: &[String]) -> Outcome {
    stubborn(&worker()?, &args[0])
}

/// `master WORKERS DRAIN_MS KILL_MS KIND ARGS...`: a whole program around `Builder::run`, which
/// prints its events. Its workers are of a kind: `serve ADDRESS`, who may take their time, or
/// `stubborn DESK`, who don't stop, and ignore SIGTERM, but say so; or `leaving`, who disconnect.
fn master(args: &[String]) -> Outcome {
    let (kind, rest) = (args[3].clone(), args[4..].to_vec());
    Cluster::builder()
        .dispatch(Dispatch::Handoff)
        .workers(args[0].parse()?)
        .drain_timeout(Duration::from_millis(args[1].parse()?))
        .kill_timeout(Duration::from_millis(args[2].parse()?))
        .stall_timeout(Duration::from_secs(3600))
        .on_event(|event| println!("{event}"))
        .run(move |worker| match kind.as_str() {
            "serve" => serve_as(&worker, &rest),
            "stubborn" => stubborn(&worker, &rest[0]),
            "leaving" => Ok(worker.disconnect()?),
            other => Err(format!("no workers are {other}").into()),
        })?;
    println!("the cluster has ended well");
    Ok(())
}

fn stubborn(worker: &Worker, desk: &str) -> Outcome {
    let phone = Phone::new(desk, &worker.id().slot.to_string())?;
    let (mut reader, writer) = std::os::unix::net::UnixStream::pair()?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, writer)?;
    phone.say(&format!("ready {}", worker.id()))?;
    io::Read::read_exact(&mut reader, &mut [0])?;
    phone.say("SIGTERM")?;
    park_for_ever()
}

/// `host WORKERS DESCRIPTORS UID ROLE ARGS...`: a program that hosts a cluster, whose events it
/// prints. It may have so many descriptors, as many as the system lets it if that is 0, and is that
/// user's. From standard input it takes orders:
///
/// | order | effect |
/// |---|---|
/// | `hoard N` | it opens so many files that N descriptors are left, and prints `hoarded` |
/// | `release` | it closes them, and prints `released` |
/// | `starve`, `feed` | it can't have another process or thread, or can, and prints the order |
/// | end of input | it shuts its cluster down and ends |
fn host(args: &[String]) -> Outcome {
    let [descriptors, uid] = [args[1].parse()?, args[2].parse()?];
    if descriptors > 0 {
        setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors)?;
    }
    if uid > 0 {
        setuid(Uid::from_raw(u32::try_from(uid)?))?;
    }
    let restart = RestartPolicy {
        delay_min: Duration::from_millis(5),
        delay_max: Duration::from_millis(20),
        failures_max: 3,
        start_failures_max: 3,
        ..RestartPolicy::default()
    };
    let worker_args = std::iter::once(ROLE.to_owned()).chain(args[3..].iter().cloned());
    let cluster = Cluster::builder()
        .dispatch(Dispatch::Handoff)
        .workers(args[0].parse()?)
        .restart(restart)
        .stall_timeout(Duration::from_secs(3600))
        .args(worker_args)
        .on_event(|event| println!("{event}"))
        .spawn()?;
    let mut hoard = Vec::new();
    for order in io::stdin().lock().lines() {
        let order = order?;
        match order.split(' ').collect::<Vec<_>>()[..] {
            ["hoard", left] => {
                let left: usize = left.parse()?;
                while let Ok(file) = File::open("/dev/null") {
                    hoard.push(file);
                }
                hoard.truncate(hoard.len().saturating_sub(left));
                println!("hoarded");
            }
            ["release"] => {
                hoard.clear();
                println!("released");
            }
            ["starve"] => {
                let (_, hard) = getrlimit(Resource::RLIMIT_NPROC)?;
                setrlimit(Resource::RLIMIT_NPROC, 1, hard)?;
                println!("starve");
            }
            ["feed"] => {
                let (_, hard) = getrlimit(Resource::RLIMIT_NPROC)?;
                setrlimit(Resource::RLIMIT_NPROC, hard, hard)?;
                println!("feed");
            }
            _ => return Err(format!("no such order: {order}").into()),
        }
    }
    cluster.shutdown();
    cluster.wait()?;
    println!("the cluster has ended well");
    Ok(())
}
