//! Listeners whose connections don't pass through the master.

use std::io;
use std::os::fd::OwnedFd;

use super::Master;
use crate::event::WorkerId;
use crate::listen::Dispatch;
use crate::machine::{Counters, Input, Joined, ListenerId, MailboxId};
use crate::sys::Cell;

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
            Dispatch::Shared | Dispatch::Steered => {
                self.listeners.get(&id).ok_or_else(gone)?.socket().try_clone_to_owned()?
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

    pub(super) fn steer(&mut self, _listener: ListenerId, _shares: &[(usize, u32)]) {}

    pub(super) fn reopen(&mut self, _mailbox: MailboxId) {}
}
