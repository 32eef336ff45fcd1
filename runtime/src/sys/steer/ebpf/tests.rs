use super::super::tests::{Group, ebpf};
use super::*;
use crate::sys::{Board, CellWriter};

fn group(shares: &[Share]) -> Option<(Group, Board)> {
    let steering = ebpf(SteerPolicy::LeastConnections)?;
    let board = steering.board_fd().unwrap().try_clone_to_owned().unwrap();
    let board = Board::of_map(board, SLOTS_MAX).unwrap();
    // What is on the way is not halved while a test runs.
    let memory = &steering.ebpf.as_ref().unwrap().memory;
    memory.u32_at(SECOND_LOG2 as usize).store(63, Relaxed);
    let mut group = Group::new(steering, shares.len());
    group.steering.set_table(shares).unwrap();
    Some((group, board))
}

fn cell(board: &Board, slot: usize) -> CellWriter {
    CellWriter::map(board.fd(), slot).unwrap()
}

/// As if nothing had been chosen for a minute.
fn seconds_pass(group: &Group) {
    let memory = &group.steering.ebpf.as_ref().unwrap().memory;
    memory.u64_at(SECOND as usize).store(0u64.wrapping_sub(60), Relaxed);
}

/// Connects so often; says where it went, as workers do that take and keep them.
fn connected(group: &mut Group, board: &Board, connections: usize) -> Vec<usize> {
    group.connect(connections);
    let counts = group.taken();
    for (slot, count) in counts.iter().enumerate() {
        for _ in 0..*count {
            cell(board, slot).took();
            cell(board, slot).opened();
        }
    }
    counts
}

#[test]
fn the_fewest_connections_win() {
    let Some((mut group, board)) = group(&[(0, 1), (1, 1), (2, 1), (3, 1)]) else { return };
    for (slot, open) in [5, 2, 9, 2].into_iter().enumerate() {
        (0..open).for_each(|_| cell(&board, slot).opened());
    }
    // 3 bring all but one to 4; with the next 3 all but that have 5, and then it is even.
    assert_eq!(connected(&mut group, &board, 6), [0, 3, 0, 3]);
    assert_eq!(connected(&mut group, &board, 12), [4, 4, 0, 4]);
    (0..6).for_each(|_| cell(&board, 2).closed(std::time::Duration::ZERO));
    assert_eq!(connected(&mut group, &board, 6), [0, 0, 6, 0]);
}

#[test]
fn those_on_the_way_count_and_those_taken_no_more() {
    let Some((mut group, board)) = group(&[(0, 1), (1, 1), (2, 1)]) else { return };
    // The workers have not said anything yet.
    group.connect(30);
    assert_eq!(group.taken(), [10; 3]);
    // One takes its own; the others are as if they never did.
    (0..10).for_each(|_| cell(&board, 1).took());
    group.connect(10);
    assert_eq!(group.taken(), [0, 10, 0]);
    group.connect(3);
    assert_eq!(group.taken(), [1; 3]);
}

#[test]
fn those_that_never_come_are_forgotten() {
    let Some((mut group, _board)) = group(&[(0, 1), (1, 1)]) else { return };
    group.steering.set_table(&[(0, 1)]).unwrap();
    group.connect(40);
    group.taken();
    group.steering.set_table(&[(0, 1), (1, 1)]).unwrap();
    seconds_pass(&group);
    group.connect(20);
    assert_eq!(group.taken(), [10; 2]);
}

#[test]
fn connections_are_weighted() {
    let Some((mut group, board)) = group(&[(0, 5), (1, 3), (2, 1), (3, 1)]) else { return };
    let counts = connected(&mut group, &board, 100);
    for (count, exact) in counts.iter().zip([50usize, 30, 10, 10]) {
        assert!(count.abs_diff(exact) <= 2, "{counts:?}");
    }
    // Of those that have equally many, it is in turn, by weight.
    (0..4).for_each(|slot| board.clear(slot));
    seconds_pass(&group);
    let mut idle = [0; 4];
    for _ in 0..20 {
        group.connect(1);
        for (slot, count) in group.taken().into_iter().enumerate() {
            idle[slot] += count;
            (0..count).for_each(|_| cell(&board, slot).took());
        }
    }
    assert_eq!(idle, [10, 6, 2, 2]);
}

#[test]
fn any_numbers_on_the_board_are_borne() {
    let Some((mut group, board)) = group(&[(0, u32::MAX), (1, 1), (2, 4095)]) else { return };
    let hostile = Mapping::new(board.fd(), 3 * CELL_BYTES).unwrap();
    for offset in (0..3 * CELL_BYTES).step_by(8) {
        hostile.u64_at(offset).store(u64::MAX, Relaxed);
    }
    group.connect(30);
    assert_eq!(group.taken().iter().sum::<usize>(), 30);
}

#[test]
fn the_first_of_many_are_compared() {
    let shares: Vec<Share> = (0..64).map(|slot| (slot, 1)).collect();
    let Some((mut group, board)) = group(&shares) else { return };
    (0..64).filter(|slot| *slot != 7).for_each(|slot| cell(&board, slot).opened());
    group.connect(1);
    assert_eq!(group.taken()[7], 1);
    // Of more, some.
    let shares: Vec<Share> = (0..SLOTS_MAX).map(|slot| (slot, 1)).collect();
    group.steering.set_table(&shares).unwrap();
    group.connect(100);
    group.taken();
}

#[test]
fn the_board_is_not_longer_than_it_is() {
    let Some(steering) = ebpf(SteerPolicy::LeastConnections) else { return };
    let fd = steering.board_fd().unwrap();
    CellWriter::map(fd, SLOTS_MAX - 1).unwrap();
    CellWriter::map(fd, SLOTS_MAX).unwrap_err();
}
