//! Bytes of files, and guesses at which ones come next.

use super::errno::Errno;
use super::inodes::Node;
use super::lru::Lru;
use super::view::View;
use crate::fault::{Error, Result as Outcome};
use crate::format::tree::{At, Content, Entry, Node as Kind};
use crate::id::ChunkId;
use crate::tree::FileReader;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Files that are being read in several steps. Each may hold a page of extents, some 300 KB decoded.
const READERS: usize = 64;
/// How far ahead of a sequential reader its chunks are announced, in bytes: twice the read-ahead of the
/// kernel (4 MiB as root).
const AHEAD: u64 = 8 << 20;
/// READs of one stream arrive this much out of order, as several threads take them.
const DISORDER: u64 = 4 << 20;
/// How many bytes of the next files in a folder are announced to who reads small files in order.
const AHEAD_FILES_BYTES: u64 = 4 << 20;
/// And at most so many files.
const AHEAD_FILES: usize = 256;
/// Files read in the order of names, with at most so many left out, are a walk.
const WALK_GAP: usize = 16;

/// The files that are being read.
pub(super) struct Readers {
    open: Mutex<Lru<u64, Arc<Open>>>,
}

/// One file.
struct Open {
    reader: FileReader,
    /// Where the next READ begins, if the file is read in order.
    next: AtomicU64,
    /// Up to here chunks were announced.
    ahead: AtomicU64,
}

impl Readers {
    pub fn new() -> Self {
        Self { open: Mutex::new(Lru::new(READERS)) }
    }
    /// The node is gone.
    pub fn remove(&self, ino: u64) {
        self.open.lock().remove(&ino);
    }
}

thread_local! {
    /// Replies are put together here: memory that stays in the processor's cache.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl View {
    /// Reads up to `len` bytes at `offset`, fewer only at the end, and hands them to `reply`.
    pub fn read<R>(
        &self,
        ino: u64,
        offset: u64,
        len: usize,
        reply: impl FnOnce(Result<&[u8], Errno>) -> R,
    ) -> R {
        BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            match self.read_into(ino, offset, len, buffer) {
                Ok(()) => reply(Ok(buffer)),
                Err(e) => reply(Err(e)),
            }
        })
    }

    fn read_into(&self, ino: u64, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<(), Errno> {
        let node = self.node(ino)?;
        let open = self.open(&node, len as u64)?;
        self.announce(&node, &open, offset, len as u64);
        open.reader.read_at(self.chunks(), offset, len, out).map_err(|e| self.failed(&node, &e))
    }

    /// The reader of a file; kept if one READ does not do.
    fn open(&self, node: &Node, len: u64) -> Result<Arc<Open>, Errno> {
        if let Some(open) = self.readers.open.lock().get(&node.ino) {
            return Ok(open);
        }
        let entry = self.entry(node)?;
        let content = match &entry.node {
            Kind::File(content) => content.clone(),
            Kind::Folder(_) => return Err(Errno::EISDIR),
            Kind::Unknown(code) => {
                let e = Error::damaged(format!("its type ({code}) is unknown to this version"));
                return Err(self.failed(node, &e));
            }
            _ => return Err(Errno::EINVAL),
        };
        let open = Arc::new(Open {
            reader: FileReader::new(content),
            next: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
        });
        if open.reader.len() > len {
            self.readers.open.lock().put(node.ino, open.clone(), 1);
        }
        Ok(open)
    }

    /// Tells the shelf what will be read next, so that it is decoded when it is asked for.
    fn announce(&self, node: &Node, open: &Open, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        if offset == 0 && end >= open.reader.len() {
            self.announce_files(node);
            return;
        }
        let expected = open.next.swap(end, Relaxed);
        if offset.abs_diff(expected) > DISORDER {
            // A jump: what was announced from elsewhere does not count.
            open.ahead.store(end, Relaxed);
            return;
        }
        let ahead = open.ahead.load(Relaxed);
        if ahead >= end.saturating_add(AHEAD / 2) || end >= open.reader.len() {
            return;
        }
        let from = ahead.max(end);
        let until = end.saturating_add(AHEAD).min(open.reader.len());
        if from >= until || open.ahead.compare_exchange(ahead, until, Relaxed, Relaxed).is_err() {
            return;
        }
        // A failure here is met again, and told, by the READ itself.
        if let Ok(chunks) = self.chunks_between(&open.reader, from, until) {
            self.shelf.prefetch(&chunks);
        }
    }

    fn chunks_between(&self, reader: &FileReader, from: u64, until: u64) -> Outcome<Vec<ChunkId>> {
        let mut chunks = Vec::new();
        let mut at = from;
        while at < until {
            let before = at;
            for (start, e) in reader.extents(self.chunks(), at)? {
                if start >= until {
                    return Ok(chunks);
                }
                if let At::Chunk(id) = e.at {
                    chunks.push(id);
                }
                at = start.saturating_add(e.len);
            }
            if at == before {
                break;
            }
        }
        Ok(chunks)
    }

    /// A small file was read as a whole: if the folder is read in order, the next ones follow.
    fn announce_files(&self, node: &Node) {
        let Some(parent) = &node.parent else { return };
        let Ok(tree) = self.tree(parent) else { return };
        let Some(listing) = self.folders.cached(&tree) else { return };
        let Ok(i) = listing.entries.binary_search_by(|e| e.name.as_slice().cmp(&node.name)) else { return };
        let last = listing.last.swap(i, Relaxed);
        if i < last || i - last > WALK_GAP {
            listing.hinted.store(i + 1, Relaxed);
            return;
        }
        let hinted = listing.hinted.load(Relaxed);
        let from = hinted.max(i + 1);
        // Half of what was announced is still to come.
        if from - i > AHEAD_FILES / 2 {
            return;
        }
        let (chunks, until) = following(&listing.entries, from);
        if moved(&listing.hinted, hinted, until) && !chunks.is_empty() {
            self.shelf.prefetch(&chunks);
        }
    }

    /// As `lseek(2)` with SEEK_HOLE or SEEK_DATA.
    pub fn seek(&self, ino: u64, offset: i64, whence: i32) -> Result<i64, Errno> {
        let node = self.node(ino)?;
        let open = self.open(&node, 0)?;
        let at = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        if at >= open.reader.len() {
            return Err(Errno::ENXIO);
        }
        let found = match whence {
            libc::SEEK_DATA => open.reader.seek_data(self.chunks(), at),
            libc::SEEK_HOLE => open.reader.seek_hole(self.chunks(), at).map(Some),
            _ => return Err(Errno::EINVAL),
        };
        match found.map_err(|e| self.failed(&node, &e))? {
            Some(at) => i64::try_from(at).map_err(|_| Errno::EINVAL),
            None => Err(Errno::ENXIO),
        }
    }
}

/// Whether this thread is the one that moved the mark.
fn moved(mark: &AtomicUsize, from: usize, to: usize) -> bool {
    mark.compare_exchange(from, to, Relaxed, Relaxed).is_ok()
}

/// The chunks of the files from `from` on, and the entry behind them.
fn following(entries: &[Entry], from: usize) -> (Vec<ChunkId>, usize) {
    let mut chunks = Vec::new();
    let mut bytes: u64 = 0;
    let mut until = from;
    for entry in entries.iter().skip(from).take(AHEAD_FILES) {
        until += 1;
        if let Kind::File(Content::Extents(extents)) = &entry.node {
            for e in extents {
                if let At::Chunk(id) = e.at {
                    chunks.push(id);
                    bytes = bytes.saturating_add(e.len);
                }
                if bytes >= AHEAD_FILES_BYTES {
                    return (chunks, until);
                }
            }
        }
    }
    (chunks, until)
}
