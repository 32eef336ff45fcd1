//! The life of a child: any inputs in any order, against a twin that looks at the whole history.

use std::time::Duration;

use runtime::Exit;
use runtime::process::life::{Input, Life, Options, Output, Time};
use runtime::process::{KillReason, Signal};

/// What happens: an input, or a look at the time.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Input(Input),
    Time,
}

/// The first byte is the options, and each two after it are a step: the time since the last one,
/// and what happens. Panics when the twin disagrees, or a time is told that nothing comes of.
pub fn life(data: &[u8]) {
    let [flags, rest @ ..] = data else { return };
    let options = options(*flags);
    let mut life = Life::new(options);
    let mut told: Vec<Output> = std::iter::from_fn(|| life.poll_output()).collect();
    let (mut now, mut history) = (Duration::ZERO, Vec::new());
    for bytes in rest.chunks_exact(2) {
        now = match bytes[0] {
            255 => now.saturating_add(Duration::MAX / 3),
            seconds => now.saturating_add(Duration::from_secs(seconds.into())),
        };
        let step = step(bytes[1]);
        history.push((now, step));
        let due = life.next_timeout().filter(|timeout| *timeout <= now);
        let count = told.len();
        match step {
            Step::Input(input) => life.handle(now, input),
            Step::Time => life.handle_timeout(now),
        }
        told.extend(std::iter::from_fn(|| life.poll_output()));
        if step == Step::Time {
            assert_eq!(due.is_some(), told.len() > count, "{due:?} at {now:?}: {told:?}");
        }
    }
    assert_eq!(told, expected(options, &history), "{flags:#b}");
}

fn options(flags: u8) -> Options {
    let has = |bit: u8| flags & (1 << bit) != 0;
    Options {
        timeout: has(0).then_some(Duration::from_secs(10)),
        kill_after: has(1).then_some(Duration::from_secs(5)),
        kill_signal: if has(2) { Signal::KILL } else { Signal::TERM },
        has_streams: has(3),
        has_channel: has(4),
    }
}

fn step(byte: u8) -> Step {
    Step::Input(match byte % 8 {
        0 => Input::Ended(Exit::Code(byte.into())),
        1 => Input::StreamsEnded,
        2 => Input::ChannelClosed,
        3 => Input::Kill(KillReason::Cancelled),
        4 => Input::Kill(KillReason::OutputTooLong),
        5 => Input::Signalled(true),
        6 => Input::Signalled(false),
        _ => return Step::Time,
    })
}

/// What is told, by when each of it can first be.
fn expected(options: Options, history: &[(Time, Step)]) -> Vec<Output> {
    let first = |from: usize, is: &dyn Fn(Time, Step) -> bool| {
        let is = |(now, step): &(Time, Step)| is(*now, *step);
        history.iter().skip(from).position(is).map(|index| from + index)
    };
    let is_end = |_: Time, step| matches!(step, Step::Input(Input::Ended(_)));
    let end = first(0, &is_end);
    let lives = |index: &usize| end.is_none_or(|end| *index < end);
    let mut told = Vec::new();
    let is_due = |now, time: Option<Time>| time.is_some_and(|time| time <= now);
    let kill = first(0, &|now, step| match step {
        Step::Input(input) => matches!(input, Input::Kill(_)),
        Step::Time => is_due(now, options.timeout),
    });
    if let Some(kill) = kill.filter(lives) {
        let (at, step) = history[kill];
        let reason = match step {
            Step::Input(Input::Kill(reason)) => reason,
            _ => KillReason::Timeout,
        };
        told.push((kill, Output::Signal(options.kill_signal)));
        let is_told = |_: Time, step| step == Step::Input(Input::Signalled(true));
        told.extend(first(kill, &is_told).filter(lives).map(|at| (at, Output::Killed(reason))));
        let force_at = options.kill_after.and_then(|time| at.checked_add(time));
        let force_at = force_at.filter(|_| options.kill_signal != Signal::KILL);
        let forced = first(kill + 1, &|now, step| step == Step::Time && is_due(now, force_at));
        told.extend(forced.filter(lives).map(|at| (at, Output::Signal(Signal::KILL))));
    }
    let closed = first(0, &|_, step| step == Step::Input(Input::ChannelClosed));
    let closed = options.has_channel.then_some(closed);
    told.extend(closed.flatten().map(|at| (at, Output::Disconnected)));
    let ended = first(0, &|_, step| step == Step::Input(Input::StreamsEnded));
    let ended = options.has_streams.then_some(ended);
    if let Some(end) = end
        && let Step::Input(Input::Ended(exit)) = history[end].1
    {
        told.push((end, Output::Exited(exit)));
        let last = [Some(end), closed.unwrap_or(Some(end)), ended.unwrap_or(Some(end))];
        if last.iter().all(Option::is_some) {
            told.push((last.into_iter().flatten().max().unwrap_or(end), Output::Closed(exit)));
        }
    }
    told.sort_by_key(|(at, _)| *at);
    let told = told.into_iter().map(|(_, output)| output);
    std::iter::once(Output::Spawned).chain(told).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpus() {
        crate::corpus::run("life", super::life);
    }
}
