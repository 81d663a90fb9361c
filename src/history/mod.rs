//! A path in all snapshots at once: what ever lived there, and what differs between two snapshots.
//!
//! Snapshots are known here by an index, oldest first, and by the root page of their tree; [`Runs`] is a set of them.
//! Equal folders are one tree, whatever snapshots they are in, so a path through time is a short list of
//! [`Strand`]s, and cost follows change: each page of a tree is read once, however many snapshots hold it.
//!
//! Damage in one snapshot does not hide the others. What is damaged, and in which snapshots, is collected as
//! [`Lost`]; all other failures (a store that cannot be reached, a request to stop) are errors.
//!
//! Memory is bounded by the union of one folder, that is by the names that ever were in it, times their
//! versions, times the depth of the path for the walks.

mod diff;
mod merge;
mod runs;
#[cfg(test)]
mod testing;
mod walk;

pub use diff::{Change, Difference, Differs, diff};
pub use merge::{child, merged};
pub use runs::Runs;
pub use walk::walk;

use crate::fault::{Error, Fault, Result};
use crate::format::tree::{Entry, Node};
use crate::id::ChunkId;
use crate::tree::{self, Chunks};
use std::collections::HashMap;

/// One distinct tree of a folder, and the snapshots that hold it at this path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strand {
    /// Root page of the folder's tree.
    pub tree: ChunkId,
    /// Who holds it.
    pub snapshots: Runs,
}

/// One distinct entry at a path, and the snapshots that hold it.
///
/// Entries are the same version if type, content, size and mtime are equal; owner, mode, ctime and extended attributes
/// make no new one. What comes back after something else is the same version as before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// As the first snapshot that holds it has it.
    pub entry: Entry,
    /// Who holds it.
    pub snapshots: Runs,
}

/// Everything that ever had one name in one folder. A name may have been a file and a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// Raw bytes; empty for `/`.
    pub name: Vec<u8>,
    /// What was no folder, ordered by first snapshot.
    pub versions: Vec<Version>,
    /// Where it was a folder: its distinct trees, ordered by first snapshot.
    pub folders: Vec<Strand>,
    /// Where it was a folder: its entries as far as they differ in what decides who may look in: owner, group,
    /// mode, extended attributes; ordered by first snapshot. All else in such an entry is the first one's.
    pub doors: Vec<Version>,
}

/// What could not be read, and whose it is.
#[derive(Debug)]
pub struct Lost {
    /// Snapshots that need it.
    pub snapshots: Runs,
    /// Which page it is and what is wrong with it.
    pub error: Error,
}

/// Whether two entries are the same [`Version`].
pub fn same_version(a: &Entry, b: &Entry) -> bool {
    // From the cheapest to the dearest. The fields of an unknown type are its content.
    a.stat.mtime == b.stat.mtime && a.stat.size == b.stat.size && a.node == b.node && a.unknown == b.unknown
}

fn same_door(a: &Entry, b: &Entry) -> bool {
    let owner = |e: &Entry| (e.stat.mode, e.stat.uid, e.stat.gid);
    owner(a) == owner(b) && a.stat.user == b.stat.user && a.stat.group == b.stat.group && a.xattrs == b.xattrs
}

impl Name {
    fn new(name: &[u8]) -> Self {
        Self { name: name.to_vec(), ..Self::default() }
    }

    /// All snapshots that have the name.
    pub fn snapshots(&self) -> Runs {
        let mut all = self.folder_snapshots();
        self.versions.iter().for_each(|v| all.unite(&v.snapshots));
        all
    }

    /// All snapshots that have it as a folder.
    pub fn folder_snapshots(&self) -> Runs {
        let mut all = Runs::default();
        self.doors.iter().for_each(|d| all.unite(&d.snapshots));
        all
    }

    /// The version that a snapshot has, unless it is a folder there, or not there.
    pub fn version_in(&self, snapshot: u32) -> Option<&Version> {
        self.versions.iter().find(|v| v.snapshots.contains(snapshot))
    }

    /// The same name with what `later` snapshots have, all of them behind those that this is about.
    pub fn extended(mut self, later: Name) -> Self {
        for v in later.versions {
            add(&mut self.versions, v.entry, &v.snapshots, same_version);
        }
        for d in later.doors {
            add(&mut self.doors, d.entry, &d.snapshots, same_door);
        }
        for s in later.folders {
            self.add_tree(s.tree, &s.snapshots);
        }
        self
    }

    /// Takes in an entry of this name.
    fn add(&mut self, entry: Entry, snapshots: &Runs) {
        let Node::Folder(tree) = entry.node else {
            return add(&mut self.versions, entry, snapshots, same_version);
        };
        self.add_tree(tree, snapshots);
        add(&mut self.doors, entry, snapshots, same_door);
    }

    fn add_tree(&mut self, tree: ChunkId, snapshots: &Runs) {
        // Mostly it is the newest. Where it is none, all are looked at: quadratic in the number of trees, which
        // at ten thousand is still less than reading them.
        match self.folders.iter_mut().rev().find(|s| s.tree == tree) {
            Some(strand) => strand.snapshots.unite(snapshots),
            None => self.folders.push(Strand { tree, snapshots: snapshots.clone() }),
        }
    }

    /// Once all entries are in: puts them in order.
    fn finish(mut self) -> Self {
        self.versions.sort_by_key(|v| v.snapshots.first());
        self.doors.sort_by_key(|v| v.snapshots.first());
        self.folders.sort_by_key(|s| s.snapshots.first());
        self
    }
}

fn add(list: &mut Vec<Version>, entry: Entry, snapshots: &Runs, same: fn(&Entry, &Entry) -> bool) {
    match list.iter_mut().rev().find(|v| same(&v.entry, &entry)) {
        Some(version) => {
            if snapshots.first() < version.snapshots.first() {
                version.entry = entry;
            }
            version.snapshots.unite(snapshots);
        }
        None => list.push(Version { entry, snapshots: snapshots.clone() }),
    }
}

/// The same trees, as far as snapshots from `first` on hold them.
pub fn since(folder: &[Strand], first: u32) -> Vec<Strand> {
    let later = folder.iter().map(|s| Strand { tree: s.tree, snapshots: s.snapshots.since(first) });
    later.filter(|s| !s.snapshots.is_empty()).collect()
}

/// Damage goes to `lost`, whatever else it is ends the work.
fn spare<T>(result: Result<T>, snapshots: &Runs, lost: &mut Vec<Lost>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.fault(), Fault::Damaged | Fault::Newer) => {
            lost.push(Lost { snapshots: snapshots.clone(), error });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The folder `/` in all snapshots, given by index and root page. Equal root pages are read once.
///
/// # Errors
/// What the store says. Damage goes to `lost`.
pub fn root(chunks: &dyn Chunks, snapshots: &[(u32, ChunkId)], lost: &mut Vec<Lost>) -> Result<Name> {
    let mut pages: Vec<(ChunkId, Runs)> = Vec::new();
    let mut places: HashMap<ChunkId, usize> = HashMap::new();
    for (index, page) in snapshots {
        let at = *places.entry(*page).or_insert(pages.len());
        match pages.get_mut(at) {
            Some((_, runs)) => runs.unite(&Runs::one(*index)),
            None => pages.push((*page, Runs::one(*index))),
        }
    }
    let mut name = Name::default();
    for (page, runs) in pages {
        if let Some(entry) = spare(tree::root_entry(chunks, &page), &runs, lost)? {
            name.add(entry, &runs);
        }
    }
    Ok(name.finish())
}

/// A path in all snapshots; empty parts and `.` do not count. `None` if no snapshot has it.
///
/// # Errors
/// As [`root`].
pub fn find(
    chunks: &dyn Chunks,
    snapshots: &[(u32, ChunkId)],
    path: &[u8],
    lost: &mut Vec<Lost>,
) -> Result<Option<Name>> {
    let top = root(chunks, snapshots, lost)?;
    below(chunks, &top, path, lost)
}

/// The same from a folder on, most often `/`.
///
/// # Errors
/// As [`root`].
pub fn below(chunks: &dyn Chunks, top: &Name, path: &[u8], lost: &mut Vec<Lost>) -> Result<Option<Name>> {
    let mut found: Option<Name> = None;
    for part in path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".") {
        let folders = &found.as_ref().unwrap_or(top).folders;
        match child(chunks, folders, part, lost)? {
            Some(child) => found = Some(child),
            None => return Ok(None),
        }
    }
    Ok(Some(found.unwrap_or_else(|| top.clone())))
}
