//! Commands whose output is collected, blocking or not.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal as Nix, kill};
use nix::unistd::Pid;
use proptest::prelude::*;
use runtime::process::{
    CancelToken, Children, Command, Event, Exec, ExecError, Failure, Output, OutputStream, Signal,
    Stdio, Step, exec, exec_file_sync, exec_sync, quote, spawn_sync,
};

use crate::harness::tools::{DEADLINE, Directory, proc_field, wait_until};
use crate::harness::{Outcome, children, descriptors, roles, tests};
use crate::support::{bury_all, pattern, role};

tests! {
    row28_what_is_too_long_is_cut_off_exactly,
    row28_a_timeout_tells_that_and_how_it_was_killed,
    row28_without_descriptors_nothing_is_started_or_left,
    row28_without_descriptors_a_timeout_ends_all_the_same,
    who_does_not_end_by_the_signal_is_killed,
    what_is_too_long_ends_all_that_the_shell_has_started,
    those_that_outlive_the_shell_have_their_time,
    a_grandchild_that_holds_stdout_is_not_waited_for,
    a_grandchild_that_holds_stdout_is_waited_for_if_asked,
    such_a_wait_ends_by_timeout_and_cancellation,
    what_is_written_last_is_not_lost,
    what_is_too_long_is_noticed_without_more,
    input_of_any_size_goes_through,
    input_need_not_be_read,
    nothing_is_read_by_default,
    output_is_bytes,
    output_can_go_elsewhere,
    a_missing_program_is_named,
    how_it_fails_is_told,
    how_it_ends_is_no_error_for_spawn_sync,
    a_token_cancels_it,
    many_run_in_one_poll,
    a_hub_tells_each_result_once,
    it_never_blocks_unless_it_waits,
    a_command_can_be_run_again,
    dropped_it_is_killed_with_its_tree_if_asked,
    memory_is_taken_for_what_is_kept,
    a_line_has_arguments,
    quoted_is_one_word_that_stands_for_the_text,
}
roles! {
    writes,
    writes_all_bytes,
    writes_much,
}

/// As much as pipes don't hold.
const MAX: usize = 100_000;

/// Fails at the first that is not a failure.
fn failed(result: Result<Output, ExecError>) -> ExecError {
    result.expect_err("it fails")
}

/// Writes so many bytes to standard output and error, in turn, the last of each at the end.
fn writes(args: &[String]) -> Outcome {
    let streams: [&mut dyn Write; 2] = [&mut io::stdout(), &mut io::stderr()];
    let mut streams = streams.into_iter().zip(args).collect::<Vec<_>>();
    let patterns: Vec<_> =
        streams.iter().map(|(_, length)| length.parse().map(pattern)).collect::<Result<_, _>>()?;
    let mut at = 0;
    while at < MAX {
        let end = (at + 777).min(MAX);
        for ((stream, _), pattern) in streams.iter_mut().zip(&patterns) {
            stream.write_all(&pattern[at.min(pattern.len())..end.min(pattern.len())])?;
            stream.flush()?;
        }
        at = end;
    }
    for ((stream, _), pattern) in streams.iter_mut().zip(&patterns) {
        stream.write_all(&pattern[MAX.min(pattern.len())..])?;
        stream.flush()?;
    }
    Ok(())
}

fn row28_what_is_too_long_is_cut_off_exactly() {
    let lengths = [MAX - 1, MAX, MAX + 1];
    for (out, err) in lengths.iter().flat_map(|out| lengths.map(|err| (*out, err))) {
        let mut command = role("writes", &[&out.to_string(), &err.to_string()]);
        let result = command.max_buffer(MAX).exec_sync();
        let output = if out.max(err) <= MAX {
            result.expect("it fits")
        } else {
            let error = failed(result);
            let Failure::MaxBuffer(stream) = error.failure() else { panic!("{error:?}") };
            let length = if *stream == OutputStream::Stdout { out } else { err };
            assert!(length > MAX, "{stream} was long enough");
            assert!(error.to_string().contains(&format!("more to {stream} than")), "{error}");
            error.into_output().expect("it has run")
        };
        assert!(output.stdout == pattern(out.min(MAX)), "stdout of {out}, {err}");
        assert!(output.stderr == pattern(err.min(MAX)), "stderr of {out}, {err}");
        assert_eq!(children(), []);
    }
}

fn row28_a_timeout_tells_that_and_how_it_was_killed() {
    for is_shell in [false, true] {
        let mut command =
            if is_shell { Command::shell("sleep 1000; echo never") } else { Command::new("sleep") };
        let error = failed(command.arg("1000").timeout(Duration::from_millis(30)).exec_sync());
        assert!(matches!(error.failure(), Failure::TimedOut), "{error:?}");
        assert_eq!((error.code(), error.signal()), (None, Some(15)));
        assert!(error.is_killed());
        let name = if is_shell { "sleep 1000; echo never" } else { "sleep 1000" };
        assert_eq!(error.command(), name);
        assert_eq!(error.to_string(), format!("command timed out: {name}: killed by signal 15"));
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
        bury_all();
    }
    // What ends in time is not touched.
    let output = Command::shell("echo done").timeout(DEADLINE).exec_sync().unwrap();
    assert_eq!(output.stdout, b"done\n");
}

/// Runs it with ever more descriptors, until it says that there are enough.
fn with_few_descriptors(mut attempt: impl FnMut() -> bool) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let before = descriptors();
    for limit in 3.. {
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
        let is_enough = attempt();
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        bury_all();
        assert_eq!(descriptors(), before, "with {limit}");
        if is_enough {
            return assert!(limit > 7, "there was always enough");
        }
    }
}

fn row28_without_descriptors_nothing_is_started_or_left() {
    let mut errors = Vec::new();
    with_few_descriptors(|| match role("cat", &[]).input(*b"hello").exec_sync() {
        Ok(output) => {
            assert_eq!(output.stdout, b"hello");
            true
        }
        Err(error) => {
            let raw = match error.failure() {
                Failure::Spawn(error) => error.io_error().raw_os_error(),
                Failure::Io(error) => error.raw_os_error(),
                other => panic!("{other:?}"),
            };
            assert_eq!(raw, Some(nix::libc::EMFILE), "{error}");
            errors.push(format!("{:?}", error.failure()));
            false
        }
    });
    errors.dedup();
    assert!(errors.len() > 3, "{errors:?}");
}

fn row28_without_descriptors_a_timeout_ends_all_the_same() {
    let mut has_started = false;
    with_few_descriptors(|| {
        let mut command = Command::shell("sleep 1000; echo never");
        let error = failed(command.timeout(Duration::from_millis(10)).exec_sync());
        has_started |= error.output().is_some();
        matches!(error.failure(), Failure::TimedOut) && error.signal() == Some(15)
    });
    assert!(has_started);
}

fn who_does_not_end_by_the_signal_is_killed() {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' TERM; echo too long; exec sleep 1000"]);
    let error = failed(command.max_buffer(3).kill_after(Duration::from_millis(10)).exec_sync());
    assert!(matches!(error.failure(), Failure::MaxBuffer(OutputStream::Stdout)), "{error:?}");
    assert_eq!((error.signal(), error.is_killed(), error.stdout()), (Some(9), true, &b"too"[..]));
    assert_eq!(children(), []);
}

fn what_is_too_long_ends_all_that_the_shell_has_started() {
    // One beside it, one that it waits for, one whose parent has ended already.
    let line = "sleep 1000 & (sleep 1000 &); (echo too long; sleep 1000); echo never";
    let error = failed(Command::shell(line).max_buffer(3).exec_sync());
    assert!(matches!(error.failure(), Failure::MaxBuffer(OutputStream::Stdout)), "{error:?}");
    assert_eq!((error.signal(), error.stdout()), (Some(15), &b"too"[..]));
    bury_all();
}

fn those_that_outlive_the_shell_have_their_time() {
    let directory = Directory::new();
    let path = directory.join("tidied");
    // The shell ends at once. One of its children tidies up first, the other is deaf.
    let line = r#"(trap '' TERM; exec sleep 1000 >/dev/null 2>&1) &
        (trap 'sleep 0.05; echo tidied >"$1"; exit' TERM; echo too long; sleep 1000 & wait) &
        wait"#;
    let mut command = Command::shell(line);
    let error = failed(command.arg(&path).max_buffer(3).kill_after(DEADLINE).exec_sync());
    assert!(matches!(error.failure(), Failure::MaxBuffer(OutputStream::Stdout)), "{error:?}");
    assert_eq!(std::fs::read(path).unwrap(), b"tidied\n");
    bury_all();
}

fn a_grandchild_that_holds_stdout_is_not_waited_for() {
    let output = exec_sync("sleep 1000 & echo $!").unwrap();
    let pid: i32 = output.stdout_str().unwrap().trim().parse().unwrap();
    assert_eq!(children(), [pid], "it runs on, and has become ours");
    kill(Pid::from_raw(pid), Nix::SIGKILL).unwrap();
    bury_all();
}

fn a_grandchild_that_holds_stdout_is_waited_for_if_asked() {
    let mut command = Command::shell("(read line; echo $line) <&3 & echo soon");
    let (reader, mut writer) = io::pipe().unwrap();
    let reader = std::fs::File::from(std::os::fd::OwnedFd::from(reader));
    command.descriptor(3, reader).wait_for_output_end(true);
    let mut run = command.exec().unwrap();
    let looked = Looked::new();
    looked.register(&mut run, 0);
    wait_until("it has ended", || {
        assert!(run.try_finish().is_none());
        !is_running(run.pid())
    });
    assert!(run.try_finish().is_none(), "others still have its output");
    writer.write_all(b"late\n").unwrap();
    let results = looked.finish(&mut [run]);
    assert_eq!(results[0].as_ref().unwrap().stdout, b"soon\nlate\n");
    bury_all();
}

fn is_running(pid: u32) -> bool {
    proc_field(&format!("{pid}/status"), "State").is_some_and(|state| !state.starts_with('Z'))
}

fn such_a_wait_ends_by_timeout_and_cancellation() {
    for is_cancelled in [false, true] {
        let token = CancelToken::new();
        let mut command = Command::shell("sleep 1000 & echo soon");
        command.wait_for_output_end(true).cancel_with(&token);
        if !is_cancelled {
            command.timeout(Duration::from_millis(100));
        }
        let run = command.exec().unwrap();
        let pid = run.pid();
        let waiting = thread::spawn(move || run.wait());
        wait_until("the shell has ended", || !is_running(pid));
        if is_cancelled {
            token.cancel();
        }
        let error = failed(waiting.join().unwrap());
        match error.failure() {
            Failure::Cancelled => assert!(is_cancelled),
            Failure::TimedOut => assert!(!is_cancelled),
            _ => panic!("{error:?}"),
        }
        bury_all();
    }
}

/// More than is read in one turn.
const MUCH: usize = 1_000_000;

/// Writes all of that at once, into a pipe that it makes large enough; then ends, or stays.
fn writes_much(args: &[String]) -> Outcome {
    fcntl(io::stdout(), FcntlArg::F_SETPIPE_SZ(1 << 20))?;
    io::stdout().write_all(&pattern(MUCH))?;
    io::stdout().flush()?;
    match args[0].as_str() {
        "stay" => loop {
            thread::park();
        },
        _ => Ok(()),
    }
}

fn what_is_written_last_is_not_lost() {
    let mut run = role("writes_much", &["end"]).exec().unwrap();
    wait_until("it has ended", || !is_running(run.pid()));
    let output = run.try_finish().expect("it needs nothing more").unwrap();
    assert!(output.stdout == pattern(MUCH));
}

fn what_is_too_long_is_noticed_without_more() {
    let error = failed(role("writes_much", &["stay"]).max_buffer(MUCH - 1).exec_sync());
    assert!(matches!(error.failure(), Failure::MaxBuffer(OutputStream::Stdout)), "{error:?}");
    assert!(error.stdout() == pattern(MUCH - 1));
}

fn input_of_any_size_goes_through() {
    for length in [0, 1, 65_536, 65_537, 10 << 20] {
        let input = pattern(length);
        let mut command = role("cat", &[]);
        let output = command.input(input.clone()).max_buffer(usize::MAX).exec_sync().unwrap();
        assert!(output.stdout == input, "{length}");
    }
}

fn input_need_not_be_read() {
    for code in ["0", "3"] {
        let output = role("exit", &[code]).input(pattern(1 << 20)).spawn_sync().unwrap();
        assert_eq!(output.status.code(), code.parse().ok());
    }
}

fn nothing_is_read_by_default() {
    assert_eq!(role("cat", &[]).exec_sync().unwrap().stdout, b"");
    // Nor from a pipe, into which nobody can write.
    assert_eq!(role("cat", &[]).stdin(Stdio::pipe()).exec_sync().unwrap().stdout, b"");
}

fn writes_all_bytes(_args: &[String]) -> Outcome {
    Ok(io::stdout().write_all(&(0..=255).collect::<Vec<u8>>())?)
}

fn output_is_bytes() {
    let output = role("writes_all_bytes", &[]).exec_sync().unwrap();
    assert_eq!(output.stdout, (0..=255).collect::<Vec<u8>>());
    assert!(output.stdout_str().is_err());
    assert!(output.stdout_lossy().starts_with("\0\u{1}"));
    assert!(output.is_success());
}

fn output_can_go_elsewhere() {
    let directory = Directory::new();
    let path = directory.join("log");
    let mut command = Command::shell("echo out; echo err >&2");
    let output = command.stdout(std::fs::File::create(&path).unwrap()).exec_sync().unwrap();
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b""[..], &b"err\n"[..]));
    assert_eq!(std::fs::read(path).unwrap(), b"out\n");
}

fn a_missing_program_is_named() {
    let error = failed(exec_file_sync("no-such-program", [""; 0]));
    let Failure::Spawn(spawn) = error.failure() else { panic!("{error:?}") };
    assert_eq!(spawn.kind(), io::ErrorKind::NotFound);
    assert!(matches!(spawn.step(), Step::Execute(_)), "{spawn:?}");
    assert!(error.to_string().contains("\"no-such-program\""), "{error}");
    assert!((error.output().is_none(), error.is_killed()) == (true, false));
    // The shell is there.
    let error = failed(exec_sync("no-such-program"));
    assert!(matches!(error.failure(), Failure::Status), "{error:?}");
    assert_eq!(error.code(), Some(127));
    assert!(String::from_utf8_lossy(error.stderr()).contains("no-such-program"), "{error}");
}

fn how_it_fails_is_told() {
    let error = failed(exec_sync("echo out; echo err >&2; exit 3"));
    assert!(matches!(error.failure(), Failure::Status), "{error:?}");
    assert_eq!((error.code(), error.signal(), error.is_killed()), (Some(3), None, false));
    assert_eq!((error.stdout(), error.stderr()), (&b"out\n"[..], &b"err\n"[..]));
    let error = failed(exec_sync("kill -KILL $$"));
    assert!(matches!(error.failure(), Failure::Status), "{error:?}");
    assert_eq!((error.code(), error.signal(), error.is_killed()), (None, Some(9), false));
    assert_eq!(error.to_string(), "command failed: kill -KILL $$: killed by signal 9");
}

fn how_it_ends_is_no_error_for_spawn_sync() {
    assert_eq!(spawn_sync("sh", ["-c", "exit 3"]).unwrap().status.code(), Some(3));
    assert_eq!(spawn_sync("sh", ["-c", "kill -9 $$"]).unwrap().status.signal(), Some(9));
    let mut command = Command::new("sleep");
    command.arg("1000").timeout(Duration::from_millis(10));
    assert!(matches!(failed(command.spawn_sync()).failure(), Failure::TimedOut));
}

fn a_token_cancels_it() {
    let token = CancelToken::new();
    let mut command = Command::shell("echo begun >&2; sleep 1000; echo never");
    let run = command.cancel_with(&token).exec().unwrap();
    let pid = run.pid();
    let waiting = thread::spawn(move || run.wait());
    wait_until("it sleeps", || {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.is_ok_and(|pids| !pids.is_empty())
    });
    token.cancel();
    let error = failed(waiting.join().unwrap());
    assert!(matches!(error.failure(), Failure::Cancelled), "{error:?}");
    assert_eq!((error.signal(), error.is_killed()), (Some(15), true));
    assert_eq!(error.stderr(), b"begun\n");
    assert!(error.to_string().starts_with("command was cancelled: echo begun"), "{error}");
    bury_all();
    // One that was cancelled before.
    assert!(matches!(failed(command.exec_sync()).failure(), Failure::Cancelled));
    bury_all();
}

/// Runs in one loop.
struct Looked(Poll);

impl Looked {
    fn new() -> Looked {
        Looked(Poll::new().unwrap())
    }

    fn register(&self, run: &mut Exec, number: usize) {
        self.0.registry().register(run, Token(number), Interest::READABLE).unwrap();
    }

    /// The results, in order.
    fn finish(mut self, runs: &mut [Exec]) -> Vec<Result<Output, ExecError>> {
        let deadline = Instant::now() + DEADLINE;
        let mut results: Vec<_> = runs.iter().map(|_| None).collect();
        let mut ready = Events::with_capacity(4);
        while results.iter().any(Option::is_none) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {results:?}");
            self.0.poll(&mut ready, Some(left)).unwrap();
            for Token(number) in ready.iter().map(|event| event.token()) {
                if let Some(result) = runs[number].try_finish() {
                    assert!(results[number].replace(result).is_none(), "each comes once");
                }
            }
        }
        results.into_iter().flatten().collect()
    }
}

fn many_run_in_one_poll() {
    let looked = Looked::new();
    let mut runs: Vec<Exec> = (0..20)
        .map(|number| {
            let mut command = role("cat", &[]);
            command.input(pattern(number * 50_000)).max_buffer(usize::MAX).exec().unwrap()
        })
        .collect();
    runs.push(exec("exit 3").unwrap());
    for (number, run) in runs.iter_mut().enumerate() {
        looked.register(run, number);
    }
    let mut results = looked.finish(&mut runs);
    assert_eq!(failed(results.pop().unwrap()).code(), Some(3));
    for (number, result) in results.into_iter().enumerate() {
        assert!(result.unwrap().stdout == pattern(number * 50_000), "{number}");
    }
}

fn it_never_blocks_unless_it_waits() {
    // Neither before it is registered, nor after.
    let mut run = Command::new("sleep").arg("1000").input(pattern(1 << 20)).exec().unwrap();
    assert!(run.try_finish().is_none());
    let looked = Looked::new();
    looked.register(&mut run, 0);
    assert!(run.try_finish().is_none());
    looked.0.registry().deregister(&mut run).unwrap();
    assert!(run.try_finish().is_none());
    assert!(run.kill(Signal::KILL).unwrap());
    let error = failed(run.wait());
    assert_eq!((error.signal(), error.is_killed()), (Some(9), false), "it was not we who did");
}

fn a_command_can_be_run_again() {
    let mut command = Command::shell("read a; echo $a; exit \"$1\"");
    command.arg("3").input(*b"line\n");
    for _ in 0..3 {
        let output = command.spawn_sync().unwrap();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(3), &b"line\n"[..]));
    }
}

fn dropped_it_is_killed_with_its_tree_if_asked() {
    let mut run = Command::shell("sleep 1000; echo never").kill_on_drop(true).exec().unwrap();
    assert!(run.try_finish().is_none());
    let started = format!("/proc/{0}/task/{0}/children", run.pid());
    wait_until("it sleeps", || {
        std::fs::read_to_string(&started).is_ok_and(|pids| !pids.is_empty())
    });
    drop(run);
    bury_all();
}

fn memory_is_taken_for_what_is_kept() {
    let bytes = |key| {
        let field = proc_field("self/status", key).unwrap();
        field.trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    };
    let before = bytes("VmHWM");
    let error = failed(exec_file_sync("yes", [""; 0]));
    assert!(matches!(error.failure(), Failure::MaxBuffer(OutputStream::Stdout)), "{error:?}");
    assert_eq!(error.stdout().len(), 1 << 20);
    let grown = bytes("VmHWM") - before;
    assert!(grown < 6 << 20, "{grown} bytes more for 1 MiB");
    // Nothing is set aside for what may come.
    let before = bytes("VmSize");
    let run = Command::new("sleep").arg("1000").max_buffer(1 << 40).exec().unwrap();
    assert!(bytes("VmSize") - before < 1 << 20);
    assert!(run.kill(Signal::KILL).unwrap());
    failed(run.wait());
}

fn a_line_has_arguments() {
    let mut command = Command::shell(r#"printf '%s|' "$0" "$@""#);
    let output = command.args(["; rm *", "", "it's"]).exec_sync().unwrap();
    assert_eq!(output.stdout_str().unwrap(), "/bin/sh|; rm *||it's|");
    let mut command = Command::shell_with("bash", r#"printf '%s|' "$0" $((2 ** 10))"#);
    assert_eq!(command.exec_sync().unwrap().stdout_str().unwrap(), "bash|1024|");
}

fn quoted_is_one_word_that_stands_for_the_text() {
    proptest!(ProptestConfig::with_cases(64), |(
        text in "([^\0]|['\"\\\\$`;&|<>(){}*?~#!\n -]){0,20}",
    )| {
        let output = exec_sync(format!("printf '%s|' {} end", quote(&text))).unwrap();
        prop_assert_eq!(output.stdout_str().unwrap(), format!("{text}|end|"));
    });
}

fn a_hub_tells_each_result_once() {
    let children = Children::start().unwrap();
    let mut started = std::collections::BTreeMap::new();
    for number in 0..20 {
        let mut command = role("cat", &[]);
        command.input(pattern(number * 50_000)).max_buffer(number * 50_000);
        started.insert(children.exec(&mut command).unwrap().id(), number);
    }
    let failing = children.exec(&mut Command::shell("exit 3")).unwrap();
    let endless = children.exec(Command::shell("yes; echo never").max_buffer(1000)).unwrap();
    let ended = children.exec(Command::new("sleep").arg("1000")).unwrap();
    assert!(ended.is_alive() && ended.take_stdout().is_none());
    assert!(ended.kill(Signal::KILL).unwrap());
    for _ in 0..started.len() + 3 {
        let (id, event) = children.events().recv_timeout(DEADLINE).unwrap();
        let Event::Finished(result) = event else { panic!("{event:?}") };
        if id == failing.id() {
            assert_eq!(failed(result).code(), Some(3));
        } else if id == endless.id() {
            assert_eq!(failed(result).stdout(), "y\n".repeat(500).as_bytes());
        } else if id == ended.id() {
            assert_eq!(failed(result).signal(), Some(9));
        } else {
            let number = started.remove(&id).expect("each is told once");
            assert!(result.unwrap().stdout == pattern(number * 50_000), "{number}");
        }
    }
    assert!(started.is_empty() && children.is_empty());
    // One that still runs is left to itself, or not.
    drop(children.exec(Command::new("sleep").arg("1000").kill_on_drop(true)).unwrap());
    drop((children, failing, endless, ended));
    bury_all();
}
