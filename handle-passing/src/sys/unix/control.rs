//! Control data (`cmsg(3)`): writing one set of descriptors, reading whatever came.
//!
//! Control data is a row of records: a header with length, level and type, then the payload, then
//! padding. Reading works on a plain slice and owns nothing, so that a fuzzer can feed it
//! with any bytes: it reports descriptor *numbers*, and whether anything else was there.
#![allow(unsafe_code)] // Headers are structures of the C library.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unnecessary_cast,
    reason = "the types of lengths differ between C libraries; those here are far below 2 GiB"
)]

use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr;

use libc::{c_int, cmsghdr};

use crate::HANDLES_MAX;
use crate::sys::os;

/// Space for control data, aligned as the C library's own code expects it.
#[repr(C, align(8))]
pub(crate) struct Aligned<T>(pub(super) T);

/// What a row of records held, apart from the descriptor numbers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Records with descriptors to take; a peer that keeps to the protocol causes at most one.
    pub(crate) sets: usize,
    /// There was a record of another type, a broken one, or a number that is no descriptor.
    pub(crate) is_unexpected: bool,
}

/// Writes one record that names `handles`. Returns its length, without padding at the end.
///
/// # Panics
///
/// When `space` is too small: it takes [`HEADER_BYTES`] and 4 bytes per handle.
pub(crate) fn write(space: &mut [MaybeUninit<u8>], handles: &[BorrowedFd<'_>]) -> usize {
    let len = HEADER_BYTES + size_of_val(handles);
    let space = &mut space[..len];
    // SAFETY: a cmsghdr is plain integers, for which zeros are valid (and some C libraries have
    // private padding in it, so it can't be written as a literal).
    let mut header: cmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.cmsg_len = len as _;
    header.cmsg_level = libc::SOL_SOCKET;
    header.cmsg_type = libc::SCM_RIGHTS;
    let start = space.as_mut_ptr().cast::<u8>();
    // SAFETY: `space` is `len` bytes, of which the header takes the first HEADER_BYTES and the
    // handles the rest; a BorrowedFd is a transparent wrapper of its number. The padding behind
    // the header is zeroed, so that all of the record is initialized.
    unsafe {
        ptr::write_bytes(start, 0, HEADER_BYTES);
        ptr::write_unaligned(start.cast(), header);
        let numbers = handles.as_ptr().cast::<u8>();
        ptr::copy_nonoverlapping(numbers, start.add(HEADER_BYTES), size_of_val(handles));
    }
    len
}

/// Walks over control data, names each descriptor in it once, and sums up the rest.
///
/// Any bytes will do: lengths are checked against the slice, alignment does not matter. A record
/// that claims to be longer than the data is read as far as the data goes (that is how BSD
/// truncates), and is the last one.
pub(crate) fn read(mut control: &[u8], mut descriptor: impl FnMut(c_int)) -> Summary {
    let mut summary = Summary::default();
    while control.len() >= HEADER_BYTES {
        // SAFETY: the slice has at least the bytes of a header, and a header is plain integers,
        // for which any bytes are valid. The slice need not be aligned.
        let header: cmsghdr = unsafe { ptr::read_unaligned(control.as_ptr().cast()) };
        let claimed = header.cmsg_len as usize;
        let len = claimed.clamp(HEADER_BYTES, control.len());
        summary.is_unexpected |= len != claimed;
        let payload = &control[HEADER_BYTES..len];
        let is_of_sockets = header.cmsg_level == libc::SOL_SOCKET;
        if is_of_sockets && header.cmsg_type == libc::SCM_RIGHTS {
            summary.sets += 1;
            summary.is_unexpected |= !numbers(payload, &mut descriptor);
        } else if is_of_sockets && Some(header.cmsg_type) == os::PIDFD_RECORD {
            summary.is_unexpected = true;
            numbers(payload, &mut descriptor);
        } else {
            summary.is_unexpected = true;
        }
        let next = record_bytes(payload.len()).min(control.len());
        control = &control[next..];
    }
    summary
}

/// Names the descriptors of a payload. Whether it holds nothing else.
fn numbers(payload: &[u8], descriptor: &mut impl FnMut(c_int)) -> bool {
    let numbers = payload.chunks_exact(size_of::<c_int>());
    let mut is_clean = numbers.remainder().is_empty();
    for number in numbers {
        // Kernels before 6.16 report a failure to make a process descriptor as a negative one.
        match c_int::from_ne_bytes([number[0], number[1], number[2], number[3]]) {
            number @ 0.. => descriptor(number),
            _ => is_clean = false,
        }
    }
    is_clean
}

/// How much a record takes, with padding.
const fn record_bytes(payload_bytes: usize) -> usize {
    // SAFETY: CMSG_SPACE is arithmetic; libc marks all of its family unsafe.
    (unsafe { libc::CMSG_SPACE(payload_bytes as u32) }) as usize
}

/// From the start of a record to its payload.
pub(crate) const HEADER_BYTES: usize = record_bytes(0);
/// One record of the most descriptors that the kernel takes.
pub(crate) const SEND_BYTES: usize = record_bytes(HANDLES_MAX * size_of::<c_int>());
/// The same and room for what a socket may be made to deliver besides: credentials (32 bytes), a
/// process descriptor (24), a security label. What does not fit is reported as truncated.
pub(crate) const RECV_BYTES: usize = SEND_BYTES + 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use std::fs::File;
    use std::os::fd::{AsFd, AsRawFd};

    const SOCKET: c_int = libc::SOL_SOCKET;
    const RIGHTS: c_int = libc::SCM_RIGHTS;

    /// One record with its padding; `claimed` replaces the length in its header.
    fn record(level: c_int, kind: c_int, payload: &[u8], claimed: Option<usize>) -> Vec<u8> {
        let len = claimed.unwrap_or(HEADER_BYTES + payload.len());
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(record_bytes(payload.len()), 0xff);
        bytes
    }

    fn payload(numbers: &[c_int]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
    }

    fn parse(control: &[u8]) -> (Vec<c_int>, Summary) {
        let mut found = Vec::new();
        let summary = read(control, |number| found.push(number));
        (found, summary)
    }

    fn summary(sets: usize, is_unexpected: bool) -> Summary {
        Summary { sets, is_unexpected }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let file = File::open("/dev/null").unwrap();
        for count in [1, 2, 3, 252, HANDLES_MAX] {
            let mut space = Aligned([const { MaybeUninit::<u8>::uninit() }; SEND_BYTES]);
            let len = write(&mut space.0, &vec![file.as_fd(); count]);
            // SAFETY: `write` has initialized the first `len` bytes.
            let control = unsafe { std::slice::from_raw_parts(space.0.as_ptr().cast(), len) };
            assert_eq!(parse(control), (vec![file.as_raw_fd(); count], summary(1, false)));
        }
    }

    #[test]
    fn nothing_is_in_nothing() {
        for len in 0..HEADER_BYTES {
            assert_eq!(parse(&vec![0xff; len]), (vec![], summary(0, false)));
        }
    }

    #[test]
    fn lengths_that_lie_are_cut_to_the_data() {
        let good = payload(&[7, 8]);
        for (claimed, found) in [
            (0, vec![]),
            (HEADER_BYTES - 1, vec![]),
            (HEADER_BYTES + 9, vec![7, 8]),
            (u32::MAX as usize, vec![7, 8]),
            (usize::MAX, vec![7, 8]),
            (usize::MAX - 7, vec![7, 8]),
        ] {
            let (numbers, summary) = parse(&record(SOCKET, RIGHTS, &good, Some(claimed)));
            assert_eq!(numbers, found, "{claimed}");
            assert!(summary.is_unexpected, "{claimed}");
        }
    }

    #[test]
    fn numbers_that_are_no_descriptors_are_reported() {
        let negative = record(SOCKET, RIGHTS, &payload(&[3, -1, c_int::MIN, 4]), None);
        assert_eq!(parse(&negative), (vec![3, 4], summary(1, true)));
        let crumbs = record(SOCKET, RIGHTS, &[5, 0, 0, 0, 9, 9], None);
        assert_eq!(parse(&crumbs), (vec![c_int::from_ne_bytes([5, 0, 0, 0])], summary(1, true)));
        let failed = record(SOCKET, os::PIDFD_RECORD.unwrap(), &payload(&[-3]), None);
        assert_eq!(parse(&failed), (vec![], summary(0, true)));
    }

    #[test]
    fn foreign_records_are_reported_and_all_descriptors_found() {
        let mut control = record(SOCKET, libc::SCM_CREDENTIALS, &[0; 12], None);
        control.extend(record(SOCKET, RIGHTS, &payload(&[5, 6, 7]), None));
        control.extend(record(libc::IPPROTO_IP, RIGHTS, &payload(&[99]), None));
        control.extend(record(SOCKET, os::PIDFD_RECORD.unwrap(), &payload(&[8]), None));
        control.extend(record(SOCKET, RIGHTS, &payload(&[9]), None));
        assert_eq!(parse(&control), (vec![5, 6, 7, 8, 9], summary(2, true)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_within_bounds(
            control in prop::collection::vec(any::<u8>(), 0..200),
            start in 0_usize..8,
        ) {
            let control = &control[start.min(control.len())..];
            let (found, summary) = parse(control);
            prop_assert!(found.len() * 4 + summary.sets * HEADER_BYTES <= control.len());
            prop_assert!(found.iter().all(|number| *number >= 0));
        }

        #[test]
        fn rows_of_records_are_read_in_order(
            sets in prop::collection::vec(prop::collection::vec(0..c_int::MAX, 0..5), 0..6),
            start in 0_usize..8,
        ) {
            let mut control = vec![0; start]; // Not aligned, in most cases.
            for set in &sets {
                control.extend(record(SOCKET, RIGHTS, &payload(set), None));
            }
            prop_assert_eq!(parse(&control[start..]), (sets.concat(), summary(sets.len(), false)));
        }
    }
}
