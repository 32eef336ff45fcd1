use std::fmt;

/// A resource of which a process can only use so much; see `getrlimit(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// Bytes of address space (`RLIMIT_AS`).
    AddressSpace,
    /// Bytes of a core file (`RLIMIT_CORE`).
    CoreFile,
    /// Seconds of processor time (`RLIMIT_CPU`).
    ProcessorTime,
    /// Bytes of data (`RLIMIT_DATA`).
    Data,
    /// Bytes of a file that is written (`RLIMIT_FSIZE`).
    FileSize,
    /// Bytes of memory that is locked (`RLIMIT_MEMLOCK`).
    LockedMemory,
    /// The highest descriptor, and one (`RLIMIT_NOFILE`).
    OpenFiles,
    /// Processes and threads of its user (`RLIMIT_NPROC`).
    Processes,
    /// Bytes of the stack (`RLIMIT_STACK`).
    Stack,
}

impl Resource {
    /// No limit.
    pub const UNLIMITED: u64 = u64::MAX;
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::AddressSpace => "address space",
            Resource::CoreFile => "core file",
            Resource::ProcessorTime => "processor time",
            Resource::Data => "data",
            Resource::FileSize => "file size",
            Resource::LockedMemory => "locked memory",
            Resource::OpenFiles => "open files",
            Resource::Processes => "processes",
            Resource::Stack => "stack",
        })
    }
}
