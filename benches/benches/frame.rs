//! What framing costs: messages go through an outbox, one copy in place of the system calls, and
//! an inbox. Beside it, in the same run, the least that can be done by hand: a length in front of
//! each payload, no kinds, no handles, no limits, no partial reads.
//!
//! Both own each payload on both sides, as the two processes would.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ipc_core::{Inbox, Limits, Message, Outbox};

/// Length of the payload in bytes, and how many messages are in one batch: one write, one read.
const SHAPES: [(usize, usize); 3] = [(64, 256), (1024, 32), (64 * 1024, 1)];

criterion_main!(benches);
criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = frame
}

fn frame(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    for (bytes, batch) in SHAPES {
        let payload = vec![7_u8; bytes];
        group.throughput(Throughput::Elements(batch as u64));

        let mut outbox: Outbox<u32> = Outbox::new(Limits::default());
        let mut inbox: Inbox<u32> = Inbox::new(Limits::default());
        group.bench_function(BenchmarkId::new("ours", bytes), |bencher| {
            bencher.iter(|| ours(&mut outbox, &mut inbox, black_box(&payload), batch));
        });

        // Buffers that lie at the same place within their pages are several times slower to copy
        // from one to the other; half a page more keeps these from doing so.
        let length = batch * (4 + bytes);
        let mut wire = Vec::with_capacity(length + 2048);
        let mut received = Vec::with_capacity(length + 2048);
        received.resize(length, 0);
        group.bench_function(BenchmarkId::new("raw", bytes), |bencher| {
            bencher.iter(|| raw(&mut wire, &mut received, black_box(&payload), batch));
        });
    }
    group.finish();
}

fn ours(outbox: &mut Outbox<u32>, inbox: &mut Inbox<u32>, payload: &[u8], batch: usize) {
    for _ in 0..batch {
        outbox.push(Message::new(1, payload)).expect("within the limits");
    }
    let mut arrived = 0;
    while !outbox.is_empty() {
        let slice = outbox.slices().next().expect("something waits");
        let spare = inbox.spare();
        let length = slice.len().min(spare.len());
        spare[..length].copy_from_slice(&slice[..length]);
        outbox.sent(length);
        inbox.received(length, []);
        while let Some(message) = inbox.next_message().expect("an honest peer") {
            arrived += 1;
            black_box(message);
        }
    }
    assert_eq!(arrived, batch);
}

fn raw(wire: &mut Vec<u8>, received: &mut [u8], payload: &[u8], batch: usize) {
    wire.clear();
    for _ in 0..batch {
        let payload = black_box(payload.to_vec());
        let length = u32::try_from(payload.len()).expect("short");
        wire.extend_from_slice(&length.to_le_bytes());
        wire.extend_from_slice(&payload);
    }
    received.copy_from_slice(wire);
    let mut rest = &received[..];
    let mut arrived = 0;
    while let Some((length, tail)) = rest.split_first_chunk() {
        let (payload, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
        arrived += 1;
        black_box(payload.to_vec());
        rest = tail;
    }
    assert_eq!(arrived, batch);
}
