//! Chunks in memory that count how often they are read.

use crate::fault::{Error, Fault, Result};
use crate::format::pack::Space;
use crate::format::tree::{Content, Entry, Node, Stat};
use crate::id::ChunkId;
use crate::tree::{Chunks, FolderWriter, ROOT_NAME, Sink};
use bytes::Bytes;
use std::cell::Cell;
use std::collections::HashMap;

#[derive(Default)]
pub struct Shelf {
    chunks: HashMap<ChunkId, Bytes>,
    reads: Cell<usize>,
    /// Nothing can be reached.
    pub away: bool,
}

impl Sink for Shelf {
    fn put(&mut self, _: Space, bytes: &[u8]) -> Result<ChunkId> {
        let id = ChunkId::of_object(bytes);
        self.chunks.insert(id, Bytes::copy_from_slice(bytes));
        Ok(id)
    }
}

impl Chunks for Shelf {
    fn chunk(&self, _: Space, id: &ChunkId) -> Result<Bytes> {
        self.reads.set(self.reads.get() + 1);
        if self.away {
            return Err(Error::new(Fault::Busy, "away"));
        }
        self.chunks.get(id).cloned().ok_or_else(|| Error::damaged("lost"))
    }
}

impl Shelf {
    /// A folder of these entries, which are sorted by name.
    pub fn tree(&mut self, entries: impl IntoIterator<Item = Entry>) -> ChunkId {
        let mut w = FolderWriter::new();
        for e in entries {
            w.push(&e, self).unwrap();
        }
        w.finish(self).unwrap()
    }
    /// The root page of a snapshot whose `/` is this tree.
    pub fn root(&mut self, top: ChunkId) -> ChunkId {
        self.tree([folder(ROOT_NAME, top)])
    }
    /// Reads since it was asked last.
    pub fn reads(&self) -> usize {
        self.reads.take()
    }
    pub fn len(&self) -> usize {
        self.chunks.len()
    }
    pub fn lose(&mut self, id: ChunkId) {
        assert!(self.chunks.remove(&id).is_some());
    }
}

fn entry(name: &[u8], node: Node, stat: Stat) -> Entry {
    let stat = Stat { nlink: 1, ..stat };
    Entry { name: name.to_vec(), stat, node, xattrs: Vec::new(), chunker: None, unknown: Default::default() }
}

pub fn folder(name: &[u8], tree: ChunkId) -> Entry {
    entry(name, Node::Folder(tree), Stat { mode: 0o755, ..Stat::default() })
}

pub fn file(name: &str, mtime: i64, content: &[u8]) -> Entry {
    let mut stat = Stat { mode: 0o644, size: content.len() as u64, ..Stat::default() };
    stat.mtime.seconds = mtime;
    entry(name.as_bytes(), Node::File(Content::Inline(content.to_vec())), stat)
}
