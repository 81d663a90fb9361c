//! What all threads of one restore or export share: the counts, the listener, the request to stop.

use super::Report;
use crate::event::{Event, Observer, Outcome, Stop};
use crate::fault::{Error, Fault, Result};
use crate::tree::Chunks;
use parking_lot::Mutex;
use std::error::Error as _;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// One run.
pub(super) struct Shared<'a> {
    /// Where verified chunks come from.
    pub supply: &'a (dyn Chunks + Sync),
    pub observer: &'a dyn Observer,
    pub stop: &'a Stop,
    report: Mutex<Report>,
    /// What ended the run early.
    fatal: Mutex<Option<Error>>,
    halted: AtomicBool,
    /// Warnings that were given.
    said: Mutex<Vec<&'static str>>,
}

impl<'a> Shared<'a> {
    pub fn new(supply: &'a (dyn Chunks + Sync), observer: &'a dyn Observer, stop: &'a Stop) -> Self {
        Self {
            supply,
            observer,
            stop,
            report: Mutex::default(),
            fatal: Mutex::default(),
            halted: AtomicBool::new(false),
            said: Mutex::default(),
        }
    }

    /// Whether the run is over for all threads.
    pub fn halted(&self) -> bool {
        self.halted.load(Ordering::Relaxed) || self.stop.asked()
    }

    /// Ends the run; the first reason counts.
    pub fn halt(&self, error: Error) {
        self.fatal.lock().get_or_insert(error);
        self.halted.store(true, Ordering::Relaxed);
    }

    /// Counts what was done.
    pub fn count(&self, with: impl FnOnce(&mut Report)) {
        with(&mut self.report.lock());
    }

    /// An entry is finished.
    pub fn finished(&self, path: &[u8], outcome: Outcome, file: bool) {
        self.observer.event(Event::Finished { path: as_path(path), outcome, file });
    }

    /// An entry could not be brought back. Being asked to stop and a full disk end the run instead.
    pub fn failed(&self, path: &[u8], error: Error) {
        let full = matches!(os_error(&error), Some(libc::ENOSPC | libc::EDQUOT));
        if error.fault() == Fault::Stopped || full {
            return self.halt(error.while_(format!("restoring {}", as_path(path).display())));
        }
        self.count(|r| {
            r.failed += 1;
            r.damaged += u64::from(error.fault() == Fault::Damaged);
        });
        self.observer.event(Event::Unread { path: as_path(path), reason: &error.chain() });
    }

    /// An entry is there, but lacks attributes.
    pub fn incomplete(&self, path: &[u8], reason: &str) {
        self.count(|r| r.incomplete += 1);
        self.observer.event(Event::Unread { path: as_path(path), reason });
    }

    /// Says something once in a run.
    pub fn say_once(&self, text: &'static str) {
        let mut said = self.said.lock();
        if !said.contains(&text) {
            said.push(text);
            drop(said);
            self.observer.event(Event::Warning(text));
        }
    }

    /// The counts, or what ended the run.
    pub fn end(self) -> Result<Report> {
        match self.fatal.into_inner() {
            Some(error) => Err(error),
            None => {
                self.stop.check()?;
                Ok(self.report.into_inner())
            }
        }
    }
}

/// Bytes of a path as the rest of the program takes them.
pub(super) fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// `folder/name`.
pub(super) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(folder.len() + 1 + name.len());
    path.extend_from_slice(folder);
    if !folder.is_empty() && folder.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The error number at the bottom of a failure.
pub(super) fn os_error(error: &Error) -> Option<i32> {
    let mut at = error.source();
    while let Some(e) = at {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        at = e.source();
    }
    None
}
