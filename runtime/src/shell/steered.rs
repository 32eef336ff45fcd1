//! A listener with a socket for each slot, among which the kernel chooses.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use scheduler::PolicyKind;

use crate::address::Address;
use crate::bound::with_remedy;
use crate::listen::ListenOptions;
use crate::machine::SLOTS_MAX;
use crate::sys::{
    Board, SteerMeans, SteerPolicy, Steering, claim_tcp, claim_udp, join_tcp, join_udp,
};

/// The sockets of an address, and what steers connections to them.
#[derive(Debug)]
pub(super) struct Steered {
    steering: Steering,
    /// The first socket, until the first slot needs one.
    spare: Option<OwnedFd>,
    place: Place,
    /// Whether slots differ by weight.
    by_weight: bool,
}

/// Where all sockets are.
#[derive(Clone, Copy, Debug)]
struct Place {
    address: SocketAddr,
    is_udp: bool,
    backlog: i32,
    only_v6: Option<bool>,
}

/// What the kernel can do of this policy.
pub(super) fn steer_policy(kind: PolicyKind) -> Option<SteerPolicy> {
    match kind {
        PolicyKind::RoundRobin | PolicyKind::SmoothWeighted | PolicyKind::ClassicWeighted => {
            Some(SteerPolicy::RoundRobin)
        }
        PolicyKind::Random => Some(SteerPolicy::Random),
        PolicyKind::SourceHash => Some(SteerPolicy::SourceHash),
        PolicyKind::LeastConnections => Some(SteerPolicy::LeastConnections),
        _ => None,
    }
}

impl Steered {
    /// Claims the address; says the real one.
    pub(super) fn open(
        steering: Steering,
        address: &Address,
        options: &ListenOptions,
        backlog: u32,
        by_weight: bool,
    ) -> io::Result<(Steered, Address)> {
        let (asked, is_udp) = match address {
            Address::Tcp(address) => (*address, false),
            Address::Udp(address) => (*address, true),
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        let backlog = i32::try_from(options.backlog.unwrap_or(backlog)).unwrap_or(i32::MAX);
        let mut place = Place { address: asked, is_udp, backlog, only_v6: options.only_v6 };
        let spare: OwnedFd;
        (place.address, spare) = if is_udp {
            let socket = claim_udp(asked, place.only_v6).map_err(with_remedy)?;
            (socket.local_addr()?, socket.into())
        } else {
            let socket = claim_tcp(asked, backlog, place.only_v6).map_err(with_remedy)?;
            (socket.local_addr()?, socket.into())
        };
        let real = if is_udp { Address::Udp(place.address) } else { Address::Tcp(place.address) };
        Ok((Steered { steering, spare: Some(spare), place, by_weight }, real))
    }

    /// The board that the kernel reads, or one of its own.
    pub(super) fn board(&self) -> io::Result<Board> {
        match self.steering.board_fd() {
            Some(fd) => Board::of_map(fd.try_clone_to_owned()?, SLOTS_MAX),
            None => Board::new(SLOTS_MAX),
        }
    }

    /// The slot's socket, which it gets now if it has none.
    pub(super) fn socket_of(&mut self, slot: usize) -> io::Result<BorrowedFd<'_>> {
        if self.steering.socket(slot).is_none() {
            let socket = match self.spare.take() {
                Some(spare) => spare,
                None => self.place.join()?,
            };
            self.steering.add(slot, socket)?;
        }
        Ok(self.steering.socket(slot).ok_or(io::ErrorKind::NotFound)?)
    }

    /// From now on these slots get connections, by weight; those that have no socket get one.
    pub(super) fn steer(&mut self, shares: &[(usize, u32)]) -> io::Result<()> {
        let mut result = Ok(());
        let mut table = Vec::new();
        for (slot, weight) in shares {
            match self.socket_of(*slot) {
                Ok(_) => table.push((*slot, if self.by_weight { *weight } else { 1 })),
                // Its worker will not be told where to listen, for the same reason.
                Err(error) => result = Err(error),
            }
        }
        self.steering.set_table(&table).and(result)
    }

    /// Moves what waits at the slot's socket to the others, if the kernel can; else it stays, for
    /// the slot's next worker. Datagrams can't be moved.
    pub(super) fn reopen(&mut self, slot: usize) -> io::Result<()> {
        match self.steering.means() {
            SteerMeans::Ebpf if !self.place.is_udp => self.steering.remove(slot),
            SteerMeans::Ebpf | SteerMeans::Cbpf => Ok(()),
        }
    }

    /// Refuses clients from now on, though workers may still have the sockets.
    pub(super) fn close(mut self) {
        for slot in 0..SLOTS_MAX {
            if self.steering.socket(slot).is_some()
                && let Err(error) = self.steering.remove(slot)
            {
                tracing::error!(%error, slot, "a socket can't be closed");
            }
        }
    }
}

impl Place {
    fn join(&self) -> io::Result<OwnedFd> {
        if self.is_udp {
            Ok(join_udp(self.address, self.only_v6)?.into())
        } else {
            Ok(join_tcp(self.address, self.backlog, self.only_v6)?.into())
        }
    }
}
