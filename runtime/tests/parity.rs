//! Keeps `PARITY.md` honest: every test that it names exists, and is run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Where tests are that it may name.
#[rustfmt::skip]
const PLACES: [&str; 6] = [
    "runtime/tests", "runtime/src", "scheduler/src", "scheduler/tests", "ipc-core/src",
    "ipc-core/tests",
];

/// The names of tests, by their file, without its extension.
type Tests = BTreeMap<String, Vec<String>>;

fn collect(directory: &Path, tests: &mut Tests) {
    for entry in fs::read_dir(directory).expect("the tree is readable") {
        let path = entry.expect("the tree is readable").path();
        if path.is_dir() {
            collect(&path, tests);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("it is UTF-8");
            let module = path.with_extension("").to_string_lossy().replace('\\', "/");
            tests.insert(module, tests_in(&text));
        }
    }
}

/// What follows `#[test]`, and what the list of a module holds whose binary has the `harness`.
fn tests_in(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line == "#[test]" {
            let name = lines.by_ref().find_map(|line| line.strip_prefix("fn ")).unwrap_or("");
            names.extend(name.split('(').next().map(str::to_owned));
        } else if line == "tests! {" {
            let list = lines.by_ref().take_while(|line| *line != "}");
            names.extend(list.filter_map(|line| line.strip_suffix(',')).map(str::to_owned));
        }
    }
    names
}

/// Every `file::test` and `directory::file::test` between backticks, all in small letters.
fn named_in(text: &str) -> Vec<(&str, &str)> {
    let is_name = |text: &str| {
        let small = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':';
        !text.is_empty() && text.chars().all(small)
    };
    let quoted = text.split('`').skip(1).step_by(2);
    let pairs = quoted.filter_map(|text| text.rsplit_once("::"));
    pairs.filter(|(file, test)| is_name(file) && is_name(test)).collect()
}

/// The names in the text that are no tests.
fn missing(text: &str, tests: &Tests) -> Vec<String> {
    let exists = |file: &str, test: &str| {
        let end = format!("/{}", file.replace("::", "/"));
        let names = tests.iter().filter(|(file, _)| file.ends_with(&end));
        names.flat_map(|(_, names)| names).any(|name| name == test)
    };
    let named = named_in(text).into_iter();
    let missing = named.filter(|(file, test)| !exists(file, test) && *file != "file");
    missing.map(|(file, test)| format!("{file}::{test}")).collect()
}

#[test]
fn every_test_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let mut tests = Tests::new();
    PLACES.iter().for_each(|place| collect(&root.join(place), &mut tests));
    let text = fs::read_to_string(root.join("runtime/PARITY.md")).expect("it is there");
    assert!(named_in(&text).len() > 100, "its tables name tests");
    assert_eq!(missing(&text, &tests), [""; 0], "correct PARITY.md, or write these tests");
}

#[test]
fn every_row_has_a_test_or_a_reason() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("PARITY.md");
    let text = fs::read_to_string(path).expect("it is there");
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert!((2..=3).contains(&cells.len()), "{line}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{line}");
    }
    let scenarios = text.split("## What Node's own tests check").nth(1).expect("that part");
    let begins = |row: usize| scenarios.contains(&format!("\n| {row} | "));
    let without: Vec<_> = (1..=28).filter(|row| !begins(*row)).collect();
    assert_eq!(without, [0; 0], "rows of which it says nothing");
}

#[test]
fn a_name_without_a_test_is_found() {
    let source = "tests! {\n    one,\n}\n#[test]\nfn two() {}\nfn three() {}\n";
    let tests = Tests::from([("tests/a/b".to_owned(), tests_in(source))]);
    let text = "| `b::one`, `a::b::two`; `b::three` | `Worker::listen` | `c::b::one`, `a::one` |";
    assert_eq!(missing(text, &tests), ["b::three", "c::b::one", "a::one"]);
}
