//! Sockets that the master was started with.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use runtime::{Address, Dispatch, Event};

use crate::harness::tests;
use crate::support::{Desk, Directory, Program, Running, ask, puppets, role, wait_until};

tests! {
    an_inherited_listener_is_served_under_its_real_address,
    an_inherited_listener_outlives_the_cluster,
    what_cannot_be_inherited_is_refused_by_name,
    sockets_of_systemds_are_found_by_name,
    sockets_that_systemd_gave_to_another_process_are_refused,
}

/// Makes a descriptor one that this process could have been started with; gives its number.
fn inherit(descriptor: &impl AsFd) -> i32 {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).expect("it is open");
    descriptor.as_fd().as_raw_fd()
}

/// PARITY 1B, `listen({fd})`: the number is the master's.
fn an_inherited_listener_is_served_under_its_real_address() {
    let directory = Directory::new();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = directory.join("socket");
    let unix = UnixListener::bind(&path).unwrap();
    let cases = [
        (inherit(&tcp), Address::Tcp(tcp.local_addr().unwrap())),
        (inherit(&unix), Address::Unix(path.clone())),
    ];
    for ((number, address), dispatch) in
        cases.iter().flat_map(|case| Dispatch::ALL.map(|dispatch| (case, dispatch)))
    {
        let role = role("serve", &[&format!("fd:{number}")]).dispatch(dispatch);
        let mut running = Running::start(role.workers(2));
        assert_eq!(running.listening(2), *address);
        let mut names = BTreeSet::new();
        wait_until("both serve", || {
            names.insert(ask(address));
            names.len() == 2
        });
        running.stop();
    }
    assert!(path.exists(), "the file is not ours");
}

fn an_inherited_listener_outlives_the_cluster() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: Address = listener.local_addr().unwrap().into();
    let inherited = format!("fd:{}", inherit(&listener));
    for _ in 0..2 {
        let desk = Desk::new();
        let running = puppets(&desk, 2);
        assert_eq!(desk.listen("0", 0, &inherited), address);
        // By its real address it is known, too.
        assert_eq!(desk.listen("1", 0, &address.to_string()), address);
        let twice = desk.ask("0", &format!("listen {address}"));
        assert!(twice.starts_with("AddrInUse: "), "{twice}");
        assert_eq!(desk.ask("0", "serve 0"), "serving");
        assert_eq!(ask(&address), "0.1");
        running.stop();
    }
    let _client = TcpStream::connect(listener.local_addr().unwrap()).expect("it still listens");
}

fn what_cannot_be_inherited_is_refused_by_name() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (pair, _other) = UnixStream::pair().unwrap();
    let file = File::open("/dev/null").unwrap();
    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    let cases = [
        (inherit(&client), "InvalidInput: ", "a TCP"),
        (inherit(&pair), "InvalidInput: ", "a Unix"),
        (inherit(&file), "InvalidInput: ", "device"),
        (own.as_raw_fd(), "NotFound: ", "not inherited"),
        (9999, "NotFound: ", "not open"),
    ];
    let desk = Desk::new();
    let mut running = puppets(&desk, 1);
    for (number, kind, why) in cases {
        let told = desk.ask("0", &format!("listen fd:{number}"));
        let says = |text: &str| text.contains(&format!("fd:{number}")) && text.contains(why);
        assert!(told.starts_with(kind) && says(&told), "{told}");
        running.happens("it is told", |event| match event {
            Event::ListenFailed { error, .. } => says(error),
            _ => false,
        });
    }
    let told = desk.ask("0", "listen systemd:web");
    assert!(told.starts_with("NotFound: ") && told.contains("LISTEN_FDS"), "{told}");
    running.stop();
}

/// Starts a host of one puppet as systemd would, with two sockets and this environment.
fn start_as_systemd(desk: &Desk, sockets: [OwnedFd; 2], environment: &str) -> Program {
    let host = Program::command("host", &["1", "0", "0", "puppet", &desk.number()]);
    let script =
        format!("exec 3<&1 4<&2 >/dev/null 2>&1; export {environment}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(host.get_program()).args(host.get_args());
    let [first, second] = sockets;
    let program = Program::start_mute(command.stdout(first).stderr(second));
    desk.ready(1);
    program
}

fn sockets_of_systemds_are_found_by_name() {
    let [first, second] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = [&first, &second].map(|socket| socket.local_addr().unwrap().to_string());
    let desk = Desk::new();
    let environment = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:web";
    let mut program = start_as_systemd(&desk, [first.into(), second.into()], environment);
    assert_eq!(desk.ask("0", "listen systemd:web:1"), format!("0 {}", addresses[1]));
    assert_eq!(desk.ask("0", "listen systemd:web"), format!("1 {}", addresses[0]));
    let told = desk.ask("0", "listen systemd:web:2");
    assert!(told.starts_with("NotFound: ") && told.contains("\"web:web\""), "{told}");
    let environment = desk.ask("0", "run env");
    assert!(!environment.contains("LISTEN_"), "{environment}");
    let open = desk.ask("0", "run ls -l /proc/self/fd");
    assert!(!open.contains("socket:"), "{open}");
    assert!(program.wait().success());
}

fn sockets_that_systemd_gave_to_another_process_are_refused() {
    let [first, second] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let desk = Desk::new();
    let environment = "LISTEN_PID=1 LISTEN_FDS=2 LISTEN_FDNAMES=a:b";
    let mut program = start_as_systemd(&desk, [first.into(), second.into()], environment);
    let told = desk.ask("0", "listen systemd:a");
    assert!(told.starts_with("NotFound: ") && told.contains("to process 1 "), "{told}");
    assert!(program.wait().success());
}
