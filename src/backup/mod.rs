//! Backup: the walk of the source merged with the parent snapshot's trees; what is new is read,
//! cut, and written; folders are finished bottom-up; then the commit.

mod files;
mod folder;
mod merge;
mod output;
mod parent;
mod table;

use crate::clock::Time;
use crate::event::{Event, Observer, Stop};
use crate::fault::{Error, Fault, Result};
use crate::format::snapshot::{PATH_MAX, Private, TEXT_MAX, Totals, UNREAD_MAX, Unread};
use crate::format::tree::NAME_MAX;
use crate::id::{ChunkId, PackId, SnapshotId};
use crate::repository::{Commit, Draft, Repository, Snapshot, Writer, WriterOptions};
use crate::seal::Compression;
use crate::source;
use crate::storage;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use table::Table;

/// How often a backup starts over when prune took it for dead, or packs that it relied on are gone.
const ATTEMPTS: usize = 4;
/// Longest reason that a manifest keeps of a file that was not read.
const REASON_MAX: usize = TEXT_MAX;
/// Most bytes of paths and reasons in a manifest, whose own limit is 16 MiB; the rest is counted.
const UNREAD_BYTES_MAX: usize = 4 << 20;

/// What is saved.
pub enum From {
    /// Folders and files.
    Files(source::Options),
    /// What a program prints, as one file.
    Command {
        /// For `sh -c`.
        command: OsString,
        /// Its path in the snapshot, without leading `/`.
        name: Vec<u8>,
    },
}

/// How it is saved.
pub struct Options {
    /// What.
    pub from: From,
    /// Tags of the snapshot.
    pub tags: Vec<Vec<u8>>,
    /// Host name of the snapshot.
    pub host: Vec<u8>,
    /// Its time; now, unless given.
    pub time: Option<Time>,
    /// Nothing is written.
    pub dry_run: bool,
    /// Everything is read, however unchanged it looks.
    pub force: bool,
    /// A changed ctime alone does not make a file changed.
    pub ignore_ctime: bool,
    /// No snapshot when nothing differs from the parent.
    pub skip_if_unchanged: bool,
    /// Of new data.
    pub compression: Compression,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The new snapshot; none after a dry run, or when nothing had changed.
    pub snapshot: Option<SnapshotId>,
    /// What it was compared with.
    pub parent: Option<SnapshotId>,
    /// Counts.
    pub totals: Totals,
    /// Entries that are new, changed, unchanged.
    pub changes: (u64, u64, u64),
    /// Files and folders that are unchanged and were read all the same, since the repository had lost something of them.
    pub stored_again: u64,
    /// The first files that could not be read, or changed meanwhile.
    pub unread: Vec<Unread>,
    /// How many there were.
    pub unread_total: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    fn unread(&mut self, path: &Path, reason: &str, changed: bool, observer: &Arc<dyn Observer>) {
        observer.event(Event::Unread { path, reason });
        self.unread_total += 1;
        let mut reason = reason.as_bytes().to_vec();
        reason.truncate(REASON_MAX);
        let path = path.as_os_str().as_bytes().to_vec();
        let bytes: usize = self.unread.iter().map(|u| u.path.len() + u.reason.len()).sum();
        let room = bytes + path.len() + reason.len() <= UNREAD_BYTES_MAX && path.len() <= PATH_MAX;
        if self.unread.len() < UNREAD_MAX && room {
            self.unread.push(Unread { path, reason, changed });
        }
    }
}

/// Runs a backup.
///
/// # Errors
/// `Stopped` when somebody asked; then, and after every other failure, what was stored is found by the next
/// backup. Files that cannot be read are no error: they are in the report.
pub fn run(
    repository: &Arc<Repository>,
    options: Options,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<Report> {
    let start = Instant::now();
    let mut distrust: HashSet<PackId> = HashSet::new();
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let (report, ended) = attempt(repository, &options, distrust.clone(), observer, stop)?;
        match ended {
            Ended::Done => return Ok(Report { seconds: start.elapsed().as_secs_f64(), ..report }),
            Ended::Again(more, e) => {
                observer.event(Event::Warning(&format!("starting over: {}", e.chain())));
                distrust.extend(more);
                last = Some(e);
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::bug("a backup ended without an end")))
}

enum Ended {
    Done,
    Again(HashSet<PackId>, Error),
}

fn attempt(
    repository: &Arc<Repository>,
    options: &Options,
    distrust: HashSet<PackId>,
    observer: &Arc<dyn Observer>,
    stop: &Stop,
) -> Result<(Report, Ended)> {
    let paths = paths(&options.from)?;
    let distrusting = !distrust.is_empty();
    let is_parent = |s: &Snapshot| match repository.keeps_files() {
        true => Table::last_id(repository, &options.host, &paths) == Some(s.id),
        false => repository.believes(s) && repository.private(s).is_ok_and(|private| private.paths == paths),
    };
    let mut writer = Writer::begin_backup(
        repository,
        WriterOptions {
            compression: options.compression,
            host: options.host.clone(),
            purpose: "backup",
            dry_run: options.dry_run,
            distrust,
            stop: stop.clone(),
        },
        &is_parent,
    )?;
    // What a parent's trees say of packs that are gone is not to be trusted either.
    let table = Table::of(repository, &writer, options.ignore_ctime, distrusting)?;
    let parent = match (distrusting, table.is_kept) {
        (true, _) => None,
        (false, true) => Table::last(repository, &writer, &options.host, &paths),
        (false, false) => parent(repository, &writer, options, &paths, observer),
    };
    let mut report = Report { parent: parent.as_ref().map(|p| p.id), ..Report::default() };
    let written = match &options.from {
        From::Files(source) => {
            let source = skipping(repository, source);
            merge::files(
                repository,
                options,
                source,
                parent.as_deref(),
                &table,
                &mut writer,
                &mut report,
                observer,
                stop,
            )
        }
        From::Command { command, name } => {
            output::command(repository, command, name, &mut writer, &mut report)
        }
    };
    let root = match written {
        Ok(root) => root,
        Err(e) => {
            // What is complete is stored for the next run; the first failure is the one to tell.
            let _ = writer.abandon();
            return Err(e);
        }
    };
    report.totals.new_bytes = writer.new_bytes();
    if options.dry_run {
        return Ok((report, Ended::Done));
    }
    if options.skip_if_unchanged && same_tree(parent.as_deref(), &root) && report.unread_total == 0 {
        writer.abandon()?;
        return Ok((report, Ended::Done));
    }
    let draft = Draft {
        time: options.time,
        host: options.host.clone(),
        tags: options.tags.clone(),
        root,
        parent: report.parent,
        totals: report.totals,
        private: Private {
            paths: paths.clone(),
            unread: report.unread.clone(),
            unread_total: report.unread_total,
            unknown: Default::default(),
        },
    };
    match writer.commit(draft)? {
        Commit::Done(id, totals) => {
            report.snapshot = Some(id);
            report.totals = totals;
            // The snapshot is there; what is not remembered costs time.
            let remembered = table.committed(&id, &options.host, &paths, report.totals.files);
            remembered.unwrap_or_else(|e| observer.event(Event::Warning(&e.chain())));
            Ok((report, Ended::Done))
        }
        Commit::Again(gone, e) => Ok((report, Ended::Again(gone, e))),
    }
}

fn same_tree(parent: Option<&Snapshot>, root: &ChunkId) -> bool {
    parent.is_some_and(|p| p.manifest.root == *root)
}

/// What the manifest names as saved: sorted absolute paths.
fn paths(from: &From) -> Result<Vec<Vec<u8>>> {
    let mut paths = match from {
        From::Files(options) => {
            let mut paths = Vec::new();
            for p in &options.paths {
                paths.push(source::absolute(p)?.into_os_string().as_bytes().to_vec());
            }
            paths
        }
        From::Command { name, .. } => vec![[b"/", name.as_slice()].concat()],
    };
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// The newest snapshot of the same host and paths, by this key or a full one: what a parent's trees name is taken over
/// unread, so that another writer's word is not enough. One whose paths cannot be read is no parent.
fn parent(
    repository: &Repository,
    writer: &Writer,
    options: &Options,
    paths: &[Vec<u8>],
    observer: &Arc<dyn Observer>,
) -> Option<Arc<Snapshot>> {
    let of_host = writer.live().iter().rev().filter(|s| s.manifest.host == options.host);
    let of_host = of_host.filter(|s| repository.believes(s));
    for snapshot in of_host {
        match repository.private(snapshot) {
            Ok(private) if private.paths == paths => return Some(snapshot.clone()),
            Ok(_) => {}
            Err(e) => observer.event(Event::Warning(&e.chain())),
        }
    }
    None
}

/// The repository and its cache are never saved.
fn skipping(repository: &Repository, options: &source::Options) -> source::Options {
    let mut options = options.clone();
    let own = storage::folder_of(&repository.location());
    for path in own.into_iter().chain([repository.cache_dir().to_owned()]) {
        if let Ok(m) = std::fs::metadata(&path) {
            options.skip.push((m.dev(), m.ino()));
        }
    }
    options
}

/// The parts of a name given with `--as`.
///
/// # Errors
/// `Misuse` for what is no path inside a snapshot.
fn parts(name: &[u8]) -> Result<Vec<Vec<u8>>> {
    let parts: Vec<Vec<u8>> =
        name.split(|b| *b == b'/').filter(|p| !p.is_empty()).map(<[u8]>::to_vec).collect();
    let bad = |p: &Vec<u8>| p == b"." || p == b".." || p.len() > NAME_MAX || p.contains(&0);
    if parts.is_empty() || parts.iter().any(bad) {
        let name = Path::new(OsStr::from_bytes(name)).display().to_string();
        return Err(Error::new(Fault::Misuse, format!("{name:?} cannot be the name of a file")));
    }
    Ok(parts)
}
