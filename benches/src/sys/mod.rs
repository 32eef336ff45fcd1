//! Starting a process by hand, the shortest way: what the bench `spawn` compares with.
#![allow(unsafe_code)] // clone, fork, and system calls in the child

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

unsafe extern "C" {
    /// The environment of this process.
    static mut environ: *const *const c_char;
}

/// A program without arguments, and what its process does before.
#[derive(Debug)]
pub struct Program {
    /// Its path.
    pub file: CString,
    /// All or nothing.
    pub steps: Option<Steps>,
}

/// What a child does before it executes the program, and begin a group of its own.
#[derive(Debug)]
pub struct Steps {
    /// What it has under [`FIRST`] and on.
    pub descriptors: Vec<OwnedFd>,
    /// Resources, each with its soft and hard limit.
    pub limits: Vec<(c_int, u64, u64)>,
    /// Both as this process's.
    pub uid_and_gid: (u32, u32),
    /// Where it starts.
    pub directory: CString,
}

/// The first number that a child has beside the standard ones.
pub const FIRST: u32 = 3;

/// What the child of [`Program::vfork_and_wait`] runs on.
pub type Stack = [u128; 1 << 10];

impl Program {
    /// Runs it by a child in this process's memory, as vfork(2) does, and waits for its end.
    ///
    /// # Errors
    ///
    /// The system's, or that it did not exit with 0.
    pub fn vfork_and_wait(&self, stack: &mut Stack) -> io::Result<()> {
        let top = stack.as_mut_ptr_range().end;
        let program = ptr::from_ref(self).cast_mut();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the stack, aligned and large enough for a few calls, and `self` outlive the
        // child's use of them, since the call returns when it has executed the program or ended.
        wait(unsafe { libc::clone(run, top.cast(), flags, program.cast()) })
    }

    /// The same by fork(2).
    ///
    /// # Errors
    ///
    /// The system's, or that it did not exit with 0.
    pub fn fork_and_wait(&self) -> io::Result<()> {
        // SAFETY: the child makes system calls only.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            self.execute();
        }
        wait(pid)
    }

    fn execute(&self) -> ! {
        let args = [self.file.as_ptr(), ptr::null()];
        // SAFETY: system calls in a child, with strings and arrays that outlive them.
        unsafe {
            if self.steps.as_ref().is_none_or(|steps| steps.run().is_ok()) {
                libc::execve(self.file.as_ptr(), args.as_ptr(), environ);
            }
            libc::_exit(127)
        }
    }
}

extern "C" fn run(program: *mut c_void) -> c_int {
    // SAFETY: it is what `vfork_and_wait` has passed.
    unsafe { &*program.cast::<Program>() }.execute()
}

fn wait(pid: libc::pid_t) -> io::Result<()> {
    check(pid)?;
    let mut status = 0;
    // SAFETY: waitpid writes one int, which outlives the call.
    check(unsafe { libc::waitpid(pid, &mut status, 0) })?;
    if status == 0 { Ok(()) } else { Err(io::Error::other(format!("wait status {status}"))) }
}

fn check(result: impl Into<i64>) -> io::Result<()> {
    if result.into() == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Steps {
    /// Has std do the same: by its own options, and the rest by its hook.
    pub fn prepare(&'static self, command: &mut Command) {
        let directory = self.directory.to_str().expect("a path of ours");
        let (uid, gid) = self.uid_and_gid;
        command.process_group(0).uid(uid).gid(gid).current_dir(directory);
        // SAFETY: the hook makes system calls only.
        unsafe { command.pre_exec(|| self.place_and_limit()) };
    }

    fn run(&self) -> io::Result<()> {
        let (uid, gid) = self.uid_and_gid;
        // SAFETY: none takes memory but chdir, which reads a string that outlives the call. The C
        // library's setgid and setuid would have the threads of the parent change, too.
        unsafe {
            check(libc::setpgid(0, 0))?;
            self.place_and_limit()?;
            check(libc::syscall(libc::SYS_setgid, gid))?;
            check(libc::syscall(libc::SYS_setuid, uid))?;
            check(libc::chdir(self.directory.as_ptr()))
        }
    }

    fn place_and_limit(&self) -> io::Result<()> {
        for (target, descriptor) in (FIRST..).zip(&self.descriptors) {
            // SAFETY: dup2 takes no memory.
            check(unsafe { libc::dup2(descriptor.as_raw_fd(), target as RawFd) })?;
        }
        for (resource, soft, hard) in &self.limits {
            let limit = libc::rlimit64 { rlim_cur: *soft, rlim_max: *hard };
            let none = ptr::null_mut::<libc::rlimit64>();
            // SAFETY: the kernel reads one struct, which outlives the call; 0 is the caller.
            let result =
                unsafe { libc::syscall(libc::SYS_prlimit64, 0, *resource, &raw const limit, none) };
            check(result)?;
        }
        Ok(())
    }
}
