//! What messages carry beside bytes.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Seek, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};

use runtime::Message;
use runtime::process::Child;

use super::{command, parent, soon};
use crate::harness::tools::Directory;
use crate::harness::{Outcome, roles, tests};

tests! {
    handles_of_each_kind_are_used_by_the_child,
    a_handle_of_another_kind_is_refused_and_stays,
    a_child_serves_connections_that_were_accepted_here,
    a_child_sends_a_handle_too,
}
roles! {
    fork_use_handles,
    fork_serve,
    fork_listen,
}

/// Uses the handle of each message as what the message calls it, and tells what came of it.
fn fork_use_handles(_args: &[String]) -> Outcome {
    let mut parent = parent()?;
    while let Ok(mut message) = parent.recv() {
        let text = String::from_utf8(message.bytes.clone())?;
        let answer = match use_handle(&text, &mut message) {
            Ok(answer) => Message::new(answer),
            Err(error) => Message { bytes: error.to_string().into(), handles: message.handles },
        };
        parent.send(answer)?;
    }
    Ok(())
}

fn use_handle(
    text: &str,
    message: &mut Message,
) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
    match kind {
        "tcp" => message.take_handle::<TcpStream>(0)?.write_all(b"by the child")?,
        "listener" => {
            message.take_handle::<TcpListener>(0)?.accept()?.0.write_all(b"by the child")?;
        }
        "udp" => drop(message.take_handle::<UdpSocket>(0)?.send_to(b"by the child", rest)?),
        "unix" => message.take_handle::<UnixStream>(0)?.write_all(b"by the child")?,
        "unix-listener" => {
            message.take_handle::<UnixListener>(0)?.accept()?.0.write_all(b"by the child")?;
        }
        "file" => return Ok(io::read_to_string(message.take_handle::<File>(0)?)?),
        "reader" => return Ok(io::read_to_string(message.take_handle::<PipeReader>(0)?)?),
        "writer" => message.take_handle::<PipeWriter>(0)?.write_all(b"by the child")?,
        kind => return Err(format!("what is {kind}?").into()),
    }
    Ok("used".into())
}

/// Has the child use a handle; gives its answer.
#[track_caller]
fn answer(child: &mut Child, message: Message) -> String {
    child.send(message).unwrap();
    String::from_utf8(child.recv_deadline(soon()).unwrap().bytes).unwrap()
}

/// What is there to read, to the end.
fn text(mut source: impl Read) -> String {
    let mut text = String::new();
    source.read_to_string(&mut text).unwrap();
    text
}

fn handles_of_each_kind_are_used_by_the_child() {
    let mut child = command("fork_use_handles", &[]).fork().unwrap();
    let child = &mut child;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (connection, _) = listener.accept().unwrap();
    assert_eq!(answer(child, Message::new("tcp").with_handle(connection)), "used");
    assert_eq!(text(client), "by the child");

    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(answer(child, Message::new("listener").with_handle(listener)), "used");
    assert_eq!(text(client), "by the child");

    let here = UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let order = format!("udp {}", here.local_addr().unwrap());
    assert_eq!(answer(child, Message::new(order).with_handle(socket)), "used");
    let mut datagram = [0; 20];
    assert_eq!(here.recv(&mut datagram).unwrap(), 12);

    let (ours, theirs) = UnixStream::pair().unwrap();
    assert_eq!(answer(child, Message::new("unix").with_handle(theirs)), "used");
    assert_eq!(text(ours), "by the child");

    let directory = Directory::new();
    let listener = UnixListener::bind(directory.join("socket")).unwrap();
    let client = UnixStream::connect(directory.join("socket")).unwrap();
    assert_eq!(answer(child, Message::new("unix-listener").with_handle(listener)), "used");
    assert_eq!(text(client), "by the child");

    let path = directory.join("file");
    let mut file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    file.write_all(b"written here").unwrap();
    file.rewind().unwrap();
    assert_eq!(answer(child, Message::new("file").with_handle(file)), "written here");

    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(b"written here").unwrap();
    drop(writer);
    assert_eq!(answer(child, Message::new("reader").with_handle(reader)), "written here");

    let (reader, writer) = io::pipe().unwrap();
    assert_eq!(answer(child, Message::new("writer").with_handle(writer)), "used");
    assert_eq!(text(reader), "by the child");

    child.disconnect().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn a_handle_of_another_kind_is_refused_and_stays() {
    let mut child = command("fork_use_handles", &[]).fork().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    child.send(Message::new("tcp").with_handle(socket)).unwrap();
    let mut back = child.recv_deadline(soon()).unwrap();
    let text = String::from_utf8_lossy(&back.bytes);
    assert!(text.contains("is a UDP socket where a TCP stream was expected"), "{text}");
    let socket = back.take_handle::<UdpSocket>(0).unwrap();
    assert_eq!(socket.local_addr().unwrap(), address, "the child has sent it back");
    child.disconnect().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Says to each connection who serves it.
fn fork_serve(_args: &[String]) -> Outcome {
    for mut message in parent()?.messages() {
        let mut connection = message.take_handle::<TcpStream>(0)?;
        write!(connection, "process {}", std::process::id())?;
    }
    Ok(())
}

fn a_child_serves_connections_that_were_accepted_here() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut children = [0, 1].map(|_| command("fork_serve", &[]).fork().unwrap());
    for turn in 0..10 {
        let client = TcpStream::connect(address).unwrap();
        let (connection, _) = listener.accept().unwrap();
        let child = &mut children[turn % 2];
        child.send(Message::new([]).with_handle(connection)).unwrap();
        assert_eq!(text(client), format!("process {}", child.pid()));
    }
    for mut child in children {
        child.disconnect().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

/// Sends a socket that it listens on, and ends.
fn fork_listen(_args: &[String]) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    parent()?.send(Message::new("listening").with_handle(listener))?;
    Ok(())
}

fn a_child_sends_a_handle_too() {
    let mut child = command("fork_listen", &[]).fork().unwrap();
    let mut message = child.recv_deadline(soon()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let listener = message.take_handle::<TcpListener>(0).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    listener.accept().unwrap().0.write_all(b"here").unwrap();
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"here");
}
