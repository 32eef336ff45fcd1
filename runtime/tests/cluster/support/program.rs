//! Programs that a test starts: masters, above all, that it can kill.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::Address;

use super::{DEADLINE, wait_until};
use crate::harness::ROLE;

/// A process, and what it prints on standard output. Killed on drop.
pub(crate) struct Program {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    pub(crate) seen: Vec<String>,
    reader: Option<JoinHandle<()>>,
}

impl Program {
    /// Starts this binary in a role.
    pub(crate) fn role(name: &str, args: &[&str]) -> Program {
        Program::start(Program::command(name, args))
    }

    /// The command that starts this binary in a role.
    pub(crate) fn command(name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("/proc is mounted"));
        command.args([ROLE, name]).args(args);
        command
    }

    #[track_caller]
    pub(crate) fn start(mut command: Command) -> Program {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let input = child.stdin.take();
        let (sender, lines) = crossbeam_channel::unbounded();
        let reader = thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Program { child, input, lines, seen: Vec::new(), reader: Some(reader) }
    }

    /// Starts a program that prints to where its command says.
    #[track_caller]
    pub(crate) fn start_mute(command: &mut Command) -> Program {
        let command = command.stdin(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (input, lines) = (child.stdin.take(), crossbeam_channel::never());
        Program { child, input, lines, seen: Vec::new(), reader: None }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("it is our child");
    }

    /// Writes a line to its standard input.
    #[track_caller]
    pub(crate) fn tell(&mut self, text: &str) {
        let input = self.input.as_mut().expect("it is open");
        writeln!(input, "{text}").unwrap_or_else(|error| panic!("tell {text:?}: {error}"));
    }

    /// Takes in what it prints for some time: a pace, no way to wait for anything.
    pub(crate) fn passes(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Ok(line) = self.lines.recv_deadline(end) {
            self.seen.push(line);
        }
    }

    /// Waits until `find` finds something in all that it has printed.
    #[track_caller]
    pub(crate) fn until<T>(&mut self, what: &str, find: impl Fn(&[String]) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = find(&self.seen) {
                return found;
            }
            match self.lines.recv_deadline(deadline) {
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("waited until {what}: {error}\n{}", self.seen.join("\n")),
            }
        }
    }

    /// Waits for so many lines that contain this text; gives the last of them.
    #[track_caller]
    pub(crate) fn lines(&mut self, count: usize, text: &str) -> String {
        let what = format!("it prints {text:?} {count} times");
        self.until(&what, |seen| {
            seen.iter().filter(|line| line.contains(text)).nth(count - 1).cloned()
        })
    }

    #[track_caller]
    pub(crate) fn line(&mut self, text: &str) -> String {
        self.lines(1, text)
    }

    /// The last line with this text so far.
    #[track_caller]
    pub(crate) fn last(&self, text: &str) -> &str {
        let last = self.seen.iter().rfind(|line| line.contains(text));
        last.unwrap_or_else(|| panic!("it has not printed {text:?}:\n{}", self.seen.join("\n")))
    }

    /// Waits until so many workers listen, as the events that it prints say; says where.
    #[track_caller]
    pub(crate) fn listening(&mut self, workers: usize) -> Address {
        let line = self.lines(workers, " listening on ");
        let address = line.rsplit(' ').next().and_then(|text| text.parse().ok());
        address.unwrap_or_else(|| panic!("no address: {line:?}"))
    }

    /// The pid of a worker, as the events that it prints say.
    #[track_caller]
    pub(crate) fn worker(&mut self, id: &str) -> u32 {
        let line = self.line(&format!("worker {id} started, pid "));
        let pid = line.rsplit(' ').next().and_then(|text| text.parse().ok());
        pid.unwrap_or_else(|| panic!("no pid: {line:?}"))
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        drop(self.input.take());
        let mut status = None;
        wait_until("the program ends", || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status.expect("it was waited for")
    }

    /// Waits until everybody who could print has ended: the program and all its workers.
    #[track_caller]
    pub(crate) fn silence(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_deadline(deadline) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("somebody still holds its output:\n{}", self.seen.join("\n"));
                }
            }
        }
        if let Some(reader) = self.reader.take() {
            reader.join().expect("it does not panic");
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
