use std::fmt;
use std::str::FromStr;

/// A signal, by its number on this system.
///
/// On Windows, which has none, [`TERM`](Self::TERM), [`KILL`](Self::KILL) and [`INT`](Self::INT)
/// end a process at once, and no other can be sent.
///
/// ```
/// use runtime::process::Signal;
///
/// assert_eq!("SIGTERM".parse(), Ok(Signal::TERM));
/// assert_eq!("hup".parse(), Ok(Signal::HUP));
/// assert_eq!(Signal::KILL.to_string(), "SIGKILL");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

/// The signals whose numbers are the same on all systems.
const NAMES: [(&str, Signal); 9] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("ABRT", Signal::ABRT),
    ("KILL", Signal::KILL),
    ("SEGV", Signal::SEGV),
    ("PIPE", Signal::PIPE),
    ("ALRM", Signal::ALRM),
    ("TERM", Signal::TERM),
];

impl Signal {
    /// The terminal is gone; for many daemons, "read the configuration again".
    pub const HUP: Signal = Signal(1);
    /// Ctrl-C.
    pub const INT: Signal = Signal(2);
    /// Ctrl-\.
    pub const QUIT: Signal = Signal(3);
    /// abort(3).
    pub const ABRT: Signal = Signal(6);
    /// The end, which no process can prevent.
    pub const KILL: Signal = Signal(9);
    /// An address that is not the process's.
    pub const SEGV: Signal = Signal(11);
    /// A pipe that nobody reads.
    pub const PIPE: Signal = Signal(13);
    /// A timer.
    pub const ALRM: Signal = Signal(14);
    /// The polite request to end.
    pub const TERM: Signal = Signal(15);

    /// The signal of this number; `None` if the system has none.
    #[must_use]
    pub const fn from_number(number: i32) -> Option<Signal> {
        if 1 <= number && number <= crate::sys::SIGNAL_MAX { Some(Signal(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, signal)| signal == self) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

/// A text that is no signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseSignalError;

impl fmt::Display for ParseSignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a signal; expected a name like SIGTERM, or a number like 15")
    }
}

impl std::error::Error for ParseSignalError {}

/// Reads a name, with or without `SIG`, in either case, or a number.
impl FromStr for Signal {
    type Err = ParseSignalError;

    fn from_str(text: &str) -> Result<Signal, ParseSignalError> {
        if let Ok(number) = text.parse() {
            return Signal::from_number(number).ok_or(ParseSignalError);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, signal)| *signal).ok_or(ParseSignalError)
    }
}
