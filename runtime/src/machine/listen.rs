//! What workers listen on: one listener for each address, shared by all that ask for it.

use super::dispatch::{Balancer, Phase};
use super::slot::{Life, Stimulus};
use super::{
    Joined, LISTENERS_MAX, ListenFailure, ListenerId, Machine, Output, Stage, Time, ToWorker,
};
use crate::address::Address;
use crate::event::{Event, WorkerId};
use crate::listen::{Dispatch, ListenOptions};
use crate::sys::{EADDRINUSE, EDQUOT, ENOTCONN};

const STOPS: &str = "the worker shall stop";
const TWICE: &str = "this worker listens there already: close that listener first";

impl<C> Machine<C> {
    pub(super) fn listen(
        &mut self,
        now: Time,
        worker: WorkerId,
        request: u32,
        index: u16,
        options: ListenOptions,
        address: Address,
    ) {
        if self.stage != Stage::Running {
            return self.refuse(worker, request, ENOTCONN, STOPS);
        }
        let key = (address.clone(), index);
        // By the address that was asked for, or by the real one of a listener on port 0.
        let open = || self.listeners.iter().find(|(_, other)| other.is_open_at(&address));
        let known = self.keys.get(&key).copied().or_else(|| open().map(|(listener, _)| *listener));
        if let Some(listener) = known {
            return self.join(now, worker, request, listener);
        }
        if self.keys.len() >= LISTENERS_MAX {
            let reason = format!(
                "the cluster has {LISTENERS_MAX} addresses, which is the most, and keeps each of \
                 them until it ends: listen on one of those"
            );
            return self.refuse(worker, request, EDQUOT, reason);
        }
        let listener = ListenerId(self.next_listener);
        self.next_listener += 1;
        let mut dispatch = Balancer::new(
            listener,
            address.clone(),
            (self.policy)(),
            &self.config.weights,
            self.config.stall_timeout,
        );
        dispatch.phase = Phase::Opening { requests: vec![(worker, request)] };
        self.keys.insert(key, listener);
        self.listeners.insert(listener, dispatch);
        let dispatch = match options.dispatch.unwrap_or(self.config.dispatch) {
            Dispatch::Auto => self.config.dispatch_auto,
            asked => asked,
        };
        self.output.push_back(Output::OpenListener { listener, address, dispatch, options });
    }

    /// A worker wants a listener that another one has asked for already.
    fn join(&mut self, now: Time, worker: WorkerId, request: u32, listener: ListenerId) {
        let Some(dispatch) = self.listeners.get_mut(&listener) else { return };
        if dispatch.is_read_by(worker) {
            return self.refuse(worker, request, EADDRINUSE, TWICE);
        }
        match &mut dispatch.phase {
            Phase::Opening { requests } if requests.iter().any(|(other, _)| *other == worker) => {
                self.refuse(worker, request, EADDRINUSE, TWICE);
            }
            Phase::Opening { requests } => requests.push((worker, request)),
            Phase::Open => self.attach(now, worker, request, listener),
            Phase::Last | Phase::Closed | Phase::Abandoned => {
                self.refuse(worker, request, ENOTCONN, STOPS)
            }
        }
    }

    fn attach(&mut self, now: Time, worker: WorkerId, request: u32, listener: ListenerId) {
        let Some(slot) = self.live(worker).filter(|slot| slot.life.is_heard()) else { return };
        if slot.life == Life::Draining {
            return self.refuse(worker, request, ENOTCONN, STOPS);
        }
        slot.apply(Stimulus::Attach, None);
        let Some(dispatch) = self.listeners.get_mut(&listener) else { return };
        let address = dispatch.address.clone();
        let weight = self.config.weights.get(worker.slot).copied().unwrap_or(1);
        let joined = Joined {
            listener: listener.0,
            dispatch: dispatch.mode,
            weight: if self.config.rotates_by_weight { weight } else { weight.min(1) },
            address: address.clone(),
        };
        let message = ToWorker::Listening { request, result: Ok(joined) };
        let answer = Output::Tell { worker, message };
        if dispatch.mode == Dispatch::Steered {
            // The kernel first: who hears the answer may count on the next connection.
            dispatch.attach(now, worker, &mut self.output);
            self.output.push_back(answer);
        } else {
            // What waits goes into a mailbox that the answer makes.
            self.output.push_back(answer);
            dispatch.attach(now, worker, &mut self.output);
        }
        // When this is heard, the kernel has been told.
        self.output.push_back(Output::Event(Event::Listening { worker, address }));
        self.worked = true;
    }

    fn refuse(&mut self, worker: WorkerId, request: u32, errno: i32, reason: impl Into<String>) {
        if self.live(worker).is_none() {
            return;
        }
        let failure = ListenFailure { errno, reason: reason.into() };
        let message = ToWorker::Listening { request, result: Err(failure) };
        self.output.push_back(Output::Tell { worker, message });
    }

    pub(super) fn listener_opened(
        &mut self,
        now: Time,
        listener: ListenerId,
        address: Address,
        mode: Dispatch,
        reason: Option<String>,
    ) {
        let Some(dispatch) = self.listeners.get_mut(&listener) else { return };
        match &mut dispatch.phase {
            Phase::Opening { requests } => {
                let requests = std::mem::take(requests);
                dispatch.phase = Phase::Open;
                dispatch.address = address.clone();
                dispatch.mode = mode;
                let policy = dispatch.policy_name(mode, &address);
                let event = Event::Opened { address, dispatch: mode, policy, reason };
                self.output.push_back(Output::Event(event));
                for (worker, request) in requests {
                    self.attach(now, worker, request, listener);
                }
            }
            // The cluster began to stop meanwhile.
            Phase::Closed | Phase::Abandoned => {
                self.output.push_back(Output::CloseListener { listener });
            }
            Phase::Open | Phase::Last => {}
        }
    }

    pub(super) fn listener_failed(&mut self, listener: ListenerId, errno: i32, reason: String) {
        let Some(dispatch) = self.listeners.get_mut(&listener) else { return };
        let Phase::Opening { requests } = &mut dispatch.phase else { return };
        let requests = std::mem::take(requests);
        let error = format!("{}: {reason}", dispatch.address);
        dispatch.abandon(&mut self.output);
        // The key is free again: another worker, or the same one, may try later.
        self.listeners.remove(&listener);
        self.keys.retain(|_, id| *id != listener);
        for (worker, request) in requests {
            if self.live(worker).is_some() {
                let error = error.clone();
                self.output.push_back(Output::Event(Event::ListenFailed { worker, error }));
                self.refuse(worker, request, errno, reason.clone());
            }
        }
    }

    pub(super) fn close_listener(&mut self, listener: ListenerId) {
        let Some((dispatch, out)) = self.dispatch(listener) else { return };
        for (worker, request) in dispatch.close(out) {
            self.refuse(worker, request, ENOTCONN, STOPS);
        }
    }

    /// Closes the listeners but those whose workers take the rest themselves.
    pub(super) fn close_accepting_listeners(&mut self) {
        let closes = |(id, d): (&ListenerId, &Balancer<C>)| {
            (!(d.is_left_to_workers() && d.has_reader())).then_some(*id)
        };
        for listener in self.listeners.iter().filter_map(closes).collect::<Vec<_>>() {
            self.close_listener(listener);
        }
    }
}
