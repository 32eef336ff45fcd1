//! Clusters of real processes.
//!
//! The master is a thread of the process that runs a test, or a program that the test starts; the
//! workers are this binary again, in one of its roles. See `harness` for how tests run.

mod addresses;
mod chaos;
mod crashes;
mod datagrams;
mod descriptors;
mod dispatch;
mod embedding;
mod environment;
mod events;
mod exclusive;
#[path = "../harness/mod.rs"]
mod harness;
mod hostile;
mod hostile_messages;
mod inherited;
mod keys;
mod lifecycle;
mod messages;
mod orphans;
mod parity;
mod parity_listen;
mod paths;
mod policies;
mod scale;
mod shared;
mod shutdown;
mod slot_options;
mod stalls;
mod steered;
mod support;
mod unread;

use std::process::ExitCode;

fn main() -> ExitCode {
    let tests = [
        addresses::TESTS,
        chaos::TESTS,
        crashes::TESTS,
        datagrams::TESTS,
        descriptors::TESTS,
        dispatch::TESTS,
        embedding::TESTS,
        environment::TESTS,
        events::TESTS,
        exclusive::TESTS,
        hostile::TESTS,
        hostile_messages::TESTS,
        inherited::TESTS,
        keys::TESTS,
        lifecycle::TESTS,
        messages::TESTS,
        orphans::TESTS,
        parity::TESTS,
        parity_listen::TESTS,
        paths::TESTS,
        policies::TESTS,
        scale::TESTS,
        shared::TESTS,
        shutdown::TESTS,
        slot_options::TESTS,
        stalls::TESTS,
        steered::TESTS,
        unread::TESTS,
    ];
    let roles = [
        crashes::ROLES,
        dispatch::ROLES,
        environment::ROLES,
        events::ROLES,
        exclusive::ROLES,
        hostile::ROLES,
        hostile_messages::ROLES,
        lifecycle::ROLES,
        parity::ROLES,
        parity_listen::ROLES,
        slot_options::ROLES,
        steered::ROLES,
        support::host::ROLES,
        support::messenger::ROLES,
        support::puppet::ROLES,
        support::roles::ROLES,
    ];
    harness::main(&tests, &roles)
}
