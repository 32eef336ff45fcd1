//! Child processes without a cluster.
//!
//! What the tests start is this binary again, in one of its roles. See `harness` for how they run.

mod bad_input;
mod child;
mod children;
mod exact;
mod examples;
mod exec;
mod faults;
mod fork;
#[path = "../harness/mod.rs"]
mod harness;
mod launch;
mod node;
mod storm;
mod support;
mod terminal;
mod tree;

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::process::run_functions(fork::functions::FUNCTIONS);
    let tests = [
        bad_input::TESTS,
        child::TESTS,
        children::TESTS,
        exact::TESTS,
        examples::TESTS,
        exec::TESTS,
        faults::TESTS,
        fork::end::TESTS,
        fork::functions::TESTS,
        fork::handles::TESTS,
        fork::messages::TESTS,
        launch::TESTS,
        node::TESTS,
        storm::TESTS,
        terminal::TESTS,
        tree::TESTS,
    ];
    let roles = [
        bad_input::ROLES,
        child::ROLES,
        children::ROLES,
        exact::ROLES,
        examples::ROLES,
        exec::ROLES,
        faults::ROLES,
        fork::end::ROLES,
        fork::functions::ROLES,
        fork::handles::ROLES,
        fork::messages::ROLES,
        launch::ROLES,
        node::ROLES,
        storm::ROLES,
        support::ROLES,
        terminal::ROLES,
        tree::ROLES,
    ];
    harness::main(&tests, &roles)
}
