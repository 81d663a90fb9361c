//! Signals, and the thread that waits for them.

use crate::fault::{Doing, Result};
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// The signals that end a mount.
fn signals() -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set that it is given; sigaddset only changes it, and fails only
    // for numbers that are no signals.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

/// Blocks SIGINT, SIGTERM and SIGHUP for this thread and all that it starts, so that only the thread for signals takes
/// them: by default they would kill the process and leave a dead mount. To be called before any thread is
/// started.
pub fn block_signals() {
    // SAFETY: the set is initialised, the old mask is not asked for.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, &signals(), std::ptr::null_mut());
    }
}

/// A thread that waits for signals.
pub(super) struct Signals {
    done: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Signals {
    /// Calls `act` at each signal, with how many came before.
    pub fn watch(act: impl Fn(usize) + Send + 'static) -> Result<Self> {
        block_signals();
        let done = Arc::new(AtomicBool::new(false));
        let flag = done.clone();
        let wait = move || {
            let set = signals();
            for n in 0.. {
                let mut signal = 0;
                // SAFETY: both point to live values of the right type. The signals are blocked in this
                // thread, as its starter had them blocked.
                unsafe { libc::sigwait(&set, &mut signal) };
                if flag.load(Ordering::Acquire) {
                    return;
                }
                act(n);
            }
        };
        let builder = std::thread::Builder::new().name("signals".into());
        Ok(Self { done, thread: builder.spawn(wait).doing(|| "starting a thread for signals")? })
    }

    /// Ends the thread.
    pub fn end(self) {
        self.done.store(true, Ordering::Release);
        // SAFETY: the thread was not joined yet, so its handle is good. The signal stays blocked there, and
        // only wakes its sigwait.
        unsafe { libc::pthread_kill(self.thread.as_pthread_t(), libc::SIGTERM) };
        let _ = self.thread.join();
    }
}
