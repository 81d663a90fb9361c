//! Reading folders and contents.

use super::extents::{Extents, Placed};
use super::{Chunks, ROOT_NAME};
use crate::fault::{Error, Result};
use crate::format::pack::Space;
use crate::format::tree::{At, Content, Entry, Extent, ExtentPage, LEVEL_MAX, Node, Page, PageRef};
use crate::id::ChunkId;
use std::sync::Arc;

/// One page of a folder. `level` is the one that it must have by the page that names it; `None` for the first.
///
/// # Errors
/// `Damaged` when it is lost, no page, or of another level.
pub fn page(chunks: &dyn Chunks, id: &ChunkId, level: Option<u8>) -> Result<Page> {
    let bytes = chunks.chunk(Space::Trees, id)?;
    let page = Page::decode(&bytes).map_err(|e| e.while_(format!("reading tree page {}", id.short())))?;
    let found = match page {
        Page::Leaf(_) => 0,
        Page::Node(found, _) => found,
    };
    match level {
        Some(level) if level != found => Err(Error::damaged("a page of a folder is of the wrong level")),
        _ => Ok(page),
    }
}

/// Which of the pages that a node page names holds `name`, if it is there at all.
pub fn page_of<'a>(pages: &'a [PageRef], name: &[u8]) -> Option<&'a PageRef> {
    let after = pages.partition_point(|p| p.first.as_slice() <= name);
    after.checked_sub(1).and_then(|i| pages.get(i))
}

/// All entries of a folder, sorted by name.
///
/// # Errors
/// `Damaged` when a page is lost, or the pages do not follow each other.
pub fn entries(chunks: &dyn Chunks, folder: &ChunkId) -> Result<Vec<Entry>> {
    let mut listing = Listing::new(folder);
    let mut out = Vec::new();
    while let Some(entry) = listing.next(chunks)? {
        out.push(entry);
    }
    Ok(out)
}

/// The entries of a folder one after the other, sorted by name, one page of each level in memory at a time.
pub struct Listing {
    leaf: std::vec::IntoIter<Entry>,
    /// Pages that are still to be read with their levels, the next one last.
    ahead: Vec<(ChunkId, Option<u8>)>,
    /// The last name of the leaf before.
    last: Option<Vec<u8>>,
}

impl Listing {
    /// Nothing is read yet.
    pub fn new(folder: &ChunkId) -> Self {
        Self { leaf: Vec::new().into_iter(), ahead: vec![(*folder, None)], last: None }
    }

    /// The next entry; `None` behind the last one, and after an error.
    ///
    /// # Errors
    /// `Damaged` when a page is lost, or the pages do not follow each other. All names before are right, and there are
    /// no others among them.
    pub fn next(&mut self, chunks: &dyn Chunks) -> Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.leaf.next() {
                return Ok(Some(entry));
            }
            let Some((id, level)) = self.ahead.pop() else { return Ok(None) };
            if let Err(e) = self.enter(chunks, &id, level) {
                self.ahead.clear();
                return Err(e);
            }
        }
    }

    fn enter(&mut self, chunks: &dyn Chunks, id: &ChunkId, level: Option<u8>) -> Result<()> {
        let page = page(chunks, id, level)?;
        if chunks.looks_ahead() {
            // Who lists a folder goes on to its other pages, and in most cases to the folders in it.
            chunks.expect(&below(&page));
        }
        match page {
            Page::Leaf(entries) => {
                if let (Some(last), Some(first)) = (&self.last, entries.first())
                    && *last >= first.name
                {
                    return Err(Error::damaged("the pages of a folder are out of order"));
                }
                // A leaf is sorted: the decoder has seen to it.
                self.last = entries.last().map(|e| e.name.clone()).or_else(|| self.last.take());
                self.leaf = entries.into_iter();
            }
            Page::Node(level, pages) => {
                self.ahead.extend(pages.iter().rev().map(|p| (p.id, Some(level - 1))));
            }
        }
        Ok(())
    }
}

/// The pages of trees that a page names.
fn below(page: &Page) -> Vec<ChunkId> {
    let folder = |entry: &Entry| match &entry.node {
        Node::Folder(id) => Some(*id),
        _ => None,
    };
    match page {
        Page::Leaf(entries) => entries.iter().filter_map(folder).collect(),
        Page::Node(_, pages) => pages.iter().map(|p| p.id).collect(),
    }
}

/// One entry by name, reading one page per level.
pub fn lookup(chunks: &dyn Chunks, folder: &ChunkId, name: &[u8]) -> Result<Option<Entry>> {
    let mut id = *folder;
    let mut level: Option<u8> = None;
    loop {
        match page(chunks, &id, level)? {
            Page::Leaf(mut entries) => {
                let found = entries.binary_search_by(|e| e.name.as_slice().cmp(name)).ok();
                return Ok(found.map(|i| entries.swap_remove(i)));
            }
            Page::Node(found, pages) => {
                match page_of(&pages, name) {
                    Some(p) => id = p.id,
                    None => return Ok(None),
                }
                level = Some(found - 1);
            }
        }
    }
}

/// The entry of `/` in a snapshot: its attributes, and the folder.
pub fn root_entry(chunks: &dyn Chunks, root: &ChunkId) -> Result<Entry> {
    match page(chunks, root, None)? {
        Page::Leaf(entries) if entries.len() == 1 => match entries.into_iter().next() {
            Some(e) if e.name == ROOT_NAME && matches!(e.node, Node::Folder(_)) => Ok(e),
            _ => Err(Error::damaged("the root of a snapshot is no folder")),
        },
        _ => Err(Error::damaged("the root of a snapshot is not one entry")),
    }
}

/// Walks a path from the snapshot's root; empty parts and `.` do not count. `/` is [`root_entry`].
///
/// # Errors
/// As reading; a path that leads nowhere, or through what is no folder, is `None`.
pub fn find(chunks: &dyn Chunks, root: &ChunkId, path: &[u8]) -> Result<Option<Entry>> {
    let mut at = root_entry(chunks, root)?;
    for part in path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".") {
        let Node::Folder(folder) = &at.node else { return Ok(None) };
        match lookup(chunks, folder, part)? {
            Some(entry) => at = entry,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// The extents of a page that a list names with this level and length.
///
/// # Errors
/// `Damaged` when it is lost, no page, or not what the list says: of another level or length, or naming a page of no lower
/// level.
pub fn extent_page(chunks: &dyn Chunks, id: &ChunkId, level: u8, len: u64) -> Result<Vec<Extent>> {
    let page = ExtentPage::decode(&chunks.chunk(Space::Trees, id)?)
        .map_err(|e| e.while_(format!("reading extent page {}", id.short())))?;
    let below = |e: &Extent| !matches!(e.at, At::List(_, l) if l >= level);
    let is_level = page.level == level && page.extents.iter().all(below);
    let content = Content::Extents(page.extents);
    let is_right = is_level && content.len()? == len;
    match content {
        Content::Extents(extents) if is_right => Ok(extents),
        _ => Err(Error::damaged("a page of extents is not what its list says")),
    }
}

/// Random access to a content. Keeps pages of extents.
pub struct FileReader {
    top: Placed,
    inline: Vec<u8>,
    len: u64,
    pages: Arc<Extents>,
}

/// The stretch that an offset lies in: its beginning, and the rest of its page.
struct Stretch {
    extents: Placed,
    index: usize,
}

fn placed(start: u64, extents: Vec<Extent>) -> Result<Placed> {
    let mut at = start;
    let mut out = Vec::with_capacity(extents.len());
    for e in extents {
        out.push((at, e));
        at = at.checked_add(e.len).ok_or_else(|| Error::damaged("a content is longer than 2^64"))?;
    }
    Ok(out.into())
}

impl FileReader {
    /// Nothing is read yet. A content longer than 2^64 bytes reads as empty; the decoder refuses such.
    pub fn new(content: Content) -> Self {
        Self::sharing(content, Arc::default())
    }

    /// The same, with pages of extents that others use as well.
    pub fn sharing(content: Content, pages: Arc<Extents>) -> Self {
        let len = content.len().unwrap_or(0);
        let (inline, extents) = match content {
            Content::Inline(bytes) => (bytes, Vec::new()),
            Content::Extents(extents) => (Vec::new(), extents),
        };
        let top = placed(0, extents).unwrap_or_default();
        Self { top, inline, len, pages }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The page of leaf extents that holds `offset`, which is below the length.
    fn locate(&self, chunks: &dyn Chunks, offset: u64) -> Result<Stretch> {
        let mut extents = self.top.clone();
        for _ in 0..=LEVEL_MAX {
            let index = extents
                .partition_point(|(start, _)| *start <= offset)
                .checked_sub(1)
                .ok_or_else(|| Error::bug("an offset lies before its extents"))?;
            let (start, extent) = extents[index];
            match extent.at {
                At::Hole | At::Chunk(_) => return Ok(Stretch { extents, index }),
                At::List(id, level) => extents = self.list(chunks, start, extent.len, &id, level)?,
            }
        }
        Err(Error::damaged("a content has too many levels"))
    }

    fn list(&self, chunks: &dyn Chunks, start: u64, len: u64, id: &ChunkId, level: u8) -> Result<Placed> {
        let key = (*id, level, start);
        if let Some(extents) = self.pages.get(&key)
            // Ids are of bytes alone: what this list promises is compared each time.
            && extents.last().is_some_and(|(at, last)| at - start + last.len == len)
        {
            return Ok(extents);
        }
        let extents = placed(start, extent_page(chunks, id, level, len)?)?;
        self.pages.put(key, &extents);
        Ok(extents)
    }

    /// Appends the bytes from `offset`, `len` of them or up to the end. Holes are zeros.
    ///
    /// # Errors
    /// `Damaged` when a chunk is lost or not as long as promised; `out` is then as it was.
    pub fn read_at(&self, chunks: &dyn Chunks, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<()> {
        let before = out.len();
        let result = self.fill(chunks, offset, len, out);
        if result.is_err() {
            out.truncate(before);
        }
        result
    }

    fn fill(&self, chunks: &dyn Chunks, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<()> {
        let end = self.len.min(offset.saturating_add(len as u64));
        let mut at = offset;
        if at < end && self.top.is_empty() {
            out.extend_from_slice(&self.inline[at as usize..end as usize]);
            return Ok(());
        }
        while at < end {
            let stretch = self.locate(chunks, at)?;
            for (start, extent) in &stretch.extents[stretch.index..] {
                if at >= end || matches!(extent.at, At::List(..)) {
                    break;
                }
                let from = at - start;
                let n = (extent.len - from).min(end - at);
                match extent.at {
                    At::Chunk(id) => {
                        let bytes = chunks.chunk(Space::Data, &id)?;
                        if bytes.len() as u64 != extent.len {
                            return Err(Error::damaged(format!(
                                "chunk {} has {} bytes where its file says {}",
                                id.short(),
                                bytes.len(),
                                extent.len
                            )));
                        }
                        out.extend_from_slice(&bytes[from as usize..(from + n) as usize]);
                    }
                    _ => out.resize(out.len() + n as usize, 0),
                }
                at += n;
            }
        }
        Ok(())
    }

    /// The leaf extents from the one that holds `from` to the end of its page, with their offsets.
    /// Empty at or behind the end.
    pub fn extents(&self, chunks: &dyn Chunks, from: u64) -> Result<Vec<(u64, Extent)>> {
        if from >= self.len || self.top.is_empty() {
            return Ok(Vec::new());
        }
        let s = self.locate(chunks, from)?;
        let leaf = |(_, e): &&(u64, Extent)| !matches!(e.at, At::List(..));
        Ok(s.extents[s.index..].iter().take_while(leaf).copied().collect())
    }

    /// As `lseek(2)` with `SEEK_DATA`: the first byte at or behind `offset` that is not in a hole.
    pub fn seek_data(&self, chunks: &dyn Chunks, offset: u64) -> Result<Option<u64>> {
        self.seek(chunks, offset, false)
    }

    /// As `lseek(2)` with `SEEK_HOLE`: the first hole at or behind `offset`, or the end.
    pub fn seek_hole(&self, chunks: &dyn Chunks, offset: u64) -> Result<u64> {
        Ok(self.seek(chunks, offset, true)?.unwrap_or(self.len))
    }

    fn seek(&self, chunks: &dyn Chunks, offset: u64, hole: bool) -> Result<Option<u64>> {
        if self.top.is_empty() {
            return Ok((!hole && offset < self.len).then_some(offset));
        }
        let mut at = offset;
        while at < self.len {
            for (start, e) in self.extents(chunks, at)? {
                if matches!(e.at, At::Hole) == hole {
                    return Ok(Some(at.max(start)));
                }
                at = start + e.len;
            }
        }
        Ok(None)
    }

    /// Bytes that are not in holes.
    pub fn data_bytes(&self, chunks: &dyn Chunks) -> Result<u64> {
        let mut sum = self.inline.len() as u64;
        let mut at = 0;
        while at < self.len && !self.top.is_empty() {
            for (start, e) in self.extents(chunks, at)? {
                if !matches!(e.at, At::Hole) {
                    sum += e.len;
                }
                at = start + e.len;
            }
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ContentWriter, FolderWriter, Sink};
    use super::*;
    use crate::format::tree::{Stat, Xattr};
    use bytes::Bytes;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Shelf(HashMap<ChunkId, Bytes>);
    impl Sink for Shelf {
        fn put(&mut self, _: Space, bytes: &[u8]) -> Result<ChunkId> {
            let id = ChunkId::of_object(bytes);
            self.0.insert(id, Bytes::copy_from_slice(bytes));
            Ok(id)
        }
    }
    impl Chunks for Shelf {
        fn chunk(&self, _: Space, id: &ChunkId) -> Result<Bytes> {
            self.0.get(id).cloned().ok_or_else(|| Error::damaged("lost"))
        }
    }

    fn entry(name: String) -> Entry {
        Entry {
            name: name.into_bytes(),
            stat: Stat { nlink: 1, ..Stat::default() },
            node: Node::Fifo,
            xattrs: vec![Xattr { name: b"user.a".to_vec(), value: Content::Inline(vec![1]) }],
            chunker: None,
            unknown: Default::default(),
        }
    }

    fn folder(names: impl Iterator<Item = u32>, shelf: &mut Shelf) -> ChunkId {
        let mut w = FolderWriter::new();
        for n in names {
            w.push(&entry(format!("name-{n:07}")), shelf).unwrap();
        }
        w.finish(shelf).unwrap()
    }

    #[test]
    fn a_folder_of_100_000_entries_comes_back_whole_and_by_name() {
        let mut shelf = Shelf::default();
        let id = folder(0..100_000, &mut shelf);
        let all = entries(&shelf, &id).unwrap();
        assert_eq!(all.len(), 100_000);
        assert!(all.windows(2).all(|w| w[0].name < w[1].name));
        for n in [0, 1, 77_777, 99_999] {
            assert!(lookup(&shelf, &id, format!("name-{n:07}").as_bytes()).unwrap().is_some());
        }
        for name in ["", "a", "name-0000000x", "zzz"] {
            assert!(lookup(&shelf, &id, name.as_bytes()).unwrap().is_none());
        }
    }

    #[test]
    fn an_insertion_changes_one_page_per_level() {
        let mut shelf = Shelf::default();
        folder((0..100_000).filter(|n| *n != 50_000), &mut shelf);
        let before = shelf.0.len();
        folder(0..100_000, &mut shelf);
        assert!(shelf.0.len() - before <= 4, "{} new pages", shelf.0.len() - before);
    }

    #[test]
    fn an_empty_folder_is_a_tree() {
        let mut shelf = Shelf::default();
        let id = folder(0..0, &mut shelf);
        assert_eq!(entries(&shelf, &id).unwrap(), vec![]);
    }

    #[test]
    fn a_long_content_reads_the_same_at_any_offset() {
        let mut shelf = Shelf::default();
        let mut w = ContentWriter::new();
        let mut plain = Vec::new();
        for n in 0u32..3000 {
            if n % 7 == 3 {
                w.hole(1000);
                plain.resize(plain.len() + 1000, 0);
            } else {
                let bytes = n.to_le_bytes().repeat(20);
                let id = shelf.put(Space::Data, &bytes).unwrap();
                w.chunk(80, id);
                plain.extend_from_slice(&bytes);
            }
        }
        let content = w.finish(&mut shelf).unwrap();
        assert!(matches!(&content, Content::Extents(e) if e.len() <= 64));
        let f = FileReader::new(content);
        assert_eq!(f.len(), plain.len() as u64);
        for (at, len) in
            [(0, plain.len()), (79, 2), (100_000, 70_000), (plain.len() - 1, 10), (plain.len(), 1)]
        {
            let mut out = vec![9];
            f.read_at(&shelf, at as u64, len, &mut out).unwrap();
            assert_eq!(out[1..], plain[at..plain.len().min(at + len)]);
        }
        assert_eq!(f.seek_data(&shelf, 0).unwrap(), Some(0));
        assert_eq!(f.seek_hole(&shelf, 0).unwrap(), 240);
        assert_eq!(f.seek_data(&shelf, 240).unwrap(), Some(1240));
        assert_eq!(f.data_bytes(&shelf).unwrap(), 80 * (0..3000).filter(|n| n % 7 != 3).count() as u64);
    }

    #[test]
    fn a_lost_chunk_is_damage_and_leaves_the_output_as_it_was() {
        let mut shelf = Shelf::default();
        let mut w = ContentWriter::new();
        w.chunk(80, ChunkId([1; 32]));
        let f = FileReader::new(w.finish(&mut shelf).unwrap());
        let mut out = vec![1, 2];
        assert!(f.read_at(&shelf, 0, 80, &mut out).is_err());
        assert_eq!(out, [1, 2]);
    }
}
