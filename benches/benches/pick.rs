//! What one pick costs: our policies beside nginx's smooth weighted round-robin and its least-conn.
//!
//! All are called through the trait, as the runtime calls them; `nothing` shows what that and the
//! loop cost, `pick-static` is a pick without the trait. Times are the thread's own, so that other
//! processes don't count.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use scheduler::{Load, Policy, PolicyKind, Request, RoundRobin, SmoothWeighted};

const SLOTS: [usize; 3] = [4, 64, 1024];

/// They add up to a short cycle, which is replayed.
const WEIGHTS: [u32; 4] = [5, 3, 1, 1];

/// They add up to a cycle that is too long for that: what a scan costs.
const LARGE_WEIGHTS: [u32; 4] = [500_009, 300_007, 100_003, 100_019];

/// How many connections a slot has open on average.
const OPEN: usize = 3;

/// So many different keys are asked for.
const KEYS: usize = 1 << 10;

criterion_main!(benches);
criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(700));
    targets = pick, pick_static
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;
type Measure = fn(&mut Group<'_>, usize, &mut dyn Policy);

fn pick(criterion: &mut Criterion) {
    check_nginx_equals_ours();
    for kind in PolicyKind::ALL {
        measure(criterion, "pick", || kind.build(1), WEIGHTS, pick_keys);
    }
    for build in [nothing, nginx, nginx_least_conn] {
        measure(criterion, "pick", build, WEIGHTS, pick_keys);
    }
    for kind in PolicyKind::ALL.into_iter().filter(|kind| kind.build(1).uses_connections()) {
        measure(criterion, "pick-and-release", || kind.build(1), WEIGHTS, pick_and_release);
    }
    for build in [nothing, nginx_least_conn] {
        measure(criterion, "pick-and-release", build, WEIGHTS, pick_and_release);
    }
    for build in [smooth_weighted, nginx] {
        measure(criterion, "pick-large-weights", build, LARGE_WEIGHTS, pick_keys);
        measure(criterion, "pick-and-refuse", build, WEIGHTS, pick_and_refuse);
    }
}

fn smooth_weighted() -> Box<dyn Policy> {
    Box::new(SmoothWeighted::new())
}

fn nothing() -> Box<dyn Policy> {
    Box::new(Nothing)
}

fn nginx() -> Box<dyn Policy> {
    Box::new(Nginx::default())
}

fn nginx_least_conn() -> Box<dyn Policy> {
    Box::new(NginxLeastConn::default())
}

fn measure(
    criterion: &mut Criterion,
    bench: &str,
    build: impl Fn() -> Box<dyn Policy>,
    weights: [u32; 4],
    measure: Measure,
) {
    let mut group = criterion.benchmark_group(format!("{bench}/{}", build().name()));
    for slots in SLOTS {
        let mut policy = build();
        fill(&mut *policy, slots, weights);
        measure(&mut group, slots, &mut *policy);
    }
}

/// Measures by the thread's own time, what is built for the first pick apart.
fn bench<T>(group: &mut Group<'_>, id: BenchmarkId, mut step: impl FnMut() -> T) {
    step();
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        let seconds = u64::try_from(now.tv_sec).expect("not before the thread's start");
        Duration::from_secs(seconds) + Duration::from_nanos(now.tv_nsec.unsigned_abs())
    };
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|iterations| {
            let start = now();
            for _ in 0..iterations {
                black_box(step());
            }
            now() - start
        });
    });
}

fn requests() -> Vec<Request> {
    (0..KEYS as u64).map(|key| Request::new(key.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect()
}

/// A pick, each for another key.
fn pick_keys(group: &mut Group<'_>, slots: usize, policy: &mut dyn Policy) {
    let requests = requests();
    let mut next = 0;
    bench(group, BenchmarkId::from_parameter(slots), || {
        next = (next + 1) % KEYS;
        policy.pick(black_box(&requests[next]))
    });
}

/// A pick, the update of that slot, and the update of the slot whose connection is the oldest.
fn pick_and_release(group: &mut Group<'_>, slots: usize, policy: &mut dyn Policy) {
    let requests = requests();
    let mut next = 0;
    // Loads are made for each call: one that is kept would be written in part and read as a whole,
    // which processors wait for.
    let mut connections = vec![0; slots];
    let busy = |slot, connections| Load { connections, ..load(slot, WEIGHTS) };
    let mut open = VecDeque::with_capacity(OPEN * slots + 1);
    let mut step = || {
        next = (next + 1) % KEYS;
        let slot = policy.pick(black_box(&requests[next])).expect("all can take");
        connections[slot] += 1;
        policy.update(slot, busy(slot, connections[slot]));
        open.push_back(slot);
        if open.len() > OPEN * slots {
            let slot = open.pop_front().expect("it is not empty");
            connections[slot] -= 1;
            policy.update(slot, busy(slot, connections[slot]));
        }
    };
    (0..OPEN * slots).for_each(|_| step());
    bench(group, BenchmarkId::from_parameter(slots), step);
}

/// A pick that the slot refuses, the pick of another slot, and the return of the first.
fn pick_and_refuse(group: &mut Group<'_>, slots: usize, policy: &mut dyn Policy) {
    let request = Request::default();
    bench(group, BenchmarkId::from_parameter(slots), || {
        let slot = policy.pick(black_box(&request)).expect("all can take");
        policy.update(slot, Load { can_take: false, ..load(slot, WEIGHTS) });
        let other = policy.pick(black_box(&request));
        policy.update(slot, load(slot, WEIGHTS));
        other
    });
}

/// Without the trait object.
fn pick_static(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick-static");
    let (slots, request) = (SLOTS[1], Request::default());
    let mut policy = RoundRobin::new();
    fill(&mut policy, slots, WEIGHTS);
    bench(&mut group, BenchmarkId::new("round-robin", slots), || policy.pick(&request));
    let mut policy = SmoothWeighted::new();
    fill(&mut policy, slots, WEIGHTS);
    bench(&mut group, BenchmarkId::new("smooth-weighted", slots), || policy.pick(&request));
}

fn load(slot: usize, weights: [u32; 4]) -> Load {
    Load { can_take: true, weight: weights[slot % weights.len()], ..Load::default() }
}

fn fill(policy: &mut dyn Policy, slots: usize, weights: [u32; 4]) {
    (0..slots).for_each(|slot| policy.update(slot, load(slot, weights)));
}

/// Contenders that pick otherwise would not be comparable.
fn check_nginx_equals_ours() {
    for weights in [WEIGHTS, LARGE_WEIGHTS] {
        let (mut ours, mut nginx) = (SmoothWeighted::new(), Nginx::default());
        fill(&mut ours, weights.len(), weights);
        fill(&mut nginx, weights.len(), weights);
        for _ in 0..3 * WEIGHTS.iter().sum::<u32>() {
            assert_eq!(ours.pick(&Request::default()), nginx.pick(&Request::default()));
        }
    }
}

/// What the call costs.
#[derive(Debug)]
struct Nothing;

impl Policy for Nothing {
    fn update(&mut self, _slot: usize, _load: Load) {}

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        Some(0)
    }

    fn name(&self) -> &'static str {
        "nothing"
    }
}

/// `ngx_http_upstream_get_peer` of `ngx_http_upstream_round_robin.c`, without its checks for peers
/// already tried, failures in a period, and connection limits.
#[derive(Debug, Default)]
struct Nginx {
    peers: Vec<Peer>,
}

#[derive(Clone, Debug, Default)]
struct Peer {
    down: bool,
    weight: i64,
    effective_weight: i64,
    current_weight: i64,
}

impl Policy for Nginx {
    fn update(&mut self, slot: usize, load: Load) {
        self.peers.resize(self.peers.len().max(slot + 1), Peer { down: true, ..Peer::default() });
        let peer = &mut self.peers[slot];
        peer.down = !load.is_eligible();
        peer.weight = load.weight.into();
        peer.effective_weight = peer.weight;
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        let mut best: Option<usize> = None;
        let mut total = 0;
        for index in 0..self.peers.len() {
            let peer = &mut self.peers[index];
            if peer.down {
                continue;
            }
            peer.current_weight += peer.effective_weight;
            total += peer.effective_weight;
            if peer.effective_weight < peer.weight {
                peer.effective_weight += 1;
            }
            let current_weight = peer.current_weight;
            if best.is_none_or(|best| current_weight > self.peers[best].current_weight) {
                best = Some(index);
            }
        }
        self.peers[best?].current_weight -= total;
        best
    }

    fn name(&self) -> &'static str {
        "nginx"
    }
}

/// `ngx_http_upstream_get_least_conn_peer`, with the same left out: a scan for the least busy peer,
/// and if it is not alone, another one for whose turn it is among those.
#[derive(Debug, Default)]
struct NginxLeastConn {
    round_robin: Nginx,
    connections: Vec<u64>,
}

impl Policy for NginxLeastConn {
    fn update(&mut self, slot: usize, load: Load) {
        self.round_robin.update(slot, load);
        self.connections.resize(self.round_robin.peers.len(), 0);
        self.connections[slot] = load.connections.into();
    }

    fn pick(&mut self, _request: &Request) -> Option<usize> {
        let peers = &mut self.round_robin.peers;
        let busy = |slot: usize, other: &Peer| self.connections[slot] * other.weight.unsigned_abs();
        let mut best: Option<usize> = None;
        let mut many = false;
        for slot in (0..peers.len()).filter(|&slot| !peers[slot].down) {
            let order = best.map(|best| busy(slot, &peers[best]).cmp(&busy(best, &peers[slot])));
            if order.is_none_or(|order| order.is_lt()) {
                (best, many) = (Some(slot), false);
            } else if order.is_some_and(|order| order.is_eq()) {
                many = true;
            }
        }
        let mut best = best?;
        if many {
            let (least, mut total) = (best, 0);
            for slot in least..peers.len() {
                let tied = busy(slot, &peers[least]) == busy(least, &peers[slot]);
                if peers[slot].down || !tied {
                    continue;
                }
                peers[slot].current_weight += peers[slot].effective_weight;
                total += peers[slot].effective_weight;
                if peers[slot].current_weight > peers[best].current_weight {
                    best = slot;
                }
            }
            peers[best].current_weight -= total;
        }
        self.connections[best] += 1;
        Some(best)
    }

    fn name(&self) -> &'static str {
        "nginx-least-conn"
    }
}
