//! What a restore is asked for, what it answers, and what it has to know of a snapshot. No repository is needed for that.

use super::shared::{as_path, join};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::snapshot::Totals;
use crate::format::tree::Entry;
use crate::id::ChunkId;
use crate::tree::{self, Chunks};
use std::ffi::OsString;
use std::path::PathBuf;

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
    /// Folders (device, inode) that stay with all that is in them, whatever is deleted: the repository and what belongs to
    /// it, which no snapshot holds.
    pub spared: Vec<(u64, u64)>,
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

/// What of a snapshot a restore has to know.
pub struct Source<'a> {
    /// Root page of its tree.
    pub root: &'a ChunkId,
    /// Its sizes.
    pub totals: Option<&'a Totals>,
    /// The absolute paths that were backed up: what lies in the tree above them leads there, and is not all that was.
    pub paths: &'a [Vec<u8>],
    /// Absolute paths that could not be read then: the snapshot lacks them, and they are not deleted for that.
    pub unread: Vec<Vec<u8>>,
}

/// Where a restore or an export begins.
pub(super) struct Start {
    pub entry: Entry,
    /// Absolute, without a slash at its end.
    pub path: Vec<u8>,
}

/// Finds what a path of the snapshot leads to.
pub(super) fn start(supply: &dyn Chunks, root: &ChunkId, path: &[u8]) -> Result<Start> {
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
