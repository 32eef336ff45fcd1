//! Sockets that a worker opens for itself, with no master asked and none that would keep them.

use std::io;
use std::sync::Arc;

use super::Worker;
use super::intake::Intake;
use super::listener::Listener;
use crate::address::Address;
use crate::bound::Bound;
use crate::listen::{BACKLOG_CONNECTIONS, ListenOptions};

impl Worker {
    pub(super) fn listen_alone(
        &self,
        address: &Address,
        options: &ListenOptions,
    ) -> io::Result<Listener> {
        let (socket, address) = open(address, options)?;
        let control = Arc::clone(&self.control);
        let intake = Intake::own(Arc::clone(&control), socket, address);
        Ok(Listener::new(control, intake))
    }
}

/// Binds a socket, and listens with it; says the real address.
pub(super) fn open(address: &Address, options: &ListenOptions) -> io::Result<(Bound, Address)> {
    Bound::open(address, options, BACKLOG_CONNECTIONS)
        .map_err(|error| io::Error::new(error.kind(), format!("listen on {address}: {error}")))
}
