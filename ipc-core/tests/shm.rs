//! Shared memory, and what peers may send in its place.
#![cfg(target_os = "linux")]

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use handle_passing::{FromHandle, Handle, HandleKind};
use ipc_core::shm::{FrozenMemory, MemoryError, OutOfBounds, ReadOnlyMemory, SharedMemory};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

const MAX: usize = 1 << 20;

/// Memory as a peer makes it.
fn memfd(bytes: i64, seals: SealFlag) -> OwnedFd {
    let fd = memfd_create(c"peer", MFdFlags::MFD_ALLOW_SEALING).expect("memory");
    ftruncate(&fd, bytes).expect("a size");
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).expect("not sealed yet");
    fd
}

fn sealed() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

/// The descriptor's file, opened once more.
fn reopen(handle: Handle, options: &OpenOptions) -> std::io::Result<OwnedFd> {
    let fd = handle.into_type::<OwnedFd>().expect("any kind");
    options.open(format!("/proc/self/fd/{}", fd.as_raw_fd())).map(Into::into)
}

#[test]
fn bytes_are_copied_in_and_out_at_any_offset() {
    let memory = SharedMemory::create(100).expect("memory");
    let other =
        SharedMemory::open(memory.try_clone_handle().expect("a handle"), MAX).expect("ours");
    assert_eq!((memory.len(), other.len()), (100, 100));
    let mut expected = [0; 100];
    for (number, offset) in (1..).zip((0..100).chain(0..50)) {
        let length = 100.min(offset + number * 7 % 41) - offset;
        let bytes: Vec<u8> =
            (0..length).map(|n| u8::try_from((n * 3 + number) % 256).expect("a byte")).collect();
        memory.write_at(offset, &bytes).expect("in the memory");
        expected[offset..offset + length].copy_from_slice(&bytes);
        let mut found = vec![0; length];
        other.read_at(offset, &mut found).expect("in the memory");
        assert_eq!(found, bytes, "{length} bytes at {offset}");
        let mut all = [0; 100];
        other.read_at(0, &mut all).expect("in the memory");
        assert_eq!(all, expected);
    }
    for (offset, length) in [(100, 1), (0, 101), (usize::MAX, 1), (99, 2), (usize::MAX, 0)] {
        assert_eq!(memory.write_at(offset, &vec![1; length]), Err(OutOfBounds));
        assert_eq!(memory.read_at(offset, &mut vec![1; length]), Err(OutOfBounds));
    }
    memory.write_at(100, &[]).expect("nothing is nowhere too far");
}

#[test]
fn atomics_are_aligned_and_within() {
    let memory = SharedMemory::create(20).expect("memory");
    let reader = memory
        .try_clone_handle()
        .and_then(|h| ReadOnlyMemory::open(h, MAX).map_err(std::io::Error::other));
    let reader = reader.expect("ours");
    memory.atomic_u32(16).expect("the last").store(7, Ordering::Relaxed);
    memory.atomic_u64(8).expect("the last").store(1 << 40, Ordering::Relaxed);
    assert_eq!((reader.load_u32(16), reader.load_u64(8)), (Ok(7), Ok(1 << 40)));
    assert_eq!(memory.atomic_bytes()[16].load(Ordering::Relaxed), 7_u32.to_ne_bytes()[0]);
    assert_eq!(memory.atomic_bytes().len(), 20);
    for offset in [1, 2, 18, 20, usize::MAX] {
        assert!(memory.atomic_u32(offset).is_err() && reader.load_u32(offset).is_err());
    }
    for offset in [4, 16, usize::MAX - 7] {
        assert!(memory.atomic_u64(offset).is_err() && reader.load_u64(offset).is_err());
    }
}

#[test]
fn f94_k21_a_peer_can_change_neither_the_size_nor_the_seals() {
    let memory = SharedMemory::create(8192).expect("memory");
    memory.write_at(4096, b"here").expect("in the memory");
    let theirs = memory.try_clone_handle().expect("a handle");
    let theirs = theirs.into_type::<OwnedFd>().expect("any kind");
    for bytes in [0, 4096, 8191, 8193, 1 << 30] {
        assert_eq!(ftruncate(&theirs, bytes), Err(Errno::EPERM));
    }
    let seal = FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE);
    assert_eq!(fcntl(&theirs, seal), Err(Errno::EPERM));
    // Only what it holds is anybody's.
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&theirs, punch, 0, 8192).expect("a hole");
    let mut bytes = [1; 4];
    memory.read_at(4096, &mut bytes).expect("in the memory");
    assert_eq!(bytes, [0; 4]);
}

#[test]
fn f94_memory_is_there_before_it_is_used() {
    let memory = SharedMemory::create(1 << 20).expect("memory");
    let fd = memory.try_clone_handle().expect("a handle").into_type::<OwnedFd>().expect("any");
    assert!(nix::sys::stat::fstat(&fd).expect("a file").st_blocks >= (1 << 20) / 512);

    let sparse = Handle::from(memfd(1 << 20, sealed()));
    let theirs = SharedMemory::open(sparse, MAX).expect("sealed memory");
    let fd = theirs.try_clone_handle().expect("a handle").into_type::<OwnedFd>().expect("any");
    assert!(nix::sys::stat::fstat(&fd).expect("a file").st_blocks >= (1 << 20) / 512);

    assert!(SharedMemory::create(0).is_err() && FrozenMemory::create(0, |_| {}).is_err());
    assert!(SharedMemory::create(usize::MAX).is_err());
}

#[test]
fn hostile_handles_are_not_mapped() {
    let file = || {
        let path = std::env::temp_dir().join(format!("ipc-core-shm-{}", std::process::id()));
        let file = File::create_new(&path).expect("a new file");
        std::fs::remove_file(path).expect("it is there");
        file.set_len(4096).expect("a size");
        file
    };
    let almost = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    let unsealable = || {
        let fd = memfd_create(c"peer", MFdFlags::empty()).expect("memory");
        ftruncate(&fd, 4096).expect("a size");
        fd
    };
    let announced = || Handle::from(memfd(4096, sealed())).announced(HandleKind::File);
    let write_only = || {
        let handle = SharedMemory::create(4096).expect("memory").into();
        reopen(handle, OpenOptions::new().write(true)).expect("it can be written")
    };
    let cases: [(&str, &dyn Fn() -> Handle); 10] = [
        ("NotMemory, a socket", &|| UnixStream::pair().expect("sockets").0.into()),
        ("NotMemory, announced as something else", &announced),
        ("NotMemory, not to be read", &|| write_only().into()),
        ("NotSealed, a plain file", &|| file().into()),
        ("NotSealed, never", &|| memfd(4096, SealFlag::empty()).into()),
        ("NotSealed, unsealable", &|| unsealable().into()),
        ("NotSealed, but for other seals", &|| memfd(4096, almost).into()),
        ("Size, none", &|| memfd(0, sealed()).into()),
        ("Size, too large", &|| memfd(1 << 40, sealed()).into()),
        ("Size, by a byte", &|| memfd((1 << 20) + 1, sealed()).into()),
    ];
    for (name, handle) in cases {
        let found = variant(&SharedMemory::open(handle(), MAX).expect_err(name));
        // A file on a disk has no seals at all, and one on a tmpfs not the right ones.
        assert!(name.starts_with(found) || name.ends_with("a plain file"), "{found} for {name}");
        assert_eq!(variant(&ReadOnlyMemory::open(handle(), MAX).expect_err(name)), found);
        let frozen = variant(&FrozenMemory::open(handle(), MAX).expect_err(name));
        assert!(frozen == found || frozen == "NotSealed", "{frozen} for {name}");
    }
    for (name, handle) in &cases[..7] {
        SharedMemory::from_handle(handle()).expect_err(name);
    }
}

fn variant(error: &MemoryError) -> &'static str {
    match error {
        MemoryError::NotMemory => "NotMemory",
        MemoryError::NotSealed => "NotSealed",
        MemoryError::ReadOnly => "ReadOnly",
        MemoryError::Size { .. } => "Size",
        MemoryError::Io(_) => "Io",
    }
}

#[test]
fn hostile_huge_pages_are_not_mapped() {
    let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB;
    let Ok(fd) = memfd_create(c"peer", flags) else {
        eprintln!("skipped: no huge pages");
        return;
    };
    ftruncate(&fd, 2 << 20).expect("a size");
    fcntl(&fd, FcntlArg::F_ADD_SEALS(sealed())).expect("not sealed yet");
    let error = SharedMemory::open(fd.into(), 4 << 20).expect_err("touching it would be fatal");
    assert!(matches!(error, MemoryError::NotMemory), "{error:?}");
}

#[test]
fn hostile_read_only_memory_that_is_sent_as_writable_is_an_error() {
    let memory = SharedMemory::create(4096).expect("memory");
    let handle = memory.try_clone_handle().expect("a handle");
    let read_only = reopen(handle, OpenOptions::new().read(true)).expect("it can be read");
    let twice = Handle::from(read_only.try_clone().expect("a handle"));
    let error = SharedMemory::open(read_only.into(), MAX).expect_err("it can't be written");
    assert!(matches!(error, MemoryError::ReadOnly), "{error:?}");
    memory.write_at(7, b"x").expect("in the memory");
    let mut byte = [0];
    let reader = ReadOnlyMemory::open(twice, MAX).expect("it can be read");
    reader.read_at(7, &mut byte).expect("in the memory");
    assert_eq!(&byte, b"x");
}

#[test]
fn memory_for_readers_is_written_by_who_made_it_only() {
    let board = SharedMemory::create_for_readers(64).expect("memory");
    let theirs = || board.try_clone_handle().expect("a handle");
    let error = SharedMemory::open(theirs(), MAX).expect_err("a peer only reads");
    assert!(matches!(error, MemoryError::ReadOnly), "{error:?}");
    let mut file = File::from(theirs().into_type::<OwnedFd>().expect("any kind"));
    assert!(file.write(b"x").is_err());
    board.write_at(0, b"news").expect("in the memory");
    let reader = ReadOnlyMemory::open(theirs(), MAX).expect("a peer reads");
    assert_eq!(reader.load_u32(0), Ok(u32::from_ne_bytes(*b"news")));
    let error = FrozenMemory::open(theirs(), MAX).expect_err("it is written still");
    assert!(matches!(error, MemoryError::NotSealed), "{error:?}");
}

#[test]
fn what_is_frozen_nobody_writes() {
    let frozen = FrozenMemory::create(5, |bytes| bytes.copy_from_slice(b"hello")).expect("memory");
    assert_eq!(&frozen[..], b"hello");
    let theirs = || frozen.try_clone_handle().expect("a handle");
    let error = SharedMemory::open(theirs(), MAX).expect_err("nobody writes");
    assert!(matches!(error, MemoryError::ReadOnly), "{error:?}");
    let mut file = File::from(theirs().into_type::<OwnedFd>().expect("any kind"));
    file.rewind().expect("a file");
    assert!(file.write(b"x").is_err());
    assert_eq!(&FrozenMemory::open(theirs(), 5).expect("frozen")[..], b"hello");
    assert!(FrozenMemory::open(theirs(), 4).is_err());
    assert_eq!(&FrozenMemory::from_handle(theirs()).expect("frozen")[..], b"hello");
}
