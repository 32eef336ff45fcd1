//! Messages without processes: a hub and its spokes, and what they must not lose.

mod world;

use ipc_core::Message as Frame;
use proptest::collection::vec;
use proptest::prelude::*;
use runtime::post::{
    Envelope, Failure, Hub, MESSAGE_FROM_WORKER, NOTICE_FROM_WORKER, Notice, Peer, REQUESTS_MAX,
    Sent, Spoke, Terms, Violation, WINDOW_MESSAGES, What,
};
use runtime::{Message, Recipient, SendError, Sender, WorkerId};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_lost_or_doubled_or_out_of_order_or_left(data in vec(any::<u8>(), 0..2000)) {
        world::play(&data);
    }
}

const WORKER: WorkerId = WorkerId { slot: 0, generation: 1 };
const OTHER: WorkerId = WorkerId { slot: 1, generation: 1 };

fn hub(is_read: bool) -> Hub<u32> {
    let mut hub = Hub::new(Terms::default(), is_read);
    hub.seat(WORKER, true);
    hub.seat(OTHER, true);
    hub
}

/// The spoke of a worker that has been greeted.
fn spoke(hub: &mut Hub<u32>, worker: WorkerId) -> Spoke<u32> {
    let frame = hub.poll_frame(worker).expect("the first frame");
    match Notice::decode(&frame.payload, true) {
        Ok(Notice::Open { terms, credit }) => Spoke::new(terms, credit),
        other => panic!("{other:?}"),
    }
}

fn frame(what: What, peer: Peer, bytes: &str) -> Frame<u32> {
    let mut payload = bytes.as_bytes().to_vec();
    Envelope { what, peer }.append(&mut payload);
    Frame::new(MESSAGE_FROM_WORKER, payload)
}

fn notice(notice: Notice) -> Frame<u32> {
    Frame::new(NOTICE_FROM_WORKER, notice.encode())
}

#[test]
fn a_worker_that_overdraws_its_credit_breaks_the_protocol() {
    let mut hub = hub(true);
    for _ in 0..WINDOW_MESSAGES {
        assert_eq!(hub.heard(WORKER, frame(What::Note, Peer::Master, "x")), Ok(()));
    }
    assert_eq!(hub.heard(WORKER, frame(What::Note, Peer::Master, "x")), Err(Violation));
    // It does not help it to die: what it has sent counts against its successor.
    hub.unseat(WORKER);
    let next = WorkerId { generation: 2, ..WORKER };
    hub.seat(next, true);
    let mut spoke = spoke(&mut hub, next);
    let refused = spoke.send(Peer::Master, What::Note, Message::new("x"), false);
    assert_eq!(refused, Err(SendError::Full(Message::new("x"))));
    // Until the program takes some of it.
    for _ in 0..WINDOW_MESSAGES / 4 {
        hub.take().expect("it waits");
    }
    spoke.heard(hub.poll_frame(next).expect("credit")).expect("it is the master's");
    assert!(spoke.send(Peer::Master, What::Note, Message::new("x"), false).is_ok());
}

#[test]
fn credit_that_was_not_used_breaks_the_protocol() {
    let mut hub = hub(true);
    let amount = runtime::post::Amount { messages: 1, bytes: 0, handles: 0 };
    for lane in runtime::post::Lane::ALL {
        let credit = notice(Notice::Credit { lane, amount });
        assert_eq!(hub.heard(WORKER, credit), Err(Violation));
    }
}

#[test]
fn what_only_a_master_says_or_what_is_too_much_breaks_the_protocol() {
    let mut hub = hub(true);
    let mut too_many = frame(What::Note, Peer::Master, "");
    too_many.handles = vec![1_u32; 5].into();
    let mut to_all = frame(What::Note, Peer::Others, "");
    to_all.handles = vec![1_u32].into();
    let mut with_handle = notice(Notice::Cancel { request: 1 });
    with_handle.handles = vec![1_u32].into();
    let credit = [runtime::post::Amount::default(); 2];
    let bad = [
        too_many,
        to_all,
        with_handle,
        frame(What::Note, Peer::Master, &"x".repeat((1 << 20) + 1)),
        notice(Notice::Open { terms: Terms::default(), credit }),
        notice(Notice::Failed { request: 0, failure: Failure::Gone }),
        Frame::new(MESSAGE_FROM_WORKER, "short"),
    ];
    for frame in bad {
        let told = format!("{frame:?}");
        assert_eq!(hub.heard(WORKER, frame), Err(Violation), "{told}");
    }
}

#[test]
fn requests_without_an_answer_are_limited() {
    let mut hub = hub(true);
    for request in 0..u32::try_from(REQUESTS_MAX).expect("few") {
        assert_eq!(hub.heard(WORKER, frame(What::Request(request), Peer::Master, "")), Ok(()));
        hub.take().expect("the request, which is not answered");
        while hub.poll_frame(WORKER).is_some() {}
    }
    hub.refuse(WORKER, 77);
    hub.poll_frame(WORKER).expect("that it has failed");
    assert_eq!(hub.heard(WORKER, frame(What::Request(u32::MAX), Peer::Master, "")), Ok(()));
    assert_eq!(hub.heard(WORKER, frame(What::Request(77), Peer::Master, "")), Err(Violation));
}

#[test]
fn a_number_is_used_for_one_request_at_a_time() {
    let mut hub = hub(true);
    let request = || frame(What::Request(3), Peer::Master, "");
    assert_eq!(hub.heard(WORKER, request()), Ok(()));
    assert_eq!(hub.heard(WORKER, request()), Err(Violation));
    assert_eq!(hub.heard(WORKER, notice(Notice::Cancel { request: 3 })), Ok(()));
    assert_eq!(hub.heard(WORKER, request()), Ok(()));
}

#[test]
fn a_reply_that_nobody_waits_for_changes_nothing() {
    let mut hub = hub(true);
    for peer in [Peer::Master, Peer::Worker(OTHER), Peer::Worker(WORKER)] {
        for _ in 0..3 * WINDOW_MESSAGES {
            assert_eq!(hub.heard(WORKER, frame(What::Reply(5), peer, "forged")), Ok(()));
            while hub.poll_frame(WORKER).is_some() {}
        }
    }
    assert!(hub.take().is_none());
    hub.poll_frame(OTHER).expect("its terms");
    assert!(hub.poll_frame(OTHER).is_none());
    // Nor does one of somebody who was not asked.
    let (request, ..) = hub.request(Recipient::Worker(OTHER), Message::new("?")).expect("room");
    hub.heard(WORKER, frame(What::Reply(request), Peer::Master, "forged")).expect("nothing");
    assert_eq!(hub.poll_reply(request), None);
    hub.heard(OTHER, frame(What::Reply(request), Peer::Master, "!")).expect("the reply");
    assert_eq!(hub.poll_reply(request), Some(Ok(Message::new("!"))));
}

#[test]
fn a_request_to_a_worker_that_ends_fails_at_once() {
    let mut hub = hub(true);
    let mut asker = spoke(&mut hub, WORKER);
    let (own, ..) = hub.request(Recipient::Slot(1), Message::new("?")).expect("room");
    let (request, _) = asker.request(Peer::Slot(1), Message::new("?")).expect("room");
    hub.heard(WORKER, asker.poll_frame().expect("the request")).expect("no violation");
    hub.unseat(OTHER);
    assert_eq!(hub.poll_reply(own), Some(Err(Failure::Gone)));
    asker.heard(hub.poll_frame(WORKER).expect("the failure")).expect("the master's");
    assert_eq!(asker.poll_reply(request), Some(Err(Failure::Gone)));
}

#[test]
fn a_send_that_waits_comes_back_when_the_worker_ends() {
    let mut hub = hub(true);
    let to = Recipient::Worker(WORKER);
    for _ in 0..WINDOW_MESSAGES {
        hub.send(to, What::Note, Message::new("x"), true).expect("room");
    }
    let waits = Message::new("waits").with_handle(7_u32);
    let (_, ticket) = hub.send(to, What::Note, waits, true).expect("it waits");
    assert_eq!(hub.poll_sent(ticket), Sent::Not);
    hub.unseat(WORKER);
    let expected = Message::new("waits").with_handle(7_u32);
    assert_eq!(hub.poll_sent(ticket), Sent::Returned(expected));
}

#[test]
fn messages_to_a_program_that_takes_none_cost_no_credit() {
    let mut hub = hub(false);
    let mut worker = spoke(&mut hub, WORKER);
    for _ in 0..10 * WINDOW_MESSAGES {
        worker.send(Peer::Master, What::Note, Message::new("x"), false).expect("room");
        hub.heard(WORKER, worker.poll_frame().expect("a frame")).expect("no violation");
        while let Some(frame) = hub.poll_frame(WORKER) {
            worker.heard(frame).expect("the master's");
        }
    }
    let (request, _) = worker.request(Peer::Master, Message::new("?")).expect("room");
    hub.heard(WORKER, worker.poll_frame().expect("a frame")).expect("no violation");
    worker.heard(hub.poll_frame(WORKER).expect("the failure")).expect("the master's");
    assert_eq!(worker.poll_reply(request), Some(Err(Failure::Unanswered)));
}

#[test]
fn a_reply_finds_room_however_many_messages_wait() {
    let mut hub = hub(true);
    let mut worker = spoke(&mut hub, WORKER);
    while worker.send(Peer::Master, What::Note, Message::new("x"), false).is_ok() {}
    let (request, ..) = hub.request(Recipient::Slot(0), Message::new("?")).expect("room");
    worker.heard(hub.poll_frame(WORKER).expect("the request")).expect("the master's");
    let asked = worker.take().expect("the request");
    assert_eq!((asked.from, asked.request), (Sender::Master, Some(request)));
    worker.reply(asked.from, request, Message::new("!")).expect("room");
    while let Some(frame) = worker.poll_frame() {
        hub.heard(WORKER, frame).expect("no violation");
    }
    assert_eq!(hub.poll_reply(request), Some(Ok(Message::new("!"))));
}

#[test]
fn a_worker_that_may_not_send_handles_still_gets_them() {
    let mut hub = Hub::new(Terms::default(), true);
    hub.seat(WORKER, false);
    let mut worker = spoke(&mut hub, WORKER);
    let with_handle = || Message::new("x").with_handle(7_u32);
    let refused = worker.send(Peer::Master, What::Note, with_handle(), true);
    assert_eq!(refused, Err(SendError::TooLarge(with_handle())));
    hub.send(Recipient::Worker(WORKER), What::Note, with_handle(), false).expect("room");
    worker.heard(hub.poll_frame(WORKER).expect("the message")).expect("the master's");
    assert_eq!(worker.take().map(|arrival| arrival.message), Some(with_handle()));
    let mut forged = frame(What::Note, Peer::Master, "x");
    forged.handles.push(7);
    assert_eq!(hub.heard(WORKER, forged), Err(Violation));
}
