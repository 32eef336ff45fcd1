use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const OWN: u32 = 10;
const ROOT: u32 = 11;

fn row((pid, parent, group, session): (u32, u32, u32, u32), start: u64, marked: bool) -> Row {
    Row { pid, parent, group, session, start, state: State::Runs, is_marked: marked }
}

fn any_row() -> impl Strategy<Value = Row> {
    let number = || 0_u32..16;
    let numbers = (number(), number(), number(), number());
    (numbers, 0_u64..6, proptest::bool::weighted(0.05)).prop_map(|(n, start, m)| row(n, start, m))
}

fn any_root() -> impl Strategy<Value = Root> {
    let number = prop_oneof![
        Just(Number::Process),
        Just(Number::Group),
        (0_u64..6).prop_map(Number::FreeSince)
    ];
    (any::<bool>(), 0_u32..16, number).prop_map(|(leads, born_in, number)| Root {
        pid: ROOT,
        leads,
        born_in,
        own_pid: OWN,
        number,
    })
}

/// The same, by asking every row again and again whether any member brings it in.
fn naive_members(table: &[Row], root: &Root) -> Vec<bool> {
    let led = |row: &Row| row.group == ROOT || row.session == ROOT;
    let holds = match root.number {
        Number::Process => true,
        Number::Group => true,
        Number::FreeSince(tick) => {
            root.leads && table.iter().filter(|row| led(row)).any(|row| row.start < tick)
        }
    };
    let brings_in = |member: &Row, row: &Row| {
        row.pid == member.pid
            || (row.parent == member.pid && row.start >= member.start)
            || row.group == member.pid
            || row.session == member.pid
            || (row.session == member.session && ![0, root.born_in].contains(&row.session))
    };
    let is_first =
        |row: &Row| row.is_marked || (holds && (row.pid == ROOT || row.parent == ROOT || led(row)));
    let may = |row: &Row| row.pid > 1 && row.pid != OWN;
    let mut is_in = vec![false; table.len()];
    for _ in 0..=table.len() {
        for at in 0..table.len() {
            let row = &table[at];
            let by_member = (0..table.len()).any(|m| is_in[m] && brings_in(&table[m], row));
            is_in[at] |= may(row) && (is_first(row) || by_member);
        }
    }
    is_in
}

proptest! {
    /// Numbers that mean nothing, cycles, the same process twice: what is found is what the rules
    /// say, and nothing else comes of it.
    #[test]
    fn any_table_is_judged_as_the_rules_say(table in vec(any_row(), 0..24), root in any_root()) {
        let key = |row: &Row| {
            (row.pid, row.parent, row.group, row.session, row.start, row.is_marked)
        };
        let mut found: Vec<_> = members(&table, &root).iter().map(key).collect();
        let is_in = naive_members(&table, &root);
        let naive = table.iter().zip(is_in).filter(|(_, is_in)| *is_in);
        let mut naive: Vec<_> = naive.map(|(row, _)| key(row)).collect();
        found.sort_unstable();
        naive.sort_unstable();
        prop_assert_eq!(found, naive);
    }

    /// A hunt in garbage ends, and gives no order twice without a reason.
    #[test]
    fn any_tables_end_a_hunt(tables in vec(vec(any_row(), 0..12), 1..12), root in any_root()) {
        let mut hunt = Hunt::default();
        for table in &tables {
            let orders = hunt.look(table, &root);
            for pid in orders.open.iter().chain(&orders.stop).chain(&orders.close) {
                prop_assert!(*pid > 1 && *pid != OWN);
            }
        }
        let last = tables.last().expect("one at least");
        let calm: Vec<Row> =
            last.iter().map(|row| Row { state: State::Stopped, ..*row }).collect();
        let mut pids = BTreeSet::new();
        let once: Vec<Row> = calm.into_iter().filter(|row| pids.insert(row.pid)).collect();
        let is_over = (0..5).any(|_| hunt.look(&once, &root).is_over);
        prop_assert!(is_over);
    }

    /// A system in which processes come, go and get the numbers of others while the table is read:
    /// no stranger is ever signalled, and at the end nobody of the tree runs.
    #[test]
    fn f53_strangers_are_safe_and_members_are_found(
        deeds in vec(any::<(u8, u8)>(), 0..600),
        before in 0_usize..200,
        leads in any::<bool>(),
        is_subreaper in any::<bool>(),
        tells_of_groups in any::<bool>(),
    ) {
        let mut world = World::new(leads, is_subreaper);
        let mut deeds = deeds.into_iter();
        deeds.by_ref().take(before).for_each(|deed| world.act(deed));
        world.hunt(&mut deeds, tells_of_groups)?;
    }
}

#[derive(Clone, Debug)]
struct Being {
    row: Row,
    /// No other has had it, or will.
    soul: u64,
    /// It descends from the root, or is it.
    is_member: bool,
}

/// As much of a kernel as tells processes apart.
#[derive(Debug)]
struct World {
    beings: BTreeMap<u32, Being>,
    next_pid: u32,
    next_soul: u64,
    steps: u64,
    leads: bool,
    is_subreaper: bool,
    root_soul: u64,
    collected_at: Option<u64>,
    /// The root's group has had members ever since.
    is_group_held: bool,
}

const PIDS: u32 = 48;

impl World {
    fn new(leads: bool, is_subreaper: bool) -> World {
        let mut world = World {
            beings: BTreeMap::new(),
            next_pid: 1,
            next_soul: 0,
            steps: 0,
            leads,
            is_subreaper,
            root_soul: 0,
            collected_at: None,
            is_group_held: leads,
        };
        for pid in [1, 5, OWN, ROOT, 12] {
            let parent = if pid > OWN { OWN } else { 1 };
            let group = if pid == ROOT && leads { ROOT } else { pid.min(OWN) };
            let numbers = (pid, parent, group, pid.min(OWN));
            let being = Being { row: row(numbers, 0, false), soul: 0, is_member: pid == ROOT };
            world.add(being);
        }
        world.root_soul = world.beings[&ROOT].soul;
        world
    }

    fn add(&mut self, mut being: Being) {
        being.soul = self.next_soul;
        self.next_soul += 1;
        self.beings.insert(being.row.pid, being);
    }

    fn tick(&self) -> u64 {
        self.steps / 4
    }

    fn free_pid(&mut self) -> Option<u32> {
        (0..PIDS).find_map(|_| {
            self.next_pid = self.next_pid % PIDS + 1;
            let pid = self.next_pid;
            let uses = |b: &Being| [b.row.pid, b.row.group, b.row.session].contains(&pid);
            (!self.beings.values().any(uses)).then_some(pid)
        })
    }

    fn act(&mut self, (who, what): (u8, u8)) {
        self.steps += 1;
        let place = usize::from(who) % self.beings.len();
        let pid = *self.beings.keys().nth(place).expect("within");
        let being = self.beings[&pid].clone();
        match (being.row.state, what % 8) {
            (State::Ended, _) if being.row.parent == OWN || what < 128 => self.collect(pid),
            (State::Runs, 0..=3) => {
                if let Some(pid) = self.free_pid() {
                    let row = Row { pid, parent: being.row.pid, start: self.tick(), ..being.row };
                    self.add(Being { row: Row { is_marked: false, ..row }, ..being });
                }
            }
            (State::Runs, 4) if being.row.group != pid => {
                let row = Row { group: pid, session: pid, ..being.row };
                self.set(row);
            }
            (State::Runs, 5) if being.row.session != pid => {
                self.set(Row { group: pid, ..being.row });
            }
            // A stopped one ends only if somebody kills it.
            (State::Runs, 6..) if pid != 1 && pid != OWN => self.end(pid),
            (State::Stopped, _) if what >= 250 => self.end(pid),
            _ => {}
        }
        let is_root = |being: &Being| being.soul == self.root_soul;
        if self.beings.get(&ROOT).is_some_and(|root| is_root(root) && root.row.group == ROOT) {
            self.is_group_held = true;
        }
        let has_group = self.beings.values().any(|being| being.row.group == ROOT);
        self.is_group_held &= has_group || self.collected_at.is_none();
    }

    fn set(&mut self, row: Row) {
        self.beings.get_mut(&row.pid).expect("there").row = row;
    }

    fn end(&mut self, pid: u32) {
        let is_subreaper = self.is_subreaper;
        for child in self.beings.values_mut().filter(|child| child.row.parent == pid) {
            let is_ours = is_subreaper && child.is_member;
            child.row.parent = if is_ours { OWN } else { 1 };
            child.row.is_marked = is_ours;
        }
        let being = self.beings.get_mut(&pid).expect("there");
        being.row.state = State::Ended;
    }

    fn collect(&mut self, pid: u32) {
        if self.beings[&pid].soul == self.root_soul {
            self.collected_at = Some(self.tick());
        }
        self.beings.remove(&pid);
    }

    /// Reads a table row by row, while things go on.
    fn table(&mut self, deeds: &mut impl Iterator<Item = (u8, u8)>) -> Vec<Row> {
        let mut table = Vec::new();
        for pid in 1..=PIDS {
            table.extend(self.beings.get(&pid).map(|being| being.row));
            if pid % 6 == 0 {
                deeds.take(1).for_each(|deed| self.act(deed));
            }
        }
        table
    }

    fn root(&self, tells_of_groups: bool) -> Root {
        let number = match self.collected_at {
            None => Number::Process,
            Some(_) if tells_of_groups && self.is_group_held => Number::Group,
            Some(tick) => Number::FreeSince(tick),
        };
        Root { pid: ROOT, leads: self.leads, born_in: OWN, own_pid: OWN, number }
    }

    fn hunt(
        &mut self,
        deeds: &mut impl Iterator<Item = (u8, u8)>,
        tells_of_groups: bool,
    ) -> Result<(), TestCaseError> {
        let mut hunt = Hunt::default();
        let mut open = BTreeMap::new();
        loop {
            let table = self.table(deeds);
            let root = self.root(tells_of_groups);
            let orders = hunt.look(&table, &root);
            for pid in &orders.close {
                open.remove(pid);
            }
            for pid in &orders.stop {
                let being = self.beings.get_mut(pid).filter(|being| being.soul == open[pid]);
                let Some(being) = being else {
                    hunt.lost(*pid);
                    continue;
                };
                prop_assert!(being.is_member, "a stranger is stopped: {being:?}");
                if being.row.state == State::Runs {
                    being.row.state = State::Stopped;
                }
            }
            for pid in &orders.open {
                deeds.take(1).for_each(|deed| self.act(deed));
                match self.beings.get(pid) {
                    Some(being) => drop(open.insert(*pid, being.soul)),
                    None => hunt.lost(*pid),
                }
            }
            if orders.is_over {
                break;
            }
        }
        let table: Vec<Row> = self.beings.values().map(|being| being.row).collect();
        for row in members(&table, &self.root(tells_of_groups)) {
            prop_assert_ne!(row.state, State::Runs, "{:?} was not found", row);
        }
        Ok(())
    }
}
