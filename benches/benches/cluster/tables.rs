//! What is not measured beside raw: a program of its own for each, and a table. README.md has the
//! command lines.

use std::env;
use std::error::Error;
use std::io;
use std::process::Command;

use scheduler::PolicyKind;

use crate::load::{CONNECT, LOADS, Load, NEW_64, Sample, run_load, sample};
use crate::server::{Contender, Server, Setup, Task};

/// Connections of a row of `shares`.
const CONNECTIONS: u64 = 10_000;

/// As large as mailboxes may be: there is room for all connections that are open at a time.
const ROOM: usize = 128;

/// How often `beside` measures each server under each load.
const ROUNDS: usize = 5;

/// How often `skew` measures each server under each load.
const SKEW_ROUNDS: usize = 10;

/// How many requests each time.
const SKEW_REQUESTS: u64 = 4_000;

/// The policies of `skew`.
const POLICIES: [PolicyKind; 4] = [
    PolicyKind::RoundRobin,
    PolicyKind::LeastConnections,
    PolicyKind::PowerOfTwo,
    PolicyKind::LeastTime,
];

/// How many requests a round of `beside` has, by the load.
fn requests(load: &Load) -> u64 {
    match load.rate {
        Some(rate) => u64::from(rate) * 2,
        None if load.keep_alive => 20_000,
        None => 4_000,
    }
}

/// Prints the table that the command line asks for.
pub(crate) fn print_if_asked() -> Result<bool, Box<dyn Error>> {
    // Cargo adds the flag.
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["shares"] => shares()?,
        ["skew"] => skew()?,
        ["beside", ref servers @ ..] => beside(servers)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Who gets how many connections.
fn shares() -> io::Result<()> {
    println!("| weights | parallel | contender | slot 0 | slot 1 | slot 2 | slot 3 |");
    println!("|---|---|---|---|---|---|---|");
    let contenders = Contender::available();
    for weights in [[1, 1, 1, 1], [5, 3, 1, 1]] {
        for clients in [1, 64] {
            for &contender in &contenders {
                let mut setup = Setup::new(contender, weights.len(), Task::Http);
                setup.weights = weights.to_vec();
                if contender.dispatch().is_some() || weights == [1; 4] {
                    shares_of(&setup, clients, contender.name())?;
                }
                if contender == Contender::Handoff && clients > 1 {
                    setup.mailbox_connections = Some(ROOM);
                    shares_of(&setup, clients, "handoff with room")?;
                }
            }
        }
    }
    Ok(())
}

fn shares_of(setup: &Setup, clients: u32, name: &str) -> io::Result<()> {
    let server = Server::start(setup)?;
    let report = run_load(&server, &Load { clients, ..NEW_64 }, CONNECTIONS)?;
    let mut counts = [0; 4];
    for (worker, count) in report.workers() {
        counts[worker.slot as usize] += count;
    }
    let [a, b, c, d] = counts;
    let weights: Vec<String> = setup.weights.iter().map(u32::to_string).collect();
    println!("| {} | {clients} | {name} | {a} | {b} | {c} | {d} |", weights.join(":"));
    Ok(())
}

/// What becomes of latencies when one worker is slow.
fn skew() -> io::Result<()> {
    println!("| load | policy | even p50 | p99 | skewed p50 | p99 | p50 / even | p99 / even |");
    println!("|---|---|---|---|---|---|---|---|");
    let loads = [
        Load { name: "new-16", clients: 16, ..NEW_64 },
        Load { name: "4000/s", rate: Some(4000), ..NEW_64 },
        Load { name: "8000/s", rate: Some(8000), ..NEW_64 },
    ];
    for load in loads {
        for policy in POLICIES {
            let start = |task| {
                let setup = Setup::new(Contender::Handoff, 4, task);
                let server = Server::start(&Setup { policy: Some(policy), ..setup })?;
                io::Result::Ok(Row { name: policy.to_string(), server, samples: Vec::new() })
            };
            let mut rows = [start(Task::Even)?, start(Task::Skewed)?];
            for _ in 0..SKEW_ROUNDS {
                for row in &mut rows {
                    row.samples.push(sample(&row.server, &load, SKEW_REQUESTS)?);
                }
            }
            let latencies_ns = rows.each_ref().map(|row| {
                [median(row, |sample| sample.p50_ns), median(row, |sample| sample.p99_ns)]
            });
            let [[even_p50, even_p99], [p50, p99]] = latencies_ns;
            let name = load.name;
            print!("| {name} | {policy} | {} | {} |", us(even_p50), us(even_p99));
            print!(" {} | {} |", us(p50), us(p99));
            println!(" {} | {} |", ratio(p50, even_p50), ratio(p99, even_p99));
        }
    }
    Ok(())
}

/// One server, and what was measured of it.
struct Row {
    name: String,
    server: Server,
    samples: Vec<Sample>,
}

/// Measures other servers and ours in the same run, each by commands of the shell that start them.
/// What is to be done is in their environment, as `TASK`, the number of workers as `WORKERS`.
fn beside(servers: &[&str]) -> Result<(), Box<dyn Error>> {
    const WORKERS: usize = 4;
    println!("| load | server | CPU | per second | p50 | p99 | CPU / the first's |");
    println!("|---|---|---|---|---|---|---|");
    let contenders = Contender::available();
    for load in LOADS {
        let mut rows = Vec::new();
        for server in servers {
            let (name, command) = server.split_once('=').ok_or("NAME=COMMAND")?;
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("exec {command}")]);
            shell.env("TASK", load.task.name()).env("WORKERS", WORKERS.to_string());
            match Server::spawn(&mut shell, name) {
                Ok(server) => rows.push(Row { name: name.into(), server, samples: Vec::new() }),
                // Not all can do all.
                Err(_) if load.name == CONNECT.name => {}
                Err(error) => return Err(error.into()),
            }
        }
        for &contender in &contenders {
            let server = Server::start(&Setup::new(contender, WORKERS, load.task))?;
            rows.push(Row { name: contender.name().into(), server, samples: Vec::new() });
        }
        // A short round for warming up, which is not counted.
        for row in &rows {
            sample(&row.server, &load, requests(&load) / 4)?;
        }
        for _ in 0..ROUNDS {
            for row in &mut rows {
                row.samples.push(sample(&row.server, &load, requests(&load))?);
            }
        }
        print_rows(&load, &rows);
    }
    Ok(())
}

fn print_rows(load: &Load, rows: &[Row]) {
    let first_cpu_ns = rows.first().map_or(1, |row| median(row, |sample| sample.cpu_ns));
    for row in rows {
        let cpu_ns = median(row, |sample| sample.cpu_ns);
        let per_second = 1_000_000_000 / median(row, |sample| sample.wall_ns).max(1);
        let percent = cpu_ns * 100 / first_cpu_ns.max(1);
        let [p50, p99] =
            [median(row, |sample| sample.p50_ns), median(row, |sample| sample.p99_ns)].map(us);
        let (load, name, cpu) = (load.name, &row.name, us(cpu_ns));
        println!("| {load} | {name} | {cpu} | {per_second} | {p50} | {p99} | {percent} % |");
    }
}

/// The median of all samples.
fn median(row: &Row, value: fn(&Sample) -> u64) -> u64 {
    let mut values: Vec<u64> = row.samples.iter().map(value).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

fn us(ns: u64) -> String {
    format!("{}.{} µs", ns / 1000, ns / 100 % 10)
}

fn ratio(ns: u64, even_ns: u64) -> String {
    let percent = ns * 100 / even_ns.max(1);
    format!("{}.{:02}", percent / 100, percent % 100)
}
