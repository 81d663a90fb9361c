//! The door to RocksDB: where the database lies, who may write to it, how it is opened and made anew.
//!
//! ```text
//! <cache>/lock              flock(2)ed by the one who writes, makes anew or cleans up
//! <cache>/current           name of the database in use
//! <cache>/db-<random>/      a RocksDB database
//! <cache>/in-<random>.sst   a batch on its way into it
//! <cache>/readers/<pid>-<random>/   the folder that a secondary instance needs; `held` in it is locked
//! <cache>/marks/<pid>-<random>/     what one walk has met, likewise: see scratch.rs
//! ```
//!
//! Everybody reads through a secondary instance; a primary is open only while somebody writes. A database
//! that is broken is not repaired: a new folder under a new name takes its place, so that no reader can mix
//! two of them up, and whoever held the old one goes on reading what it holds until it looks at `current`.
//!
//! All writing is the ingestion of one sorted file, which RocksDB adds as a whole or not at all; no
//! write-ahead log is involved. The file has a new name each time: RocksDB links it, and whoever opened the
//! same name again after a kill would truncate a part of the database.

use super::record::{ChunkKey, ChunkValue, PREFIX};
use crate::clock;
use crate::fault::{Doing, Error, Fault, Result};
use crate::id::hex;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BottommostLevelCompaction, Cache, CompactOptions,
    CompactionDecision, DB, DBCompressionType, DBPinnableSlice, DBRawIterator, ErrorKind,
    IngestExternalFileOptions, LogLevel, LruCacheOptions, Options, ReadOptions, SliceTransform,
    SstFileWriter, WaitForCompactOptions,
};
use rustix::fs::{Advice, FlockOperation, fadvise, flock};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::Write;
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Bytes of blocks, indexes and filters in memory, whatever the size of the repository.
const BLOCK_CACHE: usize = 32 << 20;
/// The cache in 2 parts of 16 MiB: with the default of 64 what is large does not fit its part and is read each time
/// (measured: 5,000 look-ups a second against 170,000).
const CACHE_SHARD_BITS: i32 = 1;
/// Bloom filter: 1 % false answers.
pub(super) const FILTER_BITS: f64 = 10.0;
/// Files of level 0 that start a compaction; each one costs each look-up.
const LEVEL0_FILES: i32 = 8;
/// Length of the files that compactions write: each file is opened at a start, with four reads where nothing is in memory,
/// and 10 million chunks are 630 MB.
const FILE_BYTES: u64 = 256 << 20;
/// Bytes that a scan of all chunks reads at a time.
const SCAN_AHEAD: usize = 2 << 20;
/// Bytes that a start reads at a time of what is kept of segments: else it is block by block, 4 KiB each, and half a megabyte
/// for 10,000.
const START_AHEAD: usize = 256 << 10;
/// A database of up to so many bytes is read ahead whole: they fit [`BLOCK_CACHE`], and take the disk as long as some hundred
/// of the 4 KiB that each look-up would read else (500,000 chunks; 2,000 cold random reads: 1,200 reads of it less).
const WHOLE_BYTES: u64 = 32 << 20;
/// Look-ups before that: a start and an `ls` need less.
const WHOLE_AFTER: u32 = 32;
/// Bytes that the kernel is asked for at a time: of more it may read the beginning alone (`read_ahead_kb`, by default this).
const WHOLE_STEP: u64 = 128 << 10;
/// How long a writer waits for compactions before it closes; what is cut off is begun again by the next.
const COMPACTION_WAIT: Duration = Duration::from_secs(60);
/// How often and how long one waits for the lock of another writer: 10 seconds in all.
pub const LOCK_TRIES: u32 = 200;
/// See [`LOCK_TRIES`].
pub const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A failure of the database.
pub enum Trouble {
    /// It is damaged, or parts of it are gone: opening again may help, making it anew will.
    Broken(Error),
    /// Anything else.
    Failed(Error),
}

/// Result of what asks the database.
pub type Tried<T> = std::result::Result<T, Trouble>;

impl Trouble {
    /// A record that means nothing.
    pub fn record(what: &str) -> Self {
        Self::Broken(Error::damaged(format!("{what} in the index cache is damaged")))
    }
}

impl From<Error> for Trouble {
    fn from(e: Error) -> Self {
        Self::Failed(e)
    }
}

impl From<Trouble> for Error {
    fn from(t: Trouble) -> Self {
        match t {
            Trouble::Broken(e) | Trouble::Failed(e) => e,
        }
    }
}

/// Sorts RocksDB's errors by what can be done about them. Its messages are all there is to go by.
pub(super) fn trouble(doing: impl Into<String>, e: rocksdb::Error) -> Trouble {
    let text = e.to_string();
    let has = |what: &str| text.contains(what);
    let fault = if has("No space left") || has("Disk quota") || has("Too many open files") {
        Fault::Full
    } else if has("Permission denied") || has("Read-only file system") {
        Fault::Denied
    } else if has("While lock file") || has("lock hold by current process") {
        Fault::Busy
    } else if e.kind() == ErrorKind::IOError && !has("No such file") && !has("Not a directory") {
        Fault::Io
    } else {
        return Trouble::Broken(Error::with_source(Fault::Damaged, doing, e));
    };
    Trouble::Failed(Error::with_source(fault, doing, e))
}

/// The cache folder.
pub struct Home {
    pub(super) dir: PathBuf,
    pub(super) cache: Cache,
}

/// The right to write; ends when dropped, and with the process.
pub struct Lock {
    _file: File,
}

/// What to do where the cache cannot be written.
const ADVICE: &str = "choose another folder with --cache or PASTFS_CACHE";

/// Makes the cache folder when it is not there. `Denied` when it belongs to somebody else.
pub fn claim(dir: &Path) -> Result<()> {
    let doing = || format!("opening the cache {}", dir.display());
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir).doing(doing);
    let meta = made.and_then(|()| fs::metadata(dir).doing(doing)).map_err(|e| e.hint(ADVICE))?;
    let (owner, me) = (meta.uid(), rustix::process::geteuid().as_raw());
    if owner != me {
        let text = format!("the cache {} belongs to user {owner}, and this is user {me}", dir.display());
        return Err(Error::new(Fault::Denied, text).hint(ADVICE));
    }
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700)).doing(doing)?;
    }
    Ok(())
}

impl Home {
    /// Makes the folder when it is not there. `Denied` when it belongs to somebody else.
    pub fn open(dir: &Path) -> Result<Self> {
        claim(dir)?;
        let mut lru = LruCacheOptions::default();
        lru.set_capacity(BLOCK_CACHE);
        lru.set_num_shard_bits(CACHE_SHARD_BITS);
        Ok(Self { dir: dir.to_path_buf(), cache: Cache::new_lru_cache_opts(&lru) })
    }

    /// Bytes of memory that blocks take, those in use too.
    pub(super) fn held(&self) -> usize {
        self.cache.get_usage()
    }

    pub(super) fn doing(&self, what: &str) -> String {
        format!("{what} the cache {}", self.dir.display())
    }

    /// Where the database `name` lies.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The right to write, unless another has it.
    pub fn try_lock(&self) -> Result<Option<Lock>> {
        let path = self.dir.join("lock");
        let open = || OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let doing = || self.doing("locking");
        let file = open()
            .or_else(|e| {
                // Somebody deleted the cache under us; it loses nothing.
                if e.kind() != std::io::ErrorKind::NotFound {
                    return Err(e);
                }
                DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
                open()
            })
            .doing(doing)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(e).doing(doing),
        }
        // The lock of a file that was deleted meanwhile keeps nobody out.
        let mine = file.metadata().doing(doing)?;
        let same = fs::metadata(&path).is_ok_and(|now| (now.dev(), now.ino()) == (mine.dev(), mine.ino()));
        Ok(same.then_some(Lock { _file: file }))
    }

    /// Waits for the right to write for ten seconds; `None` when another keeps it, or when `enough` says so.
    pub fn lock(&self, mut enough: impl FnMut() -> bool) -> Result<Option<Lock>> {
        for _ in 0..LOCK_TRIES {
            if let Some(lock) = self.try_lock()? {
                return Ok(Some(lock));
            }
            if enough() {
                return Ok(None);
            }
            clock::sleep(LOCK_PAUSE);
        }
        Ok(None)
    }

    /// The name of the database in use, if there is one.
    pub fn current(&self) -> Result<Option<String>> {
        let name = match fs::read_to_string(self.dir.join("current")) {
            Ok(name) => name,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidData) => {
                return Ok(None);
            }
            Err(e) => return Err(Error::io(self.doing("reading"), e)),
        };
        let random = name.strip_prefix("db-").unwrap_or("");
        let good = random.len() == 16 && random.bytes().all(|b| b.is_ascii_hexdigit());
        Ok(good.then_some(name))
    }

    /// Puts an empty database in the place of the present one.
    pub fn start_anew(&self, lock: &Lock) -> Result<String> {
        let name = format!("db-{}", hex(&clock::random_array::<8>()));
        let doing = || self.doing("making");
        let mut options = self.options();
        options.create_if_missing(true);
        let made = DB::open(&options, self.dir.join(&name));
        let made = made.map_err(|e| Error::from(trouble(doing(), e)).hint(ADVICE))?;
        drop(made);
        let draft = self.dir.join("current.new");
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .doing(doing)?;
        file.write_all(name.as_bytes()).doing(doing)?;
        file.sync_all().doing(doing)?;
        fs::rename(&draft, self.dir.join("current")).doing(doing)?;
        self.clean(lock);
        Ok(name)
    }

    /// Removes what the dead left behind. What cannot be removed stays: it is in nobody's way.
    pub fn clean(&self, _: &Lock) {
        let Ok(Some(current)) = self.current() else { return };
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with("db-") && name != current {
                let _ = fs::remove_dir_all(entry.path());
            } else if name.starts_with("in-") {
                let _ = fs::remove_file(entry.path());
            }
        }
        for nests in ["readers", "marks"] {
            for entry in fs::read_dir(self.dir.join(nests)).into_iter().flatten().flatten() {
                // Only who is dead has left its file unlocked.
                let Ok(held) = File::open(entry.path().join("held")) else { continue };
                if flock(&held, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
    }

    /// Opens the database `name` for reading.
    pub fn reader(&self, name: &str) -> Tried<Reader> {
        let nest = Nest::new(&self.dir.join("readers"))?;
        let db = DB::open_as_secondary(&self.options(), self.dir.join(name), nest.path.clone())
            .map_err(|e| trouble(self.doing("opening"), e))?;
        Ok(Reader { base: Base { db }, name: name.to_owned(), looked_up: AtomicU32::new(0), _nest: nest })
    }

    /// Opens the database `name` for writing.
    pub fn writer(&self, name: &str, _: &Lock) -> Tried<Writer<'_>> {
        let options = self.options();
        let db = DB::open(&options, self.dir.join(name)).map_err(|e| trouble(self.doing("writing"), e))?;
        Ok(Writer { home: self, options, base: Base { db } })
    }

    /// Rewrites the database without the keys that `dead` tells. `dead` runs on RocksDB's threads.
    pub fn purge(&self, name: &str, _: &Lock, dead: impl Fn(&[u8]) -> bool + Send + 'static) -> Tried<()> {
        let mut options = self.options();
        options.set_compaction_filter("pastfs.dead", move |_: u32, key: &[u8], _: &[u8]| {
            if dead(key) { CompactionDecision::Remove } else { CompactionDecision::Keep }
        });
        let doing = || self.doing("compacting");
        let db = DB::open(&options, self.dir.join(name)).map_err(|e| trouble(doing(), e))?;
        let mut how = CompactOptions::default();
        how.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        db.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &how);
        Ok(())
    }

    fn options(&self) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        // Filters and indexes in the bounded cache, in pieces: on the heap they would be 1.5 bytes a key
        // without a bound.
        table.set_cache_index_and_filter_blocks(true);
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_partition_filters(true);
        table.set_bloom_filter(FILTER_BITS, false);
        table.set_whole_key_filtering(false);
        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_prefix_extractor(SliceTransform::create_fixed_prefix(PREFIX));
        options.set_compression_type(DBCompressionType::None); // ids do not compress
        // Readers must keep every file open, or a writer's compaction pulls them away.
        options.set_max_open_files(-1);
        options.set_level_zero_file_num_compaction_trigger(LEVEL0_FILES);
        options.set_target_file_size_base(FILE_BYTES);
        options.set_keep_log_file_num(1);
        options.set_log_level(LogLevel::Error);
        options.set_skip_stats_update_on_db_open(true);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options
    }
}

/// What readers and writers have in common.
pub struct Base {
    pub(super) db: DB,
}

impl Base {
    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Tried<Option<DBPinnableSlice<'_>>> {
        self.db.get_pinned(key).map_err(|e| trouble("reading the index cache", e))
    }

    /// All keys that begin with `start`, which is at least [`PREFIX`] bytes long: a look-up, helped by the filters.
    pub fn find(&self, start: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Tried<()>) -> Tried<()> {
        debug_assert!(start.len() >= PREFIX);
        let mut how = ReadOptions::default();
        how.set_prefix_same_as_start(true);
        self.walk(start, how, &mut each)
    }

    /// All keys of one kind, in order.
    pub fn scan(&self, kind: u8, mut each: impl FnMut(&[u8], &[u8]) -> Tried<()>) -> Tried<()> {
        let mut how = ReadOptions::default();
        how.set_readahead_size(START_AHEAD);
        how.set_total_order_seek(true);
        how.set_iterate_upper_bound([kind + 1]);
        self.walk(&[kind], how, &mut each)
    }

    /// All records whose keys begin with `start`, one after another.
    pub fn records(&self, start: &[u8]) -> Records<'_> {
        let mut how = ReadOptions::default();
        how.set_total_order_seek(true);
        // Read once, from end to end: what look-ups use shall stay in the cache.
        how.fill_cache(false);
        how.set_readahead_size(SCAN_AHEAD);
        let mut at = self.db.raw_iterator_opt(how);
        at.seek(start);
        Records { at, start: start.to_vec() }
    }

    /// Whether there is any key of a kind.
    pub fn has(&self, kind: u8) -> Tried<bool> {
        let mut how = ReadOptions::default();
        how.set_total_order_seek(true);
        how.set_iterate_upper_bound([kind + 1]);
        let mut at = self.db.raw_iterator_opt(how);
        at.seek([kind]);
        let has = at.valid();
        at.status().map_err(|e| trouble("reading the index cache", e))?;
        Ok(has)
    }

    fn walk(
        &self,
        start: &[u8],
        how: ReadOptions,
        each: &mut impl FnMut(&[u8], &[u8]) -> Tried<()>,
    ) -> Tried<()> {
        let mut at = self.db.raw_iterator_opt(how);
        at.seek(start);
        while let Some((key, value)) = at.item() {
            if !key.starts_with(start) {
                break;
            }
            each(key, value)?;
            at.next();
        }
        at.status().map_err(|e| trouble("reading the index cache", e))
    }
}

/// See [`Base::records`].
pub struct Records<'a> {
    at: DBRawIterator<'a>,
    start: Vec<u8>,
}

impl Records<'_> {
    /// The record at hand; `None` behind the last.
    pub fn item(&self) -> Tried<Option<(&[u8], &[u8])>> {
        if let Some((key, value)) = self.at.item() {
            return Ok(key.starts_with(&self.start).then_some((key, value)));
        }
        self.at.status().map_err(|e| trouble("reading the index cache", e))?;
        Ok(None)
    }

    /// Goes to the next one.
    pub fn advance(&mut self) {
        if self.at.valid() {
            self.at.next();
        }
    }
}

/// A secondary instance: sees what was written before it last caught up.
pub struct Reader {
    // Closed before its folder is removed: fields are dropped in this order.
    base: Base,
    name: String,
    looked_up: AtomicU32,
    _nest: Nest,
}

impl Reader {
    /// The name of the database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All keys that begin with `start`: see [`Base::find`].
    pub fn find(&self, start: &[u8], each: impl FnMut(&[u8], &[u8]) -> Tried<()>) -> Tried<()> {
        if self.looked_up.load(Ordering::Relaxed) < WHOLE_AFTER
            && self.looked_up.fetch_add(1, Ordering::Relaxed) + 1 == WHOLE_AFTER
        {
            read_ahead(&self.base.db);
        }
        self.base.find(start, each)
    }

    /// Sees from now on what was written until now.
    pub fn catch_up(&self) -> Tried<()> {
        self.base.db.try_catch_up_with_primary().map_err(|e| trouble("reading the index cache", e))
    }
}

impl std::ops::Deref for Reader {
    type Target = Base;
    fn deref(&self) -> &Base {
        &self.base
    }
}

/// Asks the kernel for all of a small database, without waiting for it. It is only advice: nothing depends on it.
fn read_ahead(db: &DB) {
    let tables = db.live_files().unwrap_or_default();
    if tables.iter().map(|t| t.size as u64).sum::<u64>() > WHOLE_BYTES {
        return;
    }
    for table in tables {
        // RocksDB's names begin with a slash.
        let Ok(file) = File::open(db.path().join(table.name.trim_start_matches('/'))) else { continue };
        for at in (0..table.size as u64).step_by(WHOLE_STEP as usize) {
            let _ = fadvise(&file, at, NonZeroU64::new(WHOLE_STEP), Advice::WillNeed);
        }
    }
}

/// A folder for a secondary instance's log, gone with it.
pub(super) struct Nest {
    pub(super) path: PathBuf,
    _held: File,
}

impl Nest {
    pub(super) fn new(readers: &Path) -> Result<Self> {
        let name = format!("{}-{}", std::process::id(), hex(&clock::random_array::<8>()));
        let path = readers.join(name);
        let doing = || format!("making {}", path.display());
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path).doing(doing);
        made.map_err(|e| e.hint(ADVICE))?;
        let held =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path.join("held"));
        let held = held.doing(doing)?;
        // Nobody else wants this lock but one who cleans up and saw the file before we locked it; then the
        // folder may vanish, which costs the log of this reader and nothing else.
        let _ = flock(&held, FlockOperation::NonBlockingLockExclusive);
        Ok(Self { path, _held: held })
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// What is written at once: all of it or nothing.
#[derive(Default)]
pub struct Batch {
    /// Chunk keys: many, and all new.
    pub chunks: Vec<(ChunkKey, ChunkValue)>,
    /// All others; `None` deletes.
    pub others: BTreeMap<Vec<u8>, Option<Arc<[u8]>>>,
    /// A kind of which all keys are deleted; must not occur in `others`.
    pub wipe: Option<u8>,
}

/// The primary instance.
pub struct Writer<'a> {
    home: &'a Home,
    options: Options,
    base: Base,
}

impl Writer<'_> {
    /// Adds a batch; durable and visible to readers that catch up when this returns.
    pub fn add(&self, mut batch: Batch) -> Tried<()> {
        batch.chunks.sort_by_key(|(key, _)| *key); // stable: of doubles the first place counts
        batch.chunks.dedup_by_key(|(key, _)| *key);
        let path = self.home.dir.join(format!("in-{}.sst", hex(&clock::random_array::<8>())));
        let done = self.write_file(&path, &batch).and_then(|()| {
            let mut how = IngestExternalFileOptions::default();
            how.set_move_files(true);
            self.base.db.ingest_external_file_opts(&how, vec![&path])
        });
        if done.is_err() {
            let _ = fs::remove_file(&path);
        }
        done.map_err(|e| trouble(self.home.doing("writing"), e))
    }

    fn write_file(&self, path: &Path, batch: &Batch) -> std::result::Result<(), rocksdb::Error> {
        let mut sst = SstFileWriter::create(&self.options);
        sst.open(path)?;
        if let Some(kind) = batch.wipe {
            sst.delete_range([kind], [kind + 1])?;
        }
        let mut chunks = batch.chunks.iter().peekable();
        for (key, value) in &batch.others {
            while let Some((key, value)) = chunks.next_if(|(chunk, _)| chunk.as_slice() < key.as_slice()) {
                sst.put(key, value)?;
            }
            match value {
                Some(value) => sst.put(key, value)?,
                None => sst.delete(key)?,
            }
        }
        for (key, value) in chunks {
            sst.put(key, value)?;
        }
        sst.finish()
    }

    /// Lets compactions that are due run to their end, as closing cuts them off.
    pub fn settle(&self) {
        let mut how = WaitForCompactOptions::default();
        how.set_timeout(COMPACTION_WAIT.as_micros() as u64);
        // Whatever goes wrong in a compaction leaves the files that it read in place.
        let _ = self.base.db.wait_for_compact(&how);
    }
}

impl std::ops::Deref for Writer<'_> {
    type Target = Base;
    fn deref(&self) -> &Base {
        &self.base
    }
}
