//! What this machine remembers of a place: the snapshots and notes that were listed there and proven.
//!
//! Two things rest on it. A start opens and proves only what is new, however many snapshots there are; and a snapshot that
//! vanishes is noticed (`vanished.rs`). What counts is still what the store lists now: nothing is listed because it is
//! remembered.
//!
//! The file `<cache>/seen-<hash of the place>` is a row of records:
//!
//! ```text
//! length u32le ‖ nonce (24) ‖ ciphertext ‖ tag (16)      XChaCha20-Poly1305
//! ```
//!
//! each sealed under a key made from the index key, and bound to the repository, the place and its offset in the file: it
//! shows no host, tag or time, and what was altered, cut or brought from elsewhere does not open. Such a file is written
//! anew from what the store has. New records go to its end, under flock(2); once there are many, one takes their place in a
//! new file. Whoever cannot get the lock tries again after the next listing, and what is lost with the file costs time
//! (and the notice of what vanished before), nothing else.

use super::keyring::{Author, Keyring};
use super::listing::Snapshot;
use crate::fault::{Doing, Error, Result};
use crate::format::cbor::{Reader, Writer};
use crate::format::snapshot::{Manifest, Note};
use crate::id::{ID_LEN, NoteId, SnapshotId, hex};
use crate::seal::{self, Role};
use rustix::fs::{FlockOperation, flock};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The key of the file is derived from the index key by this context.
const CONTEXT: &str = "pastfs v1 cache of listings";
/// Longest file in bytes that is read or written: half a million snapshots.
const FILE_MAX: u64 = 256 << 20;
/// Records that make the next save write the file anew: what a start opens one by one stays few, and a new snapshot costs
/// a hundredth of the file at most.
const RECORDS_MAX: usize = 128;
/// Longest host of a writer key, and other short texts, in bytes: far above what certificates allow.
const TEXT_MAX: usize = 64 << 10;

const SNAPSHOT: u64 = 1;
const NOTE: u64 = 2;
const GONE: u64 = 3;
const CONFIG: u64 = 4;

/// Something to remember.
#[derive(Clone)]
pub(super) enum Item {
    /// A manifest that was proven.
    Snapshot(Arc<Snapshot>),
    /// A note that was proven, and who says it.
    Note(NoteId, Arc<(Note, Author)>),
    /// A snapshot or a note that has gone, for a reason that is known.
    Gone([u8; ID_LEN]),
    /// The number of the newest config that was seen.
    Config(u64),
}

/// The file for a place.
pub(super) fn path(cache: &Path, place: &str) -> PathBuf {
    cache.join(format!("seen-{}", hex(&blake3::hash(place.as_bytes()).as_bytes()[..8])))
}

/// What is remembered, and its file.
pub(super) struct Remembered {
    /// Manifests by id, of snapshots that were listed once and whose end is not explained.
    pub snapshots: HashMap<SnapshotId, Arc<Snapshot>>,
    /// Notes likewise.
    pub notes: HashMap<NoteId, Arc<(Note, Author)>>,
    /// The newest config that was seen; 0: none.
    pub config: u64,
    /// Not in the file yet.
    fresh: Vec<Item>,
    path: PathBuf,
    key: Zeroizing<[u8; 32]>,
    bound_to: Vec<u8>,
    /// Device and inode of the file that was read; another may take its place.
    file: Option<(u64, u64)>,
    /// How far it was read, and in how many records.
    end: u64,
    records: usize,
    /// Behind `end` lies what does not open.
    is_broken: bool,
}

impl Remembered {
    /// Reads what is remembered of the place; nothing where there is no such file or none that opens.
    pub fn open(cache: &Path, keys: &Keyring, place: &str) -> Self {
        let hash = blake3::hash(place.as_bytes());
        let mut this = Self {
            snapshots: HashMap::new(),
            notes: HashMap::new(),
            config: 0,
            fresh: Vec::new(),
            path: path(cache, place),
            key: keys.cache_key(CONTEXT),
            bound_to: [&keys.repository.0[..], hash.as_bytes()].concat(),
            file: None,
            end: 0,
            records: 0,
            is_broken: false,
        };
        if let Ok(mut file) = File::open(&this.path) {
            this.file = file.metadata().ok().map(|m| (m.dev(), m.ino()));
            this.take_in(&mut file);
        }
        this
    }

    /// Remembers something from now on; it is in the file after the next [`Remembered::save`].
    pub fn add(&mut self, item: Item) {
        self.apply(item.clone());
        self.fresh.push(item);
    }

    fn apply(&mut self, item: Item) {
        match item {
            Item::Snapshot(snapshot) => drop(self.snapshots.insert(snapshot.id, snapshot)),
            Item::Note(id, note) => drop(self.notes.insert(id, note)),
            Item::Gone(id) => {
                self.snapshots.remove(&SnapshotId(id));
                self.notes.remove(&NoteId(id));
            }
            Item::Config(number) => self.config = number,
        }
    }

    /// Reads from `end` on, up to the first record that does not open.
    fn take_in(&mut self, file: &mut File) {
        let long = file.metadata().map_or(u64::MAX, |m| m.len());
        let mut bytes = Vec::with_capacity(long.saturating_sub(self.end).min(FILE_MAX) as usize + 1);
        let sought = std::io::Seek::seek(file, std::io::SeekFrom::Start(self.end));
        let read = file.take(FILE_MAX).read_to_end(&mut bytes);
        // Shorter than it was: somebody cut it.
        self.is_broken = sought.is_err() || read.is_err() || long > FILE_MAX || long < self.end;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() && !self.is_broken {
            let record = rest
                .split_first_chunk::<4>()
                .and_then(|(len, more)| more.split_at_checked(u32::from_le_bytes(*len) as usize));
            match record.and_then(|(sealed, more)| Some((self.unseal(sealed)?, sealed.len(), more))) {
                Some((items, len, more)) => {
                    items.into_iter().for_each(|item| self.apply(item));
                    self.end += 4 + len as u64;
                    self.records += 1;
                    rest = more;
                }
                None => self.is_broken = true,
            }
        }
    }

    fn unseal(&self, sealed: &[u8]) -> Option<Vec<Item>> {
        let plain = seal::open_box(&self.key, &self.associated(self.end), sealed).ok()?;
        decode(&plain).ok()
    }

    fn associated(&self, offset: u64) -> Vec<u8> {
        [&self.bound_to[..], &offset.to_le_bytes()].concat()
    }

    fn record(&self, offset: u64, items: &[Item]) -> Result<Vec<u8>> {
        let sealed = seal::seal_box(&self.key, &self.associated(offset), &encode(items))?;
        let len = u32::try_from(sealed.len()).map_err(|_| Error::bug("a record of the cache is too long"))?;
        Ok([&len.to_le_bytes()[..], &sealed].concat())
    }

    /// Brings the file up to what is remembered, and this up to what others have added to it. `false` where another
    /// process holds the file: that is left to the next time.
    ///
    /// # Errors
    /// What the file system says; what is remembered stays so in this process.
    pub fn save(&mut self) -> Result<bool> {
        if self.fresh.is_empty() && !self.is_broken {
            return Ok(true);
        }
        let doing = || format!("remembering snapshots in {}", self.path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)
            .doing(doing)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        // Another may have put a new file in the place of the one that we opened.
        let name = |m: &fs::Metadata| (m.dev(), m.ino());
        let mine = file.metadata().map(|m| name(&m)).doing(doing)?;
        if !fs::metadata(&self.path).is_ok_and(|now| name(&now) == mine) {
            return Ok(false);
        }
        let is_other = self.file != Some(mine);
        if is_other {
            (self.end, self.records) = (0, 0);
        }
        let fresh = std::mem::take(&mut self.fresh);
        self.take_in(&mut file);
        // What was found here later than there outweighs it.
        fresh.iter().for_each(|item| self.apply(item.clone()));
        let written = match is_other || self.is_broken || self.records >= RECORDS_MAX {
            true => self.write_anew(),
            false => self.append(&file, &fresh),
        };
        if written.is_err() {
            self.fresh = fresh;
        }
        written.map(|()| true).doing(|| format!("remembering snapshots in {}", self.path.display()))
    }

    fn append(&mut self, file: &File, items: &[Item]) -> Result<()> {
        let record = self.record(self.end, items)?;
        let doing = || "adding a record";
        file.write_all_at(&record, self.end).doing(doing)?;
        self.end += record.len() as u64;
        self.records += 1;
        Ok(())
    }

    fn write_anew(&mut self) -> Result<()> {
        let mut items = vec![Item::Config(self.config)];
        items.extend(self.snapshots.values().map(|s| Item::Snapshot(s.clone())));
        items.extend(self.notes.iter().map(|(id, note)| Item::Note(*id, note.clone())));
        let record = self.record(0, &items)?;
        if record.len() as u64 > FILE_MAX {
            return Err(Error::misuse(format!("{} bytes are more than is remembered", record.len())));
        }
        let draft = self.path.with_extension("new");
        let doing = || "writing it anew";
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .doing(doing)?;
        file.write_all(&record).doing(doing)?;
        file.sync_data().doing(doing)?;
        fs::rename(&draft, &self.path).doing(doing)?;
        self.file = file.metadata().ok().map(|m| (m.dev(), m.ino()));
        (self.end, self.records, self.is_broken) = (record.len() as u64, 1, false);
        Ok(())
    }
}

fn encode(items: &[Item]) -> Vec<u8> {
    let mut w = Writer::new();
    w.array(items.len());
    for item in items {
        match item {
            Item::Snapshot(s) => put_author(w.array(7).unsigned(SNAPSHOT).bytes(&s.id.0), &s.author)
                .bytes(&s.manifest.encode()),
            Item::Note(id, note) => {
                let (note, author) = &**note;
                put_author(w.array(7).unsigned(NOTE).bytes(&id.0), author).bytes(&note.encode())
            }
            Item::Gone(id) => w.array(2).unsigned(GONE).bytes(id),
            Item::Config(number) => w.array(2).unsigned(CONFIG).unsigned(*number),
        };
    }
    w.finish()
}

fn put_author<'a>(w: &'a mut Writer, author: &Author) -> &'a mut Writer {
    w.unsigned(author.role.code().into())
        .bytes(&author.public)
        .bytes(&author.host)
        .unsigned(author.epoch.into())
}

fn author(r: &mut Reader<'_>) -> Result<Author> {
    let role = u8::try_from(r.unsigned()?).ok().and_then(Role::from_code).ok_or_else(bad)?;
    Ok(Author { role, public: r.array_of()?, host: r.bytes(TEXT_MAX)?.to_vec(), epoch: r.u32()? })
}

fn bad() -> Error {
    Error::damaged("a record of the cache is of another version")
}

fn decode(bytes: &[u8]) -> Result<Vec<Item>> {
    let mut r = Reader::new(bytes);
    let mut items = Vec::new();
    for _ in 0..r.array()? {
        let len = r.array()?;
        items.push(match (r.unsigned()?, len) {
            (SNAPSHOT, 7) => {
                let (id, author) = (SnapshotId(r.array_of()?), author(&mut r)?);
                let manifest = Manifest::decode(r.bytes(bytes.len())?)?;
                Item::Snapshot(Arc::new(Snapshot::of(id, manifest, author)))
            }
            (NOTE, 7) => {
                let (id, author) = (NoteId(r.array_of()?), author(&mut r)?);
                Item::Note(id, Arc::new((Note::decode(r.bytes(bytes.len())?)?, author)))
            }
            (GONE, 2) => Item::Gone(r.array_of()?),
            (CONFIG, 2) => Item::Config(r.unsigned()?),
            _ => return Err(bad()),
        });
    }
    r.end()?;
    Ok(items)
}
