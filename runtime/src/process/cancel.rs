use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::bell::Bell;

/// Ends any number of children at once, from any thread.
///
/// Clones are the same token.
///
/// ```
/// # #[cfg(unix)] {
/// use runtime::process::{CancelToken, Command, KillReason};
///
/// let token = CancelToken::new();
/// let mut sleep = Command::new("sleep");
/// sleep.arg("1000").cancel_with(&token);
/// let mut children = [sleep.spawn()?, sleep.spawn()?];
/// std::thread::spawn(move || token.cancel());
/// for child in &mut children {
///     assert_eq!(child.wait()?.signal(), Some(15));
///     assert_eq!(child.kill_reason(), Some(KillReason::Cancelled));
/// }
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    is_cancelled: AtomicBool,
    bells: Mutex<Bells>,
}

#[derive(Debug, Default)]
struct Bells {
    next: u64,
    by_number: BTreeMap<u64, Weak<Bell>>,
}

impl CancelToken {
    /// A token that is not cancelled.
    #[must_use]
    pub fn new() -> CancelToken {
        CancelToken::default()
    }

    /// Ends the children that have it, and those that will be started with it.
    ///
    /// Each is sent its [`kill_signal`](super::Command::kill_signal), and SIGKILL when
    /// [`kill_after`](super::Command::kill_after) is over. It is its owner who does that: whoever
    /// polls it or waits for it, [`Children`](super::Children), or who collects it once it was
    /// dropped.
    pub fn cancel(&self) {
        // First, for who attaches itself now sees either this or a ring.
        self.0.is_cancelled.store(true, Ordering::SeqCst);
        let bells: Vec<_> = self.bells().by_number.values().filter_map(Weak::upgrade).collect();
        bells.iter().for_each(|bell| bell.ring());
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::SeqCst)
    }

    /// Has it ring this bell when it is cancelled.
    pub(super) fn attach(&self, bell: &Arc<Bell>) -> Attachment {
        let mut bells = self.bells();
        let number = bells.next;
        bells.next += 1;
        bells.by_number.insert(number, Arc::downgrade(bell));
        Attachment { token: self.clone(), number }
    }

    fn bells(&self) -> MutexGuard<'_, Bells> {
        self.0.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A child's hold of a token.
#[derive(Debug)]
pub(super) struct Attachment {
    token: CancelToken,
    number: u64,
}

impl Attachment {
    pub(super) fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.token.bells().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rings_those_that_are_attached() {
        let token = CancelToken::new();
        let bells: Vec<_> = (0..3).map(|_| Arc::new(Bell::default())).collect();
        let mut attached: Vec<_> = bells.iter().map(|bell| token.attach(bell)).collect();
        attached.remove(1);
        token.clone().cancel();
        assert_eq!(
            bells.iter().map(|bell| bell.is_rung()).collect::<Vec<_>>(),
            [true, false, true]
        );
        assert!(attached.iter().all(Attachment::is_cancelled));
        drop(attached);
        assert!(token.bells().by_number.is_empty());
    }
}
