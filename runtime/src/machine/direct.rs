//! Listeners whose connections reach workers without passing through the master: the kernel picks,
//! the machine tells it among whom.
//!
//! A slot's mailbox is then only the place where its reader is noted. Nothing is ever put in.

use std::collections::VecDeque;

use super::dispatch::{Balancer, Phase};
use super::{MailboxId, Output, ToWorker};
use crate::listen::Dispatch;

impl<C> Balancer<C> {
    /// Whether the kernel dispatches.
    pub(crate) fn is_direct(&self) -> bool {
        match self.mode {
            Dispatch::Shared | Dispatch::Steered => true,
            Dispatch::Auto | Dispatch::Handoff => false,
        }
    }

    /// Whether it is open only for what its workers find in the backlog.
    pub(crate) fn is_left_to_workers(&self) -> bool {
        self.phase == Phase::Last && self.is_direct()
    }

    /// A worker came; `gone`: or the one of this slot left.
    pub(super) fn readers_changed(&self, gone: Option<usize>, out: &mut VecDeque<Output<C>>) {
        if !matches!(self.phase, Phase::Open | Phase::Last) {
            return;
        }
        match self.mode {
            Dispatch::Auto | Dispatch::Handoff => {}
            Dispatch::Shared => {
                if let Some(slot) = gone {
                    self.pass_on(slot, out);
                }
            }
            Dispatch::Steered => {
                let shares = self.readers().map(|(slot, _, weight)| (slot, weight)).collect();
                out.push_back(Output::Steer { listener: self.id(), shares });
            }
        }
    }

    /// The worker in `slot` may have been woken for a connection that it does not take: another one
    /// shall look, since the kernel wakes nobody else for it.
    pub(super) fn pass_on(&self, slot: usize, out: &mut VecDeque<Output<C>>) {
        if self.mode != Dispatch::Shared {
            return;
        }
        let others = || self.readers().filter(|(other, ..)| *other != slot);
        let next = others().find(|(other, ..)| *other > slot).or_else(|| others().next());
        if let Some((_, worker, _)) = next {
            let message = ToWorker::Look { listener: self.id().0 };
            out.push_back(Output::Tell { worker, message });
        }
    }

    /// The worker in `slot` takes no more: what the kernel had queued for it goes to the others, if
    /// there are any; else it waits for the successor.
    pub(super) fn vacated(&self, slot: usize, out: &mut VecDeque<Output<C>>) {
        let is_open = matches!(self.phase, Phase::Open | Phase::Last);
        if self.mode == Dispatch::Steered && is_open && self.readers().next().is_some() {
            out.push_back(Output::Reopen { mailbox: MailboxId { listener: self.id(), slot } });
        }
    }
}
