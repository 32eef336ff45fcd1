//! What is counted, and how it is shown.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use super::args::Options;
use super::histogram::Histogram;

/// What became of a number of requests.
#[derive(Debug)]
pub struct Report {
    url: String,
    clients: u32,
    keep_alive: bool,
    elapsed: Duration,
    tally: Tally,
}

/// A worker: the process number `generation` in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Worker {
    /// The slot's number.
    pub slot: u32,
    /// Which process in the slot.
    pub generation: u64,
}

/// When a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// While connecting.
    Connect,
    /// While sending the request or reading the answer.
    Request,
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nobody listens.
    Refused,
    /// The server reset the connection.
    Reset,
    /// The server closed the connection before the answer was complete.
    Eof,
    /// The request took longer than its timeout.
    Timeout,
    /// This machine has no free local port for the server's address.
    NoPort,
    /// The status was not 2xx.
    Status,
    /// What came was not an HTTP/1 answer.
    Malformed,
    /// Any other error of the system.
    Other,
}

/// What one client counts, or all together. Its size does not depend on how long they run.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) latency: Histogram,
    pub(super) ok: u64,
    pub(super) connections: u64,
    /// Connections that the client closed first, because the server did not in time.
    pub(super) unclosed: u64,
    failed: [[u64; Kind::ALL.len()]; 2],
    first_failure: Option<String>,
    workers: BTreeMap<Worker, u64>,
    /// Answers that named no worker, or one more than fit.
    unnamed: u64,
}

impl Report {
    pub(super) fn new(options: &Options, elapsed: Duration, tally: Tally) -> Self {
        let Options { target, path, clients, keep_alive, .. } = options;
        let url = format!("{target}{path}");
        Self { url, clients: *clients, keep_alive: *keep_alive, elapsed, tally }
    }

    /// How many requests were answered with a 2xx status.
    #[must_use]
    pub fn ok(&self) -> u64 {
        self.tally.ok
    }

    /// How many requests failed this way.
    #[must_use]
    pub fn failed(&self, phase: Phase, kind: Kind) -> u64 {
        self.tally.failed[phase as usize][kind as usize]
    }

    /// How many requests failed in any way.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.tally.failed.iter().flatten().sum()
    }

    /// How long the run took, until its last request had ended.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The latency that `percent` (1 to 100) of the requests that were answered with a 2xx status
    /// don't exceed, up to 1/64 too high; 0 when there were none.
    #[must_use]
    pub fn latency(&self, percent: u64) -> Duration {
        self.tally.latency.percentile(percent)
    }

    /// Whether there were requests, and all were answered with a 2xx status.
    #[must_use]
    pub fn is_all_ok(&self) -> bool {
        self.ok() > 0 && self.failures() == 0
    }

    /// How many connections were made.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.tally.connections
    }

    /// How many connections the client closed first, because the server did not though asked to.
    #[must_use]
    pub fn unclosed(&self) -> u64 {
        self.tally.unclosed
    }

    /// How many answers, of any status, each worker gave.
    #[must_use]
    pub fn workers(&self) -> &BTreeMap<Worker, u64> {
        &self.tally.workers
    }

    /// The report as one JSON object on one line, times in microseconds. Keys are only ever added.
    #[must_use]
    pub fn to_json(&self) -> String {
        let Self { url, clients, keep_alive, tally, .. } = self;
        let latency = &tally.latency;
        let failed = |phase| {
            json_object(Kind::ALL.map(|kind| (kind.name().to_owned(), self.failed(phase, kind))))
        };
        let slots = self.slots().into_iter().map(|(slot, count)| (slot.to_string(), count));
        let workers = tally.workers.iter().map(|(worker, &count)| (worker.to_string(), count));
        format!(
            "{{\"url\":{},\"clients\":{clients},\"keep_alive\":{keep_alive},\"seconds\":{:.3},\
             \"requests\":{},\"ok\":{},\"ok_per_second\":{:.1},\"connections\":{},\"unclosed\":{},\
             \"failed\":{{\"connect\":{},\"request\":{}}},\"first_failure\":{},\
             \"latency_us\":{{\"p50\":{:.1},\"p90\":{:.1},\"p99\":{:.1},\"max\":{:.1}}},\
             \"slots\":{},\"workers\":{},\"unnamed\":{}}}",
            json_string(url),
            self.elapsed.as_secs_f64(),
            self.requests(),
            self.ok(),
            self.per_second(),
            tally.connections,
            tally.unclosed,
            failed(Phase::Connect),
            failed(Phase::Request),
            tally.first_failure.as_deref().map_or_else(|| "null".into(), json_string),
            micros(latency.percentile(50)),
            micros(latency.percentile(90)),
            micros(latency.percentile(99)),
            micros(latency.max()),
            json_object(slots),
            json_object(workers),
            tally.unnamed,
        )
    }

    fn requests(&self) -> u64 {
        self.ok() + self.failures()
    }

    fn per_second(&self) -> f64 {
        self.ok() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn slots(&self) -> BTreeMap<u32, u64> {
        let mut slots = BTreeMap::new();
        for (worker, count) in &self.tally.workers {
            *slots.entry(worker.slot).or_default() += count;
        }
        slots
    }

    fn write_failures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "failed       {:>11}", self.failures())?;
        if self.failures() == 0 {
            return Ok(());
        }
        writeln!(f, "                  connecting   requesting")?;
        for kind in Kind::ALL {
            let counts = [Phase::Connect, Phase::Request].map(|phase| self.failed(phase, kind));
            if counts != [0, 0] {
                writeln!(f, "  {:<11}{:>15}{:>13}", kind.name(), counts[0], counts[1])?;
            }
        }
        if let Some(failure) = &self.tally.first_failure {
            writeln!(f, "  the first: {failure}")?;
        }
        if self.failed(Phase::Connect, Kind::NoPort) > 0 {
            writeln!(f, "{NO_PORT_REMEDY}")?;
        }
        Ok(())
    }

    fn write_workers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = self.tally.workers.values().sum::<u64>() + self.tally.unnamed;
        let share = |count: u64| 100.0 * count as f64 / answers.max(1) as f64;
        if self.tally.workers.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nslot      answers   share   of these, by generation")?;
        for (slot, count) in self.slots() {
            write!(f, "{slot:>4}  {count:>11}  {:>5.1}%  ", share(count))?;
            let of_slot = Worker { slot, generation: 0 }..=Worker { slot, generation: u64::MAX };
            for (worker, count) in self.tally.workers.range(of_slot) {
                write!(f, " .{}: {count}", worker.generation)?;
            }
            writeln!(f)?;
        }
        if self.tally.unnamed > 0 {
            let count = self.tally.unnamed;
            writeln!(f, "none  {count:>11}  {:>5.1}%", share(count))?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    /// A small table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = if self.keep_alive { "kept" } else { "new" };
        let (url, clients) = (&self.url, self.clients);
        let seconds = self.elapsed.as_secs_f64();
        writeln!(f, "{url}: {clients} clients, {connections} connections, {seconds:.2} s\n")?;
        writeln!(f, "ok           {:>11}   {:.0} per second", self.ok(), self.per_second())?;
        self.write_failures(f)?;
        writeln!(f, "connections  {:>11}", self.connections())?;
        if self.tally.unclosed > 0 {
            writeln!(
                f,
                "  {} were not closed by the server, though asked to",
                self.tally.unclosed
            )?;
        }
        let latency = &self.tally.latency;
        let millis = |duration| micros(duration) / 1000.0;
        writeln!(
            f,
            "latency, ms    p50 {:.3}   p90 {:.3}   p99 {:.3}   max {:.3}",
            millis(latency.percentile(50)),
            millis(latency.percentile(90)),
            millis(latency.percentile(99)),
            millis(latency.max()),
        )?;
        self.write_workers(f)
    }
}

impl Worker {
    /// Parses `SLOT.GENERATION`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (slot, generation) = text.split_once('.')?;
        Some(Self { slot: slot.parse().ok()?, generation: generation.parse().ok()? })
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

impl Kind {
    /// All, in the order of their declaration: the counts are indexed by it.
    const ALL: [Self; 8] = [
        Self::Refused,
        Self::Reset,
        Self::Eof,
        Self::Timeout,
        Self::NoPort,
        Self::Status,
        Self::Malformed,
        Self::Other,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Eof => "eof",
            Self::Timeout => "timeout",
            Self::NoPort => "no_port",
            Self::Status => "status",
            Self::Malformed => "malformed",
            Self::Other => "other",
        }
    }
}

impl Tally {
    pub(super) fn fail(&mut self, phase: Phase, kind: Kind, detail: impl FnOnce() -> String) {
        self.failed[phase as usize][kind as usize] += 1;
        self.first_failure.get_or_insert_with(detail);
    }

    pub(super) fn answered_by(&mut self, worker: Option<Worker>) {
        self.add_answers(worker, 1);
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.latency.merge(&other.latency);
        self.ok += other.ok;
        self.connections += other.connections;
        self.unclosed += other.unclosed;
        let counts = self.failed.iter_mut().flatten().zip(other.failed.iter().flatten());
        counts.for_each(|(count, other)| *count += other);
        self.first_failure = self.first_failure.take().or(other.first_failure);
        other.workers.into_iter().for_each(|(worker, count)| self.add_answers(Some(worker), count));
        self.unnamed += other.unnamed;
    }

    fn add_answers(&mut self, worker: Option<Worker>, count: u64) {
        let is_full = self.workers.len() >= WORKERS_MAX;
        match worker {
            Some(worker) if !is_full || self.workers.contains_key(&worker) => {
                *self.workers.entry(worker).or_default() += count;
            }
            _ => self.unnamed += count,
        }
    }
}

/// The most workers that are told apart: what a server says must not cost memory without bound.
const WORKERS_MAX: usize = 4096;

const NO_PORT_REMEDY: &str = "  \
no_port: this machine has no free local port for that address. Use --keep-alive, a unix socket, or
  fewer clients, or widen net.ipv4.ip_local_port_range; and see that the server closes first";

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn json_object(pairs: impl IntoIterator<Item = (String, u64)>) -> String {
    let pair = |(key, value): (String, u64)| format!("{}:{value}", json_string(&key));
    format!("{{{}}}", pairs.into_iter().map(pair).collect::<Vec<_>>().join(","))
}

fn json_string(text: &str) -> String {
    let mut json = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c.is_control() => write!(json, "\\u{:04x}", u32::from(c)).expect("to a string"),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Target;

    fn report(tally: Tally) -> Report {
        let options = Options::new(Target::Tcp("h:80".into()));
        Report::new(&options, Duration::from_secs(2), tally)
    }

    fn worker(slot: u32, generation: u64) -> Option<Worker> {
        Some(Worker { slot, generation })
    }

    /// Three answers by two workers in slot 0, one of them no 2xx, and a refused connection.
    fn tally() -> Tally {
        let mut tally = Tally { ok: 2, connections: 3, ..Tally::default() };
        tally.latency.record(Duration::from_micros(50));
        tally.latency.record(Duration::from_micros(1500));
        tally.answered_by(worker(0, 1));
        tally.answered_by(worker(0, 2));
        tally.answered_by(None);
        tally.fail(Phase::Request, Kind::Status, || "status 503".into());
        tally.fail(Phase::Connect, Kind::Refused, || unreachable!("not the first"));
        tally
    }

    #[test]
    fn the_table_shows_what_happened_and_nothing_else() {
        let expected = "\
http://h:80/: 32 clients, new connections, 2.00 s

ok                     2   1 per second
failed                 2
                  connecting   requesting
  refused                  1            0
  status                   0            1
  the first: status 503
connections            3
latency, ms    p50 0.050   p90 1.500   p99 1.500   max 1.500

slot      answers   share   of these, by generation
   0            2   66.7%   .1: 1 .2: 1
none            1   33.3%
";
        assert_eq!(report(tally()).to_string(), expected);
    }

    #[test]
    fn json_has_every_key_on_one_line() {
        let expected = concat!(
            r#"{"url":"http://h:80/","clients":32,"keep_alive":false,"seconds":2.000,"#,
            r#""requests":4,"ok":2,"ok_per_second":1.0,"connections":3,"unclosed":0,"#,
            r#""failed":{"connect":{"refused":1,"reset":0,"eof":0,"timeout":0,"no_port":0,"#,
            r#""status":0,"malformed":0,"other":0},"request":{"refused":0,"reset":0,"eof":0,"#,
            r#""timeout":0,"no_port":0,"status":1,"malformed":0,"other":0}},"#,
            r#""first_failure":"status 503","#,
            r#""latency_us":{"p50":50.2,"p90":1500.0,"p99":1500.0,"max":1500.0},"#,
            r#""slots":{"0":2},"workers":{"0.1":1,"0.2":1},"unnamed":1}"#,
        );
        assert_eq!(report(tally()).to_json(), expected);
    }

    #[test]
    fn json_strings_are_escaped() {
        assert_eq!(json_string("a\"b\\c\n\u{7f}é"), r#""a\"b\\c\u000a\u007fé""#);
    }

    #[test]
    fn tallies_add_up() {
        let mut sum = tally();
        sum.merge(tally());
        let report = report(sum);
        assert_eq!((report.ok(), report.failures(), report.connections()), (4, 4, 6));
        assert_eq!(report.failed(Phase::Request, Kind::Status), 2);
        assert_eq!(report.workers().values().sum::<u64>(), 4);
        assert_eq!(report.tally.unnamed, 2);
    }

    #[test]
    fn all_ok_needs_requests_and_no_failure() {
        assert!(!report(Tally::default()).is_all_ok());
        assert!(report(Tally { ok: 1, ..Tally::default() }).is_all_ok());
        assert!(!report(tally()).is_all_ok());
    }

    #[test]
    fn kinds_are_listed_in_the_order_of_their_numbers() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
        }
    }

    #[test]
    fn workers_beyond_the_limit_are_counted_as_unnamed() {
        let mut tally = Tally::default();
        for generation in 0..=WORKERS_MAX as u64 {
            tally.answered_by(worker(0, generation));
        }
        tally.answered_by(worker(0, 0));
        assert_eq!((tally.workers.len(), tally.unnamed), (WORKERS_MAX, 1));
        assert_eq!(tally.workers[&Worker { slot: 0, generation: 0 }], 2);
    }

    #[test]
    fn running_out_of_ports_comes_with_a_remedy() {
        let mut tally = Tally::default();
        tally.fail(Phase::Connect, Kind::NoPort, || "connect: no port".into());
        assert!(report(tally).to_string().contains("widen net.ipv4.ip_local_port_range"));
    }
}
