//! Writing to a pipe that nobody reads, without being ended for it.

use std::io;
use std::mem::MaybeUninit;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Has this thread write without the signal that comes with `EPIPE`.
///
/// That signal ends a program that has it at its default. Rust programs ignore it from their start
/// on; but not those that are a library in a program of another language, or have undone it.
pub(super) fn without_sigpipe<T>(write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let sigpipe = SigSet::from_iter([Signal::SIGPIPE]);
    let before = sigpipe.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let was_pending = is_pending();
    let result = write();
    let is_broken = result.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
    if is_broken && !was_pending && is_pending() {
        // It is here already: this takes it.
        let _ = sigpipe.wait();
    }
    if !before.contains(Signal::SIGPIPE) {
        sigpipe.thread_unblock()?;
    }
    result
}

/// Whether the signal waits for being unblocked.
#[allow(unsafe_code)]
fn is_pending() -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigpending writes one set, to `pending`, which outlives the call.
    if Errno::result(unsafe { libc::sigpending(pending.as_mut_ptr()) }).is_err() {
        return false;
    }
    // SAFETY: the call has succeeded, so it has filled in the set, which sigismember only reads.
    unsafe { libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// `cargo test` runs tests in threads: the signal is one of the thread that writes, but who
    /// handles it is one for all.
    #[test]
    fn a_pipe_that_nobody_reads_is_an_error_and_no_signal() {
        let was_signalled = Arc::new(AtomicBool::new(false));
        let handler = signal_hook::flag::register(libc::SIGPIPE, was_signalled.clone()).unwrap();
        let write = || {
            let (reader, mut writer) = io::pipe()?;
            drop(reader);
            writer.write_all(b"x")
        };
        for _ in 0..2 {
            let error = without_sigpipe(write).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
            assert!(!was_signalled.load(Ordering::SeqCst));
        }
        assert!(without_sigpipe(|| Ok(())).is_ok());
        write().unwrap_err();
        assert!(was_signalled.load(Ordering::SeqCst), "as it is otherwise");
        signal_hook::low_level::unregister(handler);
    }

    #[test]
    fn a_thread_that_blocks_the_signal_still_does() {
        let sigpipe = SigSet::from_iter([Signal::SIGPIPE]);
        sigpipe.thread_block().unwrap();
        without_sigpipe(|| Ok(())).unwrap();
        assert!(SigSet::thread_get_mask().unwrap().contains(Signal::SIGPIPE));
        sigpipe.thread_unblock().unwrap();
        without_sigpipe(|| Ok(())).unwrap();
        assert!(!SigSet::thread_get_mask().unwrap().contains(Signal::SIGPIPE));
    }
}
