//! Goes into the background once what it was started for is ready.

use super::ending::Exit;
use crate::fault::{Doing, Error, Fault, Result};
use rustix::process::{Pid, WaitOptions};
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;

/// Written by the child when it is ready.
const READY: u8 = 1;

/// Which of the two processes this is.
pub enum Side {
    /// The one that was started: ends as the other tells.
    Parent(Waiting),
    /// The one that does the work and stays.
    Child(Ready),
}

/// The parent's part.
pub struct Waiting {
    child: Pid,
    pipe: PipeReader,
}

/// The child's part.
pub struct Ready {
    pipe: PipeWriter,
}

/// Splits the process in two. The child keeps the terminal until it is ready: its messages are seen, and Ctrl-C
/// reaches it.
///
/// # Errors
/// `Bug` once there are other threads: a child has only the one that forked, and what the others held stays held.
pub fn split() -> Result<Side> {
    let doing = || "going into the background";
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count).unwrap_or(1);
    if threads > 1 {
        return Err(Error::bug(format!("going into the background with {threads} threads")));
    }
    let (reader, writer) = std::io::pipe().doing(doing)?;
    // SAFETY: there is one thread, so the child finds no lock held and no state half changed.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()).doing(doing),
        0 => Ok(Side::Child(Ready { pipe: writer })),
        pid => {
            let child = Pid::from_raw(pid).ok_or_else(|| Error::bug("fork gave no process"))?;
            Ok(Side::Parent(Waiting { child, pipe: reader }))
        }
    }
}

impl Waiting {
    /// Waits until the child is ready, or has ended: then its exit code is ours, and it has told why.
    pub fn wait(mut self) -> Result<Exit> {
        let mut byte = [0];
        if matches!(self.pipe.read(&mut byte), Ok(1)) && byte[0] == READY {
            return Ok(Exit::Done);
        }
        let status =
            rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(self.child), WaitOptions::empty()))
                .doing(|| "waiting for the process in the background")?;
        match status.and_then(|(_, s)| s.exit_status()) {
            Some(code) if code != 0 => Ok(Exit::As(u8::try_from(code).unwrap_or(1))),
            _ => Err(Error::new(Fault::Io, "the process in the background was ended before it was ready")),
        }
    }
}

impl Ready {
    /// Leaves the terminal and the working folder, and lets the parent end. What fails here changes nothing of what
    /// the process was started for, and nobody is left to be told.
    pub fn tell(mut self) {
        let _ = rustix::process::setsid();
        let _ = rustix::process::chdir("/");
        if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stdin(null.as_fd());
            let _ = rustix::stdio::dup2_stdout(null.as_fd());
            let _ = rustix::stdio::dup2_stderr(null.as_fd());
        }
        let _ = self.pipe.write_all(&[READY]);
    }
}
