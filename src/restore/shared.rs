//! What all threads of one restore or export share: the counts, the listener, the request to stop.

use super::attributes::Myself;
use super::{Options, Overwrite, Report, Supply};
use crate::event::{Event, Observer, Outcome, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::source::Exclude;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, RandomState};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// One run.
pub(super) struct Shared<'a> {
    /// Where verified chunks come from.
    pub supply: &'a dyn Supply,
    pub observer: &'a dyn Observer,
    pub stop: &'a Stop,
    pub me: Myself,
    /// What is chosen by patterns.
    pub filter: Filter,
    /// What is not in the snapshot goes.
    pub delete: bool,
    /// But not these paths.
    pub unread: HashSet<Vec<u8>>,
    /// And not these folders (device, inode).
    pub spared: HashSet<(u64, u64)>,
    pub overwrite: Overwrite,
    /// Nothing is written.
    pub dry_run: bool,
    report: Mutex<Report>,
    /// What ended the run early.
    fatal: Mutex<Option<Error>>,
    halted: AtomicBool,
    /// Warnings that were given.
    said: Mutex<Vec<&'static str>>,
    failures: Failures,
}

/// What failed, by a hash of its path: who reads all back does not tell it again.
#[derive(Default)]
struct Failures {
    hasher: RandomState,
    paths: Mutex<HashSet<u64>>,
}

/// Which paths were asked for.
#[derive(Default)]
pub(super) struct Filter {
    include: Exclude,
    exclude: Exclude,
}

impl Filter {
    /// From patterns as gitignore(5).
    pub fn new(include: &[OsString], exclude: &[OsString]) -> Result<Self> {
        Ok(Self {
            include: Exclude::new::<_, &str>(include, &[]).doing(|| "reading the patterns to include")?,
            exclude: Exclude::new::<_, &str>(exclude, &[]).doing(|| "reading the patterns to leave out")?,
        })
    }
    /// Whether everything was asked for.
    pub fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }
    /// Whether this is included, whatever it lies in.
    pub fn includes(&self, path: &[u8], folder: bool) -> bool {
        self.include.is_empty() || self.include.matches(as_path(path), folder)
    }
    /// Whether this is excluded, and all that is in it.
    pub fn excludes(&self, path: &[u8], folder: bool) -> bool {
        self.exclude.matches(as_path(path), folder)
    }
}

impl<'a> Shared<'a> {
    pub fn new(supply: &'a dyn Supply, observer: &'a dyn Observer, stop: &'a Stop) -> Self {
        Self {
            supply,
            observer,
            stop,
            me: Myself::new(),
            filter: Filter::default(),
            delete: false,
            unread: HashSet::new(),
            spared: HashSet::new(),
            overwrite: Overwrite::default(),
            dry_run: false,
            failures: Failures::default(),
            report: Mutex::default(),
            fatal: Mutex::default(),
            halted: AtomicBool::new(false),
            said: Mutex::default(),
        }
    }

    /// What was asked for.
    pub fn with(self, filter: Filter, options: &Options, unread: &[Vec<u8>]) -> Self {
        let Options { delete, overwrite, dry_run, .. } = *options;
        let spared = options.spared.iter().copied().collect();
        Self { filter, delete, unread: unread.iter().cloned().collect(), spared, overwrite, dry_run, ..self }
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
        self.failures.paths.lock().insert(self.failures.hasher.hash_one(path));
        self.count(|r| {
            r.failed += 1;
            r.damaged += u64::from(error.fault() == Fault::Damaged);
        });
        self.observer.event(Event::Unread { path: as_path(path), reason: &error.chain() });
    }

    /// Whether that was told of an entry.
    pub fn has_failed(&self, path: &[u8]) -> bool {
        self.failures.paths.lock().contains(&self.failures.hasher.hash_one(path))
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
