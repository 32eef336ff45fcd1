//! bpf(2), and attaching programs to groups of sockets.
#![allow(unsafe_code)] // system calls that no safe wrapper offers

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::insn::Insn;

/// An array of sockets of one group, by slot. A socket leaves it by itself when it is closed.
pub(super) fn socket_array(entries: u32) -> io::Result<OwnedFd> {
    const REUSEPORT_SOCKARRAY: u32 = 20;
    create_map(MapCreate {
        map_type: REUSEPORT_SOCKARRAY,
        key_size: 4,
        value_size: 8,
        max_entries: entries,
        map_flags: 0,
    })
}

/// An array of one element of so many zeros, which can be mapped into memory.
pub(super) fn mappable_value(bytes: u32) -> io::Result<OwnedFd> {
    const ARRAY: u32 = 2;
    const MMAPABLE: u32 = 1 << 10;
    create_map(MapCreate {
        map_type: ARRAY,
        key_size: 4,
        value_size: bytes,
        max_entries: 1,
        map_flags: MMAPABLE,
    })
}

/// Puts a socket into an array of sockets, in place of what was there.
pub(super) fn set_socket(
    array: BorrowedFd<'_>,
    slot: u32,
    socket: BorrowedFd<'_>,
) -> io::Result<()> {
    const MAP_UPDATE_ELEM: libc::c_int = 2;
    let value = u64::from(socket.as_raw_fd().cast_unsigned());
    let mut attributes = MapElement {
        map_fd: array.as_raw_fd().cast_unsigned(),
        padding: 0,
        key: pointer(&slot),
        value: pointer(&value),
        flags: 0,
    };
    // SAFETY: `key` and `value` point to the four and eight bytes that the map was made with, and
    // which outlive the call.
    unsafe { bpf(MAP_UPDATE_ELEM, &mut attributes) }.map(drop)
}

/// Loads a program that selects a socket of a group for what arrives, and for what waited in the
/// queue of a socket that has left the group.
pub(super) fn load_program(insns: &[Insn]) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_int = 5;
    const SK_REUSEPORT: u32 = 21;
    const SK_REUSEPORT_SELECT_OR_MIGRATE: u32 = 40;
    let mut attributes = ProgLoad {
        prog_type: SK_REUSEPORT,
        insn_cnt: u32::try_from(insns.len()).map_err(io::Error::other)?,
        insns: insns.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: *b"runtime_steer\0\0\0",
        prog_ifindex: 0,
        expected_attach_type: SK_REUSEPORT_SELECT_OR_MIGRATE,
    };
    // SAFETY: `insns` points to `insn_cnt` instructions and `license` to a string that ends with
    // zero; there is no log.
    let fd = unsafe { bpf(PROG_LOAD, &mut attributes) }?;
    // SAFETY: the call succeeded, so the descriptor is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has a program of [`load_program`] choose in the group of this socket, from now on.
pub(super) fn attach(socket: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    const SO_ATTACH_REUSEPORT_EBPF: libc::c_int = 52;
    // SAFETY: the option's value is a descriptor, an int.
    unsafe { set_option(socket, SO_ATTACH_REUSEPORT_EBPF, &program.as_raw_fd()) }
}

/// Has a classic program choose in the group of this socket, from now on: it says the index of a
/// socket in the group.
pub(super) fn attach_classic(
    socket: BorrowedFd<'_>,
    filters: &[libc::sock_filter],
) -> io::Result<()> {
    const SO_ATTACH_REUSEPORT_CBPF: libc::c_int = 51;
    let program = libc::sock_fprog {
        len: u16::try_from(filters.len()).map_err(io::Error::other)?,
        filter: filters.as_ptr().cast_mut(),
    };
    // SAFETY: the option's value is a program, whose `len` instructions outlive the call; the
    // kernel copies them, and does not write.
    unsafe { set_option(socket, SO_ATTACH_REUSEPORT_CBPF, &program) }
}

/// # Safety
///
/// `value` must be what the kernel takes for this option of the socket level.
unsafe fn set_option<T>(socket: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: the caller's promise; `value` has `length` bytes.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, length) };
    Ok(Errno::result(result).map(drop)?)
}

fn create_map(mut attributes: MapCreate) -> io::Result<OwnedFd> {
    const MAP_CREATE: libc::c_int = 0;
    // SAFETY: these attributes hold no pointers.
    let fd = unsafe { bpf(MAP_CREATE, &mut attributes) }?;
    // SAFETY: the call succeeded, so the descriptor is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
///
/// `attributes` must be the command's, without padding, and its pointers valid for it.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<RawFd> {
    let attributes = std::ptr::from_mut(attributes);
    // SAFETY: the caller's promise. What the kernel knows beyond the size counts as zeros.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    RawFd::try_from(Errno::result(result)?).map_err(io::Error::other)
}

fn pointer<T>(to: &T) -> u64 {
    std::ptr::from_ref(to) as u64
}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[repr(C)]
struct MapElement {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}
