//! One child: its events, streams, timeouts, end.

use std::fs;
use std::process::Command;

use crate::harness::tools::{Directory, proc_field, wait_until};
use crate::harness::{children, roles, tests};
use crate::support::role;

tests! {
    a_role_is_played_by_a_process_of_its_own,
}
roles! {}

fn a_role_is_played_by_a_process_of_its_own() {
    let directory = Directory::new();
    let path = directory.join("out");
    let (file, args) = role("exit", &["7"]);
    let mut child =
        Command::new(file).args(args).stdout(fs::File::create(&path).unwrap()).spawn().unwrap();
    let status = format!("{}/status", child.id());
    wait_until("it has ended", || proc_field(&status, "State").unwrap().starts_with('Z'));
    assert_eq!(children(), [child.id().cast_signed()]);
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert_eq!(fs::read(path).unwrap(), b"");
}
