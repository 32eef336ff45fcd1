//! Listening sockets that share an address, one a slot, among which the kernel chooses as we say.
//!
//! With `SO_REUSEPORT` each slot has a socket of its own, with a queue of its own, and the sockets
//! of an address make up a group. A program that is attached to the group says which socket gets a
//! connection that is opened, before anybody is woken. As the program lives in the kernel, it goes
//! on when the master is gone.

mod bpf;
mod cbpf;
mod ebpf;
mod insn;
mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, setsockopt, shutdown, socket, sockopt,
};

use ebpf::Ebpf;
use table::Share;

use crate::machine::SLOTS_MAX;

/// How the kernel chooses among the slots, each by its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SteerPolicy {
    /// In turn, spread evenly over time.
    RoundRobin,
    Random,
    /// By the address of the client, so that a client stays with a slot; when the slots change,
    /// most clients stay where they are.
    SourceHash,
    /// The slot whose worker has the fewest connections open, as it says on the board, and on the
    /// way to it.
    LeastConnections,
}

/// By which means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SteerMeans {
    /// An eBPF program; loading it takes a privilege (`CAP_BPF`). What waits in the queue of a
    /// socket that leaves goes to the other sockets.
    Ebpf,
    /// A classic program, for which it takes none, and which knows only some policies. What waits
    /// in the queue of a socket that leaves is lost (its connections are reset), unless the system
    /// is set to move it (`net.ipv4.tcp_migrate_req`).
    Cbpf,
}

/// The group of an address: the sockets of its slots and the choice between them.
///
/// There are up to [`SLOTS_MAX`] slots. Until a table is set, and while it is empty, the kernel
/// chooses any socket of the group by its own hash; so it does when the slot that is chosen has no
/// socket.
#[derive(Debug)]
pub(crate) struct Steering {
    policy: SteerPolicy,
    /// `None`: classic programs, made for each table and each set of members.
    ebpf: Option<Ebpf>,
    /// In the order of the group, by which classic programs number them: the order in which they
    /// came, but when one leaves, the last takes its place.
    members: Vec<Member>,
    shares: Vec<Share>,
}

#[derive(Debug)]
struct Member {
    slot: usize,
    socket: OwnedFd,
}

impl Steering {
    /// Prepares the choice; the sockets are yet to come.
    ///
    /// # Errors
    ///
    /// When the policy takes an eBPF program that can't be loaded, or the system has no such groups
    /// at all.
    pub(crate) fn new(policy: SteerPolicy) -> io::Result<Steering> {
        let steering = |ebpf| Steering { policy, ebpf, members: Vec::new(), shares: Vec::new() };
        match (Ebpf::new(policy), policy) {
            (Ok(ebpf), _) => Ok(steering(Some(ebpf))),
            (Err(_), SteerPolicy::Random | SteerPolicy::SourceHash) => {
                assert_classic()?;
                Ok(steering(None))
            }
            (Err(error), SteerPolicy::RoundRobin | SteerPolicy::LeastConnections) => {
                let remedy = match error.raw_os_error() {
                    Some(libc::EPERM | libc::EACCES) => "; it takes CAP_BPF",
                    Some(libc::EINVAL) => "; it takes Linux 5.14",
                    _ => "",
                };
                Err(io::Error::new(error.kind(), format!("bpf(2): {error}{remedy}")))
            }
        }
    }

    pub(crate) fn means(&self) -> SteerMeans {
        if self.ebpf.is_some() { SteerMeans::Ebpf } else { SteerMeans::Cbpf }
    }

    /// The memory of the board that the kernel reads, of [`SLOTS_MAX`] cells, if the policy does:
    /// for `Board::of_map` and `CellWriter::map`.
    pub(crate) fn board_fd(&self) -> Option<BorrowedFd<'_>> {
        self.ebpf.as_ref()?.board()
    }

    /// The slot's socket.
    pub(crate) fn socket(&self, slot: usize) -> Option<BorrowedFd<'_>> {
        let member = self.members.iter().find(|member| member.slot == slot)?;
        Some(member.socket.as_fd())
    }

    /// Gives a slot its socket, which has just begun to listen (or was bound, with UDP), and had
    /// `SO_REUSEPORT` before. One that the slot had already leaves, as in [`remove`](Self::remove).
    ///
    /// It gets connections once the slot is in the table. With [`SteerMeans::Cbpf`] no socket may
    /// join the group otherwise, and they must be added in the order in which they joined.
    ///
    /// # Panics
    ///
    /// When the slot is [`SLOTS_MAX`] or more.
    pub(crate) fn add(&mut self, slot: usize, socket: OwnedFd) -> io::Result<()> {
        assert!(slot < SLOTS_MAX, "slot {slot}, there are {SLOTS_MAX} at most");
        if let Some(ebpf) = &self.ebpf {
            ebpf.add(slot, socket.as_fd())?;
        }
        let former = self.members.iter().position(|member| member.slot == slot);
        self.members.push(Member { slot, socket });
        if let Some(former) = former {
            self.leave(former);
        }
        self.attach_classic()
    }

    /// Takes a slot out of the table, and its socket out of the group.
    ///
    /// A listening socket leaves whoever else has it: for them `accept` fails from then on
    /// (`EINVAL`). A UDP socket leaves when the last descriptor of it is closed; with
    /// [`SteerMeans::Cbpf`] that must be the one here.
    pub(crate) fn remove(&mut self, slot: usize) -> io::Result<()> {
        self.shares.retain(|share| share.0 != slot);
        self.publish()?;
        if let Some(member) = self.members.iter().position(|member| member.slot == slot) {
            self.leave(member);
            self.attach_classic()?;
        }
        Ok(())
    }

    /// Sets which slots get connections from now on, and their weights; the others get none, but
    /// keep what waits in their queues.
    ///
    /// Weights are exact when, in smallest terms, they add up to 4096 at most, else approximate.
    ///
    /// # Panics
    ///
    /// When a slot is [`SLOTS_MAX`] or more, or there are more than that.
    pub(crate) fn set_table(&mut self, shares: &[(usize, u32)]) -> io::Result<()> {
        assert!(shares.len() <= SLOTS_MAX && shares.iter().all(|share| share.0 < SLOTS_MAX));
        self.shares = shares.to_vec();
        self.publish()
    }

    fn publish(&self) -> io::Result<()> {
        match &self.ebpf {
            Some(ebpf) => {
                ebpf.set_table(&self.shares);
                Ok(())
            }
            None => self.attach_classic(),
        }
    }

    fn leave(&mut self, member: usize) {
        let socket = self.members.swap_remove(member).socket;
        // Not connected, a UDP socket says that it can't be shut down; it need not be.
        let _ = shutdown(socket.as_raw_fd(), Shutdown::Read);
    }

    /// Attaches the classic program for the table and the members as they are, if it is by these
    /// means and there are members.
    fn attach_classic(&self) -> io::Result<()> {
        /// How many buckets a hash is spread over: a prime number. A program of so many different
        /// indices is within the limit of 4096 instructions.
        const BUCKETS: usize = 1021;
        const TOTAL_MAX: usize = 1 << 20;
        let (None, Some(any)) = (&self.ebpf, self.members.first()) else { return Ok(()) };
        let index = |slot| {
            let index = self.members.iter().position(|member| member.slot == slot)?;
            u32::try_from(index).ok()
        };
        let shares = self.shares.iter().copied();
        let shares: Vec<Share> = shares.filter(|share| index(share.0).is_some()).collect();
        let program = if self.policy == SteerPolicy::SourceHash {
            // Buckets are owned by slots, which stay when indices change.
            let owners = table::buckets(&table::reduced(&shares, BUCKETS), BUCKETS);
            cbpf::source_hash(&owners.into_iter().filter_map(index).collect::<Vec<_>>())
        } else {
            let shares = table::reduced(&shares, TOTAL_MAX).into_iter();
            let weights = shares.filter_map(|(slot, weight)| Some((index(slot)?, weight)));
            cbpf::random(&weights.collect::<Vec<_>>())
        };
        bpf::attach_classic(any.socket.as_fd(), &program)
    }
}

/// Finds out whether this system knows classic programs that choose.
fn assert_classic() -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    bpf::attach_classic(socket.as_fd(), &cbpf::random(&[]))
}
