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
mod request;
mod shared;
mod walk;
mod write;

pub use export::export;
pub use request::{Options, Overwrite, Report, Source, Supply};
pub use walk::restore;

use crate::event::{Event, Observer, Stop};
use crate::fault::{Error, Result};
use crate::id::ChunkId;
use crate::repository::{Reader, Repository, Right, Snapshot};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

impl Supply for Reader {
    fn is(&self, id: &ChunkId, bytes: &[u8]) -> bool {
        self.is_data(id, bytes)
    }
    fn beside(&self, id: &ChunkId) -> Vec<ChunkId> {
        self.in_frame_of(id)
    }
}

const TOO_MANY_UNREAD: &str =
    "so many files could not be read for this snapshot that it does not name them all: nothing is deleted";

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
    mut options: Options,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<Report> {
    repository.allow(Right::Read, "restoring")?;
    let own = repository.own_folders();
    options.spared.extend(own.iter().filter_map(|path| identity(path)));
    // Where it is not there yet it will be below the nearest folder that is.
    let way = options.target.ancestors().find_map(|path| path.canonicalize().ok()).unwrap_or_default();
    if way.ancestors().filter_map(identity).any(|folder| options.spared.contains(&folder)) {
        let text = format!("the target {} lies in the repository or its cache", options.target.display());
        return Err(Error::misuse(text).hint("restore into a folder of its own"));
    }
    more_descriptors();
    let reader = repository.reader();
    let manifest = &snapshot.manifest;
    // Where it cannot be read nothing is known to be whole, and so nothing is deleted.
    let (mut paths, mut unread) = (Vec::new(), Vec::new());
    if options.delete {
        let private = repository.private(snapshot)?;
        if private.unread_total > private.unread.len() as u64 {
            observer.event(Event::Warning(TOO_MANY_UNREAD));
        } else {
            paths = private.paths;
            unread = private.unread.into_iter().map(|u| u.path).collect();
        }
    }
    let source = Source { root: &manifest.root, totals: Some(&manifest.totals), paths: &paths, unread };
    restore(&*reader, &source, &options, &**observer, stop)
}

/// Device and inode of what is at a path.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
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

#[cfg(test)]
mod tests {
    use super::fake::{self, Fake, Scratch, list};
    use super::*;
    use crate::event::Outcome;
    use crate::fault::Fault;
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
        Source { root, totals: None, paths: &[], unread: Vec::new() }
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
