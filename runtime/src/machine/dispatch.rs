//! One listener's connections: which slot gets them, and what becomes of them when it does not
//! take.
//!
//! Every slot has a mailbox, a bounded queue in the kernel of which the master holds both ends.
//! This part never sees the queue itself. It counts what it puts in (`waiting`, an upper bound),
//! asks now and then how many still wait, and takes that for a sign of life: a mailbox from which
//! nothing was taken at three checks in a row, a quarter of `stall_timeout` apart, is *stalled*.
//! What waits in a mailbox that nobody reads, or a stalled one, is taken back as soon as another
//! slot can take it.
//!
//! Checks are counted, not timed, so that a machine that was suspended finds nobody stalled.

use std::collections::VecDeque;
use std::time::Duration;

use scheduler::{Load, Policy, Request};

use super::mailbox::{Mailbox, Probe};
use super::{ListenerId, MailboxId, Output, Time};
use crate::address::Address;
use crate::event::{Event, WorkerId};
use crate::listen::Dispatch;

/// Checks in a row without progress that make a stall.
const STRIKES_MAX: u8 = 3;

/// Checks are no closer than this, whatever `stall_timeout` is.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// How long accepting rests when there was no descriptor, no memory, or no room for one more
/// descriptor in flight.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// How often, at most, shed clients are reported.
const SHED_INTERVAL: Duration = Duration::from_secs(1);

/// What becomes of the listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The shell was asked to open it; these requests wait for it.
    Opening { requests: Vec<(WorkerId, u32)> },
    /// It is open.
    Open,
    /// It is open for what its backlog holds, and then closes: the cluster stops.
    Last,
    /// It is closed. The mailboxes may still hold connections.
    Closed,
    /// Nobody is left to serve what the mailboxes hold: it is taken out, counted and closed.
    Abandoned,
}

/// Why a connection could not be put into a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The mailbox is full.
    Full,
    /// The system has no room for one more descriptor in flight, or no memory.
    Busy,
}

/// One listener: its policy, its mailboxes, and the connections that are in no mailbox.
#[derive(Debug)]
pub(crate) struct Balancer<C> {
    pub(super) id: ListenerId,
    /// The address: as it was asked for, then the real one.
    pub(crate) address: Address,
    pub(crate) phase: Phase,
    /// How connections get to workers; never [`Auto`](Dispatch::Auto).
    pub(crate) mode: Dispatch,
    pub(super) policy: Box<dyn Policy>,
    pub(super) mailboxes: Vec<Mailbox>,
    /// Connections that no slot can take now: one that was accepted when the last mailbox turned
    /// out to be full, or some that were taken back.
    pub(super) pending: VecDeque<(C, u64)>,
    /// How many connections are on their way into mailboxes.
    pub(super) in_flight: usize,
    /// Whether the shell was asked to take a connection back and has not answered. It is asked for
    /// one at a time, and for the next when that one has its place: more of them could all turn out
    /// to have none.
    pub(super) take_back_asked: bool,
    pub(super) accepting: bool,
    pub(super) retry_at: Option<Time>,
    pub(super) check_interval: Duration,
    /// Clients that were shed and not yet reported.
    pub(super) shed: u64,
    pub(super) shed_report_at: Option<Time>,
    /// When the workers that share it shall look, and when they last were asked to.
    pub(super) look_at: Option<Time>,
    pub(super) looked_at: Option<Time>,
    /// Connections that nobody served.
    pub(crate) abandoned: u64,
}

impl<C> Balancer<C> {
    pub(crate) fn new(
        id: ListenerId,
        address: Address,
        policy: Box<dyn Policy>,
        weights: &[u32],
        stall_timeout: Duration,
    ) -> Balancer<C> {
        Balancer {
            id,
            address,
            phase: Phase::Opening { requests: Vec::new() },
            mode: Dispatch::Handoff,
            policy,
            mailboxes: weights.iter().map(|weight| Mailbox::new(*weight)).collect(),
            pending: VecDeque::new(),
            in_flight: 0,
            take_back_asked: false,
            accepting: false,
            retry_at: None,
            check_interval: (stall_timeout / 4).max(CHECK_INTERVAL_MIN),
            shed: 0,
            shed_report_at: None,
            look_at: None,
            looked_at: None,
            abandoned: 0,
        }
    }

    /// There are more slots, with these weights.
    pub(crate) fn grow(&mut self, weights: &[u32]) {
        self.mailboxes.extend(weights.iter().map(|weight| Mailbox::new(*weight)));
    }

    /// Whether this listener is open, and `address` its real address.
    pub(crate) fn is_open_at(&self, address: &Address) -> bool {
        self.phase == Phase::Open && self.address == *address
    }

    /// Whether any worker takes connections from this listener.
    pub(crate) fn has_reader(&self) -> bool {
        self.readers().next().is_some()
    }

    /// The slots that take connections, with their workers and weights.
    pub(super) fn readers(&self) -> impl Iterator<Item = (usize, WorkerId, u32)> + '_ {
        self.mailboxes.iter().enumerate().filter_map(|(slot, mailbox)| {
            let reader = mailbox.reader.filter(|_| mailbox.weight > 0)?;
            Some((slot, reader, mailbox.weight))
        })
    }

    pub(crate) fn is_read_by(&self, worker: WorkerId) -> bool {
        self.mailboxes[worker.slot].reader == Some(worker)
    }

    /// `worker` reads its slot's mailbox from now on.
    pub(crate) fn attach(&mut self, now: Time, worker: WorkerId, out: &mut VecDeque<Output<C>>) {
        let mailbox = &mut self.mailboxes[worker.slot];
        mailbox.reader = Some(worker);
        mailbox.move_at = None;
        mailbox.clear_stall();
        self.readers_changed(now, false, out);
        self.settle(now, worker.slot, out);
    }

    /// `worker` reads its mailbox no longer: it closed its listener, or is gone.
    pub(crate) fn detach(&mut self, now: Time, worker: WorkerId, out: &mut VecDeque<Output<C>>) {
        let mailbox = &mut self.mailboxes[worker.slot];
        if mailbox.reader != Some(worker) {
            return;
        }
        mailbox.reader = None;
        mailbox.clear_stall();
        mailbox.check_at = None;
        self.readers_changed(now, true, out);
        self.settle(now, worker.slot, out);
    }

    /// What picks a worker when connections to `address` get there by `mode`.
    pub(crate) fn policy_name(&self, mode: Dispatch, address: &Address) -> &'static str {
        match mode {
            // Of datagrams, nobody says which worker gets one.
            Dispatch::Shared if matches!(address, Address::Udp(_)) => "none",
            Dispatch::Shared => "rotation",
            Dispatch::Auto | Dispatch::Handoff | Dispatch::Steered => self.policy.name(),
        }
    }

    /// A connection was accepted.
    pub(crate) fn accepted(
        &mut self,
        now: Time,
        connection: C,
        key: u64,
        out: &mut VecDeque<Output<C>>,
    ) {
        if self.phase == Phase::Abandoned {
            self.abandoned += 1;
            return out.push_back(Output::Close { connection });
        }
        self.pending.push_back((connection, key));
        self.place(now, out);
        self.update_accepting(out);
    }

    /// A connection came back from the mailbox that it was put into.
    pub(crate) fn refused(
        &mut self,
        now: Time,
        slot: usize,
        connection: C,
        key: u64,
        refusal: Refusal,
        out: &mut VecDeque<Output<C>>,
    ) {
        if self.phase == Phase::Abandoned {
            return self.accepted(now, connection, key, out);
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        self.pending.push_front((connection, key));
        match refusal {
            Refusal::Full if !self.mailboxes[slot].full => {
                self.mailboxes[slot].full = true;
                out.push_back(Output::WatchRoom { mailbox: self.mailbox_id(slot) });
            }
            Refusal::Full => {}
            Refusal::Busy => self.retry_at = Some(now.saturating_add(RETRY_DELAY)),
        }
        self.settle(now, slot, out);
    }

    /// A connection, or a probe, is in the mailbox.
    pub(crate) fn delivered(&mut self, now: Time, slot: usize, out: &mut VecDeque<Output<C>>) {
        let mailbox = &mut self.mailboxes[slot];
        mailbox.waiting = mailbox.waiting.saturating_add(1);
        // Nothing else is on its way to a mailbox that is probed, since it takes nothing.
        if mailbox.probe == Probe::OnItsWay {
            mailbox.probe = Probe::Waiting;
        } else {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        if self.uses_counters() {
            self.tell_policy(slot);
        }
        self.arm(now, slot);
        self.take_back(now, out);
    }

    /// Clients were accepted and closed at once.
    pub(crate) fn shed(&mut self, now: Time, connections: u64, out: &mut VecDeque<Output<C>>) {
        self.shed = self.shed.saturating_add(connections);
        if self.shed_report_at.is_none() {
            self.report_shed(now, out);
        }
    }

    /// Accepting makes no sense for a while.
    pub(crate) fn exhausted(&mut self, now: Time, out: &mut VecDeque<Output<C>>) {
        self.retry_at = Some(now.saturating_add(RETRY_DELAY));
        self.proceed(now, out);
    }

    /// A full mailbox has room again.
    pub(crate) fn room(&mut self, now: Time, slot: usize, out: &mut VecDeque<Output<C>>) {
        self.mailboxes[slot].full = false;
        self.settle(now, slot, out);
    }

    /// The shell counted what waits in a mailbox.
    pub(crate) fn counted(
        &mut self,
        now: Time,
        slot: usize,
        waiting: u32,
        out: &mut VecDeque<Output<C>>,
    ) {
        let mailbox = &mut self.mailboxes[slot];
        let Some(reader) = mailbox.reader else { return };
        let progress = waiting < mailbox.waiting || waiting == 0;
        mailbox.waiting = waiting;
        mailbox.was_counted = true;
        if std::mem::take(&mut mailbox.recount) {
            // Taking back passes over probes, which nobody counted.
        } else if progress {
            let was_stalled = mailbox.stalled;
            mailbox.clear_stall();
            if was_stalled {
                out.push_back(Output::Event(Event::Resumed {
                    worker: reader,
                    address: self.address.clone(),
                }));
            }
        } else {
            mailbox.strikes = mailbox.strikes.saturating_add(1);
            if mailbox.strikes >= STRIKES_MAX && !mailbox.stalled {
                mailbox.stalled = true;
                out.push_back(Output::Event(Event::Stalled {
                    worker: reader,
                    address: self.address.clone(),
                    waiting,
                }));
            }
        }
        self.settle(now, slot, out);
    }

    /// A connection was taken back out of a mailbox.
    pub(crate) fn taken_back(
        &mut self,
        now: Time,
        slot: usize,
        connection: C,
        key: u64,
        out: &mut VecDeque<Output<C>>,
    ) {
        let mailbox = &mut self.mailboxes[slot];
        mailbox.waiting = mailbox.waiting.saturating_sub(1);
        if self.phase == Phase::Abandoned {
            self.abandoned += 1;
            out.push_back(Output::Close { connection });
            out.push_back(Output::TakeBack { mailbox: self.mailbox_id(slot) });
            return;
        }
        self.take_back_asked = false;
        if let Some(count) = &mut mailbox.taking_back {
            *count += 1;
        }
        self.pending.push_back((connection, key));
        self.settle(now, slot, out);
    }

    /// Nothing is left in a mailbox that was being taken back.
    pub(crate) fn emptied(&mut self, now: Time, slot: usize, out: &mut VecDeque<Output<C>>) {
        let mailbox = &mut self.mailboxes[slot];
        mailbox.waiting = 0;
        mailbox.was_counted = true;
        mailbox.probe = Probe::None;
        if self.phase == Phase::Abandoned {
            return;
        }
        self.take_back_asked = false;
        self.end_take_back(slot, out);
        self.settle(now, slot, out);
    }

    /// Something waits in a mailbox and can't be taken back now.
    pub(crate) fn take_back_failed(
        &mut self,
        now: Time,
        slot: usize,
        out: &mut VecDeque<Output<C>>,
    ) {
        if self.phase == Phase::Abandoned {
            return self.emptied(now, slot, out);
        }
        self.take_back_asked = false;
        self.retry_at = Some(now.saturating_add(RETRY_DELAY));
        self.settle(now, slot, out);
    }

    /// The backlog is empty, or its last share was accepted, or there is no time for it: the
    /// listener closes. Gives the requests that it can't answer any more.
    pub(crate) fn close(&mut self, out: &mut VecDeque<Output<C>>) -> Vec<(WorkerId, u32)> {
        let requests = match &mut self.phase {
            Phase::Closed | Phase::Abandoned => return Vec::new(),
            Phase::Opening { requests } => std::mem::take(requests),
            Phase::Open | Phase::Last => {
                out.push_back(Output::CloseListener { listener: self.id });
                Vec::new()
            }
        };
        self.phase = Phase::Closed;
        self.look_at = None;
        self.accepting = false;
        requests
    }

    /// An open listener accepts what its backlog holds, then closes.
    pub(crate) fn accept_last(&mut self, out: &mut VecDeque<Output<C>>) {
        self.phase = Phase::Last;
        self.hurry_moves(out);
        if self.is_direct() {
            return;
        }
        out.push_back(Output::AcceptLast { listener: self.id });
    }

    /// Closes the connections that nobody is left to serve: those at hand now, those in mailboxes
    /// as they are taken out.
    pub(crate) fn abandon(&mut self, out: &mut VecDeque<Output<C>>) {
        self.close(out);
        self.phase = Phase::Abandoned;
        self.retry_at = None;
        self.shed_report_at = None;
        self.abandoned += self.pending.len() as u64;
        out.extend(self.pending.drain(..).map(|(connection, _)| Output::Close { connection }));
        for slot in 0..self.mailboxes.len() {
            let mailbox = &self.mailboxes[slot];
            let asked = self.take_back_asked && mailbox.taking_back.is_some();
            if mailbox.waiting > 0 && !asked {
                out.push_back(Output::TakeBack { mailbox: self.mailbox_id(slot) });
            }
        }
    }

    /// Whether nothing is left in the mailboxes.
    pub(crate) fn is_empty(&self) -> bool {
        self.mailboxes.iter().all(|mailbox| mailbox.waiting == 0)
    }

    pub(crate) fn handle_timeout(&mut self, now: Time, out: &mut VecDeque<Output<C>>) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.proceed(now, out);
        }
        if self.shed_report_at.is_some_and(|at| at <= now) {
            self.shed_report_at = None;
            self.report_shed(now, out);
        }
        self.move_what_is_left(now, out);
        self.look(now, out);
        for slot in 0..self.mailboxes.len() {
            let mailbox = &mut self.mailboxes[slot];
            if mailbox.check_at.is_some_and(|at| at <= now) {
                mailbox.check_at = None;
                out.push_back(Output::Count { mailbox: self.mailbox_id(slot) });
            }
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        let checks = self.mailboxes.iter().filter_map(|mailbox| mailbox.check_at);
        let moves = self.next_move();
        let rare = [self.retry_at, self.shed_report_at, self.look_at, moves];
        checks.chain(rare.into_iter().flatten()).min()
    }

    /// Draws the conclusions from a change of `slot`'s mailbox.
    fn settle(&mut self, now: Time, slot: usize, out: &mut VecDeque<Output<C>>) {
        self.arm(now, slot);
        self.probe(slot, out);
        self.tell_policy(slot);
        self.proceed(now, out);
    }

    /// Does what can be done now with the connections at hand, and with those that can be had.
    pub(super) fn proceed(&mut self, now: Time, out: &mut VecDeque<Output<C>>) {
        self.place(now, out);
        self.take_back(now, out);
        self.update_accepting(out);
    }

    /// Starts the checks of a mailbox in which something waits, ends those of an empty one, and of
    /// one that is being taken back: they would take our own taking for the worker's.
    fn arm(&mut self, now: Time, slot: usize) {
        let mailbox = &mut self.mailboxes[slot];
        if mailbox.taking_back.is_some() {
            mailbox.check_at = None;
        } else if mailbox.waiting == 0 && !mailbox.stalled {
            mailbox.check_at = None;
            mailbox.strikes = 0;
        } else if mailbox.reader.is_some() && mailbox.check_at.is_none() {
            mailbox.check_at = Some(now.saturating_add(self.check_interval));
        }
    }

    /// Puts something into a stalled mailbox that is empty: nobody could tell otherwise when its
    /// worker takes again.
    fn probe(&mut self, slot: usize, out: &mut VecDeque<Output<C>>) {
        let mailbox_id = self.mailbox_id(slot);
        let mailbox = &mut self.mailboxes[slot];
        let empty = mailbox.waiting == 0 && mailbox.taking_back.is_none();
        if mailbox.stalled && empty && mailbox.probe == Probe::None {
            mailbox.probe = Probe::OnItsWay;
            out.push_back(Output::Probe { mailbox: mailbox_id });
        }
    }

    pub(super) fn tell_policy(&mut self, slot: usize) {
        let mailbox = &self.mailboxes[slot];
        let load = Load {
            can_take: mailbox.can_take(),
            weight: mailbox.weight,
            connections: mailbox.open.saturating_add(mailbox.waiting),
            ..Load::default()
        };
        self.policy.update(slot, load);
    }

    /// Puts pending connections into mailboxes as long as a slot can take.
    fn place(&mut self, now: Time, out: &mut VecDeque<Output<C>>) {
        while self.retry_at.is_none()
            && let Some(&(_, key)) = self.pending.front()
            && let Some(slot) = self.pick(now, key)
            && let Some((connection, key)) = self.pending.pop_front()
        {
            self.in_flight += 1;
            out.push_back(Output::Deliver { mailbox: self.mailbox_id(slot), connection, key });
        }
    }

    /// The policy's choice, or any slot that can take if a policy of the user's breaks its
    /// contract.
    fn pick(&mut self, now: Time, key: u64) -> Option<usize> {
        let choice = self.policy.pick(&Request::new(key).at(now));
        let can_take = |slot: &usize| self.mailboxes.get(*slot).is_some_and(Mailbox::can_take);
        choice.filter(can_take).or_else(|| (0..self.mailboxes.len()).find(can_take))
    }

    /// Takes back what waits for nobody, while somebody can take it: the next connection, once
    /// nothing else is on its way.
    fn take_back(&mut self, now: Time, out: &mut VecDeque<Output<C>>) {
        if self.take_back_asked || self.in_flight > 0 || self.phase == Phase::Abandoned {
            return;
        }
        let blocked = !self.pending.is_empty() || self.retry_at.is_some();
        let current = self.mailboxes.iter().position(|mailbox| mailbox.taking_back.is_some());
        if let Some(slot) = current {
            if blocked || !self.another_can_take(slot) {
                self.end_take_back(slot, out);
                self.settle(now, slot, out);
                return;
            }
            return self.ask_back(slot, out);
        }
        let forsaken = |slot: &usize| self.mailboxes[*slot].is_forsaken();
        let next =
            (0..self.mailboxes.len()).find(|slot| forsaken(slot) && self.another_can_take(*slot));
        if let Some(slot) = next.filter(|_| !blocked) {
            self.mailboxes[slot].taking_back = Some(0);
            self.arm(now, slot);
            self.tell_policy(slot);
            self.ask_back(slot, out);
        }
    }

    fn ask_back(&mut self, slot: usize, out: &mut VecDeque<Output<C>>) {
        self.take_back_asked = true;
        out.push_back(Output::TakeBack { mailbox: self.mailbox_id(slot) });
    }

    fn end_take_back(&mut self, slot: usize, out: &mut VecDeque<Output<C>>) {
        let connections = self.mailboxes[slot].taking_back.take().unwrap_or(0);
        self.mailboxes[slot].recount = self.mailboxes[slot].waiting > 0;
        if connections > 0 {
            out.push_back(Output::Event(Event::TakenBack { slot, connections }));
        }
    }

    fn report_shed(&mut self, now: Time, out: &mut VecDeque<Output<C>>) {
        if self.shed > 0 {
            let connections = std::mem::take(&mut self.shed);
            let address = self.address.clone();
            out.push_back(Output::Event(Event::Shed { address, connections }));
            self.shed_report_at = Some(now.saturating_add(SHED_INTERVAL));
        }
    }

    fn update_accepting(&mut self, out: &mut VecDeque<Output<C>>) {
        let on = matches!(self.phase, Phase::Open | Phase::Last)
            && !self.is_direct()
            && self.pending.is_empty()
            && self.retry_at.is_none()
            && self.mailboxes.iter().any(Mailbox::can_take);
        if on != self.accepting {
            self.accepting = on;
            out.push_back(Output::Accept { listener: self.id, on });
        }
    }

    fn another_can_take(&self, slot: usize) -> bool {
        self.mailboxes.iter().enumerate().any(|(other, m)| other != slot && m.can_take())
    }

    fn mailbox_id(&self, slot: usize) -> MailboxId {
        MailboxId { listener: self.id, slot }
    }
}
