//! What is mapped for writing is there to the last page, whoever has made it.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use handle_passing::Handle;
use ipc_core::shm::SharedMemory;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

const BYTES: usize = 64 * 4096;

#[test]
fn k21_memory_that_was_not_allocated_is_when_it_is_opened() {
    let file = File::from(
        memfd_create(c"sparse", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
            .expect("a memfd"),
    );
    file.set_len(BYTES as u64).expect("it is new");
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("it is not sealed yet");
    let allocated = || file.metadata().expect("a file").blocks() * 512;
    assert_eq!(allocated(), 0, "as a peer may send it");

    let handle = Handle::from(file.try_clone().expect("a descriptor is left"));
    let memory = SharedMemory::open(handle, BYTES);
    assert!(memory.is_err() || allocated() >= BYTES as u64, "no page that is not there is mapped");
    assert_eq!(memory.expect("sealed memory").len(), BYTES);
}
