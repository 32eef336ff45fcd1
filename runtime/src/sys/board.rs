//! Counters of a listener's connections, one cell a slot: the workers write them, and the master
//! (or the kernel, see `Steering`) reads them to see which worker is how loaded.
//!
//! The numbers are advice. Each is right in itself, but two may be of different moments; and a
//! worker that is not well may write anything.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use ipc_core::shm::SharedMemory;

use super::mapping::Mapping;

/// The size of a cell. The numbers in it, in the machine's byte order, and their offsets:
/// `taken: u32` 0, `open: u32` 4, `closed: u32` 8, nothing 12, `lifetime_us: u64` 16, nothing 24.
pub(crate) const CELL_BYTES: usize = 32;
pub(crate) const TAKEN_OFFSET: usize = 0;
pub(crate) const OPEN_OFFSET: usize = 4;
const CLOSED_OFFSET: usize = 8;
const LIFETIME_OFFSET: usize = 16;

/// How many cells a board can have.
pub(crate) const CELLS_MAX: usize = 4096;

/// What a slot's cell says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    /// How many connections its workers have taken; wraps.
    pub(crate) taken: u32,
    /// How many of them are open.
    pub(crate) open: u32,
    /// How many have ended; wraps.
    pub(crate) closed: u32,
    /// How long those that have ended were open, together, in microseconds; wraps.
    pub(crate) lifetime_us: u64,
}

/// The master's side: all cells.
#[derive(Debug)]
pub(crate) struct Board {
    fd: OwnedFd,
    mapping: Mapping,
    slots: usize,
}

impl Board {
    /// A board of zeros in memory of its own.
    ///
    /// # Panics
    ///
    /// When there are no slots, or more than [`CELLS_MAX`].
    pub(crate) fn new(slots: usize) -> io::Result<Board> {
        assert_slots(slots);
        let memory = SharedMemory::create(slots * CELL_BYTES)?;
        Board::of_map(memory.try_clone_handle()?.into(), slots)
    }

    /// The board that this memory holds: a sealed memfd, or a BPF array of one element.
    ///
    /// # Panics
    ///
    /// When there are no slots, or more than [`CELLS_MAX`].
    pub(crate) fn of_map(fd: OwnedFd, slots: usize) -> io::Result<Board> {
        assert_slots(slots);
        let mapping = Mapping::new(fd.as_fd(), slots * CELL_BYTES)?;
        Ok(Board { fd, mapping, slots })
    }

    /// What workers map: [`CellWriter::map`].
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What the slot's cell says; zeros for a slot that has none.
    pub(crate) fn read(&self, slot: usize) -> Cell {
        if slot >= self.slots {
            return Cell::default();
        }
        let cell = Words { mapping: &self.mapping, slot };
        Cell {
            taken: cell.taken().load(Relaxed),
            open: cell.open().load(Relaxed),
            closed: cell.closed().load(Relaxed),
            lifetime_us: cell.lifetime_us().load(Relaxed),
        }
    }

    /// Sets the slot's cell to zeros, once its worker is gone and before another has it.
    pub(crate) fn clear(&self, slot: usize) {
        if slot < self.slots {
            let cell = Words { mapping: &self.mapping, slot };
            for word in [cell.taken(), cell.open(), cell.closed()] {
                word.store(0, Relaxed);
            }
            cell.lifetime_us().store(0, Relaxed);
        }
    }
}

fn assert_slots(slots: usize) {
    assert!((1..=CELLS_MAX).contains(&slots), "{slots} cells; there may be 1 to {CELLS_MAX}");
}

/// A worker's side: the cell of its slot, which any of its threads may count in.
#[derive(Debug)]
pub(crate) struct CellWriter {
    mapping: Mapping,
    slot: usize,
}

impl CellWriter {
    /// The slot's cell on the board that is in this memory; the descriptor is no longer needed
    /// then.
    ///
    /// # Errors
    ///
    /// When it is no such memory, or the board has no such cell.
    pub(crate) fn map(board: BorrowedFd<'_>, slot: usize) -> io::Result<CellWriter> {
        if slot >= CELLS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("slot {slot}")));
        }
        let mapping = Mapping::new(board, (slot + 1) * CELL_BYTES)?;
        Ok(CellWriter { mapping, slot })
    }

    /// A connection was taken out of the queue.
    pub(crate) fn took(&self) {
        self.words().taken().fetch_add(1, Relaxed);
    }

    /// A connection that was taken is open now.
    pub(crate) fn opened(&self) {
        self.words().open().fetch_add(1, Relaxed);
    }

    /// A connection that was opened has ended after so long.
    pub(crate) fn closed(&self, lifetime: Duration) {
        let cell = self.words();
        // It stays at zero when the cell was cleared meanwhile.
        let _ = cell.open().fetch_update(Relaxed, Relaxed, |open| open.checked_sub(1));
        let lifetime_us = u64::try_from(lifetime.as_micros()).unwrap_or(u64::MAX);
        cell.lifetime_us().fetch_add(lifetime_us, Relaxed);
        cell.closed().fetch_add(1, Relaxed);
    }

    /// How many are open.
    #[cfg(test)]
    fn open(&self) -> u32 {
        self.words().open().load(Relaxed)
    }

    fn words(&self) -> Words<'_> {
        Words { mapping: &self.mapping, slot: self.slot }
    }
}

/// Where the numbers of a cell lie. Accesses need no order among them: the numbers are advice.
struct Words<'a> {
    mapping: &'a Mapping,
    slot: usize,
}

impl<'a> Words<'a> {
    fn taken(&self) -> &'a AtomicU32 {
        self.mapping.u32_at(self.slot * CELL_BYTES + TAKEN_OFFSET)
    }

    fn open(&self) -> &'a AtomicU32 {
        self.mapping.u32_at(self.slot * CELL_BYTES + OPEN_OFFSET)
    }

    fn closed(&self) -> &'a AtomicU32 {
        self.mapping.u32_at(self.slot * CELL_BYTES + CLOSED_OFFSET)
    }

    fn lifetime_us(&self) -> &'a AtomicU64 {
        self.mapping.u64_at(self.slot * CELL_BYTES + LIFETIME_OFFSET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::thread;

    #[test]
    fn what_a_worker_writes_the_master_reads() {
        let board = Board::new(3).unwrap();
        let writer = CellWriter::map(board.fd(), 1).unwrap();
        for _ in 0..3 {
            writer.took();
            writer.opened();
        }
        writer.closed(Duration::from_micros(1500));
        writer.closed(Duration::from_micros(500));
        assert_eq!(writer.open(), 1);
        assert_eq!(board.read(1), Cell { taken: 3, open: 1, closed: 2, lifetime_us: 2000 });
        for slot in [0, 2, 3, CELLS_MAX, usize::MAX] {
            assert_eq!(board.read(slot), Cell::default());
        }
    }

    #[test]
    fn threads_and_processes_count_in_one_cell() {
        let board = Board::new(CELLS_MAX).unwrap();
        let slot = CELLS_MAX - 1;
        // Another process has a duplicate of the descriptor, and a mapping of its own.
        let writers = [(); 2].map(|()| {
            let fd = board.fd().try_clone_to_owned().unwrap();
            CellWriter::map(fd.as_fd(), slot).unwrap()
        });
        thread::scope(|scope| {
            for writer in writers.iter().chain(&writers) {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        writer.took();
                        writer.opened();
                        writer.closed(Duration::from_micros(3));
                    }
                });
            }
        });
        let cell = Cell { taken: 4000, open: 0, closed: 4000, lifetime_us: 12_000 };
        assert_eq!(board.read(slot), cell);
    }

    #[test]
    fn a_cell_that_is_cleared_goes_on_from_zero() {
        let board = Board::new(1).unwrap();
        let writer = CellWriter::map(board.fd(), 0).unwrap();
        writer.took();
        writer.opened();
        board.clear(0);
        assert_eq!(board.read(0), Cell::default());
        writer.closed(Duration::ZERO);
        assert_eq!(board.read(0), Cell { closed: 1, ..Cell::default() });
        board.clear(1); // There is no such cell.
    }

    #[test]
    fn any_numbers_can_be_read_and_counted_on() {
        let board = Board::new(1).unwrap();
        let hostile = Mapping::new(board.fd(), CELL_BYTES).unwrap();
        for offset in (0..CELL_BYTES).step_by(8) {
            hostile.u64_at(offset).store(u64::MAX, Relaxed);
        }
        assert_eq!(board.read(0).open, u32::MAX);
        let writer = CellWriter::map(board.fd(), 0).unwrap();
        writer.took();
        writer.opened();
        writer.closed(Duration::MAX);
        assert_eq!(board.read(0).taken, 0);
    }

    #[test]
    fn boards_without_the_cell_are_refused() {
        let board = Board::new(2).unwrap();
        CellWriter::map(board.fd(), 2).unwrap_err();
        CellWriter::map(board.fd(), usize::MAX).unwrap_err();
        // Nobody who has the descriptor can make an access of the others fail.
        let file = File::from(board.fd().try_clone_to_owned().unwrap());
        file.set_len(0).unwrap_err();
        CellWriter::map(File::open("/dev/null").unwrap().as_fd(), 0).unwrap_err();
    }
}
