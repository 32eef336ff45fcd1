//! Keeps the workspace's rules that a machine can keep; CONTRIBUTING.md says what they are for.
//!
//! A check looks at one file, without its comments and literals where it looks for code, and yields
//! lines and remedies. It is textual: it need not withstand malice, only catch what slips in. Each
//! is shown to fail, on snippets, at the end of this file.

use std::fs;
use std::path::Path;

/// Findings that stand: rule, path, reason. One that is no longer needed fails a test.
const EXCEPTIONS: &[(&str, &str, &str)] =
    &[("functions", "runtime/src/machine/slot.rs", "the table of lives is one match, and total")];

/// One test for each rule, so that a failure names it; the rule is called like its check.
macro_rules! tidy {
    ($($test:ident: $check:ident,)*) => {
        const CHECKS: &[(&str, Check)] = &[$((stringify!($check), $check)),*];
        $(
            #[test]
            fn $test() {
                assert_tidy(stringify!($check));
            }
        )*
    };
}

tidy! {
    pure_modules_decide_without_the_system: pure,
    libraries_take_the_time_as_an_argument: clock,
    unsafe_code_lives_in_sys: unsafe_code,
    platforms_are_told_apart_in_one_file: platform,
    dependencies_point_one_way: layers,
    lines_fit_in_100_columns: columns,
    files_hold_one_noun: length,
    functions_fit_on_a_screen: functions,
    nothing_is_left_unfinished: unfinished,
    crates_say_what_they_are_for: docs,
    nothing_names_a_path_of_one_machine: host_paths,
}

/// Beginnings of the paths of modules that decide without I/O, clock, randomness or threads.
const PURE: &[&str] = &[
    "scheduler/src/",
    "ipc-core/src/frame",
    "ipc-core/src/inbox",
    "ipc-core/src/outbox",
    "ipc-core/src/shm/ring/core/",
    "ipc-core/src/set/",
    "runtime/src/machine",
    "runtime/src/post/",
    "runtime/src/process/life",
    "runtime/src/process/capture",
    "runtime/src/process/tree",
    "runtime/src/sim",
];

/// What pure modules do without, apart from mere types.
#[rustfmt::skip]
const IMPURE: &[&str] = &[
    "std::env", "std::fs", "std::io", "std::net", "std::os", "std::process", "std::thread",
    "crossbeam_channel", "fastrand", "getrandom", "libc", "mio", "nix", "rand", "signal_hook",
    "socket2", "tracing", "eprint!", "eprintln!", "print!", "println!",
];
const MERE_TYPES: &[&str] = &["std::io::Error", "std::net::Ip", "std::net::SocketAddr"];

/// Where libraries may read the clock: the edges that wait for the system with a deadline.
const CLOCKS: &[&str] = &["runtime/src/clock.rs", "ipc-core/src/clock.rs"];

/// What each library may depend on among ours.
const LAYERS: &[(&str, &[&str])] = &[
    ("handle-passing", &[]),
    ("ipc-core", &["handle-passing"]),
    ("scheduler", &[]),
    ("runtime", &["handle-passing", "ipc-core", "scheduler"]),
];

const COLUMNS_MAX: usize = 100;
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Finds what breaks a rule: lines, and what to do about each.
type Check = fn(&Source) -> Findings;
type Findings = Vec<(usize, String)>;

/// A file of the tree, by its path from the root. Its code is empty unless it is Rust.
struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let code = if path.ends_with(".rs") { code_of(text) } else { String::new() };
        Source { path: path.into(), text: text.into(), code }
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }

    /// The code that users of a library run: no tests, which come last in a file or in `tests.rs`.
    fn shipped(&self) -> &str {
        let library = LAYERS.iter().any(|(name, _)| self.path.starts_with(&format!("{name}/src/")));
        if !library || self.path.ends_with("/tests.rs") {
            return "";
        }
        let tests = self.code.rfind("\n#[cfg(test)]\n");
        let tests = tests.filter(|at| self.code[*at..].contains("\nmod tests {"));
        &self.code[..tests.unwrap_or(self.code.len())]
    }
}

fn pure(source: &Source) -> Findings {
    if !source.is_in(PURE) {
        return Vec::new();
    }
    let begins = |path: &str, start: &str| {
        path.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    in_paths(source.shipped(), |path| {
        let mere_type = MERE_TYPES.iter().any(|start| path.starts_with(start));
        let impure = !mere_type && IMPURE.iter().any(|start| begins(path, start));
        let random = path.contains("HashMap") || path.contains("HashSet");
        let remedy = "order differs between runs; a BTreeMap lets a seed replay";
        if random { Some(remedy) } else { impure.then_some("leave it to the shell") }
    })
}

fn clock(source: &Source) -> Findings {
    let code = if source.is_in(CLOCKS) { "" } else { source.shipped() };
    in_lines(code, |line| {
        let reads =
            ["Instant::now", "SystemTime", ".elapsed()"].iter().find(|r| line.contains(**r))?;
        Some(format!("`{reads}`: take `now` as an argument, or read the clock in one of CLOCKS"))
    })
}

/// Where views of memory are made that other processes write: the other place of unsafe code.
const SHARED_MEMORY: &[&str] = &["ipc-core/src/shm/"];

fn unsafe_code(source: &Source) -> Findings {
    let excepted = source.path.contains("/src/sys/") || source.is_in(SHARED_MEMORY);
    in_lines(if excepted { "" } else { &source.code }, |line| {
        let allowed = line.contains("allow(unsafe_code") || line.contains("expect(unsafe_code");
        let found = allowed || words(line).any(|word| word == "unsafe");
        found.then(|| "move unsafe code into `src/sys/`, behind a safe function".into())
    })
}

/// Here whole modules, and what is public of them, may be one system's: the runtime is a library of
/// child processes everywhere, and one of clusters where a system can do what they need.
const PARTS_OF_SYSTEMS: &str = "runtime/src/lib.rs";

fn platform(source: &Source) -> Findings {
    let excepted = source.path.ends_with("/src/sys/mod.rs") || source.path.contains("/tests/");
    let lines: Vec<&str> = source.code.lines().collect();
    let is_of_module = |line: usize| {
        let item = lines[line..].iter().find(|line| !line.starts_with('#'));
        item.is_some_and(|item| {
            ["mod ", "pub mod ", "pub use "].iter().any(|m| item.starts_with(m))
        })
    };
    let found = in_lines(if excepted { "" } else { &source.code }, |line| {
        let cfg = ["cfg(", "cfg!(", "cfg_attr("].iter().any(|cfg| line.contains(cfg));
        let family = cfg && words(line).any(|word| word == "unix" || word == "windows");
        let system = words(line).any(|word| word == "target_os" || word == "target_env");
        (family || system).then(|| "tell platforms apart in the crate's `src/sys/mod.rs`".into())
    });
    let stands = |line| source.path == PARTS_OF_SYSTEMS && is_of_module(line);
    found.into_iter().filter(|(line, _)| !stands(line - 1)).collect()
}

/// Crates that are an async runtime, or bring one.
const ASYNC: &[&str] = &["async-io", "async-std", "axum", "futures", "hyper", "smol", "tokio"];

fn layers(source: &Source) -> Findings {
    let Some(member) = source.path.strip_suffix("/Cargo.toml") else { return Vec::new() };
    let allowed = LAYERS.iter().find(|(name, _)| *name == member).map(|(_, allowed)| *allowed);
    let mut found = Vec::new();
    for (line, name) in dependencies(&source.text) {
        let ours = LAYERS.iter().any(|(member, _)| *member == name);
        if ours && allowed.is_some_and(|allowed| !allowed.contains(&name)) {
            found.push((line, format!("`{name}` does not lie below `{member}`: turn it round")));
        } else if member == "scheduler" {
            found.push((line, format!("`{name}`: the scheduler has no dependencies")));
        } else if ASYNC.contains(&name) {
            found.push((line, format!("`{name}` is async: under [dev-dependencies] at most")));
        }
    }
    if !source.text.contains("[lints]\nworkspace = true") {
        found.push((1, "add `[lints]` with `workspace = true`".into()));
    }
    found
}

fn columns(source: &Source) -> Findings {
    in_lines(if source.path.ends_with(".rs") { &source.text } else { "" }, |line| {
        let columns = line.chars().count();
        let long = columns > COLUMNS_MAX && !line.contains("://");
        long.then(|| format!("{columns} columns, at most {COLUMNS_MAX}: wrap it"))
    })
}

fn length(source: &Source) -> Findings {
    let lines = source.code.lines().count();
    let remedy = format!("{lines} lines, at most {FILE_LINES_MAX}: give its second noun a file");
    if lines > FILE_LINES_MAX { vec![(lines, remedy)] } else { Vec::new() }
}

/// Relies on rustfmt: a function ends with the first brace that is indented like its `fn`.
fn functions(source: &Source) -> Findings {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = source.code.lines().map(str::trim_end).collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let ends = |end: &&str| {
            let closes = end.trim_start().starts_with('}') || end.ends_with([';', '}']);
            closes && indent(end) == indent(line)
        };
        let count = lines[start..].iter().position(ends).map_or(0, |last| last + 1);
        if format!(" {line}").contains(" fn ") && count > FUNCTION_LINES_MAX {
            let remedy = format!("{count} lines, at most {FUNCTION_LINES_MAX}: cut it in two");
            found.push((start + 1, remedy));
        }
    }
    found
}

fn unfinished(source: &Source) -> Findings {
    let macros = ["todo!", "unimplemented!", "dbg!"];
    in_paths(&source.code, |path| macros.contains(&path).then_some("finish it, or return an error"))
}

fn docs(source: &Source) -> Findings {
    let root = source.path.ends_with("/src/lib.rs") || source.path.ends_with("/src/main.rs");
    let missing = root && !source.text.starts_with("//!");
    if missing { vec![(1, "begin with `//!`: what is it for?".into())] } else { Vec::new() }
}

fn host_paths(source: &Source) -> Findings {
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    in_lines(&source.text, |line| {
        let place = places.iter().find(|place| line.contains(**place))?;
        Some(format!("`{place}` exists on one machine: name it relative to the repository"))
    })
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// Lines to which `check` objects.
fn in_lines(text: &str, check: impl Fn(&str) -> Option<String>) -> Findings {
    let numbered = text.lines().enumerate();
    numbered.filter_map(|(index, line)| Some((index + 1, check(line)?))).collect()
}

/// Paths to which `check` objects: `std::fs::read`, `todo!`, and for `use std::{fs, io}` both
/// `std::fs` and `std::io`.
fn in_paths(code: &str, check: impl Fn(&str) -> Option<&'static str>) -> Findings {
    let mut found = Vec::new();
    let mut prefixes: Vec<String> = Vec::new(); // What paths begin with in each open brace.
    for (index, line) in code.lines().enumerate() {
        let mut path = String::new();
        for c in line.chars().chain([' ']) {
            if c.is_alphanumeric() || ['_', ':', '!'].contains(&c) {
                path.push(c);
                continue;
            }
            let prefix = prefixes.last().cloned().unwrap_or_default();
            let group = c == '{' && path.ends_with("::");
            let whole = prefix + path.trim_start_matches(['!', ':']).trim_end_matches(':');
            match c {
                '{' => prefixes.push(if group { format!("{whole}::") } else { String::new() }),
                '}' => drop(prefixes.pop()),
                _ => {}
            }
            if !path.is_empty() && !group {
                let remedy = check(&whole).map(|remedy| format!("`{whole}`: {remedy}"));
                found.extend(remedy.map(|remedy| (index + 1, remedy)));
            }
            path.clear();
        }
    }
    found
}

/// The dependencies in a manifest that users of the crate get, so not those for development.
fn dependencies(manifest: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut listed = false;
    for (index, line) in manifest.lines().enumerate() {
        if let Some(header) = line.strip_prefix('[') {
            let mut parts = header.trim_end_matches(']').split('.');
            listed = parts.any(|part| part == "dependencies" || part == "build-dependencies");
            let name = parts.next(); // Of `[dependencies.NAME]`.
            found.extend(name.map(|name| (index + 1, name)));
            listed &= name.is_none();
        } else if listed && line.starts_with(|c: char| c.is_alphanumeric()) {
            found.push((index + 1, line.split(['.', ' ', '=']).next().unwrap_or_default()));
        }
    }
    found
}

/// The text with comments and literals blanked: what is left is code, on the same lines.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (blank, after) = rest.split_at(skipped(rest));
        code.extend(blank.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = after;
        if blank.is_empty() {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    code
}

/// The length of the comment or literal at the start of `rest`; 0 if there is none.
fn skipped(rest: &str) -> usize {
    let until = |from: usize, end: &str| {
        rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len())
    };
    let quoted = |quote: char| {
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|&(_, c)| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        end.map_or(rest.len(), |(at, _)| at + 1)
    };
    let hashes = rest.bytes().skip(1).take_while(|b| *b == b'#').count();
    match rest.as_bytes() {
        [b'/', b'/', ..] => rest.find('\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => until(2, "*/"),
        [b'r', ..] if rest[1 + hashes..].starts_with('"') => {
            until(2 + hashes, &format!("\"{}", "#".repeat(hashes)))
        }
        [b'"', ..] => quoted('"'),
        [b'\'', b'\\', ..] => quoted('\''),
        [b'\'', ..] if rest.chars().nth(2) == Some('\'') => quoted('\''), // Else a lifetime.
        _ => 0,
    }
}

/// Adds the text files below a directory, but for what builds and fuzzers leave behind.
fn add_files(root: &Path, directory: &Path, sources: &mut Vec<Source>) {
    let skipped = [".git", "target", "corpus", "artifacts", "coverage"];
    for entry in fs::read_dir(directory).expect("the tree is readable") {
        let entry = entry.expect("the tree is readable");
        let path = entry.path();
        if skipped.iter().any(|name| entry.file_name() == *name) {
            continue;
        } else if path.is_dir() {
            add_files(root, &path, sources);
        } else if let Ok(text) = fs::read_to_string(&path) {
            let name = path.strip_prefix(root).expect("the path begins with the root");
            sources.push(Source::new(&name.to_string_lossy(), &text));
        }
    }
}

fn tree() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is a member");
    let mut sources = Vec::new();
    add_files(root, root, &mut sources);
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn check_of(rule: &str) -> Check {
    CHECKS.iter().find(|(name, _)| *name == rule).expect("the rule has a check").1
}

#[track_caller]
fn assert_tidy(rule: &str) {
    let mut messages = Vec::new();
    for source in tree() {
        let path = &source.path;
        if EXCEPTIONS.iter().any(|(name, excepted, _)| (*name, *excepted) == (rule, path)) {
            continue;
        }
        let found = check_of(rule)(&source).into_iter();
        messages.extend(found.map(|(line, remedy)| format!("{path}:{line}: {rule}: {remedy}")));
    }
    assert!(messages.is_empty(), "\n{}\n", messages.join("\n"));
}

#[test]
fn lists_of_files_are_up_to_date() {
    let tree = tree();
    for (rule, path, reason) in EXCEPTIONS {
        let source = tree.iter().find(|source| source.path == *path);
        let needed = source.is_some_and(|source| !check_of(rule)(source).is_empty());
        assert!(needed && !reason.is_empty(), "EXCEPTIONS: {rule} in {path}: remove it");
    }
    for place in PURE.iter().chain(CLOCKS).chain(SHARED_MEMORY) {
        assert!(tree.iter().any(|source| source.is_in(&[place])), "{place}: where has it gone?");
    }
}

#[test]
fn versions_agree_and_are_in_the_changelog() {
    let tree = tree();
    let text = |path| &tree.iter().find(|source| source.path == path).expect(path).text;
    let version_in =
        |line: &str| Some(line.split_once("version = \"")?.1.split('"').next()?.into());
    let manifest = text("Cargo.toml");
    let version: Option<String> = manifest.lines().find_map(version_in);
    for line in manifest.lines().filter(|line| line.contains("path = \"")) {
        assert_eq!(version_in(line), version, "Cargo.toml: {line}");
    }
    let heading = format!("\n## {}", version.expect("the workspace has a version"));
    assert!(text("CHANGELOG.md").contains(&heading), "CHANGELOG.md: add a section {heading}");
}

/// Asserts on which lines of the snippet a rule finds something.
#[track_caller]
fn assert_found(rule: &str, path: &str, text: &str, lines: &[usize]) {
    let found = check_of(rule)(&Source::new(path, text)).into_iter().map(|(line, _)| line);
    assert_eq!(found.collect::<Vec<_>>(), lines, "{rule} in {path}");
}

#[test]
fn rules_for_pure_code_can_fail() {
    let path = "runtime/src/machine/slot.rs";
    let uses = "use std::{\n    collections::{BTreeMap, HashMap},\n    fs, time::Duration,\n};\n";
    assert_found("pure", path, uses, &[2, 3]);
    assert_found("pure", "runtime/src/shell/mod.rs", uses, &[]);
    assert_found("pure", path, "fn f() {\n    println!();\n    mio::Poll::new();\n}", &[2, 3]);
    assert_found("pure", path, "use std::io::{self, Error};\nuse std::net::{IpAddr};", &[1]);
    assert_found("pure", path, "//! std::fs\n\n#[cfg(test)]\nmod tests {\nuse std::fs;\n}", &[]);
    let now =
        "fn f() {\n    Instant::now();\n    std::time::SystemTime::now();\n    a.elapsed()\n}";
    assert_found("clock", path, now, &[2, 3, 4]);
    assert_found("clock", CLOCKS[0], now, &[]);
}

#[test]
fn rules_for_boundaries_can_fail() {
    let text = "#![allow(unsafe_code)]\nfn f() {\n    unsafe { g() }\n}\n// unsafe\n";
    assert_found("unsafe_code", "ipc-core/src/peer.rs", text, &[1, 3]);
    assert_found("unsafe_code", "ipc-core/src/sys/unix.rs", text, &[]);
    assert_found("unsafe_code", "ipc-core/src/shm/memory.rs", text, &[]);
    assert_found("unsafe_code", "scheduler/src/lib.rs", "#![forbid(unsafe_code)]", &[]);
    let text = "#[cfg(unix)]\n#[cfg(any(\n    target_os = \"linux\",\n))]\nuse std::os::unix;\n";
    assert_found("platform", "ipc-core/src/peer.rs", text, &[1, 3]);
    assert_found("platform", "ipc-core/src/sys/mod.rs", text, &[]);
    let text = "#[cfg(unix)]\n#[macro_use]\nmod a;\n#[cfg(unix)]\nfn f() {}\n";
    assert_found("platform", "ipc-core/src/lib.rs", text, &[1, 4]);
    assert_found("platform", PARTS_OF_SYSTEMS, text, &[4]);
    let text = "[dependencies]\nruntime.workspace = true\n[target.'cfg(unix)'.dependencies.axum]\n\
                [dev-dependencies]\ntokio = \"1\"\n[lints]\nworkspace = true\n";
    assert_found("layers", "ipc-core/Cargo.toml", text, &[2, 3]);
    assert_found("layers", "scheduler/Cargo.toml", "[dependencies]\nlibc = \"0.2\"\n", &[2, 1]);
}

#[test]
fn rules_for_form_can_fail() {
    let path = "scheduler/src/lib.rs";
    assert_found("columns", path, &format!("{}\n{}", "x".repeat(100), "x".repeat(101)), &[2]);
    assert_found("length", path, &"\n".repeat(600), &[]);
    assert_found("length", path, &"\n".repeat(601), &[601]);
    let body = |lines| format!("trait T {{\n    fn f();\n}}\nfn f() {{\n{}}}", "\n".repeat(lines));
    assert_found("functions", path, &body(68), &[]);
    assert_found("functions", path, &body(69), &[4]);
    assert_found("unfinished", path, "fn f() {\n    todo!()\n}", &[2]);
    assert_found("docs", path, "mod x;", &[1]);
    assert_found("host_paths", "README.md", concat!("see /wo", "rk/x"), &[1]);
}

#[test]
fn only_code_is_looked_at() {
    let text = "a(\"b\\\"b\"); // c\nd(r#\"e\"e\"#); /* f\ng */ h('\"'); let i: &'j k;";
    let code: String = code_of(text).split_whitespace().collect();
    assert_eq!(code, "a();d();h();leti:&'jk;");
}
