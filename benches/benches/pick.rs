//! What one pick costs: our policies beside nginx's smooth weighted round-robin.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use scheduler::{Load, Policy, Request, RoundRobin, SmoothWeighted};

const SLOTS: [usize; 3] = [4, 64, 1024];
const WEIGHTS: [u32; 4] = [5, 3, 1, 1];

fn pick(criterion: &mut Criterion) {
    check_nginx_equals_ours();
    for (name, policy) in contenders() {
        let mut group = criterion.benchmark_group(format!("pick/{name}"));
        for slots in SLOTS {
            let mut policy = policy();
            fill(&mut *policy, slots);
            group.bench_function(BenchmarkId::from_parameter(slots), |bencher| {
                bencher.iter(|| policy.pick(black_box(&Request::default())));
            });
        }
    }
}

type Contender = (&'static str, fn() -> Box<dyn Policy>);

/// All behind the trait, as the runtime calls them.
fn contenders() -> [Contender; 3] {
    [
        ("round-robin", || Box::new(RoundRobin::new())),
        ("smooth-weighted", || Box::new(SmoothWeighted::new())),
        ("nginx", || Box::new(Nginx::default())),
    ]
}

fn fill(policy: &mut dyn Policy, slots: usize) {
    for slot in 0..slots {
        let weight = WEIGHTS[slot % WEIGHTS.len()];
        policy.update(slot, Load { can_take: true, weight, ..Load::default() });
    }
}

/// Contenders that pick otherwise would not be comparable.
fn check_nginx_equals_ours() {
    let (mut ours, mut nginx) = (SmoothWeighted::new(), Nginx::default());
    fill(&mut ours, WEIGHTS.len());
    fill(&mut nginx, WEIGHTS.len());
    for _ in 0..3 * WEIGHTS.iter().sum::<u32>() {
        assert_eq!(ours.pick(&Request::default()), nginx.pick(&Request::default()));
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

criterion_group!(benches, pick);
criterion_main!(benches);
