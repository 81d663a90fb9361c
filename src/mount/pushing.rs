//! Small files are handed to the kernel before it asks for them.
//!
//! Who copies a folder asks for its files one by one, and waits for each: two wake-ups of 30 to 60 µs, where
//! the answer itself takes 10. So with the second file that is read in a folder, those behind it in the listing are put
//! into the kernel's page cache (FUSE_NOTIFY_STORE), while the first ones are read.
//!
//! A thread of its own does that, which answers no requests: storing a page waits for a READ of it that is under way.

use super::inodes::Node;
use super::view::View;
use crate::fault::Result;
use crate::format::tree::{At, Content, Entry, Node as Kind};
use crate::tree::FileReader;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Longest file that is pushed, in bytes: what a READ costs besides its wake-ups is little up to here.
const FILE_MAX: u64 = 128 << 10;
/// Most bytes that are pushed at a time. In a folder of more, the next READ has the next ones pushed.
const BYTES_MAX: u64 = 2 << 20;
/// Most files that are pushed at a time.
const FILES_MAX: usize = 512;
/// Bytes of files behind the one that is read that are fetched from a far store. What is pushed is a part of them.
const AHEAD_BYTES: u64 = 16 << 20;
/// Folders whose readers are remembered: so many may be copied at once.
const FOLDERS: usize = 16;

/// How far a folder was pushed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// One file of it was read: that may be the only one.
    Begun,
    /// It is being pushed.
    Busy,
    /// Up to this entry of its listing.
    Until(usize),
}

/// Who reads which folders.
#[derive(Default)]
pub(super) struct Pushing {
    /// By number, the newest last.
    folders: Mutex<VecDeque<(u64, State)>>,
}

/// What is to be pushed: the files behind one in its folder, and behind those that were pushed before.
pub(super) struct Due {
    read: Arc<Node>,
    from: usize,
}

impl Pushing {
    fn set(&self, folder: u64, state: State) {
        if let Some((_, s)) = self.folders.lock().iter_mut().find(|(ino, _)| *ino == folder) {
            *s = state;
        }
    }
}

impl View {
    /// A file was read from its beginning, and had `len` bytes. What is to be pushed now, if anything.
    pub fn due(&self, ino: u64, len: usize) -> Option<Due> {
        if len as u64 > FILE_MAX {
            return None;
        }
        let read = self.nodes.get(ino)?;
        let folder = read.parent.as_ref()?.ino;
        let folders = &mut *self.pushing.folders.lock();
        let Some((_, state)) = folders.iter_mut().find(|(ino, _)| *ino == folder) else {
            if folders.len() == FOLDERS {
                folders.pop_front();
            }
            folders.push_back((folder, State::Begun));
            return None;
        };
        let from = match std::mem::replace(state, State::Busy) {
            State::Busy => return None,
            State::Begun => 0,
            State::Until(from) => from,
        };
        Some(Due { read, from })
    }

    /// What was due is not done, as there is too much to do.
    pub fn leave(&self, due: &Due) {
        let Some(folder) = &due.read.parent else { return };
        self.pushing.set(folder.ino, State::Begun);
    }

    /// Gives what is due to `store`, as far as the kernel knows it, until it answers that this was enough. What cannot
    /// be read is left for who asks for it.
    pub fn push(&self, due: &Due, store: &mut dyn FnMut(u64, &[u8]) -> bool) {
        let Some(folder) = &due.read.parent else { return };
        // After an error nothing is pushed in this folder: its readers will hear of it.
        let until = self.push_behind(folder, due, store).unwrap_or(usize::MAX);
        self.pushing.set(folder.ino, State::Until(until));
    }

    fn push_behind(
        &self,
        folder: &Node,
        due: &Due,
        store: &mut dyn FnMut(u64, &[u8]) -> bool,
    ) -> Result<usize> {
        let Some((shown, within)) = folder.inside() else { return Ok(usize::MAX) };
        let tree = self.tree_of(folder, shown, within)?;
        let listing = self.folders.listing(self.chunks(), &tree)?;
        let behind = listing.entries.partition_point(|e| e.name.as_slice() <= &*due.read.name);
        let from = behind.max(due.from).min(listing.entries.len());
        if self.chunks().looks_ahead() {
            self.expect_files(&listing.entries[from..]);
        }
        let (mut bytes, mut end) = (0, from);
        let mut buffer = Vec::new();
        for entry in listing.entries[from..].iter().take(FILES_MAX) {
            end += 1;
            let Some(file) = small(entry) else { continue };
            let ino = self.nodes.number(self.fingerprint(shown, within, entry));
            if self.nodes.get(ino).is_none() {
                continue;
            }
            buffer.clear();
            file.read_at(self.chunks(), 0, file.len() as usize, &mut buffer)?;
            bytes += file.len();
            if !store(ino, &buffer) || bytes > BYTES_MAX {
                break;
            }
        }
        Ok(end)
    }
}

impl View {
    /// Has contents of files fetched from a far store before they are asked for.
    fn expect_files(&self, entries: &[Entry]) {
        let (mut bytes, mut ids) = (0, Vec::new());
        for entry in entries {
            let Kind::File(Content::Extents(extents)) = &entry.node else { continue };
            bytes += entry.stat.size;
            if bytes > AHEAD_BYTES {
                break;
            }
            ids.extend(extents.iter().filter_map(|e| match e.at {
                At::Chunk(id) => Some(id),
                At::Hole | At::List(..) => None,
            }));
        }
        self.chunks().expect(&ids);
    }
}

/// The content of a file that is short enough, and holds anything.
fn small(entry: &Entry) -> Option<FileReader> {
    let Kind::File(content) = &entry.node else { return None };
    // What stat shows is the length: no more may be stored, or the kernel would take the file for longer.
    let len = content.len().ok()?;
    (len > 0 && len <= FILE_MAX && len == entry.stat.size).then(|| FileReader::new(content.clone()))
}
