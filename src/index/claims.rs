//! The one place where a backup asks "known already?".
//!
//! The index knows what segments name; between the moment at which a thread decides to store a chunk and the
//! one at which a segment with it is applied, only this knows. The set stays small, as segments are published as a
//! backup goes.

use super::Index;
use crate::fault::Result;
use crate::id::{ChunkId, PackId};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Parts of the set with a lock each: many more than threads, as a part is locked during a look-up.
const PARTS: usize = 256;

/// The answer to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is stored: in this pack, or, with `None`, by this run in a pack that is not applied yet.
    Known(Option<PackId>),
    /// The caller, and nobody else in this run, has to store it.
    New,
}

/// What one run has taken upon itself to store, over an index. For any number of threads.
pub struct Claims {
    index: Arc<Index>,
    parts: Vec<Mutex<HashSet<ChunkId>>>,
    relied: Mutex<Relied>,
    distrust: HashSet<PackId>,
}

#[derive(Default)]
struct Relied {
    own: BTreeSet<PackId>,
    others: BTreeSet<PackId>,
}

impl Claims {
    /// No claims yet. The index must be up to a listing younger than the run's lease (rule B1).
    /// What lies only in the packs of `distrust` (found missing by an earlier attempt) counts as unknown.
    pub fn new(index: Arc<Index>, distrust: HashSet<PackId>) -> Self {
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        Self { index, parts, relied: Mutex::default(), distrust }
    }

    fn part(&self, id: &ChunkId) -> &Mutex<HashSet<ChunkId>> {
        &self.parts[usize::from(id.0[0]) % PARTS]
    }

    /// Is this chunk of `len` bytes known? Each id is answered [`Claim::New`] once.
    pub fn claim(&self, id: &ChunkId, len: u32) -> Result<Claim> {
        // Held during the look-up: between a look and a claim the chunk could become known and be dropped here.
        let mut part = self.part(id).lock();
        if part.contains(id) {
            return Ok(Claim::Known(None));
        }
        // An entry that tells another length tells of something else.
        let known = self.index.known_with(id, Some(len), &self.distrust)?;
        let Some(pack) = known else {
            part.insert(*id);
            return Ok(Claim::New);
        };
        drop(part);
        self.rely(pack);
        Ok(Claim::Known(Some(pack)))
    }

    /// Whether a chunk of a content that was stored before, of this length where it is known, can be relied on; claims nothing.
    pub fn knows(&self, id: &ChunkId, len: Option<u32>) -> Result<bool> {
        let known = self.index.known_with(id, len, &self.distrust)?;
        if let Some(pack) = known {
            self.rely(pack);
        }
        Ok(known.is_some())
    }

    fn rely(&self, pack: PackId) {
        let mut relied = self.relied.lock();
        if !relied.own.contains(&pack) {
            relied.others.insert(pack);
        }
    }

    /// These ids are in a segment that was applied: from now on the index answers for them. Call it after
    /// [`Index::apply`], never before.
    pub fn published<'a>(&self, ids: impl IntoIterator<Item = &'a ChunkId>) {
        for id in ids {
            self.part(id).lock().remove(id);
        }
    }

    /// This pack was written by this run: it is not among those of others. Call it before the segment that
    /// names it is applied.
    pub fn wrote(&self, pack: PackId) {
        self.relied.lock().own.insert(pack);
    }

    /// The packs of others that this run relies on, as their chunks were answered [`Claim::Known`]: rule B6 wants
    /// each to be there before the manifest is written.
    pub fn relied(&self) -> Vec<PackId> {
        self.relied.lock().others.iter().copied().collect()
    }

    /// Ids claimed and not yet published.
    pub fn open(&self) -> usize {
        self.parts.iter().map(|part| part.lock().len()).sum()
    }
}
