//! Unix-domain sockets with files: where they can be, and what becomes of the file.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use runtime::{Address, Event};

use crate::harness::tests;
use crate::support::{Desk, Directory, Program, ask, puppets};

tests! {
    a_path_of_any_length_is_served_and_its_file_removed,
    a_relative_path_is_where_the_worker_is,
    a_name_that_is_too_long_is_told_with_its_limit,
    what_is_no_path_is_refused_before_the_master_is_asked,
    the_worker_hears_what_is_in_the_way,
    a_sigterm_leaves_no_file,
}

/// A directory whose path alone is longer than a socket's address.
fn deep(directory: &Directory) -> PathBuf {
    let deep = directory.join("d".repeat(120)).join("e".repeat(120));
    fs::create_dir_all(&deep).unwrap();
    deep
}

/// PARITY 5, row 18: Node's limit is about 100 bytes, of the shortest relative path.
fn a_path_of_any_length_is_served_and_its_file_removed() {
    let directory = Directory::new();
    let path = deep(&directory).join("s".repeat(80));
    let address = Address::Unix(path.clone());
    let desk = Desk::new();
    let running = puppets(&desk, 2);
    for name in ["0", "1"] {
        assert_eq!(desk.listen(name, 0, &address.to_string()), address);
        assert_eq!(desk.ask(name, "serve 0"), "serving");
    }
    for name in [ask(&address), ask(&address)] {
        assert!(["0.1", "1.1"].contains(&name.as_str()), "{name}");
    }
    assert!(path.exists());
    running.stop();
    assert!(!path.exists());
}

/// PARITY 5, row 18.
fn a_relative_path_is_where_the_worker_is() {
    let directory = Directory::new();
    let deep = deep(&directory);
    let desk = Desk::new();
    let running = puppets(&desk, 2);
    assert_eq!(desk.ask("0", &format!("cd {}", deep.display())), "there");
    let address = desk.listen("0", 0, "unix:./s");
    assert_eq!(address, Address::Unix(deep.join("s")));
    assert_eq!(desk.listen("1", 0, &address.to_string()), address, "it is the same for others");
    assert_eq!(desk.ask("0", "serve 0"), "serving");
    assert_eq!(ask(&address), "0.1");
    running.stop();
    assert!(!deep.join("s").exists());
}

fn a_name_that_is_too_long_is_told_with_its_limit() {
    let directory = Directory::new();
    let address = Address::Unix(directory.join("x".repeat(83))).to_string();
    let desk = Desk::new();
    let mut running = puppets(&desk, 1);
    let told = desk.ask("0", &format!("listen {address}"));
    let says = |text: &str| {
        let parts = [&address, "83 bytes", "at most 82", "shorten"];
        parts.iter().all(|part| text.contains(part))
    };
    assert!(told.starts_with("InvalidInput: ") && says(&told), "{told}");
    running.happens("it is told", |event| match event {
        Event::ListenFailed { error, .. } => says(error),
        _ => false,
    });
    running.stop();
}

fn what_is_no_path_is_refused_before_the_master_is_asked() {
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    let long = format!("unix:/tmp/{}", "d/".repeat(2048));
    for (text, why) in [(long.as_str(), "4096 bytes"), ("unix:/tmp/a\0b", "NUL")] {
        let told = desk.ask("0", &format!("listen {text}"));
        assert!(told.starts_with("InvalidInput: ") && told.contains(why), "{told}");
    }
    // A message that is none would have been its end.
    desk.listen("0", 0, "127.0.0.1:0");
    let log = running.stop();
    assert!(!log.iter().any(|event| matches!(event, Event::ListenFailed { .. })));
}

fn the_worker_hears_what_is_in_the_way() {
    let directory = Directory::new();
    let [file, live] = ["file", "live"].map(|name| directory.join(name));
    fs::write(&file, "precious").unwrap();
    let _live = std::os::unix::net::UnixListener::bind(&live).unwrap();
    let this = format!("process {}", std::process::id());
    let desk = Desk::new();
    let running = puppets(&desk, 1);
    for (path, why) in [(file, "no socket"), (live, &*this)] {
        let address = Address::Unix(path).to_string();
        let told = desk.ask("0", &format!("listen {address}"));
        assert!(told.starts_with("AddrInUse: ") && told.contains(why), "{told}");
        assert!(told.contains("choose another path"), "{told}");
        assert_eq!(told.matches(&address).count(), 1, "it is named once: {told}");
    }
    running.stop();
}

/// PARITY 5, row 18.
fn a_sigterm_leaves_no_file() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let address = Address::Unix(path.clone()).to_string();
    let mut master = Program::role("master", &["1", "30000", "30000", "serve", &address]);
    assert_eq!(ask(&master.listening(1)), "0.1");
    assert!(path.exists());
    master.signal(Signal::SIGTERM);
    assert_eq!(master.wait().code(), Some(0));
    assert!(!path.exists());
}
