//! The master in the simulator: many seeds, and a few stories in full.
#![cfg(feature = "sim")]

use std::time::Duration;

use runtime::sim::{self, Act, Fault, Place, Plan, Script, Source, Wish, World};
use runtime::{Event, Exit, KillReason, WorkerId};

/// How many seeds a run of the tests tries; `examples/sim.rs` tries more.
const SEEDS: u64 = 2_000;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn worker(slot: usize, generation: u32) -> WorkerId {
    WorkerId { slot, generation }
}

/// A cluster whose workers listen.
fn cluster(plan: Plan) -> World {
    let mut world = World::new(plan, Source::Seed(1));
    world.start();
    world.run_for(ms(500));
    world
}

fn slots(count: usize) -> Plan {
    Plan::default().with_weights(&vec![1; count])
}

fn count(world: &World, what: impl Fn(&Event) -> bool) -> usize {
    world.events().iter().filter(|event| what(event)).count()
}

fn has(world: &World, event: &Event) -> bool {
    world.events().contains(event)
}

/// No invariant was broken, and the cluster stops in order.
fn end(mut world: World) {
    world.shutdown();
    world.run_to_rest(ms(10_000));
    world.verdict().unwrap_or_else(|violation| panic!("{violation}"));
    assert!(world.is_finished());
    assert_eq!(world.count(Place::Lost) + world.count(Place::Abandoned), 0);
}

#[test]
fn no_seed_breaks_an_invariant() {
    let mut served = 0;
    for seed in 0..SEEDS {
        match sim::run(Source::Seed(seed)) {
            Ok(summary) => served += summary.served,
            Err(violation) => panic!("{violation}\nseed {seed}"),
        }
    }
    assert!(served > 10_000, "the runs do something: {served} clients served");
}

#[test]
fn i12_a_seed_gives_the_same_run_each_time() {
    let digests: Vec<_> = (0..200).map(|seed| sim::run(Source::Seed(seed)).unwrap()).collect();
    for (seed, first) in (0..).zip(&digests) {
        assert_eq!(sim::run(Source::Seed(seed)).as_ref(), Ok(first), "seed {seed}");
    }
    let mut different: Vec<_> = digests.iter().map(|summary| summary.digest).collect();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), digests.len());
}

#[test]
fn a_broken_invariant_is_told_with_what_led_to_it() {
    let mut world = World::new(Plan::default(), Source::Seed(1));
    world.start();
    world.run_to_rest(ms(1));
    let violation = world.verdict().unwrap_err();
    assert!(violation.text.starts_with("I11: not at rest"), "{}", violation.text);
    assert!(violation.trace.contains("spawn 3.1"), "{}", violation.trace);
}

#[test]
fn round_robin_is_exact() {
    let mut world = cluster(slots(4));
    for _ in 0..100 {
        world.connect(0, 4);
        world.run_for(ms(2));
    }
    world.run_to_rest(ms(1000));
    assert_eq!(world.served(), [100; 4]);
    end(world);
}

#[test]
fn weights_are_kept() {
    let mut world = cluster(Plan { weighted: true, ..Plan::default().with_weights(&[5, 3, 1, 1]) });
    for _ in 0..100 {
        world.connect(0, 4);
        world.run_for(ms(10));
    }
    world.run_to_rest(ms(1000));
    assert_eq!(world.served(), [200, 120, 40, 40]);
    end(world);
}

#[test]
fn f15_what_waits_for_a_killed_worker_goes_to_the_others_at_once() {
    let mut world = cluster(slots(4));
    world.freeze(0); // So that something waits.
    world.connect(0, 16);
    world.run_for(ms(100));
    assert_eq!((world.served(), world.waiting(0)), (vec![0, 4, 4, 4], 4));
    world.kill(0, 9);
    world.run_for(ms(1));
    assert_eq!(world.waiting(0), 0);
    assert!(has(&world, &Event::TakenBack { slot: 0, connections: 4 }));
    world.run_to_rest(ms(1000));
    assert_eq!(world.served().iter().sum::<usize>(), 16);
    assert_eq!(world.served()[0], 0);
    end(world);
}

#[test]
fn f15_in_a_cluster_of_one_the_successor_gets_what_waits() {
    let mut world = cluster(slots(1));
    world.freeze(0);
    world.connect(0, 5);
    world.run_for(ms(100));
    world.kill(0, 9);
    world.run_to_rest(ms(1000));
    assert!(has(&world, &Event::Online { worker: worker(0, 2) }));
    assert_eq!(world.served(), [5]);
    end(world);
}

#[test]
fn f16_a_worker_takes_with_it_only_what_it_had_taken() {
    let mut plan = slots(1);
    plan.cast[0] = Some(Script { crash_after_taking: Some(2), ..Script::default() });
    let mut world = cluster(plan);
    world.cast(0, Script::default());
    world.connect(0, 5);
    world.run_to_rest(ms(1000));
    assert_eq!((world.count(Place::Lost), world.served()), (2, vec![3]));
    world.verdict().unwrap();
}

#[test]
fn f46_a_stopped_worker_holds_nothing_back_and_takes_part_again_when_it_goes_on() {
    let plan = slots(4);
    let stall_timeout = plan.config.stall_timeout;
    let mut world = cluster(plan);
    world.freeze(2);
    world.connect(0, 8);
    world.run_for(stall_timeout);
    assert_eq!(world.served().iter().sum::<usize>(), 8);
    let of_two = |worker: &WorkerId| worker.slot == 2;
    assert_eq!(count(&world, |e| matches!(e, Event::Stalled { worker, .. } if of_two(worker))), 1);
    world.connect(0, 3);
    world.run_for(ms(20));
    assert_eq!((world.served()[2], world.served().iter().sum::<usize>()), (0, 11));

    world.thaw(2);
    world.run_for(stall_timeout);
    assert_eq!(count(&world, |e| matches!(e, Event::Resumed { worker, .. } if of_two(worker))), 1);
    world.connect(0, 4);
    world.run_to_rest(ms(1000));
    assert_eq!((world.served()[2], world.served().iter().sum::<usize>()), (1, 15));
    end(world);
}

#[test]
fn f48_in_a_suspended_machine_nobody_is_stalled() {
    let mut world = cluster(slots(2));
    world.freeze(0);
    world.connect(0, 4);
    world.run_for(ms(10));
    world.leap(ms(3_600_000));
    world.run_for(ms(10));
    world.thaw(0);
    world.run_to_rest(ms(1000));
    assert_eq!(count(&world, |event| matches!(event, Event::Stalled { .. })), 0);
    assert_eq!(world.served(), [2, 2]);
    end(world);
}

#[test]
fn f43_a_slot_whose_workers_crash_is_given_up_and_the_others_go_on() {
    let mut plan = slots(4);
    plan.cast[1] = Some(Script::crash(ms(1)));
    let mut world = cluster(plan);
    world.run_to_rest(ms(10_000));
    assert!(has(&world, &Event::SlotFailed { slot: 1, failures: 4 }));
    assert_eq!(count(&world, |event| matches!(event, Event::SlotFailed { .. })), 1);
    for _ in 0..3 {
        world.connect(0, 3);
        world.run_for(ms(10));
    }
    world.run_to_rest(ms(1000));
    assert_eq!(world.served(), [3, 0, 3, 3]);
    end(world);
}

#[test]
fn when_every_slot_is_given_up_the_cluster_ends() {
    let mut plan = slots(2);
    plan.cast.fill(Some(Script::crash(ms(1))));
    let mut world = cluster(plan);
    world.run_to_rest(ms(10_000));
    assert!(world.is_finished());
    // Nothing has ever worked, so that it takes `start_failures_max`.
    assert!(has(&world, &Event::SlotFailed { slot: 0, failures: 2 }));
    assert_eq!(world.events().last(), Some(&Event::Stopped { abandoned: 0 }));
    world.verdict().unwrap();
}

#[test]
fn f44_a_worker_that_is_not_online_in_time_is_killed_and_counted() {
    let mut plan = slots(2);
    plan.cast[0] = Some(Script::mute());
    let start_timeout = plan.config.start_timeout;
    let mut world = World::new(plan, Source::Seed(1));
    world.start();
    world.run_for(start_timeout - ms(1));
    let killed = Event::Killed { worker: worker(0, 1), reason: KillReason::NotOnline };
    assert!(!has(&world, &killed));
    world.run_for(ms(2));
    assert!(has(&world, &killed));
    world.run_to_rest(ms(60_000));
    assert!(has(&world, &Event::SlotFailed { slot: 0, failures: 4 }));
    end(world);
}

#[test]
fn f19_a_worker_that_breaks_the_protocol_is_killed_and_harms_nobody() {
    let mut plan = slots(2);
    plan.cast[0] = Some(Script { acts: vec![(ms(600), Act::Garbage)], ..Script::default() });
    let mut world = cluster(plan);
    world.freeze(1);
    world.connect(0, 4);
    world.run_for(ms(50));
    world.thaw(1);
    world.run_for(ms(100));
    let killed = Event::Killed { worker: worker(0, 1), reason: KillReason::Protocol };
    assert!(has(&world, &killed));
    world.cast(0, Script::default());
    world.run_to_rest(ms(1000));
    assert_eq!(world.served(), [2, 2]);
    end(world);
}

#[test]
fn f49_a_worker_that_closes_its_channel_and_runs_on_gets_no_more_and_is_killed() {
    let mut plan = slots(2);
    let kill_timeout = plan.config.kill_timeout;
    plan.cast[0] = Some(Script { acts: vec![(ms(500), Act::HangUp)], ..Script::default() });
    let mut world = cluster(plan);
    world.cast(0, Script::default());
    world.run_for(ms(10));
    world.connect(0, 3);
    world.run_for(kill_timeout - ms(20));
    assert_eq!(world.served(), [0, 3]);
    let killed = Event::Killed { worker: worker(0, 1), reason: KillReason::ChannelClosed };
    assert!(!has(&world, &killed));
    world.run_for(ms(50));
    assert!(has(&world, &killed));
    assert!(has(&world, &Event::Online { worker: worker(0, 2) }));
    end(world);
}

#[test]
fn f50_a_grandchild_with_the_channel_hides_no_exit() {
    let mut plan = slots(1);
    plan.cast[0] = Some(Script { has_grandchild: true, ..Script::default() });
    let mut world = cluster(plan);
    world.kill(0, 11);
    world.run_for(ms(50));
    assert!(has(&world, &Event::Online { worker: worker(0, 2) }));
    end(world);
}

#[test]
fn a_shutdown_serves_the_mailboxes_and_then_the_backlog() {
    let mut plan = Plan { mailbox_bound: 4, ..slots(2) };
    plan.cast.fill(Some(Script { take_every: ms(5), ..Script::default() }));
    let mut world = cluster(plan);
    world.connect(0, 60);
    world.run_for(ms(10));
    assert!(world.waiting(0) > 0 && world.waiting(1) > 0);
    assert!(world.count(Place::Backlog) > 40);
    world.shutdown();
    world.run_for(ms(10));
    world.connect(0, 1); // Comes while the rest is accepted: served or refused, never lost.
    world.run_to_rest(ms(10_000));
    assert!(world.count(Place::Served(0)) >= 60);
    assert_eq!(count(&world, |event| matches!(event, Event::Exited { asked: true, .. })), 2);
    assert_eq!(world.events().last(), Some(&Event::Stopped { abandoned: 0 }));
    world.verdict().unwrap();
}

/// How long a cluster of stubborn workers lives on when it is asked to stop at these times.
fn end_of_the_stubborn(shutdowns: &[u64]) -> Duration {
    let mut plan = slots(3);
    let script = Script { ignores_stop: true, ignores_term: true, ..Script::default() };
    plan.cast.fill(Some(script));
    let mut world = cluster(plan);
    let start = world.now();
    for pause in shutdowns {
        world.shutdown();
        world.run_for(ms(*pause));
    }
    while !world.is_finished() {
        world.run_for(ms(10));
        world.verdict().unwrap();
    }
    world.now() - start
}

#[test]
fn f68_each_further_shutdown_is_quicker() {
    // The plan: 2 s to drain, 0.5 s after SIGTERM.
    let (once, twice, thrice) = (
        end_of_the_stubborn(&[0]),
        end_of_the_stubborn(&[100, 0]),
        end_of_the_stubborn(&[100, 100, 0]),
    );
    assert!((ms(2500)..ms(2600)).contains(&once), "{once:?}");
    assert!((ms(600)..ms(700)).contains(&twice), "{twice:?}");
    assert!((ms(200)..ms(300)).contains(&thrice), "{thrice:?}");
}

#[test]
fn an_address_in_use_is_told_to_the_worker_and_can_be_asked_for_again() {
    let mut world = World::new(slots(3), Source::Seed(1));
    world.set_rate(Fault::OpenFailure, u8::MAX);
    world.start();
    world.run_for(ms(50));
    let failed = count(&world, |event| matches!(event, Event::ListenFailed { .. }));
    assert!(failed >= 3, "{failed}");
    assert_eq!(count(&world, |event| matches!(event, Event::Listening { .. })), 0);
    world.set_rate(Fault::OpenFailure, 0);
    world.run_for(ms(200));
    assert_eq!(count(&world, |event| matches!(event, Event::Listening { .. })), 3);
    world.connect(0, 3);
    world.run_to_rest(ms(1000));
    assert_eq!(world.served(), [1, 1, 1]);
    end(world);
}

#[test]
fn f13_without_room_in_the_kernel_connections_wait_and_none_is_lost() {
    let mut world = cluster(slots(2));
    world.set_busy(true);
    world.connect(0, 6);
    world.run_for(ms(100));
    assert_eq!(world.served(), [0, 0]);
    assert!(world.count(Place::Backlog) >= 5, "accepting rests");
    world.set_busy(false);
    world.run_to_rest(ms(1000));
    assert_eq!(world.served(), [3, 3]);
    end(world);
}

#[test]
fn an_exit_with_code_0_that_nobody_asked_for_is_a_failure() {
    let mut plan = slots(1);
    let act = Act::Die(Exit::Code(0));
    plan.cast[0] = Some(Script { acts: vec![(ms(50), act)], ..Script::default() });
    let mut world = cluster(plan);
    world.run_to_rest(ms(60_000));
    assert!(has(&world, &Event::SlotFailed { slot: 0, failures: 4 }));
    world.verdict().unwrap();
}

fn scaled(from: usize, to: usize) -> Event {
    Event::Scaled { from, to }
}

/// Which slots have workers.
fn seated(world: &World) -> Vec<usize> {
    world.workers().iter().map(|info| info.id.slot).collect()
}

#[test]
fn scaling_up_adds_slots_that_take_their_share() {
    let mut world = cluster(slots(2));
    world.wish(Wish::Scale(4));
    world.run_for(ms(100));
    assert!(has(&world, &scaled(2, 4)));
    for _ in 0..10 {
        world.connect(0, 5); // The fourth has twice the weight, which round-robin does not heed.
        world.run_for(ms(10));
    }
    world.run_to_rest(ms(1000));
    let served = world.served();
    assert_eq!(served.len(), 4);
    assert!(served.iter().all(|count| (12..=13).contains(count)), "{served:?}");
    end(world);
}

#[test]
fn scaling_down_drains_the_highest_slots_and_gives_what_waits_there_to_others_at_once() {
    let mut world = cluster(slots(4));
    world.freeze(3);
    world.connect(0, 8);
    world.run_for(ms(50));
    assert_eq!(world.waiting(3), 2);
    world.wish(Wish::Scale(2));
    world.run_for(ms(1));
    assert_eq!(world.waiting(3), 0);
    world.thaw(3);
    world.run_to_rest(ms(10_000));
    assert_eq!(world.served().iter().sum::<usize>(), 8);
    assert_eq!(seated(&world), [0, 1]);
    let asked = |event: &Event| matches!(event, Event::Exited { asked: true, .. });
    assert_eq!(count(&world, asked), 2);
    assert_eq!(count(&world, |event| matches!(event, Event::Restarting { .. })), 0);
    end(world);
}

#[test]
fn a_slot_that_is_wanted_again_while_it_drains_gets_its_worker_when_the_old_one_is_gone() {
    let mut plan = slots(2);
    plan.cast.fill(Some(Script { serve_for: ms(300), ..Script::default() }));
    let mut world = cluster(plan);
    world.connect(0, 2);
    world.run_for(ms(20));
    world.wish(Wish::Scale(1));
    world.run_for(ms(20));
    world.wish(Wish::Scale(2));
    world.run_for(ms(20));
    assert!(!has(&world, &Event::Online { worker: worker(1, 2) }));
    world.run_to_rest(ms(10_000));
    assert!(has(&world, &Event::Online { worker: worker(1, 2) }));
    assert_eq!(world.served(), [1, 1]);
    world.check_rest();
    end(world);
}

#[test]
fn a_disconnected_slot_stays_empty_until_somebody_starts_it() {
    let mut world = cluster(slots(2));
    world.wish(Wish::Disconnect(0, None));
    world.run_to_rest(ms(10_000));
    assert_eq!(seated(&world), [1]);
    world.check_rest();
    world.wish(Wish::Start(0));
    world.run_to_rest(ms(10_000));
    assert_eq!(seated(&world), [0, 1]);
    end(world);
}

#[test]
fn connections_wait_while_every_slot_is_empty() {
    let mut world = cluster(slots(2));
    for slot in [0, 1] {
        world.wish(Wish::Disconnect(slot, None));
    }
    world.run_to_rest(ms(10_000));
    world.connect(0, 3);
    world.run_to_rest(ms(10_000));
    assert_eq!((world.count(Place::Backlog), seated(&world)), (3, vec![]));
    world.wish(Wish::Start(1));
    world.run_to_rest(ms(10_000));
    assert_eq!(world.served(), [0, 3]);
    end(world);
}

#[test]
fn a_worker_past_its_deadline_is_sent_sigterm_and_then_sigkill() {
    let mut plan = slots(2);
    let kill_timeout = plan.config.kill_timeout;
    let script = Script { ignores_stop: true, ignores_term: true, ..Script::default() };
    plan.cast[0] = Some(script);
    let mut world = cluster(plan);
    world.cast(0, Script::default());
    world.wish(Wish::Restart(0, Some(ms(100))));
    world.run_for(ms(100) + kill_timeout - ms(10));
    assert_eq!(count(&world, |event| matches!(event, Event::Exited { .. })), 0);
    world.run_to_rest(ms(1000));
    let killed = Event::Killed { worker: worker(0, 1), reason: KillReason::NotStopped };
    assert!(has(&world, &killed));
    assert!(has(&world, &Event::Online { worker: worker(0, 2) }));
    end(world);
}

#[test]
fn a_slot_that_was_given_up_can_be_started_again() {
    let mut plan = slots(2);
    plan.cast[0] = Some(Script::crash(ms(1)));
    let mut world = cluster(plan);
    world.run_to_rest(ms(60_000));
    assert!(has(&world, &Event::SlotFailed { slot: 0, failures: 4 }));
    world.cast(0, Script::default());
    world.wish(Wish::Start(0));
    world.run_to_rest(ms(1000));
    assert_eq!(seated(&world), [0, 1]);
    world.check_rest();
    end(world);
}

#[test]
fn a_worker_that_asks_to_be_let_go_is_not_replaced() {
    let mut plan = slots(2);
    plan.cast[1] = Some(Script { acts: vec![(ms(50), Act::Leave)], ..Script::default() });
    let mut world = cluster(plan);
    world.run_to_rest(ms(1000));
    assert_eq!(seated(&world), [0]);
    let asked = |event: &Event| matches!(event, Event::Exited { asked: true, .. });
    assert_eq!(count(&world, asked), 1);
    world.check_rest();
    end(world);
}

#[test]
fn whoever_still_drains_has_no_longer_than_the_cluster_when_it_stops() {
    let mut plan = slots(2);
    let script = Script { ignores_stop: true, ..Script::default() };
    plan.cast[0] = Some(script);
    let drain_timeout = plan.config.drain_timeout;
    let mut world = cluster(plan);
    world.wish(Wish::Disconnect(0, Some(ms(3_600_000))));
    world.run_for(ms(10));
    let start = world.now();
    world.shutdown();
    world.run_to_rest(ms(100_000));
    world.verdict().unwrap_or_else(|violation| panic!("{violation}"));
    let took = world.now() - start;
    assert!((drain_timeout..drain_timeout + ms(100)).contains(&took), "{took:?}");
}
