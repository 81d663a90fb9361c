//! The life of a mount: signals, the background, and threads that end with it.

use crate::fault::{Doing, Error, Result};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Longest message from the background in bytes.
const MESSAGE_MAX: u64 = 64 << 10;

/// The signals that end a mount.
fn signals() -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set that it is given; sigaddset only changes it, and fails only for numbers
    // that are no signals.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

/// Blocks SIGINT, SIGTERM and SIGHUP for this thread and all that it starts, so that only [`Signals`] takes them: by default they
/// would kill the process and leave a dead mount. To be called before any thread is started.
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
                // SAFETY: both point to live values of the right type. The signals are blocked in this thread, as its
                // starter had them blocked.
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
        // SAFETY: the thread was not joined yet, so its handle is good. The signal stays blocked there, and only wakes
        // its sigwait.
        unsafe { libc::pthread_kill(self.thread.as_pthread_t(), libc::SIGTERM) };
        let _ = self.thread.join();
    }
}

/// Which of the two processes we are.
pub enum Background {
    /// The one that was started. Whether the mount became ready, or with what exit code and words to end.
    Parent(std::result::Result<(), (u8, String)>),
    /// The one that goes on; it must say how it went.
    Child(Ready),
}

/// The child's word to its parent. Dropped without a word, the parent reports that the child ended.
pub struct Ready(PipeWriter);

/// Splits into a parent that waits until the mount is ready, and a child in a session of its own that serves it. To be called while
/// there is one thread only, after the password was asked for.
///
/// # Errors
/// `Bug` with more than one thread: locks that others hold would stay locked in the child for good.
pub fn daemonize() -> Result<Background> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(Error::bug(format!("going to the background with {threads} threads")));
    }
    let doing = || "going to the background";
    let (read, write) = io::pipe().doing(doing)?;
    // SAFETY: there is only this thread, so the child is a whole copy: no lock is held by a thread that it lacks.
    match unsafe { libc::fork() } {
        -1 => Err(Error::io(doing(), io::Error::last_os_error())),
        0 => {
            drop(read);
            rustix::process::setsid().doing(doing)?;
            Ok(Background::Child(Ready(write)))
        }
        child => {
            drop(write);
            Ok(Background::Parent(listen(read, child)))
        }
    }
}

/// The parent's side: one message, an exit code and text.
fn listen(pipe: PipeReader, child: libc::pid_t) -> std::result::Result<(), (u8, String)> {
    let mut message = Vec::new();
    // What cannot be read is as if nothing was said.
    let _ = pipe.take(MESSAGE_MAX).read_to_end(&mut message);
    match message.split_first() {
        Some((0, _)) => Ok(()),
        Some((code, text)) => Err((*code, String::from_utf8_lossy(text).into_owned())),
        None => {
            // SAFETY: the child is ours, and nobody else waits for it.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            Err((1, "the process in the background ended before the mount was ready".into()))
        }
    }
}

impl Ready {
    /// The mount can be used: lets go of the terminal and of the current folder, and the parent end.
    pub fn ready(mut self) {
        // Nobody is there to be told if these fail, and the mount works without.
        let _ = std::env::set_current_dir("/");
        if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stdin(null.as_fd());
            let _ = rustix::stdio::dup2_stdout(null.as_fd());
            let _ = rustix::stdio::dup2_stderr(null.as_fd());
        }
        let _ = self.0.write_all(&[0]);
    }

    /// It did not work; the parent ends with this exit code (not 0) and says this.
    pub fn failed(mut self, code: u8, text: &str) {
        let _ = self.0.write_all(&[&[code.max(1)], text.as_bytes()].concat());
    }
}
