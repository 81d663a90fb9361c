//! What happened, told to whoever listens: progress, log, metrics. The library itself prints nothing.

use crate::fault::{Error, Fault, Result};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What was done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there before.
    New,
    /// It differs from the parent snapshot.
    Changed,
    /// It is as in the parent snapshot, and was not read.
    Unchanged,
    /// It was written out.
    Restored,
    /// It was there already, and equal.
    Skipped,
    /// It was there already, and what differed was written.
    Rewritten,
    /// It was not in the snapshot, and is gone.
    Deleted,
    /// It was read from the repository, and is what it must be or was told to be not.
    Verified,
}

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// How much there is to do, as far as known; may come again with better numbers.
    Planned {
        /// Regular files.
        files: u64,
        /// Bytes of them.
        bytes: u64,
    },
    /// A verb begins with an entry.
    Started(&'a Path),
    /// So many more bytes are done with (read, written, or found unchanged).
    Bytes(u64),
    /// An entry is finished.
    Finished {
        /// Absolute path.
        path: &'a Path,
        /// What was done.
        outcome: Outcome,
        /// It is a regular file.
        file: bool,
    },
    /// An entry could not be read or written, or changed meanwhile; the work goes on, the exit code is 3.
    Unread {
        /// Absolute path.
        path: &'a Path,
        /// Why.
        reason: &'a str,
    },
    /// Something that people should know; the work goes on.
    Warning(&'a str),
    /// A detail for `-v`.
    Detail(&'a str),
}

/// Listens. Called from many threads; must not block for long.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

/// Listens to nothing.
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event<'_>) {}
}

/// A request to stop, seen by all threads of a verb.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// Asks to stop; safe in a signal handler.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
    /// Whether somebody has asked.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
    /// # Errors
    /// `Stopped` once somebody has asked.
    pub fn check(&self) -> Result<()> {
        if self.asked() { Err(Error::new(Fault::Stopped, "interrupted")) } else { Ok(()) }
    }
    /// The flag, for signal handlers.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}
