//! Restore and export: snapshots become files again.
//!
//! One thread walks the tree, makes the folders and fills a window of things to write ([`plan`]); the others write, each its
//! file from the first byte to the last, frame after frame. Every path is taken one name at a time below the descriptor of
//! a folder, so nothing outside the target is ever written.

#[cfg(test)]
mod again_tests;
mod attributes;
mod content;
mod export;
#[cfg(test)]
mod fake;
mod folder;
mod out;
mod place;
mod plan;
mod readback;
mod remove;
mod shared;
mod walk;
mod write;

pub use export::export;
pub use walk::restore;

use crate::event::{Observer, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::snapshot::Totals;
use crate::format::tree::Entry;
use crate::id::ChunkId;
use crate::repository::{Reader, Repository, Snapshot};
use crate::tree::{self, Chunks};
use shared::{as_path, join};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// When a file that is there already is written over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// Where its content differs: all of them are read.
    Always,
    /// Where its size, time or another attribute differs.
    #[default]
    IfChanged,
    /// Where it is older than the snapshot's.
    IfNewer,
    /// Never.
    Never,
}

/// What to restore, and where.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A path inside the snapshot; empty or `/` for all of it. Of a folder the contents go into the target, a
    /// file goes into the target under its name; of a whole snapshot the absolute paths lie below the target.
    pub path: Vec<u8>,
    /// The folder to restore into; made where it is missing.
    pub target: PathBuf,
    /// Only what matches one of these patterns, and all that is in folders that do; empty for all.
    /// Patterns as gitignore(5), on absolute paths of the snapshot.
    pub include: Vec<OsString>,
    /// Not what matches one of these, nor what is in it.
    pub exclude: Vec<OsString>,
    /// What becomes of files that are there.
    pub overwrite: Overwrite,
    /// Deletes what is in folders of the target and not in those of the snapshot, as far as the patterns choose it. Only
    /// below the paths that were backed up: of folders above them the snapshot does not know all.
    pub delete: bool,
    /// Reads all files back in the end and proves them. Only for `overwrite` that leaves nothing different in place.
    pub verify: bool,
    /// Only tells the observer what would be done.
    pub dry_run: bool,
    /// Threads that write files; 0 for as many as suits the machine.
    pub threads: usize,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Regular files that are there now, hard links and skipped ones included.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Everything else.
    pub others: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Bytes that were written into files.
    pub written: u64,
    /// Files of `files` that were there already, and equal.
    pub skipped: u64,
    /// Files of `files` that were there, and were not to be overwritten.
    pub kept: u64,
    /// Files of `files` that were there, and got only what differed.
    pub rewritten: u64,
    /// Things that were deleted: files, folders and others.
    pub deleted: u64,
    /// Files that were read back and are right.
    pub verified: u64,
    /// Entries that are not there, or not whole (a folder whose list could not be read).
    pub failed: u64,
    /// Those of `failed` whose cause is damage in the repository.
    pub damaged: u64,
    /// Entries that are there, but without some of their attributes.
    pub incomplete: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Where a restore has its chunks from.
pub trait Supply: Chunks + Sync {
    /// Whether these bytes are the data chunk of this id.
    fn is(&self, id: &ChunkId, bytes: &[u8]) -> bool;
    /// Where a data chunk was read just now: the ids of all that came along with it, which cost nothing more to read.
    fn beside(&self, id: &ChunkId) -> Vec<ChunkId>;
}

impl Supply for Reader {
    fn is(&self, id: &ChunkId, bytes: &[u8]) -> bool {
        self.is_data(id, bytes)
    }
    fn beside(&self, id: &ChunkId) -> Vec<ChunkId> {
        self.in_frame_of(id)
    }
}

/// What of a snapshot a restore has to know.
pub struct Source<'a> {
    /// Root page of its tree.
    pub root: &'a ChunkId,
    /// Its sizes.
    pub totals: Option<&'a Totals>,
    /// The absolute paths that were backed up: what lies in the tree above them leads there, and is not all that was.
    pub paths: &'a [Vec<u8>],
}

/// Restores a snapshot, or a part of it.
///
/// Files that are there and equal are left alone; where they differ, what differs is written, in place if nobody but who
/// owns them in the snapshot could have a hand in them, and else they are made anew. Existing folders are kept and filled,
/// everything else in the target stays, unless it is to be deleted. Symlinks in the target are never followed. What cannot be
/// brought back is told to the observer and counted, and the rest goes on.
///
/// A run that ends early, however it does, leaves files under their own names and none under others: finished ones, which have
/// the time of the snapshot, and unfinished ones, which have another. The next run leaves the former alone and completes the
/// latter. After a power cut the same holds, as far as the file system writes the data of a new file before its length (as
/// ext4, XFS and btrfs do); `Overwrite::Always` or `verify` prove it.
///
/// # Errors
/// `Missing` when the path is not in the snapshot; `Stopped`; `Full` when the disk is full; and when the target itself
/// cannot be opened.
pub fn run(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    options: Options,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<Report> {
    more_descriptors();
    let reader = repository.reader();
    let manifest = &snapshot.manifest;
    // Where it cannot be read nothing is known to be whole, and so nothing is deleted.
    let paths = match options.delete {
        true => repository.private(snapshot)?.paths,
        false => Vec::new(),
    };
    let source = Source { root: &manifest.root, totals: Some(&manifest.totals), paths: &paths };
    restore(&*reader, &source, &options, &**observer, stop)
}

/// Each level of folders that is being filled is an open descriptor, and the usual soft limit of 1024 is
/// less than trees can be deep. Where it cannot be raised, the folders that are too deep are told as failed.
fn more_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// Where a restore or an export begins.
struct Start {
    entry: Entry,
    /// Absolute, without a slash at its end.
    path: Vec<u8>,
}

fn start(supply: &dyn Chunks, root: &ChunkId, path: &[u8]) -> Result<Start> {
    let mut absolute = vec![b'/'];
    for part in path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".") {
        absolute = join(&absolute, part);
    }
    let shown = || format!("looking for {} in the snapshot", as_path(&absolute).display());
    match tree::find(supply, root, &absolute).doing(shown)? {
        Some(entry) => Ok(Start { entry, path: absolute }),
        None => Err(Error::new(
            Fault::Missing,
            format!("{} is not in the snapshot", as_path(&absolute).display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::fake::{self, Fake, Scratch, list};
    use super::*;
    use crate::event::Outcome;
    use std::fs;
    use std::thread;

    fn some() -> Fake {
        let mut fake = Fake::default();
        fake.file("home/ana/docs/a.txt", b"first");
        fake.file("home/ana/docs/b.bin", b"second");
        fake.file("home/ana/docs/old/c.txt", b"third");
        fake.file("home/ben/d.txt", b"fourth");
        fake.folder("home/ben/empty", 0o750);
        fake
    }
    fn all(root: &ChunkId) -> Source<'_> {
        Source { root, totals: None, paths: &[] }
    }
    fn options(target: &std::path::Path) -> Options {
        Options { target: target.to_path_buf(), ..Options::default() }
    }

    #[test]
    fn a_whole_snapshot_keeps_its_absolute_paths_below_a_target_that_is_made() {
        let scratch = Scratch::new();
        let target = scratch.0.join("new/target");
        let (report, heard) = some().restore(&target);
        let files =
            ["home/ana/docs/a.txt", "home/ana/docs/b.bin", "home/ana/docs/old/c.txt", "home/ben/d.txt"];
        assert!(files.iter().all(|f| target.join(f).is_file()));
        assert_eq!(fs::read(target.join(files[2])).unwrap(), b"third");
        assert!(target.join("home/ben/empty").is_dir());
        assert_eq!(list(&target).len(), 10, "{:?}", list(&target));
        assert_eq!((report.files, report.folders, report.bytes, report.failed), (4, 7, 22, 0));
        assert!(heard.unread().is_empty());
    }

    #[test]
    fn of_a_path_the_contents_go_into_the_target_and_a_file_under_its_name() {
        let scratch = Scratch::new();
        some().restore_with(Options { path: b"/home/ana//docs/".to_vec(), ..options(&scratch.0) });
        assert_eq!(list(&scratch.0), ["a.txt", "b.bin", "old", "old/c.txt"]);
        some().restore_with(Options { path: b"home/ben/d.txt".to_vec(), ..options(&scratch.0) });
        assert_eq!(fs::read(scratch.0.join("d.txt")).unwrap(), b"fourth");
    }

    #[test]
    fn a_path_that_is_not_there_is_missing_and_makes_no_target() {
        let scratch = Scratch::new();
        let mut fake = some();
        let root = fake.root();
        let options = Options { path: b"/home/cid".to_vec(), ..options(&scratch.0.join("t")) };
        let observer = crate::event::Silent;
        let error = restore(&fake.shelf, &all(&root), &options, &observer, &Stop::new()).unwrap_err();
        assert_eq!(
            (error.fault(), error.to_string().as_str()),
            (Fault::Missing, "/home/cid is not in the snapshot")
        );
        assert!(list(&scratch.0).is_empty());
    }

    #[test]
    fn only_what_is_included_comes_back_with_no_more_folders_than_lead_there() {
        let scratch = Scratch::new();
        some().restore_with(Options { include: vec!["*.txt".into()], ..options(&scratch.0.join("1")) });
        let files = ["home/ana/docs/a.txt", "home/ana/docs/old/c.txt", "home/ben/d.txt"];
        assert!(files.iter().all(|f| scratch.0.join("1").join(f).is_file()));
        assert!(!scratch.0.join("1/home/ben/empty").exists());
        assert_eq!(list(&scratch.0.join("1")).len(), 8);
        some().restore_with(Options {
            include: vec!["/home/ana/docs".into()],
            exclude: vec!["old/".into()],
            ..options(&scratch.0.join("2"))
        });
        let expected = ["home", "home/ana", "home/ana/docs", "home/ana/docs/a.txt", "home/ana/docs/b.bin"];
        assert_eq!(list(&scratch.0.join("2")), expected);
    }

    #[test]
    fn a_dry_run_writes_nothing_and_tells_what_would_be_done() {
        let scratch = Scratch::new();
        let target = scratch.0.join("target");
        let dry = Options { dry_run: true, ..options(&target) };
        let (report, heard) = some().restore_with(dry.clone());
        assert!(!target.exists());
        assert_eq!(
            (report.files, report.bytes, heard.outcome("/home/ben/d.txt")),
            (4, 22, Some(Outcome::Restored))
        );
        some().restore(&target);
        fs::write(target.join("home/ben/d.txt"), b"changed").unwrap();
        let (report, heard) = some().restore_with(dry);
        assert_eq!(report.skipped, 3);
        assert_eq!(heard.outcome("/home/ben/d.txt"), Some(Outcome::Restored));
        assert_eq!(heard.outcome("/home/ana/docs/a.txt"), Some(Outcome::Skipped));
        assert_eq!(fs::read(target.join("home/ben/d.txt")).unwrap(), b"changed");
    }

    #[test]
    fn a_second_restore_skips_what_is_equal_replaces_what_differs_and_leaves_the_rest() {
        let scratch = Scratch::new();
        some().restore(&scratch.0);
        fs::write(scratch.0.join("home/ben/d.txt"), b"changed").unwrap();
        fs::write(scratch.0.join("home/ben/mine"), b"mine").unwrap();
        let (report, heard) = some().restore(&scratch.0);
        assert_eq!((report.files, report.skipped, report.bytes, report.failed), (4, 3, 22, 0));
        assert_eq!(fs::read(scratch.0.join("home/ben/d.txt")).unwrap(), b"fourth");
        assert_eq!(fs::read(scratch.0.join("home/ben/mine")).unwrap(), b"mine");
        assert_eq!(heard.outcome("/home/ben/d.txt"), Some(Outcome::Restored));
    }

    #[test]
    fn who_asks_to_stop_finds_no_half_written_file() {
        let scratch = Scratch::new();
        let stop = Stop::new();
        stop.ask();
        let mut fake = some();
        let root = fake.root();
        let error = restore(&fake.shelf, &all(&root), &options(&scratch.0), &crate::event::Silent, &stop)
            .unwrap_err();
        assert_eq!(error.fault(), Fault::Stopped);
        assert!(list(&scratch.0).is_empty());
    }

    #[test]
    fn folders_as_deep_as_no_path_reaches_come_back() {
        let scratch = Scratch::new();
        let mut fake = Fake::default();
        more_descriptors();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        if limit.is_some_and(|n| n < 4096) {
            return;
        }
        let deep = vec!["deep"; 1500].join("/");
        fake.file(format!("{deep}/file"), b"deep down");
        // Only the making of the snapshot calls itself at each level.
        let large = thread::Builder::new().stack_size(256 << 20);
        let root = thread::scope(|s| large.spawn_scoped(s, || fake.root()).unwrap().join().unwrap());
        let heard = fake::Heard::default();
        let options = options(&scratch.0);
        let report = restore(&fake.shelf, &all(&root), &options, &heard, &Stop::new()).unwrap();
        let mut archive = Vec::new();
        export::export_from(&fake.shelf, &root, b"", &mut archive, &heard, &Stop::new()).unwrap();
        assert_eq!((report.files, report.folders, heard.unread()), (1, 1500, vec![]));
    }
}
