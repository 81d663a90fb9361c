//! The walk through the snapshot's tree, and the threads beside it.

use super::folder::{Enter, Folder};
use super::plan::Plan;
use super::remove::{self, Extras};
use super::request::{Start, start};
use super::shared::{Filter, Shared, join};
use super::write::{Job, Writer};
use super::{Options, Report, Source, Supply, readback};
use crate::event::{Event, Observer, Stop};
use crate::fault::{Doing, Result};
use crate::format::tree::{Entry, Node};
use crate::id::ChunkId;
use crate::tree::Listing;
use rustix::process::{Resource, getrlimit};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

/// Most folders that things which wait to be written keep open.
const FOLDERS_MAX: u64 = 4096;
/// What part of the descriptors of the process that may be: the rest is for levels of folders, files and packs.
const FOLDERS_SHARE: u64 = 4;

/// What the walk is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// To write.
    Write,
    /// To read back what was written.
    Verify,
}

/// What the walk knows of a folder of the snapshot.
struct Level {
    listing: Listing,
    /// Absolute path in the snapshot.
    path: Vec<u8>,
    /// It, or one above it, is included.
    selected: bool,
    /// Its own entry, until its folder is there.
    entry: Entry,
    folder: Option<Arc<Folder>>,
    /// What may have to go from it.
    extras: Extras,
    /// The snapshot was not seen to hold anything in it.
    empty: bool,
}

/// Restores a snapshot, or a part of it, with chunks from any supply: see [`super::run`].
///
/// # Errors
/// As [`super::run`].
pub fn restore(
    supply: &dyn Supply,
    source: &Source<'_>,
    options: &Options,
    observer: &dyn Observer,
    stop: &Stop,
) -> Result<Report> {
    let began = Instant::now();
    let filter = Filter::new(&options.include, &options.exclude)?;
    let start = start(supply, source.root, &options.path)?;
    let whole = start.path == b"/" && filter.is_empty();
    if let (Some(totals), true) = (source.totals, whole) {
        observer.event(Event::Planned { files: totals.files, bytes: totals.bytes });
    }
    let shared = Shared::new(supply, observer, stop).with(filter, options, &source.unread);
    // A filter may leave nothing of the top folder but the way to what is restored.
    let top = matches!(start.entry.node, Node::Folder(_)).then(|| start.entry.clone());
    let target = Folder::target(&options.target, top, &start.path, options.dry_run)?;
    let writer = Writer::new(&shared, target.clone());
    let walk = Walk { shared: &shared, paths: source.paths, pass: Pass::Write };
    let threads = match options.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    walk.with_threads(&start, target, threads, &|job| writer.run(job));
    writer.end();
    if options.verify && !options.dry_run && !shared.halted() {
        observer.event(Event::Detail("reading back what was restored"));
        let target = Folder::target(&options.target, None, &start.path, false)?;
        // What is not on the disk yet cannot be read from there.
        if let Some(fd) = target.fd() {
            rustix::fs::syncfs(fd).doing(|| "writing all data to the disk")?;
        }
        let walk = Walk { shared: &shared, paths: &[], pass: Pass::Verify };
        walk.with_threads(&start, target, threads, &|job| readback::verify(&shared, job));
    }
    let mut report = shared.end()?;
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

struct Walk<'a> {
    shared: &'a Shared<'a>,
    /// The paths below which the snapshot knows all that there was.
    paths: &'a [Vec<u8>],
    pass: Pass,
}

impl Walk<'_> {
    /// Walks, while so many threads do what is to be done.
    fn with_threads(&self, start: &Start, target: Arc<Folder>, threads: usize, each: &(dyn Fn(Job) + Sync)) {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let plan = Plan::new((descriptors / FOLDERS_SHARE).clamp(1, FOLDERS_MAX) as usize);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| self.work(&plan, each));
            }
            self.from(start, target, &plan);
            plan.end();
        });
    }

    fn work(&self, plan: &Plan, each: &(dyn Fn(Job) + Sync)) {
        let looks_ahead = self.pass == Pass::Write && self.shared.supply.looks_ahead();
        while let Some(job) = plan.take() {
            let begin = job.begin();
            if looks_ahead {
                let coming = plan.coming();
                if !coming.is_empty() {
                    self.shared.supply.expect(&coming);
                }
            }
            each(job);
            // Its frame is decoded: whatever else begins in it is cheap now.
            if let (Some(begin), Pass::Write) = (begin, self.pass) {
                let beside = self.shared.supply.beside(&begin);
                if !beside.is_empty() {
                    plan.take_beginning(&beside).into_iter().for_each(each);
                }
            }
        }
    }

    fn from(&self, start: &Start, target: Arc<Folder>, plan: &Plan) {
        let Node::Folder(id) = start.entry.node else {
            return plan.push(Job { folder: target, entry: start.entry.clone(), path: start.path.clone() });
        };
        let selected = self.shared.filter.includes(&start.path, true);
        let (path, entry) = (start.path.clone(), start.entry.clone());
        let extras = self.extras(&target, &path);
        let listing = Listing::new(&id);
        let mut levels =
            vec![Level { listing, path, selected, entry, folder: Some(target), extras, empty: true }];
        while !self.shared.halted()
            && let Some(level) = levels.last_mut()
        {
            let entry = match level.listing.next(self.shared.supply) {
                Ok(entry) => entry,
                Err(e) => {
                    // What it may hold is not known: nothing more is deleted from it.
                    level.extras = Extras::default();
                    if self.pass == Pass::Write {
                        let text = "reading the folder; what follows in it is not restored";
                        self.shared.failed(&level.path.clone(), e.while_(text));
                    }
                    None
                }
            };
            level.empty &= entry.is_none();
            if level.empty && level.folder.as_ref().and_then(|f| f.fd()).is_some_and(remove::is_mounted_on) {
                // Saved as an empty folder, as another file system was not to be saved, or is mounted there since: of what
                // is in it the snapshot knows nothing.
                level.extras = Extras::default();
            }
            self.remove_before(level, entry.as_ref());
            let Some(entry) = entry else {
                self.pop(&mut levels);
                continue;
            };
            let path = join(&level.path, &entry.name);
            let is_folder = matches!(entry.node, Node::Folder(_));
            if self.shared.filter.excludes(&path, is_folder) {
                continue;
            }
            let selected = level.selected || self.shared.filter.includes(&path, is_folder);
            match entry.node {
                Node::Folder(id) => self.descend(&mut levels, entry, id, path, selected),
                _ if selected => {
                    if let Some(folder) = self.folder(&mut levels) {
                        plan.push(Job { folder, entry, path });
                    }
                }
                _ => {}
            }
        }
        while !levels.is_empty() {
            self.pop(&mut levels);
        }
    }

    fn pop(&self, levels: &mut Vec<Level>) {
        if let Some(folder) = levels.pop().and_then(|l| l.folder) {
            folder.leave(self.shared);
        }
    }

    /// Removes what is in the target's folder and not in the snapshot's, up to the next thing that is.
    fn remove_before(&self, level: &mut Level, next: Option<&Entry>) {
        while let Some(name) = level.extras.before(next.map(|e| e.name.as_slice())) {
            if let Some(fd) = level.folder.as_ref().and_then(|f| f.fd()) {
                remove::remove(self.shared, fd, &name, join(&level.path, &name), level.selected);
            }
        }
    }

    /// What there is in a folder of the target that was there before, and of which the snapshot knows all.
    fn extras(&self, folder: &Folder, path: &[u8]) -> Extras {
        let known = |top: &Vec<u8>| {
            let rest = path.strip_prefix(top.strip_suffix(b"/").unwrap_or(top));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        let Some(fd) = folder.fd().filter(|_| !folder.made) else { return Extras::default() };
        if self.pass != Pass::Write || !self.shared.delete || !self.paths.iter().any(known) {
            return Extras::default();
        }
        Extras::of(fd).unwrap_or_else(|e| {
            self.shared.failed(path, e.while_("nothing is deleted in it"));
            Extras::default()
        })
    }

    fn descend(&self, levels: &mut Vec<Level>, entry: Entry, id: ChunkId, path: Vec<u8>, selected: bool) {
        let listing = Listing::new(&id);
        let extras = Extras::default();
        levels.push(Level { listing, path, selected, entry, folder: None, extras, empty: true });
        let entered = match (self.pass, selected, self.shared.delete) {
            (Pass::Verify, ..) => self.existing(levels),
            (Pass::Write, true, _) => self.folder(levels),
            // It may hold what is to go, whether or not there is something to restore in it.
            (Pass::Write, false, true) => self.existing(levels),
            (Pass::Write, false, false) => None,
        };
        if let (Some(folder), Some(level)) = (entered, levels.last_mut()) {
            level.extras = self.extras(&folder, &level.path);
            // The level holds a reference of its own.
            folder.leave(self.shared);
        }
    }

    /// The target folder of the innermost level, if it is there.
    fn existing(&self, levels: &mut [Level]) -> Option<Arc<Folder>> {
        let (level, above) = levels.split_last_mut()?;
        let outer = above.last()?.folder.clone()?;
        let how = Enter { make: false, keep: true, dry_run: self.shared.dry_run, replace: false };
        // What is not there, or no folder, is told where something is to be written into it.
        let entered = outer.enter(&level.entry, &level.path, how).ok();
        outer.leave(self.shared);
        level.folder = entered.clone();
        entered
    }

    /// The target folder of the innermost level; it and those above are made now where that has not
    /// been necessary so far. Where that fails, all levels from there on are given up: `None`.
    fn folder(&self, levels: &mut Vec<Level>) -> Option<Arc<Folder>> {
        let first = levels.iter().rposition(|l| l.folder.is_some())?;
        let mut folder = levels[first].folder.clone()?;
        if self.pass == Pass::Verify {
            // Of what is in a folder that is not there, nothing is.
            return match first + 1 == levels.len() {
                true => Some(folder),
                false => {
                    folder.leave(self.shared);
                    None
                }
            };
        }
        for i in first + 1..levels.len() {
            let level = &levels[i];
            let (keep, dry_run) = (!level.selected, self.shared.dry_run);
            let how = Enter { make: true, keep, dry_run, replace: self.shared.delete };
            match folder.enter(&level.entry, &level.path, how) {
                Ok(inner) => {
                    folder.leave(self.shared);
                    levels[i].folder = Some(inner.clone());
                    folder = inner;
                }
                Err(e) => {
                    folder.leave(self.shared);
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
}
