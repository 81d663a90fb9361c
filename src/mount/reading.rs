//! Bytes of files.

use super::errno::Errno;
use super::inodes::Node;
use super::lru::Lru;
use super::view::View;
use crate::fault::Error;
use crate::format::tree::Node as Kind;
use crate::tree::{Extents, FileReader};
use parking_lot::Mutex;
use std::cell::RefCell;
use std::sync::Arc;

/// Files that are being read in several steps.
const READERS: usize = 64;

/// The files that are being read.
pub(super) struct Readers {
    open: Mutex<Lru<u64, Arc<FileReader>>>,
    /// Of all of them, so that memory has one bound.
    extents: Arc<Extents>,
}

impl Readers {
    pub fn new() -> Self {
        Self { open: Mutex::new(Lru::new(READERS)), extents: Arc::default() }
    }
    /// About the bytes of memory that decoded pages of extents take.
    pub fn bytes(&self) -> usize {
        self.extents.bytes()
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
        let reader = self.open(&node, len as u64)?;
        reader.read_at(self.chunks(), offset, len, out).map_err(|e| self.failed(&node, &e))
    }

    /// The reader of a file; kept if one READ does not do.
    fn open(&self, node: &Node, len: u64) -> Result<Arc<FileReader>, Errno> {
        if let Some(reader) = self.readers.open.lock().get(&node.ino) {
            return Ok(reader);
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
        let reader = Arc::new(FileReader::sharing(content, self.readers.extents.clone()));
        if reader.len() > len {
            self.readers.open.lock().put(node.ino, reader.clone(), 1);
        }
        Ok(reader)
    }

    /// As `lseek(2)` with SEEK_HOLE or SEEK_DATA.
    pub fn seek(&self, ino: u64, offset: i64, whence: i32) -> Result<i64, Errno> {
        let node = self.node(ino)?;
        let reader = self.open(&node, 0)?;
        let at = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        if at >= reader.len() {
            return Err(Errno::ENXIO);
        }
        let found = match whence {
            libc::SEEK_DATA => reader.seek_data(self.chunks(), at),
            libc::SEEK_HOLE => reader.seek_hole(self.chunks(), at).map(Some),
            _ => return Err(Errno::EINVAL),
        };
        match found.map_err(|e| self.failed(&node, &e))? {
            Some(at) => i64::try_from(at).map_err(|_| Errno::EINVAL),
            None => Err(Errno::ENXIO),
        }
    }
}
