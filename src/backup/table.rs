//! The local table of files: under which state of a file its content was stored.
//!
//! A killed backup leaves in it what it has stored. A writer key, which reads no trees, keeps it for good: there it is the
//! only way to know what is unchanged. Paths are in it as keyed hashes; contents are named by ids of chunks, never kept.
//!
//! What a record names is relied on only if it is there. Either all of its chunks are known one by one, or the session that
//! wrote the record made a snapshot that is listed and not forgotten: then they are needed by that, as with a parent's
//! trees (B2). The latter is the only way for long contents, whose pages a writer key cannot read.

use crate::clock::Time;
use crate::fault::{Error, Fault, Result};
use crate::format::cbor::{Reader, Writer as CborWriter};
use crate::format::tree::{At, Content, Extent, INLINE_MAX, Stat};
use crate::id::{ChunkId, SessionId, SnapshotId};
use crate::index::Index;
use crate::repository::{Repository, Snapshot, Writer};
use crate::source::Item;
use std::cell::Cell;
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// Files that the table may hold, at some 150 bytes each. Once it has more, and more than twice those of the backup that was
/// just made, it begins anew: names that are gone would stay in it for ever. That costs one reading of all files.
const FILES_MAX: u64 = 10_000_000;
/// Where the table counts its files. No path begins like this, as all are absolute.
const COUNT: &[u8] = b"count";
/// Before host and paths: what the last snapshot of these was.
const LAST: &[u8] = b"last";

/// What the table says of a file.
#[derive(Default)]
pub struct Recorded {
    /// What is known of its path.
    pub seen: Seen,
    /// Its content, if that is unchanged and stored for sure.
    pub content: Option<Content>,
}

/// What is known of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seen {
    /// Nothing.
    #[default]
    Never,
    /// The file was in another state.
    Other,
    /// It was in this state.
    Same,
}

/// The table, for one backup.
pub struct Table {
    index: Arc<Index>,
    /// Hashes paths.
    key: [u8; 32],
    session: SessionId,
    /// Sessions of our own snapshots that are listed and not forgotten.
    confirmed: HashSet<SessionId>,
    /// It is kept behind this backup.
    pub is_kept: bool,
    ignore_ctime: bool,
    /// Files that were not in it.
    added: Cell<u64>,
}

fn hashed(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    for part in parts {
        hasher.update(part);
    }
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    key
}

fn last_key(key: &[u8; 32], host: &[u8], paths: &[Vec<u8>]) -> [u8; 16] {
    // No path and no host name holds a zero byte.
    hashed(key, &[LAST, b"\0", host, b"\0", &paths.join(&0)])
}

impl Table {
    /// For a backup by `writer`; with `distrust` no record is believed for the sake of a snapshot alone.
    ///
    /// # Errors
    /// As opening the index.
    pub fn of(repository: &Repository, writer: &Writer, ignore_ctime: bool, distrust: bool) -> Result<Self> {
        let mine = writer.live().iter().filter(|s| repository.is_mine(s));
        // An entry that was too long for its folder is recorded and in no tree; its ctime changes before it fits.
        let confirmed = match distrust || ignore_ctime {
            true => HashSet::new(),
            false => mine.map(|s| s.manifest.session).collect(),
        };
        Ok(Self {
            index: repository.index()?.clone(),
            key: repository.inode_key(),
            session: writer.session(),
            confirmed,
            is_kept: repository.keeps_files(),
            ignore_ctime,
            added: Cell::new(0),
        })
    }

    fn key(&self, parts: &[&[u8]]) -> [u8; 16] {
        hashed(&self.key, parts)
    }

    fn path_key(&self, path: &Path) -> [u8; 16] {
        self.key(&[path.as_os_str().as_bytes()])
    }

    /// What is known of a file as the walk found it. `is_stored` tells whether all chunks of a content are known, `is_lost`
    /// whether the repository has lost any.
    pub fn look(
        &self,
        item: &Item,
        is_stored: impl Fn(&Content) -> bool,
        is_lost: impl Fn(&Content) -> bool,
    ) -> Recorded {
        let found = self.index.file(&self.path_key(&item.path())).ok().flatten();
        let Some(found) = found else { return Recorded::default() };
        let Ok(record) = Record::decode(&found) else { return Recorded::default() };
        if !record.is_of(&item.stat, item.inode, self.ignore_ctime) {
            return Recorded { seen: Seen::Other, content: None };
        }
        let counts = |content: &Content| match self.confirmed.contains(&record.session) {
            true => !is_lost(content),
            false => is_stored(content),
        };
        Recorded { seen: Seen::Same, content: record.content.filter(counts) }
    }

    /// Records a file whose content is in the backup that is under way. `known` is whether it came from this table.
    pub fn record(
        &self,
        writer: &Writer,
        path: &Path,
        item: &Item,
        (stat, content): (&Stat, &Content),
        (seen, known): (Seen, bool),
    ) {
        // The record is as good as it was, but for what only a snapshot can vouch for: that must be one of the newest.
        if known && !(self.is_kept && chunks(content).is_none()) {
            return;
        }
        let inline = matches!(content, Content::Inline(_));
        if inline && (!self.is_kept || seen == Seen::Same) {
            return;
        }
        if seen == Seen::Never {
            self.added.set(self.added.get() + 1);
        }
        let record = Record {
            size: stat.size,
            inode: item.inode,
            mtime: stat.mtime,
            ctime: stat.ctime,
            session: self.session,
            content: (!inline).then(|| content.clone()),
        };
        writer.record(self.path_key(path), record.encode());
    }

    /// Which the last snapshot of this host and these paths was that this key made.
    pub fn last_id(repository: &Repository, host: &[u8], paths: &[Vec<u8>]) -> Option<SnapshotId> {
        let found = repository.index().ok()?.file(&last_key(&repository.inode_key(), host, paths)).ok()??;
        SnapshotId::from_slice(&found)
    }

    /// The same, if it is still listed.
    pub fn last(
        repository: &Repository,
        writer: &Writer,
        host: &[u8],
        paths: &[Vec<u8>],
    ) -> Option<Arc<Snapshot>> {
        let id = Self::last_id(repository, host, paths)?;
        writer.live().iter().find(|s| s.id == id).cloned()
    }

    /// The backup has made a snapshot of so many files: remembers which, and begins anew where the table has grown too long.
    ///
    /// # Errors
    /// What the cache's disk says; the snapshot is there.
    pub fn committed(&self, id: &SnapshotId, host: &[u8], paths: &[Vec<u8>], files: u64) -> Result<()> {
        if !self.is_kept {
            return Ok(());
        }
        let key = self.key(&[COUNT]);
        let before = self.index.file(&key)?.and_then(|n| Some(u64::from_le_bytes(n.try_into().ok()?)));
        let mut count = before.unwrap_or(0).saturating_add(self.added.get());
        if count > FILES_MAX.max(files.saturating_mul(2)) {
            self.index.forget_files()?;
            count = 0;
        }
        let count = (key, count.to_le_bytes().to_vec());
        self.index.apply(Vec::new(), &[], vec![count, (last_key(&self.key, host, paths), id.0.to_vec())])
    }
}

/// What is kept of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    size: u64,
    inode: u64,
    mtime: Time,
    ctime: Time,
    /// Whose snapshot, if it was made, holds the content.
    session: SessionId,
    /// None: it fits into its entry, and is read again.
    content: Option<Content>,
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        let mut w = CborWriter::new();
        w.array(if self.content.is_some() { 8 } else { 7 }).unsigned(self.size).unsigned(self.inode);
        w.integer(self.mtime.seconds).unsigned(u64::from(self.mtime.nanos));
        w.integer(self.ctime.seconds).unsigned(u64::from(self.ctime.nanos));
        w.bytes(&self.session.0);
        if let Some(content) = &self.content {
            content.encode_into(&mut w);
        }
        w.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let bad = || Error::new(Fault::Damaged, "a record of a file makes no sense");
        let mut r = Reader::new(bytes);
        let fields = r.array()?;
        let (size, inode) = (r.unsigned()?, r.unsigned()?);
        let mut time = || Time::new(r.integer()?, r.u32()?).ok_or_else(bad);
        let (mtime, ctime) = (time()?, time()?);
        let session = SessionId(r.array_of()?);
        let content = match fields {
            7 => None,
            8 => Some(Content::decode(&mut r, INLINE_MAX)?),
            _ => return Err(bad()),
        };
        r.end()?;
        if content.as_ref().is_some_and(|c| !c.len().is_ok_and(|len| len == size)) {
            return Err(bad());
        }
        Ok(Self { size, inode, mtime, ctime, session, content })
    }

    fn is_of(&self, stat: &Stat, inode: u64, ignore_ctime: bool) -> bool {
        self.size == stat.size
            && self.mtime == stat.mtime
            && (ignore_ctime || (self.ctime == stat.ctime && self.inode == inode))
    }
}

/// The chunks of a content that lies in no more than its entry, with their lengths; `None` where it has pages of its own.
pub fn chunks(content: &Content) -> Option<Vec<(ChunkId, u32)>> {
    match content {
        Content::Inline(_) => Some(Vec::new()),
        Content::Extents(extents) => extents
            .iter()
            .filter(|e| !matches!(e.at, At::Hole))
            .map(|Extent { at, len }| match at {
                At::Chunk(id) => Some((*id, u32::try_from(*len).ok()?)),
                _ => None,
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(content: Option<Content>) -> Record {
        let time = |seconds| Time { seconds, nanos: 7 };
        Record { size: 5, inode: 9, mtime: time(-1), ctime: time(2), session: SessionId([3; 16]), content }
    }

    #[test]
    fn records_come_back_as_they_were_and_nothing_else_does() {
        let extents = vec![Extent { len: 5, at: At::Chunk(ChunkId([1; 32])) }];
        for content in [None, Some(Content::Extents(extents))] {
            let record = record(content);
            let bytes = record.encode();
            assert_eq!(Record::decode(&bytes).unwrap(), record);
            for at in 0..bytes.len() {
                assert!(Record::decode(&bytes[..at]).is_err());
                let mut changed = bytes.clone();
                changed[at] ^= 0x55;
                assert!(Record::decode(&changed).is_err() || Record::decode(&changed).unwrap() != record);
            }
        }
        let other = vec![Extent { len: 6, at: At::Chunk(ChunkId([1; 32])) }];
        assert!(Record::decode(&record(Some(Content::Extents(other))).encode()).is_err());
    }

    #[test]
    fn a_record_is_of_one_state_of_a_file() {
        let record = record(None);
        let stat = |size, mtime, ctime| Stat { size, mtime, ctime, ..Stat::default() };
        let same = stat(5, record.mtime, record.ctime);
        assert!(record.is_of(&same, 9, false) && record.is_of(&same, 9, true));
        assert!(!record.is_of(&same, 8, false) && record.is_of(&same, 8, true));
        assert!(!record.is_of(&stat(5, record.mtime, record.mtime), 9, false));
        for other in [stat(4, record.mtime, record.ctime), stat(5, record.ctime, record.ctime)] {
            assert!(!record.is_of(&other, 9, false) && !record.is_of(&other, 9, true));
        }
    }

    #[test]
    fn only_short_contents_name_all_of_their_chunks() {
        let id = ChunkId([1; 32]);
        let extent = |at| Extent { len: 1, at };
        assert_eq!(chunks(&Content::Inline(vec![1])), Some(vec![]));
        let short = Content::Extents(vec![extent(At::Hole), extent(At::Chunk(id))]);
        assert_eq!(chunks(&short), Some(vec![(id, 1)]));
        let long = Content::Extents(vec![extent(At::Chunk(id)), extent(At::List(id, 1))]);
        assert_eq!(chunks(&long), None);
    }
}
