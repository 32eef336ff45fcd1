//! Child processes without a cluster.
//!
//! What the tests start is this binary again, in one of its roles. See `harness` for how they run.
//! Most of them look at processes as only Linux shows them; what is in `portable`, and a part of
//! `fork`, runs on Windows too.

#[cfg(target_os = "linux")]
mod bad_input;
#[cfg(target_os = "linux")]
mod child;
#[cfg(target_os = "linux")]
mod children;
#[cfg(target_os = "linux")]
mod exact;
#[cfg(target_os = "linux")]
mod examples;
#[cfg(target_os = "linux")]
mod exec;
#[cfg(target_os = "linux")]
mod faults;
mod fork;
#[path = "../harness/mod.rs"]
mod harness;
#[cfg(target_os = "linux")]
mod launch;
#[cfg(target_os = "linux")]
mod node;
mod portable;
#[cfg(target_os = "linux")]
mod storm;
mod support;
#[cfg(target_os = "linux")]
mod terminal;
#[cfg(target_os = "linux")]
mod tree;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    let functions = [fork::functions::FUNCTIONS, portable::FUNCTIONS].concat();
    runtime::process::run_functions(&functions);
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
        portable::TESTS,
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
        node::ROLES,
        portable::ROLES,
        storm::ROLES,
        support::ROLES,
        terminal::ROLES,
        tree::ROLES,
    ];
    harness::main(&tests, &roles)
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    let functions = [fork::functions::FUNCTIONS, portable::FUNCTIONS].concat();
    runtime::process::run_functions(&functions);
    let tests = [fork::functions::TESTS, fork::messages::TESTS, portable::TESTS];
    let roles = [fork::functions::ROLES, fork::messages::ROLES, portable::ROLES, support::ROLES];
    harness::main(&tests, &roles)
}
