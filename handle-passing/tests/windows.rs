//! Handles that are pushed into another process, which is this test binary again, in a role.
//!
//! The names cite F99 to F103 of the project's catalogue of failures.
#![cfg(windows)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::windows::io::{AsHandle, OwnedHandle, OwnedSocket};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use handle_passing::fuzzing::{
    adopt, handle_count, new_event, new_section, process_id, pseudo_handle, set_event, swap_byte,
    wait,
};
use handle_passing::{
    EventHandle, FromHandle, Handle, HandleError, HandleKind, MemoryHandle, ProcessHandle, Target,
};

/// Only a test that hangs gets to see it.
const TIMEOUT: Duration = Duration::from_secs(30);
const ROLE: &str = "HANDLE_PASSING_TEST_ROLE";
const ANSWER: &str = "answer: ";

/// How often to do what might leak a handle, and how many handles a process of this test binary
/// opens and closes of its own accord meanwhile, at most.
const TIMES: usize = 100;
const NOISE: usize = 10;

/// A child that takes up whatever it is given.
struct Taker {
    child: Child,
    tokens: ChildStdin,
    answers: mpsc::Receiver<String>,
    target: Target,
}

impl Taker {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["role_taker", "--exact", "--nocapture"])
            .env(ROLE, "taker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, answer)) = line.split_once(ANSWER) {
                    let _ = sender.send(answer.to_owned());
                }
            }
        });
        let (tokens, target) = (child.stdin.take().unwrap(), Target::of_child(&child).unwrap());
        let taker = Self { child, tokens, answers, target };
        assert_eq!(taker.answer(), "ready");
        taker
    }

    fn answer(&self) -> String {
        self.answers.recv_timeout(TIMEOUT).expect("the child answers")
    }

    fn tell(&mut self, token: &[u8]) {
        let len = u16::try_from(token.len()).unwrap();
        self.tokens.write_all(&len.to_le_bytes()).unwrap();
        self.tokens.write_all(token).unwrap();
    }

    /// Gives a handle to the child, and says what it did with it.
    fn give(&mut self, handle: impl Into<Handle>) -> String {
        let pushed = self.target.push(&handle.into()).unwrap();
        self.tell(pushed.token());
        pushed.delivered();
        self.answer()
    }

    fn handle_count(&self) -> usize {
        handle_count(self.child.as_handle()).unwrap()
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn role_taker() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    println!("{ANSWER}ready");
    let mut stdin = io::stdin().lock();
    let mut len = [0; 2];
    while stdin.read_exact(&mut len).is_ok() {
        let mut token = vec![0; u16::from_le_bytes(len).into()];
        stdin.read_exact(&mut token).unwrap();
        match adopt(&token).and_then(use_handle) {
            Ok(what) => println!("{ANSWER}{what}"),
            Err(error) => println!("{ANSWER}{:?}: {error}", error.kind()),
        }
    }
}

/// Does with a handle what only one of its kind can do.
fn use_handle(handle: Handle) -> io::Result<String> {
    Ok(match handle.actual_kind()? {
        HandleKind::TcpListener => {
            let (mut stream, _peer) = handle.into_type::<TcpListener>()?.accept()?;
            stream.write_all(b"accepted by the child")?;
            "accepted".into()
        }
        HandleKind::TcpStream => {
            handle.into_type::<TcpStream>()?.write_all(b"from the child")?;
            "written".into()
        }
        HandleKind::UdpSocket => {
            let socket = handle.into_type::<UdpSocket>()?;
            let mut bytes = [0; 64];
            let (len, _sender) = socket.recv_from(&mut bytes)?;
            String::from_utf8_lossy(&bytes[..len]).into()
        }
        HandleKind::File => {
            let mut text = String::new();
            handle.into_type::<File>()?.read_to_string(&mut text)?;
            text
        }
        HandleKind::Pipe => {
            handle.into_type::<PipeWriter>()?.write_all(b"through the pipe")?;
            "written".into()
        }
        HandleKind::Memory => {
            format!("found {}", swap_byte(&handle.into_type::<MemoryHandle>()?, 43)?)
        }
        HandleKind::Event => {
            set_event(handle.into_type::<EventHandle>()?)?;
            "set".into()
        }
        HandleKind::Process => process_id(handle.into_type::<ProcessHandle>()?).to_string(),
        other => format!("no use for {other}"),
    })
}

fn text_of(mut stream: impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// A file with that text, which is gone when it is closed everywhere.
fn file(text: &str) -> File {
    use std::io::Seek;
    use std::os::windows::fs::OpenOptionsExt;
    const FILE_FLAG_DELETE_ON_CLOSE: u32 = 0x0400_0000;
    let name = format!("handle-passing-{}-{:p}", std::process::id(), text);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(FILE_FLAG_DELETE_ON_CLOSE)
        .open(std::env::temp_dir().join(name))
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

/// Two ends of a connection.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    ours.set_read_timeout(Some(TIMEOUT)).unwrap();
    (ours, listener.accept().unwrap().0)
}

#[test]
fn files_pipes_and_kernel_objects_are_pushed_into_a_child() {
    let mut taker = Taker::start();
    assert_eq!(taker.give(file("what is in it")), "what is in it");

    let (reader, writer) = io::pipe().unwrap();
    assert_eq!(taker.give(writer), "written");
    assert_eq!(text_of(reader), "through the pipe", "and the child has closed its end");

    let event = new_event().unwrap();
    let given = Handle::from(event.try_clone().unwrap()).announced(HandleKind::Event);
    assert!(!wait(&event, Duration::ZERO));
    assert_eq!(taker.give(given), "set");
    assert!(wait(&event, TIMEOUT));

    let section = Handle::from(new_section().unwrap()).into_type::<MemoryHandle>().unwrap();
    assert_eq!(swap_byte(&section, 42).unwrap(), 0);
    let given = Handle::from(section.as_handle().try_clone_to_owned().unwrap());
    assert_eq!(taker.give(given), "found 42");
    assert_eq!(swap_byte(&section, 0).unwrap(), 43);

    let itself = taker.child.as_handle().try_clone_to_owned().unwrap();
    assert_eq!(taker.give(itself), taker.child.id().to_string());
}

#[test]
fn sockets_are_pushed_into_a_child() {
    let mut taker = Taker::start();
    let (ours, theirs) = connection();
    assert_eq!(taker.give(theirs), "written");
    assert_eq!(text_of(ours), "from the child", "and all ends of the other side are closed");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    assert_eq!(taker.give(listener), "accepted");
    assert_eq!(text_of(client), "accepted by the child");

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(b"datagram", socket.local_addr().unwrap()).unwrap();
    assert_eq!(taker.give(socket), "datagram");
}

#[test]
fn what_is_not_delivered_is_taken_back() {
    let mut taker = Taker::start();
    assert_eq!(taker.give(file("warm")), "warm");
    let before = taker.handle_count();
    let (_ours, theirs) = connection();
    let handles = [Handle::from(file("lost")), new_event().unwrap().into(), theirs.into()];
    for handle in &handles {
        let pushed: Vec<_> = (0..TIMES).map(|_| taker.target.push(handle).unwrap()).collect();
        assert!(taker.handle_count().abs_diff(before + TIMES) < NOISE, "{handle:?}");
        drop(pushed);
        assert!(taker.handle_count().abs_diff(before) < NOISE, "{handle:?}");
    }
}

#[test]
fn what_the_child_has_used_it_closes() {
    let mut taker = Taker::start();
    let give_all = |taker: &mut Taker| {
        assert_eq!(taker.give(file("text")), "text");
        assert_eq!(taker.give(new_event().unwrap()), "set");
        let (ours, theirs) = connection();
        assert_eq!(taker.give(theirs), "written");
        assert_eq!(text_of(ours), "from the child");
    };
    give_all(&mut taker);
    let before = taker.handle_count();
    for _ in 0..TIMES {
        give_all(&mut taker);
    }
    assert!(taker.handle_count().abs_diff(before) < NOISE);
}

#[test]
fn a_process_that_has_ended_is_named_as_the_reason() {
    let mut taker = Taker::start();
    taker.child.kill().unwrap();
    taker.child.wait().unwrap();
    let (_ours, theirs) = connection();
    for handle in [Handle::from(file("late")), theirs.into()] {
        let error = taker.target.push(&handle).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
        assert!(error.to_string().contains("has ended"), "{error}");
    }
}

#[test]
fn f103_pseudo_handles_are_refused_on_both_sides() {
    let mut taker = Taker::start();
    let before = taker.handle_count();
    for number in [-1, -2, -4, -6].repeat(TIMES / 4) {
        let error = taker.target.push(&pseudo_handle(number).into()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{number}: {error}");
        let kind = HandleKind::Process.code();
        let token = [&[1, kind], number.to_le_bytes().as_slice()].concat();
        taker.tell(&token);
        let answer = taker.answer();
        assert!(answer.starts_with("InvalidData"), "{number}: {answer}");
    }
    assert!(taker.handle_count().abs_diff(before) < NOISE);
}

#[test]
fn tokens_that_name_nothing_are_refused() {
    let mut taker = Taker::start();
    let pushed = taker.target.push(&file("cut").into()).unwrap();
    let whole = pushed.token().to_owned();
    for len in 0..whole.len() {
        taker.tell(&whole[..len]);
        let answer = taker.answer();
        assert!(answer.starts_with("InvalidData"), "{len}: {answer}");
    }
    drop(pushed);
    let before = taker.handle_count();
    for number in [0x7fff_fffc_u32, 0x00ff_fff0] {
        taker.tell(&[&[1, 0], number.to_le_bytes().as_slice()].concat());
        let answer = taker.answer();
        assert!(answer.contains("os error 6"), "{number:#x}: {answer}"); // ERROR_INVALID_HANDLE
    }
    for description in [&[1; 1][..], &[1; 628], &[255; 600]].repeat(TIMES / 3) {
        taker.tell(&[&[2, 2], description].concat());
        let answer = taker.answer();
        assert!(answer.contains("os error"), "{answer}");
    }
    assert!(taker.handle_count().abs_diff(before) < NOISE);
    assert_eq!(taker.give(file("well")), "well");
}

#[test]
fn f31_a_lie_about_the_kind_is_found_in_the_other_process() {
    let mut taker = Taker::start();
    let lie = Handle::from(new_event().unwrap()).announced(HandleKind::Memory);
    let answer = taker.give(lie);
    assert_eq!(answer, "InvalidData: handle 0 is an event where sealed memory was expected");
    let (_ours, theirs) = connection();
    let answer = taker.give(Handle::from(theirs).announced(HandleKind::TcpListener));
    assert_eq!(answer, "InvalidData: handle 0 is a TCP stream where a TCP listener was expected");
}

/// Converts there and back, and says what it was announced as.
fn round_trip<T: Into<Handle> + FromHandle>(typed: T) -> HandleKind {
    let handle = typed.into();
    handle.verify().expect("it is what it is announced as");
    let kind = handle.kind();
    handle.into_type::<T>().expect("it is of its own type");
    kind
}

fn refusal<T: FromHandle>(handle: impl Into<Handle>) -> HandleError {
    let Err(error) = handle.into().into_type::<T>() else { panic!("it was taken") };
    error.into_parts().1
}

#[test]
fn types_of_std_make_the_way_there_and_back() {
    let (ours, theirs) = connection();
    let (reader, writer) = io::pipe().unwrap();
    assert_eq!(round_trip(ours), HandleKind::TcpStream);
    assert_eq!(round_trip(OwnedSocket::from(theirs)), HandleKind::Any);
    assert_eq!(round_trip(TcpListener::bind("[::1]:0").unwrap()), HandleKind::TcpListener);
    assert_eq!(round_trip(UdpSocket::bind("127.0.0.1:0").unwrap()), HandleKind::UdpSocket);
    assert_eq!(round_trip(reader), HandleKind::Pipe);
    assert_eq!(round_trip(writer), HandleKind::Pipe);
    assert_eq!(round_trip(file("")), HandleKind::Any);
    assert_eq!(round_trip(File::open("NUL").unwrap()), HandleKind::Any);
    assert_eq!(round_trip(new_event().unwrap()), HandleKind::Any);
}

#[test]
fn what_is_something_else_is_refused() {
    let found = |error| match error {
        HandleError::WrongKind { found, .. } => found,
        other => panic!("{other}"),
    };
    let (ours, theirs) = connection();
    assert_eq!(found(refusal::<TcpListener>(ours)), HandleKind::TcpStream);
    assert_eq!(found(refusal::<File>(new_event().unwrap())), HandleKind::Event);
    assert_eq!(found(refusal::<EventHandle>(new_section().unwrap())), HandleKind::Memory);
    let null = File::open("NUL").unwrap();
    assert_eq!(found(refusal::<ProcessHandle>(null)), HandleKind::CharDevice);
    assert!(matches!(refusal::<OwnedHandle>(theirs), HandleError::Io(_)));
    assert!(matches!(refusal::<OwnedSocket>(file("")), HandleError::Io(_)));

    let (reader, writer) = io::pipe().unwrap();
    let error = refusal::<PipeReader>(writer);
    assert!(matches!(error, HandleError::WrongAccess { needed: "reading", .. }), "{error}");
    let error = refusal::<PipeWriter>(reader);
    assert!(matches!(error, HandleError::WrongAccess { needed: "writing", .. }), "{error}");
}
