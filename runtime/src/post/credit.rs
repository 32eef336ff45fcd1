//! Windows of credit: how much may be on its way, or wait, between a sender and the application
//! that takes it.

use super::Message;

/// How many messages: their number, bytes and handles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Messages.
    pub messages: u32,
    /// Bytes of all of them.
    pub bytes: u32,
    /// Handles of all of them.
    pub handles: u32,
}

impl Amount {
    /// What a message costs, unless it is beyond counting.
    pub fn of<H>(message: &Message<H>) -> Option<Amount> {
        Some(Amount {
            messages: 1,
            bytes: u32::try_from(message.bytes.len()).ok()?,
            handles: u32::try_from(message.handles.len()).ok()?,
        })
    }

    /// The sum, unless it overflows.
    pub fn checked_add(self, other: Amount) -> Option<Amount> {
        Some(Amount {
            messages: self.messages.checked_add(other.messages)?,
            bytes: self.bytes.checked_add(other.bytes)?,
            handles: self.handles.checked_add(other.handles)?,
        })
    }

    /// The difference, unless one part of it is negative.
    pub fn checked_sub(self, other: Amount) -> Option<Amount> {
        Some(Amount {
            messages: self.messages.checked_sub(other.messages)?,
            bytes: self.bytes.checked_sub(other.bytes)?,
            handles: self.handles.checked_sub(other.handles)?,
        })
    }

    /// Whether it holds all of `other`.
    pub fn covers(self, other: Amount) -> bool {
        self.checked_sub(other).is_some()
    }

    /// Whether any part of it is a quarter of the same part of `whole`, at least.
    fn is_quarter_of(self, whole: Amount) -> bool {
        let reaches = |part: u32, whole: u32| part > 0 && part >= whole / 4;
        reaches(self.messages, whole.messages)
            || reaches(self.bytes, whole.bytes)
            || reaches(self.handles, whole.handles)
    }
}

/// The sender's side: what it may still send.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    limit: Amount,
    available: Amount,
}

impl Window {
    /// A window of this size, of which `available` may be used at once.
    pub fn new(limit: Amount, available: Amount) -> Window {
        Window { limit, available }
    }

    /// Uses credit for a message; false, and nothing is used, if there is not enough.
    #[must_use]
    pub fn take(&mut self, cost: Amount) -> bool {
        let left = self.available.checked_sub(cost);
        self.available = left.unwrap_or(self.available);
        left.is_some()
    }

    /// Takes in credit that came back; false, and nothing changes, if it is more than was used.
    #[must_use]
    pub fn give(&mut self, amount: Amount) -> bool {
        let sum = self.available.checked_add(amount).filter(|sum| self.limit.covers(*sum));
        self.available = sum.unwrap_or(self.available);
        sum.is_some()
    }

    /// What may still be sent.
    pub fn available(&self) -> Amount {
        self.available
    }
}

/// The receiver's side: what came and was not taken, and what was taken and not given back.
///
/// Credit goes back in steps of a quarter of the window, so that not every message costs another.
/// A sender without credit is never forgotten by that: less than a quarter is kept here, and the
/// rest of the window, when nothing waits, takes any message (see [`Terms`](super::Terms)).
#[derive(Clone, Copy, Debug)]
pub struct Account {
    limit: Amount,
    held: Amount,
    owed: Amount,
}

impl Account {
    /// An account for a window of this size, all of which is still to be given to a sender.
    pub fn new(limit: Amount) -> Account {
        Account { limit, held: Amount::default(), owed: limit }
    }

    /// Gives out all the credit that is free; for the start of a sender.
    #[must_use]
    pub fn open(&mut self) -> Amount {
        std::mem::take(&mut self.owed)
    }

    /// Takes back credit that a sender has not used; for its end.
    pub fn close(&mut self, unused: Amount) {
        self.owed = self.owed.checked_add(unused).expect("no more than was given");
    }

    /// Takes note of a message, whose sender had the credit for it.
    pub fn receive(&mut self, cost: Amount) {
        self.held = self.held.checked_add(cost).expect("within a window");
    }

    /// Takes note that a message was taken.
    pub fn release(&mut self, cost: Amount) {
        self.held = self.held.checked_sub(cost).expect("only what is held is taken");
        self.owed = self.owed.checked_add(cost).expect("within a window");
    }

    /// The credit that shall go back now.
    pub fn poll_credit(&mut self) -> Option<Amount> {
        self.is_due().then(|| std::mem::take(&mut self.owed))
    }

    /// Whether credit shall go back now.
    pub fn is_due(&self) -> bool {
        self.owed.is_quarter_of(self.limit)
    }

    /// What came and was not taken.
    pub fn held(&self) -> Amount {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn amount(messages: u32, bytes: u32, handles: u32) -> Amount {
        Amount { messages, bytes, handles }
    }

    #[test]
    fn a_window_refuses_what_it_does_not_cover_in_any_part() {
        let limit = amount(2, 10, 1);
        let mut window = Window::new(limit, limit);
        assert!(!window.take(amount(1, 11, 0)));
        assert!(!window.take(amount(1, 0, 2)));
        assert!(window.take(amount(1, 10, 1)));
        assert!(window.take(amount(1, 0, 0)));
        assert!(!window.take(amount(1, 0, 0)), "two messages are two messages");
        assert!(!window.give(amount(3, 0, 0)), "more than was used");
        assert!(window.give(amount(1, 10, 0)));
        assert_eq!(window.available(), amount(1, 10, 0));
    }

    #[test]
    fn credit_goes_back_in_quarters() {
        let mut account = Account::new(amount(8, 800, 8));
        assert_eq!(account.open(), amount(8, 800, 8));
        account.receive(amount(1, 1, 0));
        account.receive(amount(1, 200, 0));
        account.release(amount(1, 1, 0));
        assert_eq!(account.poll_credit(), None);
        account.release(amount(1, 200, 0));
        assert_eq!(account.poll_credit(), Some(amount(2, 201, 0)));
        assert_eq!(account.poll_credit(), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Send(u32, u32),
        Take,
        Return,
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..=400_u32, 0..=4_u32).prop_map(|(bytes, handles)| Step::Send(bytes, handles)),
            4 => Just(Step::Take),
            4 => Just(Step::Return),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        /// What the sender may send, what is held and what is owed are the whole window, always;
        /// and a sender whose messages were all taken can send any message.
        #[test]
        fn nothing_of_a_window_is_lost_or_made(steps in vec(step(), 0..200)) {
            let limit = amount(16, 1000, 16);
            let mut account = Account::new(limit);
            let mut window = Window::new(limit, account.open());
            let mut waiting = std::collections::VecDeque::new();
            for step in steps {
                match step {
                    Step::Send(bytes, handles) => {
                        let cost = amount(1, bytes, handles);
                        if window.take(cost) {
                            account.receive(cost);
                            waiting.push_back(cost);
                        } else {
                            prop_assert!(!waiting.is_empty(), "full, though nothing waits");
                        }
                    }
                    Step::Take => {
                        if let Some(cost) = waiting.pop_front() {
                            account.release(cost);
                        }
                    }
                    Step::Return => {}
                    // The sender ends; what it has sent waits on.
                    Step::Restart => {
                        account.close(window.available());
                        window = Window::new(limit, account.open());
                    }
                }
                if let Some(credit) = account.poll_credit() {
                    prop_assert!(window.give(credit));
                }
                let sum = account.held().checked_add(window.available()).expect("small");
                let whole = sum.checked_add(account.owed).expect("small");
                prop_assert_eq!(whole, limit);
            }
        }
    }
}
