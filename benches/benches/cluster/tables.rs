//! What is not measured beside raw: a program of its own for each, and a table.

use std::env;
use std::error::Error;
use std::io;
use std::process::Command;

use crate::load::{CONNECT, LOADS, Load, NEW_64, Sample, run_load, sample};
use crate::server::{Contender, Server, Setup, Task};

const USAGE: &str = "usage: cargo bench -p benches --bench cluster -- TABLE
  shares                    how many of 10000 connections each of 4 workers gets
  beside NAME=COMMAND ...   our servers and others in turns; node.sh has some";

/// Connections of a row of `shares`.
const CONNECTIONS: u64 = 10_000;

/// How often `beside` measures each server under each load.
const ROUNDS: usize = 5;

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
        ["beside", ref servers @ ..] => beside(servers)?,
        ["tables", ..] => println!("{USAGE}"),
        _ => return Ok(false),
    }
    Ok(true)
}

/// Who gets how many connections.
fn shares() -> io::Result<()> {
    println!("| weights | parallel | contender | slot 0 | slot 1 | slot 2 | slot 3 |");
    println!("|---|---|---|---|---|---|---|");
    for weights in [[1, 1, 1, 1], [5, 3, 1, 1]] {
        for clients in [1, 64] {
            for contender in Contender::ALL {
                if contender.is_raw() && weights != [1; 4] {
                    continue;
                }
                let mut setup = Setup::new(contender, weights.len(), Task::Http);
                setup.weights = weights.to_vec();
                let server = Server::start(&setup)?;
                let report = run_load(&server, &Load { clients, ..NEW_64 }, CONNECTIONS)?;
                let mut counts = [0; 4];
                for (worker, count) in report.workers() {
                    counts[worker.slot as usize] += count;
                }
                let [a, b, c, d] = counts;
                let weights = weights.map(|weight| weight.to_string()).join(":");
                let name = contender.name();
                println!("| {weights} | {clients} | {name} | {a} | {b} | {c} | {d} |");
            }
        }
    }
    Ok(())
}

/// One server of `beside`.
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
        for contender in Contender::ALL {
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
    let median = |row: &Row, value: fn(&Sample) -> u64| {
        let mut values: Vec<u64> = row.samples.iter().map(value).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    let us = |ns: u64| format!("{}.{} µs", ns / 1000, ns / 100 % 10);
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
