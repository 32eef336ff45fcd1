//! The smallest program there can be: it exits, and needs neither a loader nor a library.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A file with that program, until it is dropped.
#[derive(Debug)]
pub(crate) struct Tiny(PathBuf);

/// Where the program is in memory.
const ADDRESS: u64 = 0x40_0000;

const HEADERS_BYTES: u64 = 64 + 56;

impl Tiny {
    pub(crate) fn new() -> io::Result<Tiny> {
        let path = std::env::temp_dir().join(format!("bench-spawn-{}", std::process::id()));
        fs::write(&path, elf())?;
        let tiny = Tiny(path);
        fs::set_permissions(&tiny.0, Permissions::from_mode(0o755))?;
        Ok(tiny)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        // What is left is a small file among temporary ones.
        let _ = fs::remove_file(&self.0);
    }
}

/// The number of the machine, and `exit(0)` for it.
fn machine_and_code() -> (u16, &'static [u8]) {
    if cfg!(target_arch = "x86_64") {
        // xor edi, edi; mov eax, 60; syscall
        (62, &[0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05])
    } else if cfg!(target_arch = "aarch64") {
        // mov x0, #0; mov x8, #93; svc #0
        (183, &[0, 0, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4])
    } else {
        panic!("write the program for this machine, too");
    }
}

/// As elf(5) describes it: a header, one of a segment, which is the whole file, and the code.
fn elf() -> Vec<u8> {
    let (machine, code) = machine_and_code();
    let bytes = HEADERS_BYTES + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    let halves = |elf: &mut Vec<u8>, values: &[u16]| {
        values.iter().for_each(|value| elf.extend(value.to_le_bytes()));
    };
    let words = |elf: &mut Vec<u8>, values: &[u32]| {
        values.iter().for_each(|value| elf.extend(value.to_le_bytes()));
    };
    let longs = |elf: &mut Vec<u8>, values: &[u64]| {
        values.iter().for_each(|value| elf.extend(value.to_le_bytes()));
    };
    // Executable, machine; version; entry, segments, no sections; flags; sizes and counts.
    halves(&mut elf, &[2, machine]);
    words(&mut elf, &[1]);
    longs(&mut elf, &[ADDRESS + HEADERS_BYTES, 64, 0]);
    words(&mut elf, &[0]);
    halves(&mut elf, &[64, 56, 1, 0, 0, 0]);
    // Loaded, to be read and executed: offset, addresses, sizes, alignment.
    words(&mut elf, &[1, 5]);
    longs(&mut elf, &[0, ADDRESS, ADDRESS, bytes, bytes, 0x1000]);
    elf.extend(code);
    elf
}
