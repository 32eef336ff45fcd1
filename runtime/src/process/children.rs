use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use mio::{Interest, Poll, Registry, Token, Waker};

use super::attended::Attended;
use super::command::Command;
use super::error::{SpawnError, Step};
use super::event::Event;
use super::handle::{ChildHandle, ChildId};

/// A thread that attends to any number of children, whose events come by a channel.
///
/// It minds their timeouts and their cancellation, and collects them. The channel holds
/// [`EVENTS_MAX`](Self::EVENTS_MAX) events. When it is full, because nobody reads it, no event is
/// lost, and nothing else waits: children are signalled in time and collected, what they tell is
/// kept with each of them, and messages stay where they are, so that a child that sends too many
/// is the one that waits.
///
/// A stream that is a pipe and that nobody takes and reads holds up a child that writes much there:
/// give it [`Stdio::null`](super::Stdio::null) or a file.
///
/// Dropped, it ends the thread, and does with each child that runs what dropping a
/// [`Child`](super::Child) does.
///
/// ```
/// # #[cfg(unix)] {
/// use runtime::process::{Children, Command, Event};
///
/// let children = Children::start()?;
/// let mut command = Command::new("sh");
/// command.args(["-c", "exit 3"]);
/// let handles = [children.spawn(&mut command)?, children.spawn(&mut command)?];
/// let mut open = handles.len();
/// while open > 0 {
///     let (id, event) = children.events().recv()?;
///     assert!(handles.iter().any(|handle| handle.id() == id));
///     if let Event::Closed(exit) = event {
///         assert_eq!(exit.code(), Some(3));
///         open -= 1;
///     }
/// }
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Children {
    shared: Arc<Shared>,
    events: Receiver<(ChildId, Event)>,
    /// `None` once it is dropped.
    thread: Option<JoinHandle<()>>,
}

/// The waker's; children count from 0.
const WAKER: Token = Token(usize::MAX);

/// How often it is looked whether a full channel has room, which nobody tells.
const RETRY: Duration = Duration::from_millis(5);

/// How many events are told before the loop looks for what else has happened.
const TURN_EVENTS_MAX: usize = 256;

impl Children {
    /// How many events wait to be read at most; then they wait with their children.
    pub const EVENTS_MAX: usize = 1024;

    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When there are no threads or no descriptors left; it takes two.
    pub fn start() -> io::Result<Children> {
        let poll = Poll::new()?;
        let shared = Arc::new(Shared {
            registry: poll.registry().try_clone()?,
            waker: Waker::new(poll.registry(), WAKER)?,
            is_stopped: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            children: Mutex::new(BTreeMap::new()),
        });
        let (sender, events) = crossbeam_channel::bounded(Self::EVENTS_MAX);
        let hub = Hub {
            poll,
            shared: shared.clone(),
            sender,
            ready: BTreeSet::new(),
            woken: BTreeSet::new(),
            turn: 0,
        };
        let thread = thread::Builder::new().name("children".into()).spawn(|| hub.run())?;
        Ok(Children { shared, events, thread: Some(thread) })
    }

    /// As [`Command::spawn`]. Its events may come before this returns.
    ///
    /// # Errors
    ///
    /// As [`Command::spawn`], and when there is no descriptor left to attend to it.
    pub fn spawn(&self, command: &mut Command) -> Result<ChildHandle, SpawnError> {
        let child = command.spawn()?;
        self.add(Attended::Child(child), command.program())
    }

    /// As [`Command::exec`]. Its only event is [`Finished`](Event::Finished).
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// use runtime::process::{Children, Command, Event};
    ///
    /// let children = Children::start()?;
    /// let sort = children.exec(Command::new("sort").input(*b"b\na\n"))?;
    /// let (id, event) = children.events().recv()?;
    /// assert_eq!(id, sort.id());
    /// let Event::Finished(result) = event else { panic!("{event:?}") };
    /// assert_eq!(result?.stdout, b"a\nb\n");
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn exec(&self, command: &mut Command) -> Result<ChildHandle, SpawnError> {
        let exec = command.exec()?;
        self.add(Attended::Exec(exec), command.program())
    }

    /// What happens to the children. Each tells its events in their order, and
    /// [`Closed`](Event::Closed) or [`Finished`](Event::Finished) as the last; those of several
    /// come as they happen.
    #[must_use]
    pub fn events(&self) -> &Receiver<(ChildId, Event)> {
        &self.events
    }

    /// How many children have not told their last event; what others told may wait to be read.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.lock().len()
    }

    /// Whether all children have told their last event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Attends to a child from now on.
    pub(super) fn add(
        &self,
        attended: Attended,
        program: &OsStr,
    ) -> Result<ChildHandle, SpawnError> {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let handle = ChildHandle::new(ChildId(number), attended);
        self.shared.lock().insert(number, handle.clone());
        let registry = &self.shared.registry;
        let result = registry.register(&mut *handle.lock(), Token(number), Interest::READABLE);
        if let Err(error) = result {
            self.shared.lock().remove(&number);
            handle.lock().child_mut().discard();
            return Err(SpawnError::new(program, Step::Attend, error));
        }
        Ok(handle)
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Release);
        // It fails if the thread has ended.
        let _ = self.shared.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Shared {
    registry: Registry,
    waker: Waker,
    is_stopped: AtomicBool,
    next: AtomicUsize,
    /// Those that have not told the last event.
    children: Mutex<BTreeMap<usize, ChildHandle>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, ChildHandle>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's.
struct Hub {
    poll: Poll,
    shared: Arc<Shared>,
    sender: Sender<(ChildId, Event)>,
    /// Those that may have something to tell.
    ready: BTreeSet<usize>,
    /// Those of them that have not gone on since they were woken.
    woken: BTreeSet<usize>,
    /// Who comes next: they take turns, so that one that tells much does not hold up the others.
    turn: usize,
}

impl Hub {
    fn run(mut self) {
        let mut ready = mio::Events::with_capacity(256);
        while !self.shared.is_stopped.load(Ordering::Acquire) {
            let timeout = match (self.ready.is_empty(), self.sender.is_full()) {
                (true, _) => None,
                (false, true) => Some(RETRY),
                (false, false) => Some(Duration::ZERO),
            };
            match self.poll.poll(&mut ready, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
                Ok(()) | Err(_) => {}
            }
            for token in ready.iter().map(|event| event.token()).filter(|token| *token != WAKER) {
                self.ready.insert(token.0);
                self.woken.insert(token.0);
            }
            self.tell();
            if self.sender.is_full() {
                self.go_on();
            }
        }
        let children = std::mem::take(&mut *self.shared.lock());
        for handle in children.values() {
            self.leave(handle);
            handle.lock().child_mut().abandon();
        }
    }

    /// Does what can't wait until there is room for events.
    fn go_on(&mut self) {
        for number in std::mem::take(&mut self.woken) {
            if let Some(handle) = self.handle(number) {
                // An error comes again when there is room to tell it.
                let _ = handle.lock().advance();
            }
        }
    }

    fn tell(&mut self) {
        for _ in 0..TURN_EVENTS_MAX {
            // Only this thread fills it.
            if self.sender.is_full() {
                return;
            }
            let next = self.ready.range(self.turn..).next().or(self.ready.first());
            let Some(number) = next.copied() else { return };
            self.turn = number + 1;
            let event = self.handle(number).map(|handle| handle.lock().next_event());
            let (event, is_last) = match event {
                None | Some(Ok(None)) => {
                    self.ready.remove(&number);
                    self.woken.remove(&number);
                    continue;
                }
                Some(Ok(Some(event))) => {
                    let is_last = matches!(event, Event::Closed(_) | Event::Finished(_));
                    (event, is_last)
                }
                // Nothing more can be known of it.
                Some(Err(error)) => (Event::Error(error), true),
            };
            // At once: who is no longer counted has told the last.
            let mut children = self.shared.lock();
            let _ = self.sender.try_send((ChildId(number), event));
            let last = if is_last { children.remove(&number) } else { None };
            drop(children);
            if let Some(handle) = last {
                self.leave(&handle);
            }
        }
    }

    fn handle(&self, number: usize) -> Option<ChildHandle> {
        self.shared.lock().get(&number).cloned()
    }

    fn leave(&self, handle: &ChildHandle) {
        // Other handles may keep it open.
        let _ = self.poll.registry().deregister(&mut *handle.lock());
    }
}
