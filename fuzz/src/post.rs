//! Messages: any frames and any calls, at a hub and its spokes.

use ipc_core::Message as Frame;
use runtime::WorkerId;
use runtime::post::{
    Envelope, Hub, MESSAGE_FROM_WORKER, NOTICE_FROM_WORKER, Notice, Terms, WINDOW_MESSAGES,
};

#[path = "../../runtime/tests/post/world.rs"]
mod world;

/// The first byte chooses: calls of everybody, or frames of a worker that keeps no rules. Panics
/// when something is lost, doubled, out of order or left, or when what waits grows without bound.
pub fn post(data: &[u8]) {
    match data.split_first() {
        Some((0..128, calls)) => world::play(calls),
        Some((_, frames)) => hostile(frames),
        None => {}
    }
}

/// A worker sends frames: a length, a kind, how many handles, and so many bytes.
fn hostile(mut data: &[u8]) {
    let terms = Terms { message_bytes_max: 64, message_handles_max: 2 };
    let mut hub: Hub<()> = Hub::new(terms, true);
    let seated = [0, 1].map(|slot| WorkerId { slot, generation: 1 });
    seated.iter().for_each(|worker| hub.seat(*worker, true));
    let mut taken = 0;
    while let [length, kind, rest @ ..] = data {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(length % 100)));
        data = rest;
        for to_worker in [false, true] {
            decode(payload, to_worker);
        }
        let kind = if kind % 4 == 0 { NOTICE_FROM_WORKER } else { MESSAGE_FROM_WORKER };
        let mut frame = Frame::new(kind, payload);
        (0..usize::from(length / 100)).for_each(|_| frame.handles.push(()));
        if hub.heard(seated[0], frame).is_err() {
            hub.unseat(seated[0]);
        }
        if kind % 3 == 0 {
            taken += u32::from(hub.take().is_some());
        }
    }
    let waiting = std::iter::from_fn(|| hub.take()).count();
    assert!(waiting <= WINDOW_MESSAGES as usize, "{waiting} wait, {taken} were taken");
    let frames = std::iter::from_fn(|| hub.poll_frame(seated[1])).count();
    // Its terms, messages and replies; and failures of requests that it has not made.
    assert!(frames <= 1 + 2 * WINDOW_MESSAGES as usize, "{frames} for another worker");
}

fn decode(payload: &[u8], to_worker: bool) {
    let mut bytes = payload.to_vec();
    if let Ok(envelope) = Envelope::split_off(&mut bytes, to_worker) {
        envelope.append(&mut bytes);
    }
    assert_eq!(bytes, payload);
    if let Ok(notice) = Notice::decode(payload, to_worker) {
        assert_eq!(notice.encode(), payload);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpus() {
        crate::corpus::run("post", super::post);
    }
}
