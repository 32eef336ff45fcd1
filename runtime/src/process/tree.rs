//! Which processes a child has started, judged from tables of all processes.
//!
//! A table is not of one moment: while it is read, processes end, others get their numbers, and
//! orphans get new parents. So nobody is touched for what one table says: a process is opened, and
//! counts as found when a table that is read *after* that still has it in the tree. What was
//! opened then has had its number all the time, else signalling it fails.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A process, as a table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) group: u32,
    pub(crate) session: u32,
    /// When it began, in ticks.
    pub(crate) start: u64,
    pub(crate) state: State,
    /// It belongs to the tree, whoever its parent is: a control group or the environment says so.
    pub(crate) is_marked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Runs,
    Stopped,
    /// And nobody has collected it.
    Ended,
}

/// Whose tree it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Root {
    pub(crate) pid: u32,
    /// It was started as the first of a group, or of a session.
    pub(crate) leads: bool,
    /// The session that it was started from.
    pub(crate) born_in: u32,
    /// This process, which is in no tree.
    pub(crate) own_pid: u32,
    pub(crate) number: Number,
}

/// Whether the number of the root was still its own when a table was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    /// Nobody has collected it.
    Process,
    /// It was collected, but its group has members; until it has none, no other process gets the
    /// number.
    Group,
    /// It was collected at this tick, and the system can't tell about the group. Members that are
    /// older than this tick keep the number.
    FreeSince(u64),
}

/// The members of the tree, parents before children.
pub(crate) fn members(table: &[Row], root: &Root) -> Vec<Row> {
    let mut search = Search::new(table, root);
    if root.holds_number(table) {
        search.take_all_of(root.pid, 0);
    }
    search.take(table.iter().enumerate().filter(|(_, row)| row.is_marked).map(|(at, _)| at));
    while let Some(row) = search.queue.pop_front() {
        search.take_all_of(row.pid, row.start);
        // A session is begun by a new member, and entered by birth only.
        if row.session != root.born_in && row.session != 0 {
            search.take_session(row.session);
        }
    }
    search.found
}

impl Root {
    fn holds_number(&self, table: &[Row]) -> bool {
        let led = |row: &Row| row.group == self.pid || row.session == self.pid;
        match self.number {
            Number::Process => true,
            Number::Group => true,
            Number::FreeSince(tick) => {
                self.leads && table.iter().any(|row| led(row) && row.start < tick)
            }
        }
    }
}

struct Search<'a> {
    table: &'a [Row],
    by_pid: Index,
    by_parent: Index,
    by_group: Index,
    by_session: Index,
    is_taken: Vec<bool>,
    queue: VecDeque<Row>,
    found: Vec<Row>,
}

/// Places in the table, by a number that the rows there have.
type Index = BTreeMap<u32, Vec<usize>>;

impl<'a> Search<'a> {
    fn new(table: &'a [Row], root: &Root) -> Search<'a> {
        let index = |number: fn(&Row) -> u32| {
            let mut index = Index::new();
            for (at, row) in table.iter().enumerate() {
                index.entry(number(row)).or_default().push(at);
            }
            index
        };
        // The first process, and what garbage calls 0, are no one's.
        let is_nobodys = |row: &Row| row.pid <= 1 || row.pid == root.own_pid;
        Search {
            table,
            by_pid: index(|row| row.pid),
            by_parent: index(|row| row.parent),
            by_group: index(|row| row.group),
            by_session: index(|row| row.session),
            is_taken: table.iter().map(is_nobodys).collect(),
            queue: VecDeque::new(),
            found: Vec::new(),
        }
    }

    fn take(&mut self, places: impl IntoIterator<Item = usize>) {
        for at in places {
            if !std::mem::replace(&mut self.is_taken[at], true) {
                self.queue.push_back(self.table[at]);
                self.found.push(self.table[at]);
            }
        }
    }

    /// Whoever has this number as its own, or, since this tick, as its parent's; or is in its group
    /// or session.
    fn take_all_of(&mut self, pid: u32, start: u64) {
        let at = |index: &Index| index.get(&pid).cloned().unwrap_or_default();
        let (own, children) = (at(&self.by_pid), at(&self.by_parent));
        let (group, session) = (at(&self.by_group), at(&self.by_session));
        let table = self.table;
        self.take(own);
        // Who is older has had a parent that gave this number back.
        self.take(children.into_iter().filter(|at| table[*at].start >= start));
        self.take(group);
        self.take(session);
    }

    fn take_session(&mut self, session: u32) {
        let places = self.by_session.remove(&session).unwrap_or_default();
        self.take(places);
    }
}

/// Finds all members of a tree, and has them stopped so that there will be no more.
#[derive(Debug, Default)]
pub(crate) struct Hunt {
    prey: BTreeMap<u32, Prey>,
    /// In the last table, nobody who was found ran.
    were_all_still: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prey {
    start: u64,
    is_found: bool,
    /// It was stopped before we came.
    was_stopped: bool,
}

/// What to do after a table was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    /// Open these.
    pub(crate) open: Vec<u32>,
    /// Close these, they are something else by now.
    pub(crate) close: Vec<u32>,
    /// These are found: stop them. One that can't be signalled since it is gone, is [`Hunt::lost`].
    pub(crate) stop: Vec<u32>,
    /// There are no more.
    pub(crate) is_over: bool,
}

impl Hunt {
    /// Judges a table that was read after the last orders were carried out.
    pub(crate) fn look(&mut self, table: &[Row], root: &Root) -> Orders {
        let living = members(table, root).into_iter().filter(|row| row.state != State::Ended);
        let mut orders = Orders::default();
        let mut seen = BTreeSet::new();
        let mut is_any_running = false;
        for row in living {
            seen.insert(row.pid);
            match self.prey.get_mut(&row.pid).filter(|prey| prey.start == row.start) {
                None => {
                    let was_stopped = row.state == State::Stopped;
                    let prey = Prey { start: row.start, is_found: false, was_stopped };
                    self.prey.insert(row.pid, prey);
                    orders.open.push(row.pid);
                }
                Some(prey) if !prey.is_found => {
                    prey.is_found = true;
                    orders.stop.push(row.pid);
                }
                Some(_) => is_any_running |= row.state == State::Runs,
            }
        }
        // Who was found stays found: it may have lost its parent, and what it was found by.
        let strays = self.prey.iter().filter(|(pid, prey)| !prey.is_found && !seen.contains(pid));
        orders.close = strays.map(|(pid, _)| *pid).collect();
        self.prey.retain(|pid, prey| prey.is_found || seen.contains(pid));
        let is_quiet = orders.open.is_empty() && orders.stop.is_empty();
        orders.is_over = is_quiet && self.were_all_still;
        self.were_all_still = is_quiet && !is_any_running;
        orders
    }

    /// This one could not be opened or stopped: it has ended, and its number is free.
    pub(crate) fn lost(&mut self, pid: u32) {
        self.prey.remove(&pid);
    }

    /// Who was found, and whether it was stopped before.
    pub(crate) fn found(&self) -> impl Iterator<Item = (u32, bool)> {
        let found = self.prey.iter().filter(|(_, prey)| prey.is_found);
        found.map(|(pid, prey)| (*pid, prey.was_stopped))
    }
}
