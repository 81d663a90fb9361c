//! Restore and export: snapshots become files again.
//!
//! One thread walks the tree and makes the folders; the others write the files, each from its first byte to its
//! last, in the order of the tree, which is the order in which their chunks lie in the packs. Every path is taken
//! one name at a time below the descriptor of a folder, so nothing outside the target is ever written.

mod attributes;
mod content;
mod export;
#[cfg(test)]
mod fake;
mod folder;
mod shared;
mod write;

pub use export::export;

use crate::event::{Event, Observer, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::snapshot::Totals;
use crate::format::tree::{Entry, Node};
use crate::id::ChunkId;
use crate::repository::{Repository, Right, Snapshot};
use crate::source::Exclude;
use crate::tree::{self, Chunks};
use crossbeam_channel::Sender;
use folder::Folder;
use shared::{Shared, as_path, join};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use write::{Job, Writer};

/// Threads beyond the cores: some of them wait for the disk or for the storage.
const EXTRA_THREADS: usize = 2;
/// Jobs that wait for a thread. Each may keep a folder open.
const QUEUE: usize = 64;

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
    /// Files of `files` that were there already, equal in size, time and all other attributes.
    pub skipped: u64,
    /// Entries that are not there, or not whole (a folder whose list could not be read).
    pub failed: u64,
    /// Those of `failed` whose cause is damage in the repository.
    pub damaged: u64,
    /// Entries that are there, but without some of their attributes.
    pub incomplete: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Restores a snapshot, or a part of it.
///
/// Existing files are replaced unless they are equal, existing folders are kept and filled, everything else
/// in the target stays. Symlinks in the target are never followed. What cannot be brought back is told to the observer
/// and counted, and the rest goes on.
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
    repository.allow(Right::Read, "restoring")?;
    more_descriptors();
    let reader = repository.reader();
    let manifest = &snapshot.manifest;
    restore(&*reader, &manifest.root, Some(&manifest.totals), &options, &**observer, stop)
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

/// What the walk knows of a folder of the snapshot.
struct Level {
    entries: std::vec::IntoIter<Entry>,
    /// Absolute path in the snapshot.
    path: Vec<u8>,
    /// It, or one above it, is included.
    selected: bool,
    /// Its own entry, until its folder is there.
    entry: Entry,
    folder: Option<Arc<Folder>>,
}

fn restore(
    supply: &(dyn Chunks + Sync),
    root: &ChunkId,
    totals: Option<&Totals>,
    options: &Options,
    observer: &dyn Observer,
    stop: &Stop,
) -> Result<Report> {
    let began = std::time::Instant::now();
    let include =
        Exclude::new::<_, &str>(&options.include, &[]).doing(|| "reading the patterns to include")?;
    let exclude =
        Exclude::new::<_, &str>(&options.exclude, &[]).doing(|| "reading the patterns to leave out")?;
    let start = start(supply, root, &options.path)?;
    let whole = start.path == b"/" && include.is_empty() && exclude.is_empty();
    if let (Some(totals), true) = (totals, whole) {
        observer.event(Event::Planned { files: totals.files, bytes: totals.bytes });
    }

    let shared = Shared::new(supply, observer, stop);
    // A filter may leave nothing of the top folder but the way to what is restored.
    let top = matches!(start.entry.node, Node::Folder(_)).then(|| start.entry.clone());
    let target = Folder::target(&options.target, top, &start.path, options.dry_run)?;
    let writer = Writer::new(&shared, target.clone(), options.dry_run);
    let threads = match options.threads {
        0 => thread::available_parallelism().map_or(1, |n| n.get()) + EXTRA_THREADS,
        n => n,
    };
    let (jobs, queue) = crossbeam_channel::bounded::<Job>(QUEUE);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (queue, writer) = (queue.clone(), &writer);
            scope.spawn(move || queue.iter().for_each(|job| writer.run(job)));
        }
        drop(queue);
        let walk = Walk { shared: &shared, jobs, include, exclude, dry_run: options.dry_run };
        if let Err(e) = walk.from(start, target) {
            shared.halt(e);
        }
    });
    writer.end();
    let mut report = shared.end()?;
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
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

/// The walk through the snapshot's tree.
struct Walk<'a> {
    shared: &'a Shared<'a>,
    jobs: Sender<Job>,
    include: Exclude,
    exclude: Exclude,
    dry_run: bool,
}

impl Walk<'_> {
    fn from(self, start: Start, target: Arc<Folder>) -> Result<()> {
        let Node::Folder(id) = start.entry.node else {
            return self.send(target, start.entry, start.path);
        };
        let selected = self.included(&start.path, true);
        let entries = tree::entries(self.shared.supply, &id)
            .doing(|| format!("reading the folder {}", as_path(&start.path).display()))?
            .into_iter();
        let mut levels =
            vec![Level { entries, path: start.path, selected, entry: start.entry, folder: Some(target) }];
        while !self.shared.halted()
            && let Some(level) = levels.last_mut()
        {
            let Some(entry) = level.entries.next() else {
                self.pop(&mut levels);
                continue;
            };
            let path = join(&level.path, &entry.name);
            let is_folder = matches!(entry.node, Node::Folder(_));
            if self.exclude.matches(as_path(&path), is_folder) {
                continue;
            }
            let selected = level.selected || self.included(&path, is_folder);
            match entry.node {
                Node::Folder(id) => self.descend(&mut levels, entry, id, path, selected),
                _ if selected => match self.folder(&mut levels) {
                    Some(folder) => self.send(folder, entry, path)?,
                    None => continue,
                },
                _ => {}
            }
        }
        while !levels.is_empty() {
            self.pop(&mut levels);
        }
        Ok(())
    }

    fn included(&self, path: &[u8], folder: bool) -> bool {
        self.include.is_empty() || self.include.matches(as_path(path), folder)
    }

    fn pop(&self, levels: &mut Vec<Level>) {
        if let Some(folder) = levels.pop().and_then(|l| l.folder) {
            folder.leave(self.shared, self.dry_run);
        }
    }

    fn descend(&self, levels: &mut Vec<Level>, entry: Entry, id: ChunkId, path: Vec<u8>, selected: bool) {
        let entries = tree::entries(self.shared.supply, &id).unwrap_or_else(|e| {
            self.shared.failed(&path, e.while_("reading the folder; nothing in it is restored"));
            Vec::new()
        });
        levels.push(Level { entries: entries.into_iter(), path, selected, entry, folder: None });
        if selected && let Some(folder) = self.folder(levels) {
            // The level holds a reference of its own.
            folder.leave(self.shared, self.dry_run);
        }
    }

    /// The target folder of the innermost level; it and those above are made now where that has not
    /// been necessary so far. Where that fails, all levels from there on are given up: `None`.
    fn folder(&self, levels: &mut Vec<Level>) -> Option<Arc<Folder>> {
        let first = levels.iter().rposition(|l| l.folder.is_some())?;
        let mut folder = levels[first].folder.clone()?;
        for i in first + 1..levels.len() {
            let level = &levels[i];
            match folder.enter(&level.entry, &level.path, !level.selected, self.dry_run) {
                Ok(inner) => {
                    folder.leave(self.shared, self.dry_run);
                    levels[i].folder = Some(inner.clone());
                    folder = inner;
                }
                Err(e) => {
                    folder.leave(self.shared, self.dry_run);
                    let path = level.path.clone();
                    self.shared.failed(&path, e.while_("nothing in this folder is restored"));
                    while levels.len() > i {
                        self.pop(levels);
                    }
                    return None;
                }
            }
        }
        Some(folder)
    }

    fn send(&self, folder: Arc<Folder>, entry: Entry, path: Vec<u8>) -> Result<()> {
        match self.jobs.send(Job { folder, entry, path }) {
            Ok(()) => Ok(()),
            Err(rejected) => {
                rejected.0.folder.leave(self.shared, self.dry_run);
                Err(Error::bug("no thread is left to write files"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::{self, Fake, Scratch, list};
    use super::*;
    use crate::event::Outcome;
    use std::fs;

    fn some() -> Fake {
        let mut fake = Fake::default();
        fake.file("home/ana/docs/a.txt", b"first");
        fake.file("home/ana/docs/b.bin", b"second");
        fake.file("home/ana/docs/old/c.txt", b"third");
        fake.file("home/ben/d.txt", b"fourth");
        fake.folder("home/ben/empty", 0o750);
        fake
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
        let error = restore(&fake.shelf, &root, None, &options, &observer, &Stop::new()).unwrap_err();
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
        let error = restore(&fake.shelf, &root, None, &options(&scratch.0), &crate::event::Silent, &stop)
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
        let report = restore(&fake.shelf, &root, None, &options, &heard, &Stop::new()).unwrap();
        let mut archive = Vec::new();
        export::export_from(&fake.shelf, &root, b"", &mut archive, &heard, &Stop::new()).unwrap();
        assert_eq!((report.files, report.folders, heard.unread()), (1, 1500, vec![]));
    }
}
