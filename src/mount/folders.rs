//! Folders as they were decoded, kept for a while: a walk decodes each page once.

use super::lru::Lru;
use crate::fault::{Error, Result};
use crate::format::tree::{Content, Entry, Node as Kind};
use crate::id::ChunkId;
use crate::tree::{self, Chunks};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

/// Memory for decoded folders in bytes. A folder of 100,000 entries takes 50 MB, and is kept even if it
/// alone is over. With what folders of all snapshots together take (`past.rs`), 48 MiB for frames, 32 MiB for RocksDB, 12 MiB
/// for places in packs and 8 MiB of extents all bounds together are 144 MiB, and of a far repository 64 MiB more for what was
/// fetched ahead. After an hour they are full, 55 MiB are needed beside them, and the allocators take a fifth on top: 256 MiB is what a
/// mount of a near repository is to stay below.
const LISTINGS_BYTES: usize = 24 << 20;
/// Roots of snapshots that are kept.
const ROOTS: usize = 4096;
/// After so many single names were looked up in a folder, all of it is decoded: by then it is cheaper.
const LOOKUPS_BEFORE_LISTING: u8 = 8;
/// Folders whose single lookups are counted.
const COUNTED_MAX: usize = 4096;

/// A decoded folder.
pub(super) struct Listing {
    /// Sorted by name.
    pub entries: Box<[Entry]>,
}

/// An entry, in its listing or alone.
pub(super) enum Found {
    Listed(Arc<Listing>, usize),
    Alone(Box<Entry>),
}

impl Deref for Found {
    type Target = Entry;
    fn deref(&self) -> &Entry {
        match self {
            Found::Listed(listing, i) => &listing.entries[*i],
            Found::Alone(entry) => entry,
        }
    }
}

/// Reads folders through a cache. The key is the tree's id, so equal folders of many snapshots are one.
pub(super) struct Folders {
    listings: Mutex<Lru<ChunkId, Arc<Listing>>>,
    roots: Mutex<Lru<ChunkId, Arc<Entry>>>,
    asked: Mutex<HashMap<ChunkId, u8>>,
}

impl Folders {
    pub fn new() -> Self {
        Self {
            listings: Mutex::new(Lru::new(LISTINGS_BYTES)),
            roots: Mutex::new(Lru::new(ROOTS)),
            asked: Mutex::default(),
        }
    }

    /// About the bytes of memory that the decoded ones take.
    pub fn bytes(&self) -> usize {
        self.listings.lock().cost()
    }

    /// All entries of a folder.
    pub fn listing(&self, chunks: &dyn Chunks, tree: &ChunkId) -> Result<Arc<Listing>> {
        if let Some(listing) = self.listings.lock().get(tree) {
            return Ok(listing);
        }
        let entries = tree::entries(chunks, tree)?.into_boxed_slice();
        let cost = entries.iter().map(cost).sum::<usize>() + size_of::<Listing>();
        let listing = Arc::new(Listing { entries });
        self.listings.lock().put(*tree, listing.clone(), cost);
        Ok(listing)
    }

    /// A folder, only if it is decoded already.
    fn cached(&self, tree: &ChunkId) -> Option<Arc<Listing>> {
        self.listings.lock().get(tree)
    }

    /// One entry by name.
    pub fn entry(&self, chunks: &dyn Chunks, tree: &ChunkId, name: &[u8]) -> Result<Option<Found>> {
        let listing = match self.cached(tree) {
            Some(listing) => listing,
            None if self.asked_often(tree) => self.listing(chunks, tree)?,
            None => return Ok(tree::lookup(chunks, tree, name)?.map(|e| Found::Alone(Box::new(e)))),
        };
        let found = listing.entries.binary_search_by(|e| e.name.as_slice().cmp(name)).ok();
        Ok(found.map(|i| Found::Listed(listing, i)))
    }

    fn asked_often(&self, tree: &ChunkId) -> bool {
        let asked = &mut *self.asked.lock();
        if asked.len() >= COUNTED_MAX {
            asked.clear();
        }
        let n = asked.entry(*tree).or_insert(0);
        *n += 1;
        let often = *n > LOOKUPS_BEFORE_LISTING;
        if often {
            asked.remove(tree);
        }
        often
    }

    /// The entry of `/` in a snapshot.
    pub fn root(&self, chunks: &dyn Chunks, page: &ChunkId) -> Result<Arc<Entry>> {
        if let Some(entry) = self.cached_root(page) {
            return Ok(entry);
        }
        let entry = Arc::new(tree::root_entry(chunks, page)?);
        self.roots.lock().put(*page, entry.clone(), 1);
        Ok(entry)
    }

    /// The same, only if it was read already.
    pub fn cached_root(&self, page: &ChunkId) -> Option<Arc<Entry>> {
        self.roots.lock().get(page)
    }
}

/// The tree of a folder's entry.
pub(super) fn tree_of(entry: &Entry) -> Result<ChunkId> {
    match &entry.node {
        Kind::Folder(tree) => Ok(*tree),
        _ => Err(Error::damaged("a folder is none")),
    }
}

/// About the bytes of memory that an entry takes.
pub(super) fn cost(entry: &Entry) -> usize {
    let content = |c: &Content| match c {
        Content::Inline(bytes) => bytes.len(),
        Content::Extents(extents) => extents.len() * 56,
    };
    let node = match &entry.node {
        Kind::File(c) => content(c),
        Kind::Symlink(target) => target.len(),
        _ => 0,
    };
    let xattrs: usize = entry.xattrs.iter().map(|x| 64 + x.name.len() + content(&x.value)).sum();
    let owners =
        16 * usize::from(!entry.stat.user.is_empty()) + 16 * usize::from(!entry.stat.group.is_empty());
    size_of::<Entry>() + 64 + entry.name.len() + owners + node + xattrs
}
