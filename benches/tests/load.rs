//! The load client against small servers that behave, and misbehave, in known ways.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use benches::load::{self, Kind, Options, Phase, Report, Worker};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

#[test]
fn each_request_takes_a_connection_and_its_worker_is_counted() {
    let address = serve(|mut stream, nth| {
        read_request(&mut stream);
        let worker = ["0.1", "1.1", "1.2", "1.2"][nth % 4];
        let answer = OK.replace("connection", &format!("x-worker: {worker}\r\nconnection"));
        let _ = stream.write_all(answer.as_bytes());
    });
    let report = load(&format!("--url http://{address} --clients 4 --requests 100"));
    assert!(report.is_all_ok(), "{report}");
    assert_eq!((report.ok(), report.connections(), report.unclosed()), (100, 100, 0));
    let counts: Vec<_> = report.workers().iter().map(|(worker, &n)| (*worker, n)).collect();
    let worker = |slot, generation| Worker { slot, generation };
    assert_eq!(counts, [(worker(0, 1), 25), (worker(1, 1), 25), (worker(1, 2), 50)]);
}

#[test]
fn a_kept_connection_carries_all_requests() {
    let address = serve(|stream, _| answer_on(stream, usize::MAX));
    let report = load(&format!("--url http://{address} --clients 1 --requests 50 --keep-alive"));
    assert_eq!((report.ok(), report.failures(), report.connections()), (50, 0, 1), "{report}");
    let report = load(&format!("--url http://{address} --clients 4 --requests 50 --keep-alive"));
    assert_eq!((report.ok(), report.failures()), (50, 0), "{report}");
    assert!((1..=4).contains(&report.connections()), "{report}");
}

#[test]
fn a_rate_is_kept_and_a_request_that_is_not_due_in_time_not_begun() {
    let address = serve(|stream, _| answer_on(stream, usize::MAX));
    let line = format!("--url http://{address} --clients 4 --keep-alive --rate 100");
    let report = load(&format!("{line} --requests 10"));
    assert_eq!((report.ok(), report.failures()), (10, 0), "{report}");
    assert!(report.elapsed() >= Duration::from_millis(90), "{report}");
    // The first is due at once, and the others after the end.
    let report = load(&format!("{line} --rate 1 --seconds 0.2"));
    assert_eq!((report.ok(), report.failures()), (1, 0), "{report}");
}

#[test]
fn a_kept_connection_is_replaced_when_the_server_announces_its_end() {
    let address = serve(|stream, _| answer_on(stream, 10));
    let report = load(&format!("--url http://{address} --clients 1 --requests 50 --keep-alive"));
    assert_eq!((report.ok(), report.failures(), report.connections()), (50, 0, 5), "{report}");
}

#[test]
fn a_kept_connection_that_ends_without_notice_is_a_failure() {
    // The second request on each connection is read and not answered.
    let address = serve(|mut stream, _| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        read_request(&mut stream);
    });
    let report = load(&format!("--url http://{address} --clients 1 --requests 10 --keep-alive"));
    assert_eq!((report.ok(), report.connections()), (5, 5), "{report}");
    assert_only_failure(&report, Phase::Request, Kind::Eof, 5);
}

#[test]
fn a_reset_is_told_from_an_early_end() {
    let address = serve(|mut stream, _| {
        read_request(&mut stream);
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let report = load(&format!("--url http://{address} --clients 2 --requests 10"));
    assert_only_failure(&report, Phase::Request, Kind::Reset, 10);

    let address = serve(|mut stream, _| {
        read_request(&mut stream);
        let _ = stream.write_all(&OK.as_bytes()[..OK.len() - 1]);
    });
    let report = load(&format!("--url http://{address} --clients 2 --requests 10"));
    assert_only_failure(&report, Phase::Request, Kind::Eof, 10);
}

#[test]
fn nobody_listening_is_refused() {
    // Bound and not listening: no other test can get the port meanwhile.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let report = load(&format!("--url http://{address} --clients 2 --requests 4"));
    assert_only_failure(&report, Phase::Connect, Kind::Refused, 4);
    assert_eq!(report.connections(), 0);

    let directory = Directory::new("refused");
    let report = load(&format!("--url unix:{} --requests 2", directory.socket()));
    assert_only_failure(&report, Phase::Connect, Kind::Refused, 2);
}

#[test]
fn a_server_that_never_answers_times_out() {
    let address = serve(|mut stream, _| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let line = format!("--url http://{address} --clients 2 --requests 4 --timeout-ms 30");
    assert_only_failure(&load(&line), Phase::Request, Kind::Timeout, 4);
}

#[test]
fn an_endless_answer_times_out_though_bytes_keep_coming() {
    let address = serve(|mut stream, _| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 7]).is_ok() {}
    });
    let line = format!("--url http://{address} --clients 1 --requests 2 --timeout-ms 30");
    assert_only_failure(&load(&line), Phase::Request, Kind::Timeout, 2);
}

#[test]
fn a_full_backlog_times_out_while_connecting() {
    let directory = Directory::new("backlog");
    let address = SockAddr::unix(directory.socket()).unwrap();
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    let first = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    first.connect(&address).unwrap();
    let line = format!("--url unix:{} --requests 2 --timeout-ms 30", directory.socket());
    assert_only_failure(&load(&line), Phase::Connect, Kind::Timeout, 2);
}

#[test]
fn a_status_other_than_2xx_is_a_failure_of_a_worker_that_answered() {
    let address = serve(|mut stream, _| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.0 503 Busy\r\nx-worker: 7.1\r\n\r\n");
    });
    let report = load(&format!("--url http://{address} --clients 2 --requests 10"));
    assert_only_failure(&report, Phase::Request, Kind::Status, 10);
    assert_eq!(report.workers().values().sum::<u64>(), 10);
}

#[test]
fn what_is_not_http_is_malformed() {
    let address = serve(|mut stream, _| {
        read_request(&mut stream);
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
    });
    let report = load(&format!("--url http://{address} --requests 3"));
    assert_only_failure(&report, Phase::Request, Kind::Malformed, 3);
}

#[test]
fn a_server_that_does_not_close_is_counted_and_not_waited_for_again() {
    let address = serve(|mut stream, _| {
        read_request(&mut stream);
        let _ = stream.write_all(OK.as_bytes());
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let report = load(&format!("--url http://{address} --clients 1 --requests 20"));
    assert_eq!((report.ok(), report.failures(), report.unclosed()), (20, 0, 20), "{report}");
}

#[test]
fn unix_sockets_are_served_too() {
    let directory = Directory::new("unix");
    let listener = UnixListener::bind(directory.socket()).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            assert_eq!(read_request(&mut stream), "GET /status HTTP/1.1");
            let _ = stream.write_all(OK.as_bytes());
        }
    });
    let line = format!("--url unix:{} --path /status --requests 20", directory.socket());
    let report = load(&line);
    assert_eq!((report.ok(), report.failures()), (20, 0), "{report}");
}

#[test]
fn a_run_that_is_stopped_before_it_begins_makes_no_request() {
    let load::Command::Run(options) = Options::parse(["--url", "http://127.0.0.1:1"]).unwrap()
    else {
        panic!("not a run");
    };
    let report = load::run(&options, &AtomicBool::new(true)).unwrap();
    assert_eq!((report.ok(), report.failures()), (0, 0));
    assert!(!report.is_all_ok());
}

#[test]
fn the_program_prints_a_table_or_json_and_exits_with_0_when_all_were_answered() {
    let address = serve(|stream, _| answer_on(stream, 1));
    let url = format!("http://{address}/");
    let output = program(&["--url", &url, "--requests", "5"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("ok                     5"), "{output:?}");
    let output = program(&["--url", &url, "--requests", "5", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).starts_with("{\"url\":"), "{output:?}");
    assert_eq!(text(&output.stdout).lines().count(), 1);
    assert_eq!(program(&["--help"]).status.code(), Some(0));
}

#[test]
fn the_program_exits_with_1_after_a_failure_and_2_when_it_could_not_run() {
    let address = serve(|stream, _| drop(stream));
    let output = program(&["--url", &format!("http://{address}"), "--requests", "1"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let no_address = format!("unix:{}", "x".repeat(200));
    for args in [&["--frobnicate"][..], &["--url", &no_address]] {
        let output = program(args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text(&output.stderr).starts_with("load: "), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

#[test]
fn an_interrupt_ends_the_run_early_with_its_report() {
    let (sender, receiver) = mpsc::channel();
    let address = serve(move |stream, _| {
        let _ = sender.send(());
        answer_on(stream, 1);
    });
    let child = Command::new(env!("CARGO_BIN_EXE_load"))
        .args(["--url", &format!("http://{address}"), "--seconds", "60", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    receiver.recv_timeout(DEADLINE).expect("no request came");
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!text(&output.stdout).contains("\"seconds\":60."), "{output:?}");
}

fn load(line: &str) -> Report {
    match Options::parse(line.split_whitespace()).unwrap() {
        load::Command::Run(options) => load::run(&options, &AtomicBool::new(false)).unwrap(),
        load::Command::Help => panic!("{line} asks for help"),
    }
}

fn program(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_load")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn assert_only_failure(report: &Report, phase: Phase, kind: Kind, count: u64) {
    assert_eq!(report.failed(phase, kind), count, "{report}");
    assert_eq!(report.failures(), count, "{report}");
}

/// Starts a server: each connection gets a thread that runs `handle`, with the connection's number.
/// It ends with the process.
fn serve(handle: impl Fn(TcpStream, usize) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (nth, stream) in listener.incoming().enumerate() {
            let (stream, handle) = (stream.unwrap(), handle.clone());
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            thread::spawn(move || handle(stream, nth));
        }
    });
    address
}

/// Answers requests until the client closes, or so many were answered: the last says that the
/// connection is closed.
fn answer_on(mut stream: TcpStream, count: usize) {
    for left in (0..count).rev() {
        if read_request(&mut stream).is_empty() {
            return;
        }
        let close = if left == 0 { "connection: close\r\n" } else { "" };
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{close}\r\nok");
        let _ = stream.write_all(answer.as_bytes());
    }
}

/// Reads a request's head; returns its first line, which is empty at the end of the connection.
fn read_request(stream: &mut impl Read) -> String {
    let mut lines = BufReader::with_capacity(1, stream).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    lines.find(String::is_empty);
    first
}

/// A directory for a socket, removed when the test ends.
struct Directory(std::path::PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("load-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> String {
        self.0.join("socket").to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How long a step of a test may take before it fails.
const DEADLINE: Duration = Duration::from_secs(20);
