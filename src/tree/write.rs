//! Writing folders and contents.

use super::Sink;
use super::pages::{ITEM_MAX, Pager};
use crate::fault::{Error, Result};
use crate::format::cbor::Writer;
use crate::format::pack::Space;
use crate::format::tree::{At, Content, Entry, Extent, ExtentPage, LEVEL_MAX, Page, PageRef};
use crate::id::ChunkId;

/// Extents that an entry keeps itself; more go to pages of their own, so that a folder with big
/// files is still read quickly. 64 chunks are 2.5 MB of an ordinary file.
const EXTENTS_INLINE: usize = 64;

/// Writes one folder: entries in the order of their names, then `finish`.
#[derive(Default)]
pub struct FolderWriter {
    pager: Pager,
    /// Encoded entries of the open leaf.
    leaf: Vec<u8>,
    count: usize,
    first: Vec<u8>,
    last: Vec<u8>,
    pages: Vec<PageRef>,
}

impl FolderWriter {
    /// An empty folder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// `Misuse` when the entry alone is larger than a page (thousands of xattrs); `Bug` when the names do not
    /// rise.
    pub fn push(&mut self, entry: &Entry, sink: &mut dyn Sink) -> Result<()> {
        let mut w = Writer::new();
        entry.encode_into(&mut w);
        let encoded = w.finish();
        if encoded.len() > ITEM_MAX {
            return Err(Error::misuse("its attributes are larger than a page of a tree (256 KiB)"));
        }
        if (self.count > 0 || !self.pages.is_empty()) && self.last >= entry.name {
            return Err(Error::bug("entries of a folder do not come in the order of their names"));
        }
        if self.pager.full(encoded.len()) {
            self.end_leaf(sink)?;
        }
        if self.count == 0 {
            self.first.clone_from(&entry.name);
        }
        self.last.clone_from(&entry.name);
        self.count += 1;
        self.leaf.extend_from_slice(&encoded);
        if self.pager.push(encoded.len(), Some(blake3::hash(&entry.name).as_bytes())) {
            self.end_leaf(sink)?;
        }
        Ok(())
    }

    fn end_leaf(&mut self, sink: &mut dyn Sink) -> Result<()> {
        let id = sink.put(Space::Trees, &Page::encode_leaf(self.count, &self.leaf))?;
        self.pages.push(PageRef { first: std::mem::take(&mut self.first), id });
        self.leaf.clear();
        self.count = 0;
        self.pager.reset();
        Ok(())
    }

    /// Writes what is left and gives the root page's id.
    pub fn finish(mut self, sink: &mut dyn Sink) -> Result<ChunkId> {
        if self.count > 0 || self.pages.is_empty() {
            self.end_leaf(sink)?;
        }
        let mut pages = self.pages;
        let mut level = 0;
        while pages.len() > 1 {
            level += 1;
            if level > LEVEL_MAX {
                return Err(Error::bug("a folder has too many levels"));
            }
            let mut above = Vec::new();
            for group in cut(pages, |p| p.first.len() + 40, |p| Some(&p.id.0)) {
                let Some(head) = group.first() else { continue };
                let first = head.first.clone();
                let id = sink.put(Space::Trees, &Page::Node(level, group).encode())?;
                above.push(PageRef { first, id });
            }
            pages = above;
        }
        match pages.first() {
            Some(page) => Ok(page.id),
            None => Err(Error::bug("a folder has no page")),
        }
    }
}

/// Cuts a list into pages by content.
fn cut<T>(items: Vec<T>, len: impl Fn(&T) -> usize, hash: impl Fn(&T) -> Option<&[u8; 32]>) -> Vec<Vec<T>> {
    let mut pager = Pager::default();
    let mut pages = Vec::new();
    let mut page = Vec::new();
    for item in items {
        let len = len(&item);
        if pager.full(len) {
            pages.push(std::mem::take(&mut page));
            pager.reset();
        }
        let ends = pager.push(len, hash(&item));
        page.push(item);
        // A page of one reference would not make the list shorter.
        if ends && page.len() > 1 {
            pages.push(std::mem::take(&mut page));
            pager.reset();
        }
    }
    if !page.is_empty() {
        pages.push(page);
    }
    pages
}

/// Collects the extents of one content.
#[derive(Default)]
pub struct ContentWriter {
    extents: Vec<Extent>,
}

impl ContentWriter {
    /// An empty content.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a stretch of zeros; neighbours become one.
    pub fn hole(&mut self, len: u64) {
        match self.extents.last_mut() {
            Some(Extent { len: l, at: At::Hole }) => *l += len,
            _ if len > 0 => self.extents.push(Extent { len, at: At::Hole }),
            _ => {}
        }
    }

    /// Appends a chunk that lies in the sink.
    pub fn chunk(&mut self, len: u64, id: ChunkId) {
        if len > 0 {
            self.extents.push(Extent { len, at: At::Chunk(id) });
        }
    }

    /// Length so far in bytes.
    pub fn len(&self) -> u64 {
        self.extents.iter().map(|e| e.len).sum()
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Writes pages of extents where there are many, and gives what the entry keeps.
    pub fn finish(self, sink: &mut dyn Sink) -> Result<Content> {
        if self.extents.is_empty() {
            return Ok(Content::Inline(Vec::new()));
        }
        let mut extents = self.extents;
        let mut level = 0;
        while extents.len() > EXTENTS_INLINE {
            level += 1;
            if level > LEVEL_MAX {
                return Err(Error::bug("a file has too many levels"));
            }
            let hash = |e: &Extent| match e.at {
                At::Hole => None,
                At::Chunk(id) | At::List(id, _) => Some(id),
            };
            let mut pager = Pager::default();
            let mut above = Vec::new();
            let mut page: Vec<Extent> = Vec::new();
            for e in extents {
                let id = hash(&e);
                if pager.full(EXTENT_LEN) {
                    above.push(list(std::mem::take(&mut page), level, sink)?);
                    pager.reset();
                }
                page.push(e);
                if pager.push(EXTENT_LEN, id.as_ref().map(|i| &i.0)) {
                    above.push(list(std::mem::take(&mut page), level, sink)?);
                    pager.reset();
                }
            }
            if !page.is_empty() {
                above.push(list(page, level, sink)?);
            }
            extents = above;
        }
        Ok(Content::Extents(extents))
    }
}

/// What an extent counts for when pages are cut: a constant, so that lengths do not move the cuts.
const EXTENT_LEN: usize = 42;

fn list(extents: Vec<Extent>, level: u8, sink: &mut dyn Sink) -> Result<Extent> {
    let len = extents
        .iter()
        .try_fold(0u64, |sum, e| sum.checked_add(e.len))
        .ok_or_else(|| Error::misuse("a file is longer than 2^64 bytes"))?;
    let id = sink.put(Space::Trees, &ExtentPage { level, extents }.encode())?;
    Ok(Extent { len, at: At::List(id, level) })
}
