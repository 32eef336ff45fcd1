//! The life of a child as a pure decision: when it is sent which signal, and which events are told.
//!
//! Whoever executes it carries out all outputs before the next input, and says by
//! [`Input::Signalled`] what became of a signal. Time is counted from the child's start.

use std::collections::VecDeque;
use std::time::Duration;

use super::event::KillReason;
use super::signal::Signal;
use crate::exit::Exit;

/// Time since the start of the child.
pub type Time = Duration;

/// What a life depends on.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// When it is told to end.
    pub timeout: Option<Time>,
    /// By which signal.
    pub kill_signal: Signal,
    /// How long it has from then on.
    pub kill_after: Option<Duration>,
    /// Whether streams have to end before it is closed.
    pub has_streams: bool,
    /// Whether a channel has to.
    pub has_channel: bool,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The process has ended, and was collected.
    Ended(Exit),
    /// All streams on which it writes are at their end, or were dropped.
    StreamsEnded,
    /// Its channel is closed.
    ChannelClosed,
    /// It shall end.
    Kill(KillReason),
    /// The last signal has reached it, or has not.
    Signalled(bool),
}

/// What is to be done, or to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this.
    Signal(Signal),
    /// It was started.
    Spawned,
    /// Its channel is closed.
    Disconnected,
    /// It was reached by a signal, for this reason.
    Killed(KillReason),
    /// It has ended.
    Exited(Exit),
    /// It has ended, and all of its streams and its channel have.
    Closed(Exit),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running {
        timeout: Option<Time>,
    },
    /// It was sent the first signal.
    Asked {
        reason: KillReason,
        force_at: Option<Time>,
    },
    /// It was sent SIGKILL.
    Forced {
        reason: KillReason,
    },
    Ended(Exit),
    Closed(Exit),
}

/// One child's life.
#[derive(Debug)]
pub struct Life {
    options: Options,
    stage: Stage,
    has_streams: bool,
    has_channel: bool,
    killed: Option<KillReason>,
    outputs: VecDeque<Output>,
}

impl Life {
    /// A child that was just started.
    #[must_use]
    pub fn new(options: Options) -> Life {
        Life {
            options,
            stage: Stage::Running { timeout: options.timeout },
            has_streams: options.has_streams,
            has_channel: options.has_channel,
            killed: None,
            outputs: VecDeque::from([Output::Spawned]),
        }
    }

    /// Takes what has happened.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Ended(exit) => self.ended(exit),
            Input::StreamsEnded => {
                self.has_streams = false;
                self.close_if_over();
            }
            Input::ChannelClosed => {
                if std::mem::take(&mut self.has_channel) {
                    self.outputs.push_back(Output::Disconnected);
                    self.close_if_over();
                }
            }
            Input::Kill(reason) => self.kill(now, reason),
            Input::Signalled(is_reached) => self.signalled(is_reached),
        }
    }

    /// Takes that it is `now`, at or after [`next_timeout`](Self::next_timeout), or any time.
    pub fn handle_timeout(&mut self, now: Time) {
        match self.stage {
            Stage::Running { timeout: Some(timeout) } if timeout <= now => {
                self.kill(now, KillReason::Timeout);
            }
            Stage::Asked { reason, force_at: Some(force_at) } if force_at <= now => {
                self.stage = Stage::Forced { reason };
                self.outputs.push_back(Output::Signal(Signal::KILL));
            }
            Stage::Running { .. }
            | Stage::Asked { .. }
            | Stage::Forced { .. }
            | Stage::Ended(_)
            | Stage::Closed(_) => {}
        }
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        match self.stage {
            Stage::Running { timeout: time } | Stage::Asked { force_at: time, .. } => time,
            Stage::Forced { .. } | Stage::Ended(_) | Stage::Closed(_) => None,
        }
    }

    /// How it has ended; `None` as long as it runs.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        match self.stage {
            Stage::Running { .. } | Stage::Asked { .. } | Stage::Forced { .. } => None,
            Stage::Ended(exit) | Stage::Closed(exit) => Some(exit),
        }
    }

    /// Why it was told to end, if a signal has reached it.
    #[must_use]
    pub fn killed(&self) -> Option<KillReason> {
        self.killed
    }

    fn kill(&mut self, now: Time, reason: KillReason) {
        match self.stage {
            Stage::Running { .. } => {
                let Options { kill_signal, kill_after, .. } = self.options;
                self.stage = match kill_signal {
                    Signal::KILL => Stage::Forced { reason },
                    // What can't be counted to is never.
                    _ => Stage::Asked {
                        reason,
                        force_at: kill_after.and_then(|time| now.checked_add(time)),
                    },
                };
                self.outputs.push_back(Output::Signal(kill_signal));
            }
            Stage::Asked { .. } | Stage::Forced { .. } | Stage::Ended(_) | Stage::Closed(_) => {}
        }
    }

    fn signalled(&mut self, is_reached: bool) {
        match self.stage {
            Stage::Asked { reason, .. } | Stage::Forced { reason } => {
                if is_reached && self.killed.is_none() {
                    self.killed = Some(reason);
                    self.outputs.push_back(Output::Killed(reason));
                }
            }
            // It has ended meanwhile, which is told already.
            Stage::Running { .. } | Stage::Ended(_) | Stage::Closed(_) => {}
        }
    }

    fn ended(&mut self, exit: Exit) {
        match self.stage {
            Stage::Running { .. } | Stage::Asked { .. } | Stage::Forced { .. } => {
                self.stage = Stage::Ended(exit);
                self.outputs.push_back(Output::Exited(exit));
                self.close_if_over();
            }
            Stage::Ended(_) | Stage::Closed(_) => {}
        }
    }

    fn close_if_over(&mut self) {
        match self.stage {
            Stage::Ended(exit) if !self.has_streams && !self.has_channel => {
                self.stage = Stage::Closed(exit);
                self.outputs.push_back(Output::Closed(exit));
            }
            Stage::Running { .. }
            | Stage::Asked { .. }
            | Stage::Forced { .. }
            | Stage::Ended(_)
            | Stage::Closed(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const EXIT: Exit = Exit::Code(3);
    const SECOND: Duration = Duration::from_secs(1);

    /// 10 s to run, 5 s to end by SIGTERM.
    fn options() -> Options {
        Options {
            timeout: Some(10 * SECOND),
            kill_signal: Signal::TERM,
            kill_after: Some(5 * SECOND),
            has_streams: true,
            has_channel: true,
        }
    }

    fn outputs(life: &mut Life) -> Vec<Output> {
        std::iter::from_fn(|| life.poll_output()).collect()
    }

    fn born(options: Options) -> Life {
        let mut life = Life::new(options);
        assert_eq!(outputs(&mut life), [Output::Spawned]);
        life
    }

    /// What comes of it.
    fn after(life: &mut Life, now: Time, input: Input) -> Vec<Output> {
        life.handle(now, input);
        outputs(life)
    }

    #[test]
    fn it_is_closed_when_the_last_of_all_has_ended() {
        let ends = [Input::Ended(EXIT), Input::StreamsEnded, Input::ChannelClosed];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut life = born(options());
            let told = order.map(|index| after(&mut life, SECOND, ends[index]));
            let told = told.concat();
            let position = |output| told.iter().position(|told| *told == output);
            assert_eq!(told.len(), 3, "{told:?}");
            assert_eq!(position(Output::Closed(EXIT)), Some(2), "{told:?}");
            assert!(position(Output::Exited(EXIT)).is_some(), "{told:?}");
            assert!(position(Output::Disconnected).is_some(), "{told:?}");
            assert_eq!(life.exit(), Some(EXIT));
        }
    }

    #[test]
    fn a_timeout_escalates_once() {
        let mut life = born(options());
        assert_eq!(life.next_timeout(), Some(10 * SECOND));
        life.handle_timeout(9 * SECOND);
        assert_eq!(outputs(&mut life), []);
        life.handle_timeout(11 * SECOND);
        assert_eq!(outputs(&mut life), [Output::Signal(Signal::TERM)]);
        let told = after(&mut life, 11 * SECOND, Input::Signalled(true));
        assert_eq!(told, [Output::Killed(KillReason::Timeout)]);
        assert_eq!(life.next_timeout(), Some(16 * SECOND));
        life.handle_timeout(16 * SECOND);
        assert_eq!(outputs(&mut life), [Output::Signal(Signal::KILL)]);
        assert_eq!(after(&mut life, 16 * SECOND, Input::Signalled(true)), []);
        assert_eq!(life.next_timeout(), None);
        life.handle_timeout(99 * SECOND);
        assert_eq!(outputs(&mut life), []);
        assert_eq!(life.killed(), Some(KillReason::Timeout));
    }

    #[test]
    fn who_exits_in_time_is_sent_nothing() {
        let mut life = born(options());
        assert_eq!(after(&mut life, 9 * SECOND, Input::Ended(EXIT)), [Output::Exited(EXIT)]);
        assert_eq!(life.next_timeout(), None);
        life.handle_timeout(99 * SECOND);
        assert_eq!(after(&mut life, 99 * SECOND, Input::Kill(KillReason::Cancelled)), []);
        assert_eq!(life.killed(), None);
    }

    #[test]
    fn who_exits_on_the_signal_is_not_forced() {
        let mut life = born(options());
        life.handle_timeout(10 * SECOND);
        after(&mut life, 10 * SECOND, Input::Signalled(true));
        after(&mut life, 11 * SECOND, Input::Ended(EXIT));
        life.handle_timeout(15 * SECOND);
        assert_eq!(outputs(&mut life), []);
    }

    #[test]
    fn the_first_reason_counts() {
        let mut life = born(options());
        let asked = after(&mut life, SECOND, Input::Kill(KillReason::Cancelled));
        assert_eq!(asked, [Output::Signal(Signal::TERM)]);
        assert_eq!(after(&mut life, SECOND, Input::Kill(KillReason::OutputTooLong)), []);
        let told = after(&mut life, SECOND, Input::Signalled(true));
        assert_eq!(told, [Output::Killed(KillReason::Cancelled)]);
        assert_eq!(life.next_timeout(), Some(6 * SECOND), "the timeout no longer counts");
    }

    #[test]
    fn a_signal_that_reached_nobody_is_not_told() {
        let mut life = born(options());
        after(&mut life, SECOND, Input::Kill(KillReason::Cancelled));
        assert_eq!(after(&mut life, SECOND, Input::Signalled(false)), []);
        assert_eq!(life.killed(), None);
    }

    #[test]
    fn sigkill_and_endless_patience_do_not_escalate() {
        let sigkill = Options { kill_signal: Signal::KILL, ..options() };
        let patient = Options { kill_after: None, ..options() };
        let endless = Options { kill_after: Some(Duration::MAX), ..options() };
        for options in [sigkill, patient, endless] {
            let mut life = born(options);
            life.handle_timeout(10 * SECOND);
            assert_eq!(outputs(&mut life), [Output::Signal(options.kill_signal)]);
            assert_eq!(life.next_timeout(), None);
        }
    }

    fn inputs() -> impl Strategy<Value = Vec<(u8, u8)>> {
        vec((0_u8..20, 0_u8..8), 0..60)
    }

    proptest! {
        /// Whatever comes in whatever order, and a second `wait` later: each event at most once, in
        /// the documented order; two signals at most, the second SIGKILL; none after the end.
        #[test]
        fn any_order_of_inputs_tells_each_event_once(
            steps in inputs(),
            has_timeout: bool,
            has_kill_after: bool,
            has_streams: bool,
            has_channel: bool,
        ) {
            let mut life = Life::new(Options {
                timeout: has_timeout.then_some(10 * SECOND),
                kill_after: has_kill_after.then_some(5 * SECOND),
                has_streams,
                has_channel,
                ..options()
            });
            let mut now = Duration::ZERO;
            let mut all = outputs(&mut life);
            for (seconds, kind) in steps {
                now += SECOND * seconds.into();
                let input = match kind {
                    0 => Input::Ended(Exit::Code(seconds.into())),
                    1 => Input::StreamsEnded,
                    2 => Input::ChannelClosed,
                    3 => Input::Kill(KillReason::Cancelled),
                    4 => Input::Kill(KillReason::OutputTooLong),
                    5 => Input::Signalled(true),
                    6 => Input::Signalled(false),
                    _ => {
                        life.handle_timeout(now);
                        all.extend(outputs(&mut life));
                        continue;
                    }
                };
                all.extend(after(&mut life, now, input));
                prop_assert!(life.next_timeout().is_none() || life.exit().is_none());
            }
            let count = |is: fn(&Output) -> bool| all.iter().filter(|output| is(output)).count();
            let at = |is: fn(&Output) -> bool| all.iter().position(is);
            let is_exited: fn(&Output) -> bool = |o| matches!(o, Output::Exited(_));
            let is_closed: fn(&Output) -> bool = |o| matches!(o, Output::Closed(_));
            let is_killed: fn(&Output) -> bool = |o| matches!(o, Output::Killed(_));
            let is_disconnected: fn(&Output) -> bool = |o| *o == Output::Disconnected;
            let is_signal: fn(&Output) -> bool = |o| matches!(o, Output::Signal(_));
            for is in [is_exited, is_closed, is_killed, is_disconnected] {
                prop_assert!(count(is) <= 1, "{:?}", all);
            }
            prop_assert_eq!(at(|o| *o == Output::Spawned), Some(0));
            let signals: Vec<_> = all.iter().filter(|output| is_signal(output)).collect();
            let expected = [Output::Signal(Signal::TERM), Output::Signal(Signal::KILL)];
            prop_assert!(signals.iter().copied().eq(expected.iter().take(signals.len())));
            let exited = at(is_exited).unwrap_or(all.len());
            let last_signal = all.iter().rposition(is_signal).unwrap_or(0);
            prop_assert!(last_signal <= exited, "{:?}", all);
            prop_assert!(at(is_killed).is_none_or(|killed| killed < exited), "{:?}", all);
            if let Some(closed) = at(is_closed) {
                prop_assert!(exited < closed && closed + 1 == all.len(), "{:?}", all);
                prop_assert_eq!(count(is_disconnected), usize::from(has_channel));
            }
        }
    }
}
