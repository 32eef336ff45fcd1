//! The programs that choose a socket in the kernel, and the memory that they share with us.
//!
//! A program runs once for each connection that is opened (each datagram of a UDP socket), and for
//! each that waited in the queue of a socket that has left the group. All of them take what they
//! choose from a table that says which slots get connections. When the slot has no socket, or the
//! table is empty, the kernel chooses by its own hash: never is anything refused.
//!
//! # Changing the table
//!
//! There are two tables: what is new is written to the one that is not in use, and then that one is
//! made the current one, by a single store. A program that read the number of the current table
//! just before may still be at it; only if it is not done by the change after the next, it reads a
//! mixture of two tables, and chooses a slot of either.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Relaxed, Release};

use super::bpf;
use super::insn::{Alu, Assembler, Helper, If, Insn, Label, Reg, Size};
use super::table::{self, Share};
use super::{SLOTS_MAX, SteerPolicy};
use crate::sys::board::{CELL_BYTES, OPEN_OFFSET, TAKEN_OFFSET};
use crate::sys::mapping::Mapping;
use Reg::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};
use Size::{U32, U64};

/// How many entries a table has room for: the length of a cycle of turns.
const ENTRIES_MAX: usize = 4096;
/// How many of them a hash is spread over: a prime number.
const BUCKETS: usize = 4093;

// The memory begins with:
/// `u64`: how many choices there were; says whose turn it is.
const NEXT: i16 = 0;
/// `u32`: which table is the current one, 0 or 1.
const CURRENT: i16 = 8;
/// `u32`: a second is two to the power of this, in nanoseconds.
const SECOND_LOG2: i16 = 12;
/// `u64`: the last second in which there was a choice.
const SECOND: i16 = 16;
/// Then for each slot:
/// `u32`: how many connections its worker had taken when it was last looked at;
const SEEN: i16 = 0;
/// `u32`: how many connections were sent to it that it has not taken yet, so far as we know.
const PENDING: i16 = 4;
const FLIGHT_BYTES: usize = 8;
const FLIGHTS: usize = 24;
// And then the two tables, each of which has:
/// `u32`: how many entries it has.
const ENTRIES_LEN: i16 = 0;
/// `u32`: how many members.
const MEMBERS_LEN: i16 = 4;
/// For each entry `u32`: a slot, or for least-connections, where to begin among the members.
const ENTRIES: i16 = 8;
/// For each member `u32`: its slot; `u32`: its weight.
const MEMBERS: i16 = ENTRIES + small(ENTRIES_MAX * 4);
const MEMBER_BYTES: usize = 8;
const TABLE_BYTES: usize = MEMBERS as usize + SLOTS_MAX * MEMBER_BYTES;
const TABLES: usize = FLIGHTS + SLOTS_MAX * FLIGHT_BYTES;
const MEMORY_BYTES: usize = TABLES + 2 * TABLE_BYTES;

/// Keeps a number that is a slot anyway, but for the verifier.
const SLOT_MASK: i32 = (small(SLOTS_MAX) - 1) as i32;
const _: () = assert!(SLOTS_MAX.is_power_of_two());

/// A number that is an offset, or an operand, in instructions.
#[expect(clippy::cast_possible_truncation, reason = "asserted")]
const fn small(number: usize) -> i16 {
    assert!(number <= i16::MAX as usize);
    number as i16
}

/// The size of a map, as the kernel takes it.
#[expect(clippy::cast_possible_truncation, reason = "asserted")]
const fn size(bytes: usize) -> u32 {
    assert!(bytes <= u32::MAX as usize);
    bytes as u32
}

/// A program that is loaded, and its memory.
#[derive(Debug)]
pub(super) struct Ebpf {
    policy: SteerPolicy,
    sockets: OwnedFd,
    memory: Mapping,
    board: Option<OwnedFd>,
    program: OwnedFd,
}

impl Ebpf {
    pub(super) fn new(policy: SteerPolicy) -> io::Result<Ebpf> {
        let sockets = bpf::socket_array(size(SLOTS_MAX))?;
        let memory = bpf::mappable_value(size(MEMORY_BYTES))?;
        let maps = [sockets.as_raw_fd(), memory.as_raw_fd()];
        let mut board = None;
        let insns = match policy {
            SteerPolicy::RoundRobin => round_robin(maps),
            SteerPolicy::Random => random(maps),
            SteerPolicy::SourceHash => source_hash(maps),
            SteerPolicy::LeastConnections => {
                let map = bpf::mappable_value(size(SLOTS_MAX * CELL_BYTES))?;
                least_connections(maps, board.insert(map).as_raw_fd())
            }
        };
        let program = bpf::load_program(&insns)?;
        let memory = Mapping::new(memory.as_fd(), MEMORY_BYTES)?;
        memory.u32_at(SECOND_LOG2 as usize).store(30, Relaxed);
        Ok(Ebpf { policy, sockets, memory, board, program })
    }

    /// The board that the program reads, if it does.
    pub(super) fn board(&self) -> Option<BorrowedFd<'_>> {
        self.board.as_ref().map(AsFd::as_fd)
    }

    /// Has the slot stand for this socket, and the program choose in its group.
    pub(super) fn add(&self, slot: usize, socket: BorrowedFd<'_>) -> io::Result<()> {
        let slot = u32::try_from(slot).map_err(io::Error::other)?;
        bpf::set_socket(self.sockets.as_fd(), slot, socket)?;
        bpf::attach(socket, self.program.as_fd())
    }

    /// Sets who gets connections from now on.
    pub(super) fn set_table(&self, shares: &[Share]) {
        let shares = table::reduced(shares, ENTRIES_MAX);
        let entries = match self.policy {
            SteerPolicy::RoundRobin | SteerPolicy::Random => {
                table::turns(&shares).into_iter().map(|index| shares[index].0).collect()
            }
            SteerPolicy::SourceHash => table::buckets(&shares, BUCKETS),
            SteerPolicy::LeastConnections => table::turns(&shares),
        };
        let current = self.memory.u32_at(CURRENT as usize);
        let next = (current.load(Relaxed) & 1) ^ 1;
        let table = TABLES + next as usize * TABLE_BYTES;
        let store = |offset: usize, number: usize| {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            self.memory.u32_at(table + offset).store(number, Relaxed);
        };
        for (index, entry) in entries.iter().enumerate() {
            store(ENTRIES as usize + index * 4, *entry);
        }
        for (index, (slot, weight)) in shares.iter().enumerate() {
            store(MEMBERS as usize + index * MEMBER_BYTES, *slot);
            store(MEMBERS as usize + index * MEMBER_BYTES + 4, *weight as usize);
        }
        store(ENTRIES_LEN as usize, entries.len());
        store(MEMBERS_LEN as usize, shares.len());
        // After everything in it. The program reads the table at an address that it computes from
        // this, so for it the order is the same.
        current.store(next, Release);
    }
}

/// The descriptors of the map of sockets and of that of our memory.
type Maps = [i32; 2];

/// The entries in turn.
fn round_robin(maps: Maps) -> Vec<Insn> {
    let mut asm = Assembler::default();
    let default = begin(&mut asm, maps);
    next_turn(&mut asm);
    select_entry(&mut asm, maps, default);
    asm.finish()
}

/// Any entry.
fn random(maps: Maps) -> Vec<Insn> {
    let mut asm = Assembler::default();
    let default = begin(&mut asm, maps);
    asm.call(Helper::GetPrandomU32);
    asm.mov(R2, R0);
    scale(&mut asm);
    select_entry(&mut asm, maps, default);
    asm.finish()
}

/// The entry that the hash of the source address falls on.
fn source_hash(maps: Maps) -> Vec<Insn> {
    /// `htons` of the numbers of the protocols, as the context has them.
    const IP: i32 = 0x0800u16.to_be() as i32;
    const IPV6: i32 = 0x86ddu16.to_be() as i32;
    const CONTEXT_PROTOCOL: i16 = 20;
    const CONTEXT_HASH: i16 = 32;
    const FROM_NETWORK_HEADER: i32 = 1;
    let mut asm = Assembler::default();
    let default = begin(&mut asm, maps);
    let (v4, load, no_address, hashed) = (asm.label(), asm.label(), asm.label(), asm.label());
    // Sixteen bytes at -16, of which an address of version 4 fills the first four.
    asm.mov(R1, 0);
    asm.store(U64, R10, -16, R1);
    asm.store(U64, R10, -8, R1);
    asm.load(U32, R1, R6, CONTEXT_PROTOCOL);
    asm.jump_if(If::Equal, R1, IP, v4);
    asm.jump_if(If::NotEqual, R1, IPV6, no_address);
    asm.mov(R2, 8);
    asm.mov(R4, 16);
    asm.jump(load);
    asm.place(v4);
    asm.mov(R2, 12);
    asm.mov(R4, 4);
    asm.place(load);
    asm.mov(R1, R6);
    asm.mov(R3, R10);
    asm.alu(Alu::Add, R3, -16);
    asm.mov(R5, FROM_NETWORK_HEADER);
    asm.call(Helper::SkbLoadBytesRelative);
    asm.jump_if(If::NotEqual, R0, 0, no_address);
    asm.load(U64, R2, R10, -16);
    mix(&mut asm);
    asm.load(U64, R1, R10, -8);
    asm.alu(Alu::Add, R2, R1);
    mix(&mut asm);
    asm.jump(hashed);
    // What waited in the queue of a socket that is gone has no packet any more.
    asm.place(no_address);
    asm.load(U32, R2, R6, CONTEXT_HASH);
    mix(&mut asm);
    asm.place(hashed);
    asm.alu(Alu::ShiftRight, R2, 32);
    scale(&mut asm);
    select_entry(&mut asm, maps, default);
    asm.finish()
}

/// The member with the fewest connections for its weight, of at most [`COMPARED_MAX`] from the one
/// on whose turn it is. Of equals it is the first.
///
/// A worker says on the board how many connections it has open. It learns of one only after it was
/// sent to it, and until then more would go the same way; so those that are on the way count too. A
/// worker takes them sooner or later, and also says how many it took. But some are never taken: a
/// client that does not answer, or one that was sent elsewhere. So that these don't add up, what is
/// on the way is halved each second.
fn least_connections(maps: Maps, board: i32) -> Vec<Insn> {
    let mut asm = Assembler::default();
    let default = begin(&mut asm, maps);
    let (each, found) = (asm.label(), asm.label());
    next_turn(&mut asm);
    entry(&mut asm, default);
    seconds(&mut asm);
    asm.store(U64, R10, CONTEXT, R6);
    // Worse than any: one connection for a weight of zero; and any slot. Without more privileges
    // than CAP_BPF, the verifier takes only the same knowledge of it on every path: none.
    asm.store(U64, R10, BEST_SLOT, R2);
    asm.mov(R1, 1);
    asm.store(U64, R10, BEST_LOAD, R1);
    asm.mov(R1, 0);
    asm.store(U64, R10, BEST_WEIGHT, R1);
    // R2 = the number of the member to begin with, R9 = the table. From here on R6 counts, R7 is
    // the number of the member before it is wrapped, R8 that of all.
    asm.mov(R7, R2);
    asm.mov(R6, 0);
    asm.load(U32, R8, R9, MEMBERS_LEN);
    // But for its ends the loop does not branch, as the verifier follows every path through it.
    asm.place(each);
    asm.jump_if(If::GreaterOrEqual, R6, COMPARED_MAX, found);
    asm.jump_if(If::GreaterOrEqual, R6, R8, found);
    member(&mut asm);
    load_of_slot(&mut asm, maps, board);
    keep_better(&mut asm);
    asm.alu(Alu::Add, R6, 1);
    asm.alu(Alu::Add, R7, 1);
    asm.jump(each);
    asm.place(found);
    asm.load(U64, R6, R10, CONTEXT);
    asm.load(U64, R2, R10, BEST_SLOT);
    asm.alu(Alu::And, R2, SLOT_MASK);
    flight(&mut asm, maps, R1);
    asm.mov(R3, 1);
    asm.fetch_add(U32, R1, PENDING, R3);
    select(&mut asm, maps, default);
    asm.finish()
}

/// How many members are compared at most, which bounds how long a program runs. Of so many, the
/// best is not worse than that of all by anything that matters.
const COMPARED_MAX: i32 = 64;

/// What is on the stack of this program: by how many bits to shift what is on the way; the best
/// member so far; the context.
const SHIFT: i16 = -16;
const BEST_SLOT: i16 = -24;
const BEST_LOAD: i16 = -32;
const BEST_WEIGHT: i16 = -40;
const CONTEXT: i16 = -48;

/// R2 = the slot of the member number R7, R3 = its weight.
fn member(asm: &mut Assembler) {
    // R1 = R7 < R8 ? R7 : R7 - R8
    asm.mov(R1, R7);
    asm.alu(Alu::Sub, R1, R8);
    asm.mov(R2, R1);
    asm.alu(Alu::ShiftRightSigned, R2, 63);
    asm.alu(Alu::And, R2, R8);
    asm.alu(Alu::Add, R1, R2);
    asm.alu(Alu::And, R1, SLOT_MASK);
    asm.alu(Alu::ShiftLeft, R1, 3);
    asm.mov(R4, R9);
    asm.alu(Alu::Add, R4, R1);
    asm.load(U32, R2, R4, MEMBERS);
    asm.alu(Alu::And, R2, SLOT_MASK);
    asm.load(U32, R3, R4, MEMBERS + 4);
}

/// Makes the slot R2 with the weight R3 and the load R4 the best if it is better than that.
fn keep_better(asm: &mut Assembler) {
    // Is R4 / R3 less than the best? With both multiplied by both weights, R5 is then negative,
    // and becomes all ones, else zero.
    asm.load(U64, R5, R10, BEST_WEIGHT);
    asm.alu(Alu::Mul, R5, R4);
    asm.load(U64, R1, R10, BEST_LOAD);
    asm.alu(Alu::Mul, R1, R3);
    asm.alu(Alu::Sub, R5, R1);
    asm.alu(Alu::ShiftRightSigned, R5, 63);
    for (best, candidate) in [(BEST_SLOT, R2), (BEST_WEIGHT, R3), (BEST_LOAD, R4)] {
        asm.load(U64, R1, R10, best);
        asm.alu(Alu::Xor, candidate, R1);
        asm.alu(Alu::And, candidate, R5);
        asm.alu(Alu::Xor, R1, candidate);
        asm.store(U64, R10, best, R1);
    }
}

/// R4 = the open connections of the slot R2 and those that are on the way to it. Keeps R3.
fn load_of_slot(asm: &mut Assembler, maps: Maps, board: i32) {
    asm.map_value(R4, board, 0);
    asm.mov(R5, R2);
    asm.alu(Alu::Mul, R5, i32::from(small(CELL_BYTES)));
    asm.alu(Alu::Add, R4, R5);
    asm.load(U32, R5, R4, small(TAKEN_OFFSET));
    asm.load(U32, R4, R4, small(OPEN_OFFSET));
    // R5 = how many it took since it was last looked at; the counter wraps.
    flight(asm, maps, R1);
    asm.load(U32, R0, R1, SEEN);
    asm.store(U32, R1, SEEN, R5);
    asm.alu(Alu::Sub32, R5, R0);
    // R0 = max(0, pending - taken) >> shift, without a branch for the verifier to follow.
    asm.load(U32, R0, R1, PENDING);
    asm.alu(Alu::Sub, R0, R5);
    asm.mov(R5, R0);
    asm.alu(Alu::ShiftRightSigned, R5, 63);
    asm.alu(Alu::Xor, R5, -1);
    asm.alu(Alu::And, R0, R5);
    asm.load(U64, R5, R10, SHIFT);
    asm.alu(Alu::ShiftRight, R0, R5);
    asm.store(U32, R1, PENDING, R0);
    asm.alu(Alu::Add, R4, R0);
}

/// `dst` = where what is on the way to the slot R2 is counted; needs R2 in range.
fn flight(asm: &mut Assembler, maps: Maps, dst: Reg) {
    asm.map_value(dst, maps[1], size(FLIGHTS));
    asm.mov(R0, R2);
    asm.alu(Alu::ShiftLeft, R0, 3);
    asm.alu(Alu::Add, dst, R0);
}

/// Stores how many seconds have passed since the last choice, at most 31, on the stack.
fn seconds(asm: &mut Assembler) {
    let few = asm.label();
    asm.mov(R7, R2);
    asm.call(Helper::KtimeGetNs);
    asm.mov(R2, R7);
    asm.load(U32, R1, R8, SECOND_LOG2);
    asm.alu(Alu::ShiftRight, R0, R1);
    asm.load(U64, R3, R8, SECOND);
    asm.store(U64, R8, SECOND, R0);
    asm.alu(Alu::Sub, R0, R3);
    asm.jump_if(If::Less, R0, 32, few);
    asm.mov(R0, 31);
    asm.place(few);
    asm.store(U64, R10, SHIFT, R0);
}

/// What each program begins with: R6 = the context, R8 = our memory, R9 = the current table, R7 =
/// how many entries it has. Returns where to go when nothing can be chosen.
fn begin(asm: &mut Assembler, maps: Maps) -> Label {
    let default = asm.label();
    asm.mov(R6, R1);
    asm.map_value(R8, maps[1], 0);
    asm.load(U32, R1, R8, CURRENT);
    asm.alu(Alu::And, R1, 1);
    asm.alu(Alu::Mul, R1, i32::from(small(TABLE_BYTES)));
    asm.map_value(R9, maps[1], size(TABLES));
    asm.alu(Alu::Add, R9, R1);
    asm.load(U32, R7, R9, ENTRIES_LEN);
    asm.jump_if(If::Equal, R7, 0, default);
    default
}

/// R2 = the number of the entry whose turn it is.
///
/// Not every packet opens a connection: the last one of a connection that the kernel has forgotten
/// (it keeps so many in TIME-WAIT) comes here, too, and is refused by whatever socket it gets. It
/// takes nobody's turn, but is not left to the kernel: with SYN cookies, an ACK may open one.
fn next_turn(asm: &mut Assembler) {
    const CONTEXT_DATA: i16 = 0;
    const CONTEXT_DATA_END: i16 = 8;
    const CONTEXT_IP_PROTOCOL: i16 = 24;
    /// In a TCP header: the word with the flags, and SYN in it.
    const FLAGS: i16 = 12;
    const SYN: i32 = i32::from_ne_bytes([0, 0x02, 0, 0]);
    let (turn, chosen) = (asm.label(), asm.label());
    asm.load(U32, R1, R6, CONTEXT_IP_PROTOCOL);
    asm.jump_if(If::NotEqual, R1, libc::IPPROTO_TCP, turn);
    asm.load(U64, R2, R6, CONTEXT_DATA);
    asm.load(U64, R3, R6, CONTEXT_DATA_END);
    asm.mov(R1, R2);
    asm.alu(Alu::Add, R1, i32::from(FLAGS) + 4);
    // What waited in the queue of a socket that is gone has no packet any more.
    asm.jump_if(If::Less, R3, R1, turn);
    asm.load(U32, R1, R2, FLAGS);
    asm.alu(Alu::And, R1, SYN);
    asm.jump_if(If::NotEqual, R1, 0, turn);
    asm.load(U64, R2, R8, NEXT);
    asm.jump(chosen);
    asm.place(turn);
    asm.mov(R2, 1);
    asm.fetch_add(U64, R8, NEXT, R2);
    asm.place(chosen);
    asm.alu(Alu::Mod, R2, R7);
}

/// R2 = the number of the entry that the 32 bits of R2 fall on when they stand for a fraction.
fn scale(asm: &mut Assembler) {
    asm.alu(Alu::Mul, R2, R7);
    asm.alu(Alu::ShiftRight, R2, 32);
}

/// Spreads R2 over all its bits: the finalizer of SplitMix64, short of its last step.
fn mix(asm: &mut Assembler) {
    for (shift, factor) in [(30, 0xbf58_476d_1ce4_e5b9), (27, 0x94d0_49bb_1331_11eb)] {
        asm.mov(R1, R2);
        asm.alu(Alu::ShiftRight, R1, shift);
        asm.alu(Alu::Xor, R2, R1);
        asm.wide(R1, factor);
        asm.alu(Alu::Mul, R2, R1);
    }
}

/// R2 = the entry of that number.
fn entry(asm: &mut Assembler, default: Label) {
    // Never so, but for the verifier.
    asm.jump_if(If::GreaterOrEqual, R2, i32::from(small(ENTRIES_MAX)), default);
    asm.alu(Alu::ShiftLeft, R2, 2);
    asm.mov(R1, R9);
    asm.alu(Alu::Add, R1, R2);
    asm.load(U32, R2, R1, ENTRIES);
}

/// Ends a program: selects the slot in the entry number R2.
fn select_entry(asm: &mut Assembler, maps: Maps, default: Label) {
    entry(asm, default);
    select(asm, maps, default);
}

/// Ends a program: selects the slot R2.
fn select(asm: &mut Assembler, maps: Maps, default: Label) {
    const SK_PASS: i32 = 1;
    const KEY: i16 = -4;
    asm.store(U32, R10, KEY, R2);
    asm.mov(R1, R6);
    asm.map(R2, maps[0]);
    asm.mov(R3, R10);
    asm.alu(Alu::Add, R3, i32::from(KEY));
    asm.mov(R4, 0);
    // When it fails nothing is selected, and the kernel does.
    asm.call(Helper::SkSelectReuseport);
    asm.place(default);
    asm.mov(R0, SK_PASS);
    asm.exit();
}

#[cfg(test)]
mod tests;
