//! Classic programs: without memory of their own, so by chance or by where something comes from.
//! They need no privilege.
//!
//! A program returns the index of a socket in its group, and holds all that it knows in its
//! instructions. An index that there is not makes the kernel choose by its own hash.

use libc::sock_filter;

/// Instructions, whose codes are combinations of the constants of `linux/filter.h`.
const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const TO_X: u32 = libc::BPF_MISC | libc::BPF_TAX;
const MUL: u32 = libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K;
const MOD: u32 = libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K;
const SHIFT_RIGHT: u32 = libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K;
const XOR_X: u32 = libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_GREATER_OR_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// An index that no group has.
const NOBODY: u32 = u32::MAX;

/// A range of numbers from here to the next range's, and the index that it stands for.
type Range = (u32, u32);

/// Chooses by chance: each index in proportion to its weight.
///
/// # Panics
///
/// When the weights add up to more than a `u32`.
pub(super) fn random(weights: &[(u32, u32)]) -> Vec<sock_filter> {
    let mut total = 0u32;
    let mut ranges = Vec::new();
    for (index, weight) in weights {
        ranges.push((total, *index));
        total = total.checked_add(*weight).expect("weights are reduced");
    }
    let mut program = Vec::new();
    if total > 0 {
        program.push(load(LOAD_WORD, libc::SKF_AD_OFF + libc::SKF_AD_RANDOM));
        program.push(insn(MOD, total));
    }
    choose(&ranges, &mut program);
    program
}

/// Chooses by the source address of what arrives: its hash falls into a bucket, and the bucket
/// stands for an index.
pub(super) fn source_hash(buckets: &[u32]) -> Vec<sock_filter> {
    let mut program = Vec::new();
    if !buckets.is_empty() {
        // The version is in the upper half of the first byte of the network header.
        program.push(load(LOAD_BYTE, libc::SKF_NET_OFF));
        program.push(insn(SHIFT_RIGHT, 4));
        let v4 = [load(LOAD_WORD, libc::SKF_NET_OFF + 12)];
        let mut v6 = vec![load(LOAD_WORD, libc::SKF_NET_OFF + 8)];
        for offset in [12, 16, 20] {
            mix(&mut v6);
            v6.push(insn(TO_X, 0));
            v6.push(load(LOAD_WORD, libc::SKF_NET_OFF + offset));
            v6.push(insn(XOR_X, 0));
        }
        // If it is 6, the instructions for 4 and the jump after them are passed over.
        program.push(jump_if(IF_EQUAL, 6, 2, 0));
        program.extend(v4);
        program.push(insn(JUMP, u32::try_from(v6.len()).expect("it is short")));
        program.append(&mut v6);
        mix(&mut program);
        mix(&mut program);
        program.push(insn(MOD, u32::try_from(buckets.len()).expect("buckets are few")));
    }
    let mut ranges: Vec<Range> = Vec::new();
    for (bucket, index) in (0..).zip(buckets) {
        if ranges.last().is_none_or(|last| last.1 != *index) {
            ranges.push((bucket, *index));
        }
    }
    choose(&ranges, &mut program);
    program
}

/// Spreads what is in the accumulator over all its bits: a multiplication carries upwards, and the
/// upper half comes back to the lower.
fn mix(program: &mut Vec<sock_filter>) {
    program.push(insn(MUL, 0x9e37_79b1));
    program.push(insn(TO_X, 0));
    program.push(insn(SHIFT_RIGHT, 15));
    program.push(insn(XOR_X, 0));
}

/// Returns the index of the range that the accumulator is in, by halving.
fn choose(ranges: &[Range], program: &mut Vec<sock_filter>) {
    match ranges {
        [] => program.push(insn(RETURN, NOBODY)),
        [(_, index)] => program.push(insn(RETURN, *index)),
        _ => {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            // A conditional jump reaches only 255 instructions.
            program.push(jump_if(IF_GREATER_OR_EQUAL, right[0].0, 0, 1));
            let jump = program.len();
            program.push(insn(JUMP, 0));
            choose(left, program);
            program[jump].k = u32::try_from(program.len() - jump - 1).expect("it is short");
            choose(right, program);
        }
    }
}

fn insn(code: u32, number: u32) -> sock_filter {
    jump_if(code, number, 0, 0)
}

fn load(code: u32, offset: i32) -> sock_filter {
    insn(code, offset.cast_unsigned())
}

fn jump_if(code: u32, number: u32, if_true: u8, if_false: u8) -> sock_filter {
    let code = u16::try_from(code).expect("codes have 16 bits");
    sock_filter { code, jt: if_true, jf: if_false, k: number }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Group, steering, unprivileged};
    use super::super::{SteerMeans, SteerPolicy};

    /// With a table of one slot, all goes to it, whatever its index.
    fn assert_each_is_found(group: &mut Group, slots: &[usize]) {
        for slot in slots {
            group.steering.set_table(&[(*slot, 1)]).unwrap();
            group.connect(15);
            assert_eq!(group.taken()[*slot], 15);
        }
    }

    #[test]
    fn indices_follow_the_sockets_that_come_and_go() {
        for policy in [SteerPolicy::Random, SteerPolicy::SourceHash] {
            unprivileged(|| {
                let Some(steering) = steering(policy) else { return };
                assert_eq!(steering.means(), SteerMeans::Cbpf);
                let mut group = Group::new(steering, 5);
                assert_each_is_found(&mut group, &[0, 1, 2, 3, 4]);
                group.steering.remove(1).unwrap();
                assert_each_is_found(&mut group, &[0, 2, 3, 4]);
                group.steering.remove(0).unwrap();
                assert_each_is_found(&mut group, &[2, 3, 4]);
                group.join(7);
                assert_each_is_found(&mut group, &[2, 3, 4, 7]);
                group.join(1);
                group.steering.remove(7).unwrap();
                group.join(3);
                assert_each_is_found(&mut group, &[1, 2, 3, 4]);
            });
        }
    }

    #[test]
    fn who_joins_or_leaves_does_not_change_the_shares() {
        unprivileged(|| {
            let Some(steering) = steering(SteerPolicy::Random) else { return };
            let mut group = Group::new(steering, 4);
            group.steering.set_table(&[(0, 1), (3, 1)]).unwrap();
            group.join(4);
            group.steering.remove(1).unwrap();
            group.connect(200);
            let counts = group.taken();
            assert_eq!(counts[0] + counts[3], 200, "{counts:?}");
            group.steering.remove(0).unwrap();
            group.connect(50);
            assert_eq!(group.taken()[3], 50);
        });
    }

    #[test]
    fn programs_for_the_most_slots_are_accepted() {
        unprivileged(|| {
            for policy in [SteerPolicy::Random, SteerPolicy::SourceHash] {
                let Some(steering) = steering(policy) else { return };
                let mut group = Group::new(steering, 2);
                // Of each a part that is not in the group.
                let shares: Vec<_> = (0..1024).zip(1..).collect();
                group.steering.set_table(&shares).unwrap();
                group.connect(30);
                group.taken();
            }
        });
        let buckets: Vec<u32> = (0..1021).collect();
        assert!(super::source_hash(&buckets).len() <= 4096);
        let weights: Vec<(u32, u32)> = (0..1024).map(|index| (index, 9)).collect();
        assert!(super::random(&weights).len() <= 4096);
    }
}
