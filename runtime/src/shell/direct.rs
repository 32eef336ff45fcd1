//! Listeners whose connections don't pass through the master.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use scheduler::PolicyKind;

use super::Master;
use super::connections::Opened;
use super::steered::{self, Steered};
use crate::address::Address;
use crate::event::WorkerId;
use crate::listen::{Dispatch, ListenOptions};
use crate::machine::{Counters, Input, Joined, ListenerId, MailboxId};
use crate::policy;
use crate::sys::{Cell, SteerMeans, Steering};

impl Master {
    /// What a worker gets when it joins a listener: where its connections come from, and where it
    /// counts them.
    pub(super) fn handles_for(
        &mut self,
        worker: WorkerId,
        joined: &Joined,
    ) -> io::Result<[OwnedFd; 2]> {
        let id = ListenerId(joined.listener);
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let source = match joined.dispatch {
            Dispatch::Auto | Dispatch::Handoff => {
                self.receiver(MailboxId { listener: id, slot: worker.slot })?
            }
            Dispatch::Shared => {
                self.listeners.get(&id).ok_or_else(gone)?.socket().try_clone_to_owned()?
            }
            Dispatch::Steered => {
                let steered = self.steered.get_mut(&id).ok_or_else(gone)?;
                steered.socket_of(worker.slot)?.try_clone_to_owned()?
            }
        };
        let board = self.boards.get(&id).ok_or_else(gone)?;
        Ok([source, board.fd().try_clone_to_owned()?])
    }

    /// Tells the machine what workers have counted, if its picks depend on it.
    pub(super) fn look_at_board(&mut self, listener: ListenerId) {
        let wanted = self.machine.wants_counters(listener);
        if wanted == 0 {
            return;
        }
        let Some(board) = self.boards.get(&listener) else { return };
        let slots = (0..wanted).map(|slot| {
            let Cell { taken, open, closed, lifetime_us } = board.read(slot);
            Counters { taken, open, closed, lifetime_us }
        });
        let slots = slots.collect();
        self.handle(Input::Counters { listener, slots });
    }

    /// Prepares the kernel to do what the policy says, or says why it can't.
    pub(super) fn try_steering(&self, address: &Address) -> Result<Steering, String> {
        if !matches!(address, Address::Tcp(_) | Address::Udp(_)) {
            return Err(format!("{address} can't be steered: only TCP and UDP ports can"));
        }
        let name = |kind: Option<PolicyKind>| kind.map_or("your own policy", PolicyKind::name);
        if self.peeking.is_some() {
            return Err("the kernel does not look into connections".to_owned());
        }
        let policy = self.config.policy.and_then(steered::steer_policy);
        let policy = policy.ok_or_else(|| {
            format!("the kernel can't be told to steer by {}", name(self.config.policy))
        })?;
        Steering::new(policy).map_err(|error| error.to_string())
    }

    /// Opens a listener whose connections are steered.
    pub(super) fn open_steered(
        &mut self,
        id: ListenerId,
        address: &Address,
        steering: Steering,
        options: &ListenOptions,
    ) -> io::Result<Opened> {
        let reason = match steering.means() {
            SteerMeans::Ebpf => None,
            SteerMeans::Cbpf => {
                Some("by a classic program: for eBPF, it takes CAP_BPF and Linux 5.14".to_owned())
            }
        };
        let by_weight = self.config.policy != Some(PolicyKind::RoundRobin);
        let backlog = self.config.backlog;
        let (steered, address) = Steered::open(steering, address, options, backlog, by_weight)?;
        self.boards.insert(id, Arc::new(steered.board()?));
        self.steered.insert(id, steered);
        Ok(Opened { address, dispatch: Dispatch::Steered, reason })
    }

    /// What comes nearest to a dispatch, if nothing is steered.
    pub(super) fn unsteered(&self, asked: Dispatch) -> Dispatch {
        match asked {
            Dispatch::Steered
                if self.peeking.is_none()
                    && self.config.policy.is_some_and(policy::is_rotation) =>
            {
                Dispatch::Shared
            }
            Dispatch::Auto | Dispatch::Steered => Dispatch::Handoff,
            Dispatch::Handoff | Dispatch::Shared => asked,
        }
    }

    pub(super) fn steer(&mut self, listener: ListenerId, shares: &[(usize, u32)]) {
        if let Some(steered) = self.steered.get_mut(&listener)
            && let Err(error) = steered.steer(shares)
        {
            tracing::error!(%error, "connections can't be steered");
        }
    }

    pub(super) fn reopen(&mut self, mailbox: MailboxId) {
        if let Some(steered) = self.steered.get_mut(&mailbox.listener)
            && let Err(error) = steered.reopen(mailbox.slot)
        {
            tracing::error!(%error, slot = mailbox.slot, "connections can't be moved");
        }
    }
}
