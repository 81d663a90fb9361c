//! What the parent snapshot has in the place where the walk is.

use crate::fault::Result;
use crate::format::tree::{Entry, Node};
use crate::id::ChunkId;
use crate::source::{Item, Kind};
use crate::tree::{Chunks, Listing};
use std::path::PathBuf;
use std::sync::Arc;

/// The parent's entries of a folder, from where the walk is; read page by page.
#[derive(Default)]
pub struct Old {
    /// Whose they are; nothing above the root.
    folder: Option<Arc<Item>>,
    listing: Option<Listing>,
    next: Option<Entry>,
    /// Entries that were taken from the listing.
    taken: usize,
    /// It could not be read to its end.
    failed: bool,
}

impl Old {
    /// Above the root: its entry alone.
    pub fn of_root(entry: Option<Entry>) -> Self {
        Self { next: entry, ..Self::default() }
    }

    /// Of a folder; `id` is where the parent has it, if it does.
    pub fn of(folder: &Arc<Item>, id: Option<&ChunkId>) -> Self {
        Self { folder: Some(folder.clone()), listing: id.map(Listing::new), ..Self::default() }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.folder.as_ref().map_or_else(PathBuf::new, |item| item.path())
    }

    /// The entry of that name; those before it were deleted. Names come in rising order.
    ///
    /// # Errors
    /// What the tree says when a page cannot be read: told once, and from then on there are no more entries.
    pub fn find(&mut self, name: &[u8], chunks: &dyn Chunks) -> Result<Option<Entry>> {
        loop {
            let Some(entry) = self.take(chunks)? else { return Ok(None) };
            match entry.name.as_slice().cmp(name) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Ok(Some(entry)),
                std::cmp::Ordering::Greater => {
                    self.next = Some(entry);
                    return Ok(None);
                }
            }
        }
    }

    /// How many entries there are in all; `None` if they could not be read, which was told before. Errors as of
    /// [`Old::find`].
    pub fn count(&mut self, chunks: &dyn Chunks) -> Result<Option<usize>> {
        while self.take(chunks)?.is_some() {}
        Ok((!self.failed).then_some(self.taken))
    }

    fn take(&mut self, chunks: &dyn Chunks) -> Result<Option<Entry>> {
        if let Some(entry) = self.next.take() {
            return Ok(Some(entry));
        }
        let Some(listing) = &mut self.listing else { return Ok(None) };
        match listing.next(chunks) {
            Ok(Some(entry)) => {
                self.taken += 1;
                Ok(Some(entry))
            }
            Ok(None) => {
                self.listing = None;
                Ok(None)
            }
            Err(e) => {
                self.listing = None;
                self.failed = true;
                Err(e)
            }
        }
    }
}

/// Whether an entry is of the kind that the walk has met.
pub fn same_kind(node: &Node, kind: Kind) -> bool {
    match (node, kind) {
        (Node::File(_), Kind::File)
        | (Node::Folder(_), Kind::Folder)
        | (Node::Symlink(_), Kind::Symlink)
        | (Node::Fifo, Kind::Fifo)
        | (Node::Socket, Kind::Socket) => true,
        (Node::CharDevice(a), Kind::Char(b)) | (Node::BlockDevice(a), Kind::Block(b)) => *a == b,
        _ => false,
    }
}

/// Sizes of folders are the file system's own business.
pub fn same_size(old: &Entry, size: u64) -> bool {
    matches!(old.node, Node::Folder(_)) || old.stat.size == size
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Error;
    use crate::format::pack::Space;
    use crate::format::tree::{Content, Page, Stat};
    use crate::tree::{FolderWriter, Sink};
    use bytes::Bytes;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Memory(HashMap<ChunkId, Bytes>);

    impl Sink for Memory {
        fn put(&mut self, _: Space, bytes: &[u8]) -> Result<ChunkId> {
            let id = ChunkId(*blake3::hash(bytes).as_bytes());
            self.0.insert(id, Bytes::copy_from_slice(bytes));
            Ok(id)
        }
    }

    impl Chunks for Memory {
        fn chunk(&self, _: Space, id: &ChunkId) -> Result<Bytes> {
            self.0.get(id).cloned().ok_or_else(|| Error::damaged("no such chunk"))
        }
    }

    fn name(n: usize) -> Vec<u8> {
        format!("{n:08}").into_bytes()
    }

    /// A folder of several pages.
    fn written(len: usize) -> (Memory, Old, ChunkId) {
        let mut memory = Memory::default();
        let mut folder = FolderWriter::new();
        for n in 0..len {
            let entry = Entry {
                name: name(n),
                stat: Stat { mode: 0o644, nlink: 1, ..Stat::default() },
                node: Node::File(Content::Inline(Vec::new())),
                xattrs: Vec::new(),
                chunker: None,
                unknown: Default::default(),
            };
            folder.push(&entry, &mut memory).unwrap();
        }
        let id = folder.finish(&mut memory).unwrap();
        assert!(memory.0.len() > 3, "one page is too few for this test");
        (memory, Old { listing: Some(Listing::new(&id)), ..Old::default() }, id)
    }

    #[test]
    fn names_are_found_in_their_order_and_all_are_counted() {
        let (memory, mut old, _) = written(5000);
        assert!(old.find(&name(0), &memory).unwrap().is_some());
        assert!(old.find(b"00000000-new", &memory).unwrap().is_none());
        // Those between were deleted.
        assert_eq!(old.find(&name(3000), &memory).unwrap().unwrap().name, name(3000));
        assert_eq!(old.count(&memory).unwrap(), Some(5000));
    }

    #[test]
    fn a_lost_page_is_told_once_and_what_stood_before_it_is_found() {
        let (mut memory, mut old, id) = written(5000);
        let Page::Node(1, pages) = Page::decode(&memory.0[&id]).unwrap() else { panic!("no node") };
        memory.0.remove(&pages[1].id);
        assert!(old.find(&pages[0].first, &memory).unwrap().is_some());
        assert!(old.find(&pages[1].first, &memory).is_err());
        assert!(old.find(&name(4999), &memory).unwrap().is_none());
        assert_eq!(old.count(&memory).unwrap(), None);
    }
}
