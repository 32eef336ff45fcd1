//! Values over a channel.
#![cfg(unix)]

mod util;

use std::collections::BTreeMap;
use std::net::TcpListener;

use ipc_core::{
    Channel, Limits, Message, RecvError, SendError, TryRecvError, TrySendError, Typed,
    TypedRecvError, TypedSendError,
};
use serde::{Deserialize, Serialize, Serializer};
use util::{handle, handles, in_ms, inode, inodes, recv, soon};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Request {
    Ping,
    Put { key: String, value: Vec<u8> },
    Many(BTreeMap<u64, Option<i32>>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Answer(u32);

fn requests() -> [Request; 3] {
    let many = (0..1000).map(|n| (n, (n % 3 == 0).then_some(-5))).collect();
    [Request::Ping, Request::Put { key: "k".into(), value: vec![7; 10] }, Request::Many(many)]
}

fn pair() -> (Typed<Request, Answer>, Typed<Answer, Request>) {
    let (ours, theirs) = Channel::pair().expect("a pair");
    (Typed::new(ours), Typed::new(theirs))
}

#[test]
fn values_arrive_in_order_both_ways_with_their_handles() {
    let (mut client, mut server) = pair();
    for (count, request) in requests().iter().enumerate() {
        let given = handles(count);
        let expected: Vec<u64> = given.iter().map(inode).collect();
        client.try_send_with(request, given).expect("room");
        let (received, came) = server.recv_deadline(soon()).expect("a request");
        assert_eq!(received, *request);
        assert_eq!(came.iter().map(inode).collect::<Vec<_>>(), expected);
        server.send_deadline(&Answer(1000), soon()).expect("room");
        let (answer, came) = client.try_recv().expect("an answer");
        assert_eq!((answer, came.len()), (Answer(1000), 0));
    }
    assert!(matches!(client.try_recv(), Err(TypedRecvError::Channel(TryRecvError::Empty))));
    let late = client.recv_deadline(in_ms(0));
    assert!(matches!(late, Err(TypedRecvError::Channel(RecvError::TimedOut))));
    drop(server);
    let end = client.recv_deadline(soon());
    assert!(matches!(end, Err(TypedRecvError::Channel(RecvError::Closed))));
}

#[test]
fn handles_are_taken_checked() {
    let (mut client, mut server) = pair();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    client.send_deadline_with(&Request::Ping, vec![listener], soon()).expect("room");
    let (_ping, mut handles) = server.recv_deadline(soon()).expect("a request");
    handles.take_as::<std::fs::File>(0).expect_err("it is none");
    handles.take_as::<TcpListener>(0).expect("it has stayed");
    handles.take_as::<TcpListener>(0).expect_err("it was taken");
}

#[test]
fn hostile_payloads_are_errors_and_the_channel_goes_on() {
    let (ours, mut hostile) = Channel::pair().expect("a pair");
    let mut server: Typed<Answer, Request> = Typed::new(ours);
    let good = postcard::to_allocvec(&Request::Ping).expect("a value");
    let put = postcard::to_allocvec(&requests()[1]).expect("a value");
    let huge = [&[1, 1, b'k'][..], &[0xff; 9], &[1]].concat();
    for (kind, payload, reason) in [
        (0, vec![], ""),
        (0, vec![99], ""),
        (0, put[..put.len() - 1].to_vec(), ""),
        (0, vec![0xff; 100], ""),
        (0, huge, ""),
        (0, vec![1, 1, 0xff, 0], ""),
        (0, [good.as_slice(), &[0, 0, 0]].concat(), "3 bytes follow the value"),
        (7, good.clone(), "a message of kind 7"),
    ] {
        let message = Message::new(kind, payload.clone()).with_handle(handle());
        let expected = inodes(&message);
        hostile.try_send(message).expect("room");
        match server.try_recv() {
            Err(TypedRecvError::Decode { error, message }) => {
                assert!(error.to_string().contains(reason), "{error}");
                assert_eq!((message.kind, &message.payload), (kind, &payload));
                assert_eq!(inodes(&message), expected, "all of it is there to look at");
            }
            other => panic!("{payload:?}: {other:?}"),
        }
        hostile.try_send(Message::new(0, good.clone())).expect("room");
        assert_eq!(server.try_recv().expect("the channel goes on").0, Request::Ping);
    }
}

#[test]
fn what_is_not_sent_comes_back() {
    /// A value that refuses to be written.
    struct Never;
    impl Serialize for Never {
        fn serialize<S: Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("never"))
        }
    }
    let (ours, theirs) = Channel::pair().expect("a pair");
    let mut never: Typed<Never, ()> = Typed::new(ours);
    match never.try_send_with(&Never, handles(2)) {
        Err(TypedSendError::Encode { handles, .. }) => assert_eq!(handles.len(), 2),
        other => panic!("{other:?}"),
    }
    let limits = Limits { payload_bytes_max: 20, ..Limits::default() };
    let mut small: Typed<Request> = Typed::new(never.into_channel().with_limits(limits));
    let [ping, _put, many] = requests();
    let refused = match small.try_send_with(&many, handles(3)) {
        Err(TypedSendError::Channel(TrySendError::TooLarge(message))) => message,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused.handles.len(), 3);
    match small.send_deadline_with(&many, handles(1), soon()) {
        Err(TypedSendError::Channel(SendError::TooLarge(message))) => {
            assert_eq!(message.handles.len(), 1);
        }
        other => panic!("{other:?}"),
    }
    // It is written already, so it may go as it is.
    small = Typed::new(small.into_channel().with_limits(Limits::default()));
    small.channel_mut().try_send(refused).expect("room");
    let mut peer: Typed<Answer, Request> = Typed::new(theirs);
    assert_eq!(peer.try_recv().expect("a value").0, many);
    peer.into_channel().shutdown().expect("a socket");
    match small.try_send_with(&ping, handles(1)) {
        Err(TypedSendError::Channel(TrySendError::Closed(message))) => {
            assert_eq!(message.handles.len(), 1);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_bytes_are_postcards() {
    let (ours, mut theirs) = Channel::pair().expect("a pair");
    let mut typed: Typed<(u32, &str), ()> = Typed::new(ours);
    typed.try_send(&(300, "hi")).expect("room");
    let message = recv(&mut theirs);
    assert_eq!((message.kind, message.payload), (0, vec![0xac, 0x02, 2, b'h', b'i']));
}
